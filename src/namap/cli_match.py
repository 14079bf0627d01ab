"""The verb `namap match`."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from .console import keep_apart, read_settings, say
from .errors import UsageError
from .options import (
    AsJson,
    Debug,
    Device,
    DryRun,
    Out,
    Overwrite,
    Precision,
    Quiet,
    SeedOfFit,
    Settings,
    VGGInput,
    VGGWeights,
)


def match(
    x: Annotated[str, typer.Argument(metavar="X_SRC", help="Images of X: folder, file.npz:key, …")],
    y: Annotated[str, typer.Argument(metavar="Y_SRC", help="Queries: folder, file.npz:key, …")],
    outdir: Out,
    inexact: Annotated[
        bool, typer.Option("--inexact", help="Mix x~ = sum_j alpha_ij x_j freely (NAM Eq. 2); write these pictures.")
    ] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="An image of X may answer any number of queries.")] = False,
    loss: Annotated[
        str | None, typer.Option(help="pixel or perceptual. Default: perceptual with --vgg-weights, else pixel.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, help="Side of the images; default: that of X, 32 for folders.")
    ] = None,
    set_: Settings = None,
    npz: Annotated[bool, typer.Option("--npz", help="--inexact: one analogies.npz in place of PNGs.")] = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    seed: SeedOfFit = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Match every query with an image of X, without pairs: matches.csv (NAM Eq. 1), or --inexact (Eq. 2)."""
    from .matching import make_recipe, run_matching

    settings = read_settings(None, set_ or [], loss=loss, seed=seed, inexact=inexact or None, reuse=reuse or None)
    recipe = make_recipe(settings, vgg_weights)
    if npz and not recipe.inexact:
        raise UsageError("--npz: an exact matching writes no pictures; use it with --inexact")
    if dry_run:
        return say({"x": x, "y": y, "outdir": str(outdir), **asdict(recipe)})  # pyright: ignore[reportArgumentType]
    keep_apart(outdir, x, y)
    options: dict[str, Any] = {"vgg_weights": vgg_weights, "vgg_input": vgg_input, "npz": npz}
    options |= {"device": device, "precision": precision, "quiet": quiet, "overwrite": overwrite}
    metrics = run_matching(x, y, outdir, size=size, **options, **settings)
    found = (
        f"mixtures in {outdir}; largest weights in {outdir}/matches.csv"
        if recipe.inexact
        else f"{metrics['distinct']} different matches, mean loss {metrics['loss']:.2f} of 4; {outdir}/matches.csv"
    )
    say(
        {"outdir": str(outdir), **metrics},
        as_json,
        f"{metrics['queries']} queries, {metrics['candidates']} images of X, {recipe.loss} loss: {found}",
    )
