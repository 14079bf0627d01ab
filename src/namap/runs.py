"""The directory of a run: whose it is, whether it has finished, its log."""

import fcntl
import json
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from . import checkpoint, processes
from .errors import StorageError, UsageError
from .files import storage_errors, sweep

Row = dict[str, Any]  # a line of the log: numbers, and lists with a number for each dimension of the code


@contextmanager
def occupied(outdir: Path | None, wanted: dict[str, Any]) -> Iterator[bool]:
    """Hold `outdir` for the run of this identity; yield whether it has finished already, drop its checkpoints after.

    Without an `outdir` nothing is held and nothing has finished. Of several processes main holds it for all.

    Raises:
        UsageError: it holds a run of another identity, or another process has one; the differences are named.
        StorageError: another process holds it, or it cannot be written.
    """
    agree(wanted)
    if outdir is None or not processes.is_main():
        yield processes.of_main(False)
        return
    with hold(outdir):
        yield processes.of_main(claim(outdir, wanted))
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
        file = (outdir / ".lock").open("a+")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise StorageError(f"{outdir}: in use by {file.read()}; wait for it, or use another --outdir") from None
        with storage_errors(outdir):
            file.truncate(0)
            os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            for folder in (outdir, outdir / "checkpoints"):
                sweep(folder)
        yield


def claim(outdir: Path, wanted: dict[str, Any]) -> bool:
    """Take `outdir` for the run of this identity; return whether it has finished already (`final/` is there).

    The `source` of the data is recorded and may change: what they are decides, not where they are.

    Raises:
        UsageError: it holds a run of another identity; the differences are named.
        StorageError: it cannot be written.
    """
    record = outdir / "run.json"
    if record.exists():
        changed = differences({**checkpoint.read_json(record), "source": None}, {**wanted, "source": None})
        if changed:
            raise UsageError(
                f"{outdir}: holds a run with another {'; '.join(changed)}; use --overwrite or another --outdir"
            )
    else:
        with storage_errors(outdir):
            outdir.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(record, wanted)
    return (outdir / "final" / checkpoint.MANIFEST).is_file()


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
    if not all(isinstance(row, dict) and isinstance(row.get("step"), int) for row in rows):
        raise StorageError(f"{path}: damaged (a line without its step); delete it, it is only the log")
    return rows


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
