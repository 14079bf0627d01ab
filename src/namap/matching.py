"""Matching two sets of images without a generator (NAM sections 3.1 and 3.2), the steps that lead to NAM.

    exact      L = sum_i ||T(sum_j M_ij x_j), y_i||     M_ij >= 0, sum_j M_ij = 1, pushed to 0 and 1    (NAM Eq. 1)
    inexact    x~_i = sum_j alpha_ij x_j                the rows are free                               (NAM Eq. 2)

The norm is taken between descriptors phi (colours, edges, and VGG blocks with their pixels as in Eq. 4), and so is the
mixture: where M is 0/1, and there it ends, phi(sum_j M_ij x_j) = sum_j M_ij phi(x_j). T is linear between descriptors,
starts as the identity (in Eq. 2: as the T of Eq. 1) and is pulled towards it.
T and the weights are solved in turns, each in closed form:

    T          argmin ||(W X) T - Y||^2 + ridge ||T - I||^2            W = M or alpha, X and Y the rows phi(x), phi(y)
    M          softmax over j of (cos(T(phi(x_j)), phi(y_i)) - price_j) / temperature
    alpha      argmin ||alpha T(X) - Y||^2 + prior ||alpha||^2

The softmax minimises the bound sum_j M_ij ||T(phi(x_j)) - phi(y_i)||^2 >= ||T(sum_j M_ij phi(x_j)) - phi(y_i)||^2 plus
temperature x (-entropy of M): the barrier. It falls, and M goes to 0/1. The price of an x rises while more queries want
it than there are per x (the multiplier of sum_i M_ij <= capacity): pairs exist, so an x answers one query.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoint
from .analogies import Analogies, own_answers, refuse_foreign, remove_answers
from .data import ImageDomain, load_domain
from .data.room import MEMORY
from .descriptors import Descriptor, describe_pair
from .errors import DataError, UsageError
from .files import storage_errors
from .generators.base import freeze
from .matches import Matches, Recipe, labels, write_csv
from .networks import VGGFeatures
from .networks.vgg import Convention
from .runs import occupied
from .settings import make_settings
from .tensors import from_numpy, pick_device, pick_precision, to_uint8

BLOCKS = 4  # of VGG in a descriptor
RANKED = 10  # candidates kept in order for each query
SHARE = 0.8  # of the memory, at most, for M
LEVEL = 1.0  # an extra coordinate that centring took away; with it the free rows of Eq. 2 keep the brightness


def match(
    x: str | Path | ImageDomain,
    y: str | Path | ImageDomain,
    *,
    size: int | None = None,
    features: nn.Module | None = None,
    vgg_weights: str | Path | None = None,
    vgg_input: Convention = "torchvision",
    device: str = "auto",
    precision: str = "auto",
    batch_size: int = 256,
    quiet: bool = True,
    **settings: Any,
) -> Matches:
    """Match every query y with an image x, learning T on the way (NAM Eq. 1; Eq. 2 with `inexact=True`).

    No pairs, no labels, no training.

    Both sets should show the same things: each is described relative to its own mean and deviation.

    Args:
        x: images of X: whatever `load_domain` reads.
        y: queries; the sets may differ in number.
        size: side of the images; None: that of x.
        features: network of the perceptual loss; None: VGG-16.
        vgg_weights: a safetensors file of VGG-16; given, the loss is `perceptual` unless set.
        vgg_input: what these weights expect, `torchvision` or `caffe`.
        device: `auto`, `cpu` or `cuda[:n]`.
        precision: of the feature network: `auto`, `fp32` or `bf16`.
        batch_size: images, and rows of M, at a time; changes nothing but memory and speed.
        quiet: no progress bar.
        **settings: any field of `Recipe`.

    Returns:
        `Matches`: M or alpha `[n m]`, the best x of each query, their losses, and T.

    Raises:
        DataError: an empty set, images of less than 8 pixels a side, or more of both than M has memory for.
        UsageError: an unknown setting, or weights that are not there.

    Examples:
        >>> digits = load_domain("embedded:handwriting/test").subset(slice(0, 40))
        >>> found = match(digits, digits.subset(slice(None, None, -1)))
        >>> found.ranking[:3, 0].tolist()
        [39, 38, 37]
    """
    recipe = make_recipe(settings, vgg_weights, features)
    of_x, of_y = load_pair(x, y, size)
    where = pick_device(device)
    network = make_features(recipe, features, vgg_weights, vgg_input)
    describe = Descriptor(network, where, pick_precision(precision, where), batch_size, quiet)
    phi_x, phi_y = describe_pair(describe, of_x, of_y, recipe.rank, recipe.whitening, recipe.seed)
    return (solve_inexact if recipe.inexact else solve_exact)(phi_x, phi_y, recipe, batch_size, quiet)


def make_recipe(settings: dict[str, Any], vgg_weights: str | Path | None, features: nn.Module | None = None) -> Recipe:
    """A checked recipe; the loss is perceptual where there is a feature network, unless told otherwise."""
    given = vgg_weights is not None or features is not None
    return make_settings(Recipe, {"loss": "perceptual" if given else "pixel", **settings})


def make_features(
    recipe: Recipe, features: nn.Module | None, vgg_weights: str | Path | None, vgg_input: Convention
) -> nn.Module | None:
    """The feature network of a recipe, frozen; None for the pixel loss."""
    if recipe.loss == "pixel":
        return None
    weights = None if vgg_weights is None else Path(vgg_weights)
    return freeze(features if features is not None else VGGFeatures(weights, BLOCKS, vgg_input))


def load_pair(
    x: str | Path | ImageDomain, y: str | Path | ImageDomain, size: int | None = None
) -> tuple[ImageDomain, ImageDomain]:
    """Both sets at one size and number of channels.

    Raises:
        DataError: an empty set, images of less than 8 pixels a side, or more of both than M has memory for.
    """
    of_x = load_domain(x, size)
    of_y = load_domain(y, size or of_x.size)
    needed = 4 * len(of_x) * len(of_y)
    if needed > SHARE * MEMORY:
        raise DataError(
            f"{of_y.source}: matching {len(of_y)} queries with {len(of_x)} images keeps a weight for each pair, "
            f"{needed / 1e9:.0f} GB of memory where there are {MEMORY / 1e9:.0f}; match fewer at a time"
        )
    if of_x.size < 8:
        raise DataError(f"{of_x.source}: images of {of_x.size} pixels a side; matching needs 8 (--size)")
    channels = max(of_x.channels, of_y.channels)
    return of_x.resized(channels=channels), of_y.resized(channels=channels)


# ---- solving ----------------------------------------------------------------------------------------------------


def solve_exact(
    x: Float[Tensor, "m k"],
    y: Float[Tensor, "n k"],
    recipe: Recipe = Recipe(),
    batch_size: int = 256,
    quiet: bool = True,
) -> Matches:
    """NAM Eq. 1: T and a row-stochastic M in turns, under a barrier that pushes M to 0/1.

    Args:
        x: descriptors of X, unit rows.
        y: descriptors of the queries, unit rows.
        recipe: of the matching.
        batch_size: rows of M at a time; what is kept whole is one `[n m]` of similarities.
        quiet: no progress bar.
    """
    mapper = torch.eye(x.shape[1], device=x.device)
    price = torch.zeros(len(x), device=x.device)
    capacity = max(1.0, len(y) / len(x))
    log, losses, similarity = [], torch.zeros(()), torch.empty(len(y), len(x), device=x.device)
    temperatures = np.geomspace(recipe.warm, recipe.cold, recipe.rounds).tolist()
    temperatures[-1] = recipe.cold  # of a single round, too: that of the weights which are returned
    for temperature in tqdm(temperatures, "matching", disable=True if quiet else None):
        torch.mm(y, apply(mapper, x).T, out=similarity)
        for _ in range(0 if recipe.reuse else recipe.price_steps):
            demand = torch.stack([m.sum(0) for m in rows_of_m(similarity, price, temperature, batch_size)]).sum(0)
            price = (price + temperature * torch.log(demand / capacity + 1e-30)).clamp_min(0)
        parts = [(m @ x, m.amax(1)) for m in rows_of_m(similarity, price, temperature, batch_size)]
        mixed, largest = (torch.cat(p) for p in zip(*parts, strict=True))
        mapper = learn_mapper(mixed, y, recipe.ridge)
        losses = (apply(mapper, mixed) - y).square().sum(1)
        log.append({"temperature": temperature, "loss": losses.mean().item(), "largest": largest.mean().item()})
    similarity -= price
    ranking = rank(similarity, batch_size)
    for block in similarity.split(batch_size):
        block.copy_(torch.softmax(block / recipe.cold, 1))
    return make_matches(similarity, ranking, losses, mapper, recipe, log)


def solve_inexact(
    x: Float[Tensor, "m k"],
    y: Float[Tensor, "n k"],
    recipe: Recipe = Recipe(),
    batch_size: int = 256,
    quiet: bool = True,
) -> Matches:
    """NAM Eq. 2: T and free rows alpha in turns; arguments as in `solve_exact`.

    T starts where Eq. 1 leaves it. Free rows explain nearly anything with any T, so they teach it little: from the
    identity, the mixtures of an inverted domain stay inverted.
    """
    mapper = torch.from_numpy(solve_exact(x, y, recipe, batch_size, quiet).mapper).to(x.device)
    target = with_level(y)
    log, losses, solution = [], torch.zeros(()), x
    for _ in tqdm(range(recipe.rounds), "mixing", disable=True if quiet else None):
        basis = with_level(apply(mapper, x))
        # argmin_alpha ||alpha basis - target||^2 + prior ||alpha||^2 = target (basis' basis + prior)^-1 basis'
        solution = torch.linalg.solve(regularised(basis.T @ basis, recipe.prior), basis.T)
        mixed = target @ (solution @ x)
        mapper = learn_mapper(mixed, y, recipe.ridge)
        losses = (apply(mapper, mixed) - y).square().sum(1)
        log.append({"loss": losses.mean().item()})
    alpha = target @ solution
    return make_matches(alpha, rank(alpha, batch_size), losses, mapper, recipe, log)


def rows_of_m(
    similarity: Float[Tensor, "n m"], price: Float[Tensor, " m"], temperature: float, batch_size: int
) -> Iterator[Float[Tensor, "b m"]]:
    """M, a few rows at a time: softmax of (similarity - price) / temperature."""
    for block in similarity.split(batch_size):
        yield torch.softmax((block - price) / temperature, 1)


def apply(mapper: Float[Tensor, "k k"], phi: Float[Tensor, "b k"]) -> Float[Tensor, "b k"]:
    """T(phi), on the unit sphere like phi."""
    return F.normalize(phi @ mapper, dim=1)


def learn_mapper(mixed: Float[Tensor, "n k"], y: Float[Tensor, "n k"], ridge: float) -> Float[Tensor, "k k"]:
    """argmin_T ||mixed T - y||^2 + ridge ||T - I||^2: T starts as the identity and earns its freedom."""
    gram = mixed.T @ mixed
    return torch.eye(len(gram), device=gram.device) + torch.linalg.solve(
        regularised(gram, ridge), mixed.T @ (y - mixed)
    )


def regularised(gram: Float[Tensor, "k k"], weight: float) -> Float[Tensor, "k k"]:
    """gram + weight I, in units of the mean of its diagonal."""
    return gram + (weight * gram.diagonal().mean() + 1e-12) * torch.eye(len(gram), device=gram.device)


def with_level(phi: Float[Tensor, "b k"]) -> Float[Tensor, "b k1"]:
    """phi with one more coordinate, the same for every image."""
    return F.pad(phi, (0, 1), value=LEVEL)


def rank(weights: Float[Tensor, "n m"], batch_size: int) -> Int[Tensor, "n r"]:
    """Columns of the largest values of each row, best first."""
    best = min(RANKED, weights.shape[1])
    return torch.cat([block.topk(best, 1).indices for block in weights.split(batch_size)])


def make_matches(
    weights: Tensor, ranking: Tensor, losses: Tensor, mapper: Tensor, recipe: Recipe, log: list[dict[str, float]]
) -> Matches:
    """The result as arrays."""
    w, r, each, t = (tensor.cpu().numpy() for tensor in (weights, ranking, losses, mapper))
    return Matches(w, r, each, t, recipe, log)


def synthesise(found: Matches, x: ImageDomain, names: list[str]) -> Analogies:
    """The pictures sum_j W_ij x_j of Eq. 2 (blurred: a mixture of pictures is no picture), with W as their codes."""
    flat = from_numpy(x.images).flatten(1)
    mixed = [torch.from_numpy(w) @ flat for w in np.array_split(found.weights, max(1, len(found.weights) // 256))]
    pictures = torch.cat([to_uint8(m) for m in mixed]).view(-1, 1, *x.images.shape[1:]).numpy()
    return Analogies(pictures, found.weights[:, None], found.losses[:, None], names)


# ---- a directory of results -------------------------------------------------------------------------------------


def holds_matching(home: Path) -> bool:
    """Whether an earlier matching lies there, finished or not.

    Raises:
        UsageError: pictures, or a `matches.csv`, where no run has been.
    """
    record = home / "run.json"
    if record.exists():
        return "matching" in (checkpoint.read_json(record).get("task") or {})
    refuse_foreign(home)
    if (home / "matches.csv").exists():
        raise UsageError(f"{home}: is no run of namap, and its matches.csv would be lost; use another --outdir")
    return False


def run_matching(
    x: str | Path | ImageDomain,
    y: str | Path | ImageDomain,
    outdir: str | Path,
    *,
    size: int | None = None,
    npz: bool = False,
    features: nn.Module | None = None,
    vgg_weights: str | Path | None = None,
    vgg_input: Convention = "torchvision",
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = True,
    overwrite: bool = False,
    **settings: Any,
) -> dict[str, Any]:
    """Match into a directory: `matches.csv`, `metrics.json`, T in `final/` and, inexact, the synthesised pictures.

    Every file is whole or absent; a finished directory is left alone. Arguments as in `match`.

    Args:
        outdir: the directory.
        npz: one `analogies.npz` in place of the PNGs of an inexact matching.
        overwrite: an earlier run in `outdir` makes room, once it is known that this one can begin.

    Returns:
        What is in `metrics.json`.

    Raises:
        UsageError: `outdir` holds another matching.
    """
    recipe = make_recipe(settings, vgg_weights, features)
    of_x, of_y = load_pair(x, y, size)
    network = make_features(recipe, features, vgg_weights, vgg_input)
    home, started = Path(outdir), time.monotonic()
    listed = "\n".join([*labels(of_x), "", *labels(of_y)]).encode(errors="surrogateescape")
    names = checkpoint.digest({"names": torch.tensor(list(listed))})
    wanted = {
        "task": {"matching": asdict(recipe), "npz": npz},  # pyright: ignore[reportArgumentType]
        "data": {"x": of_x.fingerprint, "y": of_y.fingerprint, "names": names},
        "features": None if network is None else checkpoint.digest(network.state_dict()),
        "precision": None if network is None else pick_precision(precision, pick_device(device)),
    }
    again = holds_matching(home) and overwrite
    if again:
        own_answers(home)  # refused, if at all, before an earlier run makes room
    with occupied(home, wanted, overwrite) as finished:
        if finished:
            return checkpoint.load_directory(home / "final")[1]["metrics"]
        if again:
            remove_answers(home)
        replace(of_y, skipped=of_x.skipped + of_y.skipped).write_skipped(home)
        common = {"features": network, "device": device, "precision": precision, "quiet": quiet}
        found = match(of_x, of_y, **common, **asdict(recipe))  # pyright: ignore[reportArgumentType]
        with storage_errors(home):
            write_csv(found, labels(of_x), labels(of_y), home / "matches.csv")
            if recipe.inexact:
                pictures = synthesise(found, of_x, of_y.names)
                _ = pictures.save_npz(home) if npz else pictures.save_pngs(home)
            metrics = {**found.summary(), "seconds": time.monotonic() - started}
            checkpoint.write_json(home / "metrics.json", metrics)
        tensors = {"mapper": torch.from_numpy(found.mapper), "ranking": torch.from_numpy(found.ranking)}
        checkpoint.save_directory(home / "final", tensors, {"format": "namap-matching", "metrics": metrics})
    return metrics
