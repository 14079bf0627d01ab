"""What an experiment is: two domains with a test split each, recipes, and a judge of the answers."""

import os
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from namap.checkpoint import file_sha256
from namap.data import ImageDomain, load_domain
from namap.errors import DataError
from namap.generators import load_generator, sample
from namap.generators.training import GeneratorRecipe
from namap.networks import VGGFeatures
from namap.tensors import random_stream, to_uint8

VGG_FILE = "weights/vgg16_hed_bsds.safetensors"
QUICK_IMAGES = 2000
HELD_OUT = 1000
ANGLES, CAR_SIDE = "angles.csv", 64  # a folder of cars has this list beside them
SAMPLES = "samples"  # of the generator, where X has no images of its own
REFINE = "refine"  # among the settings of a mapping's row, not of its recipe: iterations of Eq. 6 at inference


@dataclass(frozen=True)
class Sources:
    """Where the images are, as `load_domain` reads them; `{root}` is the data root."""

    x_train: str
    x_test: str
    y_train: str
    y_test: str


@dataclass(frozen=True)
class Experiment:
    """What is asked of every row: translation of queries of Y to X, mostly.

    Attributes:
        name: of the command, the results file and the figure.
        what: one sentence for people.
        sources: of each collection of data: `reference` (the one that `--data-root` holds) or `papers`.
        headline: the measures that the results table shows, with their headings; the first that the data allow counts.
        generator: recipe of G, or what `load_generator` takes; None where rows have their own.
        ours: settings of namap's best recipe, beyond the defaults, and `refine`.
        papers: settings of the rows that repeat the papers.
        rivals: settings of a rival, where its publication has some of its own for such data.
        judge: makes, from a scene and a directory to keep classifiers in, the function that scores answers.
        solutions: analogies per query, where a method can give several.
        rows: of the table; None: those of every translation, `methods.ROWS`.
        published: the papers' best, for the results table.
    """

    name: str
    what: str
    sources: dict[str, Sources]
    headline: dict[str, str]
    generator: GeneratorRecipe | str | None = None
    ours: dict[str, Any] = field(default_factory=dict)
    papers: dict[str, Any] = field(default_factory=dict)
    rivals: dict[str, dict[str, Any]] = field(default_factory=dict)
    judge: "Callable[[Scene, Path], Judge] | None" = None
    solutions: int = 4
    rows: "dict[str, Row] | None" = None
    published: str = ""


@dataclass
class Answer:
    """What a row gives.

    Attributes:
        x: uint8 `[n k c h w]`, answers to the test queries (of `bound`: to the test images of X).
        of: which test images they answer.
        images_seen: in training, of the mapping or the rival.
        evidence: what can be seen without labels, e.g. the loss.
        settings: of the training.
        losses: `[n]` of the first answers, where the row has a loss.
        measures: where the row measures itself; else the experiment's judge does.
        answering: seconds of processor time that the answers took, after the training.
        samples: uint8 `[n 1 c h w]` of a generator that is the row's own, to be judged beside its answers.
    """

    x: np.ndarray
    of: str = "y_test"
    images_seen: int = 0
    evidence: dict[str, float] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    losses: np.ndarray | None = None
    measures: dict[str, Any] | None = None
    answering: float = 0.0
    samples: np.ndarray | None = None


@dataclass(frozen=True)
class Row:
    """A row of a table: something that answers the queries.

    Attributes:
        run: answers, given the scene, a seed, seconds of processor time to train, and the directory of its cell.
        title: for people.
        settings: what decides its result beside the scene.
        needs: rows of the same seed that come before it.
        budget_of: rows whose seconds it may train; none: it has its own measure.
        budget_factor: on those.
        once: it is the same for every seed.
        queries: how many it answers, or test images of X that it inverts: the first of `draw_queries`; None: all.
    """

    run: "Callable[[Scene, int, float, Path], Answer]"
    title: str
    settings: "Callable[[Scene], dict[str, Any]]" = lambda scene: {}
    needs: tuple[str, ...] = ()
    budget_of: tuple[str, ...] = ()
    budget_factor: float = 1.0
    once: bool = False
    queries: int | None = None


