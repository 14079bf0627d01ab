"""The demonstration: real handwriting to typeset digits, from nothing to a judged report, without a network."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import torch

from .analogies import Analogies
from .checkpoint import file_sha256, read_json, write_json
from .data import ImageDomain, load_domain
from .data.embedded import typeset
from .errors import DataError, UsageError
from .evaluation import Kept, evaluate_kept, obtain_classifier
from .files import remove
from .generators import train_generator
from .generators.families import dcgan
from .mapping import VAENAM, Mapping
from .pictures import write_picture
from .report import (
    Fitted,
    analogies_sheet,
    closing_section,
    mapping_sections,
    settings_section,
    training_section,
    version_rows,
    write_page,
)
from .runs import differences, hold, read_log, remove_emptied, remove_run
from .tensors import pick_device, pick_precision
from .voting import read_whole_log

# Twelve numbers hold a digit, its face and its pose; a code with more reaches shapes that are no digit.
GENERATOR = dcgan.Recipe(latent_dim=12, images=144_000, width=40, rate=6e-4)
# Print explains handwriting closely: the KL term can afford more weight than for house numbers, and T is freed early.
# Twenty kinds are ten digits in two styles each.
MAPPING = {"images": 128_000, "beta": 3e-3, "freedom": 0.12, "free_rate": 1e-3, "kinds": 20}
CLASSIFIER_IMAGES, CLASSIFIER_WIDTH = 48_000, 32
SOLUTIONS, TEMPERATURE = 6, 2.0  # the mean, and five samples in other faces
TRAINED = ("generator", "mapping", "classifier")
WRITTEN = ("metrics.json", "report.html", "analogies.png")
SUMMED = {"kept", "copy_baseline", "seconds", "seeds"}  # in every `metrics.json` of a demo


@dataclass(frozen=True)
class _Seed:
    mapping: Mapping
    found: Analogies
    result: Kept
    seconds: dict[str, float]


def run_demo(
    outdir: Path,
    seeds: Sequence[int] = (0,),
    extra_fonts: Sequence[Path] = (),
    device: str = "auto",
    precision: str = "auto",
    quiet: bool = False,
) -> dict:
    """Run the demonstration for every seed, write `report.html` and `metrics.json`, return the summary.

    Everything resumes: a stage that is finished is loaded, one that was interrupted goes on, a finished demo is left
    alone.

    Raises:
        UsageError: `outdir` holds a demo with other fonts or precision, or files of something else.
        DataError: a font that cannot be read.
    """
    asked = {
        "fonts": [_known(font) for font in extra_fonts],
        "precision": pick_precision(precision, pick_device(device)),
    }
    found = _claim(outdir, asked)
    if found.keys() >= asked.keys() and found["seeds"].keys() == {str(seed) for seed in seeds}:
        return found
    queries = load_domain("embedded:handwriting/test")
    runs = {
        seed: _run_seed(outdir / f"seed{seed}", seed, queries, extra_fonts, device, precision, quiet) for seed in seeds
    }
    kept = [run.result.kept for run in runs.values()]
    summary = {
        "kept": float(np.mean(kept)),
        "kept_std": stdev(kept) if len(kept) > 1 else 0.0,
        "copy_baseline": float(np.mean([run.result.copy_baseline for run in runs.values()])),
        "seconds": float(np.mean([sum(run.seconds.values()) for run in runs.values()])),
        "threads": torch.get_num_threads(),
        "seeds": {str(seed): {**run.result.as_dict(), "seconds": run.seconds} for seed, run in runs.items()},
        "versions": dict(version_rows()),
        **asked,
    }
    _write_page(outdir, summary, runs[seeds[0]], seeds[0], queries)
    write_json(outdir / "metrics.json", summary)
    return summary


def clear_demo(outdir: Path) -> None:
    """Delete an earlier demo, and only what a demo leaves.

    Raises:
        UsageError: what is there is no demo of namap.
        StorageError: another process holds the directory.
    """
    with hold(outdir):
        seeds = [record.parent for record in outdir.glob("seed*/seconds.json") if not record.parent.is_symlink()]
        if not seeds and any(path.name != ".lock" for path in outdir.iterdir()):
            raise UsageError(f"--overwrite: {outdir} does not look like a demo of namap; delete it yourself")
        for path in (outdir / name for name in WRITTEN if seeds and (outdir / name).exists()):
            remove(path)
        for seed in seeds:
            for stage in TRAINED:
                remove_run(seed / stage)
            remove(seed / "seconds.json")
            remove_emptied(seed)


def _known(font: Path) -> str:
    """A font by its content, wherever it lies."""
    try:
        return file_sha256(font)[:16]
    except OSError as error:
        raise DataError(f"{font}: not a font that can be read ({error.strerror})") from None


def _claim(outdir: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Take `outdir` for a demo that is asked for; return what an earlier one has summed up there, if anything."""
    record = outdir / "metrics.json"
    found = read_json(record) if record.is_file() else {}
    summed = found.keys() >= SUMMED and isinstance(found["seeds"], dict)
    begun = summed or (not found and any(outdir.glob("seed*/seconds.json")))
    foreign = [name for name in WRITTEN if (outdir / name).exists() or (outdir / name).is_symlink()]
    if foreign and not begun:
        raise UsageError(f"{outdir}: holds no demo of namap, and its {foreign[0]} would be lost; use another --outdir")
    changed = differences({key: found.get(key, value) for key, value in asked.items()}, asked)
    if changed:
        others = f"holds a demo with another {'; '.join(changed)}"
        raise UsageError(f"{outdir}: {others}; use --overwrite or another --outdir")
    return found


