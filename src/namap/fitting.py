"""The one training step that NAM, AE-NAM and VAE-NAM share.

loss = reconstruction(T(G(z)), y) + beta * KL(q(z|y) || N(0, I))
"""

from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .checkpoint import digest
from .codes import CodeSource
from .data import ImageDomain
from .errors import UsageError
from .generators import Generator, WrappedGenerator, device_of, freeze, sample
from .losses import Reconstruction, appearance_invariant, gram, l1, l2, nothing
from .networks import CodeTable, EarnedMapper, PaperMapper, VGGFeatures
from .networks.vgg import Convention
from .recipes import Recipe
from .tensors import Codes, XImages, autocast, from_numpy, place, random_stream
from .training import Batch, Update, late_decay

INFORMATIVE_NATS = 0.01  # a dimension of the code with less KL than this says nothing about its query
MIN_DIVERSITY = 0.1  # of that of the generator's samples


def take_generator(generator: nn.Module, device: torch.device) -> Generator:
    """G on a device, frozen, once it is known that T can follow it.

    Raises:
        UsageError: no `Generator`, images of a side that T cannot work on, or a module that stays on another device.
    """
    if not isinstance(generator, Generator):
        raise UsageError(
            f"{type(generator).__name__} is not a namap generator; use wrap_generator(module, latent_dim=…)"
        )
    if generator.image_size % 8 or generator.image_size < 16:
        raise UsageError(
            f"the generator's images have {generator.image_size} pixels a side; T needs a multiple of 8, "
            "16 or more: pad or resize them in a module around it"
        )
    home = device_of(generator)
    freeze(generator).to(device)
    if isinstance(generator, WrappedGenerator) and home not in (None, device):
        generator.check(device)  # what its forward makes or keeps beside its weights may not have moved
    return generator


def make_mapper(recipe: Recipe, x_channels: int, y_channels: int) -> nn.Module:
    """T, untrained: one channel under the appearance-invariant loss, which supplies the colours itself."""
    outputs = 1 if recipe.loss == "appearance" else y_channels
    if recipe.mapper == "earned":
        return EarnedMapper(x_channels, outputs, recipe.filters)
    return PaperMapper(x_channels, outputs, recipe.filters, recipe.skip)


def make_optimizers(mapper: nn.Module, codes: CodeSource, recipe: Recipe) -> dict[str, torch.optim.Optimizer]:
    """Adam for T (what is freed late learns at its own rate) and E; row-wise Adam for a table of codes.

    A dense Adam would move the rows that are absent from a batch: their moments only decay.
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


class MappingTask:
    """The one training step that the three methods share."""

    def __init__(
        self,
        generator: Generator,
        mapper: nn.Module,
        codes: CodeSource,
        reconstruction: Reconstruction,
        targets: "FeatureCache",
        optimizers: dict[str, torch.optim.Optimizer],
        recipe: Recipe,
    ):
        self.generator, self.mapper, self.codes = generator, mapper, codes
        self.reconstruction, self.targets, self.recipe = reconstruction, targets, recipe
        self.modules: dict[str, nn.Module] = {"mapper": mapper, "codes": codes}
        self.optimizers = optimizers
        with torch.no_grad():
            samples = sample(generator, 64, random_stream(0, device=next(mapper.parameters()).device))
        self.prior_diversity = samples.std(0).mean().item()
        self.config: dict[str, Any] = {
            "recipe": asdict(recipe),
            "generator": generator.identity,
            "features": features_digest(reconstruction),
        }
        self.learning_rate = late_decay

    def updates(self, batch: Batch) -> Iterator[Update]:
        """reconstruction(T(G(z)), y) + beta KL, for whatever source gives z."""
        recipe, mapper = self.recipe, self.mapper
        if isinstance(mapper, EarnedMapper):
            mapper.free = batch.progress >= recipe.freedom
        beta = recipe.beta * (1 if batch.progress >= recipe.warmup else 1e-3)
        z, kl = self.codes(batch.index, batch.images, batch.rng)
        x = self.generator(z)
        reconstruction = self.reconstruction(mapper(x), batch.images, self.targets(batch))
        logs = {"reconstruction": reconstruction, "kl": kl.sum(1), **health(z, kl, x)}
        yield Update(tuple(self.optimizers), reconstruction + beta * kl.sum(1), logs)

    def concern(self, row: dict[str, float]) -> str:
        """Collapse of the codes or of the analogies, in a logged row."""
        if self.recipe.method == "vae" and row["informative_dimensions"] == 0:
            return "posterior collapse: no dimension of the code carries information; lower beta or raise warmup"
        if row["diversity"] < MIN_DIVERSITY * self.prior_diversity:
            return (
                f"the analogies of different queries hardly differ ({row['diversity']:.3f} per pixel, samples of the "
                f"generator {self.prior_diversity:.3f}): the codes have collapsed; lower beta or the rate"
            )
        return ""

    def after_step(self, step: int) -> None:
        """Nothing follows a step."""


def health(z: Codes, kl: Codes, x: XImages) -> dict[str, Tensor]:
    """What tells a collapse, of one batch: informative dimensions, spread of the codes, diversity of the analogies."""
    return {
        "informative_dimensions": (kl.detach().mean(0) > INFORMATIVE_NATS).sum(),
        "code_spread": z.detach().std(0).mean(),
        "diversity": x.detach().float().std(0).mean(),
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
        domain: ImageDomain,
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
        if self.reconstruction.features is None:
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
