"""Write RESULTS.md, ABLATION.md and the tables of README.md from what benchmarks/results/ holds: no number is typed."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from namap.checkpoint import read_json
from namap.errors import StorageError
from namap.recipes import complete_recipe
from namap.runs import differences

from .experiment_tables import (
    ablation_page,
    experiment_section,
    in_papers_order,
    realism_table,
    spread,
    summary_table,
)
from .scene import of_recipe
from .wanted import configuration, make_scene

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
RESULTS = HERE.parent / "RESULTS.md"
ABLATION = HERE / "ABLATION.md"
FOLDER = HERE / "results"
Result = dict[str, Any]
SIZES = (32, 64)  # of the images of G, on which some defaults depend
BUDGETED = {"images", "seed"}  # settings that are the bench's own


def read(name: str) -> Result:
    return read_json(FOLDER / f"{name}.json")


def measured(name: str) -> bool:
    return (FOLDER / f"{name}.json").exists()


def experiments() -> list[Result]:
    """Results of `namap bench`, in the papers' order."""
    found = (read_json(path) for path in sorted(FOLDER.glob("*.json")))
    return in_papers_order([{**result, "outdated": outdated(result)} for result in found if "cells" in result])


def outdated(result: Result) -> dict[str, str]:
    """Rows of other settings than today's, and what differs."""
    scene = make_scene(result["name"], result["data"], None)
    changes = {}
    for cell in result["cells"]:
        there = cell["configuration"]
        changed = differences(there, configuration(scene, cell["method"], there.get("budget_min")))
        if changed := changed or other_defaults(cell):
            changes[cell["method"]] = "; ".join(changed)
    return changes


def other_defaults(cell: Result) -> list[str]:
    """Settings of a mapping that its row leaves as they are and that had another default then; none that came later."""
    then, found = cell["settings"], []
    if not then.keys() >= {"method", "loss"}:
        return []
    chosen = of_recipe(cell["configuration"]["settings"]) | {"loss": then["loss"]}
    for size in SIZES:  # the one of its G is not recorded
        recipe = asdict(complete_recipe(then["method"], then["loss"], size, chosen))
        now = json.loads(json.dumps({key: recipe[key] for key in recipe.keys() & then.keys() - BUDGETED}))
        found.append(differences({key: then[key] for key in now}, now))
    return min(found, key=len)


def figure(name: str) -> str | None:
    """The path of a figure, from the checkout."""
    return f"benchmarks/results/{name}.png" if (FOLDER / f"{name}.png").exists() else None


def results_block() -> str:
    """README's: the experiments of the bench, then the demo."""
    parts = (summary_table(experiments()), realism_table(experiments()), demo_table(read("demo")))
    return "\n\n".join(part for part in parts if part)


def demo_table(result: Result) -> str:
    """Digits kept by `namap demo --seeds`: mean and spread over the seeds."""
    kept, copy, judge = (
        [seed[key] for seed in result["seeds"].values()] for key in ("kept", "copy_baseline", "classifier_on_x")
    )
    took = f"{result['seconds'] / 60:.1f} on {result['threads']} core{'s' if result['threads'] > 1 else ''}"
    shown = f"{spread(kept, True)} | {len(kept)} | {fmean(copy):.1%} | {fmean(judge):.1%}"
    return (
        "| X ← Y | digit kept | seeds | copy baseline | judge on real X | minutes |\n|---|---|---|---|---|---|\n"
        f"| print ← handwriting (`namap demo`) | {shown} | {took} |"
        "\n\nDigit kept: share of unseen test queries whose analogy gets the query's digit from a Network-in-Network "
        "classifier trained on real images of X only; mean and spread over the seeds. Minutes include the generator."
    )


SHOWN = (  # of the figures of `namap bench speed`, in README.md; RESULTS.md has all
    "nam 32 l2", "vae 32 appearance", "nam 32 vgg", "nam 64 vgg", "vae 64 vgg", "vae 64 vgg, phi(y) not kept",
    "dcgan 32", "translate 32", "translate 64", "translate 32, refine 20", "eq. 6 32, an iteration",
)  # fmt: skip


