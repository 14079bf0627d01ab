"""From directories of runs to a page."""

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import Any

from .. import checkpoint
from ..data import ImageDomain, load_domain
from ..errors import DataError, UsageError, warn
from ..evaluation import evaluate_kept
from ..evaluation.classifier import Classifier
from ..files import claim_file
from ..fitting import draw_queries
from ..generators import load_generator
from ..mapping import Mapping
from ..runs import read_log, read_record
from ..tensors import pick_device, pick_precision, place
from ..voting import read_whole_log
from .generators import Trained, generator_section, nearest_section
from .mappings import Fitted, compared, duration, mapping_sections, settings_section, training_section
from .page import Section, Table, write_page

QUERIES = {"one pass": 512, "optimised": 64}  # of a report, by how a mapping answers
SOLUTIONS = 6
MARK = b"<title>namap: "  # of every page


def report_runs(
    runs: Sequence[Path],
    output: Path,
    data: str | None = None,
    classifier: Path | None = None,
    solutions: int = SOLUTIONS,
    queries: int | None = None,
    quiet: bool = True,
    **options: Any,
) -> dict[str, Any]:
    """Write a page about one run, or several side by side: mappings on the same queries, or generators.

    Args:
        runs: directories of `namap fit` or of `namap train-generator`.
        output: the page.
        data: mappings: the queries; None: those of the fit, where it has named them. Generators: training images, of
            which the nearest are shown; None: none are.
        classifier: of X; None: `classifier/` in the run, where there is one. Used where the queries have labels.
        solutions: of each query, where the method has several.
        queries: how many; None: 512, or 64 where a run optimises its codes.
        quiet: no progress bars.
        **options: those of `Mapping.from_pretrained`.

    Returns:
        The page and the numbers of each run.

    Raises:
        UsageError: nothing there, runs of different kinds, no queries, or `output` is there and no report.
        DataError: the queries cannot be read, or have no labels for the classifier that is given.
    """
    claim_file(output, MARK, "report")
    homes = [_home(run) for run in runs]
    kinds = {str(checkpoint.read_json(checkpoint.find_model(home) / "config.json").get("format")) for home in homes}
    names = short_names(homes)
    if kinds == {"namap-generator"}:
        if classifier or queries:
            raise UsageError("report: --classifier and --queries are of mappings; leave them out for generators")
        return _report_generators(homes, names, output, data, options)
    if kinds != {"namap-mapping"}:
        raise UsageError(f"report: takes mappings, or generators, found {' and '.join(sorted(kinds))}")
    mappings = [Mapping.from_pretrained(home, **options) for home in homes]
    records = [read_record(home) for home in homes]
    source = data or _source(homes[0], records)
    optimised = any(mapping.fitted_codes.refine for mapping in mappings)
    count = queries or QUERIES["optimised" if optimised else "one pass"]
    fitted, domains = [], {}
    for home, name, mapping, record in zip(homes, names, mappings, records, strict=True):
        shape = (mapping.image_size, mapping.channels)
        if shape not in domains:
            domains[shape] = _read(source, shape, None if data else home, quiet)
        if not data:
            _check_same(home, mapping, domains[shape])
        domain = domains[shape].some(count)
        judge = _judge(home, classifier, domain, options.get("device", "auto"))
        started = time.monotonic()
        found = mapping.translate(domain, solutions if mapping.fitted_codes.several else 1, quiet=quiet)
        seconds = time.monotonic() - started
        kept = None if judge is None else evaluate_kept(mapping, domain, judge, found)
        fitted.append(Fitted(name, mapping, domain, found, seconds, kept, read_whole_log(home), record))
    sections = [
        *mapping_sections(fitted),
        settings_section(fitted),
        closing_section(fitted),
    ]
    one = fitted[0]
    many = f"{len(one.queries)} queries of {source}"
    intro = f"A {type(one.mapping).__name__} mapping: {many}, mapped to the domain of its generator."
    if len(fitted) > 1:
        intro = f"{len(fitted)} mappings, the same {many}."
        rows = list(dict.fromkeys(key for run in fitted for key in run.glance()))
        table = Table([(key, *(run.glance().get(key, "–") for run in fitted)) for key in rows], ["", *names])
        sections.insert(0, Section("In numbers", "", [table]))
    headline = list(one.glance().items()) if len(fitted) == 1 else []
    write_page(output, f"namap: {', '.join(names)}", intro, sections, headline)
    numbers = {str(run): view.numbers() for run, view in zip(runs, fitted, strict=True)}
    return {"report": str(output), "queries": len(one.queries), "runs": numbers}


def _report_generators(
    homes: Sequence[Path], names: Sequence[str], output: Path, data: str | None, options: dict[str, Any]
) -> dict[str, Any]:
    device = pick_device(options.get("device", "auto"))
    precision = pick_precision(options.get("precision", "auto"), device)
    runs = [
        Trained(name, place(load_generator(home), device), device, precision, read_log(home), read_record(home))
        for home, name in zip(homes, names, strict=True)
    ]
    sections: list[Section | None] = [generator_section([run.shown for run in runs])]
    if data is not None:
        for run in runs:
            domain = load_domain(data, run.generator.image_size, run.generator.channels)
            sections.append(nearest_section(run, domain))
    sections += [
        training_section([(run.name, run.log) for run in runs]),
        Section("Settings", "", [compared([run.settings() for run in runs], ["setting", *names])]),
        closing_section(runs),
    ]
    sizes = {f"{run.generator.image_size} pixels a side, codes of {run.generator.latent_dim}" for run in runs}
    intro = f"{'A generator' if len(runs) == 1 else f'{len(runs)} generators'}: {'; '.join(sorted(sizes))}."
    write_page(output, f"namap: {', '.join(names)}", intro, [s for s in sections if s is not None])
    last = [dict(run.log[-1]) if run.log else {} for run in runs]
    return {"report": str(output), "runs": {str(home): row for home, row in zip(homes, last, strict=True)}}


