"""Generators from elsewhere, fitted to namap's conventions."""

from typing import Any

from torch import nn

from ..errors import UsageError
from ..tensors import Codes, Images
from .base import Generator, check_generator, freeze


class WrappedGenerator(Generator):
    """Any module as a generator: codes `[b d]` in, images in [-1, 1] out.

    Use `wrap_generator`, which checks the module first.
    """

    def __init__(
        self,
        module: nn.Module,
        latent_dim: int,
        image_range: tuple[float, float],
        code_shape: tuple[int, ...],
        stage: int | None = None,
    ):
        super().__init__()
        self.module = module
        self.stage = stage
        self.latent_dim = latent_dim
        self.image_range = image_range
        self.code_shape = code_shape
        self.channels, self.image_size = 0, 0
        self.config: dict[str, Any] = {"kind": "foreign", "latent_dim": latent_dim}

    def raw(self, z: Codes) -> Any:
        """What the module returns, in its own range; of several images the one that `stage` picks."""
        images = self.module(z.view(len(z), *self.code_shape))
        if self.stage is None or not isinstance(images, (list, tuple)):
            return images
        if not -len(images) <= self.stage < len(images):
            raise UsageError(f"generator: there is no stage {self.stage}, it returns {len(images)} images")
        return images[self.stage]

    def forward(self, z: Codes) -> Images:
        """Map codes to images in [-1, 1]."""
        low, high = self.image_range
        images = self.raw(z)
        return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1


def wrap_generator(
    module: nn.Module,
    latent_dim: int,
    image_range: tuple[float, float] = (-1.0, 1.0),
    spatial: bool = False,
    stage: int | None = None,
) -> WrappedGenerator:
    """Make a generator of any module, frozen and checked.

    Args:
        module: maps codes N(0, I) to images `[b c s s]`, c = 1 or 3.
        latent_dim: d, size of a code.
        image_range: lowest and highest value of its images, e.g. (0, 1).
        spatial: the module wants codes of shape `[b d 1 1]` instead of `[b d]`.
        stage: which image, of a module that returns several (StackGAN-v2); -1 for the last one.

    Raises:
        UsageError: it refuses such codes, returns something else, or is not differentiable.

    >>> module = nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Unflatten(1, (1, 16, 16)))
    >>> wrap_generator(module, latent_dim=8).image_size
    16
    """
    shape = (latent_dim, 1, 1) if spatial else (latent_dim,)
    device = next((p.device for p in module.parameters()), None)
    wrapped = freeze(WrappedGenerator(module, latent_dim, image_range, shape, stage))
    wrapped.channels, wrapped.image_size = check_generator(wrapped.raw, latent_dim, image_range, device)
    wrapped.config |= {"channels": wrapped.channels, "image_size": wrapped.image_size}
    return wrapped
