"""Training of any family of generators: one recipe with two methods is all that a family adds.

A family is a module of `generators/families` with a class `Recipe`: its fields are the settings, `build` makes the
networks, `losses` yields what they minimise. The result is the average of the weights of the one called `generator`.
"""

import copy
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from torch import nn
from torchvision.utils import make_grid

from .. import checkpoint, processes
from ..data import ImageDomain, Source, load_domain
from ..errors import UsageError
from ..pictures import to_picture, write_picture
from ..runs import load_result, occupied, precision_of
from ..settings import MAX_SEED, make_settings
from ..tensors import pick_device, place, random_stream, to_uint8
from ..training import Batch, Run, Task, Update, identity, train
from . import families
from .base import Generator, freeze, sample

AVERAGE_DECAY = 0.999


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class GeneratorRecipe:
    """How a generator is trained: what all families share.

    Attributes:
        latent_dim: d.
        images: training images to see in all.
        seed: of weights, order and noise.
        width: channels of the widest scale.
        batch_size: images of one step.
        rate: Adam's learning rate, decayed over the second half.
    """

    latent_dim: int = Field(default=64, ge=1, le=65536)
    images: int = Field(default=400_000, ge=1)
    seed: int = Field(default=0, ge=0, le=MAX_SEED)
    width: int = Field(default=48, ge=4, le=2048)
    batch_size: int = Field(default=64, ge=2)
    rate: float = Field(default=4e-4, gt=0)

    generator: ClassVar[type[Generator]]  # what is saved and loaded
    # Whether several processes may share a batch: all noise is drawn with `processes.normal` and `uniform`, and no loss
    # but batch normalisation, which is taken care of, looks at more than one image.
    divisible: ClassVar[bool] = False
    betas: ClassVar[tuple[float, float]] = (0.9, 0.999)

    def build(self, domain: ImageDomain) -> dict[str, nn.Module]:
        """The networks, untrained; the one called `generator` is a `Generator`."""
        raise NotImplementedError

    def losses(self, nets: Mapping[str, nn.Module], batch: Batch) -> Iterator[Update]:
        """What one step minimises; an update names the networks that it moves."""
        raise NotImplementedError

    def finish(self, generator: Generator, nets: Mapping[str, nn.Module]) -> None:
        """Whatever the averaged generator needs once training has ended."""

    def concern(self, row: dict[str, float]) -> str:
        """What looks wrong in a logged row; '' if nothing does."""
        return ""

    def optimizer(self, net: nn.Module) -> torch.optim.Optimizer:
        """Adam, unless a family says otherwise."""
        return torch.optim.Adam(net.parameters(), self.rate, self.betas, fused=True)


class GeneratorTask(Task):
    """A recipe's networks with their optimizers, and the average of the generator's weights."""

    def __init__(self, recipe: GeneratorRecipe, domain: ImageDomain, device: torch.device):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(recipe.seed)
            self.nets = {name: place(net, device) for name, net in recipe.build(domain).items()}
        generator = self.nets["generator"]
        assert isinstance(generator, Generator)
        self.recipe, self.divisible = recipe, recipe.divisible
        self.average: Generator = copy.deepcopy(generator).requires_grad_(False)
        self.modules = {**self.nets, "average": self.average}
        self.optimizers = {name: recipe.optimizer(net) for name, net in self.nets.items()}
        self.config = {
            "generator": generator.config,
            "family": type(recipe).__module__,
            **asdict(recipe),
        }

    def updates(self, batch: Batch) -> Iterator[Update]:
        """The recipe's losses."""
        return self.recipe.losses(self.modules, batch)

    def concern(self, row: dict[str, float]) -> str:
        """The recipe's."""
        return self.recipe.concern(row)

    def pictures(self) -> list[torch.Tensor]:
        """Samples of the average, always of the same codes."""
        device = next(self.average.parameters()).device
        return list(sample(self.average, 48, random_stream(self.recipe.seed, device=device)).split(12))

    def after_step(self, step: int) -> None:
        """Move the average."""
        follow(self.average, self.nets["generator"], step)


