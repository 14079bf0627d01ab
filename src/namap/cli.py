"""The command line. Each verb parses, calls one function of the library, and says what came out."""

import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from . import cli_app, cli_generators, cli_handing, cli_solutions
from .cli_bench import bench
from .cli_data import check_data
from .cli_match import match
from .cli_translate import translate
from .console import (
    end,
    keep_apart,
    keep_freed_memory,
    keep_model,
    leave,
    out_of_memory,
    parse_range,
    parse_seeds,
    read_settings,
    say,
    take_part,
)
from .errors import DataError, Interrupted, NamapError, StorageError, UsageError
from .options import (
    AsJson,
    Debug,
    Device,
    DryRun,
    GivenSpec,
    ImageRange,
    Images,
    LatentDim,
    Model,
    Out,
    Overwrite,
    Precision,
    QueriesOfFit,
    Quiet,
    Refine,
    SeedOfFit,
    SeedOfTranslation,
    Settings,
    Spatial,
    Spec,
    Stage,
    TrustPickle,
    VGGInput,
    VGGWeights,
    arrange,
    example,
)

# What typer's parser raises for every wrong use, wherever this version of typer keeps its copy of click.
WrongUse: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> bool:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"namap {version('namap')}")
        raise typer.Exit
    return wanted


@app.callback()
def overview(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Map images of one domain onto another without pairs and without adversarial training of the mapping."""


train_example = example("namap train-generator --data photos/ --outdir runs/g --latent-dim 100")
app.command("train-generator", epilog=train_example)(cli_generators.train_generator)
app.command("check-generator", epilog=example("namap check-generator faces.pt"))(cli_generators.check_generator)
app.command("check-data", epilog=example("namap check-data photos/"))(check_data)
app.command(epilog=example("namap explore runs/map sketch.png --outdir out"))(cli_solutions.explore)
mapper_example = example("namap train-mapper runs/map --data sketches/ --outdir runs/t")
app.command("train-mapper", epilog=mapper_example)(cli_solutions.train_mapper)
ground_example = example("namap ground runs/sketches runs/photos sketches/ --outdir out")
app.command(epilog=ground_example)(cli_solutions.ground)
app.command(epilog=example("namap translate runs/map sketches/ --outdir out --solutions 4"))(translate)
app.command(epilog=example("namap match photos/ sketches/ --outdir out"))(match)
app.command(epilog=example("namap bench speed"))(bench)
app.command("app", epilog=example("namap app runs/map --data sketches/ --x photos/"))(cli_app.serve)
app.command(epilog=example("namap push runs/map alice/sketches2photos --license cc-by-4.0"))(cli_handing.push)
app.command(epilog=example("namap export runs/map --format onnx -o map.onnx"))(cli_handing.export)
distil_example = example("namap distil runs/nam --data sketches/ --outdir runs/fast")
app.command(epilog=distil_example)(cli_handing.distil)
app.command(epilog=example("namap doctor"))(cli_handing.doctor)


@app.command(epilog=example("namap fit --generator runs/g --data sketches/ --outdir runs/map"))
def fit(
    generator: Spec,
    data: QueriesOfFit,
    outdir: Out,
    latent_dim: LatentDim = None,
    image_range: ImageRange = "-1,1",
    spatial: Spatial = None,
    stage: Stage = None,
    trust_pickle: TrustPickle = False,
    method: Annotated[
        str | None, typer.Option(help="nam, ae, vae or wae: how a query's code is obtained. Default: vae.")
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="appearance, l1, l2, perceptual or gram. Default: appearance.")
    ] = None,
    mapper_skip: Annotated[
        bool | None, typer.Option(help="T adds G(z) to what it makes of it (CRN as published).")
    ] = None,
    warp: Annotated[
        bool | None, typer.Option("--warp", help="A shift, scale and rotation of each query's own, between G and T.")
    ] = None,
    query_size: Annotated[
        int | None, typer.Option(min=8, help="With --warp: side of the queries, where G's images are larger.")
    ] = None,
    feature_cache_gb: Annotated[
        float | None,
        typer.Option(min=0, help="Room for the features of the queries under --loss perceptual or gram. Default: 2."),
    ] = None,
    kinds: Annotated[
        int | None,
        typer.Option(min=2, help="Let the queries vote on so many kinds of X, which `namap check-data --kinds` shows."),
    ] = None,
    x: Annotated[
        str | None, typer.Option("--x", help="With --kinds: images of X to find them among. Default: samples of G.")
    ] = None,
    images: Images = None,
    seed: SeedOfFit = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings, as --dry-run prints them.")] = None,
    set_: Settings = None,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Fit a mapping from a folder of queries to the domain of a generator."""
    from dataclasses import asdict

    from .data import ImageDomain, load_domain
    from .data.inspection import FEW, warn_of_few
    from .data.shards import is_stream
    from .generators import load_generator
    from .mapping import METHODS
    from .recipes import make_recipe

    keep_apart(outdir, data, x)
    keep_model(outdir, generator)
    flags = {"method": method, "loss": loss, "images": images, "seed": seed, "skip": mapper_skip}
    flags |= {"warp": warp, "query_size": query_size, "feature_cache_gb": feature_cache_gb, "kinds": kinds}
    settings = read_settings(config, set_ or [], **flags)
    foreign = {"latent_dim": latent_dim, "spatial": spatial, "stage": stage, "trust_pickle": trust_pickle}
    mapping = METHODS[make_recipe(settings).method](
        load_generator(generator, image_range=parse_range(image_range), **foreign),
        vgg_weights=vgg_weights,
        vgg_input=vgg_input,
        device=device,
        precision=precision,
        **settings,
    )
    if mapper_skip and mapping.recipe.mapper == "earned":
        raise UsageError("--mapper-skip: with --set mapper=crn; an earned T, the default here, adds G(z) always")
    if dry_run:
        return say({"generator": generator, "data": data, "outdir": str(outdir), **asdict(mapping.recipe)})
    domain = data if is_stream(data) else load_domain(data, mapping.image_size, quiet=quiet)
    if isinstance(domain, ImageDomain) and not (outdir / "run.json").exists():  # it begins
        warn_of_few(domain, "mapping", FEW)
    mapping.fit(domain, outdir, quiet, x, overwrite)
    again = f" --generator {generator}" if trust_pickle or generator.startswith("hub:") else ""  # not loaded unasked
    say(
        {"model": str(outdir)},
        as_json,
        f"{mapping.method} mapping in {outdir}/final; next: namap translate {outdir} {data} --outdir "
        f"{outdir}/analogies{again}{' --trust-pickle' * trust_pickle}",
    )


@app.command(
    epilog=example("namap evaluate runs/map y.npz:x_test --train-classifier-on x.npz:x_train --classifier runs/judge")
)
def evaluate(
    model: Model,
    src: Annotated[str, typer.Argument(metavar="SRC", help="Labelled queries.")],
    classifier: Annotated[
        Path | None,
        typer.Option(help="Directory of a classifier of X; made here with --train-classifier-on."),
    ] = None,
    train_classifier_on: Annotated[
        str | None, typer.Option(metavar="SRC", help="Labelled images of X, at the size of G's.")
    ] = None,
    classifier_images: Annotated[
        int | None,
        typer.Option(min=1, help="That the classifier sees. Default: 100 passes, 24,000 to 240,000 images."),
    ] = None,
    solutions: Annotated[int, typer.Option(min=1, help="Of each query; how many of them keep it is told, too.")] = 1,
    refine: Refine = None,
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
    """Share of queries whose analogy keeps their label, judged by a classifier of X."""
    import numpy as np

    from .data import load_domain
    from .evaluation import evaluate_kept, obtain_classifier
    from .evaluation.classifier import known_labels
    from .mapping import Mapping

    mapping = Mapping.from_pretrained(
        model,
        generator,
        trust_pickle,
        vgg_weights=vgg_weights,
        vgg_input=vgg_input,
        device=device,
        precision=precision,
    )
    queries = load_domain(src, mapping.image_size, mapping.channels, quiet)
    if queries.labels is None:
        raise DataError(f"{src}: the queries have no labels; evaluation compares with them")
    if classifier_images and train_classifier_on is None:
        raise UsageError("--classifier-images: of a training; say --train-classifier-on, too")
    mapping.check_search(solutions, refine)
    x = None
    if train_classifier_on is not None:
        shape = mapping.generator.image_size, mapping.generator.channels
        x = load_domain(train_classifier_on, *shape, quiet)  # as G draws them
        if x.labels is not None:
            known_labels(queries, x.classes, np.unique(x.labels).tolist())  # refused, if at all, before any training
    how = {"images": classifier_images, "device": device, "precision": precision, "quiet": quiet}
    judge = obtain_classifier(classifier, x, **how)
    result = evaluate_kept(mapping, queries, judge, solutions=solutions, refine=refine, seed=seed, quiet=quiet)
    say(result.as_dict(), as_json, result.summary())


@app.command(epilog=example("namap demo --outdir runs/demo"))
def demo(
    outdir: Out = Path("runs/demo"),
    seeds: Annotated[str, typer.Option(help="Seeds to run, e.g. 0,1,2; the mean is reported.")] = "0",
    extra_fonts: Annotated[list[Path] | None, typer.Option(help="Further font files for the typeset digits.")] = None,
    overwrite: Overwrite = False,
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Handwritten digits to typeset ones: train, fit, translate, judge, report. No network, a few minutes."""
    from .demo import clear_demo, run_demo

    if overwrite and outdir.exists():
        clear_demo(outdir)
    summary = run_demo(outdir, parse_seeds(seeds), extra_fonts or [], device, precision, quiet)
    say(
        summary,
        as_json,
        f"{summary['kept']:.1%} of the queries keep their digit (untouched: {summary['copy_baseline']:.1%}); "
        f"{summary['seconds']:.0f} s; open {outdir}/report.html",
    )


@app.command(epilog=example("namap report runs/a runs/b --data y.npz:x_test -o report.html"))
def report(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN…", help="Directories of `namap fit`, or of `namap train-generator`.")
    ],
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="SRC", help="Queries; default: those of the fit. Generators: images to compare with."
        ),
    ] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="The page.")] = Path("report.html"),
    classifier: Annotated[
        Path | None, typer.Option(help="Classifier of X, for queries with labels; default: classifier/ in the run.")
    ] = None,
    solutions: Annotated[int, typer.Option(min=1, help="Of each query, where the method has several.")] = 6,
    queries: Annotated[
        int | None, typer.Option(min=2, help="How many queries; default: 512, or 64 where codes are optimised.")
    ] = None,
    generator: GivenSpec = None,
    trust_pickle: TrustPickle = False,
    vgg_weights: VGGWeights = None,
    vgg_input: VGGInput = "torchvision",
    device: Device = "auto",
    precision: Precision = "auto",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """One self-contained page: analogies, solutions, curves, codes, settings; several runs side by side."""
    from .report import report_runs

    options = {"vgg_weights": vgg_weights, "vgg_input": vgg_input, "device": device, "precision": precision}
    options |= {"generator": generator, "trust_pickle": trust_pickle}
    found = report_runs(runs, output, data, classifier, solutions, queries, quiet, **options)
    say(found, as_json, f"report in {output}")


arrange(app)


def main() -> None:
    """Run the command line; an error is one line and an exit code, a traceback only with --debug.

    SIGTERM unwinds like an exit, so that nothing half-written stays behind; training answers it with a checkpoint.
    """
    keep_freed_memory()
    warnings.filterwarnings("ignore", module=r"PIL\.")  # of a picture: what is wrong with it is said in one line
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        take_part(next((word for word in sys.argv[1:] if not word.startswith("-")), ""))
        code = app(standalone_mode=False)
        leave()
        sys.exit(code)
    except WrongUse as error:
        if len(sys.argv) == 1:  # its help has been shown
            sys.exit(UsageError.exit_code)
        end(UsageError(f"{error.format_message()} See --help."))  # pyright: ignore[reportAttributeAccessIssue]
    except typer.Abort:
        end(Interrupted())
    except NamapError as error:
        end(error)
    except (MemoryError, RuntimeError) as error:
        if (exhausted := out_of_memory(error)) is None:
            raise
        end(exhausted)
    except OSError as error:
        end(StorageError(f"{error.filename or 'input or output'}: {error.strerror or error}"))


if __name__ == "__main__":
    main()
