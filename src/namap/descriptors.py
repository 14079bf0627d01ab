"""Descriptors phi of whole images, comparable across two domains: what matching measures distances with."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import tqdm

from .data import ImageDomain
from .tensors import Images, autocast, from_numpy, place

CELLS = 4  # a side, that each VGG block is averaged over
COLOUR_CELLS, EDGE_CELLS, DIRECTIONS = 8, (4, 8), 6
STATISTICS_PRIOR = 10.0  # a domain's mean and deviation lean on both domains' as if by so many images


class Descriptor:
    """phi: images to rows, a few parts side by side, a batch at a time.

    Args:
        features: network of the perceptual loss, or None.
        device: where it runs.
        precision: of the network.
        batch_size: images at a time.
        quiet: no progress bar.
    """

    def __init__(self, features: nn.Module | None, device: torch.device, precision: str, batch_size: int, quiet: bool):
        self.features = None if features is None else place(features, device)
        self.device, self.precision, self.batch_size, self.quiet = device, precision, batch_size, quiet

    @torch.no_grad()
    def __call__(self, domain: ImageDomain) -> tuple[Float[Tensor, "n d"], list[int]]:
        """The rows of a domain, and the width of each part."""
        # One row of memory for all parts, filled in place: with VGG a row is 16 thousand numbers.
        rows, widths = torch.empty(len(domain), 0), []
        bar = tqdm(range(0, len(domain), self.batch_size), "describing", disable=True if self.quiet else None)
        for start in bar:
            parts = self.parts(from_numpy(domain.images[start : start + self.batch_size], self.device))
            widths = [p.shape[1] for p in parts]
            if start == 0:
                rows = torch.empty(len(domain), sum(widths), device=self.device)
            torch.cat(parts, 1, out=rows[start : start + len(parts[0])])
        return rows, widths

    def parts(self, images: Images) -> list[Float[Tensor, "b d"]]:
        """Colours, edges, and each VGG block, averaged over cells."""
        edges = edge_energy(images)
        maps = [F.adaptive_avg_pool2d(images, COLOUR_CELLS), *(F.adaptive_avg_pool2d(edges, c) for c in EDGE_CELLS)]
        if self.features is not None:
            with autocast(self.device, self.precision):
                found = [self.features(chunk) for chunk in images.split(64)]  # its activations are large
            maps += [F.adaptive_avg_pool2d(torch.cat(block), CELLS).float() for block in zip(*found, strict=True)]
        return [m.flatten(1) for m in maps]


def edge_energy(images: Images) -> Float[Tensor, "b o h w"]:
    """Strength of the edges in six directions, summed over channels; an edge and its negative count alike."""
    dx = F.pad(images[..., 2:] - images[..., :-2], (1, 1))
    dy = F.pad(images[:, :, 2:] - images[:, :, :-2], (0, 0, 1, 1))
    strength, angle = torch.hypot(dx, dy), 2 * torch.atan2(dy, dx)
    steps = [2 * torch.pi * k / DIRECTIONS for k in range(DIRECTIONS)]
    return torch.stack([(strength * torch.cos(angle - s).clamp_min(0).square()).sum(1) for s in steps], 1)


def describe_pair(
    describe: Descriptor, x: ImageDomain, y: ImageDomain, dimensions: int, whitening: float, seed: int
) -> tuple[Float[Tensor, "m k"], Float[Tensor, "n k"]]:
    """Descriptors of both sets, unit rows: each coordinate standardised in its own domain, then principal directions.

    A design (outlined or shaded, darker or lighter) is mostly an offset and a scale of features; standardising each
    domain by itself takes it away. Every part weighs alike; the principal directions are those of both sets together.

    Args:
        describe: phi.
        x: images of X.
        y: queries.
        dimensions: k at most; less where the images are few.
        whitening: 0 leaves the variances of the principal directions, 1 makes them equal.
        seed: of the random projection that finds them.
    """
    (of_x, widths), (of_y, _) = describe(x), describe(y)
    both = [(len(r), r.mean(0), r.var(0, correction=0)) for r in (of_x, of_y)]
    total = sum(n for n, _, _ in both)
    mean = sum((n * m for n, m, _ in both), torch.zeros(())) / total
    variance = sum((n * (v + (m - mean).square()) for n, m, v in both), torch.zeros(())) / total
    for rows, (n, m, v) in zip((of_x, of_y), both, strict=True):
        share = n / (n + STATISTICS_PRIOR)
        scale = (share * v + (1 - share) * variance).sqrt()
        rows.sub_(share * m + (1 - share) * mean)
        for part, s in zip(rows.split(widths, 1), scale.split(widths), strict=True):
            part.div_(s + 1e-3 * s.mean() + 1e-12)
            part.div_(part.norm(dim=1, keepdim=True) + 1e-12)
    stacked = torch.cat([of_x, of_y])
    del of_x, of_y
    stacked -= stacked.mean(0)
    rank = max(1, min(dimensions, len(stacked) - 2, stacked.shape[1]))
    with torch.random.fork_rng(devices=[stacked.device] if stacked.is_cuda else []):
        torch.manual_seed(seed)
        _, deviation, directions = torch.svd_lowrank(stacked, rank, niter=4)
    spectrum = deviation.square() / len(stacked)
    # A tenth of the mean variance keeps the last directions, mostly noise, from being blown up.
    scaled = directions / (spectrum + 0.1 * spectrum.mean() + 1e-12) ** (whitening / 2)
    unit = F.normalize(stacked @ scaled, dim=1)
    return unit[: len(x)], unit[len(x) :]
