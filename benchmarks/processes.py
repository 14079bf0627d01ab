"""Images/s of `namap fit` in one process and in several, on this machine, and what they send for it.

python benchmarks/processes.py            # -> benchmarks/results/processes.json
python benchmarks/processes.py --counts 1,2,4 --images 20000
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from namap.data import ImageDomain
from namap.generators import DCGAN
from namap.generators.training import save_generator
from namap.mapping import METHODS
from namap.runs import read_log

RESULT = Path(__file__).parent / "results" / "processes.json"
WARM = 2  # rows of the log before the clock starts


def launch(count: int, arguments: list[str]) -> None:
    """`namap …` in so many processes of one thread each."""
    start = ["-m", "accelerate.commands.launch", "--multi_gpu", f"--num_processes={count}", "--main_process_port=0"]
    command = [sys.executable, *(start if count > 1 else []), "-m", "namap", *arguments]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL)


def measure(method: str, size: int, count: int, images: int, place: Path) -> dict[str, Any]:
    """Images/s of a fit of a method at a side, after the first rows of its log."""
    outdir = place / f"{method}-{size}-{count}"
    what = [f"--generator={place / f'g{size}'}", f"--data={place / f'y{size}.npz'}:y", f"--method={method}"]
    launch(count, ["fit", "--quiet", "--device=cpu", *what, f"--images={images}", f"--outdir={outdir}"])
    first, last = (read_log(outdir)[i] for i in (WARM, -1))
    rate = (last["images"] - first["images"]) / (last["seconds"] - first["seconds"])
    return {"method": method, "size": size, "processes": count, "images_per_second": round(rate, 1)}


def prepare(size: int, place: Path) -> ImageDomain:
    """A generator of this side with random weights, and noise as queries."""
    torch.manual_seed(0)
    save_generator(DCGAN(100, size, 3, 64).eval(), 0, place / f"g{size}")
    y = np.random.default_rng(0).integers(0, 256, (2048, size, size, 3), np.uint8)
    np.savez(place / f"y{size}.npz", y=y)
    return ImageDomain.from_array(y)


def traffic(method: str, size: int) -> dict[str, Any]:
    """Bytes that a process gives to the sum of gradients in a step: four for each number that all processes share."""
    mapping = METHODS[method](DCGAN(100, size, 3, 64))
    mapping.build(3, 1)
    parts = [mapping.mapper] if method == "nam" else [mapping.mapper, mapping.fitted_codes]
    numbers = sum(p.numel() for part in parts for p in part.parameters())
    codes = 2 * mapping.recipe.batch_size * mapping.latent_dim if method == "nam" else 0
    return {"method": method, "size": size, "bytes_per_step": 4 * (numbers + codes), "batch": mapping.recipe.batch_size}


def main() -> None:
    """Measure, print and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="1,2", help="numbers of processes")
    parser.add_argument("--images", type=int, default=40_000, help="of each fit")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        rows = []
        for size in (32, 64):
            prepare(size, place)
            for method in ("nam", "vae"):
                for count in map(int, options.counts.split(",")):
                    rows.append(measure(method, size, count, options.images, place))
                    print(json.dumps(rows[-1]))
    sent = [traffic(method, size) for method in ("nam", "vae") for size in (32, 64, 256)]
    result = {"command": "python benchmarks/processes.py", "cores": os.cpu_count(), "speed": rows, "traffic": sent}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
