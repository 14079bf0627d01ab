"""Runs an experiment cell by cell: a cell is one row of its table with one seed, in a process of its own.

    namap bench street2digits [--seeds 0,1,2] [--method namap,cyclegan] [--budget-min 20] [--data-root DIR]

A cell leaves `RUNS/NAME/METHOD-SEED/result.json` and its answers; a killed bench goes on with the first cell that has
none, and training in a cell goes on from its checkpoint. `results/NAME.json` and `.png` are written from the cells.
What `results/NAME.json` has already, measured with today's configuration, is taken from there: rows may be added on
another machine or after `RUNS` is gone. `--anew` measures the rows that are asked for again, where they were. Seeds and
budgets that are not said are those that a row has. Of other data files the results stay in `RUNS`.

Budgets are seconds of processor time: what an idle machine with as many threads needs of wall-clock time.
"""

import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from namap.checkpoint import read_json, write_json
from namap.console import end, keep_freed_memory
from namap.errors import NamapError, UsageError, warn
from namap.runs import differences

from .cells import circumstances, cost, finished, processor, run_cell_apart
from .experiment_tables import SHARES, spread
from .figures import cut, draw, stack
from .judging import EACH
from .methods import own_generator
from .scene import REFINE, Answer, Row, Scene
from .wanted import (
    LONGER,
    as_wanted,
    cells_of,
    configuration,
    find_row,
    in_order,
    make_scene,
    own_seed,
    recorded_seeds,
    rows_of,
    uses_generator,
)

RESULTS = Path(__file__).parent / "results"
QUICK_MINUTES = 0.02


def run_bench(
    name: str,
    seeds: list[int] | None,
    methods: list[str] | None,
    budget_min: float | None,
    data: str,
    data_root: Path | None,
    runs: Path,
    results: Path = RESULTS,
    quick: bool = False,
    quiet: bool = False,
    rival_budget: float = 1.0,
    anew: bool = False,
) -> dict[str, Any]:
    """Measure what is missing, then write the results of all cells that there are.

    Args:
        seeds: None: of each row those that it has, else `SEEDS`.
        methods: None: all rows.
        budget_min: None: what a row was measured with; where it was not, as long as the rows that it is compared with.
        anew: rows that are asked for and that only `results` have, without weights or answers, are missing, too.

    Raises:
        UsageError: an unknown experiment or method, a cell that was measured with another configuration, or a budget
            that is of another processor.
        DataError: a missing data file.
    """
    scene = make_scene(name, data, data_root, quick)
    scene.check_files()
    if quick:
        budget_min = QUICK_MINUTES
    wanted = methods or list(rows_of(scene.experiment))
    if rival_budget != 1:
        limited = [name for name, row in rows_of(scene.experiment).items() if row.budget_of and name in wanted]
        wanted = wanted + [f"{name}-{rival_budget:g}x" for name in limited]
    home = open_cells(scene, runs)
    seeds_there = recorded_seeds(results / f"{results_name(scene)}.json")
    if quick or not take_recorded(scene, home, results, wanted, budget_min):
        results = home
    asked = cells_of(scene.experiment, wanted, seeds, seeds_there)
    for cell in [home / f"{method}-{seed}" for method, seed in asked] if anew else []:
        forget_recorded(cell)
    for method, seed in missing_cells(scene, home, asked, budget_min):
        measure(scene, method, seed, home / f"{method}-{seed}", quiet, budget_min)
    taken = [place.parent.name for place in sorted(home.glob("*/result.json")) if is_recorded(place.parent)]
    return {**collect(scene, home, results), "taken": taken, "written": str(results)}


