"""Directories that are complete or absent: safetensors + JSON + a sha256 manifest. No pickle anywhere.

A directory is written beside its final place, flushed to disk, and renamed. `manifest.json` holds the
sha256 of every file and is checked before anything is read: safetensors alone loads flipped bits silently.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import StorageError, UsageError
from .files import beside, storage_errors, write_file

MANIFEST = "manifest.json"
TENSORS = "model.safetensors"
CONFIG = "config.json"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # what Adam keeps of a parameter
MAX_JSON = 16_000_000  # bytes; what namap writes takes some kilobytes


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a scratch directory that becomes `target`, with its manifest, when the block ends without error.

    Raises:
        StorageError: the disk is full or the place cannot be written, or `target` holds what namap did not save; it is
            then as it was.
    """
    with storage_errors(target):
        if not _replaceable(target):
            raise StorageError(
                f"{target}: holds files that namap did not save, and would be replaced; use another place"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch, old = beside(target), beside(target)
        try:  # before anything exists: a signal may raise between any two lines
            scratch.mkdir()
            yield scratch
            sums = {p.name: file_sha256(p) for p in sorted(scratch.iterdir())}
            write_json(scratch / MANIFEST, {"sha256": sums})
            for path in (*scratch.iterdir(), scratch):
                _flush(path)
            if target.exists():
                target.rename(old)
            scratch.rename(target)
            _flush(target.parent)
        finally:
            if old.exists() and not target.exists():
                old.rename(target)
            for path in (scratch, old):
                shutil.rmtree(path, ignore_errors=True)


def _replaceable(target: Path) -> bool:
    """Whether nobody loses anything when `target` is replaced: it is absent, empty, or was saved by namap."""
    if not target.exists() and not target.is_symlink():
        return True
    return target.is_dir() and not target.is_symlink() and ((target / MANIFEST).is_file() or not any(target.iterdir()))


def save_directory(target: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write `model.safetensors` and `config.json` atomically."""
    with atomic_directory(target) as scratch:
        # Contiguous copies: safetensors refuses views that share memory and channels-last strides.
        plain = {k: t.detach().cpu().contiguous() for k, t in tensors.items()}
        try:
            save_file({k: t.clone() if t.numel() else t for k, t in plain.items()}, scratch / TENSORS)
        except SafetensorError as error:  # its way to say that the disk is full
            raise StorageError(f"{target}: cannot be written ({error})") from None
        write_json(scratch / CONFIG, config)
        # safetensors lets none but the owner read what it writes; the other files say what is usual here.
        (scratch / TENSORS).chmod((scratch / CONFIG).stat().st_mode)


def load_directory(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_directory` wrote: (tensors, config).

    Raises:
        StorageError: a file is missing, damaged, or not of the format; nothing of it is used.
    """
    verify(source)
    try:
        return load_file(source / TENSORS), read_json(source / CONFIG)
    except (SafetensorError, OSError, TypeError, ValueError, RuntimeError) as error:  # a stranger's types and shapes
        raise StorageError(f"{source / TENSORS}: not a safetensors file ({error})") from None


def find_model(path: str | Path) -> Path:
    """The saved model at `path`: the directory itself, or `final/` in the output directory of a run.

    Raises:
        UsageError: there is none, or the run has not finished.
    """
    path = Path(path)
    for candidate in (path, path / "final"):
        if (candidate / MANIFEST).is_file():
            return candidate
    if path.is_file():
        raise UsageError(f"{path}: not a model directory; namap loads directories that it saved, never pickles")
    if not path.is_dir():
        raise UsageError(f"{path}: no such directory; give the --outdir of a namap fit or train-generator")
    if (path / "checkpoints").is_dir():
        raise UsageError(f"{path}: this run has not finished; run its command again to go on")
    verify(path)  # raises: says what a directory without a manifest is
    raise AssertionError


def open_model(path: str | Path, kind: str) -> tuple[Path, dict[str, Tensor], dict[str, Any]]:
    """A saved model of this kind: where it lies, its tensors and its configuration, checked against the manifest.

    Args:
        path: as in `find_model`.
        kind: `generator`, `mapping`, `mapper` or `classifier`.

    Raises:
        UsageError: nothing there, or a model of another kind.
        StorageError: damaged files.
    """
    source = find_model(path)
    tensors, config = load_directory(source)
    if config.get("format") != f"namap-{kind}":
        raise UsageError(f"{source}: holds a {config.get('format', 'foreign model')}, not a {kind}")
    return source, tensors, config


def verify(source: Path) -> None:
    """Check every file of a directory against its manifest.

    Raises:
        StorageError: names the file that is missing, no plain file, or changed.
    """
    if not _plain(source / MANIFEST):
        pickles = sorted(p.name for p in source.glob("*") if p.suffix in (".pt", ".pth", ".pkl", ".bin", ".ckpt"))
        hint = f"; {pickles[0]} is a pickle, which namap never loads" if pickles else ""
        raise StorageError(f"{source}: not a directory that namap saved (no {MANIFEST}){hint}")
    sums = read_json(source / MANIFEST).get("sha256")
    if not isinstance(sums, dict) or not {TENSORS, CONFIG} <= sums.keys():
        raise StorageError(f"{source / MANIFEST}: damaged manifest")
    for name, expected in sums.items():
        path = source / name
        if Path(name).name != name or not _plain(path):
            raise StorageError(f"{path}: missing, or not a plain file of this directory")
        if file_sha256(path) != expected:
            raise StorageError(f"{path}: damaged (its sha256 is not the manifest's); restore it or train again")


def _plain(path: Path) -> bool:
    """Whether this is a file of its directory, or, in a snapshot of the hub's cache, of the blobs beside it."""
    if not path.is_symlink():
        return path.is_file()
    snapshots = path.parent.parent
    target = path.resolve()
    return snapshots.name == "snapshots" and target.parent == snapshots.parent.resolve() / "blobs" and target.is_file()


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or not at all."""
    write_file(path, (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StorageError: unreadable or not an object.
    """
    try:
        if path.stat().st_size > MAX_JSON:
            raise ValueError(f"over {MAX_JSON // 10**6} MB")
        content = path.read_text()
    except (OSError, ValueError) as error:
        raise StorageError(f"{path}: not readable JSON ({error})") from None
    return parse_json(content, path)


def parse_json(content: str | bytes, where: str | Path) -> dict[str, Any]:
    """The JSON object that was read from `where`.

    Raises:
        StorageError: it is damaged, or something else.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{where}: not readable JSON ({error})") from None
    if not isinstance(value, dict):
        raise StorageError(f"{where}: not a JSON object")
    return value


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`{name: t}` as `{prefix.name: t}`."""
    return {f"{prefix}.{k}": t for k, t in tensors.items()}


def without_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.`, with the prefix taken off."""
    return {k[len(prefix) + 1 :]: t for k, t in tensors.items() if k.startswith(f"{prefix}.")}


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Short sha256 of names, types, shapes and values."""
    found = hashlib.sha256()
    for name, t in sorted(tensors.items()):
        found.update(f"{name} {t.dtype} {tuple(t.shape)}".encode())
        found.update(t.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def load_weights(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Load weights strictly. A module that was built on the meta device, without memory, takes the tensors over.

    Raises:
        StorageError: names the first missing, unknown or misshapen tensor.
    """
    own = module.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors or name not in own:
            raise StorageError(f"{where}: tensor {name} is {'missing' if name not in tensors else 'unknown'}")
        if own[name].shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)}, expected {tuple(own[name].shape)}"
            raise StorageError(f"{where}: tensor {name} has shape {shapes}")
        if own[name].dtype != tensors[name].dtype:
            raise StorageError(f"{where}: tensor {name} is {tensors[name].dtype}, expected {own[name].dtype}")
    module.load_state_dict(tensors, assign=any(t.is_meta for t in own.values()))


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors `INDEX.KEY`; learning rates are not state here, the schedule sets them."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, row in state.items() for key, value in row.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], where: str | Path) -> None:
    """Put back what `optimizer_tensors` took.

    Moments take the strides of their parameter: a fused optimizer walks through memory, and would pair the numbers of
    a channels-last weight with the wrong moments.

    Raises:
        StorageError: names the first tensor that this optimizer does not have, or that has another shape there.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    shapes = {
        f"{i}.{key}": torch.Size() if key == "step" else p.shape for i, p in enumerate(parameters) for key in MOMENTS
    }
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition(".")
        odd = key == "step" and not torch.isfinite(value).all()
        if odd or shapes.get(name) != value.shape or any(f"{index}.{other}" not in tensors for other in MOMENTS):
            raise StorageError(f"{where}: tensor {name} of an optimizer does not fit this run")
        row = state.setdefault(int(index), {})
        if key == "step":
            row[key] = int(value) if isinstance(optimizer, torch.optim.SparseAdam) else value.float()
        else:
            row[key] = torch.empty_like(parameters[int(index)]).copy_(value)
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def file_sha256(path: Path) -> str:
    """Hexadecimal sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
