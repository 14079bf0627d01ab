"""What a report shows of generators: samples, ways between them, and what they learnt from."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from ..data import ImageDomain
from ..generators import Generator
from ..generators.base import prior
from ..tensors import Codes, autocast, random_stream, to_uint8
from .page import Gallery, Section, TileTable, grid_tile, tile

ACROSS, DOWN = 8, 6  # samples
STEPS, WAYS = 8, 6  # of interpolations
NEAREST = 5

Shown = tuple[str, Generator, torch.device, str]  # name, G, where and how precisely it runs


@dataclass(frozen=True)
class Trained:
    """A generator that was trained here.

    Attributes:
        name: on the page.
        generator: frozen.
        device: where it is.
        precision: `fp32` or `bf16`.
        log: rows of the training.
        record: the run's `run.json`, where there is one.
    """

    name: str
    generator: Generator
    device: torch.device
    precision: str
    log: Sequence[dict[str, float]] = ()
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> Shown:
        """What `generator_section` takes."""
        return self.name, self.generator, self.device, self.precision

    def settings(self) -> dict[str, Any]:
        """Everything that made it what it is."""
        task, run = self.record.get("task", {}), self.record.get("run", {})
        recipe = {k: v for k, v in task.items() if not isinstance(v, dict)}
        places = {"training images": self.record.get("source"), "their fingerprint": self.record.get("data")}
        named = {f"generator: {k.replace('_', ' ')}": v for k, v in self.generator.config.items()}
        return recipe | run | named | {name: value for name, value in places.items() if value}


@torch.no_grad()
def draw(shown: Shown, codes: Codes) -> UInt8[np.ndarray, "n c h w"]:
    """The pictures of codes."""
    _, generator, device, precision = shown
    with autocast(device, precision):
        parts = [to_uint8(generator.picture(z.to(device))).cpu().numpy() for z in codes.split(64)]
    return np.concatenate(parts)


def generator_section(runs: Sequence[Shown]) -> Section:
    """Samples of the prior and ways between them; one set where all runs have the same generator."""
    distinct: dict[str, Shown] = {}
    for shown in runs:
        distinct.setdefault(str(shown[1].identity), shown)
    samples, ways = [], []
    for shown in distinct.values():
        name = shown[0] if len(distinct) > 1 else ""
        d = shown[1].latent_dim
        images = draw(shown, prior(ACROSS * DOWN, d, random_stream(0)))
        samples.append((name, grid_tile(_rows(images, ACROSS), "samples")))
        images = draw(shown, between(d))
        ways.append((name, grid_tile(_rows(images, STEPS), "interpolations")))
    return Section(
        "The generator",
        "",
        [
            Gallery(samples, "Samples: G(z), z from the prior."),
            Gallery(ways, "From one code to another, a row each, along the great circle that keeps to the prior."),
        ],
    )


def between(latent_dim: int) -> Codes:
    """Codes on `WAYS` ways between draws from the prior: cos(t) a + sin(t) b is a draw, whatever t."""
    a, b = prior(2 * WAYS, latent_dim, random_stream(1))[:, None].chunk(2)
    t = torch.linspace(0, math.pi / 2, STEPS)[None, :, None]
    return (t.cos() * a + t.sin() * b).flatten(0, 1)


def nearest_section(run: Trained, domain: ImageDomain) -> Section:
    """Samples beside the training images that are nearest by pixels: a generator that copies would show it."""
    samples = draw(run.shown, prior(8, run.generator.latent_dim, random_stream(0)))
    images = torch.from_numpy(domain.images).flatten(1)
    flat = torch.from_numpy(samples).flatten(1).float()
    distances = torch.cat([torch.cdist(flat, part.float()) for part in images.split(4096)], 1) / flat.shape[1] ** 0.5
    found = distances.topk(min(NEAREST, len(domain)), largest=False)
    rows = [
        [
            tile(x, "sample"),
            *(
                cell
                for d, j in zip(*near, strict=True)
                for cell in (tile(domain.images[j], "training image"), f"{d:.0f}")
            ),
        ]
        for x, near in zip(samples, zip(found.values.tolist(), found.indices.tolist(), strict=True), strict=True)
    ]
    heads = [("sample", 1), ("nearest training images, and their distance", 2 * found.indices.shape[1])]
    text = f"Of {len(domain)} images; the distance is the root of the mean squared difference of a pixel, of 255."
    return Section("Nearest training images", text, [TileTable(heads, rows)])


def _rows(images: UInt8[np.ndarray, "n c h w"], across: int) -> list[list[np.ndarray]]:
    return [list(images[i : i + across]) for i in range(0, len(images), across)]
