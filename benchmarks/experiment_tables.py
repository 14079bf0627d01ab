"""Tables of `namap bench` from its JSON alone: a section for each experiment, README's summary, and the ablations."""

import json
import re
from collections.abc import Iterable, Iterator
from statistics import fmean, stdev
from typing import Any

from scipy.stats import spearmanr

from namap.errors import UsageError

from . import baselines
from .experiments import EXPERIMENTS
from .methods import PAPERS
from .wanted import LONGER, uses_generator

Result = dict[str, Any]
ORDER = ["street2digits", "digits2street", "car2car", "car2car-back", "edges2shoes", "edges2bags", "bags2shoes"]
ORDER += ["avatar2face", "emoji", "generators", "runtime"]
SHARES = ("kept", "kept_by_any", "taken_for_x", "confidence_on_samples", "within_10_degrees")
SHARES += ("top1", "top5", "top1_small", "top5_small")
LOWER = ("distance", "best_distance", "angle", "angle_any_line", "kid")  # less is better
PUBLISHED = PAPERS | {"vae-kl": "VAE-NAM with KL"}
RIVALS = {name: kind.__name__ for name, kind in baselines.RIVALS.items()}
# Of emoji.
MATCHERS = {"nearest-vgg": "nearest by VGG", "csls-vgg": "CSLS by VGG", "assignment-vgg": "assignment by VGG"}
DATA = {"reference": "the reference data", "papers": "the papers' own data"}


# ---- one experiment ----------------------------------------------------------------------------------------------


def experiment_section(result: Result, figure: str | None) -> list[str]:
    """Title, what it is, table, notes and figure.

    Raises:
        UsageError: its cells do not belong together.
    """
    name, data = result["name"], result["data"]
    check(result)
    option = "" if data == "reference" else f" --data {data}"
    repeat = f"`namap bench {name}{option} --method ROW --anew`"
    what = f"{result['what'][0].upper()}{result['what'][1:]}. Measured on {DATA[data]}; {repeat} measures a row again."
    if result.get("published"):
        what += f" The papers' best, on their data: {result['published']}."
    image = [f"![Queries, and the answers of each row]({figure})"] if figure else []
    return [f"## {name}" + ("" if data == "reference" else f", {data}"), what, experiment_table(result), *image]


def check(result: Result) -> None:
    """Refuse cells that were not measured alike; another commit alone is only shown.

    Raises:
        UsageError: names the rows and what differs.
    """
    scenes: dict[str, str] = {}
    for method, cells in by_row(result).items():
        texts = {json.dumps(c["configuration"], sort_keys=True) for c in cells}
        if len(texts) > 1:
            raise UsageError(f"{result['name']}: the seeds of {method} have different configurations; measure it anew")
        config = cells[0]["configuration"]
        for key in ("sources", "solutions", "held_out", "generator"):
            value = json.dumps(config.get(key), sort_keys=True)
            if scenes.setdefault(key, value) != value:
                raise UsageError(f"{result['name']}: {method} was measured with other {key} than the rows before it")
    if len(result["cells"]) != len({(c["method"], c["seed"]) for c in result["cells"]}):
        raise UsageError(f"{result['name']}: a seed of a row occurs twice")


def by_row(result: Result) -> dict[str, list[Result]]:
    """The cells of each row, in the order of the file."""
    rows: dict[str, list[Result]] = {}
    for cell in result["cells"]:
        rows.setdefault(cell["method"], []).append(cell)
    return rows


def experiment_table(result: Result) -> str:
    """Mean and spread over the seeds of each row, and below it what else a reader must know to believe it."""
    headline, rows = dict(result["headline"]), by_row(result)
    titles = result.get("rows", {})
    lines = [
        f"| | row | {' | '.join(headline.values())} | seeds | images seen | minutes | peak memory | commit |",
        f"|---|---|{'---|' * len(headline)}---|---|---|---|---|",
    ]
    for method, cells in rows.items():
        if not cells[0]["measures"]:
            continue
        values = [spread([c["measures"].get(m) for c in cells], m in SHARES) for m in headline]
        thousands = fmean(c["images_seen"] for c in cells) / 1000
        seen = f"{thousands:.{0 if thousands >= 10 else 1}f}k" if thousands else ""
        memory = f"{max(c['peak_memory_gb'] for c in cells):.1f} GB"
        tail = [str(len(cells)), seen, f"{minutes(cells):.1f}", memory, commits(cells)]
        title = titles.get(method, method)
        title = f"**{title}**" if method == "namap" else title
        lines.append(f"| {title} | `{method}` | {' | '.join([*values, *tail])} |")
    return "\n".join([*lines, "", *notes(result, rows)]).strip()


