"""The one training step that NAM, AE-NAM and VAE-NAM share.

loss = reconstruction(T(G(z)), y) + beta * KL(q(z|y) || N(0, I)), and after a vote, dissent(G(z), y).
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor, nn

from .checkpoint import digest
from .codes import CodeSource, make_codes
from .data import ImageDomain
from .data.coverage import compare_coverage
from .data.feeding import ImageStream, open_stream
from .data.shards import is_stream
from .errors import UsageError, warn
from .generators import Generator, WrappedGenerator, device_of, freeze, remember_generator, sample
from .kinds import Dissent, KindNetwork
from .losses import (
    Reconstruction,
    appearance_invariant,
    fit_appearance,
    gram,
    l1,
    l2,
    nothing,
    paint,
    share_of_copies,
)
from .networks import CodeTable, EarnedMapper, PaperMapper, VGGFeatures
from .networks.crn import match_channels
from .networks.vgg import Convention
from .recipes import Recipe
from .tensors import Codes, Images, XImages, autocast, from_numpy, place, random_stream
from .training import Batch, Run, Task, Update

INFORMATIVE_NATS = 0.01  # a dimension of the code with less KL than this says nothing about its query
MIN_DIVERSITY = 0.1  # of that of the generator's samples
MAX_COPIES = 0.5  # share of a batch whose analogies are nearly the same image
NEAR = 0.1  # two images are: they differ by less than this share of the diversity of the generator's samples
SAMPLES_OF_G = "samples of the generator"  # images of X that follow from G and the recipe, to the last bit or not
SHOWN = 12  # queries in the pictures of a fit


def take_generator(generator: nn.Module, device: torch.device) -> Generator:
    """G on a device, frozen.

    Raises:
        UsageError: no `Generator`, or a module that stays on another device.
    """
    if not isinstance(generator, Generator):
        raise UsageError(
            f"{type(generator).__name__} is not a namap generator; use wrap_generator(module, latent_dim=…)"
        )
    home = device_of(generator)
    freeze(generator).to(device)
    if isinstance(generator, WrappedGenerator) and home not in (None, device):
        generator.check(device)  # what its forward makes or keeps beside its weights may not have moved
    return generator


def check_side(size: int) -> None:
    """See that T can work on images of this side.

    Raises:
        UsageError: it cannot.
    """
    if size % 8 or size < 16:
        raise UsageError(
            f"the generator's images have {size} pixels a side; T needs a multiple of 8, 16 or more: pad or resize "
            "them in a module around it, or give warp and a query_size (--warp --query-size)"
        )


def make_mapper(recipe: Recipe, x_channels: int, y_channels: int) -> nn.Module:
    """T, untrained: one channel under the appearance-invariant loss, which supplies the colours itself."""
    outputs = 1 if recipe.loss == "appearance" else y_channels
    if recipe.mapper == "earned":
        return EarnedMapper(x_channels, outputs, recipe.filters)
    return PaperMapper(x_channels, outputs, recipe.filters, recipe.skip)


def make_networks(recipe: Recipe, generator: Generator, channels: int, count: int) -> tuple[nn.Module, CodeSource]:
    """T and the source of codes, untrained, for `count` queries of `channels` channels."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        mapper = make_mapper(recipe, generator.channels, channels)
        return mapper, make_codes(recipe, channels, generator.image_size, generator.latent_dim, count)


def make_run(recipe: Recipe, generator: Generator, device: torch.device, precision: str, quiet: bool) -> Run:
    """How a recipe is run; its result takes the generator's weights along, and what tells the kinds of a vote."""
    kept = sum(t.nbytes for t in remember_generator(generator)[1].values())
    if recipe.kinds:
        with torch.device("meta"):
            network = KindNetwork(generator.channels, generator.image_size, recipe.kinds)
        kept += sum(t.nbytes for t in network.state_dict().values())
    how = (recipe.images, recipe.batch_size, recipe.seed, str(device), precision)
    return Run(*how, result_bytes=kept, quiet=quiet, label=f"fitting {recipe.method}")


