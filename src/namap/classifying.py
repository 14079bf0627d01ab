"""Training a network to tell labelled images apart: the judge of an evaluation, and the kinds of a fit."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .tensors import Images
from .training import Batch, Task, Update


class ClassifierTask(Task):
    """Cross-entropy with label smoothing, on `views` of the images, under a one-cycle rate.

    Args:
        network: images to logits `[b k]`.
        config: what decides the result, beyond the images.
        views: (images, rng) to what the network is shown of them; None: `jitter`.
        learning_rate: of AdamW.
    """

    def __init__(
        self,
        network: nn.Module,
        config: dict[str, Any],
        views: Callable[[Images, torch.Generator], Images] | None = None,
        learning_rate: float = 2e-3,
    ):
        self.network, self.views = network, views or jitter
        self.modules = {"network": network}
        optimizer = torch.optim.AdamW(network.parameters(), learning_rate, weight_decay=0.01, fused=True)
        self.optimizers = {"network": optimizer}
        self.config = {**config, "learning_rate": learning_rate}

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up over a tenth of the run, then half a cosine."""
        return min(progress * 10, 1.0) * (0.5 + 0.5 * float(np.cos(np.pi * progress))) + 1e-3

    def updates(self, batch: Batch) -> Iterator[Update]:
        """One step."""
        assert batch.labels is not None
        logits = self.network(self.views(batch.images, batch.rng))
        loss = F.cross_entropy(logits, batch.labels, reduction="none", label_smoothing=0.05)
        yield Update(("network",), loss, {"loss": loss})


def jitter(images: Images, rng: torch.Generator, degrees: float = 10.0) -> Images:
    """A random shift (up to 2 px at 32), rotation (up to `degrees`) and scale (up to 10%) of each image."""
    b = len(images)
    turn, scale, dx, dy = torch.empty(4, b, device=images.device).uniform_(-1, 1, generator=rng)
    angle, factor = turn * (degrees * np.pi / 180), 1 + 0.1 * scale
    cosine, sine = angle.cos() * factor, angle.sin() * factor
    theta = torch.stack([cosine, -sine, dx / 8, sine, cosine, dy / 8], 1).view(b, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
