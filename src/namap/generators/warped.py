"""A generator whose image is moved, scaled, turned and reduced: four more numbers in its code."""

import torch
from jaxtyping import Float
from torch import Tensor

from ..networks.warp import POSE, pose_of, warp
from ..tensors import Codes, Images
from .base import Generator


class WarpedGenerator(Generator):
    """G followed by a spatial transformer with parameters per image (NAM §4, high-resolution faces).

        code = (z, theta),      image = reduce(warp(G(z), theta))

    The four numbers theta are part of the code, so NAM optimises them like z, an encoder predicts them, and the
    prior keeps them small; no method knows of them.

    Args:
        inner: G, with images as large as `size` or larger.
        size: side of the queries.
    """

    def __init__(self, inner: Generator, size: int):
        super().__init__()
        self.inner = inner
        self.latent_dim = inner.latent_dim + len(POSE)
        self.channels, self.image_size = inner.channels, size
        self.config = {"kind": "warped", "size": size, "inner": inner.config}

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
