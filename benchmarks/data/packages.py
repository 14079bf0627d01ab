"""What the builders share: public packages, fetched by the package manager of the user, and files of arrays."""

import argparse
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from namap.console import end
from namap.errors import DataError, NamapError
from namap.files import atomic_file, storage_errors

COMMANDS = {  # kind of a package: what fetches it into the current directory
    "deb": ["apt-get", "download"],
    "pip": [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", "."],
    "npm": ["npm", "pack", "--silent"],
}
PATTERNS = {"deb": "{name}_*.deb", "pip": "{name}-*.whl", "npm": "{name}-*.tgz"}


@dataclass(frozen=True)
class Package:
    """A public package.

    Attributes:
        kind: deb, pip or npm.
        name: in its registry.
        version: that the recipe was written with; Debian's is what the machine's release has.
    """

    kind: str
    name: str
    version: str

    @property
    def requirement(self) -> str:
        """As its package manager wants it."""
        return {"deb": "{n}", "pip": "{n}=={v}", "npm": "{n}@{v}"}[self.kind].format(n=self.name, v=self.version)


def obtain(package: Package, given: Path | None, work: Path) -> Path:
    """The unpacked directory of a package: an installed or unpacked one, a file, or what its manager fetches.

    Args:
        package: which.
        given: a directory that holds its files, a file of it, or a directory of such files; None: fetch it.
        work: where it is fetched and unpacked to; what is there is taken.

    Raises:
        DataError: it cannot be fetched or is not there; says how to get it.
    """
    name = package.name.replace("-", "_") if package.kind == "pip" else package.name
    pattern = PATTERNS[package.kind].format(name=name)
    if given is not None and given.is_dir() and not any(given.glob(pattern)):
        return given
    work.mkdir(parents=True, exist_ok=True)
    file = given if given is not None and given.is_file() else newest(given or work, pattern)
    if file is None:
        fetch(package, work)
        file = newest(work, pattern)
    if file is None or not file.is_file():
        raise DataError(f"{given or work}: no {pattern} there; fetch it with: {command_line(package)}")
    target = work / f"{package.name}-unpacked"
    if not target.is_dir():
        unpack(file, target)
    return target


def newest(folder: Path, pattern: str) -> Path | None:
    """The last of the files that fit."""
    return max(folder.glob(pattern), default=None)


def fetch(package: Package, work: Path) -> None:
    """Have the package manager download it into `work`.

    Raises:
        DataError: there is no such manager here, or it failed.
    """
    command = [*COMMANDS[package.kind], package.requirement]
    try:
        done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    except OSError:
        raise DataError(
            f"{package.name}: {command[0]} is not on this machine; give the package with --package"
        ) from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DataError(f"{package.name}: `{command_line(package)}` failed ({why}); give the package with --package")


def command_line(package: Package) -> str:
    """What a user types to fetch a package."""
    short = {"deb": "apt-get download", "pip": "pip download --no-deps", "npm": "npm pack"}
    return f"{short[package.kind]} {package.requirement}"


def unpack(file: Path, target: Path) -> None:
    """Unpack a deb, wheel or npm archive; the directory is there only once it is whole."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if file.suffix == ".deb":
            subprocess.run(["dpkg-deb", "-x", str(file), str(part)], check=True, capture_output=True)
        elif file.suffix in (".whl", ".zip"):
            with zipfile.ZipFile(file) as archive:
                archive.extractall(part)
        else:
            with tarfile.open(file) as archive:
                archive.extractall(part, filter="data")
    except (OSError, subprocess.CalledProcessError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{file}: cannot be unpacked ({error})") from None
    part.rename(target)


def find(folder: Path, pattern: str) -> Path:
    """The file of this name in an unpacked package.

    Raises:
        DataError: it is not there.
    """
    found = next(iter(sorted(folder.rglob(pattern))), None)
    if found is None:
        raise DataError(f"{folder}: holds no {pattern}; is it another version of the package?")
    return found


# ---- images ------------------------------------------------------------------------------------------------------


def picture(image: Image.Image, side: int) -> np.ndarray:
    """RGB uint8 `[3 side side]` of a picture, on white where it is transparent."""
    image = image.convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    page.alpha_composite(image)
    if page.size != (side, side):
        page = page.resize((side, side), Image.Resampling.BOX if page.width > side else Image.Resampling.BICUBIC)
    return np.asarray(page.convert("RGB")).transpose(2, 0, 1)


def pad(images: np.ndarray, side: int = 32) -> np.ndarray:
    """`[n h h]` with zeros around, as `[n 1 side side]`."""
    margin = (side - images.shape[1]) // 2
    return np.pad(images, ((0, 0), (margin, margin), (margin, margin)))[:, None]


def balanced(labels: np.ndarray, classes: list[int], per_class: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffled rows, `per_class` of each class.

    Raises:
        DataError: a class has fewer.
    """
    rows = [rng.permutation(np.flatnonzero(labels == c))[:per_class] for c in classes]
    if any(len(r) < per_class for r in rows):
        raise DataError(f"{per_class} images a class asked for; there are {min(map(len, rows))}")
    return rng.permutation(np.concatenate(rows))


# ---- the command line of a builder -------------------------------------------------------------------------------

Build = Callable[[argparse.Namespace], dict[str, np.ndarray]]


def main(doc: str, file: str, counts: tuple[int, int], build: Build) -> None:
    """Run a builder: read its arguments, build, write `file` into the output directory."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("../shared/data"), help="directory of the data files")
    parser.add_argument("--package", type=Path, help="the downloaded or installed package, or a directory of several")
    parser.add_argument("--work", type=Path, default=Path("runs/packages"), help="where packages are fetched to")
    parser.add_argument("--count", type=int, default=counts[0], help="training images")
    parser.add_argument("--test-count", type=int, default=counts[1])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        if min(arguments.count, arguments.test_count) < 1:
            raise DataError("--count, --test-count: expected 1 or more")
        arrays = build(arguments)
        save(arguments.output / file, arrays)
    except NamapError as error:
        end(error)
    print(f"{arguments.output / file}: {', '.join(f'{k} {v.shape}' for k, v in arrays.items())}")


def save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz, whole or not at all."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(path), atomic_file(path) as file:
        np.savez_compressed(file, **arrays)  # pyright: ignore[reportArgumentType]
