"""What an experiment is: two domains with a test split each, recipes, and a judge of the answers."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from namap.data import ImageDomain, load_domain
from namap.errors import DataError
from namap.generators import load_generator, sample
from namap.generators.families import dcgan
from namap.networks import VGGFeatures
from namap.tensors import random_stream, to_uint8

VGG_FILE = "weights/vgg16_hed_bsds.safetensors"
QUICK_IMAGES = 2000
HELD_OUT = 1000
SAMPLES = "samples"  # of the generator, where X has no images of its own


@dataclass(frozen=True)
class Sources:
    """Where the images are, as `load_domain` reads them; `{root}` is the data root."""

    x_train: str
    x_test: str
    y_train: str
    y_test: str


@dataclass(frozen=True)
class Experiment:
    """Translation of queries of Y to X.

    Attributes:
        name: of the command, the results file and the figure.
        what: one sentence for people.
        sources: of each collection of data: `reference` (the one that `--data-root` holds) or `papers`.
        generator: recipe of G, or what `load_generator` takes.
        ours: settings of namap's best recipe, beyond the defaults.
        papers: settings of the rows that repeat the papers.
        judge: makes, from a scene and a directory to keep classifiers in, the function that scores answers.
        headline: the measures that the results table shows, with their headings.
        solutions: analogies per query, where a method can give several.
    """

    name: str
    what: str
    sources: dict[str, Sources]
    generator: dcgan.Recipe | str
    judge: "Callable[[Scene, Path], Judge]"
    headline: dict[str, str]
    ours: dict[str, Any] = field(default_factory=dict)
    papers: dict[str, Any] = field(default_factory=dict)
    solutions: int = 4


# Scores answers `[n k c h w]` to the test queries, or, with `of="x_test"`, inversions of the test images of X.
Judge = Callable[[np.ndarray, str], dict[str, Any]]


@dataclass(frozen=True)
class Scene:
    """An experiment on one collection of data."""

    experiment: Experiment
    data: str
    root: Path
    quick: bool = False  # budgets of seconds: to see that everything runs, not to measure
    held_out: bool = False  # judge queries held out of y_train, and leave the test split alone
    generator_cell: str = "generator"  # name of the cells that G is taken from

    @property
    def generator(self) -> dcgan.Recipe | str:
        """Recipe of G, or where it is."""
        recipe = self.experiment.generator
        if isinstance(recipe, str):
            return recipe.format(root=self.root)
        return replace(recipe, images=QUICK_IMAGES, width=8) if self.quick else recipe

    def sampled(self, which: str) -> ImageDomain:
        """Samples of a generator that came without images: 4000 for training, 500 others for testing."""
        assert isinstance(self.generator, str)
        count, seed = (4000, 0) if which == "x_train" else (500, 1)
        with torch.no_grad():
            images = sample(load_generator(self.generator), count, random_stream(seed))
        return ImageDomain.from_array(to_uint8(images).numpy(), source=f"{self.generator}, seed {seed}")

    @property
    def ours(self) -> dict[str, Any]:
        """Settings of namap's row."""
        return self.experiment.ours | ({"images": QUICK_IMAGES} if self.quick else {})

    def load(self, which: str) -> ImageDomain:
        source = getattr(self.sources, which).format(root=self.root)
        if source == SAMPLES:
            return self.sampled(which)
        if "#" in source:
            return half_images(source)
        file = Path(source.partition(":")[0] if ".npz:" in source else source)
        if not source.startswith(("torchvision:", "embedded:")) and not file.exists():
            raise DataError(
                f"{file}: no such file; {self.experiment.name} reads it: say --data-root or set NAMAP_DATA, "
                f"and see README.md beside the data, or benchmarks/data, for where it comes from"
            )
        return load_domain(source)

    @property
    def sources(self) -> Sources:
        return self.experiment.sources[self.data]

    @cached_property
    def x_train(self) -> ImageDomain:
        return self.load("x_train")

    @cached_property
    def x_test(self) -> ImageDomain:
        return self.load("x_test")

    @cached_property
    def y_train(self) -> ImageDomain:
        """The queries that a row may learn from."""
        return self.load("y_train").subset(self.kept_rows(False)) if self.held_out else self.load("y_train")

    @cached_property
    def y_test(self) -> ImageDomain:
        """The queries that are judged."""
        source, rows = self.judged("y_test")
        return self.load(source).subset(rows)

    def judged(self, which: str) -> tuple[str, np.ndarray | slice]:
        """Where the judged images of a side are: the split, and their rows in it."""
        return ("y_train", self.kept_rows(True)) if which == "y_test" and self.held_out else (which, slice(None))

    def kept_rows(self, held_out: bool) -> np.ndarray:
        """Rows of y_train that are held out, an eighth or a thousand, drawn once for all; or the others."""
        count = len(self.load("y_train"))
        order = np.random.default_rng(1).permutation(count)
        part = min(HELD_OUT, count // 8)
        return np.sort(order[:part] if held_out else order[part:])

    @property
    def vgg(self) -> dict[str, Any]:
        """Settings of a mapping with a perceptual loss: the local weights, else torchvision's."""
        file = self.root / VGG_FILE
        return {"vgg_weights": file, "vgg_input": "caffe"} if file.exists() else {}

    @cached_property
    def features(self) -> VGGFeatures:
        """The network of every perceptual measure: four blocks of VGG-16."""
        weights = self.vgg.get("vgg_weights")
        return VGGFeatures(weights, 4, self.vgg.get("vgg_input", "torchvision"))


def half_images(source: str, side: int = 64) -> ImageDomain:
    """`FOLDER#A` or `FOLDER#B`: the left or right half of pictures of two, as pix2pix publishes its pairs."""
    folder, _, half = source.partition("#")
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise DataError(f"{folder}: no pictures; the pix2pix layout is FOLDER/*.jpg, the edges left, the photo right")
    images = []
    for path in paths:
        with Image.open(path) as picture:
            width, height = picture.size
            box = (0, 0, width // 2, height) if half == "A" else (width // 2, 0, width, height)
            images.append(np.asarray(picture.convert("RGB").crop(box).resize((side, side), Image.Resampling.BOX)))
    return ImageDomain.from_array(np.stack(images).transpose(0, 3, 1, 2), source=source)


def find_root(given: Path | None) -> Path:
    """`--data-root`, `$NAMAP_DATA`, then `../shared/data`."""
    if given is not None:
        return given
    return Path(os.environ.get("NAMAP_DATA", "../shared/data"))