def _home(run: Path) -> Path:
    """The directory of a run: itself, the one whose `final/` is given, or the mapping of one seed of the demo.

    Raises:
        UsageError: there is no such directory.
    """
    if (run / "mapping" / "final").is_dir():
        return run / "mapping"
    return run.parent if run.name == "final" and (run.parent / "run.json").is_file() else run


def _source(home: Path, records: Sequence[dict[str, Any]]) -> str:
    """The queries that the runs were fitted to.

    Raises:
        UsageError: not recorded, or not the same.
    """
    sources = {str(record.get("source") or "") for record in records}
    if len(sources) > 1:
        raise UsageError(f"report: fitted to different queries ({', '.join(sorted(sources))}); give --data SRC")
    source = sources.pop()
    if not source:
        raise UsageError(f"{home}: names no queries; give --data SRC")
    return source


def _read(source: str, shape: tuple[int, int], home: Path | None, quiet: bool) -> ImageDomain:
    """The queries, (side, channels) as given; those that only `home` names may have gone, or be a stream.

    Raises:
        UsageError: they have, or are.
    """
    try:
        return load_domain(source, *shape, quiet=quiet)
    except (DataError, UsageError) as error:
        if home is None:
            raise
        raise UsageError(f"{home}: the queries of its fit cannot be read again ({error}); give --data SRC") from None


def _check_same(home: Path, mapping: Mapping, domain: ImageDomain) -> None:
    """Warn where other pictures lie today where the queries of a fit lay."""
    found = draw_queries(mapping.prepare_queries(domain), mapping.recipe)
    if mapping.data not in (None, found.fingerprint):
        warn(f"{home}: was fitted to other pictures than are in {domain.source} now; --data SRC says which are meant")


def _judge(home: Path, given: Path | None, domain: ImageDomain, device: str) -> Classifier | None:
    """The classifier that is given, or that lies in the run, with a warning where that one has other classes.

    Raises:
        DataError: one is given, but the queries have no labels, or others.
    """
    if domain.labels is None:
        if given is not None:
            raise DataError(f"{domain.source}: the queries have no labels, which --classifier {given} needs")
        return None
    places = [given] if given is not None else [home / "classifier", home.parent / "classifier"]
    if given is None:
        places = [p for p in places[: 1 + (home.name == "mapping")] if (p / "final").is_dir()]
    if not places:
        return None
    judge = Classifier.load(places[0], device)
    try:
        judge.labels_of(domain)
    except DataError as error:
        if given is not None:
            raise
        warn(f"{places[0]}: does not judge these queries ({error})")
        return None
    return judge


def short_names(paths: Sequence[Path]) -> list[str]:
    """What tells paths apart.

    >>> short_names([Path("runs/demo/seed0/mapping"), Path("runs/demo/seed1/mapping")])
    ['seed0', 'seed1']
    >>> short_names([Path("runs/a"), Path("runs/a/b")])
    ['runs/a', 'runs/a/b']
    """
    if len(paths) == 1:
        return ["/".join(paths[0].resolve().parts[-2:])]
    parts = [p.parts for p in paths]
    before = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))))
    after = len(list(takewhile(lambda column: len(set(column)) == 1, zip(*(p[::-1] for p in parts), strict=False))))
    names = ["/".join(p[before : len(p) - after]) for p in parts]
    return names if all(names) and len(set(names)) == len(names) else [str(p) for p in paths]


def closing_section(runs: Sequence[Fitted | Trained], stages: Sequence[tuple[str, str]] = ()) -> Section:
    """What training and translating took, after further `stages`; the versions with which the page was made."""
    head = ["", *(run.name for run in runs)] if len(runs) > 1 else []
    return Section("Timings and versions", "", [Table([*stages, *timing_rows(runs)], head), Table(version_rows())])


def timing_rows(runs: Sequence[Fitted | Trained]) -> list[tuple[str, ...]]:
    """What training took, and translating for the page."""
    last = [run.log[-1] if run.log else {} for run in runs]
    rows = [
        ("training", *(duration(row["seconds"]) if row else "unknown" for row in last)),
        ("images seen in training", *(f"{row['images']:,.0f}" if row else "unknown" for row in last)),
        (
            "images a second in training",
            *(f"{row['images'] / max(row['seconds'], 1e-3):,.0f}" if row else "unknown" for row in last),
        ),
    ]
    fitted = [run for run in runs if isinstance(run, Fitted)]
    if fitted:
        rows += [
            ("queries translated for this page", *(f"{len(run.queries):,}" for run in fitted)),
            ("solutions of each", *(f"{run.found.x.shape[1]}" for run in fitted)),
            ("translating them", *(duration(run.seconds) for run in fitted)),
        ]
    return rows


def version_rows() -> list[tuple[str, str]]:
    """Versions of what the numbers depend on."""
    packages = [(name, version(name)) for name in ("namap", "torch", "torchvision", "numpy")]
    return [*packages, ("python", platform.python_version()), ("system", f"{platform.system()} {platform.machine()}")]
