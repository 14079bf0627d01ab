"""The directory of a run: whose it is, whether it has finished, its log."""

import json
import shutil
from pathlib import Path
from typing import Any

from . import checkpoint
from .errors import StorageError, UsageError


def claim(outdir: Path, wanted: dict[str, Any]) -> bool:
    """Take `outdir` for the run of this identity; return whether it has finished already (`final/` is there).

    Raises:
        UsageError: it holds a run of another identity; the differences are named.
        StorageError: it cannot be written.
    """
    record = outdir / "run.json"
    if record.exists():
        changed = differences(checkpoint.read_json(record), wanted)
        if changed:
            raise UsageError(
                f"{outdir}: holds a run with another {'; '.join(changed)}; use --overwrite or another --outdir"
            )
    else:
        try:
            outdir.mkdir(parents=True, exist_ok=True)
            checkpoint.write_json(record, wanted)
        except OSError as error:
            raise StorageError(f"{outdir}: cannot be written ({error.strerror})") from None
    return (outdir / "final" / checkpoint.MANIFEST).is_file()


def finish(outdir: Path) -> None:
    """Drop the checkpoints of a run whose `final/` is saved."""
    shutil.rmtree(outdir / "checkpoints", ignore_errors=True)


def read_log(outdir: Path) -> list[dict[str, float]]:
    """The rows of a run's `metrics.jsonl`; a last line cut short by a crash is left out."""
    path = outdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


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
