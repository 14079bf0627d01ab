"""A strong T from the pairs that a mapping found: fully supervised on (G(z_y), y) (NAM §3.6)."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn

from . import checkpoint
from .checkpoint import digest
from .data import ImageDomain, load_domain
from .errors import StorageError, UsageError
from .generators import freeze
from .losses import Reconstruction, l1
from .mapping import Mapping
from .networks import PaperMapper
from .runs import occupied
from .settings import MAX_SEED, make_settings
from .tensors import Images, autocast, from_numpy, pick_device, pick_precision, place
from .training import Batch, Run, Task, Update, identity, train


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MapperRecipe:
    """How a strong T is trained.

    Attributes:
        images: pairs to see in all.
        batch_size: pairs of one step.
        seed: of the weights, the order and what is held out.
        filters: F of the CRN: 4F, 3F, 2F, F filters at its scales.
        skip: T adds G(z) to the CRN's output.
        rate: Adam's learning rate.
        held_out: share of the queries that are kept back to compare the two mappers on.
    """

    images: int = Field(default=128_000, ge=1)
    batch_size: int = Field(default=64, ge=2)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    filters: int = Field(default=48, ge=1, le=512)
    skip: bool = True
    rate: float = Field(default=1e-3, gt=0)
    held_out: float = Field(default=0.1, gt=0, lt=1)


class StrongMapper(nn.Module):
    """T: X → Y, a larger CRN; `mapper(x)` maps `[b c h w]` in [-1, 1].

    Args:
        in_channels: of X images.
        out_channels: of Y images.
        filters: F.
        skip: see `MapperRecipe`.
    """

    def __init__(self, in_channels: int, out_channels: int, filters: int, skip: bool):
        super().__init__()
        self.trained_for: str | None = None  # digest of the mapping's weights, where it is known
        self.config = {"in_channels": in_channels, "out_channels": out_channels, "filters": filters, "skip": skip}
        self.net = PaperMapper(in_channels, out_channels, filters, skip)

    def forward(self, x: Images) -> Images:
        """Map X images to Y images."""
        return self.net(x)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "StrongMapper":
        """Load what `train_mapper` saved in `path`, frozen.

        Raises:
            UsageError: nothing there, or something else.
            StorageError: damaged files.
        """
        source, tensors, config = checkpoint.open_model(path, "mapper")
        limits = {"in_channels": 3, "out_channels": 3, "filters": 512, "skip": 1}
        values = config.get("mapper")
        if not isinstance(values, dict) or values.keys() != limits.keys():
            raise StorageError(f"{source}: mapper configuration {values} is not one that namap writes")
        if any(not isinstance(v, int) or not 0 <= v <= limits[k] for k, v in values.items()):
            raise StorageError(f"{source}: mapper configuration {values} is out of bounds")
        with torch.device("meta"):
            mapper = cls(**values)
        checkpoint.load_weights(mapper, tensors, source)
        mapper.trained_for = config.get("trained_for")
        return freeze(mapper)


class MapperTask(Task):
    """||T(G(z_y)) - y||_1, and the perceptual terms of Eq. 4 where there is a feature network."""

    x: UInt8[np.ndarray, "n c h w"]  # analogies of the queries, once these are translated

    def __init__(self, mapper: StrongMapper, mapping: Mapping, reconstruction: Reconstruction, recipe: MapperRecipe):
        self.mapper, self.reconstruction = mapper, reconstruction
        self.modules = {"mapper": mapper}
        self.optimizers = {"mapper": torch.optim.Adam(mapper.parameters(), recipe.rate, fused=True)}
        self.config = {
            "recipe": asdict(recipe),
            "mapping": mapping.identity,
            "perceptual": reconstruction.features is not None and digest(reconstruction.features.state_dict()),
        }

    def updates(self, batch: Batch) -> Iterator[Update]:
        """One step."""
        x = from_numpy(self.x[batch.index.cpu().numpy()], batch.images.device)
        loss = self.reconstruction(self.mapper(x), batch.images)
        yield Update(("mapper",), loss, {"loss": loss})

    def pictures(self) -> list[torch.Tensor]:
        """Analogies, and T of them."""
        x = from_numpy(self.x[:12], next(self.mapper.parameters()).device)
        return [x, self.mapper(x)]


def train_mapper(
    mapping: Mapping,
    data: str | Path | ImageDomain,
    outdir: str | Path | None = None,
    features: nn.Module | None = None,
    quiet: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> tuple[StrongMapper, dict[str, float]]:
    """Train a strong T on the queries of a fitted mapping and their analogies (NAM §3.6, Generating Results).

        argmin_T  sum_y ||T(G(z_y)), y||        with z_y as the mapping found it, fixed; norms as in NAM Eq. 4

    Args:
        mapping: fitted; it finds the analogies.
        data: queries: whatever `load_domain` reads.
        outdir: where checkpoints, `metrics.json` and the result go; the same call goes on, or loads the result.
        features: network of the perceptual terms; None: L1 of pixels only.
        quiet: no progress bar.
        overwrite: an earlier run in `outdir` makes room, once it is known that this one can begin.
        **settings: fields of `MapperRecipe`.

    Returns:
        T, and the mean absolute error (of 255) of both mappers on held-out pairs, as X → Y of their analogies.

    Raises:
        DataError: no usable images.
        DivergedError: the loss became NaN and stayed so.
        UsageError: an unknown setting, too few queries, a mapping with warp, or `outdir` holds another run.
    """
    recipe = make_settings(MapperRecipe, settings, "train-mapper")
    if mapping.recipe.warp:
        raise UsageError("train-mapper: under warp an analogy stands elsewhere than its query; T would learn both")
    domain = load_domain(data, mapping.image_size, mapping.channels)
    count = round(recipe.held_out * len(domain))
    if not 1 <= count < len(domain):
        raise UsageError(f"train-mapper: {len(domain)} queries are too few to hold {recipe.held_out:.0%} back")
    order = np.random.default_rng(recipe.seed).permutation(len(domain))
    queries = [domain.subset(np.sort(part)) for part in (order[:count], order[count:])]
    held, learnt = (mapping.prepare_queries(part) for part in queries)  # as T is to draw them
    device = pick_device(str(mapping.device))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        mapper = StrongMapper(mapping.generator.channels, mapping.channels, recipe.filters, recipe.skip)
    mapper.trained_for = mapping.identity["weights"]
    place(mapper, device)
    reconstruction = place(Reconstruction(l1, None if features is None else freeze(features)), device)
    task = MapperTask(mapper, mapping, reconstruction, recipe)
    run = Run(
        recipe.images,
        recipe.batch_size,
        recipe.seed,
        str(device),
        mapping.precision,
        quiet=quiet,
        label="training a strong mapper",
    )
    home = None if outdir is None else Path(outdir)
    with occupied(home, identity(task, learnt, run), overwrite) as finished:
        if finished and home is not None:
            return place(StrongMapper.from_pretrained(home), device), checkpoint.read_json(home / "metrics.json")
        x_held, task.x = (mapping.translate(part, quiet=quiet).x[:, 0] for part in queries)
        train(task, learnt, run, home)
        freeze(mapper)
        errors = compare_mappers(mapping, mapper, x_held, held)
        if home is not None:
            checkpoint.write_json(home / "metrics.json", errors)
            config = {"format": "namap-mapper", "version": 1, "mapper": mapper.config}
            config["trained_for"] = mapper.trained_for
            checkpoint.save_directory(home / "final", mapper.state_dict(), config)
    return mapper, errors


@torch.no_grad()
def compare_mappers(
    mapping: Mapping, strong: nn.Module, x: UInt8[np.ndarray, "n c h w"], queries: ImageDomain
) -> dict[str, float]:
    """Mean absolute error (of 255) of X → Y on held-out pairs: small T, small T in each query's colours, strong T.

    They differ under the appearance-invariant loss only, whose T is painted in the colours of x or of the very query.
    """
    totals = {"small": 0.0, "small_in_colours_of_query": 0.0, "strong": 0.0}
    precision = pick_precision(mapping.precision, mapping.device)
    for start in range(0, len(queries), 256):
        y = from_numpy(queries.images[start : start + 256], mapping.device)
        analogies = from_numpy(x[start : start + 256], mapping.device)
        with autocast(mapping.device, precision):
            answer = strong(analogies).float()
        found = {
            "small": mapping.map_forward(analogies),
            "small_in_colours_of_query": mapping.map_forward(analogies, like=y),
            "strong": answer,
        }
        for name, t in found.items():
            totals[name] += 127.5 * (t.clamp(-1, 1) - y).abs().flatten(1).mean(1).sum().item()
    return {name: total / len(queries) for name, total in totals.items()}
