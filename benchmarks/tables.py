"""Write RESULTS.md and the tables of README.md from the JSON in benchmarks/results/: no number is typed by hand."""

import json
import re
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
RESULTS = HERE.parent / "RESULTS.md"


def results_table() -> str:
    rows = ["| X ← Y | digit kept | seeds | copy baseline | judge on real X | minutes |", "|---|---|---|---|---|---|"]
    names = {
        "demo": "print ← handwriting (`namap demo`)",
        "street2digits": "digits ← street digits",
        "digits2street": "street digits ← digits",
    }
    for name, title in names.items():
        if not (HERE / "results" / f"{name}.json").exists():
            continue  # not measured yet: no row
        result = read(name)
        seeds = list(result["seeds"].values()) if isinstance(result["seeds"], dict) else result["seeds"]
        kept = [s["kept"] for s in seeds]
        mean = sum(kept) / len(kept)
        spread = (sum((k - mean) ** 2 for k in kept) / len(kept)) ** 0.5
        minutes = result.get("minutes_mean") or result["seconds"] / 60
        judge = sum(s["classifier_on_x"] for s in seeds) / len(seeds)
        copy = sum(s["copy_baseline"] for s in seeds) / len(seeds)
        threads = f"{minutes:.1f} on {result['threads']} core{'s' if result['threads'] > 1 else ''}"
        rows.append(f"| {title} | **{mean:.1%}** ± {spread:.1%} | {len(kept)} | {copy:.1%} | {judge:.1%} | {threads} |")
    note = (
        "Digit kept: share of unseen test queries whose analogy gets the query's digit from a Network-in-Network "
        "classifier trained on real images of X only; mean and spread over the seeds. Minutes include the generator."
    )
    return "\n".join([*rows, "", note])


def speed_table() -> str:
    result = read("speed")
    rows = ["| step | fp32 NCHW, images/s | namap, images/s | faster | of the convolution rate | × published code |"]
    rows.append("|---|---|---|---|---|---|")
    by_mode = {(r["step"], r["mode"]): r for r in result["rows"]}
    for step in dict.fromkeys(r["step"] for r in result["rows"]):
        slow, fast = by_mode[step, "fp32 nchw"], by_mode[step, "default"]
        known = result["published_images_s"].get(step)
        published = f"{fast['images_s'] / known:.1f}" if known else ""
        rows.append(
            f"| {step} | {slow['images_s']:.0f} | {fast['images_s']:.0f} | {fast['images_s'] / slow['images_s']:.1f}× "
            f"| {fast['share_of_convolution']:.0%} | {published} |"
        )
    return "\n".join(rows)


def matching_table() -> str:
    result = read("matching")
    rows = ["| matching | top-1 | top-5 | top-1, test | seconds | peak memory |", "|---|---|---|---|---|---|"]
    for name, r in result["rows"].items():
        top = f"**{r['train_top1']:.1%}**" if name.startswith("ours") else f"{r['train_top1']:.1%}"
        rows.append(
            f"| {name} | {top} | {r['train_top5']:.1%} | {r['test_top1']:.1%} "
            f"| {r['seconds']:.0f} | {r['peak_gb']:.1f} GB |"
        )
    return "\n".join(rows)


def promises_table() -> str:
    rows = ["| promise | cases | held |", "|---|---|---|"]
    outcomes = read("promises")["outcomes"]
    return "\n".join([*rows, *(f"| {s} | {o['cases']} | {o['held']} |" for s, o in outcomes.items())])


def generators_table() -> str:
    result = read("generators")
    rows = [
        "| generator | digit kept | judge's confidence on samples | minutes, generator + mapping |",
        "|---|---|---|---|",
    ]
    for kind, r in result["kinds"].items():
        minutes = " + ".join(f"{r['seconds'][part] / 60:.0f}" for part in ("generator", "mapping"))
        rows.append(f"| {kind} | {r['kept']:.1%} | {r['confidence_on_samples']:.1%} | {minutes} |")
    return "\n".join(rows)


