"""The judge: a Network-in-Network classifier trained on real images of X only."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from .. import checkpoint
from ..classifying import ClassifierTask
from ..data import ImageDomain
from ..errors import DataError, StorageError, UsageError
from ..generators import freeze
from ..networks import NIN
from ..runs import occupied, precision_of
from ..tensors import autocast, from_numpy, pick_device, pick_precision, place
from ..training import Run, identity, train

MOST_IMAGES, LEAST_IMAGES, PASSES = 240_000, 24_000, 100  # that a training sees, unless told otherwise
DEFAULT_WIDTH = 48
MANY = 100  # times as many numbers as classes are no numbers of classes
LIMITS = {"size": 4096, "channels": 3, "classes": 10**5, "width": 2048}


@dataclass(frozen=True)
class Classifier:
    """A trained classifier of X images.

    Attributes:
        network: logits of images in [-1, 1].
        size: side of the images that it was trained on.
        channels: of these images.
        classes: number of classes.
        width: of the network.
        accuracy_on_x: on real images of X that it was not trained on; None where none were held out.
        names: of the classes; empty where these are numbers.
        numbers: of the classes that it has seen, where these are numbers; empty: all from 0 on.
    """

    network: NIN
    size: int
    channels: int
    classes: int
    width: int
    accuracy_on_x: float | None = None
    names: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    precision: str = "auto"

    @torch.no_grad()
    def probabilities(self, images: UInt8[np.ndarray, "n c h w"], batch_size: int = 500) -> Float[np.ndarray, "n k"]:
        """The probability of each class; other sizes and channel counts are converted."""
        device = next(self.network.parameters()).device
        domain = ImageDomain.from_array(images).resized(self.size, self.channels)
        with autocast(device, pick_precision(self.precision, device)):
            parts = [
                self.network(from_numpy(domain.images[i : i + batch_size], device))
                for i in range(0, len(domain), batch_size)
            ]
        return torch.cat(parts).softmax(1).cpu().numpy()

    def predict(self, images: UInt8[np.ndarray, "n c h w"]) -> Int[np.ndarray, " n"]:
        """The most probable class of each image."""
        return self.probabilities(images).argmax(1)

    def accuracy(self, images: UInt8[np.ndarray, "n c h w"], labels: Int[np.ndarray, " n"]) -> float:
        """Share of images that get their label."""
        return float((self.predict(images) == labels).mean())

    def labels_of(self, queries: ImageDomain) -> Int[np.ndarray, " n"]:
        """The class of each query: by name where classes have names, whatever number it has among the queries.

        Raises:
            DataError: queries without labels, of a class that is not known here, or named where these are numbered.
        """
        return known_labels(queries, self.names, self.numbers or range(self.classes))

    def save(self, path: Path) -> None:
        """Save to a directory, atomically."""
        config = {
            "format": "namap-classifier",
            "version": 1,
            "size": self.size,
            "channels": self.channels,
            "classes": self.classes,
            "width": self.width,
            "accuracy_on_x": self.accuracy_on_x,
            "names": self.names,
            "numbers": self.numbers,
        }
        checkpoint.save_directory(path, self.network.state_dict(), config)

    @classmethod
    def load(cls, path: str | Path, device: str = "auto", precision: str = "auto") -> "Classifier":
        """Load what `save` wrote.

        Raises:
            UsageError: nothing there, or something else.
            StorageError: damaged files.
        """
        source, tensors, config = checkpoint.open_model(path, "classifier")
        values = {k: config.get(k) for k in LIMITS}
        for key, value in values.items():
            if type(value) is not int or not 1 <= value <= LIMITS[key]:
                raise StorageError(
                    f"{source}: classifier {key} {value!r} is not a whole number from 1 to {LIMITS[key]}"
                )
        size, channels, classes, width = (int(v or 0) for v in values.values())
        names = config.get("names", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise StorageError(f"{source}: classifier names {names!r} are not a list of words")
        if names and len(names) != classes:
            raise StorageError(f"{source}: classifier of {classes} classes has {len(names)} names")
        numbers = config.get("numbers", [])
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < classes for n in numbers):
            raise StorageError(f"{source}: classifier numbers {numbers!r} are not a list of numbers below {classes}")
        accuracy = config.get("accuracy_on_x")
        if accuracy is not None and not (type(accuracy) is float and 0 <= accuracy <= 1):
            raise StorageError(f"{source}: classifier accuracy_on_x {accuracy!r} is not a share")
        with torch.device("meta"):
            network = NIN(channels, classes, width)
        checkpoint.load_weights(network, tensors, source)
        network = freeze(place(network, pick_device(device)))
        return cls(network, size, channels, classes, width, accuracy, tuple(names), tuple(numbers), precision)


def known_labels(queries: ImageDomain, names: Sequence[str], numbers: Sequence[int]) -> Int[np.ndarray, " n"]:
    """The class of each query among those of a classifier, which have `names`, or `numbers`.

    Raises:
        DataError: as `Classifier.labels_of`.
    """
    if queries.labels is None:
        raise DataError(f"{queries.source}: has no labels; evaluation needs them")
    if bool(queries.classes) != bool(names):
        named, numbered = ("queries", "classifier") if queries.classes else ("classifier", "queries")
        raise DataError(f"{queries.source}: classes of the {named} have names, of the {numbered} numbers; rename them")
    if not names:
        unknown = np.setdiff1d(queries.labels, numbers)
        if len(unknown):
            known = reprlib.repr(list(numbers)).strip("[]")
            raise DataError(
                f"{queries.source}: class {unknown[0]} is none of the classifier's, which are {known}; leave it out"
            )
        return queries.labels
    missing = [name for name in queries.classes if name not in names]
    if missing:
        known = ", ".join(names)
        raise DataError(f"{queries.source}: class {missing[0]} is none of the classifier's, which are {known}")
    return np.array([names.index(name) for name in queries.classes])[queries.labels]


def train_classifier(
    domain: ImageDomain,
    outdir: Path | None = None,
    seed: int = 0,
    images: int | None = None,
    width: int = DEFAULT_WIDTH,
    held_out: ImageDomain | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> Classifier:
    """Train a classifier on labelled images of X.

    Args:
        domain: labelled images of X.
        outdir: save to `outdir/final`; the same call goes on after an interruption.
        seed: of weights, order and augmentation.
        images: training images to see; None: a hundred passes over `domain`, within 24,000 and 240,000.
        width: channels of the network's first block.
        held_out: labelled images of X to measure it on; None: a tenth of `domain` is held out.
        device: `auto`, `cpu` or `cuda[:n]`.
        precision: `auto`, `fp32` or `bf16`.
        quiet: no progress bar.

    Raises:
        DataError: the images have no labels.
        UsageError: `outdir` holds another classifier; the differences are named.
    """
    if domain.labels is None or len(domain) < 2:
        raise DataError(f"{domain.source}: has no labels, or one image; a classifier needs more")
    classes, several = max(int(domain.labels.max()) + 1, len(domain.classes)), len(np.unique(domain.labels))
    if not domain.classes and classes > MANY * several:
        raise DataError(f"{domain.source}: {several} classes with numbers up to {classes - 1}; number them from 0")
    numbers = () if domain.classes else tuple(np.unique(domain.labels).tolist())
    if held_out is None:
        order = np.random.default_rng(0).permutation(len(domain))
        tenth = max(1, len(order) // 10)
        held_out, domain = domain.subset(order[:tenth]), domain.subset(order[tenth:])
    precision = precision_of(outdir, precision, overwrite=False)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = place(NIN(domain.channels, classes, width), pick_device(device))
    shape = (domain.size, domain.channels, classes, width)
    classifier = Classifier(network, *shape, None, tuple(domain.classes), numbers, precision)
    truth = classifier.labels_of(held_out)  # refused, if at all, before any training
    images = images or min(MOST_IMAGES, max(LEAST_IMAGES, PASSES * len(domain)))
    run = Run(images, 128, seed, device, precision, quiet=quiet, label="training the classifier")
    labels = checkpoint.digest({"labels": torch.from_numpy(domain.labels)})
    names = {"names": domain.classes} if domain.classes else {}
    task = ClassifierTask(network, {"kind": "nin", "width": network.width, "labels": labels, **names})
    wanted = identity(task, domain, run)
    remedy = "leave out --train-classifier-on, or name another --classifier"
    with occupied(outdir, wanted, remedy=remedy) as finished:
        if finished and outdir is not None:
            classifier = Classifier.load(outdir, device, precision)
        else:
            train(task, domain, run, outdir)
            freeze(network)
        accuracy = classifier.accuracy(held_out.images, truth)
        classifier = replace(classifier, accuracy_on_x=accuracy)
        if outdir is not None and not finished:
            classifier.save(outdir / "final")
    return classifier


def obtain_classifier(
    path: Path | None,
    x: ImageDomain | None,
    seed: int = 0,
    images: int | None = None,
    width: int = DEFAULT_WIDTH,
    held_out: ImageDomain | None = None,
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> Classifier:
    """Train a classifier on labelled images `x` and keep it at `path`, or without `x` load the one there.

    Raises:
        UsageError: neither is given, or the classifier at `path` is of other images.
    """
    if x is None:
        if path is None:
            raise UsageError("evaluation needs --classifier DIR or --train-classifier-on SRC")
        return Classifier.load(path, device, precision)
    if path is not None and (path / checkpoint.MANIFEST).is_file():
        raise UsageError(f"{path}: is a classifier without its run; leave out the images, or train elsewhere")
    return train_classifier(x, path, seed, images, width, held_out, device, precision, quiet)
