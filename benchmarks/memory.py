"""Peak memory of `namap translate` at a thousand and at a hundred thousand queries, and what writing PNGs costs.

python benchmarks/memory.py            # -> benchmarks/results/memory.json
python benchmarks/memory.py --many 20000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from namap.generators import DCGAN
from namap.mapping import VAENAM
from namap.pictures import write_pngs

RESULT = Path(__file__).parent / "results" / "memory.json"
KINDS = {
    "folder": "a folder to PNGs",
    "npz": "a compressed npz to PNGs",
    "to_npz": "a folder to analogies.npz",
}


def make_queries(place: Path, count: int, side: int, npz: bool) -> str:
    """Noise as a folder of grey PNGs, or as an npz; made once."""
    rng = np.random.default_rng(0)
    if npz:
        path = place / f"{count}.npz"
        if not path.exists():
            np.savez_compressed(path, x=rng.integers(0, 256, (count, side, side), np.uint8))
        return f"{path}:x"
    folder = place / str(count)
    if not folder.exists():
        folder.mkdir()
        for i in range(0, count, 1000):
            names = [f"{j:07d}.png" for j in range(i, min(i + 1000, count))]
            write_pngs(folder, names, rng.integers(0, 256, (len(names), 1, side, side), np.uint8))
    return str(folder)


def measure(model: Path, count: int, scratch: Path, kind: str, side: int = 32, batch_size: int = 256) -> dict[str, Any]:
    """Run `namap translate`; its seconds and files, the peak of its largest process, and that of all together.

    Args:
        model: a saved mapping.
        count: queries.
        scratch: a directory for queries and analogies.
        kind: one of KINDS.
        side: of the queries in pixels.
        batch_size: queries at a time.
    """
    source, out = make_queries(scratch, count, side, kind == "npz"), scratch / f"out-{kind}-{count}"
    options = ["--batch-size", str(batch_size), *(["--npz"] if kind == "to_npz" else [])]
    command = [
        sys.executable,
        "-m",
        "namap",
        "translate",
        str(model),
        source,
        "--outdir",
        str(out),
        "--quiet",
        "--json",
    ]
    started, together = time.perf_counter(), [0.0]
    process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
    watcher = threading.Thread(target=_watch, args=(process.pid, together))
    watcher.start()
    said = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}")
    return {
        "what": KINDS[kind],
        "queries": count,
        "files": json.loads(said)["written"],
        "seconds": time.perf_counter() - started,
        "peak_mb": usage.ru_maxrss / 1024,
        "peak_with_workers_mb": max(together[0], usage.ru_maxrss / 1024),  # the first is sampled
    }


def _watch(pid: int, together: list[float]) -> None:
    """Until a process ends, the most that it and its children hold, shared pages counted once a process."""
    while True:
        held = sum(map(_resident_mb, family(pid)))
        if not held:
            return
        together[0] = max(together[0], held)
        time.sleep(0.1)


def family(pid: int) -> list[int]:
    try:
        below = [p for task in Path(f"/proc/{pid}/task").iterdir() for p in (task / "children").read_text().split()]
    except OSError:
        below = []
    return [pid, *(p for child in below for p in family(int(child)))]


def command_line(pid: int) -> str:
    """How a process was started; empty once it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def _resident_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """The runs, how much memory more queries take, and what it costs that worker processes write PNGs."""
    growth, per_query = {}, {}
    for few, many in zip(runs[::2], runs[1::2], strict=True):
        growth[many["what"]] = many["peak_mb"] / few["peak_mb"]
        per_query[many["what"]] = (many["seconds"] - few["seconds"]) / (many["queries"] - few["queries"])
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "runs": runs,
        "growth": growth,
        "queries_s": {what: 1 / seconds for what, seconds in per_query.items()},  # once it runs
        "pngs_cost": per_query[KINDS["folder"]] / per_query[KINDS["to_npz"]] - 1,  # share of the time without them
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", type=int, default=1000)
    parser.add_argument("--many", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        scratch, model = Path(place), Path(place) / "model"
        mapping = VAENAM(DCGAN(32, 32, 1, 64))
        mapping.build(1, 0)
        mapping.place()
        mapping.save_pretrained(model)
        runs = [measure(model, n, scratch, kind) for kind in KINDS for n in (arguments.few, arguments.many)]
    record = summary(runs)
    RESULT.write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
