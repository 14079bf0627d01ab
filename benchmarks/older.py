"""Tables of results that were measured before `namap bench` had their experiments.

Each gives way to the bench's own table as soon as that is measured.
"""

from statistics import fmean, pstdev
from typing import Any

Result = dict[str, Any]
TITLES = {
    "demo": "print ← handwriting (`namap demo`)",
    "street2digits": "digits ← street digits",
    "digits2street": "street digits ← digits",
}
KEPT_NOTE = (
    "Digit kept: share of unseen test queries whose analogy gets the query's digit from a Network-in-Network "
    "classifier trained on real images of X only; mean and spread over the seeds. Minutes include the generator."
)


def kept_table(results: dict[str, Result]) -> str:
    """Digits kept, by name of the result."""
    rows = ["| X ← Y | digit kept | seeds | copy baseline | judge on real X | minutes |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        seeds = list(result["seeds"].values()) if isinstance(result["seeds"], dict) else result["seeds"]
        kept, copy, judge = ([s[key] for s in seeds] for key in ("kept", "copy_baseline", "classifier_on_x"))
        minutes = result.get("minutes_mean") or result["seconds"] / 60
        took = f"{minutes:.1f} on {result['threads']} core{'s' if result['threads'] > 1 else ''}"
        own = f"**{fmean(kept):.1%}** ± {pstdev(kept):.1%}"
        rows.append(f"| {TITLES[name]} | {own} | {len(kept)} | {fmean(copy):.1%} | {fmean(judge):.1%} | {took} |")
    return "\n".join([*rows, "", KEPT_NOTE])


def matching_table(result: Result) -> str:
    rows = ["| matching | top-1 | top-5 | top-1, test | seconds | peak memory |", "|---|---|---|---|---|---|"]
    for name, r in result["rows"].items():
        top = f"**{r['train_top1']:.1%}**" if name.startswith("ours") else f"{r['train_top1']:.1%}"
        rows.append(
            f"| {name} | {top} | {r['train_top5']:.1%} | {r['test_top1']:.1%} "
            f"| {r['seconds']:.0f} | {r['peak_gb']:.1f} GB |"
        )
    return "\n".join(rows)


def generators_table(result: Result) -> str:
    rows = [
        "| generator | digit kept | reconstruction loss | judge's confidence on samples |",
        "|---|---|---|---|",
    ]
    for kind, r in result["kinds"].items():
        rows.append(f"| {kind} | {r['kept']:.1%} | {r['loss']:.3f} | {r['confidence_on_samples']:.1%} |")
    return "\n".join(rows)
