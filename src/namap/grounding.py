"""One generator, many query domains (NAM §1, VAE-NAM §5): Y₁ → X → Y₂ with no further training."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import nn

from .analogies import Analogies
from .data import ImageDomain
from .errors import UsageError
from .generators import unwarped
from .mapping import Mapping
from .tensors import XImages, autocast, from_numpy, place, to_uint8


class Grounding:
    """Several query domains that are explained by the same generator.

        y₁ → z = E₁(y₁) → x = G(z) → y₂ = T₂(x)

    Examples:
        >>> grounding = Grounding()
        >>> len(grounding)
        0
    """

    def __init__(self) -> None:
        self.mappings: dict[str, Mapping] = {}
        self.mappers: dict[str, nn.Module | None] = {}
        self.generator: dict[str, Any] = {}

    def add(self, name: str, mapping: Mapping, mapper: nn.Module | None = None) -> "Grounding":
        """Ground a query domain.

        Args:
            name: of the domain.
            mapping: fitted to the generator that all others were fitted to.
            mapper: a strong T for this domain (`train_mapper`), used in place of the mapping's small one.

        Raises:
            UsageError: the name is taken, the generator is another one, or `mapper` was trained for another mapping.
        """
        weights = unwarped(mapping.generator).identity
        if name in self.mappings:
            raise UsageError(f"grounding: there is a domain {name!r} already")
        if self.mappings and weights != self.generator:
            first = next(iter(self.mappings))
            raise UsageError(f"grounding: {name!r} was fitted to another generator than {first!r}")
        trained_for = getattr(mapper, "trained_for", None)  # a T of somebody's own does not say
        if trained_for is not None and trained_for != mapping.identity["weights"]:
            raise UsageError(f"grounding: the mapper for {name!r} was trained for another mapping")
        self.generator = weights
        self.mappings[name] = mapping
        self.mappers[name] = None if mapper is None else place(mapper, mapping.device)
        return self

    def __len__(self) -> int:
        return len(self.mappings)

    def __iter__(self) -> Iterator[str]:
        return iter(self.mappings)

    def get(self, name: str) -> Mapping:
        """The mapping of the domain `name`.

        Raises:
            UsageError: there is none of this name.
        """
        if name not in self.mappings:
            raise UsageError(f"grounding: no domain {name!r}; there are {', '.join(self.mappings) or 'none'}")
        return self.mappings[name]

    def arrival(self, name: str) -> Mapping:
        """The mapping of a domain to arrive in.

        Args:
            name: of the domain.

        Raises:
            UsageError: there is none of this name, or it was fitted with warp: its T draws what has been moved.
        """
        mapping = self.get(name)
        if mapping.recipe.warp:
            raise UsageError(f"grounding: {name!r} was fitted with warp, whose T knows moved and reduced images alone")
        return mapping

    def translate(
        self, data: str | Path | ImageDomain, origin: str, to: str, refine: int | None = None, quiet: bool = True
    ) -> Analogies:
        """Pictures of domain `origin` as pictures of domain `to`.

        Args:
            data: images of `origin`: whatever `load_domain` reads.
            origin: their domain.
            to: the domain to arrive in; without a strong T, and under the appearance-invariant loss, the result has the
                colours of the image of X between them.
            refine: iterations of Eq. 6; None: the method's own.
            quiet: no progress bar.

        Returns:
            y₂ as the one solution of each query, uint8 `[n 1 c h w]`; the codes and losses are those of the way to X.

        Raises:
            DataError: no usable images.
            UsageError: no such domain, or one to arrive in that was fitted with warp.
        """
        arrival = self.arrival(to)
        found = self.get(origin).translate(data, refine=refine, quiet=quiet)
        x = found.x[:, 0]
        parts = [self._map(arrival, self.mappers[to], x[i : i + 256]) for i in range(0, len(x), 256)]
        return replace(found, x=np.concatenate(parts)[:, None])

    @staticmethod
    @torch.no_grad()
    def _map(mapping: Mapping, strong: nn.Module | None, x: UInt8[np.ndarray, "b k h w"]) -> np.ndarray:
        images: XImages = from_numpy(x, mapping.device)
        if strong is None:
            return to_uint8(mapping.map_forward(images)).cpu().numpy()
        with autocast(mapping.device, mapping.precision):
            return to_uint8(strong(images)).cpu().numpy()
