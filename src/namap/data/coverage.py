"""How large and how full the content of a domain is, so that a gross mismatch is noticed before a fit."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch.nn import functional as F

from .room import make_room

GROSS = 1.3  # ratio of extents
FULLER = 0.4, 1.8  # ratio of covered areas
PLAIN = 0.15  # deviation of the border pixels of a plain background
ENOUGH, AT_ONCE = 512, 32  # images that are measured, from all over the set, and at a time


class Coverage(NamedTuple):
    """Medians over images, as shares.

    Attributes:
        extent: spread of the content about its centre, of the side.
        cover: pixels over half of the strongest difference from the border colour, of the image.
        border: deviation of the border pixels, of that strongest difference: near 0 for a plain background.
    """

    extent: float
    cover: float
    border: float


def measure_coverage(images: UInt8[np.ndarray, "n c h w"]) -> Coverage:
    """Extent and coverage of the content: of what differs from each image's border colour; medians over the images."""
    images = images[np.linspace(0, len(images) - 1, min(len(images), ENOUGH)).astype(int)]  # may be sorted by class
    parts = [_of_each(images[i : i + AT_ONCE]) for i in range(0, len(images), AT_ONCE)]
    return Coverage(*np.median(np.concatenate(parts, axis=1), axis=1).tolist())


def _of_each(images: UInt8[np.ndarray, "n c h w"]) -> Float[np.ndarray, "3 n"]:
    """Extent, cover and border of each image."""
    x = images.astype(np.float32)
    edge = np.concatenate([x[..., 0, :], x[..., -1, :], x[..., 0], x[..., -1]], -1)
    weight = np.abs(x - np.median(edge, -1)[..., None, None]).mean(1)
    peak = weight.max((1, 2), keepdims=True) + 1e-6
    border = edge.std(-1).mean(1) / peak[:, 0, 0]
    weight = np.where(weight > 0.3 * peak, weight, 0) + 1e-9
    total = weight.sum((1, 2))
    rows, columns = np.mgrid[: x.shape[2], : x.shape[3]] / x.shape[2]
    spread = np.zeros(len(x))
    for axis in (rows, columns):
        centre = (weight * axis).sum((1, 2)) / total
        spread += (weight * (axis - centre[:, None, None]) ** 2).sum((1, 2)) / total
    cover = (weight > 0.5 * peak).mean((1, 2))
    return np.stack([np.sqrt(spread), cover, border])


def compare_coverage(x: UInt8[np.ndarray, "n c h w"], y: UInt8[np.ndarray, "m k h w"]) -> str | None:
    """One line where the content of Y is grossly larger, smaller or fuller than X's; None where they agree.

    Textured backgrounds (house numbers, photographs) hide where the content ends: no verdict there.
    """
    ours, theirs = measure_coverage(x), measure_coverage(y)
    if max(ours.border, theirs.border) > PLAIN:
        return None
    if min(ours.cover, theirs.cover, ours.extent, theirs.extent) == 0:
        blank = "samples of the generator" if min(ours.cover, ours.extent) == 0 else "queries"
        return f"most {blank} are blank; look at them"
    ratio, fuller = theirs.extent / ours.extent, theirs.cover / ours.cover
    if ratio > GROSS:
        return (
            f"the queries' content is {ratio:.2f} times as large as the generator's; analogies will collapse to "
            f"its largest images. Shrink the queries with query_scale={max(0.2, 1 / ratio):.2f}"
        )
    if ratio < 1 / GROSS:
        return (
            f"the queries' content is only {ratio:.2f} times as large as the generator's; crop the queries "
            "closer to their content"
        )
    least, most = FULLER
    if not least < fuller < most:
        scale = (fuller**-0.5 / ratio) ** 0.5  # between what the areas and what the extents ask for
        remedy = f", or shrink the queries with query_scale={max(0.2, scale):.2f}" if fuller > most else ""
        return (
            f"the queries' content covers {fuller:.1f} times as many pixels as the generator's ({theirs.cover:.0%} "
            f"and {ours.cover:.0%} of an image); check that both domains show the same things at the same scale{remedy}"
        )
    return None


def shrink(images: UInt8[np.ndarray, "n c h w"], scale: float) -> UInt8[np.ndarray, "n c h w"]:
    """Shrink images about their centre; the margin repeats the border pixels. `scale=1` returns them as they are."""
    if scale == 1:
        return images
    count, channels, side, _ = images.shape
    inner = max(4, round(side * scale))
    before = (side - inner) // 2
    margin = [before, side - inner - before] * 2
    shrunk = make_room(count, channels, side)
    for start in range(0, count, 1024):  # a large set in floats would not fit the memory
        part = torch.from_numpy(images[start : start + 1024]).float()
        small: Float[torch.Tensor, "n c h w"] = F.interpolate(part, (inner, inner), mode="bilinear", antialias=True)
        shrunk[start : start + 1024] = F.pad(small, margin, mode="replicate").round().clamp(0, 255).byte().numpy()
    return shrunk


def shrinking(side: int, scale: float) -> Float[torch.Tensor, "h h"]:
    """`shrink` as a matrix S, but for its rounding: S image Sᵀ."""
    inner = max(4, round(side * scale))
    before = (side - inner) // 2
    rows = F.interpolate(torch.eye(side)[None, None], (inner, side), mode="bilinear", antialias=True)
    return F.pad(rows, [0, 0, before, side - inner - before], mode="replicate")[0, 0]