def follow(average: nn.Module, module: nn.Module, step: int) -> None:
    """Move `average` towards `module`: exponential moving average of the weights, buffers copied.

    The first steps use a shorter memory, so that the average never remembers the initialisation.
    """
    weight = 1 - min(AVERAGE_DECAY, (1 + step) / (10 + step))
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), module.parameters(), strict=True):
            ours.lerp_(theirs, weight)
        for ours, theirs in zip(average.buffers(), module.buffers(), strict=True):
            ours.copy_(theirs)


def train_generator(
    data: Source,
    recipe: GeneratorRecipe | None = None,
    outdir: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
    arch: str = "dcgan",
    overwrite: bool = False,
    size: int | None = None,
    **settings: Any,
) -> Generator:
    """Train a generator on images of X; with an `outdir`, save it in `outdir/final`, with a sheet of samples.

    The same call goes on after an interruption, and loads what is finished.

    Args:
        data: images of X: whatever `load_domain` reads; a folder at `size`, an array or npz at its own.
        recipe: of any family; None: that of `arch` with these `settings`.
        outdir: where checkpoints, `metrics.jsonl` and the result go.
        device: `auto`, `cpu` or `cuda[:n]`.
        precision: `auto`, `fp32` or `bf16`.
        quiet: no progress bar.
        arch: a family: `dcgan`, `vae`, `glo`, `progressive` or `stack`.
        overwrite: an earlier run in `outdir` makes room, once it is known that this one can begin.
        size: side of the images in pixels; None: as they are, 32 for a folder.
        **settings: fields of its recipe, e.g. `latent_dim=100, images=1_000_000, seed=0`.

    Returns:
        G with averaged weights, frozen: codes N(0, I) `[b d]` to images `[b c s s]` in [-1, 1], of the data's side.

    Raises:
        DataError: no usable images.
        UsageError: `outdir` holds another run, an unknown setting, or images of a side that the family cannot make.
        DivergedError: training met NaN and did not recover.
        Interrupted: Ctrl-C or SIGTERM, after a checkpoint.
        StorageError: `outdir` cannot be written, is full, or is another process's now.
    """
    if recipe is not None and settings:
        raise UsageError(f"train_generator: {', '.join(settings)} beside a whole recipe; set them in it")
    recipe = recipe or make_settings(find_family(arch), settings, arch)
    domain = load_domain(data, size)
    home = None if outdir is None else Path(outdir)
    precision = precision_of(home, precision, overwrite)
    task = GeneratorTask(recipe, domain, pick_device(device))
    run = Run(
        recipe.images,
        recipe.batch_size,
        recipe.seed,
        device,
        precision,
        quiet=quiet,
        label="training the generator",
    )
    with occupied(home, identity(task, domain, run), overwrite) as finished:
        if finished and home is not None:
            checkpoint.load_weights(task.average, load_result(home), home / "final")
            return freeze(task.average)
        if home is not None and processes.is_main():
            domain.write_skipped(home)
        train(task, domain, run, home)
        generator = freeze(task.average)
        recipe.finish(generator, task.nets)
        if home is not None and processes.is_main():
            save_generator(generator, recipe.seed, home)
    return generator


def save_generator(generator: Generator, seed: int, outdir: Path) -> None:
    """Write `samples.png`, a sheet of a hundred samples, and `final/`."""
    device = next(generator.parameters()).device
    images = to_uint8(sample(generator, 100, random_stream(seed, device=device)))
    sheet = make_grid(images.cpu(), nrow=10, padding=1).numpy()
    write_picture(outdir / "samples.png", to_picture(sheet))
    config = {"format": "namap-generator", "version": 1, "generator": generator.config}
    checkpoint.save_directory(outdir / "final", generator.state_dict(), config)


def find_family(name: str) -> type[GeneratorRecipe]:
    """The recipe class of a family: of the module of that name in `generators/families`.

    Raises:
        UsageError: there is none.
    """
    known = sorted(module.name for module in pkgutil.iter_modules(families.__path__))
    if name not in known:
        raise UsageError(f"--arch {name}: unknown; use {', '.join(known)}")
    return import_module(f"{families.__name__}.{name}").Recipe