def notes(result: Result, rows: dict[str, list[Result]]) -> list[str]:
    """Sentences below a table."""
    shown = [cell for cell in result["cells"] if cell["measures"]]
    found = [f"Not measured yet: {'; '.join(result['missing'])}."] if result.get("missing") else []
    for method, changes in result.get("outdated", {}).items():
        found.append(f"**`{method}` was measured with other settings than today's**: {changes}.")
    found += [*judge_notes(shown, "°, its median error" if "angle" in dict(result["headline"]) else "")]
    found += [runtime_note(c["measures"], c["settings"].get("encoder_width")) for c in rows.get("runtime", [])]
    if result["name"] == "generators":
        found.append(verdict({m: fmean(c["measures"]["kept"] for c in cells) for m, cells in rows.items()}))
    first, titles = next(iter(dict(result["headline"]).values())), result.get("rows", {})
    found += [*namap_notes(rows.get("namap", []), first)]
    limited = [m for m in rows if LONGER.sub(r"\1", m) in PUBLISHED | RIVALS]  # with what has more time
    found += [*budget_notes({titles.get(m, m): rows[m] for m in limited})]
    if any((c["measures"].get("taken_for_x") or 0) > 0.5 for c in rows.get("copy", []) if c["measures"]):
        found.append("The classifier of X against Y takes recoloured queries for X, too: its column tells little here.")
    return [" ".join([*found, *circumstance_notes(shown), *generator_notes(result["name"], shown)])]


def verdict(kept: dict[str, float]) -> str:
    """Whether generators rank as in NAM's Fig. 4, given the digits kept with each."""
    order = sorted(kept, key=lambda kind: -kept[kind])
    adversarial = {"dcgan", "sn-gan"} & kept.keys()
    confirmed = adversarial == set(order[: len(adversarial)])
    said = f"Best first: {', '.join(f'{kind} {kept[kind]:.1%}' for kind in order)}."
    return f"{said} The paper's order, DCGAN and SN-GAN before the others, is {'' if confirmed else 'not '}confirmed."


def judge_notes(cells: list[Result], unit: str) -> Iterator[str]:
    """How far the judge can be trusted; `unit` of an error, nothing where it is a share of what it gets right.

    Each machine trains its own, so there may be several.
    """
    judged: dict[str, dict[str, None]] = {}
    for cell in cells:
        if (own := cell["measures"].get("judge_on_x")) is not None:
            judged.setdefault(f"{own:.1f}{unit}" if unit else f"{own:.1%}", {})[f"`{cell['method']}`"] = None
    if judged:
        said = [found + (f" ({', '.join(rows)})" if len(judged) > 1 else "") for found, rows in judged.items()]
        yield f"The judge{'s' * (len(judged) > 1)} on held-out real X: {'; '.join(said)}."
    sure = [c["measures"].get("confidence_on_samples") for c in cells if c["method"] == "generator"]
    if known := [v for v in sure if v is not None]:
        yield f"Mean confidence on samples of G: {fmean(known):.1%}."


def namap_notes(cells: list[Result], measure: str) -> Iterator[str]:
    """The settings of namap's row where they are no defaults, and what its loss tells of the first measure."""
    if cells and (settings := cells[0]["configuration"].get("settings")):
        yield f"namap's settings: `{', '.join(f'{key}={value}' for key, value in settings.items())}`."
    if tells := [c["evidence"]["loss_tells"] for c in cells if "loss_tells" in c["evidence"]]:
        yield (
            "The evidence without labels is the loss of an answer; how a lower one of namap's goes with a better "
            f"answer ({measure}), as a rank correlation over queries: {spread(tells)} (1 would tell all, 0 nothing)."
        )


