"""How z_y is obtained: the one object in which NAM, AE-NAM and VAE-NAM differ.

| method | z of a query in training | starts at inference |
|---|---|---|
| NAM | row of a table of codes | draws from the prior, to be optimised (NAM Eq. 6) |
| AE-NAM | E(y) | E(y) |
| VAE-NAM | mu(y) + eps sigma(y) | mu(y), then samples |
| WAE-NAM | E(y), all of them together distributed as the prior | E(y) |

Starts are of the same draws from the prior for every query, and each draw is of a stream of its own: an answer depends
on the query and the seed alone, not on its batch, nor on how many solutions were asked for.
"""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from . import processes
from .generators.base import prior
from .losses import bounded, kl_divergence, sliced_wasserstein
from .networks import CodeTable, ConvEncoder
from .recipes import Recipe
from .tensors import Codes, Images, random_stream

Starts = Float[Tensor, "b k d"]
Draws = Float[Tensor, "k d"]  # of the prior, times the temperature: one for each solution


def draw_starts(solutions: int, latent_dim: int, seed: int, device: torch.device | str) -> Draws:
    """Draws from N(0, I); more solutions leave the first ones as they were."""
    streams = (random_stream(seed, k, 1, device=device) for k in range(solutions))  # CodeSearch has (0, 1)
    return torch.cat([prior(1, latent_dim, stream) for stream in streams])


class QueryTable(CodeTable):
    """NAM: one code per training query, learnt directly (NAM Eq. 3)."""

    refine: ClassVar[int] = 200  # iterations of Eq. 6 unless told otherwise: a new query has no code before them
    several: ClassVar[bool] = True  # whether a query has several solutions
    norm_weight: ClassVar[float] = 1.0  # times beta: of 1/2 ||z||^2 where a code is optimised

    def forward(self, index: Int[Tensor, " b"], y: Images, rng: torch.Generator) -> tuple[Codes, Codes]:
        """The codes of training queries `index`, and 1/2 z^2 of each dimension."""
        z = self.rows(index)
        return z, 0.5 * z.square()

    def spread(self, y: Images) -> None:
        """A code of NAM is a point."""
        return None

    def starts(self, y: Images, noise: Draws) -> Starts:
        """The draws themselves: a new query has no code yet."""
        return noise.expand(len(y), -1, -1)


class PointEncoder(nn.Module):
    """AE-NAM: z = E(y) (VAE-NAM Eq. 2).

    Args:
        channels: of the queries.
        image_size: of the queries.
        latent_dim: d.
        width: of E.
    """

    refine: ClassVar[int] = 0  # one pass
    several: ClassVar[bool] = False
    norm_weight: ClassVar[float] = 1.0  # as in NAM

    def __init__(self, channels: int, image_size: int, latent_dim: int, width: int = 64):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = ConvEncoder(channels, image_size, latent_dim, width)

    def forward(self, index: Int[Tensor, " b"], y: Images, rng: torch.Generator) -> tuple[Codes, Codes]:
        """The codes of queries y, and 1/2 z^2 of each dimension."""
        z = self.encoder(y)
        return z, 0.5 * z.square()

    def spread(self, y: Images) -> None:
        """A code of AE-NAM is a point."""
        return None

    def starts(self, y: Images, noise: Draws) -> Starts:
        """E(y): the one solution, whatever the noise."""
        return self.encoder(y)[:, None]


class MatchedEncoder(PointEncoder):
    """WAE-NAM: z = E(y), and the codes of a batch as a whole match the prior (VAE-NAM §5).

    The penalty, in place of the KL term, is the sliced Wasserstein distance of the batch's codes to as many draws.
    A single code has no such distance: nothing but its reconstruction decides on it when it is refined.
    """

    norm_weight: ClassVar[float] = 0.0

    def forward(self, index: Int[Tensor, " b"], y: Images, rng: torch.Generator) -> tuple[Codes, Codes]:
        """The codes of queries y, and the penalty: the same for every query, an equal share for each dimension."""
        z = self.encoder(y)
        codes = processes.gather(z)
        penalty = sliced_wasserstein(codes, prior(len(codes), self.latent_dim, rng), rng)
        return z, (penalty / self.latent_dim).expand_as(z)


class GaussianEncoder(nn.Module):
    """VAE-NAM: q(z|y) = N(mu(y), sigma(y)^2), with (mu, log sigma^2) = E(y) (VAE-NAM Eq. 3-5).

    Args:
        channels: of the queries.
        image_size: of the queries.
        latent_dim: d.
        width: of E.
    """

    refine: ClassVar[int] = 0  # one pass
    several: ClassVar[bool] = True
    norm_weight: ClassVar[float] = 1.0  # as in NAM

    def __init__(self, channels: int, image_size: int, latent_dim: int, width: int = 64):
        super().__init__()
        self.latent_dim = latent_dim
        self.encoder = ConvEncoder(channels, image_size, 2 * latent_dim, width)

    def distribution(self, y: Images) -> tuple[Codes, Codes]:
        """(mu, log sigma^2) of queries y, `[b d]` each."""
        mu, log_var = self.encoder(y).chunk(2, dim=1)
        return mu, bounded(log_var)

    def forward(self, index: Int[Tensor, " b"], y: Images, rng: torch.Generator) -> tuple[Codes, Codes]:
        """A sample of q(z|y) for each query, and KL(q || N(0, I)) of each dimension."""
        mu, log_var = self.distribution(y)
        return mu + processes.normal(mu.shape, rng) * (log_var / 2).exp(), kl_divergence(mu, log_var)

    def spread(self, y: Images) -> Codes:
        """sigma(y), `[b d]`."""
        return (self.distribution(y)[1] / 2).exp()

    def starts(self, y: Images, noise: Draws) -> Starts:
        """The mean first, then samples mu + eps * sigma (VAE-NAM Eq. 8)."""
        mu, log_var = self.distribution(y)
        eps = noise * (torch.arange(len(noise), device=noise.device) > 0)[:, None]
        return mu[:, None] + eps * (log_var / 2).exp()[:, None]


CodeSource = QueryTable | PointEncoder | GaussianEncoder


def make_codes(recipe: Recipe, channels: int, image_size: int, latent_dim: int, count: int) -> CodeSource:
    """The source of codes of a method, untrained, for `count` queries of this size."""
    if recipe.method == "nam":
        return QueryTable(count, latent_dim, random_stream(recipe.seed))
    encoders = {"ae": PointEncoder, "vae": GaussianEncoder, "wae": MatchedEncoder}
    return encoders[recipe.method](channels, image_size, latent_dim, recipe.encoder_width)
