"""The verb that translates."""

from typing import Annotated, Literal

import typer

from .console import keep_apart, say
from .errors import UsageError
from .launch import launched
from .options import (
    AsJson,
    Debug,
    Device,
    GivenSpec,
    Model,
    Precision,
    Quiet,
    Refine,
    SeedOfTranslation,
    TrustPickle,
    VGGInput,
    VGGWeights,
)


def translate(
    model: Model,
    src: Annotated[str, typer.Argument(metavar="SRC", help="Queries: folder, file.npz:key, …; for Ray: see --engine.")],
    outdir: Annotated[str, typer.Option(help="Where the analogies go; the same command goes on there.")],
    solutions: Annotated[int, typer.Option(min=1, help="Analogies of each query.")] = 1,
    refine: Refine = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Factor on the noise of further solutions: more is more varied, less faithful.")
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries at a time; memory grows with it.")] = 256,
    npz: Annotated[
        bool, typer.Option(help="One analogies.npz, with codes and losses beside the pictures, in place of PNGs.")
    ] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that write PNGs; 0: none. Default: half of the cores.")
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(
            help="ray: on a Ray cluster (RAY_ADDRESS, else this machine), into Parquet files; SRC is a folder, Parquet "
            "with a column of pictures, or a URI of either, e.g. `s3://bucket/queries`."
        ),
    ] = "local",
    actors: Annotated[
        int | None, typer.Option(min=1, help="Ray: models at work. Default: one a GPU, else a processor but one.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Ray: column of the pictures. Default: the one of bytes.")] = None,
    id_column: Annotated[
        str | None, typer.Option(help="Ray: column of the ids, made of file and place if not there. Default: id.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Translate again what is there already.")] = False,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    seed: SeedOfTranslation = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the analogies of queries: STEM.png, STEM_k1.png …, analogies.npz or Parquet. Pictures there stay."""
    if engine != "ray" and "://" in outdir:
        raise UsageError(f"--outdir {outdir}: a URI needs --engine ray; without, name a directory")
    keep_apart(outdir, src)
    loading = {"generator": generator, "trust_pickle": trust_pickle, "vgg_weights": vgg_weights}
    loading |= {"vgg_input": vgg_input, "device": device, "precision": precision}
    common = {"refine": refine, "seed": seed, "temperature": temperature, "batch_size": batch_size}
    common |= {"overwrite": overwrite, "quiet": quiet}
    if engine == "ray":
        if launched() > 1:
            raise UsageError("--engine ray: Ray starts its own processes; leave out accelerate launch")
        if solutions > 1 or npz or workers is not None:
            raise UsageError("--engine ray: one analogy a query, as Parquet; without --solutions, --npz, --workers")
        from .batch import ID, translate_on_ray

        where = {"column": column, "id_column": id_column or ID, "actors": actors}
        rows = translate_on_ray(model, src, outdir, **where, **common, **loading)
        result = {"outdir": outdir, **rows._asdict()}
        return say(result, as_json, f"{rows.rows} rows in {outdir}, {rows.errors} of them errors; {rows.written} new")
    if actors is not None or column is not None or id_column is not None:
        raise UsageError("--actors, --column and --id-column are of --engine ray")
    from .data import open_queries
    from .mapping import Mapping
    from .translating import translate_files

    mapping = Mapping.from_pretrained(model, **loading)
    queries = open_queries(src, mapping.image_size, mapping.channels)
    more = {"solutions": solutions, "npz": npz, "workers": workers}
    written = translate_files(mapping, queries, outdir, **more, **common)
    skipped = len(queries.skipped)
    count = (queries.total or 0) - skipped
    files = 1 if npz else count * solutions
    return say(
        {"outdir": outdir, "queries": count, "files": files, "written": written, "skipped": skipped},
        as_json,
        f"{count} queries, {files} files in {outdir}"
        + (f", {files - written} of them from before" if written < files else "")
        + (f"; {skipped} skipped, see skipped.jsonl" if skipped else ""),
    )