def missing_cells(
    scene: Scene, home: Path, asked: list[tuple[str, int]], budget_min: float | None
) -> list[tuple[str, int]]:
    """The cells to be measured, each after those that it needs; what can't be measured here is said before any is.

    Raises:
        UsageError: a budget that is of another processor, or a cell of another configuration.
    """

    def is_missing(method: str, seed: int) -> bool:
        cell = home / f"{method}-{seed}"
        return not finished(cell, configuration(scene, method, own_budget(cell, budget_min)))

    cells: list[tuple[str, int]] = []
    for seed in dict.fromkeys(seed for _, seed in asked):
        wanted = [m for m, of in asked if of == seed and is_missing(m, seed)]
        order = in_order(scene.experiment, wanted, own_budget=budget_min is None)
        own = {m: own_seed(scene.experiment, m, seed) for m in order}
        for method in [m for m in reversed(order) if is_missing(m, own[m])]:
            for needed in find_row(scene.experiment, method).needs:
                forget_lost_weights(scene, home / f"{needed}-{own[needed]}")
        missing = [m for m in order if is_missing(m, own[m])]
        for method in missing:
            row, cell = find_row(scene.experiment, method), home / f"{method}-{own[method]}"
            there = tuple(m for m in row.budget_of if m not in missing)
            budget(replace(row, budget_of=there), home, seed, own_budget(cell, budget_min))
        cells += [(m, own[m]) for m in missing]
    return list(dict.fromkeys(cells))


def own_budget(cell: Path, budget_min: float | None) -> float | None:
    """The budget that is asked for, else that with which a cell was measured or begun."""
    for path in (cell / "result.json", cell / "wanted.json"):
        if budget_min is None and path.exists():
            there = read_json(path)
            return there.get("configuration", there)["budget_min"]
    return budget_min


def is_todays(scene: Scene, cell: dict[str, Any], budget_min: float | None) -> bool:
    """Whether a result was measured with today's configuration and this budget; a warning where it was not."""
    changed = differences(cell["configuration"], configuration(scene, cell["method"], budget_min))
    if changed:
        place = f"{scene.experiment.name}, {cell['method']}-{cell['seed']}"
        warn(f"{place}: left out, as it is of another configuration: {'; '.join(changed)}")
    return not changed


def take_recorded(scene: Scene, home: Path, results: Path, wanted: list[str], budget_min: float | None) -> bool:
    """Make cells of what the results have, where its configuration is today's; they have no weights.

    A budget that is asked for is that of the wanted rows: others keep the one that they were measured with.

    Returns:
        Whether what is measured now belongs to these results: they are of the same data files.
    """
    for place in list(home.glob("*/result.json")):
        forget_recorded(place.parent)  # taken when another row was wanted, or under other settings
    path = results / f"{results_name(scene)}.json"
    recorded = read_json(path) if path.exists() else {}
    if other := differing(recorded.get("files", {}), scene.digests()):
        warn(f"{path}: left as it is, as it was measured with other files: {other}; these results go to {home}")
        return False
    for cell in recorded.get("cells", []):
        method, there = cell["method"], cell["configuration"]["budget_min"]
        seed = own_seed(scene.experiment, method, cell["seed"])
        place = home / f"{method}-{seed}"
        if place.exists():
            continue
        if is_todays(scene, cell, there if budget_min is None or method not in wanted else budget_min):
            place.mkdir(parents=True)
            write_json(place / "result.json", {**cell, "seed": seed})
    return True


def forget_lost_weights(scene: Scene, cell: Path) -> None:
    """Let a row be trained again, to the same weights, that others need and that only the results know of."""
    trained = not cell.name.startswith("generator") or not isinstance(scene.generator, str | None)
    if trained and (cell / "result.json").exists() and not (cell / "final").is_dir():
        shutil.rmtree(cell)


def is_recorded(cell: Path) -> bool:
    """Whether only the results know of a row: every one that is measured here leaves its answers."""
    return (cell / "result.json").exists() and not (cell / "answers.npz").exists()


def forget_recorded(cell: Path) -> None:
    """Let a row be measured again that only the results know of."""
    if is_recorded(cell):
        shutil.rmtree(cell)


def results_name(scene: Scene) -> str:
    """Of the files of an experiment's results."""
    return scene.experiment.name + ("" if scene.data == "reference" else f"-{scene.data}")


def cells_home(scene: Scene, runs: Path) -> Path:
    """The directory of an experiment's cells."""
    return runs / "-".join([scene.experiment.name, scene.data, *(["quick"] if scene.quick else [])])


def open_cells(scene: Scene, runs: Path) -> Path:
    """The directory of an experiment's cells, which all are of the same files.

    Raises:
        UsageError: it has cells of other files.
    """
    home, files = cells_home(scene, runs), scene.digests()
    record = home / "files.json"
    if other := differing(read_json(record) if record.exists() else {}, files):
        raise UsageError(f"{home}: has cells that were measured with other files: {other}; use another --runs")
    home.mkdir(parents=True, exist_ok=True)
    write_json(record, files)
    return home


