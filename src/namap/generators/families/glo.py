"""GLO: generative latent optimisation (Bojanowski et al. 2018): a code for each image, no encoder, no adversary."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor, nn
from torch.nn import functional as F

from ...data import ImageDomain
from ...errors import DataError
from ...networks import CodeTable
from ...tensors import Codes, Images, PerSample, random_stream
from ...training import Batch, Update
from ..base import Generator
from ..training import GeneratorRecipe
from .dcgan import DCGAN


class GLO(Generator):
    """A decoder of codes in the unit ball, and the Gaussian that was fitted to the codes of its training images.

        G(z) = decoder(into_ball(mean + factor z)),  z ~ N(0, I)

    Args:
        latent_dim: d.
        image_size: side of the images.
        channels: 1 or 3.
        width: of the decoder, a DCGAN.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, latent_dim: int, image_size: int = 32, channels: int = 1, width: int = 64):
        super().__init__()
        self.decoder = DCGAN(latent_dim, image_size, channels, width)
        self.latent_dim, self.image_size, self.channels = latent_dim, image_size, channels
        self.config = {**self.decoder.config, "kind": "glo"}
        self.register_buffer("mean", torch.zeros(latent_dim))
        self.register_buffer("factor", torch.eye(latent_dim))

    def decode(self, codes: Codes) -> Images:
        """Images of codes in the unit ball, scaled to the decoder's input."""
        return self.decoder(codes * self.latent_dim**0.5)

    def forward(self, z: Codes) -> Images:
        """Map codes from N(0, I) to images in [-1, 1]."""
        return self.decode(into_ball(self.mean + z @ self.factor.mT))


@dataclass(frozen=True, kw_only=True)
class Recipe(GeneratorRecipe):
    """The Laplacian-pyramid distance of decoder(code) to its image, over the decoder and every code.

    Attributes:
        code_rate: Adam's learning rate of the codes.
    """

    rate: float = Field(default=1e-3, gt=0)
    code_rate: float = Field(default=0.01, gt=0)

    generator: ClassVar[type[Generator]] = GLO
    divisible: ClassVar[bool] = True

    def build(self, domain: ImageDomain) -> dict[str, nn.Module]:
        """The decoder and a table of codes.

        Raises:
            DataError: a single image: its code has no spread.
        """
        if len(domain) < 2:
            raise DataError(f"{domain.source}: one image; a GLO needs two or more")
        generator = GLO(self.latent_dim, domain.size, domain.channels, self.width)
        return {"generator": generator, "codes": CodeTable(len(domain), self.latent_dim, random_stream(self.seed))}

    def losses(self, nets: Mapping[str, Any], batch: Batch) -> Iterator[Update]:
        """One step of the decoder and of the codes of this batch."""
        codes = into_ball(nets["codes"].rows(batch.index))
        loss = laplacian_distance(nets["generator"].decode(codes), batch.images)
        yield Update(("generator", "codes"), loss, {"reconstruction": loss, "code_norm": codes.norm(dim=1)})

    def finish(self, generator: Generator, nets: Mapping[str, Any]) -> None:
        """Fit the Gaussian to the codes."""
        assert isinstance(generator, GLO)
        codes = into_ball(nets["codes"].table.weight.detach())
        covariance = torch.cov(codes.T) + 1e-6 * torch.eye(codes.shape[1], device=codes.device)
        generator.mean.copy_(codes.mean(0))
        generator.factor.copy_(torch.linalg.cholesky(covariance))

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """Adam; for the codes row by row, at their own rate."""
        if isinstance(net, CodeTable):
            return torch.optim.SparseAdam(list(net.parameters()), self.code_rate)
        return super().optimizer(net)


def into_ball(codes: Codes) -> Codes:
    """The nearest point of the unit ball; no gradient pushes a code outwards once it has left it."""
    return codes / codes.norm(dim=1, keepdim=True).clamp(min=1)


def laplacian_distance(a: Images, b: Images, levels: int = 3) -> PerSample:
    """Lap1: sum_j 2^(2j) |L_j(a) - L_j(b)|_1 over the levels of a Laplacian pyramid, as means over an image.

    The factor 2^(2j) weighs a level by its share of the pixels, so that means count as sums do in the paper.
    """
    difference: Float[Tensor, "b c h w"] = a.float() - b  # the pyramid is linear
    loss = torch.zeros(len(difference), device=difference.device)
    for _ in range(levels):
        smaller = F.avg_pool2d(difference, 2)
        detail = difference - F.interpolate(smaller, scale_factor=2.0, mode="bilinear")
        loss = loss + detail.abs().flatten(1).mean(1)
        difference = smaller
    return loss + difference.abs().flatten(1).mean(1)
