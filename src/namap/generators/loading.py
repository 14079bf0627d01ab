"""Generators from disk: what namap saved, and what others made."""

import inspect
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..errors import StorageError, UsageError
from .base import Generator, freeze
from .simulator import FaceSimulator
from .training import find_family

LIMITS = {"latent_dim": 65536, "image_size": 4096, "channels": 3, "width": 2048, "stages": 8}


def build_generator(config: Any, where: str | Path) -> Generator:
    """A generator of a saved configuration, on the meta device: without memory until weights are loaded into it.

    Raises:
        StorageError: an unknown kind or key, or a value out of bounds.
    """
    values = {k: v for k, v in config.items() if k != "kind"} if isinstance(config, dict) else {}
    try:
        simulated = values and config.get("kind") == "simulator"
        kind = FaceSimulator if simulated else find_family(str(values and config.get("kind"))).generator
    except UsageError:
        kind = None
    if kind is None or values.keys() != inspect.signature(kind).parameters.keys():
        raise StorageError(f"{where}: generator configuration {config} is not one that namap writes")
    for key, value in values.items():
        if type(value) is not int or not 1 <= value <= LIMITS[key]:
            raise StorageError(f"{where}: generator {key} {value!r} is not a whole number from 1 to {LIMITS[key]}")
    try:
        with torch.device("meta"):
            return kind(**values)
    except UsageError as error:
        raise StorageError(f"{where}: {error}") from None


def find_model(path: str | Path) -> Path:
    """The saved model at `path`: the directory itself, or `final/` in the output directory of a run.

    Raises:
        UsageError: there is none, or the run has not finished.
    """
    path = Path(path)
    for candidate in (path, path / "final"):
        if (candidate / checkpoint.MANIFEST).is_file():
            return candidate
    if path.is_file():
        raise UsageError(f"{path}: not a model directory; namap loads directories that it saved, never pickles")
    if not path.is_dir():
        raise UsageError(f"{path}: no such directory")
    if (path / "checkpoints").is_dir():
        raise UsageError(f"{path}: this run has not finished; run its command again to go on")
    checkpoint.verify(path)  # raises: says what a directory without a manifest is
    raise AssertionError


def load_generator(path: str | Path) -> Generator:
    """Load a generator that namap saved, frozen.

    Args:
        path: its directory, or the output directory of `namap train-generator`.

    Raises:
        UsageError: nothing there, or something else.
        StorageError: damaged files.
    """
    source = find_model(path)
    tensors, config = checkpoint.load_directory(source)
    if config.get("format") != "namap-generator":
        raise UsageError(f"{source}: holds a {config.get('format', 'foreign model')}, not a generator")
    generator = build_generator(config.get("generator"), source)
    checkpoint.load_weights(generator, tensors, source)
    return freeze(generator)
