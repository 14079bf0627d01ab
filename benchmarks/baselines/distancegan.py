"""DistanceGAN (Benaim and Wolf, NeurIPS 2017): distances between two images survive the translation."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from namap.data import ImageDomain
from namap.tensors import Images, from_numpy

from .discogan import DiscoGAN


class DistanceGAN(DiscoGAN):
    """The distance constraint in place of the round trip, on DiscoGAN's networks and adversarial terms.

    The paper has it on DiscoGAN's and on CycleGAN's; its digits have a third system.
    """

    name = "distancegan"

    def __init__(self, x: ImageDomain, y: ImageDomain, seed: int, **settings: Any):
        super().__init__(x, y, seed, **settings)
        order = np.random.default_rng(0)
        self.scales = [moments(distances(from_numpy(d.images[order.permutation(len(d))[:900]]))) for d in (x, y)]

    def agreement(self, x: Images, y: Images, x_hat: Images, y_hat: Images) -> Tensor:
        """|d(x, x')/s - d(to_y(x), to_y(x'))/s| over all pairs of a batch, each distance standardised in its domain."""
        (mean_x, std_x), (mean_y, std_y) = self.scales
        total = torch.zeros(())
        for x_side, y_side in ((x, y_hat), (x_hat, y)):
            in_x, in_y = (distances(x_side) - mean_x) / std_x, (distances(y_side) - mean_y) / std_y
            total = total + (in_x - in_y).abs().mean()
        return total


def distances(images: Images) -> Tensor:
    """Mean absolute difference of every pair of different images, `[b (b - 1) / 2]`."""
    return torch.pdist(images.float().flatten(1), 1) / images[0].numel()


def moments(d: Tensor) -> tuple[float, float]:
    return float(d.mean()), float(d.std())
