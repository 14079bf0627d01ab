"""Reports: one self-contained HTML file that opens from disk."""

import base64
import io
import math
from collections import abc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
import yaml
from jaxtyping import UInt8
from PIL import Image

from .analogies import Analogies
from .checkpoint import atomic_file, storage_errors
from .data import load_domain
from .mapping import Mapping
from .runs import Row, read_log
from .tensors import from_numpy, to_uint8

TILE = 48  # pixels of one image on the page


@dataclass(frozen=True)
class Section:
    """One part of a report: text, a picture, a table, preformatted text; each optional."""

    title: str
    text: str = ""
    image: str = ""
    width: int = 0
    caption: str = ""
    pixels: bool = False
    rows: Sequence[Sequence[object]] = field(default_factory=tuple)
    code: str = ""


def write_report(
    output: Path, title: str, intro: str, sections: Sequence[Section], headline: Sequence[tuple[str, str]] = ()
) -> None:
    """Render sections to one HTML file, whole or not at all."""
    loader = jinja2.PackageLoader("namap", "templates")
    template = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True).get_template("report.html")
    html = template.render(title=title, intro=intro, sections=sections, headline=headline)
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as file:
            file.write(html.encode())


def image_grid(rows: Sequence[Sequence[UInt8[np.ndarray, "c h w"]]], gaps: Sequence[int] = ()) -> Image.Image:
    """Images in rows, one pixel apart, with a wider white gap before the columns in `gaps`."""
    side = rows[0][0].shape[1]
    offsets = [x * (side + 1) + 4 * sum(g <= x for g in gaps) for x in range(max(map(len, rows)))]
    sheet = np.full((len(rows) * (side + 1) - 1, offsets[-1] + side, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for image, x in zip(row, offsets, strict=False):
            top = r * (side + 1)
            sheet[top : top + side, x : x + side] = image.transpose(1, 2, 0)
    return Image.fromarray(sheet)


def sheet_section(title: str, sheet: Image.Image, side: int, caption: str, text: str = "") -> Section:
    """A section with a sheet of images of `side` pixels, enlarged without smoothing."""
    return Section(title, text, _png(sheet), sheet.width * TILE // side, caption, pixels=True)


def analogies_sheet(
    mapping: Mapping, queries: UInt8[np.ndarray, "n c h w"], found: Analogies, rows: Sequence[int]
) -> Image.Image:
    """For the given rows, twice side by side: query, first analogy, its reconstruction T(G(z)), further solutions."""
    y, x = from_numpy(queries[list(rows)]), from_numpy(found.x[list(rows), 0])
    painted = to_uint8(mapping.map_forward(x, like=y)).cpu().numpy()
    cells = [[queries[r], found.x[r, 0], t, *found.x[r, 1:]] for r, t in zip(rows, painted, strict=True)]
    half, columns = (len(cells) + 1) // 2, len(cells[0])
    table = [left + right for left, right in zip_longest(cells[:half], cells[half:], fillvalue=[])]
    return image_grid(table, gaps=[1, 2, 3, columns, columns + 1, columns + 2, columns + 3])


def analogies_section(
    mapping: Mapping,
    queries: UInt8[np.ndarray, "n c h w"],
    found: Analogies,
    rows: Sequence[int],
    title: str,
    text: str = "",
) -> Section:
    """A section with an `analogies_sheet`."""
    more = " | further solutions" if found.x.shape[1] > 1 else ""
    caption = f"Query | analogy G(z) | reconstruction T(G(z)){more}"
    return sheet_section(title, analogies_sheet(mapping, queries, found, rows), mapping.image_size, caption, text)


def curves_section(logs: abc.Mapping[str, Sequence[Row]]) -> Section:
    """Losses, spread of the codes and diversity, one panel each; a line for each dimension of the code."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (run, key, log) for run, log in logs.items() for key in log[-1] if key not in ("step", "images", "seconds")
    ]
    columns = min(4, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(rows, columns, figsize=(3.1 * columns, 2.4 * rows), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, (run, key, log) in zip(axes.flat, panels, strict=False):
        axis.plot([row["images"] / 1000 for row in log], [row.get(key, np.nan) for row in log], lw=1.2, color="#2b6cb0")
        axis.set_title(f"{run}: {key.replace('_', ' ')}", fontsize=9)
        axis.set_xlabel("thousand images seen", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    pyplot.close(figure)
    return Section("Training", image=base64.b64encode(buffer.getvalue()).decode(), width=300 * columns)


def report_run(model: Path, data: str, output: Path, solutions: int = 6, **options: Any) -> None:
    """Report on a fitted mapping: random, best and worst analogies of `data`, solutions, curves, settings.

    `options` are those of `Mapping.from_pretrained`.
    """
    mapping = Mapping.from_pretrained(model, **options)
    queries = load_domain(data, mapping.image_size, mapping.channels)
    if mapping.method == "ae":
        solutions = 1
    found = mapping.translate(queries.subset(slice(0, 512)), solutions)
    order = np.argsort(found.losses[:, 0])
    random = np.random.default_rng(0).permutation(len(order))[:16].tolist()
    sections = [
        analogies_section(mapping, queries.images, found, random, "Analogies", "Queries chosen at random."),
        analogies_section(mapping, queries.images, found, order[:8].tolist(), "Best by loss"),
        analogies_section(mapping, queries.images, found, order[-8:].tolist(), "Worst by loss"),
        samples_section(mapping),
    ]
    log = read_log(model)
    if log:
        sections.append(curves_section({mapping.method: log}))
    sections.append(Section("Settings", code=yaml.safe_dump(asdict(mapping.recipe))))
    intro = f"{type(mapping).__name__} mapping of {data} to the domain of its generator."
    write_report(output, f"namap: {model.name}", intro, sections, [("mean loss", f"{found.losses[:, 0].mean():.3f}")])


def samples_section(mapping: Mapping) -> Section:
    """Samples of G from the prior."""
    samples = list(to_uint8(mapping.sample_x(40)).cpu().numpy())
    sheet = image_grid([samples[:20], samples[20:]])
    return sheet_section("The generator's samples", sheet, mapping.image_size, "G(z), z from the prior")


def _png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def version_rows() -> list[tuple[str, str]]:
    """Versions of what the numbers depend on."""
    from importlib.metadata import version

    return [("namap", version("namap")), ("torch", torch.__version__)]
