"""ImageDomain: a set of images in memory, from a folder, an npz array, torchvision or the embedded sets."""

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from PIL import Image
from torchvision.transforms import v2
from tqdm import tqdm

from ..errors import DataError, UsageError, warn
from ..files import storage_errors, write_file
from ..pictures import to_picture
from . import embedded
from .arrays import check_key, read_array, readable_npz, split_npz
from .folders import list_pictures, unique_names
from .images import UnreadableImage, picture_array, read_image
from .room import close_gaps, make_room, without_colour
from .shards import is_stream

MAX_UNREADABLE = 0.10


@dataclass(frozen=True)
class ImageDomain:
    """Images of one domain, uint8 `[n c h w]`, with optional integer labels and one name per image.

    Attributes:
        images: uint8, 0..255.
        labels: one integer per image, or None.
        names: unique stems, safe as file names; results for image i are named `names[i]`.
        source: where they came from, for messages.
        skipped: (path, reason) of every file that could not be read.
        files: path of every image within its folder; empty for arrays.
        classes: names of the labels; empty where these are numbers.
    """

    images: UInt8[np.ndarray, "n c h w"]
    labels: Int[np.ndarray, " n"] | None
    names: list[str]
    source: str = "array"
    skipped: list[tuple[str, str]] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)

    @classmethod
    def from_array(cls, images: np.ndarray, labels: np.ndarray | None = None, source: str = "array") -> "ImageDomain":
        """Wrap a uint8 array: `[n c h w]`, `[n h w c]` or `[n h w]`, with 1 or 3 channels.

        Args:
            images: squares, 0..255.
            labels: one whole number from 0 per image, or None.
            source: where they came from, for messages.

        Raises:
            DataError: another type or shape, an empty array, or labels that do not fit.

        Examples:
            >>> ImageDomain.from_array(np.zeros((5, 32, 32, 3), np.uint8)).images.shape
            (5, 3, 32, 32)
        """
        if images.dtype != np.uint8:
            raise DataError(f"{source}: images are {images.dtype}; store uint8 0..255")
        if images.ndim == 3:
            images = images[:, None]
        if images.ndim == 4 and images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
            images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        if images.ndim != 4 or images.shape[1] not in (1, 3):
            raise DataError(f"{source}: shape {images.shape} is not [n c h w] with 1 or 3 channels")
        if len(images) == 0:
            raise DataError(f"{source}: holds no images")
        if images.shape[2] != images.shape[3]:
            raise DataError(f"{source}: images are {images.shape[3]}x{images.shape[2]}; store squares")
        if labels is not None and (labels.dtype.kind not in "iu" or labels.min(initial=0) < 0):
            raise DataError(f"{source}: labels are {labels.dtype}; store whole numbers from 0")
        if labels is not None and labels.shape != (len(images),):
            raise DataError(f"{source}: {len(images)} images but labels of shape {labels.shape}")
        width = len(str(len(images) - 1))
        labels = None if labels is None else labels.astype(np.int64)
        return cls(images, labels, [f"{i:0{width}d}" for i in range(len(images))], source)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def channels(self) -> int:
        """1 (grey) or 3 (RGB)."""
        return self.images.shape[1]

    @property
    def head(self) -> "ImageDomain":
        """By what the domain is known: all of it; of a stream, the first images."""
        return self

    @property
    def size(self) -> int:
        """Side of the square images, in pixels."""
        return self.images.shape[3]

    @cached_property
    def fingerprint(self) -> str:
        """Short sha256 of pixels and shape: two domains with the same fingerprint train the same model."""
        digest = hashlib.sha256(str(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()[:16]

    def subset(self, index: np.ndarray | slice) -> "ImageDomain":
        """The images at `index` (positions, a mask or a slice), in that order, with their labels and names."""
        names = np.asarray(self.names, dtype=object)[index].tolist()
        labels = None if self.labels is None else self.labels[index]
        files = np.asarray(self.files, dtype=object)[index].tolist() if self.files else []
        return replace(self, images=self.images[index], labels=labels, names=names, files=files)

    def some(self, count: int) -> "ImageDomain":
        """At most `count` images from all over the set, which may be sorted by class: the same ones every time."""
        order = np.random.default_rng(0).permutation(len(self))
        return self.subset(np.sort(order[:count]))

    def batches(self, batch_size: int) -> Iterator[tuple[list[str], UInt8[np.ndarray, "b c h w"]]]:
        """(names, images) of `batch_size` images at a time, the last time of what is left.

        Raises:
            UsageError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"batch_size={batch_size}: use 1 or more")
        for i in range(0, len(self), batch_size):
            yield self.names[i : i + batch_size], self.images[i : i + batch_size]

    def resized(self, size: int | None = None, channels: int | None = None) -> "ImageDomain":
        """This domain at another side or number of channels.

        Args:
            size: side in pixels (bicubic, antialiased); None: as it is.
            channels: 1 (luminance) or 3 (grey repeated); None: as it is.
        """
        images = self.images
        if channels is not None and channels != self.channels:
            images = luminance(images) if channels == 1 else images.repeat(3, axis=1)
        if size is not None and images.shape[2:] != (size, size):
            images = _resize(images, size)
        return self if images is self.images else replace(self, images=images)

    def write_skipped(self, directory: Path) -> None:
        """Write `skipped.jsonl` (path and reason a line) into `directory` where files were skipped, else nothing."""
        if self.skipped:
            write_skipped(directory, self.skipped)


def write_skipped(directory: Path, skipped: list[tuple[str, str]]) -> None:
    """Write `skipped.jsonl`: path and reason a line."""
    lines = (json.dumps({"path": path, "reason": reason}) for path, reason in skipped)
    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    write_file(directory / "skipped.jsonl", ("\n".join(lines) + "\n").encode())


def luminance(images: UInt8[np.ndarray, "n 3 s s"]) -> UInt8[np.ndarray, "n 1 s s"]:
    """Luminance as Pillow computes it, which reads folders: an array means the same to the last bit.

    >>> luminance(np.full((1, 3, 1, 1), 255, np.uint8)).item()
    255
    """
    grey = make_room(len(images), 1, images.shape[2])
    for image, out in zip(images, grey, strict=True):
        out[0] = to_picture(image).convert("L")
    return grey


def _resize(images: np.ndarray, size: int) -> np.ndarray:
    parts = np.array_split(images, max(1, len(images) // 1024))
    mode = v2.InterpolationMode.BICUBIC
    return np.concatenate([v2.functional.resize(torch.from_numpy(p), [size, size], mode).numpy() for p in parts])


# What `load_domain` reads.
Source = str | Path | ImageDomain | UInt8[np.ndarray, "n c h w"] | Image.Image | list[Image.Image]


def load_domain(
    source: Source,
    size: int | None = None,
    channels: int | None = None,
    quiet: bool = True,
    tell: bool = True,
) -> ImageDomain:
    """Read the images that `source` names.

    Args:
        source: a folder (flat or nested; a sub-folder per class gives labels), a picture, `file.npz:key` (labels from
            the matching `y_…` key), `torchvision:NAME/SPLIT`, `embedded:handwriting/SPLIT`, `embedded:typeset/SPLIT`,
            an ImageDomain, a uint8 array `[n c s s]`, or a picture of Pillow, or a list of them.
        size: side of the square images in pixels; None keeps arrays as they are and takes 32 for pictures.
        channels: 1 or 3; None keeps arrays as they are and takes 3 for pictures in colour, else 1.
        quiet: no progress bar where a folder takes long.
        tell: warn of pictures that cannot be read, in one line; they are in `skipped` in any case.

    Returns:
        Images uint8 `[n c s s]`, 0..255: pictures are cut to squares from their centre and resized.

    Raises:
        DataError: nothing there, nothing readable, or more than 10% of a folder unreadable.
        UsageError: another number of channels, or a source of another type.

    Examples:
        >>> load_domain("embedded:handwriting/test").images.shape
        (500, 1, 32, 32)
    """
    if channels not in (None, 1, 3):
        raise UsageError(f"channels {channels}: use 1 (grey) or 3 (RGB)")
    if isinstance(source, np.ndarray):
        if source.ndim == 3:  # one picture in colour, or several grey ones?
            raise DataError(f"array: shape {source.shape} is not [n c h w]; ImageDomain.from_array takes [n h w]")
        source = ImageDomain.from_array(source)
    if isinstance(source, ImageDomain):
        if not len(source):
            raise DataError(f"{source.source}: holds no images")
        return source.resized(size, channels)
    if isinstance(source, Image.Image):
        source = [source]
    if isinstance(source, list) and all(isinstance(picture, Image.Image) for picture in source):
        return _from_pictures(source, size or 32, channels)
    if not isinstance(source, str | Path):
        kind = type(source).__name__
        ways = "a path, a uint8 array [n c s s], pictures of Pillow, or ImageDomain.from_array(array)"
        raise UsageError(f"images in a {kind}: give {ways}")
    domain = _load_source(str(source), size, channels, quiet)
    if domain.skipped and tell:
        count = len(domain.skipped)
        left = f"{count} of {count + len(domain)} images cannot be read and are left out"
        warn(f"{source}: {left}; `namap check-data {source}` lists them")
    return domain


def _load_source(text: str, size: int | None, channels: int | None, quiet: bool) -> ImageDomain:
    """The images of a path, or of one of the schemes."""
    if is_stream(text):
        raise UsageError(f"{text}: is read as a stream, which fit (ae, vae, wae) and `namap translate` take")
    if not text:
        raise DataError("'': names no images; give a folder of them (`.` is this one)")
    scheme, _, rest = text.partition(":")
    if scheme == "torchvision":
        return _load_torchvision(text, rest).resized(size, channels)
    if scheme == "embedded":
        return ImageDomain.from_array(*embedded.load(rest), source=text).resized(size, channels)
    if text.endswith(".npz") or ".npz:" in text:
        return _load_npz(text).resized(size, channels)
    if Path(text).is_file():
        return _load_picture(Path(text), size or 32, channels)
    return _load_folder(Path(text), size or 32, channels, quiet)


def _load_picture(path: Path, size: int, channels: int | None) -> ImageDomain:
    """A source of one image."""
    try:
        image = read_image(path, channels or 3, size)
    except UnreadableImage as error:
        raise DataError(f"{path}: {error}; give another picture, or a folder of them") from None
    images = without_colour(image[None]) if channels is None else image[None]
    return ImageDomain(images, None, unique_names([path.name]), str(path))


def _from_pictures(pictures: list[Image.Image], size: int, channels: int | None) -> ImageDomain:
    """Pictures in memory, none of which may be unreadable."""
    images = make_room(len(pictures), channels or 3, size)
    for i, picture in enumerate(pictures):
        try:
            images[i] = picture_array(picture, channels or 3, size)
        except UnreadableImage as error:
            raise DataError(f"picture {i}: {error}") from None
    return ImageDomain.from_array(without_colour(images) if channels is None else images, source="pictures")


def _load_npz(text: str) -> ImageDomain:
    path, key = split_npz(text)
    with readable_npz(path), np.load(path, allow_pickle=False) as file:
        keys = file.files
        check_key(path, key, keys)
        images = read_array(file, key)
        label_key = "_".join(["y", *key.split("_")[1:]])
        labels = read_array(file, label_key) if label_key in keys and label_key != key else None
    classes = labels is not None and labels.dtype.kind in "iu" and labels.min(initial=0) >= 0
    if labels is not None and not (classes and labels.shape == images.shape[:1]):
        labels = None  # those of another split, e.g. `y` beside `x` and `x_test`; or angles, or -1 for an unknown class
    return ImageDomain.from_array(images, labels, text)


def too_many(
    source: Path | str,
    skipped: list[tuple[str, str]],
    count: int,
    remedy: str = "re-save or delete them, `namap check-data` lists them all",
) -> None:
    """Raise a DataError where too many of `count` pictures of a source cannot be read."""
    if len(skipped) > MAX_UNREADABLE * count:
        path, reason = skipped[0]
        problem = f"{len(skipped)} of {count} images cannot be read, first {path}: {reason}"
        raise DataError(f"{source}: {problem}; {remedy}", skipped)


def _load_folder(folder: Path, size: int, channels: int | None, quiet: bool) -> ImageDomain:
    files = list_pictures(folder)
    wanted = channels or 3

    images = make_room(len(files), wanted, size)

    def read(i: int) -> str:
        try:
            images[i] = read_image(folder / files[i], wanted, size)
        except UnreadableImage as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as pool:
        tasks = pool.map(read, range(len(files)))
        bar = tqdm(tasks, "reading", len(files), unit="img", delay=2, disable=True if quiet else None)
        reasons = list(bar)
    skipped = [(str(folder / f), reason) for f, reason in zip(files, reasons, strict=True) if reason]
    too_many(folder, skipped, len(files))
    kept = [i for i, reason in enumerate(reasons) if not reason]
    images = close_gaps(images, kept)
    images = without_colour(images) if channels is None else images
    names, files = unique_names(files), [files[i] for i in kept]
    labels, classes = _folder_labels(files)
    return ImageDomain(images, labels, [names[i] for i in kept], str(folder), skipped, files, classes)


def _folder_labels(files: list[str]) -> tuple[np.ndarray | None, list[str]]:
    """One class per first-level sub-folder; whole numbers keep their value, other names are numbered in order."""
    paths = [Path(f) for f in files]
    if any(len(p.parts) < 2 for p in paths):
        return None, []
    classes = sorted({p.parts[0] for p in paths})
    digits = all(c.isdecimal() and len(c) <= 4 for c in classes)  # longer ones are dates or numbers of articles
    number = {c: int(c) if digits else i for i, c in enumerate(classes)}
    return np.array([number[p.parts[0]] for p in paths], dtype=np.int64), [] if digits else classes


def _torchvision_sets() -> dict[str, Callable[[str, str], object]]:
    from torchvision import datasets

    return {
        "mnist": lambda root, split: datasets.MNIST(root, split == "train", download=True),
        "fashionmnist": lambda root, split: datasets.FashionMNIST(root, split == "train", download=True),
        "usps": lambda root, split: datasets.USPS(root, split == "train", download=True),
        "cifar10": lambda root, split: datasets.CIFAR10(root, split == "train", download=True),
        "svhn": lambda root, split: datasets.SVHN(root, split, download=True),
    }


def _load_torchvision(text: str, rest: str) -> ImageDomain:
    name, _, split = rest.partition("/")
    known = _torchvision_sets()
    if name not in known or split not in ("train", "test"):
        raise DataError(f"{text}: use torchvision:NAME/train or /test with NAME one of {', '.join(known)}")
    root = Path.home() / ".cache" / "namap" / "torchvision"
    try:
        dataset = known[name](str(root), split)
    except (OSError, RuntimeError, ValueError, AssertionError, EOFError) as error:
        if root.is_dir() and not isinstance(error, OSError):  # torchvision takes what is there for whole
            raise DataError(f"{text}: the copy in {root} is damaged ({error}); delete it") from None
        raise DataError(f"{text}: cannot be downloaded to {root} ({error}); is this machine offline?") from None
    images = np.asarray(dataset.data)  # pyright: ignore[reportAttributeAccessIssue]
    labels = np.asarray(getattr(dataset, "targets", getattr(dataset, "labels", None)), dtype=np.int64)
    domain = ImageDomain.from_array(images, labels, source=text)
    if domain.size == 28:  # MNIST's 28 pixels are padded to 32, as the papers do
        domain = replace(domain, images=np.pad(domain.images, ((0, 0), (0, 0), (2, 2), (2, 2))))
    return domain.resized(32)
