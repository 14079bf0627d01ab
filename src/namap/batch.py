"""Translate on a cluster: Ray Data reads the queries, each actor holds one model, the answers go to Parquet files."""

import contextlib
import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .checkpoint import parse_json
from .data.images import SUFFIXES, UnreadableImage, read_image
from .data.places import keep_apart, list_files, open_place
from .errors import DataError, NamapError, StorageError, UsageError
from .mapping import Mapping
from .pictures import encode_png
from .translating import identity, refuse_another

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow import fs
    from ray.data import Dataset

RECORD = "_translation.json"  # readers of Parquet pass over names that begin with _
ID, CONTENT = "id", "content"
PARQUET = frozenset({".parquet"})


class Rows(NamedTuple):
    """What lies in the Parquet files of a directory.

    Attributes:
        rows: answers and errors together.
        errors: rows that have an error in place of an answer.
        written: rows of this run.
    """

    rows: int
    errors: int
    written: int


class Found(NamedTuple):
    """The files of a source: Parquet, or pictures."""

    system: "fs.FileSystem"
    place: str
    files: list[str]
    parquet: bool


def translate_on_ray(
    model: str | Path,
    source: str,
    outdir: str,
    *,
    column: str | None = None,
    id_column: str = ID,
    actors: int | None = None,
    batch_size: int = 256,
    refine: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    overwrite: bool = False,
    quiet: bool = False,
    **options: Any,
) -> Rows:
    """Write `{id, analogy_png, code, loss, error}`, one row a query, as Parquet files.

    Works on the cluster that `RAY_ADDRESS` or an earlier `ray.init` names, else on this machine. Ray Data reads no
    faster than the actors answer, and starts an actor again that was lost, with the batch that it had. The same call
    goes on after an interruption: rows in whole files are kept, and their queries are not computed again.

    Args:
        model: a saved mapping, at a place that every machine sees, or `owner/name` on the hub.
        source: a folder of pictures, or Parquet files (a folder, or one file) with a column of encoded pictures; a path
            or a URI that pyarrow opens, e.g. `s3://bucket/queries`.
        outdir: a directory, or a URI.
        column: of the pictures, in Parquet; None: the only one of bytes.
        id_column: in Parquet; where there is none, an id is made of the file and the place in it. A picture of a folder
            has its path within it.
        actors: how many; None: one for each GPU, else for each processor but one, which reads.
        batch_size: queries at a time in an actor.
        refine: as in `Mapping.translate`, and so are `seed` and `temperature`.
        overwrite: delete the rows that are there first.
        quiet: no progress bars.
        **options: device, precision, generator and so on, as in `Mapping.from_pretrained`.

    Raises:
        DataError: nothing to read, or no column of pictures.
        StorageError: `outdir` cannot be written, or the work was given up.
        UsageError: Ray is not installed, or `outdir` lies in `source` or holds another translation.
    """
    ray = import_ray()
    with ray_errors(ray, source, outdir):
        keep_apart(outdir, source)
    mapping = Mapping.from_pretrained(model, **options)
    how = {"refine": refine, "seed": seed, "temperature": temperature}
    with ray_errors(ray, source, outdir), on_cluster(ray, quiet):
        found, (system, place) = find_files(source), open_place(outdir)
        asked = {**how, "column": column, "id_column": id_column}
        done = claim(system, place, identity(mapping, found.place, asked), overwrite)
        dataset = read_rows(ray, found, column, id_column, done) if found.parquet else read_pictures(ray, found, done)
        if dataset is None:
            return count_rows(system, place, len(done))
        answers = dataset.map_batches(
            Translator,
            # The precision that is in the identity: what `auto` means is not for each actor to find out.
            fn_constructor_kwargs={
                "model": str(model),
                "how": how,
                "options": {**options, "precision": mapping.precision},
            },
            batch_size=batch_size,
            batch_format="pyarrow",
            zero_copy_batch=True,
            **share_out(ray, mapping.device, actors),
        )
        answers.write_parquet(place, filesystem=system)
        return count_rows(system, place, len(done))


def share_out(ray: Any, device: torch.device, actors: int | None) -> dict[str, Any]:
    """How many actors, and what each of them reserves: where they took every processor, nobody could read."""
    cluster = ray.cluster_resources()
    cpus, gpus = int(cluster["CPU"]), int(cluster.get("GPU", 0)) if device.type == "cuda" else 0
    actors = actors or gpus or max(1, cpus - 1)
    pool = ray.data.ActorPoolStrategy(size=actors)
    return {"compute": pool, "num_cpus": int(actors < cpus), "num_gpus": min(1, gpus)}


