"""NAM Eq. 6: the code of a query by optimisation, T and G fixed."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from .losses import Reconstruction
from .tensors import Images, random_stream


@torch.enable_grad()
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
    """Minimise the reconstruction of every query from each of its k starts.

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
        steps: iterations.
        rate: Adam's learning rate, decayed along half a cosine.
        prior_weight: weight of the Gaussian prior: the KL term for a point.
        spread: standard deviation of the noise on each query's codes; None: none.
        quiet: no progress bar.

    Returns:
        Codes `[b k d]`, their reconstruction losses `[b k]`, without noise and prior, and their images G(z).
    """
    b, k, d = starts.shape
    targets = [t.repeat_interleave(k, 0) for t in reconstruction.targets(y)]
    y = y.repeat_interleave(k, 0)
    z = starts.detach().reshape(b * k, d).clone().requires_grad_(steps > 0)
    sigma = None if spread is None else spread.repeat_interleave(k, 0)
    rng = random_stream(0, device=y.device)
    optimizer = torch.optim.Adam([z], rate)
    best_z, best = z.detach().clone(), torch.full((b * k,), torch.inf, device=y.device)

    def objective(noise: Tensor | float) -> tuple[Tensor, Tensor, Tensor]:
        x = generator(z + noise)
        loss = reconstruction(mapper(x), y, targets)
        return loss, loss + prior_weight * 0.5 * z.square().sum(1), x

    for step in tqdm(range(steps), "optimising codes", leave=False, disable=True if quiet or not steps else None):
        noise = 0.0 if sigma is None else sigma * torch.randn(d, generator=rng, device=y.device)
        _, total, _ = objective(noise)
        if sigma is None:
            best_z = torch.where((total < best)[:, None], z, best_z).detach()
            best = torch.minimum(best, total.detach())
        for group in optimizer.param_groups:
            group["lr"] = rate * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)
        total.sum().backward()
        optimizer.step()
    with torch.no_grad():
        loss, total, x = objective(0.0)
        if sigma is None and steps:
            z = torch.where((total < best)[:, None], z, best_z)
            loss, _, x = objective(0.0)
    return z.detach().view(b, k, d), loss.view(b, k), x.view(b, k, *x.shape[1:])
