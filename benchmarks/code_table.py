"""NAM's table of codes with a thousand and a million rows: memory, and the time of a whole training step.

python -m benchmarks.code_table -> benchmarks/results/code_table.json
"""

import json
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from namap.codes import QueryTable
from namap.console import keep_freed_memory
from namap.data import ImageDomain
from namap.fitting import make_optimizers
from namap.generators import DCGAN
from namap.mapping import NAM
from namap.tensors import random_stream
from namap.training import Loop, Run

from .cells import peak_memory_gb

RESULT = Path(__file__).parent / "results" / "code_table.json"
LATENT, BATCH, WARM, TIMED = 100, 128, 5, 40


def measure(rows: int) -> dict[str, float]:
    """One NAM at 32 pixels whose table has `rows` rows, each batch drawn from all of them."""
    keep_freed_memory()
    images = np.random.default_rng(0).integers(0, 256, (1000, 1, 32, 32), np.uint8)
    domain = ImageDomain.from_array(images)
    mapping = NAM(DCGAN(LATENT, 32, 1, 64), loss="l2", batch_size=BATCH)
    mapping.build(1, 1000)
    mapping.place()
    task = mapping.make_task(domain)
    before = peak_memory_gb()
    task.codes = QueryTable(rows, LATENT, random_stream(0))
    task.modules["codes"] = task.codes
    task.optimizers = make_optimizers(mapping.mapper, task.codes, mapping.recipe)
    seconds = []
    with tempfile.TemporaryDirectory() as scratch:
        loop = Loop(task, domain, Run(10**6, BATCH), Path(scratch))
        for i in range(WARM + TIMED):
            index = torch.randint(rows, (BATCH,), generator=random_stream(1, i))
            batch = loop.batch(i)._replace(index=index)
            started = time.perf_counter()
            loop.step(batch)
            seconds.append(time.perf_counter() - started)
    state = [t for row in task.optimizers["codes"].state.values() for t in row.values() if isinstance(t, torch.Tensor)]
    held = sum(t.numel() * t.element_size() for t in (task.codes.table.weight, *state))
    return {
        "rows": rows,
        "step_ms": 1e3 * float(np.median(seconds[WARM:])),
        "table_gb": held / 2**30,
        "peak_rss_growth_gb": peak_memory_gb() - before,
    }


def main() -> None:
    # Each in a process of its own, as the peak of one never falls; twice, so that a drift shows.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), max_tasks_per_child=1) as pool:
        runs = list(pool.map(measure, (1000, 1_000_000, 1000, 1_000_000)))
    small, large = (float(np.median([r["step_ms"] for r in runs if r["rows"] == n])) for n in (1000, 1_000_000))
    record = {"runs": runs, "ratio": large / small, "threads": torch.get_num_threads()}
    RESULT.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
