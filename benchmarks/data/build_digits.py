"""digits_mnist5k.npz: MNIST digits from OpenCV's sample sheet, enlarged back to 28x28 and padded to 32x32.

    python -m benchmarks.data.build_digits --output DATA

Source: Debian package opencv-doc (Apache-2.0, BSD-3-Clause), digits.png: 5000 digits in cells of 20x20 pixels, which
are MNIST's pictures (Y. LeCun, C. Cortes, C. Burges) reduced from 28x28.
"""

import argparse

import numpy as np
from PIL import Image

from .packages import Package, balanced, find, main, obtain, pad

PACKAGE = Package("deb", "opencv-doc", "4.6.0+dfsg-12")
CELL, SIDE, ROWS_OF_A_CLASS = 20, 28, 5


def cells(sheet: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The digits of the sheet, uint8 `[5000 28 28]`, and their classes: five rows of the sheet each."""
    grey = np.asarray(sheet.convert("L"))
    rows, columns = grey.shape[0] // CELL, grey.shape[1] // CELL
    tiles = grey.reshape(rows, CELL, columns, CELL).transpose(0, 2, 1, 3).reshape(-1, CELL, CELL)
    large = [np.asarray(Image.fromarray(t).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for t in tiles]
    return np.stack(large), np.repeat(np.arange(rows) // ROWS_OF_A_CLASS, columns)


def build(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """A class-balanced split of the sheet."""
    folder = obtain(PACKAGE, arguments.package, arguments.work)
    with Image.open(find(folder, "digits.png")) as sheet:
        images, labels = cells(sheet)
    train, test = arguments.count // 10, arguments.test_count // 10
    rng = np.random.default_rng(arguments.seed)
    chosen = balanced(labels, list(range(10)), train + test, rng)
    rank = np.zeros(len(labels), int)  # of a chosen row within its class
    for c in range(10):
        rank[chosen[labels[chosen] == c]] = np.arange(train + test)
    arrays = {}
    for split, rows in (("train", chosen[rank[chosen] < train]), ("test", chosen[rank[chosen] >= train])):
        arrays |= {f"x_{split}": pad(images[rows]), f"y_{split}": labels[rows].astype(np.uint8)}
    return arrays


if __name__ == "__main__":
    main(__doc__ or "", "digits_mnist5k.npz", (4000, 500), build)
