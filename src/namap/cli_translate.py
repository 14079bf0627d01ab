"""The verb that translates."""

from pathlib import Path
from typing import Annotated

import typer

from .console import say
from .errors import UsageError
from .options import AsJson, Debug, Device, GivenSpec, Precision, Quiet, Seed, TrustPickle, VGGInput, VGGWeights


def translate(
    model: Annotated[Path, typer.Argument(help="Directory of `namap fit`.")],
    src: Annotated[str, typer.Argument(metavar="SRC", help="Queries: folder, file.npz:key, …")],
    outdir: Annotated[Path, typer.Option(help="Where the analogies go; the same command goes on there.")],
    solutions: Annotated[int, typer.Option(min=1, help="Analogies of each query.")] = 1,
    refine: Annotated[
        int | None, typer.Option(min=0, help="Iterations of code optimisation (Eq. 6) after the first codes.")
    ] = None,
    temperature: Annotated[
        float, typer.Option(min=0, help="Factor on the noise of further solutions: more is more varied, less faithful.")
    ] = 1.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Queries at a time; memory grows with it.")] = 256,
    npz: Annotated[bool, typer.Option(help="One analogies.npz (x, codes, losses) in place of PNGs.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that write PNGs; 0: none. Default: half of the cores.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Translate again what is there already.")] = False,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    seed: Seed = 0,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write the analogies of queries: STEM.png, STEM_k1.png … or analogies.npz. What is there already is kept."""
    from .data import open_queries
    from .mapping import Mapping
    from .translating import translate_files

    mapping = Mapping.from_pretrained(
        model,
        generator,
        trust_pickle,
        vgg_weights=vgg_weights,
        vgg_input=vgg_input,
        device=device,
        precision=precision,
    )
    if Path(src).is_dir() and outdir.resolve().is_relative_to(Path(src).resolve()):
        raise UsageError(f"--outdir {outdir}: lies in the folder of the queries; choose another")
    queries = open_queries(src, mapping.image_size, mapping.channels)
    how = {"solutions": solutions, "refine": refine, "seed": seed, "temperature": temperature}
    written = translate_files(
        mapping,
        queries,
        outdir,
        **how,
        batch_size=batch_size,
        npz=npz,
        workers=workers,
        overwrite=overwrite,
        quiet=quiet,
    )
    skipped = len(queries.skipped)
    count = (queries.total or 0) - skipped
    files = 1 if npz else count * solutions
    say(
        {"outdir": str(outdir), "queries": count, "files": files, "written": written, "skipped": skipped},
        as_json,
        f"{count} queries, {files} files in {outdir}"
        + (f", {files - written} of them from before" if written < files else "")
        + (f"; {skipped} skipped, see skipped.jsonl" if skipped else ""),
    )
