"""What a generator is: a module from codes `[b d]` to images `[b c h w]` in [-1, 1], with three numbers attached."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ..checkpoint import digest
from ..errors import UsageError
from ..tensors import Codes, Images, to_uint8

DRAWN_PIXELS = 2**18  # that are sampled at a time: 256 images of 32 pixels a side


class Generator(nn.Module):
    """G: codes z ~ N(0, I) of `latent_dim` numbers to square images of the domain X.

    Attributes:
        latent_dim: d.
        channels: 1 or 3.
        image_size: side of the images.
        config: plain values from which an untrained copy can be built.
    """

    latent_dim: int
    channels: int
    image_size: int
    config: dict[str, Any]

    @property
    def drawn_size(self) -> int:
        """Side of the images that it draws inside, which decides on memory."""
        return self.image_size

    @property
    def identity(self) -> dict[str, Any]:
        """What a run or a mapping belongs to: the configuration and a digest of the weights."""
        return {**self.config, "weights": digest(self.state_dict())}

    def forward(self, z: Codes) -> Images:
        """Map codes to images in [-1, 1]."""
        raise NotImplementedError

    def picture(self, z: Codes) -> Images:
        """The analogy to show, where it is not the image that T sees."""
        return self(z)


M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Eval mode and no gradients for its weights; gradients still flow through to its input."""
    for p in module.parameters():  # a TorchScript module has no requires_grad_ of its own
        p.requires_grad_(False)
    return module.eval()


def prior(count: int, latent_dim: int, rng: torch.Generator) -> Codes:
    """`count` codes from N(0, I), on the device of `rng`."""
    return torch.randn(count, latent_dim, generator=rng, device=rng.device)


@torch.no_grad()
def sample(generator: Generator, count: int, rng: torch.Generator) -> Images:
    """`count` images from the prior, `[n c h w]` in [-1, 1], fp32."""
    return torch.cat([*draw(generator, count, rng)])


def sample_uint8(generator: Generator, count: int, rng: torch.Generator) -> UInt8[np.ndarray, "n c h w"]:
    """The same images as bytes: no more than a few of them are there as floats."""
    return np.concatenate([to_uint8(images).cpu().numpy() for images in draw(generator, count, rng)])


def draw(generator: Generator, count: int, rng: torch.Generator) -> Iterator[Images]:
    """Images from the prior, few at a time where they are large."""
    at_a_time = max(1, DRAWN_PIXELS // generator.drawn_size**2)
    for z in prior(count, generator.latent_dim, rng).split(at_a_time):
        yield generator(z).float()


def check_generator(
    module: Callable[[Codes], Any],
    latent_dim: int,
    image_range: tuple[float, float] = (-1.0, 1.0),
    device: torch.device | None = None,
) -> tuple[int, int]:
    """Try a generator before it is used; return its (channels, image size).

    Checks the latent size, that one tensor of shape `[b c s s]` comes back, that its values span `image_range`,
    that gradients reach the code, and that a sample depends on its code alone: no noise, no batch.

    Raises:
        UsageError: one line: what was expected and what was found.
    """
    z = torch.randn(8, latent_dim, generator=torch.Generator().manual_seed(0)).to(device).requires_grad_()
    try:
        images = module(z)
    except UsageError:
        raise
    except Exception as error:  # a foreign module may raise anything; the cause is named
        lines = str(error).strip().split("\n")
        reason = lines[-1 if "TorchScript" in lines[0] else 0]  # TorchScript puts the cause under its traceback
        wants_more = isinstance(error, TypeError) and "missing" in reason
        remedy = "wrap it in a module of z alone" if wants_more else "check latent_dim (--latent-dim)"
        raise UsageError(
            f"generator: codes of shape [8, {latent_dim}] are refused on {z.device} ({reason}); {remedy}"
        ) from error
    if isinstance(images, (list, tuple)):
        raise UsageError("generator: expected one tensor, found several images; pick one with stage=…, or wrap it")
    if not isinstance(images, Tensor):
        raise UsageError(f"generator: expected one tensor, found {type(images).__name__}; wrap it to return the image")
    shape = tuple(images.shape)
    if images.ndim != 4 or shape[0] != 8 or shape[1] not in (1, 3) or shape[2] != shape[3]:
        raise UsageError(f"generator: expected images [8, 1 or 3, s, s], found {list(shape)}")
    if not images.requires_grad:
        raise UsageError("generator: no gradient reaches the code; remove torch.no_grad() or detach() from its forward")
    _check_values(images.detach().float(), image_range)
    (slope,) = torch.autograd.grad(images.float().square().sum(), z, allow_unused=True)
    if slope is None or not slope.abs().max() > 0:
        raise UsageError(
            "generator: the gradient of its images by the code is zero; look for a rounding, a detach() or a saturated "
            "last layer in its forward"
        )
    with torch.no_grad():
        alone, again = (module(z[:1]).float() for _ in range(2))
    span = image_range[1] - image_range[0]
    if (gap := (alone - again).abs().max().item() / span) > 0.02:
        raise UsageError(
            f"generator: gives another image for the same code (by {gap:.0%} of the range): it draws noise of its own; "
            "make that a constant, or a part of the code"
        )
    gap = (alone - images[:1].float()).abs().max().item() / span
    if gap > 0.02:
        raise UsageError(f"generator: an image changes with its batch (by {gap:.0%} of the range); use eval mode")
    return shape[1], shape[2]


def _check_values(images: Float[Tensor, "b c h w"], image_range: tuple[float, float]) -> None:
    low, high = image_range
    least, most = images.min().item(), images.max().item()
    if not torch.isfinite(images).all():
        raise UsageError("generator: its images hold NaN or infinity; load its weights again, or run it in fp32")
    if len(images) > 1 and images.std(0).max() < 1e-3 * (high - low):
        raise UsageError(
            f"generator: every code gives the same image, values in [{least:.2f}, {most:.2f}]; it is untrained or has "
            "collapsed: look at its samples, load its weights, or train it longer"
        )
    slack = 0.02 * (high - low)
    if least < low - slack or most > high + slack:
        found = f"[{least:.2f}, {most:.2f}]"
        raise UsageError(
            f"generator: expected values in [{low:g}, {high:g}], found {found}; set image_range (--image-range)"
        )
    if (most - least) < 0.1 * (high - low):
        raise UsageError(
            f"generator: all values lie in [{least:.2f}, {most:.2f}], a tenth of the range; set image_range, "
            "or train it: before training a generator is grey"
        )
    if low < 0 <= least:
        raise UsageError(
            f"generator: expected values in [{low:g}, {high:g}], found none below 0; set image_range=(0, {high:g})?"
        )
