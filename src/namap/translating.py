"""Translate queries of any number into a folder: in constant memory, and a second time only what is missing."""

import json
from collections.abc import Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from . import checkpoint, processes
from .analogies import Analogies, counted, file_names, refuse_foreign, remove_answers, save_npz
from .data import QueryStream
from .data.batches import never
from .data.domain import write_skipped
from .errors import UsageError
from .files import storage_errors
from .mapping import Mapping
from .pictures import png_writer, usual_workers
from .runs import REMEDY, differences, going_on, hold

RECORD = "translation.json"


def translate_files(
    mapping: Mapping,
    queries: QueryStream,
    outdir: str | Path,
    *,
    solutions: int = 1,
    refine: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    batch_size: int = 256,
    npz: bool = False,
    workers: int | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> int:
    """Write NAME.png, NAME_k1.png … of each query, or analogies.npz, in constant memory.

    A PNG that an interrupted run of the same model, source and options has left is not made again, unless its query
    has changed since; a batch in which one is missing is computed as a whole, so that what two runs leave together is
    what one would have left. An npz is written as a whole at the end. Pictures that no translation has left are never
    overwritten.

    Args:
        mapping: fitted.
        queries: from `open_queries`.
        outdir: where the analogies go; `translation.json` says there of what they are.
        solutions: as in `Mapping.translate`, and so are `refine`, `seed` and `temperature`.
        batch_size: queries at a time; memory grows with it.
        npz: one analogies.npz in place of PNGs.
        workers: processes that encode PNGs; None: half of the cores; 0: none, which a script without the guard
            `if __name__ == "__main__"` needs.
        overwrite: translate again; the pictures of the translation that is there make room.
        quiet: no progress bar.

    Returns:
        How many files were written; others may have been there.

    Raises:
        DataError: no query, or too many of a folder's cannot be read.
        StorageError: `outdir` cannot be written, is full, or another process works there.
        UsageError: `outdir` holds analogies of another model, source or other options, or pictures of something else.
    """
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: use 1 or more")
    folder = Path(outdir)
    asked = {"solutions": solutions, "refine": refine, "seed": seed, "temperature": temperature}
    mapping.check_search(solutions, refine, temperature)  # before the folder is claimed for what cannot be
    if npz and processes.count() > 1:
        raise UsageError("--npz: one file, which one process writes; leave it out, or start one")
    if not (folder / RECORD).exists():
        refuse_foreign(folder)  # before a lock is left among somebody's pictures
    with hold(folder) if processes.is_main() else nullcontext():
        how = {"npz": True} if npz else {"batch_size": batch_size}
        wanted = identity(mapping, queries.identity, {**asked, **how})
        since = processes.of_main(claim(folder, wanted, overwrite) if processes.is_main() else None)
        if npz:
            batches = queries.read(batch_size, never)
            parts = counted(mapping.translate_batches(batches, **asked), queries.total, quiet)
            written = save_npz(folder, parts)
        else:
            batches = queries.read(batch_size, partial(has_finished, folder, solutions, since))
            parts = counted(mapping.translate_batches(batches, **asked), queries.total, quiet)
            written = write_parts(folder, parts, usual_workers() if workers is None else workers)
        queries.skipped = [(name, why) for part in processes.everyones(queries.skipped) for name, why in part]
        queries.total = sum(total or 0 for total in processes.everyones(queries.total))
        if processes.is_main():
            note_skipped(folder, queries.skipped)
        return sum(processes.everyones(written))


def write_parts(folder: Path, parts: Iterable[Analogies], workers: int) -> int:
    """Write the PNGs of batches as these come; how many."""
    written = 0
    with png_writer(folder, workers) as write:
        for part in parts:
            names = part.file_names()
            write(names, part.x.reshape(len(names), *part.x.shape[2:]))
            written += len(names)
    return written


def identity(mapping: Mapping, queries: str, asked: dict[str, Any]) -> dict[str, Any]:
    """What decides the pictures: the model, the source of the queries, the options."""
    return json.loads(json.dumps({"model": mapping.identity, "queries": queries, **asked}))


def claim(folder: Path, wanted: dict[str, Any], overwrite: bool) -> int:
    """Take a folder for a translation; the time (ns) since which its files are of this one.

    Raises:
        UsageError: it holds another one, whose differences are named, or what a translation might overwrite, and is
            none.
        StorageError: its record is damaged, or it cannot be written.
    """
    record = folder / RECORD
    if not record.exists():
        refuse_foreign(folder)
    elif overwrite:
        remove_answers(folder)
    else:
        refuse_another(folder, checkpoint.read_json(record), wanted)
    if overwrite or not record.exists():
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
        checkpoint.write_json(record, wanted)
    return record.stat().st_mtime_ns


def refuse_another(folder: str | Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Name the differences of two translations, where there are any."""
    changed = differences(found, wanted)
    if changed:
        others = f"holds other analogies: {'; '.join(changed)}"
        raise UsageError(f"{folder}: {others}; {going_on(changed, REMEDY)}")


def has_finished(folder: Path, solutions: int, since: int, name: str, changed: int) -> bool:
    """Whether every picture of a query is there, and younger than the query and the record of the translation."""
    for file in file_names(name, solutions):
        try:
            found = (folder / file).stat()
        except OSError:
            return False
        if found.st_mtime_ns < max(since, changed) or not found.st_size:  # empty after a power cut
            return False
    return True


def note_skipped(folder: Path, skipped: list[tuple[str, str]]) -> None:
    """Leave the list of the queries that could not be read, and no older one."""
    if skipped:
        write_skipped(folder, skipped)
    else:
        with storage_errors(folder):
            (folder / "skipped.jsonl").unlink(missing_ok=True)
