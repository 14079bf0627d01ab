"""The space of solutions of one query (NAM §3.5, VAE-NAM §3.4): samples, directions, segments."""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.utils import make_grid

from .checkpoint import write_json
from .codes import GaussianEncoder
from .data import ImageDomain
from .errors import UsageError
from .files import storage_errors
from .generators import freeze
from .losses import Reconstruction, l1
from .mapping import Mapping
from .pictures import to_picture, write_picture
from .tensors import Codes, Images, as_seed, autocast, from_numpy, place, to_uint8

STEPS = (-2.0, -1.0, 0.0, 1.0, 2.0)  # along a direction, in standard deviations


@dataclass(frozen=True)
class Exploration:
    """What one query can be mapped to.

    Attributes:
        query: y, `[1 c h w]` in [-1, 1], as all images here.
        solutions: the analogies, `[k c h w]`, the first one first.
        codes: z of each, `[k d]`.
        directions: analogies along the directions of largest spread, `[m 5 c h w]`, in steps of a deviation.
        segment: analogies on the segment between the two solutions that differ most, `[s c h w]`.
        diversity: mean distance between two solutions.
        fidelity: mean reconstruction loss of the solutions, in the loss of the fit.
        direction_losses: that loss of each image of `directions`.
        segment_losses: that loss of each image of `segment`.
        distance: what `diversity` is measured in: `perceptual` (VGG features) or `pixels` (mean absolute, of [-1, 1]).
    """

    query: Float[Tensor, "1 cy hy wy"]
    solutions: Float[Tensor, "k c h w"]
    codes: Float[Tensor, "k d"]
    directions: Float[Tensor, "m 5 c h w"]
    segment: Float[Tensor, "s c h w"]
    diversity: float
    fidelity: float
    direction_losses: list[list[float]]
    segment_losses: list[float]
    distance: str

    def summary(self) -> dict[str, Any]:
        """The numbers, for JSON."""
        names = ("diversity", "distance", "fidelity", "direction_losses", "segment_losses")
        return {"solutions": len(self.solutions), **{name: getattr(self, name) for name in names}}

    def rows(self) -> list[list[Images]]:
        """The sheet: query and solutions, a row a direction, the segment; every entry `[1 c h w]`."""
        sheet = [[self.query, *self.solutions.split(1)]]
        sheet += [list(row.split(1)) for row in self.directions]
        return [*sheet, list(self.segment.split(1))]


@torch.no_grad()
def explore(
    mapping: Mapping,
    query: str | Path | ImageDomain,
    solutions: int = 8,
    directions: int = 4,
    seed: int | torch.Generator = 0,
    temperature: float = 1.0,
    features: nn.Module | None = None,
    quiet: bool = True,
) -> Exploration:
    """Walk through the solutions of one query (NAM §3.5; VAE-NAM Eq. 8 and §3.4).

    VAE-NAM: along the axes of largest sigma(y), from mu(y). NAM: along the principal directions of the codes that
    several starts found, from the best of them. In both: along the segment between the two most different solutions.

    Args:
        mapping: fitted with `vae` or `nam`; the other methods have one solution.
        query: whatever `load_domain` reads, of one image; `one_query` takes one out of many.
        solutions: k, at least 2.
        directions: m, at most; k solutions of NAM have k - 1.
        seed: of samples and starts, as in `Mapping.translate`.
        temperature: factor on their noise, and on the steps along a direction.
        features: network of the perceptual distance, images in [-1, 1] to a list of `[b c h w]`; None: pixels.
        quiet: no progress bar.

    Returns:
        An `Exploration`: images `[· c h w]` in [-1, 1] on the CPU, and their numbers; `save_exploration` writes it.

    Raises:
        UsageError: a method with one solution, more than one query, or a number out of its bounds.
    """
    domain = mapping.prepare_queries(query)
    if len(domain) != 1 or solutions < 2:
        raise UsageError(f"explore: needs one query and at least 2 solutions, found {len(domain)} and {solutions}")
    if directions < 0:
        raise UsageError(f"explore: {directions} directions; use 0 or more")
    _, found, _ = mapping.solve(domain.images, solutions, None, as_seed(seed), temperature, quiet)
    codes = torch.from_numpy(found[0]).to(mapping.device)
    y = from_numpy(domain.images, mapping.device)
    centre, axes = spread_directions(mapping, y, codes, directions)
    steps = temperature * torch.tensor(STEPS, device=codes.device)
    lines = centre + steps[None, :, None] * axes[:, None]
    near = None if features is None else place(freeze(features), mapping.device)
    distances = _distances(picture(mapping, codes), near)
    a, b = divmod(int(distances.argmax()), solutions)
    shares = torch.linspace(0, 1, solutions + 1, device=codes.device)[:, None]
    segment = (1 - shares) * codes[a] + shares * codes[b]
    upper = torch.triu_indices(solutions, solutions, 1)
    return Exploration(
        query=y.cpu(),
        solutions=picture(mapping, codes).cpu(),
        codes=codes.cpu(),
        directions=picture(mapping, lines.flatten(0, 1)).unflatten(0, lines.shape[:2]).cpu(),
        segment=picture(mapping, segment).cpu(),
        diversity=distances[upper[0], upper[1]].mean().item(),
        fidelity=losses_of(mapping, y, codes).mean().item(),
        direction_losses=[[round(v, 5) for v in losses_of(mapping, y, line).tolist()] for line in lines],
        segment_losses=[round(v, 5) for v in losses_of(mapping, y, segment).tolist()],
        distance="pixels" if features is None else "perceptual",
    )


