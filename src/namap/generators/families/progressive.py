"""Progressive growing of GANs (Karras et al. 2018; NAM §4, Fig. 8): both networks grow from 4x4, octave by octave."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from ...data import ImageDomain
from ...errors import UsageError
from ...networks.equalised import EqualConv, append_deviation, pixel_norm
from ...tensors import Codes, Images
from ..adversarial import AdversarialRecipe
from ..base import Generator

MAX_WIDTH = 512
GROWTH = 0.6  # share of a run in which the networks grow; the rest refines the whole


def channels_at(octave: int, octaves: int, width: int) -> int:
    """Channels at side 4 * 2^octave: `width` at the widest scale, doubled at each coarser one, at most 512."""
    return min(width * 2 ** (octaves - octave), MAX_WIDTH)


class Progressive(Generator):
    """The growing generator: pixel norm, equalised learning rate, one RGB head per octave.

    Args:
        latent_dim: d.
        image_size: side of the finished images: a power of two, 8 or more (1024 in the paper).
        channels: 1 or 3.
        width: channels of the widest scale; doubled at each coarser one, 512 at most.
    """

    def __init__(self, latent_dim: int, image_size: int = 64, channels: int = 3, width: int = 32):
        super().__init__()
        octaves = math.log2(image_size / 4)
        if octaves < 1 or octaves != int(octaves):
            raise UsageError(f"image size {image_size}: progressive growing needs 8, 16, 32, 64, 128 …")
        self.latent_dim, self.image_size, self.channels = latent_dim, image_size, channels
        self.config = {
            "kind": "progressive",
            "latent_dim": latent_dim,
            "image_size": image_size,
            "channels": channels,
            "width": width,
        }
        self.level = octaves  # octaves grown, its fraction the one that is fading in
        widths = [channels_at(i, int(octaves), width) for i in range(int(octaves) + 1)]
        self.stem = EqualConv(latent_dim, widths[0], 4, padding=3)
        blocks = [nn.ModuleList([EqualConv(widths[0], widths[0])])]
        blocks += [nn.ModuleList([EqualConv(a, b), EqualConv(b, b)]) for a, b in pairwise(widths)]
        self.blocks = nn.ModuleList(blocks)
        self.heads = nn.ModuleList(EqualConv(w, channels, 1, gain=1.0) for w in widths)

    def forward(self, z: Codes) -> Images:
        """Map codes to images in [-1, 1], of the side that the level has reached."""
        x = _act(self.stem(pixel_norm(z)[:, :, None, None]))
        whole = math.ceil(self.level)
        before = x
        for octave in range(whole + 1):
            if octave:
                before, x = x, F.interpolate(x, scale_factor=2.0)
            for convolution in self.blocks[octave]:  # pyright: ignore[reportGeneralTypeIssues]
                x = _act(convolution(x))
        image = self.heads[whole](x)
        fading = self.level - (whole - 1)
        if whole and fading < 1:
            image = fading * image + (1 - fading) * F.interpolate(self.heads[whole - 1](before), scale_factor=2.0)
        return image.tanh()


class ProgressiveDiscriminator(nn.Module):
    """The mirror image of `Progressive`, with the minibatch standard deviation before its last convolution."""

    def __init__(self, image_size: int, channels: int, width: int):
        super().__init__()
        octaves = int(math.log2(image_size / 4))
        widths = [channels_at(i, octaves, width) for i in range(octaves + 1)]
        self.level = float(octaves)
        self.entries = nn.ModuleList(EqualConv(channels, w, 1) for w in widths)
        self.blocks = nn.ModuleList(nn.ModuleList([EqualConv(b, b), EqualConv(b, a)]) for a, b in pairwise(widths))
        self.last = EqualConv(widths[0] + 1, widths[0])
        self.head = EqualConv(widths[0], 1, 4, gain=1.0, padding=0)

    def forward(self, images: Images) -> Tensor:
        """Logits `[b 1]` of images of the side that the level has reached."""
        whole = math.ceil(self.level)
        x = _lean(self.entries[whole](images))
        for octave in range(whole, 0, -1):
            for convolution in self.blocks[octave - 1]:  # pyright: ignore[reportGeneralTypeIssues]
                x = _lean(convolution(x))
            x = F.avg_pool2d(x, 2)
            fading = self.level - (octave - 1)
            if fading < 1:
                x = fading * x + (1 - fading) * _lean(self.entries[octave - 1](F.avg_pool2d(images, 2)))
        return self.head(_lean(self.last(append_deviation(x)))).flatten(1).float()


@dataclass(frozen=True, kw_only=True)
class Recipe(AdversarialRecipe):
    """The adversarial losses on networks that grow over the first part of the run."""

    width: int = Field(default=32, ge=4, le=2048)
    rate: float = Field(default=2e-3, gt=0)

    generator: ClassVar[type[Generator]] = Progressive
    betas: ClassVar[tuple[float, float]] = (0.0, 0.99)

    def build(self, domain: ImageDomain) -> dict[str, nn.Module]:
        """G and D."""
        return {
            "generator": Progressive(self.latent_dim, domain.size, domain.channels, self.width),
            "discriminator": ProgressiveDiscriminator(domain.size, domain.channels, self.width),
        }

    def views(self, nets: Mapping[str, Any], x: Images, progress: float) -> list[Tensor]:
        """The training images at the level of this moment, which the networks take."""
        octaves = int(math.log2(x.shape[-1] / 4))
        level = level_at(progress, octaves)
        for name in ("generator", "discriminator", "average"):
            nets[name].level = level
        whole = math.ceil(level)
        x = F.avg_pool2d(x, 2 ** (octaves - whole))
        fading = level - (whole - 1)
        if whole and fading < 1:
            x = fading * x + (1 - fading) * F.interpolate(F.avg_pool2d(x, 2), scale_factor=2.0)
        return [x]

    def finish(self, generator: Any, nets: Mapping[str, nn.Module]) -> None:
        """Grown, however short the run was."""
        generator.level = math.log2(generator.image_size / 4)


def level_at(progress: float, octaves: int) -> float:
    """Octaves grown at this share of a run: each is first made at full weight, then the next one fades in as long.

    >>> [round(level_at(p, 2), 2) for p in (0.0, 0.18, 0.24, 0.4, 0.6, 1.0)]
    [0.0, 0.2, 0.6, 1.0, 2.0, 2.0]
    """
    position = progress / GROWTH * 2 * octaves  # alternating: stable, fading
    octave, within = divmod(position, 2)
    return min(octave + max(0.0, within - 1), float(octaves))


def _act(x: Tensor) -> Tensor:
    return pixel_norm(F.leaky_relu(x, 0.2))


def _lean(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)