def speed_table() -> str:
    result = read("speed")
    rows = ["| step | fp32 NCHW, images/s | namap, images/s | faster | of the convolution rate | × published code |"]
    rows.append("|---|---|---|---|---|---|")
    by_mode = {(r["step"], r["mode"]): r for r in result["rows"]}
    for step in SHOWN:
        if (step, "default") not in by_mode:
            continue
        slow, fast = by_mode[step, "fp32 nchw"], by_mode[step, "default"]
        known = result["published_images_s"].get(step)
        published = f"{fast['images_s'] / known:.1f}" if known else ""
        rows.append(
            f"| {step} | {slow['images_s']:.0f} | {fast['images_s']:.0f} | {fast['images_s'] / slow['images_s']:.1f}× "
            f"| {fast['share_of_convolution']:.0%} | {published} |"
        )
    rows += ["", f"On {result['threads']} threads of a processor where namap computes in {result['precision']}."]
    return "\n".join(rows)


AIMS = {"translate 32": 0.6, "translate 64": 0.6, "vae 64 vgg": 0.6, "vae 32 appearance": 0.4}  # of the rate


def whole_speed_table(result: Result) -> str:
    """Every figure in namap's default beside what it aims at, and where the time of a step goes."""
    rows = [
        "| step | images/s | MFLOP an image | GFLOP/s | of the convolution rate | aim |",
        "|---|---|---|---|---|---|",
    ]
    for r in result["rows"]:
        if r["mode"] == "default":
            share, aim = (f"{v:.0%}" if v else "" for v in (r["share_of_convolution"], AIMS.get(r["step"])))
            speeds = f"{r['images_s']:.0f} | {r['mflop_per_image']:.0f} | {r['gflops']:.0f}"
            rows.append(f"| {r['step']} | {speeds} | {share} | {aim} |")
    rates = ", ".join(f"{rate:.0f} GFLOP/s in {mode}" for mode, rate in result["convolution_gflops"].items())
    rows += ["", f"The bare convolution: {rates}, on {result['threads']} threads, default being {result['precision']}."]
    profiles = result.get("profile", {})
    if profiles:
        parts = list(next(iter(profiles.values()))["shares"])
        rows += ["", f"| step | ms | {' | '.join(parts)} | all convolutions |", f"|---|---|{'---|' * len(parts)}---|"]
    for step, found in profiles.items():
        shares = " | ".join(f"{found['shares'][part]:.1%}" for part in parts)
        rows.append(f"| {step} | {found['ms']:.0f} | {shares} | {found['convolutions']:.0%} |")
    return "\n".join(rows)


def promises_table() -> str:
    outcomes = read("promises")
    rows = ["| promise | cases | held |", "|---|---|---|"]
    rows += [f"| {s} | {o['cases']}{'' if o['all'] else ' (quick)'} | {o['held']} |" for s, o in outcomes.items()]
    if measured("soak"):
        soak = read("soak")
        text = f"{soak['minutes']:.0f} minutes under {soak['kills'] + soak['kills_of_translate']} kills"
        rows.append(f"| {text}: the same weights and pictures; memory and open files flat | 1 | {int(soak['held'])} |")
    return "\n".join(rows)


def systems_table() -> str:
    result = read("systems")
    lines = {
        "simulator": lambda r: (
            "median error, as a share of the range, of the middle one of twelve parameters and of the worst: "
            + ", ".join(
                f"{median(errors):.1%} and {max(errors):.1%} ({k})"
                for k in r
                if k.startswith("refine")
                for errors in [[p["median_error_of_range"] for p in r[k].values()]]
            )
        ),
        "warp": lambda r: "; ".join(
            f"{k}: {e['shift_px']:.2f} px, {e['scale']:.1%}, {e['angle_degrees']:.1f}°"
            for k, e in r.items()
            if isinstance(e, dict)
        ),
        "wae": lambda r: "; ".join(f"{method} {kept:.1%}" for method, kept in r["kept"].items()),
        "strong": lambda r: "; ".join(
            f"{what} {r['mean_absolute_error_of_255'][name]:.1f}" for name, what in STRONG.items()
        ),
        "exploration": lambda r: "; ".join(
            f"{k}: {e['diversity']:.2f} and {e['fidelity']:.3f}" for k, e in r.items() if isinstance(e, dict)
        ),
        "gram": lambda r: f"correlation of brightness, bag and shoe: {r['brightness_correlation']:.2f}",
    }
    rows = ["| what is shown | result |", "|---|---|"]
    for name, line in lines.items():
        if name in result:
            rows.append(f"| {result[name]['what'].rstrip('.')} | {line(result[name])} |")
    return "\n".join(rows)