def differing(before: dict[str, str | None], now: dict[str, str | None]) -> str:
    """The names of files that are not what they were; '' where all are, or nothing is known of them."""
    return ", ".join(sorted(name for name in before.keys() & now.keys() if before[name] != now[name]))


def measure(scene: Scene, method: str, seed: int, cell: Path, quiet: bool, budget_min: float | None = None) -> None:
    """Measure a cell, unless it is there.

    Raises:
        UsageError: it is there with another configuration.
        NamapError: it failed; its own line has said why.
    """
    wanted = configuration(scene, method, own_budget(cell, budget_min))
    if not finished(cell, wanted):
        if method == "generator" and not cell.exists():
            borrow_generator(scene, wanted, cell)
        what = [scene.experiment.name, method, str(seed), scene.data, str(scene.root.resolve()), str(cell.resolve())]
        run_cell_apart([*what, *(["quick"] if scene.quick else [])], cell, wanted, quiet)


def borrow_generator(scene: Scene, wanted: dict[str, Any], cell: Path) -> None:
    """Begin with the weights of an experiment beside this one that trained the same G on the same images of X."""
    files = scene.digests()
    for record in sorted(cell.parent.parent.glob(f"*/{cell.name}/wanted.json")):
        other, there = record.parent, read_json(record)
        same = there["generator"] == wanted["generator"] and there["sources"]["x_train"] == wanted["sources"]["x_train"]
        whole = (other / "result.json").exists() and (other / "final").is_dir()
        if same and whole and not differing(read_json(other.parent / "files.json"), files):
            copied = cell.with_name(f".{cell.name}")  # whole before it is there
            shutil.rmtree(copied, ignore_errors=True)
            shutil.copytree(other, copied, ignore=shutil.ignore_patterns(".lock", "result.json", "answers.npz"))
            copied.rename(cell)
            return


def run_cell(scene: Scene, method: str, seed: int, cell: Path) -> None:
    """Train, answer and judge one cell; leaves `result.json` and `answers.npz` there."""
    wanted, where = read_json(cell / "wanted.json"), circumstances()
    scene = as_wanted(scene, wanted)
    row = find_row(scene.experiment, method)
    granted = budget(row, cell.parent, seed, wanted["budget_min"])
    with cost(cell) as spent:
        answer = row.run(scene, seed, granted, cell)
    measures = answer.measures
    if measures is None and scene.experiment.judge is not None:
        judge = scene.experiment.judge(scene, cell.parent)
        own = {} if answer.samples is None else judge(answer.samples, "samples")
        measures = own | judge(answer.x, answer.of)  # what both have is of the answers
    each = (measures or {}).pop(EACH, None)
    if each is not None and answer.losses is not None and min(np.ptp(each), np.ptp(answer.losses)) > 0:
        answer.evidence["loss_tells"] = float(spearmanr(-answer.losses, each).statistic)
    np.savez_compressed(cell / "answers.npz", x=answer.x)
    recorded = record(answer, wanted, granted, spent)
    if uses_generator(scene.experiment, method):
        recorded["weights_of_g"] = own_generator(scene, cell, seed).identity["weights"]
    write_json(cell / "result.json", {"seed": seed, **recorded, **where, "measures": measures})


def record(answer: Answer, wanted: dict[str, Any], granted: float, spent: dict[str, float]) -> dict[str, Any]:
    """Everything about a cell but its measures and circumstances."""
    seconds = {"wall": spent["wall"], "processor": spent["processor"], "answering": answer.answering}
    return {
        "method": wanted["method"],
        "configuration": wanted,
        "seconds": seconds | ({"granted": granted} if granted else {}),
        "images_seen": answer.images_seen,
        "peak_memory_gb": spent["peak_memory_gb"],
        "evidence": answer.evidence,
        "settings": answer.settings,
    }


