"""Runs an experiment cell by cell: a cell is one row of its table with one seed, in a process of its own.

    namap bench street2digits --seeds 0,1,2 [--method namap,cyclegan] [--budget-min 20] [--data-root DIR]

A cell leaves `RUNS/NAME/METHOD-SEED/result.json` and its answers; a killed bench goes on with the first cell that has
none, and training in a cell goes on from its checkpoint. `results/NAME.json` and `.png` are written from the cells.

Budgets are seconds of processor time: what an idle machine with as many threads needs of wall-clock time.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from namap.checkpoint import read_json, write_json
from namap.console import end, keep_freed_memory
from namap.errors import NamapError, UsageError
from namap.report import image_grid
from namap.settings import make_settings

from .cells import circumstances, cost, finished, peak_memory_gb, run_cell_apart
from .experiments import EXPERIMENTS
from .methods import LIKE_MAPPING, ONCE, ROWS, Answer
from .scene import Scene, find_root

RESULTS = Path(__file__).parent / "results"
FIGURE_QUERIES, FIGURE_SIDE = 12, 64
QUICK_MINUTES = 0.02
NEEDS = {"namap": ("generator",), "bound": ("generator",)}


def run_bench(
    name: str,
    seeds: list[int],
    methods: list[str] | None,
    budget_min: float | None,
    data: str,
    data_root: Path | None,
    runs: Path,
    results: Path = RESULTS,
    quick: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Measure what is missing, then write the results of all cells that there are.

    Raises:
        UsageError: an unknown experiment or method, or a cell that was measured with another configuration.
        DataError: a missing data file.
    """
    scene = make_scene(name, data, data_root, quick)
    if quick:
        budget_min = QUICK_MINUTES
    for method in methods or ROWS:
        if method not in ROWS:
            raise UsageError(f"--method {method}: unknown; use {', '.join(ROWS)}")
    home = cells_home(scene, runs)
    for seed in seeds:
        for method in in_order(methods):
            cell = home / f"{method}-{0 if method in ONCE else seed}"
            measure(scene, method, seed, cell, quiet, budget_min)
    return collect(scene, home, home if quick else results)


def cells_home(scene: Scene, runs: Path) -> Path:
    """The directory of an experiment's cells."""
    return runs / "-".join([scene.experiment.name, scene.data, *(["quick"] if scene.quick else [])])


def measure(scene: Scene, method: str, seed: int, cell: Path, quiet: bool, budget_min: float | None = None) -> None:
    """Measure a cell, unless it is there.

    Raises:
        UsageError: it is there with another configuration.
        NamapError: it failed; its own line has said why.
    """
    wanted = configuration(scene, method, budget_min)
    if not finished(cell, wanted):
        what = [scene.experiment.name, method, str(seed), scene.data, str(scene.root.resolve()), str(cell.resolve())]
        run_cell_apart([*what, *(["quick"] if scene.quick else [])], cell, wanted, quiet)


def in_order(methods: list[str] | None) -> list[str]:
    """The rows to run, each after what it builds on."""
    chosen = set(methods or ROWS)
    for method in tuple(chosen):
        chosen |= set(NEEDS.get(method, () if method in ONCE else ("generator", "namap")))
    return [method for method in ROWS if method in chosen]


