"""StackGAN-v2's tree (Zhang et al. 2018; NAM Fig. 9): one code, images of several sizes, refined in stages."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from ...data import ImageDomain
from ...errors import UsageError
from ...networks import ConvEncoder, init_dcgan
from ...tensors import Codes, Images
from ..adversarial import AdversarialRecipe
from ..base import Generator


class StackTree(nn.Module):
    """The unconditional tree: a first stage at the smallest side, then joined refinements that double it.

    Its output is a list of images in [-1, 1], smallest first, as the published generators give them: use
    `wrap_generator(tree, latent_dim, stage=-1)`, or `Stack`.

    Args:
        latent_dim: d.
        image_size: side of the last stage.
        channels: 1 or 3.
        width: channels at the last stage; doubled at each coarser scale.
        stages: images that are made; 3 in the paper.
    """

    def __init__(self, latent_dim: int, image_size: int = 64, channels: int = 3, width: int = 32, stages: int = 3):
        super().__init__()
        octaves = math.log2(image_size / 4)
        if octaves != int(octaves) or octaves < stages:
            raise UsageError(f"image size {image_size}: {stages} stages need a power of two, {4 * 2**stages} or more")
        widths = [width * 2 ** (int(octaves) - i) for i in range(int(octaves) + 1)]
        first = int(octaves) - stages + 1  # octave of the first stage
        self.stem = nn.Sequential(nn.Linear(latent_dim, 2 * widths[0] * 16, bias=False), nn.Unflatten(1, (-1, 4, 4)))
        self.norm = nn.Sequential(nn.BatchNorm2d(2 * widths[0]), nn.GLU(1))
        self.first = nn.Sequential(*(_enlarge(a, b) for a, b in pairwise(widths[: first + 1])))
        later = list(pairwise(widths[first:]))
        self.joins = nn.ModuleList(_convolve(a + latent_dim, a) for a, _ in later)
        self.residuals = nn.ModuleList(nn.Sequential(_Residual(a), _Residual(a)) for a, _ in later)
        self.enlargements = nn.ModuleList(_enlarge(a, b) for a, b in later)
        self.heads = nn.ModuleList(nn.Conv2d(w, channels, 3, 1, 1) for w in widths[first:])
        self.apply(init_dcgan)

    def forward(self, z: Codes) -> list[Tensor]:
        """Map codes to one image per stage, smallest first."""
        x = self.first(self.norm(self.stem(z)))
        images = [self.heads[0](x).tanh()]
        for join, residual, enlarge, head in zip(
            self.joins, self.residuals, self.enlargements, self.heads[1:], strict=True
        ):
            code = z[:, :, None, None].expand(-1, -1, *x.shape[2:]).to(x.dtype)
            x = enlarge(residual(join(torch.cat([code, x], 1))))
            images.append(head(x).tanh())
        return images


class Stack(Generator):
    """A tree of which one stage is the generator's image.

    Args:
        latent_dim: d.
        image_size: side of the last stage.
        channels: 1 or 3.
        width: channels at the last stage.
        stages: of the tree.
    """

    def __init__(self, latent_dim: int, image_size: int = 64, channels: int = 3, width: int = 32, stages: int = 3):
        super().__init__()
        self.tree = StackTree(latent_dim, image_size, channels, width, stages)
        self.latent_dim, self.image_size, self.channels = latent_dim, image_size, channels
        self.config = {
            "kind": "stack",
            "latent_dim": latent_dim,
            "image_size": image_size,
            "channels": channels,
            "width": width,
            "stages": stages,
        }

    def forward(self, z: Codes) -> Images:
        """Map codes to the images of the last stage."""
        return self.tree(z)[-1]


class StackDiscriminators(nn.Module):
    """One discriminator for every stage."""

    def __init__(self, sides: list[int], channels: int, width: int):
        super().__init__()
        self.stages = nn.ModuleList(ConvEncoder(channels, side, 1, width).apply(init_dcgan) for side in sides)

    def forward(self, *images: Tensor) -> Tensor:
        """Logits `[b stages]`."""
        return torch.cat([stage(x) for stage, x in zip(self.stages, images, strict=True)], 1)


@dataclass(frozen=True, kw_only=True)
class Recipe(AdversarialRecipe):
    """The adversarial losses, summed over the stages.

    Attributes:
        stages: images that are made of a code, each twice the side of the one before.
    """

    width: int = Field(default=32, ge=4, le=2048)
    stages: int = Field(default=3, ge=2, le=6)

    generator: ClassVar[type[Generator]] = Stack
    divisible: ClassVar[bool] = True

    def build(self, domain: ImageDomain) -> dict[str, nn.Module]:
        """G and the discriminators."""
        generator = Stack(self.latent_dim, domain.size, domain.channels, self.width, self.stages)
        sides = [domain.size // 2**i for i in reversed(range(self.stages))]
        return {
            "generator": generator,
            "discriminator": StackDiscriminators(sides, domain.channels, self.width),
        }

    def views(self, nets: Mapping[str, Any], x: Images, progress: float) -> list[Tensor]:
        """The training images at the side of every stage, smallest first."""
        return [F.avg_pool2d(x, 2**i) for i in reversed(range(self.stages))]

    def imagine(self, generator: Any, z: Tensor) -> list[Tensor]:
        """The image of every stage."""
        return generator.tree(z)


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(
            _convolve(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def _convolve(inputs: int, outputs: int) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, 2 * outputs, 3, 1, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(2 * outputs), nn.GLU(1))


def _enlarge(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), _convolve(inputs, outputs))
