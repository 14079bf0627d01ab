"""Runs of a second, each a function of its directory: what the tests here kill, stop and damage."""

import functools
from pathlib import Path

import numpy as np
import torch

from namap import generators, mapping
from namap.data import ImageDomain
from namap.generators import freeze, training
from namap.generators.families import dcgan
from namap.mapping import METHODS
from namap.training import Run

# A checkpoint after every step, so that most kills fall into one.
mapping.Run = training.Run = functools.partial(Run, checkpoint_seconds=0)  # pyright: ignore[reportAttributeAccessIssue]


def pictures(count: int = 64) -> ImageDomain:
    return ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (count, 1, 32, 32), np.uint8))


def generator() -> dcgan.DCGAN:
    torch.manual_seed(0)
    return freeze(dcgan.DCGAN(4, 32, 1, 4))


def train_generator(outdir: Path) -> None:
    torch.set_num_threads(1)
    recipe = dcgan.Recipe(latent_dim=4, images=40 * 16, width=4, batch_size=16)
    generators.train_generator(pictures(), recipe, outdir, precision="fp32", quiet=True)


def fit(method: str, outdir: Path) -> None:
    torch.set_num_threads(1)
    settings = {"images": 40 * 16, "batch_size": 16, "encoder_width": 4, "filters": 2, "queries": 0}
    METHODS[method](generator(), precision="fp32", **settings).fit(pictures(), outdir, quiet=True)


RUNS = {
    "generator": train_generator,
    # wae differs from ae in one term of its loss.
    **{method: functools.partial(fit, method) for method in ("nam", "ae", "vae")},
}


def run(name: str, outdir: Path) -> None:
    RUNS[name](outdir)
