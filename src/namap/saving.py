"""What a mapping consists of on disk: tensors and a configuration, for a directory or for the hub."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import checkpoint
from .codes import CodeSource
from .generators import Generator, recall_generator, remember_generator
from .recipes import Recipe, saved_recipe

MODEL_FILES = (checkpoint.CONFIG, checkpoint.TENSORS, checkpoint.MANIFEST)


def mapping_state(
    mapper: nn.Module, codes: CodeSource, kinds: nn.Module | None, generator: Generator, recipe: Recipe, **known: Any
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of a fitted mapping.

    Args:
        mapper: T.
        codes: table or encoder.
        kinds: what tells the kinds that were voted on; None: no vote.
        generator: G; a foreign one is referred to by its files and their sha256, not copied.
        recipe: of the fit.
        **known: further values of the configuration.
    """
    tensors = checkpoint.prefixed("mapper", mapper.state_dict())
    tensors |= checkpoint.prefixed("codes", codes.state_dict())
    tensors |= {} if kinds is None else checkpoint.prefixed("kinds", kinds.state_dict())
    described, weights = remember_generator(generator)
    tensors |= checkpoint.prefixed("generator", weights)
    config = {
        "format": "namap-mapping",
        "version": 1,
        "recipe": asdict(recipe),
        "generator": described,
        **known,
    }
    return tensors, config


@dataclass(frozen=True)
class SavedMapping:
    """A mapping on disk, its files checked: where it lies, and what it consists of."""

    source: Path
    tensors: dict[str, Tensor]
    config: dict[str, Any]
    recipe: Recipe

    def generator(self, given: Generator | str | Path | None, trust_pickle: bool) -> Generator:
        """G of the fit: made anew, loaded from where it lies, or `given`."""
        weights = checkpoint.without_prefix("generator", self.tensors)
        return recall_generator(self.config["generator"], weights, self.source, given, trust_pickle)

    @property
    def count(self) -> int:
        """Rows of the table of codes; 0 for an encoder."""
        table = self.tensors.get("codes.table.weight")
        return 0 if table is None or table.ndim != 2 else table.shape[0]


def read_mapping(path: str | Path) -> SavedMapping:
    """What a saved mapping consists of, all checked.

    Raises:
        UsageError: nothing there, or something else.
        StorageError: damaged files.
    """
    source, tensors, config = checkpoint.open_model(path, "mapping")
    return SavedMapping(source, tensors, config, saved_recipe(config, source))


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration without directories of this machine: a foreign generator keeps its file's name and sha256."""
    generator = config["generator"]
    if not generator.get("source"):
        return config
    spec = re.sub("(^|:)/.*/", r"\1", generator["source"]["spec"])
    return {**config, "generator": {**generator, "source": {**generator["source"], "spec": spec}}}


def without_names(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration as it is wherever a generator of others lies: its files are known by their sha256 alone."""
    generator = config["generator"]
    sums = (generator.get("source") or {}).get("sha256")
    if not sums:
        return without_places(config)
    return {**config, "generator": {**generator, "source": sorted(sums.values())}}
