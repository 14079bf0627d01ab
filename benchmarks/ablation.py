"""What each setting of namap's recipe gives: the row `namap` of an experiment with some settings changed.

    namap bench street2digits --ablate "as it is:" --ablate "freed at once: freedom=0" --seeds 0,1
    namap bench street2digits --ablate "wider codes: generator.latent_dim=64"

Queries are judged that were held out of `y_train` and not fitted; the test split is not touched. G is the one of
seed 0, for every seed of the mapping. Rows are appended to `results/ablation.jsonl`, with configuration and commit;
`namap bench --tables` writes `ABLATION.md` from them.
"""

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from namap.checkpoint import read_json
from namap.console import read_settings
from namap.errors import UsageError
from namap.recipes import make_recipe
from namap.settings import make_settings

from .runner import RESULTS, forget_lost_weights, measure, open_cells
from .scene import Scene, of_recipe
from .wanted import configuration, make_scene

RESULTS_FILE = "ablation.jsonl"
OF_GENERATOR = "generator."


def parse_change(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME: key=value,key=value` as a name and settings; a list in brackets keeps its commas.

    >>> parse_change("freed late: freedom=0.9,generator.width=64")
    ('freed late', {'freedom': 0.9, 'generator.width': 64})
    """
    name, colon, rest = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(f"--ablate {text!r}: expected 'NAME: key=value,key=value'; no settings for the recipe itself")
    pairs = [pair.strip() for pair in re.split(r",(?![^\[{]*[\]}])", rest) if pair.strip()]
    return name.strip(), read_settings(None, pairs)


def run_ablation(
    name: str,
    changes: list[str],
    seeds: list[int],
    data: str,
    data_root: Path | None,
    runs: Path,
    quick: bool = False,
    quiet: bool = False,
) -> tuple[list[dict[str, Any]], str]:
    """What the command line asks for: the rows, and a table of them for people."""
    scene = make_scene(name, data, data_root, quick)
    scene.check_files()
    home = open_cells(scene, runs)
    rows = ablate(scene, changes, seeds, home, home if quick else RESULTS, quiet)
    return rows, summary_lines(rows, scene.experiment.headline)


def ablate(
    scene: Scene, changes: list[str], seeds: list[int], home: Path, results: Path = RESULTS, quiet: bool = False
) -> list[dict[str, Any]]:
    """Measure what is missing of `changes` x `seeds`; returns their rows, which are also in `results`.

    Raises:
        UsageError: an unknown setting; nothing has been measured then.
    """
    rows = []
    for name, changed, varied in [vary(scene, *parse_change(change)) for change in changes]:
        g = home / f"{varied.generator_cell}-0"
        forget_lost_weights(varied, g)
        measure(varied, "generator", 0, g, quiet)
        slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
        wanted = configuration(varied, "namap", None)
        for seed in seeds:
            cell = home / f"ablate-{slug}-{digest(wanted)}-{seed}"
            measure(varied, "namap", seed, cell, quiet)
            origin = {"change": name, "experiment": scene.experiment.name, "data": scene.data}
            known = {"settings_changed": changed, "headline": list(scene.experiment.headline.items())}
            rows.append({**origin, **known, **read_json(cell / "result.json")})
            append(rows[-1], results / RESULTS_FILE)
    return rows


def vary(scene: Scene, name: str, changes: dict[str, Any]) -> tuple[str, dict[str, Any], Scene]:
    """The scene with some settings of the mapping or, with the prefix `generator.`, of G changed."""
    own = {key: value for key, value in changes.items() if not key.startswith(OF_GENERATOR)}
    of_generator = {k.removeprefix(OF_GENERATOR): v for k, v in changes.items() if k.startswith(OF_GENERATOR)}
    checked = own | asdict(make_recipe(of_recipe(scene.ours | own)))
    own = {key: checked[key] for key in own}
    experiment, cell = replace(scene.experiment, ours=scene.ours | own), "generator"
    if of_generator:
        recipe = scene.generator
        if isinstance(recipe, str | None):
            raise UsageError(f"--ablate {name!r}: the generator of {experiment.name} is not trained here")
        recipe = make_settings(type(recipe), asdict(recipe) | of_generator, "the generator")
        experiment, cell = replace(experiment, generator=recipe), f"generator-{digest(asdict(recipe))}"
    return name, changes, replace(scene, experiment=experiment, held_out=True, generator_cell=cell)


def digest(values: dict[str, Any]) -> str:
    """Eight letters that tell configurations apart."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def append(row: dict[str, Any], path: Path) -> None:
    """Add a row to the file, once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    known = path.read_text().splitlines() if path.exists() else []
    line = json.dumps(row)
    if line not in known:
        with path.open("a") as file:
            file.write(line + "\n")


def summary_lines(rows: list[dict[str, Any]], headline: dict[str, str]) -> str:
    """The headline measures of each row."""
    lines = [" ".join(["change".ljust(32), "seed", *(title.rjust(16) for title in headline.values())])]
    for row in rows:
        values = [row["measures"].get(key) for key in headline]
        shown = " ".join(("" if v is None else f"{v:.3f}").rjust(16) for v in values)
        lines.append(f"{row['change']:32s} {row['seed']:4d} {shown}")
    return "\n".join(lines)