def systems_table() -> str:
    result = read("systems")
    lines = {
        "simulator": lambda r: (
            "median error, as a share of a parameter's range: "
            + ", ".join(
                f"{median([p['median_error_of_range'] for p in r[k].values()]):.1%} ({k})"
                for k in r
                if k.startswith("refine")
            )
        ),
        "warp": lambda r: "; ".join(
            f"{k}: {e['shift_px']:.2f} px, {e['scale']:.1%}, {e['angle_degrees']:.1f}°"
            for k, e in r.items()
            if isinstance(e, dict)
        ),
        "wae": lambda r: "; ".join(f"{method} {kept:.1%}" for method, kept in r["kept"].items()),
        "strong": lambda r: "; ".join(
            f"{name.replace('_', ' ')} {error:.1f}" for name, error in r["mean_absolute_error_of_255"].items()
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


def read(name: str) -> dict:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


SECTIONS = (  # of RESULTS.md: the JSON it needs, the title, what stands above the table, the table, what stands below
    (
        "demo",
        "Digits",
        "Repeat a row with `namap demo --outdir runs/demo --seeds 0,1,2` or `python benchmarks/digits.py street2digits "
        "--seeds 0,1,2 --data-root DATA` (or `digits2street`). The papers report 37.4% for SVHN → MNIST and 51.7% for "
        "MNIST → SVHN, on other pictures.",
        results_table,
        "",
    ),
    (
        "generators",
        "Five generators",
        "Any generator will do, a better one does better: the same street digits mapped with digit generators of five "
        "kinds, one budget for all, smaller than above (NAM Fig. 4): "
        "`python benchmarks/generators.py --data-root DATA`.",
        generators_table,
        "![Queries; then samples of each generator, and its analogies](benchmarks/results/generators.png)",
    ),
    (
        "systems",
        "The other systems of the papers",
        "`python benchmarks/systems.py --data-root DATA`.",
        systems_table,
        "",
    ),
    (
        "matching",
        "Matching two sets that exist",
        "NAM Eq. 1, the step before a generator: which Noto emoji is which Twemoji, of 1160 shuffled pictures a side, "
        "the pairing kept for scoring (128 a side in the test split). `inexact` (Eq. 2) mixes pictures freely; its row "
        "ranks them by their weight. `python benchmarks/matching.py --data-root DATA`.",
        matching_table,
        "![Queries, their matches, and the blurred mixtures of Eq. 2](benchmarks/results/matching.png)\n\n"
        "Pictures of both designs: Google Noto (Apache-2.0) and Twemoji (CC-BY 4.0, Twitter and contributors).",
    ),
)


def measured(name: str) -> bool:
    return (HERE / "results" / f"{name}.json").exists()


def results_page() -> str:
    """RESULTS.md, whole; what is not measured yet has no section."""
    parts = [
        "# Results",
        "Written by `python benchmarks/tables.py` from the JSON in `benchmarks/results/`; `benchmarks/EXPLORATION.md` "
        "says what was tried on the way. DATA is the directory of the benchmark data.",
    ]
    for name, title, above, table, below in SECTIONS:
        if measured(name):
            parts += [f"## {title}", above, table(), below]
    return "\n\n".join(part for part in parts if part) + "\n"


def main() -> None:
    RESULTS.write_text(results_page())
    text = README.read_text()
    for name, needs, table in (
        ("results", "demo", results_table),
        ("speed", "speed", speed_table),
        ("promises", "promises", promises_table),
    ):
        if measured(needs):
            block = f"<!-- {name} -->\n{table()}\n<!-- /{name} -->"
            text = re.sub(rf"<!-- {name} -->.*<!-- /{name} -->", lambda _, b=block: b, text, flags=re.S)
    README.write_text(text)


if __name__ == "__main__":
    main()