def budget_notes(rows: dict[str, list[Result]]) -> Iterator[str]:
    """How far the rows came that were given an equal time."""
    each = []
    for title, cells in rows.items():
        settings = cells[0]["settings"]
        count = fmean(settings.get("updates") or c["images_seen"] // settings["batch_size"] for c in cells)
        granted = [s for s in map(granted_seconds, cells) if s is not None]
        each.append(f"{title} {count:,.0f}" + (f" in {fmean(granted) / 60:.0f} minutes" if granted else ""))
    if each:
        yield f"Steps that each had time for: {'; '.join(each)}. Published runs have many times more."


def granted_seconds(cell: Result) -> float | None:
    """The budget of a row; nothing where its result does not say it."""
    asked = cell["configuration"].get("budget_min")
    return cell["seconds"].get("granted", None if asked is None else 60 * asked)


def circumstance_notes(cells: list[Result]) -> Iterator[str]:
    """Threads, processors and commits of the rows."""
    yield f"Threads: {', '.join(map(str, sorted({c['threads'] for c in cells})))}."
    unknown = "not recorded of the first rows"
    if processors := sorted({c.get("processor", unknown) for c in cells}, key=lambda name: (name == unknown, name)):
        yield f"Processor: {', '.join(processors)}."
    seen = {c["commit"] for c in cells}
    if len(seen) > 1:
        yield "**The rows were measured with different commits**, the last column says which."
    if any(commit.endswith("+") for commit in seen):
        yield "`+`: with changes that were not committed."


def generator_notes(name: str, cells: list[Result]) -> Iterator[str]:
    """Rows whose G is not the one of the row `generator` of their seed: that was trained again, elsewhere."""

    def known(cell: Result) -> str:  # older results have no digest, and are of one machine where G is the same
        return cell.get("weights_of_g") or f"on {cell.get('processor')}"

    there = {c["seed"]: known(c) for c in cells if c["method"] == "generator"}
    own = [c for c in cells if c["seed"] in there and uses_generator(EXPERIMENTS[name], c["method"])]
    if others := [f"`{c['method']}` {c['seed']}" for c in own if there[c["seed"]] != known(c)]:
        yield f"**Measured with another G, of the same recipe and seed**, than the row of samples: {', '.join(others)}."


def runtime_note(m: Result, width: int | None) -> str:
    """Losses and iterations behind the seconds, and the width of E."""
    steps = ", ".join(f"{r['steps']}: {r['loss']:.3f}" for r in m["refined"])
    enough = " One pass alone is enough, then." if m["one_pass_loss"] <= m["nam_loss"] else ""
    narrow = f" E begins with {width} channels, as G ends; the default of 64 takes longer." if width else ""
    return (
        f"Mean loss of {m['queries']} queries: {m['one_pass_loss']:.3f} after one pass, {m['nam_loss']:.3f} after "
        f"{m['nam_steps']} iterations of NAM; encode-then-refine by iterations, {steps}.{enough}{narrow}"
    )


def minutes(cells: list[Result]) -> float:
    """Mean minutes of processor time."""
    return fmean(c["seconds"]["processor"] for c in cells) / 60


def commits(cells: list[Result]) -> str:
    """The commits of some cells, short."""
    return ", ".join(dict.fromkeys(c["commit"][:7] + "+" * c["commit"].endswith("+") for c in cells))


def spread(values: list[float | None], share: bool = False) -> str:
    """Mean and deviation, shares in percent; nothing where nothing was measured."""
    known = [v for v in values if v is not None]
    if not known:
        return ""
    mean, around = fmean(known), stdev(known) if len(known) > 1 else 0.0
    shown = (f"{mean:.1%}", f"{around:.1%}") if share else (rounded(mean, 3), rounded(around, 2))
    return " ± ".join(shown if len(known) > 1 else shown[:1])


def rounded(value: float, digits: int) -> str:
    """A number to so many significant digits, without an exponent where it is large.

    >>> rounded(28203.0, 3), rounded(489.0, 2), rounded(0.0448, 2), rounded(0.18, 3)
    ('28,200', '490', '0.045', '0.180')
    """
    short = float(f"{value:.{digits}g}")
    return f"{short:,.0f}" if abs(short) >= 10 ** (digits - 1) else f"{short:#.{digits}g}"


def in_papers_order(results: list[Result]) -> list[Result]:
    """Results in the papers' order, the others after them."""
    return sorted(results, key=lambda r: (ORDER.index(r["name"]) if r["name"] in ORDER else len(ORDER), r["data"]))


# ---- README ------------------------------------------------------------------------------------------------------


def summary_table(results: list[Result]) -> str:
    """A line for each experiment: its first measure for namap, the best of papers and rivals, what learns nothing."""
    lines = [
        "| from → to | measure | namap | papers' loss | best rival | copy | nearest in X | papers' best |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result, rows in with_namap(results):
        check(result)
        measure, heading = next(iter(dict(result["headline"]).items()))

        def shown(method: str, rows=rows, measure=measure) -> str:
            return spread([c["measures"].get(measure) for c in rows.get(method, [])], measure in SHARES)

        others = [(best_row(rows, measure, named), named) for named in (PUBLISHED, RIVALS | MATCHERS)]
        cells = [f"{shown(method)} ({named[method]})" if method else "" for method, named in others]
        cells += [shown("copy"), shown("nearest"), result.get("published", "")]
        what = re.split("[;:(]", result["what"])[0].strip().replace(" to ", " → ", 1)
        alone = " (one seed)" if len(rows["namap"]) == 1 else ""
        measured = f"{heading} {'↓' if measure in LOWER else '↑'} | {shown('namap')}{alone}"
        lines.append(f"| {what} (`{result['name']}`) | {measured} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def realism_table(results: list[Result]) -> str:
    """A line for each experiment: how far the sets of answers are from X, of namap and of the rivals."""
    columns = {"namap": "namap", **RIVALS, "copy": "copy", "nearest": "nearest in X", "generator": "samples of G"}
    lines = [f"| KID ↓ | {' | '.join(columns.values())} |", f"|---|{'---|' * len(columns)}"]
    for result, rows in with_namap(results):
        kids = [spread([c["measures"].get("kid") for c in rows.get(m, [])]).partition(" ± ")[0] for m in columns]
        if kids[0]:
            lines.append(f"| `{result['name']}` | {' | '.join(kids)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def with_namap(results: list[Result]) -> Iterator[tuple[Result, dict[str, list[Result]]]]:
    """The results that have a row of namap's, with their measured rows."""
    for result in results:
        rows = {m: cells for m, cells in by_row(result).items() if cells[0]["measures"]}
        if "namap" in rows:
            yield result, rows


def best_row(rows: dict[str, list[Result]], measure: str, methods: Iterable[str]) -> str:
    """Which of the methods is the best in a measure; '' where none was measured."""
    means = {m: fmean(c["measures"][measure] for c in rows[m]) for m in methods if m in rows}
    return (min if measure in LOWER else max)(means, key=lambda m: means[m]) if means else ""


# ---- ablations ---------------------------------------------------------------------------------------------------


def ablation_page(rows: list[Result]) -> str:
    """ABLATION.md: what each change of namap's recipe gave, also where it gave nothing."""
    parts = [
        "# What each change gave",
        "Written by `namap bench --tables` from `benchmarks/results/ablation*.jsonl`, whose rows `namap bench NAME "
        "--ablate 'CHANGE: key=value,key=value'` appends. Judged on queries held out of the training ones, not on the "
        "test split. A row with no settings is the recipe of its commit. Mean and spread over seeds of the mapping.",
    ]
    for name in dict.fromkeys(row["experiment"] for row in rows):
        mine = [row for row in rows if row["experiment"] == name]
        parts += [f"## {name}", ablation_table(mine), criterion(mine)]
    return "\n\n".join(part for part in parts if part) + "\n"


def ablation_table(rows: list[Result]) -> str:
    """A line for each change and configuration."""
    headline = dict(next((row["headline"] for row in rows if row.get("headline")), {m: m for m in rows[0]["measures"]}))
    lines = [
        f"| change | settings | {' | '.join(headline.values())} | loss | seeds | minutes | commit |",
        f"|---|---|{'---|' * len(headline)}---|---|---|---|",
    ]
    groups: dict[tuple[str, str], dict[int, Result]] = {}
    for row in rows:  # a seed that was measured again replaces its older row
        key = row["change"], json.dumps(row.get("configuration"), sort_keys=True)
        groups.setdefault(key, {})[row.get("seed", 0)] = row
    for (change, _), by_seed in groups.items():
        group = list(by_seed.values())
        settings = ", ".join(f"{k}={v}" for k, v in group[0].get("settings_changed", {}).items())
        values = [spread([r["measures"].get(m) for r in group], m in SHARES) for m in headline]
        loss = spread([r.get("evidence", {}).get("loss") for r in group])
        took = f"{minutes(group):.1f}" if all("seconds" in r for r in group) else ""
        made = commits(group) if all("commit" in r for r in group) else ""
        shown = f"`{settings}`" if settings else ""
        lines.append(f"| {change} | {shown} | {' | '.join(values)} | {loss} | {len(group)} | {took} | {made} |")
    return "\n".join(lines)


def criterion(rows: list[Result]) -> str:
    """How the loss of held-out queries ranks runs that share a kind of loss, against the first measure."""
    headline = next((row["headline"] for row in rows if row.get("headline")), None)
    first = next(iter(dict(headline) if headline else rows[0]["measures"]))
    kinds: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        loss, good = row.get("evidence", {}).get("loss"), row["measures"].get(first)
        if loss is not None and good is not None:
            kinds.setdefault(row.get("settings", {}).get("loss", ""), []).append((-loss, good))
    said = [
        f"{spearmanr(*zip(*pairs, strict=True)).statistic:.2f} over {len(pairs)} runs{kind and f' with loss {kind}'}"
        for kind, pairs in kinds.items()
        if len(pairs) > 3
    ]
    return f"Rank correlation of a lower held-out loss with `{first}`: {'; '.join(said)}." if said else ""