def spread_directions(
    mapping: Mapping, y: Float[Tensor, "1 c h w"], codes: Float[Tensor, "k d"], count: int
) -> tuple[Float[Tensor, "1 d"], Float[Tensor, "m d"]]:
    """Where a walk starts, `[1 d]`, and a deviation along each direction of largest spread, `[m d]`.

    Args:
        mapping: fitted with `vae` (axes of largest sigma(y)) or `nam` (principal directions of `codes`).
        y: one query.
        codes: its solutions, `[k d]`.
        count: m, at most.

    Raises:
        UsageError: a method with one solution.
    """
    source = mapping.fitted_codes
    if isinstance(source, GaussianEncoder):
        mu, log_var = source.distribution(y)
        sigma = (log_var[0] / 2).exp()
        chosen = sigma.topk(min(count, len(sigma))).indices
        return mu, F.one_hot(chosen, len(sigma)) * sigma
    if mapping.method != "nam":
        raise UsageError(f"explore: method {mapping.method} gives one solution per query; use vae or nam")
    best = losses_of(mapping, y, codes).argmin()
    _, values, vectors = torch.linalg.svd(codes - codes.mean(0), full_matrices=False)
    deviations = values / (len(codes) - 1) ** 0.5
    count = min(count, len(codes) - 1)  # k codes less their mean lie in k - 1 dimensions
    return codes[best : best + 1], (deviations[:, None] * vectors)[:count]


def picture(mapping: Mapping, codes: Codes) -> Images:
    """The analogies of codes, `[n c h w]` in [-1, 1]."""
    generator = mapping.generator
    if not len(codes):  # of no direction
        return torch.empty(0, generator.channels, generator.image_size, generator.image_size, device=codes.device)
    with autocast(mapping.device, mapping.precision):
        return generator.picture(codes).float()


def losses_of(mapping: Mapping, y: Float[Tensor, "1 c h w"], codes: Float[Tensor, "n d"]) -> Float[Tensor, "n"]:
    """How well each code reconstructs the one query y."""
    with autocast(mapping.device, mapping.precision):
        t = mapping.mapper(mapping.generator(codes))
        return mapping.make_reconstruction()(t, y.expand(len(codes), -1, -1, -1))


def _distances(images: Images, features: nn.Module | None) -> Float[Tensor, "k k"]:
    """Distance of every pair: NAM's Eq. 4 between pictures, or their mean absolute difference."""
    loss = Reconstruction(l1, features)
    seen = [loss.targets(image[None]) for image in images]
    found = torch.zeros(len(images), len(images), device=images.device)
    for i, j in combinations(range(len(images)), 2):
        found[i, j] = found[j, i] = loss.compare(images[i : i + 1], images[j : j + 1], seen[i], seen[j])[0]
    return found


def one_query(domain: ImageDomain, position: int) -> ImageDomain:
    """The domain that holds only image number `position`.

    Raises:
        UsageError: there is no such image.
    """
    if not 0 <= position < len(domain):
        raise UsageError(f"query {position}: {domain.source} holds {len(domain)} images, counted from 0")
    return domain.subset(np.array([position]))


def save_exploration(found: Exploration, outdir: str | Path) -> None:
    """Write `explore.png`, the sheet, and `explore.json`, the numbers.

    Rows of the sheet: the query and its solutions; a row for each direction; the segment.
    """
    folder = Path(outdir)
    rows = found.rows()
    width = max(len(row) for row in rows)
    side = found.solutions.shape[-1]
    blank = torch.ones(1, 3, side, side)
    tiles = []
    for row in rows:
        scaled = [F.interpolate(x, size=(side, side), mode="nearest").expand(-1, 3, -1, -1) for x in row]
        tiles += [*scaled, *[blank] * (width - len(row))]
    sheet = make_grid(to_uint8(torch.cat(tiles)), nrow=width, padding=2, pad_value=255)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "explore.json", found.summary())  # first: the folder is known by it
        write_picture(folder / "explore.png", to_picture(sheet.numpy()))