# Scores answers `[n k c h w]`: of="y_test", to the test queries; "x_test", inversions of the test images of X;
# "samples", samples of G.
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
    queries: int | None = None  # so many of both test splits are there, the first of `draw_queries`; None: all

    @property
    def generator(self) -> GeneratorRecipe | str | None:
        """Recipe of G, or where it is."""
        recipe = self.experiment.generator
        if recipe is None:
            return None
        if isinstance(recipe, str):
            return recipe.format(root=self.root)
        return replace(recipe, images=QUICK_IMAGES, width=8) if self.quick else recipe

    def sampled(self, which: str) -> ImageDomain:
        """Samples of a generator that came without images: 4000 for training, 500 others for testing."""
        assert isinstance(self.generator, str)
        count, seed = (4000, 0) if which == "x_train" else (500, 1)
        g = load_generator(self.generator)  # which is checked with a gradient
        with torch.no_grad():
            images = sample(g, count, random_stream(seed))
        return ImageDomain.from_array(to_uint8(images).numpy(), source=f"{self.generator}, seed {seed}")

    @property
    def ours(self) -> dict[str, Any]:
        """Settings of namap's row."""
        return self.experiment.ours | ({"images": QUICK_IMAGES} if self.quick else {})

    def load(self, which: str) -> ImageDomain:
        """The images of a split.

        Raises:
            DataError: their file is missing; says which, and where its README says that it comes from.
        """
        source = getattr(self.sources, which).format(root=self.root)
        if source == SAMPLES:
            return self.sampled(which)
        self.check_file(source)
        if "#" in source:
            return half_images(source)
        if (Path(source) / ANGLES).is_file():
            return load_domain(source, CAR_SIDE)
        return load_domain(source)

    def check_files(self) -> None:
        """Look for every file of the experiment, before anything is trained.

        Raises:
            DataError: one is missing.
        """
        sources = [s.format(root=self.root) for s in asdict(self.sources).values()]
        for source in sources + ([self.generator] if isinstance(self.generator, str) else []):
            self.check_file(source)

    def digests(self) -> dict[str, str | None]:
        """sha256 of the files that decide a result beside its configuration, None of one that is not there.

        They are those of the images, of a generator that came from elsewhere, and of the network of perceptual
        measures. Folders of pictures have none.
        """
        sources = [*asdict(self.sources).values(), *([self.generator] if isinstance(self.generator, str) else [])]
        files = {file_of(s.format(root=self.root)) for s in sources} | {self.root / VGG_FILE}
        kept = sorted(file for file in files if file is not None and not file.is_dir())
        return {file.name: file_sha256(file) if file.exists() else None for file in kept}

    def check_file(self, source: str) -> None:
        """Refuse a source whose file or folder is missing."""
        file = file_of(source)
        if file is not None and not file.exists():
            raise DataError(
                f"{file}: no such file; {self.experiment.name} --data {self.data} reads it. "
                f"{origin(file)}; say --data-root or set NAMAP_DATA if it is elsewhere"
            )

    @property
    def sources(self) -> Sources:
        return self.experiment.sources[self.data]

    @cached_property
    def x_train(self) -> ImageDomain:
        return self.load("x_train")

    @cached_property
    def x_test(self) -> ImageDomain:
        """Test images of X: what a judge is judged on, and inverted."""
        source, rows = self.judged("x_test")
        return self.load(source).subset(rows)

    @property
    def whole(self) -> "Scene":
        """With every test image of X and every query."""
        return replace(self, queries=None)

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
        split = "y_train" if which == "y_test" and self.held_out else which
        rows = self.kept_rows(True) if split != which else None
        if which in ("x_test", "y_test") and self.queries:
            rows = np.arange(len(self.load(split))) if rows is None else rows
            rows = rows[draw_queries(len(rows))[: self.queries]]
        return split, slice(None) if rows is None else rows

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


def file_of(source: str) -> Path | None:
    """The file or folder of a source; None for one that needs none."""
    if source == SAMPLES or source.startswith(("torchvision:", "embedded:")):
        return None
    return Path(source.partition(":")[0] if ".npz:" in source else source.partition("#")[0])


def draw_queries(count: int) -> np.ndarray:
    """An order of test images, at random and once for all: of figures, and of rows that answer only some."""
    return np.random.default_rng(0).permutation(count)


def of_recipe(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a row that are those of its recipe."""
    return {key: value for key, value in settings.items() if key != REFINE}


def origin(file: Path) -> str:
    """Where a missing file comes from: what README.md beside it says, else what `benchmarks/data` knows."""
    readme = next((p / "README.md" for p in file.parents[:2] if (p / "README.md").is_file()), None)
    if readme is not None:
        section = readme.read_text().partition(f"## {file.name}")[2].partition("\n## ")[0]
        found = re.search(r"\bSource: (.+)", section)
        if found:
            return f"{readme} says: {found[1].rstrip('.')}"
    return "benchmarks/data/README.md says how to make or fetch it"


def half_images(source: str, side: int = 64) -> ImageDomain:
    """`FOLDER#A` or `FOLDER#B`: the left or right half of pictures of two, as pix2pix publishes its pairs."""
    folder, _, half = source.partition("#")
    paths = sorted(p for p in Path(folder).glob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise DataError(f"{folder}: no pictures; the pix2pix layout is FOLDER/*.jpg, the edges left, the photo right")

    def read(path: Path) -> np.ndarray:
        try:
            with Image.open(path) as picture:
                width, height = picture.size
                box = (0, 0, width // 2, height) if half == "A" else (width // 2, 0, width, height)
                return np.asarray(picture.convert("RGB").crop(box).resize((side, side), Image.Resampling.BOX))
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable picture ({error})") from None

    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(read, paths)))
    return ImageDomain.from_array(images.transpose(0, 3, 1, 2), source=source)


def find_root(given: Path | None) -> Path:
    """`--data-root`, `$NAMAP_DATA`, then `../shared/data`."""
    if given is not None:
        return given
    return Path(os.environ.get("NAMAP_DATA", "../shared/data"))
