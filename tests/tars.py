"""Queries in WebDataset shards, which the tests of streams and of several processes share."""

import io
import tarfile
from pathlib import Path

import numpy as np

from namap.pictures import encode_png

SHARDS, EACH = 4, 12


def pictures() -> np.ndarray:
    """All of them, uint8 `[n 1 32 32]`."""
    return np.random.default_rng(0).integers(0, 256, (SHARDS * EACH, 1, 32, 32), np.uint8)


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))


def write_tars(folder: Path) -> str:
    """Shards of pictures, each with its class beside it; one more picture is damaged. Returns the source."""
    images = pictures()
    for shard in range(SHARDS):
        files = {}
        for i in range(shard * EACH, (shard + 1) * EACH):
            files |= {f"digit {i:03d}.cls": b"3", f"digit {i:03d}.png": encode_png(images[i])}
        write_tar(folder / f"q-{shard}.tar", files | ({"broken.png": b"no picture"} if shard == 2 else {}))
    return f"webdataset:{folder}/q-{{0..3}}.tar"