STRONG = {  # mean absolute errors, of 255
    "small_in_colours_of_query": "small T, in the colours of the query",
    "strong": "strong T",
}


# ---- RESULTS.md --------------------------------------------------------------------------------------------------

FIGURES = {
    "simulator": "Blurred faces in random colours, and the drawn faces whose parameters were recovered",
    "explore": "Solutions of one query; walks along the directions of largest spread; a segment between two solutions",
    "strong": "Queries, their analogies, the small T of these, the strong T",
    "progressive": "Real cars, and cars of a progressively grown generator at 64 pixels",
    "stack": "Real cars, and cars of a generator with outputs at 16, 32 and 64 pixels",
    "gram": "Bags, and shoes found under the Gram loss",
    "grounding-edges-to-photos": "Edges, their analogies, and what the T of inverted photographs makes of these",
    "grounding-street-to-pen": "Street digits, their analogies, and the handwriting that these ground",
}
SYSTEM_FIGURES = "\n\n".join(
    f"![{text}](benchmarks/results/{name}.png)\n\n*{text}.*"
    for name, text in FIGURES.items()
    if (HERE / "results" / f"{name}.png").exists()
)


GLOSSARY = """\
- **±**: standard deviation over the seeds.
- **Figures**: the lowest seed of each row, queries drawn at random. (2) is a second answer to the same query; samples
  of G answer none.
- **measured again**: what `benchmarks/results/` has is shown, not measured, unless `--anew` is said. The papers' rows
  and the rivals may train for as long as other rows did on the same kind of processor. Where the table has those of
  another, `--method generator,namap,ROW --seeds 0` measures these, too, or `--budget-min` says how long, as the note
  below a table does.
- **KID**: kernel distance to X, times 1000, in features of a VGG-16 tuned to edges: not that of Inception, and to be
  compared within a section only.
- **taken for X**: share that a classifier of X against Y calls X. Blurred or repeated answers pass; it is no measure of
  quality.
- **distance to the photo**: perceptual, 0 to 4, in features of the network that drew the edges: a shift by a pixel
  counts more than another tone; *best of k*: of the best of four answers, chosen by the photo.
- **diversity**: how far several answers to one query differ, in the same features.
- **degrees**: median residual after the best constant offset and the better of the two senses of turning; *any line*:
  after the best line of any slope, which favours answers that are all alike (DistanceGAN's) and suffers from a few that
  face the other way. The pictures are 15 degrees apart, and the judge errs by what the note says on real ones: a
  difference of less tells nothing.
- **minutes**: of processor time, answers included, mean over the seeds. Rows that use G need its minutes, too; rivals
  train as long as G and namap's fit of their seed took on their machine, or as long as the note below their table says.
  Machines differ from section to section, and from row to row or seed to seed where a section names several processors:
  there minutes of two rows do not compare.
- **peak memory**: of a row's process; the older rows' includes the judges.
- **the papers' loss and T**: for as long as namap's mapping took, with its G, code size and E; VAE-NAM's `beta` and its
  warm-up are ours, as the paper's weight of one is of a sum over pixels. T has F = 8 filters at 32 pixels and 32 at 64,
  where the papers have 8 for digits and 32 for all else, which is of 64 pixels there. The loss is the perceptual one,
  in features of the VGG-16 tuned to edges, or what the papers say instead: Euclidean for cars, L1 for `digits2street`,
  Gram's for bags. NAM answers some queries
  only, drawn once at random: each costs a hundred passes through T and the loss.
- **G's inversion**: of test images of X, drawn at random: what a judge makes of the closest that G can draw. It bounds
  answers that should be as one image of X is, not those that may be any of a class: these can be clearer.
- **CycleGAN, DiscoGAN, DistanceGAN**: networks, losses and rates as published, in one loop of ours, in fp32; CycleGAN
  without random crops and mirrored pictures, as a mirrored digit is none. Its critic's patches are of 34 pixels below
  64. The first phase of DiscoGAN and DistanceGAN, under which reconstruction weighs little, is a fifth of a run in
  place of 10,000 iterations, more than any run here has.
- **chosen**: namap's settings were sought for each experiment on held-out queries, those of its vote on training
  queries, scored by their labels (`benchmarks/EXPLORATION.md`); the rivals' are as published, for runs many times as
  long. Some of namap's were changed after rows of the test split: kinds and `beta` of `digits2street`, T of
  `avatar2face`, whose measure of hair was, too, T of `bags2shoes`, the recipe of edges, once rivals were seen to be
  nearer, and what holds refined answers to a kind. The matching was sought on the 1160 emoji of its first columns; the
  128 are unseen. One earlier run of `avatar2face` had come out much weaker (EXPLORATION.md).
- **a vote** (`kinds`, in both experiments with digits): takes things to be equally frequent in both domains, which they
  are in these data.
- **the query itself**: resized, with the channels, mean and deviation of X."""


