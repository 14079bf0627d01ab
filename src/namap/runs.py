"""The directory of a run: whose it is, whether it has finished, its log."""

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from . import checkpoint, processes
from .errors import StorageError, UsageError
from .files import remove, storage_errors, sweep
from .pictures import is_signed

PICTURES = ("samples.png", "kinds.png")
OURS = ("checkpoints", "final", "metrics.jsonl", "tensorboard", *PICTURES, "metrics.json")  # a run replaces these
LEFT_BY_RUNS = (*OURS, "skipped.jsonl", "run.json")  # the record last: what is cut short is still a run
PARTS = ("before-the-vote", "kinds")  # runs within that of a fit with a vote
OUTCOME = "outcome"  # in the last of them, until the fit ends
REMEDY = "use --overwrite or another --outdir"
NAMED = 6  # differences of two runs, at most
PLACED = {"step", "images", "seconds"}  # of every line of the log
Row = dict[str, Any]  # a line of the log: numbers, and lists with a number for each dimension of the code


@contextmanager
def occupied(
    outdir: Path | None, wanted: dict[str, Any], overwrite: bool = False, remedy: str = REMEDY
) -> Iterator[bool]:
    """Hold `outdir` for the run of this identity; yield whether it has finished already, drop its checkpoints after.

    Without an `outdir` nothing is held and nothing has finished. Of several processes main holds it for all.

    Args:
        outdir: the directory.
        wanted: the identity.
        overwrite: an earlier run there makes room, whatever it was.
        remedy: what to do where the directory holds another run.

    Raises:
        UsageError: it holds a run of another identity, or another process has one; the differences are named. Or what
            is to make room is no run.
        StorageError: another process holds it, or it cannot be written.
    """
    agree(wanted)
    if outdir is None or not processes.is_main():
        yield processes.of_main(False)
        return
    with hold(outdir):
        if overwrite:
            clear(outdir)
        yield processes.of_main(claim(outdir, wanted, remedy))
        shutil.rmtree(outdir / "checkpoints", ignore_errors=True)


def agree(wanted: dict[str, Any]) -> None:
    """Make sure that all processes are about to do the same.

    Raises:
        UsageError: one of them has another configuration, other data or another version of a library.
    """
    first, *others = processes.everyones({"version": processes.versions(), **wanted, "source": None})
    for rank, other in enumerate(others, 1):
        if changed := differences(first, other):
            raise UsageError(
                f"process {rank} has another {'; '.join(changed)} than process 0; give all the same command, data and "
                "versions"
            )


