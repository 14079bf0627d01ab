"""NAM Eq. 6: the code of a query by optimisation, T and G fixed."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .losses import Reconstruction
from .tensors import Images


def optimise_codes(
    generator: nn.Module,
    mapper: nn.Module,
    reconstruction: Reconstruction,
    y: Images,
    starts: Float[Tensor, "b k d"],
    steps: int,
    rate: float = 0.03,
    prior_weight: float = 0.0,
) -> tuple[Float[Tensor, "b k d"], Float[Tensor, "b k"]]:
    """Minimise the reconstruction of every query from each of its k starts; the best code of each path is kept.

        argmin_z  reconstruction(T(G(z)), y) + prior_weight * 1/2 ||z||^2                          (NAM Eq. 6)

    The objective is summed over queries and Adam works element by element, so a query's result does not
    depend on its batch. With `steps=0` the starts are only scored.

    Args:
        generator: G, frozen.
        mapper: T, in eval mode.
        reconstruction: the loss of the fit.
        y: queries in [-1, 1].
        starts: first codes, e.g. from `CodeSource.starts` (encode, then refine) or from the prior.
        steps: iterations.
        rate: Adam's learning rate, decayed along half a cosine.
        prior_weight: weight of the Gaussian prior: the KL term for a point.

    Returns:
        Codes `[b k d]` and their reconstruction losses `[b k]`, without the prior term.
    """
    b, k, d = starts.shape
    targets = [t.repeat_interleave(k, 0) for t in reconstruction.targets(y)]
    y = y.repeat_interleave(k, 0)
    z = starts.detach().reshape(b * k, d).clone().requires_grad_(steps > 0)
    best_z, best, best_total = (
        z.detach().clone(),
        *(torch.full((b * k,), torch.inf, device=y.device) for _ in "ab"),
    )
    optimizer = torch.optim.Adam([z], rate)
    for step in range(steps + 1):
        with torch.set_grad_enabled(step < steps):
            loss = reconstruction(mapper(generator(z)), y, targets)
            total = loss + prior_weight * 0.5 * z.square().sum(1)
        better = total.detach() < best_total
        best_total = torch.where(better, total.detach(), best_total)
        best = torch.where(better, loss.detach(), best)
        best_z = torch.where(better[:, None], z.detach(), best_z)
        if step < steps:
            for group in optimizer.param_groups:
                group["lr"] = rate * (0.5 + 0.5 * torch.cos(torch.tensor(torch.pi * step / steps)).item())
            optimizer.zero_grad(set_to_none=True)
            total.sum().backward()
            optimizer.step()
    return best_z.view(b, k, d), best.view(b, k)