def speed_section() -> list[str]:
    if not measured("speed"):
        return []
    return [
        "## Speed",
        "`namap bench speed --profile -o benchmarks/results/speed.json`. FLOPs are those of a step, counted by "
        "PyTorch; the convolution rate is that of a bare 128→128 3×3 convolution of 64 images of 32×32 in the same "
        "precision and layout, in the same run. An iteration of Eq. 6 counts its queries as images. The profile is of "
        "the real training loop; `rest` is Python, the guard against NaN and what is logged. Shares depend on how fast "
        "a processor multiplies; `benchmarks/EXPLORATION.md` has those of two others, and what was tried.",
        whole_speed_table(read("speed")),
    ]


def results_page() -> str:
    """RESULTS.md, whole; what is not measured yet has no section."""
    parts = [
        "# Results",
        "Written by `namap bench --tables` from the JSON in `benchmarks/results/`. `benchmarks/ABLATION.md` says what "
        "some changes of the recipe gave, `benchmarks/EXPLORATION.md` what was tried on the way. The benches look for "
        "their data in `--data-root`, `$NAMAP_DATA`, then `../shared/data`; `benchmarks/data/README.md` says how to "
        "make it.",
        GLOSSARY,
    ]
    for result in experiments():
        suffix = "" if result["data"] == "reference" else f"-{result['data']}"
        parts += experiment_section(result, figure(result["name"] + suffix))
    if measured("demo"):
        repeat = "`namap demo --outdir runs/demo --seeds 0,1,2` repeats the row."
        parts += ["## The demo", repeat, demo_table(read("demo"))]
    if measured("systems"):
        parts += ["## The other systems of the papers", "`python benchmarks/systems.py --data-root DATA`."]
        parts += [systems_table(), SYSTEM_FIGURES]
    parts += speed_section()
    return "\n\n".join(part for part in parts if part) + "\n"


def ablations() -> list[Result]:
    """Rows of all `results/ablation*.jsonl`.

    Raises:
        StorageError: a line is no row.
    """
    rows = []
    for path in sorted(FOLDER.glob("ablation*.jsonl")):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                _ = row["change"], row["experiment"], row["measures"].items()
            except (ValueError, KeyError, TypeError, AttributeError):
                raise StorageError(f"{path}:{number}: no row with change, experiment and measures") from None
            rows.append(row)
    return rows


def main() -> None:
    """Write all pages; nothing is written where a result is refused."""
    page, rows, text = results_page(), ablations(), README.read_text()
    blocks: tuple[tuple[str, str, Callable[[], str]], ...] = (
        ("results", "demo", results_block),
        ("speed", "speed", speed_table),
        ("promises", "promises", promises_table),
    )
    for name, needs, table in blocks:
        if measured(needs):
            block = f"<!-- {name} -->\n{table()}\n<!-- /{name} -->"
            text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, b=block: b, text, flags=re.S)
    if rows:
        ABLATION.write_text(ablation_page(rows))
    RESULTS.write_text(page)
    README.write_text(text)
