"""The answers of a translation, and how they are written."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from .checkpoint import atomic_file, storage_errors
from .data.images import to_picture


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
        ((8, 8), [['a.png', 'a_k1.png']])
    """

    x: UInt8[np.ndarray, "n k c h w"]
    codes: Float[np.ndarray, "n k d"]
    losses: Float[np.ndarray, "n k"]
    names: list[str]

    @property
    def images(self) -> list[list[Image.Image]]:
        """`images[query][solution]` as Pillow pictures."""
        return [[to_picture(x) for x in solutions] for solutions in self.x]

    def save_pngs(self, outdir: str | Path) -> int:
        """Write NAME.png, NAME_k1.png … for each query, each file whole; return how many.

        Raises:
            StorageError: `outdir` cannot be written, or is full.
        """
        folder = Path(outdir)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for names, solutions in zip(self.file_names(), self.images, strict=True):
                for name, picture in zip(names, solutions, strict=True):
                    with atomic_file(folder / name) as file:
                        picture.save(file, "PNG")
        return self.x.shape[0] * self.x.shape[1]

    def file_names(self) -> list[list[str]]:
        """NAME.png, NAME_k1.png … of each query."""
        return file_names(self.names, self.x.shape[1])

    def save_npz(self, outdir: str | Path) -> int:
        """Write analogies.npz with `x`, `codes`, `losses` and `names` as above; return 1, the number of files.

        Raises:
            StorageError: `outdir` cannot be written, or is full.
        """
        folder = Path(outdir)
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(folder / "analogies.npz") as file:
                np.savez_compressed(file, x=self.x, codes=self.codes, losses=self.losses, names=np.array(self.names))
        return 1


def file_names(queries: list[str], solutions: int) -> list[list[str]]:
    """NAME.png, NAME_k1.png … of each query; a `_` more where another query has such a name."""
    taken = {name.casefold() for name in queries}
    rows = []
    for name in queries:
        stems = [name]
        for k in range(1, solutions):
            stem = f"{name}_k{k}"
            while stem.casefold() in taken:
                stem += "_"
            taken.add(stem.casefold())
            stems.append(stem)
        rows.append([f"{stem}.png" for stem in stems])
    return rows