def make_optimizers(mapper: nn.Module, codes: CodeSource, recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    """Adam for T (what is freed late learns at its own rate) and E; row-wise Adam for a table of codes.

    A dense Adam would move the rows that are absent from a batch: their moments only decay. The row-wise one is lazy:
    it counts steps for all rows together, so that a row which one batch in r has starts more carefully than
    `code_rate` says and, until it has been seen some hundred times, takes up to sqrt(r) times that.
    """
    groups = [{"params": list(mapper.parameters())}]
    if isinstance(mapper, EarnedMapper):
        groups = [
            {"params": list(mapper.local.parameters())},
            {"params": list(mapper.crn.parameters()), "lr": recipe.free_rate},
        ]
    if isinstance(codes, CodeTable):
        table = torch.optim.SparseAdam(list(codes.parameters()), recipe.code_rate)
        return {"networks": torch.optim.Adam(groups, recipe.rate, fused=True), "codes": table}
    groups += [{"params": list(codes.parameters())}]
    return {"networks": torch.optim.Adam(groups, recipe.rate, fused=True)}


def make_reconstruction(recipe: Recipe, features: nn.Module | None) -> Reconstruction:
    """The loss of a recipe; `features` is the network of a perceptual one."""
    pixel = {"appearance": appearance_invariant, "l1": l1, "l2": l2, "perceptual": l1, "gram": nothing}[recipe.loss]
    return Reconstruction(pixel, features, gram if recipe.loss == "gram" else None)


def place_reconstruction(
    recipe: Recipe, features: nn.Module | None, vgg: tuple[Path | None, Convention], device: torch.device
) -> Reconstruction:
    """The loss of a recipe on a device; without a network of its own, a perceptual one takes VGG-16's `vgg` weights."""
    if recipe.loss not in ("perceptual", "gram"):
        features = None
    elif features is None:
        features = VGGFeatures(vgg[0], recipe.blocks, vgg[1])
    return place(make_reconstruction(recipe, features), device)


def features_digest(reconstruction: Reconstruction) -> str | None:
    """What the weights of the perceptual loss's network are; None without one."""
    return None if reconstruction.features is None else digest(reconstruction.features.state_dict())


def draw_queries(domain: ImageDomain, recipe: Recipe) -> ImageDomain:
    """The queries that a fit learns: all, or `queries` of them, drawn by the seed; row i of NAM's table is image i."""
    if not recipe.queries or recipe.queries >= len(domain):
        return domain
    order = np.random.default_rng(recipe.seed).permutation(len(domain))
    return domain.subset(np.sort(order[: recipe.queries]))


def stream_queries(source: Any, recipe: Recipe, size: int, channels: int | None) -> ImageStream | None:
    """Queries that are read from shards as a fit goes on; None where the source is none of shards.

    Raises:
        DataError: no pictures in them.
        UsageError: a method or a setting that needs all queries at hand.
    """
    if not is_stream(source):
        return None
    if recipe.method == "nam":
        raise UsageError(f"{source}: nam learns a code for each query, which it must know; a stream takes ae, vae, wae")
    if recipe.queries:
        raise UsageError(f"{source}: setting queries={recipe.queries}: a stream is taken whole; write fewer shards")
    return open_stream(str(source), size, channels, recipe.query_scale)


class MappingTask(Task):
    """The one training step that the three methods share.

    Args:
        generator: G.
        mapper: T.
        codes: where z comes from.
        targets: phi(y) of the queries.
        recipe: of the whole fit.
        x: images of X whose kinds the queries vote on; None: no vote.
        span: the part of the fit that this is, as shares of it; None: all of it, or what follows the vote.

    Attributes:
        dissent: how much analogies disagree with the vote; None: none was held.
    """

    divisible = True

    def __init__(
        self,
        generator: Generator,
        mapper: nn.Module,
        codes: CodeSource,
        targets: "FeatureCache",
        recipe: Recipe,
        x: ImageDomain | None = None,
        span: tuple[float, float] | None = None,
    ):
        self.x, self.span = x, span or (0.0 if x is None else recipe.vote_at, 1.0)
        self.dissent: Dissent | None = None
        self.generator, self.mapper, self.codes = generator, mapper, codes
        self.reconstruction, self.targets, self.recipe = targets.reconstruction, targets, recipe
        self.modules = {"mapper": mapper, "codes": codes}
        self.optimizers = make_optimizers(mapper, codes, recipe)
        self.prior_diversity = prior_diversity(generator, next(mapper.parameters()).device)
        self.config = {
            "recipe": asdict(recipe),
            "generator": generator.identity,
            "features": features_digest(self.reconstruction),
            **({} if x is None else {"x": x.source if x.source == SAMPLES_OF_G else x.fingerprint}),
        }

    def before_vote(self) -> "MappingTask":
        """The part of the fit that comes before this one: the same networks and targets, and optimizers of its own."""
        start = (0.0, self.recipe.vote_at)
        return MappingTask(self.generator, self.mapper, self.codes, self.targets, self.recipe, self.x, start)

    def updates(self, batch: Batch) -> Iterator[Update]:
        """reconstruction(T(G(z)), y) + beta KL, for whatever source gives z."""
        recipe, mapper = self.recipe, self.mapper
        progress = self.span[0] + batch.progress * (self.span[1] - self.span[0])
        if isinstance(mapper, EarnedMapper):
            mapper.free = progress >= recipe.freedom
        beta = recipe.beta * (1 if progress >= recipe.warmup else 1e-3)
        z, kl = self.codes(batch.index, batch.images, batch.rng)
        x = self.generator(z)
        reconstruction = self.reconstruction(mapper(x), batch.images, self.targets(batch))
        logs = {"reconstruction": reconstruction, "kl": kl.sum(1), **health(z, kl, x, NEAR * self.prior_diversity)}
        loss = reconstruction + beta * kl.sum(1)
        if self.dissent is not None:
            logs["dissent"] = self.dissent(batch.index, x)
            loss = loss + recipe.vote_weight * logs["dissent"]
        yield Update(tuple(self.optimizers), loss, logs)

    def concern(self, row: dict[str, float]) -> str:
        """Collapse of the codes or of the analogies, in a logged row."""
        if self.recipe.method == "vae" and row["informative_dimensions"] == 0:
            return "posterior collapse: no dimension of the code carries information; lower beta or raise warmup"
        if len(self.targets.domain.head) < 2:
            return ""  # nothing to differ from
        if row["diversity"] < MIN_DIVERSITY * self.prior_diversity:
            return (
                f"the analogies of different queries hardly differ ({row['diversity']:.3f} per pixel, samples of the "
                f"generator {self.prior_diversity:.3f}): the codes have collapsed; lower beta or the rate"
            )
        if row["copies"] > MAX_COPIES:
            return (
                f"{row['copies']:.0%} of the analogies of different queries are copies of one image: "
                "the codes have collapsed; lower beta or the rate"
            )
        return ""

    def pictures(self) -> list[Tensor]:
        """Queries, their analogies of this moment, and T(G(z))."""
        return show_fit(self.targets.domain.head, self.codes, self.generator, self.mapper, self.recipe)


def show_fit(
    domain: ImageDomain, codes: CodeSource, generator: Generator, mapper: nn.Module, recipe: Recipe
) -> list[Tensor]:
    """Queries from all over their set, their analogies, and T(G(z)), in the colours of the query where T has none."""
    device = next(mapper.parameters()).device
    index = torch.linspace(0, len(domain) - 1, min(SHOWN, len(domain))).long()
    y = from_numpy(domain.images[index.numpy()], device)
    z = codes_of(codes, index.to(device), y)
    t = mapper(generator(z)).float()
    if recipe.loss == "appearance":
        t = paint(t, *fit_appearance(t, y))
    return [y, generator.picture(z), t]


def codes_of(codes: CodeSource, index: Int[Tensor, " b"], y: Images) -> Codes:
    """The codes of queries of the fit, without noise: rows of the table, or what E says."""
    if isinstance(codes, CodeTable):
        return codes.rows(index)
    return codes.starts(y, torch.zeros(1, codes.latent_dim, device=y.device))[:, 0]


def map_x(mapper: nn.Module, x: XImages, channels: int, recipe: Recipe, like: Images | None = None) -> Images:
    """T(x) as an image of Y, `[b channels h w]` in [-1, 1]; a T without colours takes those of `like`, or of x."""
    t = mapper(x).float()
    if recipe.loss == "appearance":
        t = paint(t, *fit_appearance(t, match_channels(x.float(), channels) if like is None else like))
    return t.expand(-1, channels, -1, -1).clamp(-1, 1)


def warn_of_coverage(x: UInt8[np.ndarray, "n c h w"], domain: ImageDomain | ImageStream) -> None:
    """Say it in one line where the queries' content is grossly larger, smaller or fuller than that of samples x."""
    warning = compare_coverage(x, domain.head.images)
    if warning:
        warn(warning)


@torch.no_grad()
def prior_diversity(generator: Generator, device: torch.device) -> float:
    """How much samples of the generator differ: their deviation per pixel."""
    return sample(generator, 64, random_stream(0, device=device)).std(0).mean().item()


def health(z: Codes, kl: Codes, x: XImages, near: float) -> dict[str, Tensor]:
    """What tells a collapse, of one batch: KL of each dimension, spread of codes, diversity and copies of images."""
    return {
        "kl_of_dimensions": kl.detach(),
        "informative_dimensions": (kl.detach().mean(0) > INFORMATIVE_NATS).sum(),
        "code_spread": z.detach().std(0).mean(),
        "diversity": x.detach().float().std(0).mean(),
        "copies": share_of_copies(x, near),
    }


class FeatureCache:
    """phi(y) of every query in bfloat16, computed once; `None` where it would not fit the budget.

    Args:
        reconstruction: whose targets are cached.
        domain: the queries.
        budget_gb: gibibytes that the cache may take.
        device: of the networks.
        precision: of the networks.
    """

    def __init__(
        self,
        reconstruction: Reconstruction,
        domain: ImageDomain | ImageStream,
        budget_gb: float,
        device: torch.device,
        precision: str,
    ):
        self.reconstruction, self.domain, self.budget_gb = reconstruction, domain, budget_gb
        self.device, self.precision = device, precision

    def __call__(self, batch: Batch) -> list[Tensor] | None:
        """The cached phi(y) of a batch, or None: the loss computes them."""
        return [row[batch.index] for row in self.rows] or None

    @cached_property
    def rows(self) -> list[Tensor]:
        """phi(y) of all queries, a tensor a block; empty without a feature network or where it would not fit."""
        if self.reconstruction.features is None or isinstance(self.domain, ImageStream):
            return []
        rows: list[Tensor] = []
        for start in range(0, len(self.domain), 64):
            with autocast(self.device, self.precision):
                part = self.reconstruction.targets(from_numpy(self.domain.images[start : start + 64], self.device))
            if not rows:
                if sum(2 * p[0].numel() for p in part) * len(self.domain) > self.budget_gb * 2**30:
                    return []
                rows = [_table_like(p, len(self.domain)) for p in part]
            for row, p in zip(rows, part, strict=True):
                row[start : start + 64] = p
        return rows


def _table_like(rows: Tensor, count: int) -> Tensor:
    """Room for `count` rows of this kind in bfloat16, in the layout of the networks."""
    layout = torch.channels_last if rows.ndim == 4 else torch.contiguous_format
    shape = (count, *rows.shape[1:])
    return torch.empty(shape, dtype=torch.bfloat16, device=rows.device, memory_format=layout)
