"""What the rivals share: two translators, two critics, unpaired batches and one loop, which is namap's own.

Both domains get the same number of channels. A rival says which networks it has and what their losses are.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from namap.data import ImageDomain
from namap.data.order import batch_index
from namap.runs import Row
from namap.tensors import Images, from_numpy, pick_device, place, to_uint8
from namap.training import Batch, Run, Task, train

from ..cells import affordable_images

SETTLING_IMAGES, SETTLING_BATCH = 2000, 100
PRECISION = "fp32"  # as published; in bf16 they may come apart (`benchmarks/EXPLORATION.md`)


class Rival(Task):
    """A pair of translators X <-> Y and a critic of each domain, as a task of the training loop.

    Args:
        x: images of X; those of Y come with the batches.
        channels: of the images of both domains.
        seed: of the initialisation and of the order of X.
        settings: that its publication has for some of its experiments.
    """

    name: str
    layout = torch.channels_last  # of images and weights, the faster one
    batch_size: int
    betas = (0.5, 0.999)
    weight_decay = 0.0
    rate = 2e-4

    def __init__(self, x: ImageDomain, y: ImageDomain, seed: int, **settings: Any):
        self.x, self.seed = x, seed
        device = pick_device()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = {name: place(module, device) for name, module in self.networks(x.channels, x.size).items()}
        for network in networks.values():
            network.to(memory_format=self.layout)
        self.to_x, self.to_y = networks["to_x"], networks["to_y"]
        self.critic_x, self.critic_y = networks["critic_x"], networks["critic_y"]
        self.modules = networks
        self.optimizers = {
            "translators": self.adam(self.to_x, self.to_y),
            "critics": self.adam(self.critic_x, self.critic_y),
        }
        self.config = {"rival": self.name, "x": x.fingerprint, **settings}

    def adam(self, *modules: nn.Module) -> torch.optim.Adam:
        parameters = [p for module in modules for p in module.parameters()]
        return torch.optim.Adam(parameters, self.rate, self.betas, weight_decay=self.weight_decay, fused=True)

    def networks(self, channels: int, size: int) -> dict[str, nn.Module]:
        """to_x, to_y, critic_x, critic_y, and whatever else belongs into a checkpoint."""
        raise NotImplementedError

    def learning_rate(self, progress: float) -> float:
        return 1.0

    def draw_x(self, batch: Batch) -> Images:
        """As many images of X as of Y, in an order of their own."""
        step = batch.images_seen // len(batch.images)
        rows = batch_index(len(self.x), len(batch.images), self.seed + 10_000, step)
        return from_numpy(self.x.images[rows], batch.images.device).contiguous(memory_format=self.layout)


def critics(trainable: bool, *modules: nn.Module) -> None:
    """Critics need no gradient while the translators learn."""
    for module in modules:
        module.requires_grad_(trainable)


def train_rival(
    kind: type[Rival],
    x: ImageDomain,
    y: ImageDomain,
    queries: ImageDomain,
    seconds: float,
    seed: int,
    home: Path,
    settings: dict[str, Any],
) -> tuple[np.ndarray, int]:
    """Train a rival for about `seconds` of processor time and translate `queries`.

    Returns:
        Answers uint8 `[n 1 c h w]`, and the training images seen.
    """
    channels = max(x.channels, y.channels)
    x, y, queries = (d.resized(x.size, channels) for d in (x, y, queries))
    probe = replace(y, images=y.images[: 64 * kind.batch_size], labels=None)

    def try_out(count: int) -> list[Row]:
        return train(kind(x, y, 0, **settings), probe, Run(count, kind.batch_size, precision=PRECISION, quiet=True))

    images = affordable_images(home, seconds, kind.batch_size, try_out, (6, 36))
    rival = kind(x, y, seed, **settings)
    train(rival, y, Run(images, kind.batch_size, seed, precision=PRECISION, label=f"training {kind.name}"), home)
    settle(rival, y)
    return answer(rival, queries), images


@torch.no_grad()
def settle(rival: Rival, y: ImageDomain) -> None:
    """Batch statistics of Y -> X from training images of Y alone: a round trip trains it on translations as well."""
    norms = [m for m in rival.to_x.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # all batches count alike
    if norms:
        rival.to_x.train()
        rows = np.random.default_rng(0).permutation(len(y))[:SETTLING_IMAGES]
        translate(rival, y.images[rows])


def answer(rival: Rival, queries: ImageDomain) -> np.ndarray:
    """Y -> X for every query, in evaluation mode."""
    rival.to_x.eval()
    return translate(rival, queries.images)[:, None]


@torch.no_grad()
def translate(rival: Rival, images: np.ndarray) -> np.ndarray:
    device = pick_device()
    parts = []
    for start in range(0, len(images), SETTLING_BATCH):
        batch = from_numpy(images[start : start + SETTLING_BATCH], device).contiguous(memory_format=rival.layout)
        parts.append(to_uint8(rival.to_x(batch)).cpu())
    return torch.cat(parts).numpy()
