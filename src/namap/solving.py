"""NAM Eq. 6: the code of a query by optimisation, T and G fixed."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from .losses import Reconstruction
from .tensors import Images, random_stream


class CodeSearch:
    """NAM Eq. 6 for every query from each of its k starts, some iterations at a time.

        argmin_z  E_eps reconstruction(T(G(z + spread * eps)), y) + prior_weight * 1/2 ||z||^2      (NAM Eq. 6)

    Without `spread` this is NAM's Eq. 6, and the best code of each path is kept. With the encoder's sigma as `spread`
    it refines the mean of q(z|y) under the objective that E was trained with: a point alone would find codes that
    reconstruct well and mean little. The objective is summed over queries, Adam works element by element and all
    queries share their noise, so a query's result does not depend on its batch. With `steps=0` the starts are scored.

    Args:
        generator: G, frozen.
        mapper: T, in eval mode.
        reconstruction: the loss of the fit.
        y: queries in [-1, 1].
        starts: first codes, e.g. from `CodeSource.starts` (encode, then refine) or from the prior.
        steps: iterations in all, over which the learning rate decays.
        rate: Adam's learning rate, decayed along half a cosine.
        prior_weight: weight of the Gaussian prior: the KL term for a point.
        spread: standard deviation of the noise on each query's codes; None: none.

    Attributes:
        step: iterations done.
    """

    def __init__(
        self,
        generator: nn.Module,
        mapper: nn.Module,
        reconstruction: Reconstruction,
        y: Images,
        starts: Float[Tensor, "b k d"],
        steps: int,
        rate: float = 0.03,
        prior_weight: float = 0.0,
        spread: Float[Tensor, "b d"] | None = None,
    ):
        b, k, d = starts.shape
        self.generator, self.mapper, self.reconstruction = generator, mapper, reconstruction
        self.targets = [t.repeat_interleave(k, 0) for t in reconstruction.targets(y)]
        self.y = y.repeat_interleave(k, 0)
        self.shape, self.steps, self.rate, self.prior_weight = (b, k), steps, rate, prior_weight
        self.z = starts.detach().reshape(b * k, d).clone().requires_grad_(steps > 0)
        self.sigma = None if spread is None else spread.repeat_interleave(k, 0)
        self.rng = random_stream(0, device=y.device)
        self.optimizer = torch.optim.Adam([self.z], rate)
        self.best_z, self.best = self.z.detach().clone(), torch.full((b * k,), torch.inf, device=y.device)
        self.step = 0

    def objective(self, noise: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        """Reconstruction and the whole objective, `[b·k]` each, and the images G(z + noise)."""
        x = self.generator(self.z + noise)
        loss = self.reconstruction(self.mapper(x), self.y, self.targets)
        return loss, loss + self.prior_weight * 0.5 * self.z.square().sum(1), x

    @torch.enable_grad()
    def advance(self, count: int) -> None:
        """Do `count` iterations, or as many as are left."""
        for step in range(self.step, min(self.step + count, self.steps)):
            noise = 0.0
            if self.sigma is not None:
                noise = self.sigma * torch.randn(self.z.shape[1], generator=self.rng, device=self.y.device)
            _, total, _ = self.objective(noise)
            if self.sigma is None:
                self.best_z = torch.where((total < self.best)[:, None], self.z, self.best_z).detach()
                self.best = torch.minimum(self.best, total.detach())
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate * (0.5 + 0.5 * math.cos(math.pi * step / self.steps))
            self.optimizer.zero_grad(set_to_none=True)
            total.sum().backward()
            self.optimizer.step()
            self.step = step + 1

    @torch.no_grad()
    def result(self) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k"], Float[Tensor, "b k cx h w"]]:
        """Codes so far, their reconstruction losses, without noise and prior, and their images G(z)."""
        now = self.z
        loss, total, x = self.objective(0.0)
        if self.sigma is None and self.step:
            self.z = torch.where((total < self.best)[:, None], self.z, self.best_z)
            loss, _, x = self.objective(0.0)
        codes, self.z = self.z.detach().clone(), now  # the search goes on from where it was
        return codes.view(*self.shape, -1), loss.view(self.shape), x.view(*self.shape, *x.shape[1:])


def optimise_codes(
    generator: nn.Module,
    mapper: nn.Module,
    reconstruction: Reconstruction,
    y: Images,
    starts: Float[Tensor, "b k d"],
    steps: int,
    rate: float = 0.03,
    prior_weight: float = 0.0,
    spread: Float[Tensor, "b d"] | None = None,
    quiet: bool = True,
) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k"], Float[Tensor, "b k cx h w"]]:
    """All iterations of a `CodeSearch`, which says what is minimised and of what; `quiet`: no progress bar.

    Returns:
        Codes `[b k d]`, their reconstruction losses `[b k]`, without noise and prior, and their images G(z).
    """
    search = CodeSearch(generator, mapper, reconstruction, y, starts, steps, rate, prior_weight, spread)
    for _ in tqdm(range(steps), "optimising codes", leave=False, disable=True if quiet or not steps else None):
        search.advance(1)
    return search.result()