def _run_seed(
    place: Path, seed: int, queries: ImageDomain, extra_fonts: Sequence[Path], device: str, precision: str, quiet: bool
) -> _Seed:
    clock = _Clock(place / "seconds.json")
    with clock("fonts"):
        x = ImageDomain.from_array(*typeset("train", extra_fonts), source="embedded:typeset/train")
        x_test = ImageDomain.from_array(*typeset("test", extra_fonts), source="embedded:typeset/test")
    with clock("generator"):
        recipe = replace(GENERATOR, seed=seed)
        generator = train_generator(x, recipe, place / "generator", device, precision, quiet)
    with clock("mapping"):
        mapping = VAENAM(generator, device=device, precision=precision, seed=seed, **MAPPING)
        mapping.fit("embedded:handwriting/train", place / "mapping", quiet, x=x)
    with clock("classifier"):
        judge = obtain_classifier(
            place / "classifier", x, seed, CLASSIFIER_IMAGES, CLASSIFIER_WIDTH, x_test, device, precision, quiet
        )
    with clock("translation"):
        found = mapping.translate(queries, SOLUTIONS, seed=seed, temperature=TEMPERATURE, quiet=quiet)
    with clock("evaluation"):
        result = evaluate_kept(mapping, queries, judge, found)
    return _Seed(mapping, found, result, clock.seconds)


class _Clock:
    """Seconds of each stage; those of a training stage add up over interruptions."""

    def __init__(self, path: Path):
        self.path = path
        self.seconds: dict[str, float] = read_json(path) if path.exists() else {}

    def __call__(self, stage: str) -> "_Clock":
        self.stage = stage
        return self

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        before = self.seconds.get(self.stage, 0.0) if self.stage in TRAINED else 0.0
        self.seconds[self.stage] = before + time.monotonic() - self.started
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_json(self.path, self.seconds)


def _write_page(outdir: Path, summary: dict, run: _Seed, seed: int, queries: ImageDomain) -> None:
    place, result = outdir / f"seed{seed}", run.result
    log, record = read_whole_log(place / "mapping"), read_json(place / "mapping" / "run.json")
    view = Fitted("mapping", run.mapping, queries, run.found, run.seconds["translation"], result, log, record)
    random = np.random.default_rng(0).permutation(len(queries))[:24].tolist()
    sheet = analogies_sheet(view, random)
    write_picture(outdir / "analogies.png", sheet.resize((sheet.width * 2, sheet.height * 2), 0))
    seeds = ", ".join(f"{s}: {r['kept']:.1%}" for s, r in summary["seeds"].items())
    stages = [(f"{stage}, seconds", f"{seconds:.1f}") for stage, seconds in run.seconds.items()]
    learnt = training_section([("generator", read_log(place / "generator"))], "Training of the generator")
    sections = [
        *mapping_sections([view]),
        *([] if learnt is None else [learnt]),
        settings_section([view]),
        closing_section([view], stages),
    ]
    headline = [
        ("of the digits kept", f"{summary['kept']:.1%}"),
        ("copy baseline", f"{summary['copy_baseline']:.1%}"),
        (f"by at least one of six solutions, seed {seed}", f"{result.any_solution:.1%}"),
        ("in all", f"{summary['seconds']:.0f} s"),
    ]
    write_page(
        outdir / "report.html",
        "namap: handwriting to print",
        "Real handwritten digits mapped to typeset ones: a generator of print was trained on fonts, then a VAE-NAM "
        f"mapping on handwriting alone, without pairs or labels. Seed {seed} in detail; digit kept by seed: {seeds}.",
        sections,
        headline,
    )
