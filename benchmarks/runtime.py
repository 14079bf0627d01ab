"""Seconds for 100 analogies at 64x64 (VAE-NAM, section 4): one pass, encode-then-refine, and NAM's optimisation.

    namap bench runtime --data-root DIR

One mapping of cars b to cars a, VAE-NAM under the perceptual loss, serves all three: generator, T and loss are the
same, only the way to the codes differs. NAM's takes 100 iterations of Eq. 6 through VGG from random starts, as in the
paper. Encode-then-refine starts the same optimisation at E(y) and stops where NAM's final loss is reached.
Run it on an idle machine. Writes benchmarks/results/runtime.json.
"""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from namap.checkpoint import write_json
from namap.data import load_domain
from namap.generators import train_generator
from namap.generators.families import dcgan
from namap.mapping import VAENAM
from namap.solving import optimise_codes
from namap.tensors import autocast, from_numpy, random_stream

from .scene import VGG_FILE

COUNT, NAM_STEPS, REPEATS = 100, 100, 20
T = TypeVar("T")
REFINE_STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30)


def run(data_root: Path, runs: Path, results: Path, images: int = 30_000) -> dict:
    """Train what is missing, then measure."""
    home = runs / "runtime"
    cars = f"{data_root}/cars.npz:x_"
    generator = train_generator(
        load_domain(cars + "a_train"), dcgan.Recipe(latent_dim=100, images=100_000), home / "generator"
    )
    weights = {"vgg_weights": data_root / VGG_FILE, "vgg_input": "caffe"}
    mapping = VAENAM(generator, loss="perceptual", images=images, **weights).fit(cars + "b_train", home / "mapping")
    queries = load_domain(cars + "b_test").subset(slice(0, COUNT))
    y = from_numpy(queries.images)
    one_pass = [clocked(lambda: mapping.solve(queries.images))[0] for _ in range(REPEATS)]
    reconstruction, codes = mapping.make_reconstruction(), mapping.fitted_codes

    def solve(start: torch.Tensor, steps: int) -> float:
        with autocast(mapping.device, mapping.precision):
            _, losses, _ = optimise_codes(
                generator, mapping.mapper, reconstruction, y, start, steps, mapping.recipe.code_rate
            )
        return float(losses.mean())

    random = torch.randn(COUNT, 1, generator.latent_dim, generator=random_stream(0))
    nam_seconds, nam_loss = clocked(lambda: solve(random, NAM_STEPS))
    with torch.no_grad():
        encoded = codes.starts(y, 1, random_stream(0), 1.0)
    refined = {}
    for steps in REFINE_STEPS:
        seconds, loss = clocked(lambda steps=steps: solve(encoded, steps))
        refined[steps] = {"seconds": seconds, "loss": loss}
        if loss <= nam_loss:
            break
    record = {
        "queries": COUNT,
        "one_pass_seconds": float(np.median(one_pass)),
        "encoder_loss": solve(encoded, 0),
        "nam": {"steps": NAM_STEPS, "seconds": nam_seconds, "loss": nam_loss},
        "refined": refined,
        "nam_over_one_pass": nam_seconds / float(np.median(one_pass)),
        "nam_over_refined": nam_seconds / seconds if loss <= nam_loss else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip(),
    }
    write_json(results / "runtime.json", record)
    return record


def clocked(function: Callable[[], T]) -> tuple[float, T]:
    started = time.perf_counter()
    value = function()
    return time.perf_counter() - started, value
