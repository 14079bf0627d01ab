"""Pictures of an experiment: queries, drawn by seed, and the answers of every row below them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from namap.report import image_grid

from .scene import Scene, draw_queries

QUERIES, SIDE, MARGIN = 12, 64, 230
SHOWN = 2  # answers of a row to the same query

Strips = dict[str, Image.Image]  # of a figure, from top to bottom: the queries, then the answers of each row


def draw(scene: Scene, home: Path, titles: dict[str, str], before: Strips) -> Strips:
    """A column a query, with the answer of each row's lowest seed; samples of G, which answer none, come last.

    Args:
        scene: whose test queries are shown.
        home: the cells; one that only the results know of has no answers.
        titles: of the rows.
        before: the strips of the figure so far, which such rows keep.
    """
    queries, answers = scene.y_test.images, read_answers(home, titles)
    shown = draw_queries(len(queries))[:QUERIES]
    strips = {"query": sheet({"query": list(queries[shown])})}
    for method, title in sorted(titles.items(), key=lambda row: row[0] == "generator"):
        cell = first_cell(home, method)
        if method in answers:
            x = answers[method]
            x = x[shown] if len(x) == len(queries) and method != "generator" else x[:QUERIES]  # some are of the first
            several = range(min(SHOWN, x.shape[1]))
            strips[method] = sheet({title if k == 0 else f"{title} ({k + 1})": list(x[:, k]) for k in several})
        elif method in before and not (cell / "answers.npz").exists() and (cell / "result.json").exists():
            strips[method] = before[method]  # of today's configuration
    return strips


def first_cell(home: Path, method: str) -> Path:
    """The cell of a row with the lowest seed that was measured."""
    cells = [path.parent.name.rpartition("-") for path in home.glob(f"{method}-*/result.json")]
    return home / f"{method}-{min((int(seed) for row, _, seed in cells if row == method), default=0)}"


def read_answers(home: Path, methods: Iterable[str]) -> dict[str, np.ndarray]:
    """The pictures `[n k c h w]` of every row's first seed; inversions (`bound`) are of X, not of queries."""
    paths = {method: first_cell(home, method) / "answers.npz" for method in methods if method != "bound"}
    found = {method: np.load(path)["x"] for method, path in paths.items() if path.exists()}
    return {method: x for method, x in found.items() if x.ndim == 5}


def stack(strips: Strips) -> Image.Image:
    """A figure of its strips."""
    page = Image.new("RGB", (max(s.width for s in strips.values()), sum(s.height for s in strips.values())), "white")
    top = 0
    for strip in strips.values():
        page.paste(strip, (0, top))
        top += strip.height
    return page


def cut(figure: Path, heights: list[tuple[str, int]]) -> Strips:
    """The strips of a figure, from their names and heights; none where there is no figure."""
    if not figure.exists():
        return {}
    with Image.open(figure) as page:
        page = page.convert("RGB")
    tops = np.cumsum([0, *(height for _, height in heights)]).tolist()
    return {
        name: page.crop((0, top, page.width, top + height)) for (name, height), top in zip(heights, tops, strict=False)
    }


def sheet(rows: dict[str, list[np.ndarray]]) -> Image.Image:
    """Rows of images with their titles at the left."""
    columns = max(len(images) for images in rows.values())
    page = Image.new("RGB", (MARGIN + columns * (SIDE + 2), len(rows) * (SIDE + 2)), "white")
    pen = ImageDraw.Draw(page)
    for number, (title, images) in enumerate(rows.items()):
        top = number * (SIDE + 2)
        pen.text((4, top + SIDE // 2 - 6), title, fill="black")
        for column, image in enumerate(images):
            tile = image_grid([[image]]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            page.paste(tile, (MARGIN + column * (SIDE + 2), top))
    return page
