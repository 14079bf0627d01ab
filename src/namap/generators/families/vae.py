"""A variational auto-encoder whose decoder is the generator (NAM Fig. 4: VAE-h and VAE-l, high and low beta)."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import nn

from ...data import ImageDomain
from ...losses import bounded, kl_divergence, l2
from ...networks import ConvEncoder
from ...processes import normal
from ...training import Batch, Update
from ..base import Generator
from ..training import GeneratorRecipe
from .dcgan import DCGAN


@dataclass(frozen=True, kw_only=True)
class Recipe(GeneratorRecipe):
    """||G(z) - x||^2 + beta KL(q(z|x) || N(0, I)), z ~ q(z|x), with a DCGAN as decoder.

    Attributes:
        beta: weight of the KL term against the mean squared error of a pixel: high values (VAE-h) give blurred
            samples that fill the prior, low ones (VAE-l) sharp reconstructions and a prior with holes.
    """

    beta: float = Field(default=1e-3, ge=0)
    rate: float = Field(default=1e-3, gt=0)

    generator: ClassVar[type[Generator]] = DCGAN
    divisible: ClassVar[bool] = True

    def build(self, domain: ImageDomain) -> dict[str, nn.Module]:
        """The decoder and the encoder."""
        decoder = DCGAN(self.latent_dim, domain.size, domain.channels, self.width)
        encoder = ConvEncoder(domain.channels, domain.size, 2 * self.latent_dim, self.width)
        return {"generator": decoder, "encoder": encoder}

    def losses(self, nets: Mapping[str, Any], batch: Batch) -> Iterator[Update]:
        """One step of both."""
        mu, log_var = nets["encoder"](batch.images).chunk(2, dim=1)
        log_var = bounded(log_var)
        noise = normal(mu.shape, batch.rng)
        reconstruction = l2(nets["generator"](mu + noise * (log_var / 2).exp()), batch.images)
        kl = kl_divergence(mu, log_var).sum(1)
        logs = {"reconstruction": reconstruction, "kl": kl}
        yield Update(("generator", "encoder"), reconstruction + self.beta * kl, logs)

    def concern(self, row: dict[str, float]) -> str:
        """Posterior collapse, in a logged row."""
        return "posterior collapse: the codes say nothing of the images; lower beta" if row["kl"] < 0.01 else ""
