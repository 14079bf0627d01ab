"""DCGAN, optionally with spectral normalisation (NAM §3.6): the default generator."""

import math
from typing import ClassVar

from pydantic.dataclasses import dataclass
from torch import nn

from ...data import ImageDomain
from ...errors import UsageError
from ...networks import ConvEncoder, init_dcgan
from ...tensors import Codes, Images
from ..adversarial import AdversarialRecipe
from ..base import Generator


class DCGAN(Generator):
    """The DCGAN generator: a linear layer to 4x4, then transposed 4x4 convolutions that double the side.

    Args:
        latent_dim: d, size of a code.
        image_size: side of the images: 32, 64, …: a power of two.
        channels: 1 or 3.
        width: channels before the last convolution; twice as many at each smaller scale.
    """

    def __init__(self, latent_dim: int, image_size: int = 32, channels: int = 1, width: int = 64):
        super().__init__()
        scales = math.log2(image_size / 4)
        if scales < 1 or scales != int(scales):
            raise UsageError(f"image size {image_size}: a DCGAN needs 8, 16, 32, 64, 128 …")
        self.latent_dim, self.image_size, self.channels = latent_dim, image_size, channels
        self.config = {
            "kind": "dcgan",
            "latent_dim": latent_dim,
            "image_size": image_size,
            "channels": channels,
            "width": width,
        }
        widths = [width * 2**i for i in reversed(range(int(scales)))]
        self.stem = nn.Linear(latent_dim, widths[0] * 16, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(widths[0]), nn.ReLU()]
        for i, (inputs, outputs) in enumerate(zip(widths, [*widths[1:], channels], strict=True)):
            last = i == len(widths) - 1
            layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=last)]
            layers += [nn.Tanh()] if last else [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.apply(init_dcgan)

    def forward(self, z: Codes) -> Images:
        """Map codes to images in [-1, 1]."""
        return self.layers(self.stem(z).view(z.shape[0], -1, 4, 4))  # len() would fix the batch of an export


@dataclass(frozen=True, kw_only=True)
class Recipe(AdversarialRecipe):
    """Adversarial training of a DCGAN.

    Attributes:
        spectral_norm: spectral normalisation of the discriminator in place of batch normalisation (NAM §3.6).
    """

    spectral_norm: bool = False

    generator: ClassVar[type[Generator]] = DCGAN
    divisible: ClassVar[bool] = True

    def build(self, domain: ImageDomain) -> dict[str, nn.Module]:
        """G and D."""
        generator = DCGAN(self.latent_dim, domain.size, domain.channels, self.width)
        discriminator = ConvEncoder(domain.channels, domain.size, 1, self.width, self.spectral_norm)
        if not self.spectral_norm:
            discriminator.apply(init_dcgan)
        return {"generator": generator, "discriminator": discriminator}
