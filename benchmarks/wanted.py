"""What a bench wants measured: rows, seeds, their order, and the configuration of each cell."""

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from namap.checkpoint import read_json
from namap.errors import UsageError
from namap.settings import make_settings

from .experiments import EXPERIMENTS
from .methods import ROWS
from .scene import Experiment, Row, Scene, find_root

SEEDS = [0, 1, 2]
LONGER = re.compile(r"(.+)-([0-9.]+)x")  # a row with a multiple of the equal budget


def rows_of(experiment: Experiment) -> dict[str, Row]:
    """The rows of an experiment."""
    return experiment.rows or ROWS


def longer(row: Row, factor: float) -> Row:
    return replace(row, budget_factor=factor, title=f"{row.title}, {factor:g}× the time")


def find_row(experiment: Experiment, method: str) -> Row:
    """The row of this name.

    Raises:
        UsageError: there is none.
    """
    rows = rows_of(experiment)
    base, factor = found.groups() if (found := LONGER.fullmatch(method)) else (method, "1")
    if base not in rows or (base != method and not rows[base].budget_of):
        raise UsageError(f"--method {method}: unknown; use {', '.join(rows)}")
    return rows[base] if base == method else longer(rows[base], float(factor))


def seeds_of(experiment: Experiment, methods: list[str], seeds: list[int]) -> list[int]:
    """Those that are asked for; seed 0 alone where every row but G is the same for all of them."""
    others = [find_row(experiment, method) for method in methods if method != "generator"]
    return [0] if others and all(row.once for row in others) else seeds


def own_seed(experiment: Experiment, method: str, seed: int) -> int:
    """The seed of a row's cell: 0 for one that is the same for all of them."""
    return 0 if find_row(experiment, method).once else seed


def recorded_seeds(path: Path) -> dict[str, list[int]]:
    """The seeds of each row in an experiment's results."""
    seeds: dict[str, list[int]] = {}
    for cell in read_json(path)["cells"] if path.exists() else []:
        seeds.setdefault(cell["method"], []).append(cell["seed"])
    return seeds


def cells_of(
    experiment: Experiment, methods: list[str], seeds: list[int] | None, there: dict[str, list[int]]
) -> list[tuple[str, int]]:
    """The cells that are asked for, seed by seed; without seeds, those that are `there`."""
    default = seeds_of(experiment, methods, seeds or SEEDS)
    cells = [
        (method, own_seed(experiment, method, seed))
        for method in methods
        for seed in (there.get(method, default) if seeds is None else default)
    ]
    return sorted(dict.fromkeys(cells), key=lambda cell: cell[1])


def in_order(experiment: Experiment, methods: list[str], own_budget: bool = True) -> list[str]:
    """The rows to run, each after what it needs and, with `own_budget`, after the rows whose time it gets."""
    order: list[str] = []

    def add(method: str) -> None:
        row = find_row(experiment, method)
        for before in (*row.needs, *(row.budget_of if own_budget else ())):
            add(before)
        if method not in order:
            order.append(method)

    for method in methods:
        add(method)
    return order


def uses_generator(experiment: Experiment, method: str) -> bool:
    """Whether a row builds on the G of the row `generator`, or is that row."""
    return "generator" in in_order(experiment, [method], own_budget=False)


def make_scene(name: str, data: str, data_root: Path | None, quick: bool = False) -> Scene:
    if name not in EXPERIMENTS:
        raise UsageError(f"bench {name}: unknown; use speed, {', '.join(EXPERIMENTS)}")
    experiment = EXPERIMENTS[name]
    if data not in experiment.sources:
        raise UsageError(f"--data {data}: {name} has {', '.join(experiment.sources)}")
    return Scene(experiment, data, find_root(data_root), quick)


def configuration(scene: Scene, method: str, budget_min: float | None) -> dict[str, Any]:
    """What decides a cell's result, as JSON values; beside it, what its files hold (`Scene.digests`)."""
    row = find_row(scene.experiment, method)
    elsewhere = isinstance(scene.generator, str | None)
    recipe = scene.experiment.generator if elsewhere else asdict(scene.generator)  # not with this machine's data root
    values = {
        "method": method,
        "sources": asdict(scene.sources),
        "settings": row.settings(scene),
        "budget_min": budget_min if row.budget_of else None,
        "generator": recipe,
        "solutions": scene.experiment.solutions,
        "held_out": scene.held_out and method != "generator",  # which knows no queries
        "generator_cell": scene.generator_cell,
        **({"queries": row.queries} if row.queries else {}),
    }
    return json.loads(json.dumps(values))


def as_wanted(scene: Scene, wanted: dict[str, Any]) -> Scene:
    """The scene of a cell: what its configuration says of namap's settings, of G and of the queries."""
    experiment = scene.experiment
    if wanted["method"] == "namap":
        experiment = replace(experiment, ours=wanted["settings"])
    if not isinstance(scene.generator, str | None):
        experiment = replace(experiment, generator=make_settings(type(scene.generator), wanted["generator"]))
    own = {"held_out": wanted["held_out"], "generator_cell": wanted["generator_cell"], "queries": wanted.get("queries")}
    return replace(scene, experiment=experiment, **own)