def make_scene(name: str, data: str, data_root: Path | None, quick: bool = False) -> Scene:
    if name not in EXPERIMENTS:
        raise UsageError(f"bench {name}: unknown; use speed, {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[name]
    if data not in experiment.sources:
        raise UsageError(f"--data {data}: {name} has {', '.join(experiment.sources)}")
    return Scene(experiment, data, find_root(data_root), quick)


def configuration(scene: Scene, method: str, budget_min: float | None) -> dict[str, Any]:
    """What decides a cell's result, as JSON values. Sources, not fingerprints: those are checked by the training."""
    e = scene.experiment
    own = {"namap": scene.ours, **dict.fromkeys(LIKE_MAPPING, e.papers)}.get(method, {})
    budget = None if method in ("generator", "namap", "copy", "nearest", "bound") else budget_min
    values = {"method": method, "sources": asdict(scene.sources), "settings": own, "budget_min": budget}
    recipe = scene.generator if isinstance(scene.generator, str) else asdict(scene.generator)
    values |= {"generator": recipe, "solutions": e.solutions}
    values |= {"held_out": scene.held_out, "generator_cell": scene.generator_cell}
    return json.loads(json.dumps(values))


def as_wanted(scene: Scene, wanted: dict[str, Any]) -> Scene:
    """The scene of a cell: what its configuration says of namap's settings, of G and of the queries."""
    experiment = scene.experiment
    if wanted["method"] == "namap":
        experiment = replace(experiment, ours=wanted["settings"])
    if not isinstance(scene.generator, str):
        experiment = replace(experiment, generator=make_settings(type(scene.generator), wanted["generator"]))
    return replace(scene, experiment=experiment, held_out=wanted["held_out"], generator_cell=wanted["generator_cell"])


def run_cell(scene: Scene, method: str, seed: int, cell: Path) -> None:
    """Train, answer and judge one cell; leaves `result.json` and `answers.npz` there."""
    wanted, where = read_json(cell / "wanted.json"), circumstances()
    scene = as_wanted(scene, wanted)
    with cost(cell) as spent:
        answer = ROWS[method](scene, seed, budget(cell.parent, method, seed, wanted), cell)
    if answer.of == "samples":
        measures: dict[str, Any] = {}
    else:
        judge = scene.experiment.judge(scene, cell.parent)
        measures = judge(answer.x, answer.of)
    np.savez_compressed(cell / "answers.npz", x=answer.x)
    write_json(cell / "result.json", {"seed": seed, **record(answer, wanted, spent), **where, "measures": measures})


def record(answer: Answer, wanted: dict[str, Any], spent: dict[str, float]) -> dict[str, Any]:
    """Everything about a cell but its measures and circumstances."""
    return {
        "method": wanted["method"],
        "configuration": wanted,
        "seconds": spent,
        "images_seen": answer.images_seen,
        "peak_memory_gb": peak_memory_gb(),
        "evidence": answer.evidence,
        "settings": answer.settings,
    }


def budget(home: Path, method: str, seed: int, wanted: dict[str, Any]) -> float:
    """Seconds that a row may train: what namap's row took, or what `--budget-min` says."""
    if wanted["budget_min"] is not None:
        return 60 * wanted["budget_min"]
    if method in ("generator", "namap", *ONCE, "bound"):
        return 0.0
    mine = read_json(home / f"namap-{seed}" / "result.json")["seconds"]["processor"]
    if method in LIKE_MAPPING:
        return mine
    return mine + read_json(home / f"generator-{seed}" / "result.json")["seconds"]["processor"]


def collect(scene: Scene, home: Path, results: Path) -> dict[str, Any]:
    """`NAME.json` and `NAME.png` from the cells."""
    cells = [
        read_json(path) for path in sorted(home.glob("*/result.json")) if not path.parent.name.startswith("ablate-")
    ]
    cells = [cell for cell in cells if cell["configuration"]["generator_cell"] == "generator"]
    order = list(ROWS)
    cells.sort(key=lambda c: (order.index(c["method"]), c["seed"]))
    suffix = "" if scene.data == "reference" else f"-{scene.data}"
    name = scene.experiment.name + suffix
    summary = {
        "name": scene.experiment.name,
        "what": scene.experiment.what,
        "data": scene.data,
        "headline": scene.experiment.headline,
        "cells": cells,
    }
    results.mkdir(parents=True, exist_ok=True)
    write_json(results / f"{name}.json", summary)
    figure(scene, home, results / f"{name}.png")
    return summary


def figure(scene: Scene, home: Path, output: Path) -> None:
    """Queries, drawn by seed, and the answers of every row with seed 0 below them."""
    from PIL import Image, ImageDraw

    queries = scene.y_test.images
    shown = np.random.default_rng(0).permutation(len(queries))[:FIGURE_QUERIES]
    rows = {"query": list(queries[shown])}
    for method in ROWS:
        path = home / f"{method}-0" / "answers.npz"
        if path.exists() and method not in ("generator", "bound"):
            x = np.load(path)["x"][shown]
            rows |= {method if k == 0 else f"{method} {k + 1}": list(x[:, k]) for k in range(min(2, x.shape[1]))}
    sheet = Image.new("RGB", (110 + FIGURE_QUERIES * (FIGURE_SIDE + 2), len(rows) * (FIGURE_SIDE + 2)), "white")
    pen = ImageDraw.Draw(sheet)
    for number, (label, images) in enumerate(rows.items()):
        top = number * (FIGURE_SIDE + 2)
        pen.text((4, top + FIGURE_SIDE // 2 - 6), label, fill="black")
        for column, image in enumerate(images):
            tile = image_grid([[image]]).resize((FIGURE_SIDE, FIGURE_SIDE), Image.Resampling.NEAREST)
            sheet.paste(tile, (110 + column * (FIGURE_SIDE + 2), top))
    sheet.save(output, optimize=True)


def summary_lines(result: dict[str, Any]) -> str:
    """The headline measures of every row, mean and spread over the seeds."""
    lines = [result["what"], " ".join(["row".ljust(12), *(h.rjust(16) for h in result["headline"].values())])]
    for method in ROWS:
        cells = [c["measures"] for c in result["cells"] if c["method"] == method and c["measures"]]
        if cells:
            values = [spread([c.get(measure) for c in cells]) for measure in result["headline"]]
            lines.append(" ".join([method.ljust(12), *(v.rjust(16) for v in values)]))
    return "\n".join(lines)


def spread(values: list[float | None]) -> str:
    """Mean and deviation, or nothing."""
    known = [v for v in values if v is not None]
    return f"{np.mean(known):.3f} ± {np.std(known):.3f}" if known else ""


def main() -> None:
    """One cell: NAME METHOD SEED DATA ROOT DIRECTORY [quick]."""
    name, method, seed, data, root, cell, *quick = sys.argv[1:]
    keep_freed_memory()
    try:
        run_cell(make_scene(name, data, Path(root), bool(quick)), method, int(seed), Path(cell))
    except NamapError as error:
        end(error)


if __name__ == "__main__":
    main()
