"""A generator whose image is moved, scaled, turned and reduced: four more numbers in its code."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import UsageError
from ..networks.warp import POSE, pose_of, warp
from ..tensors import Codes, Images
from .base import Generator


class WarpedGenerator(Generator):
    """G followed by a spatial transformer with parameters per image (NAM §4, high-resolution faces).

        code = (z, theta),      image = reduce(warp(G(z), theta))

    The four numbers theta are part of the code, so NAM optimises them like z and an encoder predicts them; no method
    knows of them. Each goes three of its prior's deviations at most.

    Args:
        inner: G, with images as large as `size` or larger.
        size: side of the queries.

    Raises:
        UsageError: the queries are larger than the images of G.
    """

    def __init__(self, inner: Generator, size: int):
        super().__init__()
        if size > inner.image_size:
            raise UsageError(
                f"setting query_size {size}: the generator's images have {inner.image_size} pixels a side; use no more"
            )
        self.inner = inner
        self.latent_dim = inner.latent_dim + len(POSE)
        self.channels, self.image_size = inner.channels, size
        self.config = {"kind": "warped", "size": size, "inner": inner.config}

    @property
    def drawn_size(self) -> int:
        """Side of G's own images."""
        return self.inner.drawn_size

    @property
    def identity(self) -> dict[str, Any]:
        """With G's own, which does not say where its files lie."""
        return {**self.config, "inner": self.inner.identity}

    def forward(self, code: Codes) -> Images:
        """Images as T compares them with queries: warped, `size` pixels a side."""
        z, theta = code.split([self.inner.latent_dim, len(POSE)], 1)
        return warp(self.inner(z), theta, self.image_size)

    def picture(self, code: Codes) -> Images:
        """The analogy itself: G(z), upright and in full resolution."""
        return self.inner(code[:, : self.inner.latent_dim])

    @staticmethod
    def pose(code: Codes) -> dict[str, Float[Tensor, "b"]]:
        """What the code says of each image's place: see `namap.networks.warp.pose_of`."""
        with torch.no_grad():
            return pose_of(code[:, -len(POSE) :])


def unwarped(generator: Generator) -> Generator:
    """G itself, where a generator is one with a warp behind it."""
    return generator.inner if isinstance(generator, WarpedGenerator) else generator
