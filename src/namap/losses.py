"""Reconstruction losses and the KL term: every loss maps a batch to `[b]`, the caller reduces.

loss = reconstruction(T(G(z)), y) + beta * KL(q(z|y) || N(0, I))            (VAE-NAM Eq. 5)
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from .networks import VGGFeatures
from .tensors import Images, PerSample, XImages

RIDGE = 1e-3


def l1(t: Images, y: Images) -> PerSample:
    """Mean absolute difference per image.

    >>> l1(torch.zeros(2, 1, 4, 4), torch.ones(2, 1, 4, 4)).tolist()
    [1.0, 1.0]
    """
    return (t.float() - y).abs().flatten(1).mean(1)


def l2(t: Images, y: Images) -> PerSample:
    """Mean squared difference per image."""
    return (t.float() - y).square().flatten(1).mean(1)


def bounded(log_var: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """log sigma^2 within [-14, 4], sigma in [1e-3, 7]: exp() and its gradient stay finite.

    The gradient passes the bounds: an encoder's first steps may throw a dimension beyond them, and with a clamp's
    gradient, zero, it would stay there, its code drowned in noise.

    >>> log_var = torch.tensor([[9.0]], requires_grad=True)
    >>> kl_divergence(torch.zeros(1, 1), bounded(log_var)).backward()
    >>> bool(log_var.grad > 0)
    True
    """
    return log_var + (log_var.clamp(-14, 4) - log_var).detach()


def kl_divergence(mu: Float[Tensor, "b d"], log_var: Float[Tensor, "b d"]) -> Float[Tensor, "b d"]:
    """KL(N(mu, sigma^2) || N(0, I)) = 1/2 (mu^2 + sigma^2 - 1 - log sigma^2) >= 0 of each dimension, in nats.

    Its sum over dimensions is VAE-NAM Eq. 6 with the sign set right.

    >>> kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2)).tolist()
    [[0.0, 0.0]]
    """
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var)


def sliced_wasserstein(z: Float[Tensor, "b d"], prior: Float[Tensor, "b d"], rng: torch.Generator) -> Float[Tensor, ""]:
    """Squared 2-Wasserstein distance between two sets of codes, on the mean over 64 random directions.

    In one dimension the best transport pairs the sorted values: mean_k |sort(z theta_k) - sort(prior theta_k)|^2.
    """
    directions = torch.randn(z.shape[1], 64, generator=rng, device=z.device)
    directions = directions / directions.norm(dim=0)
    return ((z @ directions).sort(0).values - (prior @ directions).sort(0).values).square().mean()


@torch.no_grad()
def share_of_copies(x: XImages, distance: Tensor | float) -> Float[Tensor, ""]:
    """The largest share of a batch that lies near one image of it, itself not counted: 1 where all are copies.

    Near is a root mean square difference of a pixel below `distance`. Looks at the first 64 images.
    """
    flat = x[:64].detach().float().flatten(1)
    near = torch.cdist(flat, flat) < distance * flat.shape[1] ** 0.5
    return (near.sum(1).max() - 1) / max(1, len(flat) - 1)


def fit_appearance(t: XImages, y: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c k"], Float[Tensor, "b c"]]:
    """The per-image affine map (A, b) that best explains y by t: ridge least squares in closed form.

    A, b = argmin ||A t + b - y||^2 + ridge ||A||^2      over the pixels of one image
    """
    t_mean, y_mean = t.float().mean((2, 3)), y.mean((2, 3))
    t_centred = (t.float() - t_mean[..., None, None]).flatten(2)
    y_centred = (y - y_mean[..., None, None]).flatten(2)
    pixels = t_centred.shape[2]
    t_cov = t_centred @ t_centred.mT / pixels + RIDGE * torch.eye(t.shape[1], device=t.device)
    cross = y_centred @ t_centred.mT / pixels
    a = cross / t_cov if t.shape[1] == 1 else torch.linalg.solve(t_cov, cross, left=False)
    return a, y_mean - (a @ t_mean[..., None])[..., 0]


def paint(t: XImages, a: Float[Tensor, "b c k"], b: Float[Tensor, "b c"]) -> Images:
    """A t + b: T's output in the colours of one query."""
    return torch.einsum("bck,bkhw->bchw", a, t.float()) + b[..., None, None]


