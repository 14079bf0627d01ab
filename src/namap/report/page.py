"""A page: sections of blocks, rendered to one HTML file that needs nothing else and opens from disk."""

import base64
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import jinja2
import numpy as np
from jaxtyping import UInt8
from markupsafe import Markup
from PIL import Image

from ..files import atomic_file, storage_errors
from ..pictures import image_grid, to_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TILE = 64  # small images are enlarged to about this side, by a whole factor: every pixel stays a square
LARGEST = 128  # side up to which an image is kept whole; larger ones are reduced to it
SHARP = 64  # side up to which an image is stored without loss
INK = "#010203"  # a colour of charts that stands for the colour of the page's text


@dataclass(frozen=True)
class Tile:
    """One image on the page: where its data are, and the side at which it is shown, in CSS pixels."""

    source: str
    width: int
    height: int
    about: str = ""


@dataclass(frozen=True)
class Cards:
    """Small groups of tiles, each with a line under it, that fill the width."""

    groups: Sequence[tuple[Sequence[Tile], str]]
    caption: str = ""
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True)
class TileTable:
    """Rows of tiles and words; `heads` are (words, columns that they span)."""

    heads: Sequence[tuple[str, int]]
    rows: Sequence[Sequence[Tile | str]]
    caption: str = ""
    kind: ClassVar[str] = "tiles"

    @property
    def starts(self) -> list[int]:
        """Where the columns of every head but the first begin."""
        return list(accumulate(span for _, span in self.heads[:-1]))


@dataclass(frozen=True)
class Gallery:
    """Pictures side by side, each under its name ('' for none)."""

    pictures: Sequence[tuple[str, Tile]]
    caption: str = ""
    kind: ClassVar[str] = "gallery"


@dataclass(frozen=True)
class Chart:
    """A drawing, and the (name, colour) of its series where there are several."""

    svg: Markup
    legend: Sequence[tuple[str, str]] = ()
    caption: str = ""
    kind: ClassVar[str] = "chart"


@dataclass(frozen=True)
class Table:
    """Rows of words, the first column a heading; rows in `marked` stand out."""

    rows: Sequence[Sequence[object]]
    head: Sequence[str] = ()
    marked: frozenset[int] = frozenset()
    caption: str = ""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Matrix:
    """Counts `[label][predicted]` as shares of their row."""

    name: str
    counts: Sequence[Sequence[int]]
    kind: ClassVar[str] = "matrix"

    @property
    def shares(self) -> list[list[float]]:
        """Each count over the sum of its row."""
        return [[count / max(1, sum(row)) for count in row] for row in self.counts]


Block = Cards | TileTable | Gallery | Chart | Table | Matrix


@dataclass(frozen=True)
class Section:
    """One part of a page: words, then blocks."""

    title: str
    text: str = ""
    blocks: Sequence[Block] = field(default_factory=tuple)


def write_page(
    output: Path, title: str, intro: str, sections: Sequence[Section], headline: Sequence[tuple[str, str]] = ()
) -> None:
    """Render sections to one HTML file, whole or not at all; `headline` are a few (name, number).

    Raises:
        StorageError: it cannot be written.
    """
    loader = jinja2.PackageLoader("namap", "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    html = environment.get_template("report.html").render(
        title=title, intro=intro, sections=sections, headline=headline
    )
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as file:
            file.write(html.encode(errors="backslashreplace"))  # names that are not UTF-8


def tile(image: UInt8[np.ndarray, "c h w"], about: str = "") -> Tile:
    """One image: small ones enlarged without smoothing, large ones reduced."""
    picture = to_picture(image)
    if picture.width > LARGEST:
        picture = picture.resize((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    side = picture.width * max(1, TILE // picture.width)
    return Tile(_encode(picture, picture.width <= SHARP), side, side, about)


def grid_tile(rows: Sequence[Sequence[UInt8[np.ndarray, "c h w"]]], about: str = "") -> Tile:
    """Images of one size in rows, as one picture."""
    side = min(rows[0][0].shape[1], LARGEST // 2)
    sheet = image_grid(rows)
    width, height = (len(cells) * (side + 1) - 1 for cells in (rows[0], rows))
    reduced = sheet.size != (width, height)
    sheet = sheet.resize((width, height), Image.Resampling.LANCZOS) if reduced else sheet
    factor = max(1, TILE // side)
    return Tile(_encode(sheet, not reduced and side <= SHARP // 2), width * factor, height * factor, about)


def _encode(picture: Image.Image, lossless: bool) -> str:
    """A data URI. WebP: without loss a third smaller than PNG, with loss for photographs."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=lossless, quality=80 if lossless else 90, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def drawing(figure: "Figure") -> Markup:
    """A matplotlib figure as SVG within the page: in its font and colours, sharp at any size."""
    from matplotlib import rc_context

    buffer = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "namap"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)  # the page's own; and nothing in it names a network
    return Markup(svg)  # text in it was escaped by matplotlib