class Translator:
    """An actor: one model, which answers tables of `{id, content}`.

    Args:
        model: its place.
        how: `refine`, `seed` and `temperature`.
        options: of `Mapping.from_pretrained`.
    """

    def __init__(self, model: str, how: dict[str, Any], options: dict[str, Any]):
        import ray

        torch.set_num_threads(max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1))))
        self.mapping, self.how = Mapping.from_pretrained(model, **options), how

    def __call__(self, table: "pa.Table") -> "pa.Table":
        """One row for each query: its answer, or what is wrong with it."""
        import pyarrow as pa

        names, contents = (table[column].to_pylist() for column in (ID, CONTENT))
        rows: list[dict[str, Any]] = []
        images = []
        for name, content in zip(names, contents, strict=True):
            rows.append({ID: name})
            try:
                images.append(self.read(content))
            except UnreadableImage as error:
                rows[-1]["error"] = str(error)
        if images:
            sound = [row for row in rows if "error" not in row]
            batch = ([row[ID] for row in sound], np.stack(images))
            (found,) = self.mapping.translate_batches([batch], **self.how)
            for row, x, z, loss in zip(sound, found.x, found.codes, found.losses, strict=True):
                row |= {"analogy_png": encode_png(x[0]), "code": z[0].tolist(), "loss": float(loss[0])}
        return pa.Table.from_pylist(rows, schema())

    def read(self, content: bytes | None) -> np.ndarray:
        """A picture at the size of the mapping.

        Raises:
            UnreadableImage: it is not one, or is missing.
        """
        if content is None:
            raise UnreadableImage("is missing")
        return read_image(io.BytesIO(content), self.mapping.channels, self.mapping.image_size)


def schema() -> "pa.Schema":
    """Columns of the answers: without it, a file with errors alone would have others."""
    import pyarrow as pa

    floats = pa.list_(pa.float32())
    kinds = {ID: pa.string(), "analogy_png": pa.binary(), "code": floats, "loss": pa.float32(), "error": pa.string()}
    return pa.schema([*kinds.items()])


def import_ray() -> Any:
    """Ray with Ray Data.

    Raises:
        UsageError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError("--engine ray needs Ray: pip install 'namap[ray]'") from None
    return ray


@contextlib.contextmanager
def on_cluster(ray: Any, quiet: bool) -> Iterator[None]:
    """The cluster that is connected or that RAY_ADDRESS names, else one of this machine, which ends with the work."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = not quiet
    if ray.is_initialized():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():  # Ray has its own, with another exit code
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def ray_errors(ray: Any, source: str, outdir: str) -> Iterator[None]:
    """Turn what Ray and pyarrow raise into a NamapError."""
    try:
        yield
    except NamapError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{source}: {_last_line(error)}") from error
    except (ray.exceptions.RayError, OSError) as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, NamapError):
            cause = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, NamapError):
            raise cause from error
        raise StorageError(f"{outdir}: given up ({_last_line(error)}); run the same command again") from error


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__


def claim(system: "fs.FileSystem", place: str, wanted: dict[str, Any], overwrite: bool) -> np.ndarray:
    """Take a directory for a translation; the ids of the answers that it holds already, sorted.

    A file that a killed process has left without its end is deleted.

    Raises:
        UsageError: it holds another translation; the differences are named.
    """
    import pyarrow as pa
    from pyarrow import parquet

    record, ids = f"{place}/{RECORD}", []
    system.create_dir(place, recursive=True)
    known = system.get_file_info(record).is_file
    if known and not overwrite:
        with system.open_input_stream(record) as file:
            refuse_another(place, parse_json(file.read(), record), wanted)
    elif not known and answer_files(system, place):
        raise UsageError(f"{place}: holds Parquet files of something else; use another --outdir")
    else:
        for path in answer_files(system, place):
            system.delete_file(path)
        with system.open_output_stream(record) as file:
            file.write(json.dumps(wanted, indent=2).encode())
    for path in answer_files(system, place):
        try:
            ids.append(parquet.read_table(path, columns=[ID], filesystem=system)[ID].to_numpy().astype(str))
        except pa.ArrowInvalid:
            system.delete_file(path)
    return np.sort(np.concatenate(ids)) if ids else np.empty(0, str)


