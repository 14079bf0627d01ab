"""The answers of a translation, and how they are written."""

import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
from jaxtyping import Float, UInt8
from numpy.lib import format as npy
from PIL import Image
from tqdm import tqdm

from .errors import UsageError
from .files import atomic_file, storage_errors
from .pictures import is_signed, png_writer, to_picture

ARRAYS = ("x", "codes", "losses")
ARRAYS_FILE = "analogies.npz"
LIKE_A_SOLUTION = re.compile(r"_k\d+_*$", re.IGNORECASE)


@dataclass(frozen=True)
class Analogies:
    """Answers for n queries, k solutions each, in the order of the input.

    Attributes:
        x: G(z_y), images of X, uint8 0..255, `[n k c h w]`.
        codes: z_y, `[n k d]`, in units of the prior N(0, I).
        losses: how badly T(G(z_y)) reconstructs the query, `[n k]`, in the loss of the fit: under `appearance` the
            share of the query's variance that is left (0 to 1), under `l1` and `l2` of pixels in [-1, 1].
        names: one per query, safe as file names.

    Examples:
        >>> found = Analogies(np.zeros((1, 2, 1, 8, 8), np.uint8), np.zeros((1, 2, 3)), np.zeros((1, 2)), ["a"])
        >>> found.images[0][1].size, found.file_names()
        ((8, 8), ['a.png', 'a_k1.png'])
    """

    x: UInt8[np.ndarray, "n k c h w"]
    codes: Float[np.ndarray, "n k d"]
    losses: Float[np.ndarray, "n k"]
    names: list[str]

    @property
    def images(self) -> list[list[Image.Image]]:
        """`images[query][solution]` as Pillow pictures."""
        return [[to_picture(x) for x in solutions] for solutions in self.x]

    @classmethod
    def joined(cls, parts: "Iterable[Analogies]") -> "Analogies":
        """The answers of several batches, one after the other."""
        listed = [*parts]
        x, codes, losses = (np.concatenate([getattr(part, key) for part in listed]) for key in ARRAYS)
        return cls(x, codes, losses, [name for part in listed for name in part.names])

    def save_pngs(self, outdir: str | Path) -> int:
        """Write NAME.png, NAME_k1.png … for each query, each file whole; return how many.

        Raises:
            StorageError: `outdir` cannot be written, or is full.
        """
        with png_writer(Path(outdir), workers=0) as write:
            write(self.file_names(), self.x.reshape(-1, *self.x.shape[2:]))
        return self.x.shape[0] * self.x.shape[1]

    def file_names(self) -> list[str]:
        """NAME.png, NAME_k1.png … of each query, query by query."""
        return [name for query in self.names for name in file_names(query, self.x.shape[1])]

    def save_npz(self, outdir: str | Path) -> int:
        """Write analogies.npz with `x`, `codes`, `losses` and `names` as above; return 1, the number of files.

        Raises:
            StorageError: `outdir` cannot be written, or is full.
        """
        return save_npz(outdir, [self])


def file_names(query: str, solutions: int) -> list[str]:
    """NAME.png, NAME_k1.png … of a query. One that is itself called like a further solution gets a `_` more.

    >>> file_names("a", 2), file_names("a_k1", 2), file_names("a_k1", 1)
    (['a.png', 'a_k1.png'], ['a_k1_.png', 'a_k1__k1.png'], ['a_k1.png'])
    """
    stem = f"{query}_" if solutions > 1 and LIKE_A_SOLUTION.search(query) else query
    return [f"{stem}.png", *(f"{stem}_k{k}.png" for k in range(1, solutions))]


def find_answers(folder: Path) -> list[Path]:
    """What looks like answers in a folder: PNGs, and arrays called like ours."""
    with storage_errors(folder):
        return sorted(p for p in folder.glob("*") if p.suffix.lower() == ".png" or p.name == ARRAYS_FILE)


def refuse_foreign(folder: Path) -> None:
    """Leave alone what may be somebody else's, where no run has been: pictures, and arrays called like ours.

    Raises:
        UsageError: there are some; names the first.
    """
    if found := find_answers(folder):
        raise UsageError(f"{folder}: holds no translation, and its {found[0].name} might be lost; use another --outdir")


def own_answers(folder: Path) -> list[Path]:
    """The answers that an earlier run has left in a folder of its own.

    Raises:
        UsageError: there are pictures that namap has not written, too.
    """
    answers = find_answers(folder)
    if others := [path for path in answers if path.name != ARRAYS_FILE and not is_signed(path)]:
        raise UsageError(f"{folder}: namap has not written its {others[0].name}; move it, or use another --outdir")
    return answers


def remove_answers(folder: Path) -> None:
    """Delete the answers that an earlier run has left in a folder of its own.

    Raises:
        UsageError: as `own_answers`; nothing is deleted then.
    """
    with storage_errors(folder):
        for path in own_answers(folder):
            path.unlink()


def counted(parts: Iterable[Analogies], total: int | None = None, quiet: bool = False) -> Iterator[Analogies]:
    """The batches as they come, and a bar of their queries; `total`: how many there will be."""
    with tqdm(total=total, desc="translating", unit="img", disable=True if quiet else None) as bar:
        for part in parts:
            yield part
            bar.update(len(part.names))


def save_npz(outdir: str | Path, parts: Iterable[Analogies]) -> int:
    """Write analogies.npz from batches that come one by one, in constant memory; return 1, the number of files.

    An npz holds one array after the other, so that they wait on the disk until the last batch is there.

    Raises:
        StorageError: `outdir` cannot be written, or is full.
    """
    folder, names, shapes = Path(outdir), [], {}
    with storage_errors(folder), ExitStack() as stack:
        folder.mkdir(parents=True, exist_ok=True)
        waiting = {key: stack.enter_context(TemporaryFile(dir=folder)) for key in ARRAYS}
        for part in parts:
            names += part.names
            for key, file in waiting.items():
                array = np.ascontiguousarray(getattr(part, key))
                shapes[key] = (array.dtype, array.shape[1:])
                file.write(array.data)
        file = stack.enter_context(atomic_file(folder / ARRAYS_FILE))
        archive = stack.enter_context(zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED))
        for key, (dtype, shape) in shapes.items():
            header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": (len(names), *shape)}
            waiting[key].seek(0)
            with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                npy.write_array_header_2_0(member, header)
                shutil.copyfileobj(waiting[key], member)
        with archive.open("names.npy", "w", force_zip64=True) as member:
            npy.write_array(member, np.array(names))
    return 1