@contextmanager
def hold(outdir: Path) -> Iterator[None]:
    """Let no second process work in `outdir`. The lock is the kernel's: it falls with its process.

    Raises:
        StorageError: it is held; names the process and its host.
    """
    with storage_errors(outdir):
        outdir.mkdir(parents=True, exist_ok=True)
        # Not through a link: what it leads to would be emptied.
        lock = os.open(outdir / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    with os.fdopen(lock, "r+", errors="replace") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StorageError(f"{outdir}: in use by {file.read(200)}; wait for it, or use another --outdir") from None
        with storage_errors(outdir):
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            for folder in (outdir, outdir / "checkpoints"):
                sweep(folder)
        yield


def clear(outdir: Path) -> None:
    """Delete an earlier run, and only what a run leaves, from a directory that is held.

    Raises:
        UsageError: what is there is no run of namap.
    """
    if not (outdir / "run.json").is_file() and any(path.name != ".lock" for path in outdir.iterdir()):
        raise UsageError(f"--overwrite: {outdir} does not look like a run of namap; delete it yourself")
    for part in (outdir / name for name in PARTS):
        remove_run(part)
    for path in (outdir / name for name in LEFT_BY_RUNS):
        there = path.exists() or path.is_symlink()
        if there and (path.name not in PICTURES or path.is_symlink() or is_signed(path)):
            remove(path)


def remove_run(home: Path) -> None:
    """Delete a run within another one, if there is one, and its directory where nothing else is in it."""
    if (home / "run.json").is_file() and not home.is_symlink():
        if (home / OUTCOME).is_dir():
            remove(home / OUTCOME)
        clear(home)
        remove_emptied(home)


def remove_emptied(home: Path) -> None:
    """Delete the directory of a run that has been cleared, unless something else is in it."""
    if all(path.name == ".lock" for path in home.iterdir()):
        remove(home)


def claim(outdir: Path, wanted: dict[str, Any], remedy: str = REMEDY) -> bool:
    """Take `outdir` for the run of this identity; return whether it has finished already (`final/` is there).

    The `source` of the data is recorded and may change: what they are decides, not where they are.

    Raises:
        UsageError: it holds a run of another identity; the differences are named. Or it holds what a run would
            overwrite or delete, and is no run.
        StorageError: it cannot be written.
    """
    record = outdir / "run.json"
    if record.exists():
        if changed := changes(checkpoint.read_json(record), wanted):
            raise UsageError(f"{outdir}: holds a run with another {'; '.join(changed)}; {going_on(changed, remedy)}")
    else:
        foreign = [name for name in OURS if (outdir / name).exists() or (outdir / name).is_symlink()]
        if foreign:
            raise UsageError(f"{outdir}: is no run of namap, and its {foreign[0]} would be lost; use another --outdir")
        with storage_errors(outdir):
            outdir.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(record, wanted)
    final = outdir / "final"
    if final.is_dir() and not final.is_symlink() and not (final / checkpoint.MANIFEST).is_file():
        remove(final)  # this run's, and damaged: found out now rather than when its successor is to be saved
    return (final / checkpoint.MANIFEST).is_file()


def load_result(outdir: Path) -> dict[str, Tensor]:
    """The tensors of a finished run, which main reads for all processes."""
    return processes.tensors_of_main(checkpoint.load_directory(outdir / "final")[0] if processes.is_main() else None)


def read_log(outdir: Path) -> list[Row]:
    """The rows of a run's `metrics.jsonl`; a last line cut short by a crash is left out.

    Raises:
        StorageError: another line is damaged.
    """
    path = outdir / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
    except (OSError, ValueError, RecursionError) as error:
        raise StorageError(f"{path}: damaged ({error}); delete it, it is only the log") from None
    lengths: dict[str, int | None] = {}
    for number, row in enumerate(rows, 1):
        whole = isinstance(row, dict) and row.keys() >= PLACED and type(row["step"]) is int
        if not whole or not all(_measured(v, lengths.setdefault(k, _length(v))) for k, v in row.items()):
            raise StorageError(f"{path}: damaged (line {number}); delete it, it is only the log")
    return rows


def _length(value: Any) -> int | None:
    return len(value) if isinstance(value, list) else None


def _measured(value: Any, length: int | None) -> bool:
    """Whether this is a number, or a list of so many."""
    numbers = value if isinstance(value, list) else [value]
    return _length(value) == length and all(type(v) in (int, float) and not abs(v) > 1e300 for v in numbers)


def read_record(outdir: Path) -> dict[str, Any]:
    """A run's `run.json`; empty where there is none.

    Raises:
        StorageError: it is damaged.
    """
    path = outdir / "run.json"
    record = checkpoint.read_json(path) if path.is_file() else {}
    kinds = {"task": dict, "run": dict, "data": (str, type(None)), "source": (str, type(None))}
    for name, kind in kinds.items():
        if name in record and not isinstance(record[name], kind):
            raise StorageError(f"{path}: damaged ({name})")
    return record


def precision_of(outdir: Path | None, precision: str, overwrite: bool) -> str:
    """The precision that a run goes on with under `auto`: the one that it began with, there or on another machine."""
    begun = outdir is not None and precision == "auto" and not overwrite and processes.is_main()
    record = read_record(outdir) if begun and outdir is not None else {}
    return processes.of_main(record.get("run", {}).get("precision", precision))


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """In what a run differs from the one of a record: each setting once, data by their sources, a few of many."""
    found = differences({**before, "source": None, "data": None}, {**now, "source": None, "data": None})
    settings = {name.split()[0].rpartition(".")[2] for name in found if not name.startswith("run.")}
    found = [name for name in found if name.split()[0] not in {f"run.{setting}" for setting in settings}]
    if before.get("data") != now.get("data"):
        same = before.get("source") == now.get("source")
        other = "changed since" if same else f"{before.get('source')}, now {now.get('source')}"
        found.insert(0, f"data ({other})")
    return found if len(found) <= NAMED else [*found[:NAMED], f"{len(found) - NAMED} more"]


def going_on(changed: list[str], remedy: str) -> str:
    """What to do about differences: where the precision alone is another one, that of before can be said."""
    if len(changed) == 1 and (precision := re.fullmatch(r"(?:\w+\.)*precision \((\w+), now \w+\)", changed[0])):
        return f"--precision {precision[1]} goes on with it"
    return remedy


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """`name (old, now new)` for every leaf in which two nested dictionaries differ."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, now = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(now, dict):
            found += differences(before, now, f"{prefix}{key}.")
        elif before != now:
            found.append(f"{prefix}{key} ({before}, now {now})")
    return found
