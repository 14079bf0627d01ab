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
        "| generator | digit kept | reconstruction loss | judge's confidence on samples |",
        "|---|---|---|---|",
    ]
    for kind, r in result["kinds"].items():
        rows.append(f"| {kind} | {r['kept']:.1%} | {r['loss']:.3f} | {r['confidence_on_samples']:.1%} |")
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


def experiment_table(result: dict) -> str:
    """Rows of an experiment of `namap bench`: mean and spread over the seeds. Rows of another commit say so."""
    headline = result["headline"]
    rows = [
        f"| row | {' | '.join(headline.values())} | seeds | images seen | minutes | commit |",
        f"|---|{'---|' * len(headline)}---|---|---|---|",
    ]
    for method in dict.fromkeys(cell["method"] for cell in result["cells"]):
        cells = [c for c in result["cells"] if c["method"] == method]
        if len({json.dumps(c["configuration"], sort_keys=True) for c in cells}) > 1:
            raise SystemExit(f"{result['name']}: the seeds of {method} have different configurations")
        if not cells[0]["measures"]:
            continue
        values = [spread([c["measures"].get(measure) for c in cells]) for measure in headline]
        seen = f"{cells[0]['images_seen'] / 1000:.0f}k" if cells[0]["images_seen"] else ""
        minutes = sum(c["seconds"]["processor"] for c in cells) / len(cells) / 60
        commits = ", ".join(dict.fromkeys(c["commit"][:7] for c in cells))
        name = f"**{method}**" if method == "namap" else method
        rows.append(f"| {name} | {' | '.join(values)} | {len(cells)} | {seen} | {minutes:.1f} | {commits} |")
    own = [c["measures"]["judge_on_x"] for c in result["cells"] if c["measures"].get("judge_on_x") is not None]
    note = f"The judge on held-out real X: {own[0]:.3g}." if own else ""
    return "\n".join([*rows, "", note]).strip()


def spread(values: list) -> str:
    """Mean and deviation; nothing where nothing was measured."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    mean = sum(known) / len(known)
    deviation = (sum((v - mean) ** 2 for v in known) / len(known)) ** 0.5
    return f"{mean:.3g}" + (f" ± {deviation:.2g}" if len(known) > 1 else "")


def experiments() -> list[dict]:
    """Results of `namap bench`, in the order of their names."""
    found = (json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json")))
    return [result for result in found if "cells" in result]


def read(name: str) -> dict:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


FIGURES = {
    "simulator": "Blurred faces in random colours, and the drawn faces whose parameters were recovered",
    "explore": "Solutions of one query; walks along the directions of largest spread; a segment between two solutions",
    "strong": "Queries, their analogies, the small T of these, the strong T",
    "progressive": "Real cars, and cars of a progressively grown generator at 64 pixels",
    "stack": "Real cars, and cars of a generator with outputs at 16, 32 and 64 pixels",
    "gram": "Bags, and shoes found under the Gram loss",
    "grounding-edges-to-photos": "Edges, their analogies, and the photographs that these ground",
    "grounding-street-to-pen": "Street digits, their analogies, and the handwriting that these ground",
}
SYSTEM_FIGURES = "\n\n".join(
    f"![{text}](benchmarks/results/{name}.png)\n\n*{text}.*"
    for name, text in FIGURES.items()
    if (HERE / "results" / f"{name}.png").exists()
)

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
        "NAM Fig. 4: the same street digits mapped with digit generators of five kinds, one budget for all, smaller "
        "than above. The paper finds DCGAN and SN-GAN much better than VAE and GLO. Here the DCGAN leads as well, but "
        "VAE-l is second: its samples look poor, yet its images are sharp where queries put their codes, and it "
        "reaches more digits (the lowest loss). GLO and the blurred VAE-h are last, as in the paper. One seed each: "
        "`python benchmarks/generators.py --data-root DATA`.",
        generators_table,
        "![Queries; then samples of each generator, and its analogies](benchmarks/results/generators.png)",
    ),
    (
        "systems",
        "The other systems of the papers",
        "`python benchmarks/systems.py --data-root DATA`.",
        systems_table,
        SYSTEM_FIGURES,
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
    for result in experiments():
        what = f"{result['what']} (`namap bench {result['name']} --data {result['data']}`)."
        parts += [f"## {result['name']}", what[0].upper() + what[1:], experiment_table(result)]
        parts += [f"![Queries, and the answers of each row](benchmarks/results/{result['name']}.png)"]
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
