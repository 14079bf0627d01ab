"""Generators from elsewhere, fitted to namap's conventions."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..tensors import Codes, Images
from .base import Generator, check_generator, freeze

SIZES = ("latent_dim", "latent_size", "nz", "z_dim", "dim_z")  # what others call d


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
        source: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.module = module
        self.stage = stage
        self.latent_dim = latent_dim
        self.image_range = image_range
        self.code_shape = code_shape
        self.channels, self.image_size = 0, 0
        self.config: dict[str, Any] = {
            "kind": "foreign",
            "latent_dim": latent_dim,
            "image_range": [float(v) for v in image_range],
            "spatial": len(code_shape) == 3,
            "stage": stage,
            "source": source,
        }

    @property
    def identity(self) -> dict[str, Any]:
        """The configuration with what its files hold in place of where they lie, and a digest of the weights."""
        sums = (self.config["source"] or {"sha256": {}})["sha256"]
        return super().identity | {"source": sorted(sums.values())}

    def check(self, device: torch.device | None = None) -> tuple[int, int]:
        """Try it on its own device, or another to which it was moved: its (channels, image size).

        Raises:
            UsageError: it does not fit; one line.
        """
        return check_generator(self.raw, self.latent_dim, self.image_range, device or device_of(self))

    def raw(self, z: Codes) -> Any:
        """What the module returns, in its own range; of several images the one that `stage` picks."""
        images = self.module(z.view(z.shape[0], *self.code_shape))
        if self.stage is None or not isinstance(images, (list, tuple)):
            return images
        if not -len(images) <= self.stage < len(images):
            raise UsageError(f"generator: there is no stage {self.stage}, it returns {len(images)} images")
        return images[self.stage]

    def forward(self, z: Codes) -> Images:
        """Map codes to images in [-1, 1]."""
        low, high = self.image_range
        images = self.raw(z)
        if images.dtype not in (torch.float32, torch.bfloat16):  # a buffer made by numpy is enough
            images = images.float()
        return images if (low, high) == (-1, 1) else (images - low) * (2 / (high - low)) - 1


def wrap_generator(
    module: nn.Module,
    latent_dim: int | None = None,
    image_range: tuple[float, float] = (-1.0, 1.0),
    spatial: bool | None = None,
    stage: int | None = None,
    source: dict[str, Any] | None = None,
) -> WrappedGenerator:
    """Make a generator of any module, frozen and checked.

    Args:
        module: maps codes N(0, I) to images `[b c s s]`, c = 1 or 3.
        latent_dim: d, size of a code; None: found out from the module.
        image_range: lowest and highest value of its images, e.g. (0, 1).
        spatial: the module wants codes of shape `[b d 1 1]` instead of `[b d]`; None: whichever it takes.
        stage: which image, of a module that returns several (StackGAN-v2); -1 for the last one.
        source: where it came from, so that a saved mapping can find it again; `load_generator` says it.

    Returns:
        G: codes `[b d]` to images `[b c s s]` in [-1, 1]. The module itself is inside, not a copy.

    Raises:
        UsageError: it refuses such codes, returns something else, or is not differentiable.

    Examples:
        >>> module = nn.Sequential(nn.Linear(8, 256), nn.Tanh(), nn.Unflatten(1, (1, 16, 16)))
        >>> wrap_generator(module).latent_dim
        8
    """
    if not -math.inf < image_range[0] < image_range[1] < math.inf:
        raise UsageError(f"image_range {image_range}: expected the lowest value, then the highest, e.g. (0, 1)")
    freeze(module)
    latent_dim, spatial = find_code_shape(module, latent_dim, spatial)
    shape = (latent_dim, 1, 1) if spatial else (latent_dim,)
    wrapped = freeze(WrappedGenerator(module, latent_dim, image_range, shape, stage, source))
    wrapped.channels, wrapped.image_size = wrapped.check()
    wrapped.config |= {"channels": wrapped.channels, "image_size": wrapped.image_size}
    return wrapped


def find_code_shape(module: nn.Module, latent_dim: int | None, spatial: bool | None) -> tuple[int, bool]:
    """The size of a code, and whether the module wants it as `[b d 1 1]`: the first that it takes.

    Raises:
        UsageError: the size is not given and cannot be found out.
    """
    device = device_of(module)
    sizes = list(guess_sizes(module)) if latent_dim is None else [latent_dim]
    for size in sizes:
        for wants in (False, True) if spatial is None else (spatial,):
            if _takes(module, torch.zeros(2, size, *(1, 1) * wants, device=device)):
                return size, wants
    if not sizes:
        raise UsageError("generator: the size of its codes cannot be told from it; give --latent-dim (latent_dim=)")
    weight = next((p for p in module.parameters() if p.ndim >= 2), None)
    likely = weight is not None and weight.ndim == 4 if spatial is None else spatial
    return sizes[0], likely  # the check that follows says why it is refused


def guess_sizes(module: nn.Module) -> Iterator[int]:
    """What d may be: an attribute that says so, or what the first weight takes in."""
    named = [getattr(module, name, None) for name in SIZES]
    yield from (size for size in named if isinstance(size, int) and size > 0)
    weight = next((p for p in module.parameters() if p.ndim >= 2), None)
    if weight is not None:
        yield from {2: (weight.shape[1],), 4: (weight.shape[0], weight.shape[1])}.get(weight.ndim, ())


def _takes(module: nn.Module, z: torch.Tensor) -> bool:
    """Whether codes of this shape give images."""
    try:
        with torch.no_grad():
            images = module(z)
    except Exception:  # a foreign module may raise anything
        return False
    return isinstance(images, (list, tuple)) or getattr(images, "ndim", 4) == 4


def device_of(module: nn.Module) -> torch.device | None:
    """Where a module's weights are; None without any.

    Raises:
        UsageError: on several devices, or on none.
    """
    devices = {t.device for t in module.state_dict().values() if isinstance(t, torch.Tensor)}
    if len(devices) > 1:
        places = ", ".join(sorted(map(str, devices)))
        raise UsageError(f"generator: its weights are spread over {places}; move it to one with module.to(…)")
    device = next(iter(devices), None)
    if device is not None and device.type == "meta":
        raise UsageError("generator: its weights are on the meta device, without values; load them first")
    return device