def answer_files(system: "fs.FileSystem", place: str) -> list[str]:
    """The Parquet files of a translation: those directly in its directory. What lies below is somebody else's."""
    return [path for path in list_files(system, place, PARQUET) if path.rpartition("/")[0] == place.rstrip("/")]


def count_rows(system: "fs.FileSystem", place: str, before: int) -> Rows:
    """What the Parquet files of a directory hold, of which `before` rows were there already."""
    from pyarrow import parquet

    rows = errors = 0
    for path in answer_files(system, place):
        column = parquet.read_table(path, columns=["error"], filesystem=system)["error"]
        rows, errors = rows + len(column), errors + len(column) - column.null_count
    return Rows(rows, errors, rows - before)


def find_files(source: str) -> Found:
    """The files that a path or a URI stands for: Parquet, or where there is none, pictures.

    Raises:
        DataError: nothing there.
    """
    system, place = open_place(source)
    for suffixes in (PARQUET, SUFFIXES):
        files = list_files(system, place, suffixes)
        if files:
            return Found(system, place, files, suffixes is PARQUET)
    kinds = ", ".join(sorted(SUFFIXES | PARQUET))
    raise DataError(f"{source}: no files ({kinds}) there; give a folder, a Parquet file or a URI of one")


def read_pictures(ray: Any, found: Found, done: np.ndarray) -> "Dataset | None":
    """Pictures as a data set of `{id, content}`, without those that are done; None where all are."""
    folder = found.place.rpartition("/")[0] if found.files == [found.place] else found.place.rstrip("/")
    root, known = f"{folder}/", {*done.tolist()}
    files = [f for f in found.files if f.removeprefix(root) not in known]
    if not files:
        return None
    dataset = ray.data.read_binary_files(files, filesystem=found.system, include_paths=True)
    return dataset.map_batches(_name, fn_kwargs={"root": root}, batch_format="pyarrow", zero_copy_batch=True)


def read_rows(ray: Any, found: Found, column: str | None, id_column: str, done: np.ndarray) -> "Dataset":
    """Rows of Parquet files as a data set of `{id, content}`, without those that are done."""
    dataset = ray.data.read_parquet(found.files, filesystem=found.system, include_paths=True, include_row_hash=True)
    picked = pick_columns(found.place, dataset.schema().base_schema, column, id_column)
    how = {**picked, "done": done}
    return dataset.map_batches(_rename, fn_kwargs=how, batch_format="pyarrow", zero_copy_batch=True)


def _name(table: "pa.Table", root: str) -> "pa.Table":
    """Files as `{id, content}`: a file has its path in the folder as its id."""
    import pyarrow as pa

    names = [path[path.index(root) + len(root) :] for path in table["path"].to_pylist()]
    return pa.table({ID: names, CONTENT: table["bytes"]})


def _rename(table: "pa.Table", column: str, id_column: str | None, done: np.ndarray) -> "pa.Table":
    """Rows of Parquet files as `{id, content}`, without those that are done."""
    import pyarrow as pa

    content = table[column].to_pylist()
    places = zip(table["path"].to_pylist(), table["row_hash"].to_pylist(), strict=True)
    names = [f"{Path(path).stem}-{place:016x}" for path, place in places]
    if id_column:
        ids = table[id_column].to_pylist()
        names = [name if own is None else str(own) for own, name in zip(ids, names, strict=True)]
    content = [c.get("bytes") if isinstance(c, dict) else c for c in content]
    found = pa.table({ID: pa.array(names, pa.string()), CONTENT: pa.array(content, pa.large_binary())})
    return found.filter(~np.isin(np.array(names, str), done))


def pick_columns(source: str, found: "pa.Schema", column: str | None, id_column: str) -> dict[str, str | None]:
    """The column of pictures (bytes, or a struct with `bytes`, as Hugging Face writes it) and that of ids.

    Raises:
        DataError: there is none, or several.
    """
    import pyarrow as pa

    def holds_bytes(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    names = [field.name for field in found if holds_bytes(field.type)]
    if column is None and len(names) == 1:
        column = names[0]
    if column not in names:
        has = f"columns with encoded pictures: {', '.join(names) or 'none'}; of all {', '.join(found.names)}"
        raise DataError(f"{source}: {has}; name one with --column")
    return {"column": column, "id_column": id_column if id_column in found.names else None}
