"""Runs of a second, each a function of its directory: what the tests here kill, stop, starve and damage."""

import functools
import signal
import sys
from pathlib import Path

import numpy as np
import torch

from namap import fitting, generators, mapping
from namap.data import ImageDomain
from namap.errors import NamapError
from namap.generators import freeze, training
from namap.generators.families import dcgan
from namap.mapping import METHODS
from namap.training import Loop, Run

STEPS, BATCH = 40, 16
# A checkpoint and a line of the log after every step, so that most kills fall into one.
EveryStep = functools.partial(Run, checkpoint_seconds=0, log_every=1)
fitting.Run = training.Run = EveryStep  # pyright: ignore[reportAttributeAccessIssue]


def pictures(count: int = 64) -> ImageDomain:
    return ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (count, 1, 32, 32), np.uint8))


def generator() -> dcgan.DCGAN:
    torch.manual_seed(0)
    return freeze(dcgan.DCGAN(4, 32, 1, 4))


def train_generator(outdir: Path, steps: int = STEPS) -> None:
    torch.set_num_threads(1)
    recipe = dcgan.Recipe(latent_dim=4, images=steps * BATCH, width=4, batch_size=BATCH)
    generators.train_generator(pictures(), recipe, outdir, precision="fp32", quiet=True)


def unfitted(method: str, steps: int = STEPS) -> mapping.Mapping:
    settings = {"images": steps * BATCH, "batch_size": BATCH, "encoder_width": 4, "filters": 2, "queries": 0}
    return METHODS[method](generator(), precision="fp32", **settings)


def fit(method: str, outdir: Path, steps: int = STEPS) -> None:
    torch.set_num_threads(1)
    unfitted(method, steps).fit(pictures(), outdir, quiet=True)


def loop(outdir: Path, steps: int = STEPS, method: str = "vae") -> Loop:
    """The loop of a fit, for tests that look into it."""
    fitted = unfitted(method, steps)
    domain = fitted.prepare_queries(pictures())
    fitted.build(domain.channels, len(domain))
    fitted.place()
    return Loop(fitted.make_task(domain), domain, EveryStep(steps * BATCH, BATCH, precision="fp32", quiet=True), outdir)


RUNS = {
    "generator": train_generator,
    # wae differs from ae in one term of its loss.
    **{method: functools.partial(fit, method) for method in ("nam", "ae", "vae")},
}


def run(name: str, outdir: Path, steps: int = STEPS) -> None:
    """As the command line does it: SIGTERM unwinds, an error is its exit code."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        RUNS[name](outdir, steps)
    except NamapError as error:
        raise SystemExit(error.exit_code) from None
