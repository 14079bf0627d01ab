"""Measures of images that need no labels: distance, diversity, realism. The feature network is always injected.

They are computed in the network's own precision, whatever a mapping runs in: numbers of several machines compare.
"""

from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import UsageError
from ..tensors import Images, from_numpy

CHUNK = 128  # images at a time through the feature network


@torch.no_grad()
def perceptual_distance(
    a: UInt8[np.ndarray, "n c h w"], b: UInt8[np.ndarray, "n c h w"], features: nn.Module
) -> Float[np.ndarray, " n"]:
    """LPIPS without learnt weights: squared distance of unit feature vectors, mean over positions, mean over levels.

    Args:
        a: images.
        b: their counterparts, of the same size.
        features: maps images in [-1, 1] to a list of `[b c h w]`, such as `VGGFeatures`.

    Returns:
        Distances in [0, 4], one per pair.
    """
    parts = []
    for start in range(0, len(a), CHUNK):
        sides = [_unit_levels(images[start : start + CHUNK], features) for images in (a, b)]
        parts.append(_distance(*sides))
    return torch.cat(parts).cpu().numpy()


@torch.no_grad()
def perceptual_diversity(x: UInt8[np.ndarray, "n k c h w"], features: nn.Module) -> float:
    """Mean perceptual distance between two solutions of the same query, over all pairs.

    Raises:
        UsageError: a single solution each.
    """
    n, k = x.shape[:2]
    if k < 2:
        raise UsageError("diversity is between the solutions of a query: give two or more of each")
    total = 0.0
    for start in range(0, n, CHUNK):
        solutions = [_unit_levels(x[start : start + CHUNK, i], features) for i in range(k)]
        total += sum(float(_distance(p, q).sum()) for p, q in combinations(solutions, 2))
    return total / (n * k * (k - 1) / 2)


def _distance(p: list[Images], q: list[Images]) -> Float[Tensor, " n"]:
    levels = [(a - b).square().sum(1).flatten(1).mean(1) for a, b in zip(p, q, strict=True)]
    return torch.stack(levels).mean(0)


def _unit_levels(images: UInt8[np.ndarray, "n c h w"], features: nn.Module) -> list[Images]:
    return [F.normalize(level, dim=1) for level in _levels(images, features)]


def kernel_distance(
    x: UInt8[np.ndarray, "n c h w"], reference: UInt8[np.ndarray, "m c h w"], features: nn.Module, subsets: int = 50
) -> float:
    """KID (Bińkowski et al. 2018) between two sets of images, times 1000, on the levels' spatial means.

    Args:
        x: images.
        reference: real ones.
        features: as in `perceptual_distance`; with another network the numbers are others.
        subsets: random subsets of at most 500 images that are averaged, always the same.
    """
    from torchmetrics.image.kid import poly_mmd

    ours, theirs = pooled_features(x, features), pooled_features(reference, features)
    mean, scale = theirs.mean(0), theirs.std(0)
    scale = scale.clamp(min=0.1 * float(scale.median()))  # a channel that never answers has no scale of its own
    ours, theirs = (ours - mean) / scale, (theirs - mean) / scale
    size = min(500, len(ours), len(theirs))
    rng = np.random.default_rng(0)
    draws = ((rng.permutation(len(ours))[:size], rng.permutation(len(theirs))[:size]) for _ in range(subsets))
    return 1000 * float(np.mean([float(poly_mmd(ours[i], theirs[j])) for i, j in draws]))


@torch.no_grad()
def pooled_features(images: UInt8[np.ndarray, "n c h w"], features: nn.Module) -> Float[Tensor, "n d"]:
    """The spatial mean of every level, side by side."""
    starts = range(0, len(images), CHUNK)
    return torch.cat([torch.cat([p.mean((2, 3)) for p in _levels(images[i : i + CHUNK], features)], 1) for i in starts])


def _levels(images: UInt8[np.ndarray, "n c h w"], features: nn.Module) -> list[Images]:
    device = next(features.parameters()).device
    return [level.float() for level in features(from_numpy(images, device))]
