"""The verb `bench`: this machine's speed, and the experiments of a checkout. `cli` puts it on the command line."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from .console import parse_seeds, say
from .errors import UsageError
from .options import AsJson, Debug, Quiet


def bench(
    name: Annotated[
        str, typer.Argument(help="speed, or an experiment: street2digits, car2car, emoji, runtime, …")
    ] = "",
    seeds: Annotated[
        str | None, typer.Option(help="Seeds, e.g. 0,1,2. Default: those that a row has in the results, else 0,1,2.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Rows of the table, e.g. namap,nam,cyclegan. Default: all.")
    ] = None,
    budget_min: Annotated[
        float | None,
        typer.Option(
            min=0.01,
            help="Minutes of processor time for rivals and the papers' methods. Default: those that a row has in the "
            "results, else what namap's row took.",
        ),
    ] = None,
    rival_budget: Annotated[
        float,
        typer.Option(min=0.1, help="Also give these so many times that, as rows of their own, e.g. 5."),
    ] = 1.0,
    data: Annotated[str, typer.Option(help="reference, or papers: MNIST, SVHN, edges2shoes, …")] = "reference",
    data_root: Annotated[
        Path | None, typer.Option(help="Where the data files are; default: $NAMAP_DATA, then ../shared/data.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Where cells train and keep their results.")] = Path("runs/bench"),
    anew: Annotated[
        bool, typer.Option("--anew", help="Measure the rows asked for on this machine, also where results have them.")
    ] = False,
    ablate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CHANGE",
            help="'NAME: key=value,key=value': namap's row with settings changed (generator.KEY: those of G), judged "
            "on queries held out of the training ones. May be repeated.",
        ),
    ] = None,
    tables: Annotated[
        bool, typer.Option("--tables", help="Only write RESULTS.md, ABLATION.md and README's tables, from the results.")
    ] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Seconds in place of minutes: to see that it runs.")] = False,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="With speed: also write the result there, as JSON.")
    ] = None,
    vgg_weights: Annotated[
        Path | None, typer.Option(help="With speed: local VGG-16 weights; their values do not matter.")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="With speed: also say where a step's time goes.")] = False,
    only: Annotated[str, typer.Option(help="With speed: only what holds this in its name, e.g. translate.")] = "",
    quiet: Quiet = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Measure this machine (speed), or repeat an experiment of the papers next to its rivals.

    Experiments need a checkout of namap: run them in its directory. A bench that is killed goes on where it stood.
    """
    if name == "speed":
        return speed(output, vgg_weights, profile, only, as_json, quiet)
    if not Path("benchmarks/runner.py").is_file():
        raise UsageError(f"bench {name}: experiments are part of namap's checkout; run this in its directory")
    sys.path.insert(0, str(Path.cwd()))
    if tables:
        from benchmarks.tables import main as write_tables  # pyright: ignore[reportMissingImports]

        return write_tables()
    if ablate:
        ignored = {"--method": method, "--budget-min": budget_min, "--anew": anew or None}
        if given := [option for option, value in ignored.items() if value is not None]:
            raise UsageError(f"{given[0]}: not with --ablate, which measures namap's row and keeps what it has")
        from benchmarks.ablation import run_ablation  # pyright: ignore[reportMissingImports]

        rows, text = run_ablation(name, ablate, parse_seeds(seeds or "0,1,2"), data, data_root, runs, quick, quiet)
        return say({"rows": rows}, as_json, text)
    from benchmarks.runner import run_bench, summary_lines  # pyright: ignore[reportMissingImports]

    methods = None if method is None else method.split(",")
    how = {"quick": quick, "quiet": quiet, "rival_budget": rival_budget, "anew": anew}
    asked = None if seeds is None else parse_seeds(seeds)
    result = run_bench(name, asked, methods, budget_min, data, data_root, runs, **how)
    say(result, as_json, summary_lines(result))


def speed(output: Path | None, vgg_weights: Path | None, profile: bool, only: str, as_json: bool, quiet: bool) -> None:
    """Images/s of every method, fp32 NCHW and namap's default side by side."""
    from .speed import bench_speed, speed_table

    result = bench_speed(vgg_weights, quiet, profile, only)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n")
    say(result, as_json, speed_table(result))