def budget(row: Row, home: Path, seed: int, budget_min: float | None) -> float:
    """Seconds that a row may train: as long as the rows that it is compared with, or what `--budget-min` says.

    Raises:
        UsageError: those were measured on another or an unknown processor, whose seconds may be worth more or less, or
            do not say how much of them was training.
    """
    if not row.budget_of:
        return 0.0
    if budget_min is not None:
        return 60 * budget_min * row.budget_factor
    seconds, here = 0.0, processor()
    for cell in (home / f"{other}-{seed}" for other in row.budget_of):
        result = read_json(cell / "result.json")
        there = result.get("processor", "an unknown processor")  # which the first results do not say
        if there != here:
            raise UsageError(
                f"{cell}: took its time on {there}, not {here}; --method {cell.name.rpartition('-')[0]} --anew "
                "measures it here, --budget-min says how long instead"
            )
        if result["settings"].get(REFINE) and "answering" not in result["seconds"]:
            raise UsageError(
                f"{cell}: does not say how long its answers were refined; --method {cell.name.rpartition('-')[0]} "
                "--anew measures it here, --budget-min says how long instead"
            )
        seconds += result["seconds"]["processor"] - result["seconds"].get("answering", 0.0)
    return row.budget_factor * seconds


def collect(scene: Scene, home: Path, results: Path) -> dict[str, Any]:
    """`NAME.json` and `NAME.png` from the cells."""
    paths = [p for p in sorted(home.glob("*/result.json")) if not p.parent.name.startswith("ablate-")]
    cells = [cell for cell in map(read_json, paths) if cell["configuration"]["generator_cell"] == "generator"]
    cells = [cell for cell in cells if is_todays(scene, cell, cell["configuration"]["budget_min"])]
    order = list(rows_of(scene.experiment))
    cells.sort(key=lambda c: (order.index(LONGER.sub(r"\1", c["method"])), c["method"], c["seed"]))
    name = results_name(scene)
    summary = {
        "name": scene.experiment.name,
        "what": scene.experiment.what,
        "data": scene.data,
        "published": scene.experiment.published,
        "headline": measured_headline(scene, cells),
        "rows": {m: find_row(scene.experiment, m).title for m in dict.fromkeys(c["method"] for c in cells)},
        "missing": [row.title for m, row in rows_of(scene.experiment).items() if m not in {c["method"] for c in cells}],
        "files": scene.digests(),
        "cells": cells,
    }
    results.mkdir(parents=True, exist_ok=True)
    record, figure = results / f"{name}.json", results / f"{name}.png"
    before = cut(figure, read_json(record).get("figure", []) if record.exists() else [])
    strips = draw(scene, home, summary["rows"], before)
    write_json(record, {**summary, "figure": [(method, strip.height) for method, strip in strips.items()]})
    stack(strips).save(figure, optimize=True)
    return summary


def measured_headline(scene: Scene, cells: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """The measures that these data allow, some need labels, and their headings; in order, which keys of JSON lose."""
    there = {measure for cell in cells for measure in cell["measures"] or {}}
    return [(m, heading) for m, heading in scene.experiment.headline.items() if m in there]


def summary_lines(result: dict[str, Any]) -> str:
    """The headline measures of every row, mean and spread over the seeds."""
    headline = dict(result["headline"])
    width = max((len(title) for title in result["rows"].values()), default=0) + 2
    lines = [result["what"], " ".join(["row".ljust(width), *(h.rjust(16) for h in headline.values())])]
    for method, title in result["rows"].items():
        cells = [c["measures"] for c in result["cells"] if c["method"] == method and c["measures"]]
        if cells:
            values = [spread([c.get(measure) for c in cells], measure in SHARES) for measure in headline]
            lines.append(" ".join([title.ljust(width), *(v.rjust(16) for v in values)]))
    if taken := result.get("taken"):
        lines.append(f"taken from the results, not measured here: {', '.join(taken)}; --anew measures a row again")
    return "\n".join(lines)


def main() -> None:
    """One cell: NAME METHOD SEED DATA ROOT DIRECTORY [quick]."""
    name, method, seed, data, root, cell, *quick = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    keep_freed_memory()
    try:
        run_cell(make_scene(name, data, Path(root), bool(quick)), method, int(seed), Path(cell))
    except NamapError as error:
        end(error)


if __name__ == "__main__":
    main()
