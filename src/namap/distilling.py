"""An encoder from a NAM: what its table says of the training queries, learnt as one pass for any query."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from . import checkpoint
from .codes import PointEncoder, QueryTable
from .data import ImageDomain
from .errors import UsageError, warn
from .fitting import NEAR, FeatureCache, draw_queries, health, prior_diversity, show_fit
from .generators import Generator
from .losses import Reconstruction
from .mapping import AENAM, NAM, Mapping
from .recipes import make_recipe
from .runs import occupied
from .settings import MAX_SEED, make_settings
from .solving import CodeSearch
from .tensors import Codes, autocast, from_numpy, place
from .training import Batch, Run, Task, Update, identity, train

DRAWS = 8  # codes from the prior that make a query's chance loss


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DistilRecipe:
    """How an encoder is distilled.

    Attributes:
        images: queries to see in all.
        batch_size: queries of one step.
        seed: of the encoder, the order and what is held out.
        width: channels of the encoder's first convolution (0: 32 for 32 pixels, 64 above).
        rate: Adam's learning rate.
        codes: weight of the distance to the table's codes; it fades out over the first half of the run.
        held_out: share of the queries that is kept back, to say how the encoder does on queries it has not seen.
    """

    images: int = Field(default=128_000, ge=1)
    batch_size: int = Field(default=64, ge=2)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    width: int = Field(default=0, ge=0, le=2048)
    rate: float = Field(default=1e-3, gt=0)
    codes: float = Field(default=1.0, ge=0)
    held_out: float = Field(default=0.1, gt=0, lt=1)


class DistilTask(Task):
    """reconstruction(T(G(E(y))), y) + codes * ||E(y) - z_y||^2 / d, with T, G and the table's z_y fixed.

    The table says where to look: a NAM has aligned the domains there, which E alone would have to find anew. The
    reconstruction says what matters of a code, and is all that is left in the end: two codes of one image may differ.
    """

    def __init__(
        self, mapping: NAM, encoder: PointEncoder, z: Codes, loss: Reconstruction, cache: FeatureCache, recipe
    ):
        self.generator: Generator = mapping.generator
        self.mapper, self.encoder, self.z = mapping.mapper, encoder, z
        self.reconstruction, self.targets, self.weight = loss, cache, recipe.codes
        self.fitted = mapping.recipe
        self.near = NEAR * prior_diversity(mapping.generator, mapping.device)
        self.modules = {"encoder": encoder}
        self.optimizers = {"encoder": torch.optim.Adam(encoder.parameters(), recipe.rate, fused=True)}
        self.config = {
            "recipe": asdict(recipe),
            "generator": mapping.generator.identity,
            "mapper": checkpoint.digest(mapping.mapper.state_dict()),
            "codes": checkpoint.digest({"z": z}),
        }

    def updates(self, batch: Batch) -> Iterator[Update]:
        """One step."""
        z, kl = self.encoder(batch.index, batch.images, batch.rng)
        x = self.generator(z)
        reconstruction = self.reconstruction(self.mapper(x), batch.images, self.targets(batch))
        distance = (z - self.z[batch.index]).square().mean(1)
        weight = self.weight * max(0.0, 1 - 2 * batch.progress)
        logs = {"reconstruction": reconstruction, "distance": distance, **health(z, kl, x, self.near)}
        yield Update(("encoder",), reconstruction + weight * distance, logs)

    def pictures(self) -> list[Tensor]:
        """Queries, their analogies of this moment, and T(G(z))."""
        return show_fit(self.targets.domain.head, self.encoder, self.generator, self.mapper, self.fitted)


def distil(
    mapping: Mapping,
    data: str | Path | ImageDomain,
    outdir: str | Path | None = None,
    quiet: bool = False,
    overwrite: bool = False,
    **settings: Any,
) -> tuple[AENAM, dict[str, float]]:
    """Make an AE-NAM of a NAM: the same G and T, and an encoder in place of the table of codes.

    Args:
        mapping: a fitted NAM.
        data: the queries of its fit, all of them: the ones it learnt are drawn again, by its seed.
        outdir: where checkpoints, `metrics.json` and the result (`final/`) go; the same call goes on, or loads it.
        quiet: no progress bar.
        overwrite: an earlier run in `outdir` makes room, once it is known that this one can begin.
        **settings: fields of `DistilRecipe`.

    Returns:
        The AE-NAM, and mean losses on the queries that were held out: `encoder` (one pass), `table` (the codes that NAM
        learnt for them, which had seen them) and `chance` (codes from the prior).

    Raises:
        UsageError: not a NAM, other queries than those of the fit, or an unknown setting.
    """
    recipe = make_settings(DistilRecipe, settings, "distil")
    if not isinstance(mapping, NAM):
        raise UsageError(f"distil: a {type(mapping).__name__} has an encoder already; distil is for NAM")
    domain = fitted_queries(mapping, data)
    order = np.random.default_rng(recipe.seed).permutation(len(domain))
    count = round(recipe.held_out * len(domain))
    if not 1 <= count < len(domain):
        raise UsageError(f"distil: {len(domain)} queries are too few to hold {recipe.held_out:.0%} back")
    held, kept = np.sort(order[:count]), np.sort(order[count:])
    table, learnt = table_of(mapping).table.weight.detach(), domain.subset(kept)
    result, encoder = student(mapping, recipe)
    loss = mapping.make_reconstruction()
    cache = FeatureCache(loss, learnt, mapping.recipe.feature_cache_gb, mapping.device, mapping.precision)
    task = DistilTask(mapping, encoder, table[torch.from_numpy(kept)], loss, cache, recipe)
    how = (str(mapping.device), mapping.precision)
    run = Run(recipe.images, recipe.batch_size, recipe.seed, *how, quiet=quiet, label="distilling an encoder")
    home = None if outdir is None else Path(outdir)
    with occupied(home, identity(task, learnt, run), overwrite) as finished:
        if finished and home is not None:
            result.restore(checkpoint.load_directory(home / "final")[0], home / "final")
            return result, checkpoint.read_json(home / "metrics.json")
        train(task, learnt, run, home)
        result.eval()
        losses = compare(mapping, result, domain.subset(held), table[torch.from_numpy(held)], recipe.seed)
        if home is not None:
            checkpoint.write_json(home / "metrics.json", losses)
            result.save_pretrained(home / "final")
    return result, losses


def fitted_queries(mapping: NAM, data: str | Path | ImageDomain) -> ImageDomain:
    """The queries whose codes the table holds, in its order.

    Raises:
        UsageError: `data` is not what the mapping was fitted to.
    """
    domain = draw_queries(mapping.prepare_queries(data), mapping.recipe)
    rows = table_of(mapping).table.num_embeddings
    name = data.source if isinstance(data, ImageDomain) else data
    if len(domain) != rows:
        raise UsageError(f"distil {name}: gives {len(domain)} queries, the fit had {rows}; give the data of the fit")
    if mapping.data is None:
        warn("this NAM was saved without the fingerprint of its queries: whether these are the ones cannot be checked")
    elif domain.fingerprint != mapping.data:
        raise UsageError(
            f"distil {name}: not the queries of the fit (fingerprint {domain.fingerprint}, expected {mapping.data}); "
            "give the same --data, unchanged"
        )
    return domain


def table_of(mapping: NAM) -> QueryTable:
    """The codes that a NAM learnt."""
    codes = mapping.fitted_codes
    assert isinstance(codes, QueryTable)
    return codes


def student(mapping: NAM, recipe: DistilRecipe) -> tuple[AENAM, PointEncoder]:
    """An AE-NAM with the G and T of a NAM, and its encoder, which has learnt nothing."""
    own = mapping.generator.inner if mapping.recipe.warp else mapping.generator
    width = recipe.width or (32 if mapping.image_size <= 32 else 64)
    values = {**asdict(mapping.recipe), "method": "ae", "encoder_width": width}
    options = {"features": mapping.features, "device": str(mapping.device), "precision": mapping.precision}
    result = AENAM(own, **options, **asdict(make_recipe(values)))  # pyright: ignore[reportArgumentType]
    result.channels, result.data, result.vgg = mapping.channels, mapping.data, mapping.vgg
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        encoder = PointEncoder(mapping.channels, mapping.image_size, mapping.latent_dim, width)
    result.mapper, result.codes = mapping.mapper, place(encoder, result.device)
    result.kinds = mapping.kinds
    return result, encoder


def compare(mapping: NAM, result: AENAM, queries: ImageDomain, z: Codes, seed: int) -> dict[str, float]:
    """Mean losses of queries: with the encoder's codes in one pass, with `z`, and with codes from the prior."""
    totals = {"encoder": 0.0, "table": 0.0, "chance": 0.0}
    networks = (mapping.generator, mapping.mapper, mapping.make_reconstruction())
    for start in range(0, len(queries), 128):
        images = queries.images[start : start + 128]
        totals["encoder"] += result.solve(images)[2].sum()
        totals["chance"] += mapping.solve(images, DRAWS, refine=0, seed=seed)[2].mean(1).sum()
        with autocast(mapping.device, mapping.precision):
            known = z[start : start + 128, None]
            search = CodeSearch(*networks, from_numpy(images, mapping.device), known, 0)
            totals["table"] += search.result()[1].sum().item()
    return {name: float(total / len(queries)) for name, total in totals.items()}
