"""What a report shows of fitted mappings: one, or several side by side on the same queries."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image

from ..analogies import Analogies
from ..codes import GaussianEncoder
from ..data import ImageDomain
from ..evaluation import Kept
from ..evaluation.kept import solution_diversity
from ..fitting import INFORMATIVE_NATS
from ..losses import kl_divergence
from ..mapping import Mapping
from ..recipes import default_recipe
from ..tensors import autocast, from_numpy, to_uint8
from . import charts
from .generators import generator_section
from .page import Block, Cards, Matrix, Section, Table, TileTable, image_grid, tile

MAX_CLASSES = 30  # of a confusion matrix that can be read
SIDE_BY_SIDE = 3  # solutions of a run that stands beside others


@dataclass(frozen=True)
class Fitted:
    """A mapping and its answers to the queries of the report.

    Attributes:
        name: on the page.
        mapping: fitted.
        queries: at the mapping's size and channels.
        found: their analogies.
        seconds: what finding them took.
        kept: what a classifier of X says of them, where there is one.
        log: rows of the training.
        record: the run's `run.json`, where there is one.
    """

    name: str
    mapping: Mapping
    queries: ImageDomain
    found: Analogies
    seconds: float
    kept: Kept | None = None
    log: Sequence[dict[str, float]] = ()
    record: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def reconstructions(self, rows: Sequence[int]) -> UInt8[np.ndarray, "n c h w"]:
        """T(G(z)) of the first analogies of these queries, in the colours of the query where T has none."""
        mapping = self.mapping
        y = from_numpy(mapping.prepare_queries(self.queries.subset(np.array(rows))).images, mapping.device)
        z = torch.from_numpy(self.found.codes[list(rows), 0]).to(mapping.device)
        with autocast(mapping.device, mapping.precision):
            x = mapping.generator(z)
        return to_uint8(mapping.map_forward(x, like=y)).cpu().numpy()

    @cached_property
    @torch.no_grad()
    def kl(self) -> Float[np.ndarray, " d"] | None:
        """Mean KL(q(z|y) || N(0, I)) of each dimension over the queries, in nats; None without a q."""
        mapping, codes = self.mapping, self.mapping.fitted_codes
        if not isinstance(codes, GaussianEncoder):
            return None
        images = mapping.prepare_queries(self.queries).images
        with autocast(mapping.device, mapping.precision):
            parts = [
                kl_divergence(*(p.float() for p in codes.distribution(from_numpy(y, mapping.device))))
                for y in np.array_split(images, -(-len(images) // 256))
            ]
        return torch.cat(parts).mean(0).cpu().numpy()

    @property
    def diversity(self) -> float | None:
        """Mean absolute difference (of 255) between solutions of the same query; None with one."""
        return solution_diversity(self.found.x) if self.found.x.shape[1] > 1 else None

    def numbers(self) -> dict[str, Any]:
        """What can be said in numbers, for JSON."""
        numbers: dict[str, Any] = {"method": self.mapping.method, "loss": float(self.found.losses[:, 0].mean())}
        numbers["diversity"] = self.diversity
        if self.kl is not None:
            numbers["informative_dimensions"] = int((self.kl > INFORMATIVE_NATS).sum())
        return numbers | ({} if self.kept is None else {"kept": self.kept.kept, "kept_any": self.kept.any_solution})

    def glance(self) -> dict[str, str]:
        """The same in words, with what the run took."""
        numbers, d = self.numbers(), self.mapping.latent_dim
        words = {
            "label kept": f"{numbers['kept']:.1%}" if "kept" in numbers else "",
            "mean loss": f"{numbers['loss']:.3f}",
            "diversity of solutions, of 255": "" if numbers["diversity"] is None else f"{numbers['diversity']:.1f}",
            "dimensions that inform": f"{numbers.get('informative_dimensions', '')} of {d}"
            if self.kl is not None
            else "",
            "training": duration(self.log[-1]["seconds"]) if self.log else "",
        }
        return {name: word for name, word in words.items() if word}

    def surroundings(self) -> dict[str, Any]:
        """What the mapping was made from: generator, data, precision."""
        generator = {k: v for k, v in self.mapping.generator.config.items() if not isinstance(v, dict)}
        run, fitted_to = self.record.get("run", {}), self.record.get("task", {}).get("generator")
        places = {
            "weights of the generator": fitted_to.get("weights") if isinstance(fitted_to, dict) else None,
            "queries of the fit": self.record.get("source"),
            "fingerprint of the queries": self.record.get("data"),
            "precision of the fit": run.get("precision"),
        }
        named = {f"generator: {name.replace('_', ' ')}": value for name, value in generator.items()}
        return named | {name: value for name, value in places.items() if value}


def mapping_sections(runs: Sequence[Fitted]) -> list[Section]:
    """All sections about mappings, for one run or several on the same queries."""
    count = len(runs[0].queries)
    random = np.random.default_rng(0).permutation(count)[: 25 if len(runs) == 1 else 12].tolist()
    # Losses of different runs are of different kinds: a query is as hard as its mean place in each run's order.
    order = np.mean([run.found.losses[:, 0].argsort().argsort() for run in runs], 0).argsort()
    shown = min(10 if len(runs) == 1 else 8, -(-count // 2))
    sections = [
        analogies_section(runs, random, "Analogies at a glance", f"Queries chosen at random from {count}."),
        solutions_section(runs, random[:8]),
        analogies_section(runs, order[:shown].tolist(), "Best by loss"),
        analogies_section(runs, order[::-1][:shown].tolist(), "Worst by loss", "The worst one first."),
        judged_section(runs),
        training_section([(run.name, run.log) for run in runs]),
        codes_section(runs),
        generator_section(
            [(run.name, run.mapping.generator, run.mapping.device, run.mapping.precision) for run in runs]
        ),
    ]
    return [section for section in sections if section is not None]


def analogies_section(runs: Sequence[Fitted], rows: Sequence[int], title: str, text: str = "") -> Section:
    """Queries with their analogies and reconstructions: cards for one run, a table for several."""
    painted = [run.reconstructions(rows) for run in runs]
    found = [
        [[tile(run.found.x[r, 0], "analogy"), tile(t[i], "reconstruction")] for i, r in enumerate(rows)]
        for run, t in zip(runs, painted, strict=True)
    ]
    queries = [tile(_largest(runs).queries.images[r], f"query {runs[0].queries.names[r]}") for r in rows]
    losses = [[f"{run.found.losses[r, 0]:.3f}" for r in rows] for run in runs]
    if len(runs) == 1:
        text = f"{text} Each query is followed by its analogy G(z) and by its reconstruction T(G(z)); below, the loss"
        text += ", from 0, all explained, to 1, nothing." if runs[0].mapping.recipe.loss == "appearance" else "."
        groups = [([y, *x], loss) for y, x, loss in zip(queries, found[0], losses[0], strict=True)]
        return Section(title, text.strip(), [Cards(groups)])
    heads = [("query", 1), *((run.name, 3) for run in runs)]
    table = [
        [y, *(cell for k in range(len(runs)) for cell in (*found[k][i], losses[k][i]))] for i, y in enumerate(queries)
    ]
    text = f"{text} Under each run: the analogy G(z), the reconstruction T(G(z)) of the query, and the loss.".strip()
    half = -(-len(table) // 2)  # two tables: side by side where they fit
    return Section(title, text, [TileTable(heads, part) for part in (table[:half], table[half:]) if part])


def analogies_sheet(run: Fitted, rows: Sequence[int]) -> Image.Image:
    """For the given rows, twice side by side: query, first analogy, its reconstruction T(G(z)), further solutions."""
    found = run.found.x
    cells = [
        [run.queries.images[r], found[r, 0], t, *found[r, 1:]]
        for r, t in zip(rows, run.reconstructions(rows), strict=True)
    ]
    half, columns = (len(cells) + 1) // 2, len(cells[0])
    table = [left + right for left, right in zip_longest(cells[:half], cells[half:], fillvalue=[])]
    return image_grid(table, gaps=[1, 2, 3, columns, columns + 1, columns + 2, columns + 3])


def solutions_section(runs: Sequence[Fitted], rows: Sequence[int]) -> Section | None:
    """The solutions of the same queries, and by how much they differ; None where every run has one."""
    several = [run for run in runs if run.found.x.shape[1] > 1]
    if not several:
        return None
    shown = [run.found.x[:, : SIDE_BY_SIDE if len(runs) > 1 else None] for run in several]
    heads = [("query", 1)]
    heads += [(run.name if len(runs) > 1 else "solutions", x.shape[1]) for run, x in zip(several, shown, strict=True)]
    table = [
        [tile(_largest(runs).queries.images[r], "query"), *(tile(x, "solution") for xs in shown for x in xs[r])]
        for r in rows
    ]
    numbers = [
        (
            run.name,
            run.found.x.shape[1],
            f"{run.diversity:.1f}",
            f"{run.found.losses[:, 0].mean():.3f}",
            f"{run.found.losses[:, 1:].mean():.3f}",
        )
        for run in several
    ]
    head = ["run", "solutions of a query", "diversity, of 255", "loss of the first", "loss of the others"]
    text = "Diversity is the mean absolute difference of a pixel between two solutions of the same query."
    return Section("Solutions", text, [TileTable(heads, table), Table(numbers, head)])


def judged_section(runs: Sequence[Fitted]) -> Section | None:
    """What a classifier of X says: labels kept, and what is taken for what."""
    judged = [(run.name, run.kept) for run in runs if run.kept is not None]
    if not judged:
        return None
    rows = [
        ("label kept", *(f"{k.kept:.1%}" for _, k in judged)),
        ("kept by at least one solution", *(f"{k.any_solution:.1%}" for _, k in judged)),
        ("copy baseline: the queries themselves", *(f"{k.copy_baseline:.1%}" for _, k in judged)),
        (
            "the classifier, on real X held out",
            *("unknown" if k.classifier_on_x is None else f"{k.classifier_on_x:.1%}" for _, k in judged),
        ),
        ("its confidence on samples of G", *(f"{k.confidence_on_samples:.1%}" for _, k in judged)),
    ]
    blocks: list[Block] = [Table(rows, ["", *(name for name, _ in judged)] if len(runs) > 1 else [])]
    text = f"A classifier trained on real images of X judges the analogies of {judged[0][1].queries} labelled queries."
    if len(judged[0][1].confusion) <= MAX_CLASSES:
        blocks += [Matrix(name if len(runs) > 1 else "", kept.confusion) for name, kept in judged]
        text += " Rows of the matrix: the label of the query. Columns: what its analogy is taken for, in % of the row."
    return Section("Labels kept", text, blocks)


def training_section(logs: Sequence[tuple[str, Sequence[dict[str, float]]]], title: str = "Training") -> Section | None:
    """Curves of the training; None where nothing was logged."""
    chart = charts.curves(logs)
    return None if chart is None else Section(title, "", [chart])


def codes_section(runs: Sequence[Fitted]) -> Section:
    """KL of each dimension where there is an encoder of distributions, and the spread of the codes."""
    blocks: list[Block] = []
    encoded = [(run.name, run.kl) for run in runs if run.kl is not None]
    if encoded:
        caption = (
            "Mean KL(q(z|y) || N(0, I)) over the queries: what a dimension tells of its query. Below "
            f"{INFORMATIVE_NATS} nats it tells nothing; where all are, the posterior has collapsed."
        )
        blocks.append(charts.bars("KL of each dimension", "nats", encoded, caption))
    spread = [(run.name, run.found.codes[:, 0].std(0)) for run in runs]
    caption = "Standard deviation of the codes over the queries; the generator was made for codes of 1."
    blocks.append(charts.bars("Spread of each dimension", "deviation", spread, caption))
    return Section("Codes", "", blocks)


def settings_section(runs: Sequence[Fitted]) -> Section:
    """One run: its settings beside those by default. Several: side by side; differences stand out."""
    recipes = [asdict(run.mapping.recipe) for run in runs]
    head = ["setting", *(run.name for run in runs)]
    if len(runs) == 1:
        recipe, generator = runs[0].mapping.recipe, runs[0].mapping.generator
        recipes.append(asdict(default_recipe(recipe.method, recipe.loss, generator.image_size, recipe.warp)))
        recipes[1]["warp"] = recipe.warp  # asked for, like the method and the loss
        head = ["setting", "here", "by default"]
    around = compared([run.surroundings() for run in runs], ["made from", *(run.name for run in runs)])
    return Section("Settings", "Rows with a bar differ.", [compared(recipes, head), around])


def compared(columns: Sequence[dict[str, Any]], head: Sequence[str]) -> Table:
    """Settings side by side; rows with a difference are marked."""
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [(name.replace("_", " "), *(column.get(name, "–") for column in columns)) for name in names]
    marked = frozenset(i for i, (_, *values) in enumerate(rows) if any(v != values[0] for v in values))
    return Table(rows, head, marked)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> duration(9.26), duration(125), duration(7300)
    ('9.3 s', '2 min 5 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _largest(runs: Sequence[Fitted]) -> Fitted:
    """The run whose queries have the most pixels and channels: they are shown."""
    return max(runs, key=lambda run: (run.queries.size, run.queries.channels))