def appearance_invariant(t: XImages, y: Images) -> PerSample:
    """Residual of the best affine recolouring of t, as a share of y's variance: 0 (explained) to 1 (not at all).

        min_{A,b} ||A T(G(z)) + b - y||^2 / var(y)

    T(G(z)) cannot know that a house number is red on grey; each query explains its own appearance.
    """
    residual = (paint(t, *fit_appearance(t, y)) - y).square().flatten(1).mean(1)
    variance = (y - y.mean((2, 3), keepdim=True)).square().flatten(1).mean(1)  # a third of the time of var()
    return residual / (variance + RIDGE)


def gram(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c c"]:
    """Inner products of the channels, per pixel: style without place (NAM, Shoes2Handbags)."""
    rows = features.flatten(2)
    return rows @ rows.mT / rows.shape[2]


def nothing(t: Images, y: Images) -> PerSample:
    """No pixel loss: a style has no place."""
    return t.new_zeros(len(t), dtype=torch.float32)


class Reconstruction(nn.Module):
    """A pixel loss `(t, y) -> [b]` as a module, optionally with perceptual terms (NAM Eq. 4).

        sum_i ||s(phi_i(t)) - s(phi_i(y))||_1 + pixel(t, y)         with norms taken as means over an image

    Args:
        pixel: `l1`, `l2`, `appearance_invariant`, `nothing`, or any function of that shape.
        features: a network that maps images to a list of `[b c h w]`, such as `VGGFeatures`; None: pixels only.
        statistic: s, of each feature map: None for the identity, or `gram`.
    """

    def __init__(self, pixel=l2, features: VGGFeatures | nn.Module | None = None, statistic=None):
        super().__init__()
        self.pixel = pixel
        self.features = features
        self.statistic = statistic

    def describe(self, images: XImages) -> list[Tensor]:
        """s(phi_i(images)), a tensor a level."""
        if self.features is None:
            return []
        levels = self.features(images)
        return levels if self.statistic is None else [self.statistic(level) for level in levels]

    @torch.no_grad()
    def targets(self, y: Images) -> list[Tensor]:
        """phi_i(y): constant in a fit, so computed without a graph, and once per query where a cache holds it."""
        return self.describe(y)

    def forward(self, t: XImages, y: Images, targets: Sequence[Tensor] | None = None) -> PerSample:
        """The loss of each image; `targets` saves computing phi(y) again."""
        return self.compare(t, y, self.describe(t), self.targets(y) if targets is None else targets)

    def compare(self, t: XImages, y: Images, of_t: Sequence[Tensor], of_y: Sequence[Tensor]) -> PerSample:
        """The loss of each image whose descriptions, and those of its query, are known."""
        with torch.autocast(y.device.type, enabled=False):  # variances and ridge systems need fp32
            loss = self.pixel(t, y)
        for ours, theirs in zip(of_t, of_y, strict=True):
            loss = loss + _MeanDistance.apply(ours, theirs)
        return loss


class _MeanDistance(torch.autograd.Function):
    """mean |a - b| per image; every pass, forward and backward, stays in the layout and precision of a.

    Composed of `sub`, `abs` and `mean` its gradient would be built in another layout, a fifth of a step with VGG-16.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, a: Tensor, b: Tensor) -> Tensor:
        difference = a - b
        ctx.save_for_backward(difference)
        rows = difference.abs().mean(1)  # the innermost dimension of channels last
        return rows.flatten(1).mean(1, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (difference,) = ctx.saved_tensors
        each = gradient / difference[0].numel()
        each = each.to(difference.dtype).view(-1, *[1] * (difference.ndim - 1))
        return difference.sign() * each, None
