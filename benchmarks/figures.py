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
    strips = {"query": sheet([list(queries[shown])], "query")}
    for method, title in sorted(titles.items(), key=lambda row: row[0] == "generator"):
        cell = first_cell(home, method)
        if method in answers:
            x = answers[method]
            x = x[shown] if len(x) == len(queries) and method != "generator" else x[:QUERIES]  # some are of the first
            strips[method] = sheet([list(x[:, k]) for k in range(min(SHOWN, x.shape[1]))], title)
        elif method in before and not (cell / "answers.npz").exists() and (cell / "result.json").exists():
            tiles = before[method].crop((MARGIN, 0, *before[method].size))
            strips[method] = titled(tiles, title)  # the one of today
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


def sheet(rows: list[list[np.ndarray]], title: str) -> Image.Image:
    """Rows of images, answers of one kind, with their title at the left."""
    tiles = Image.new("RGB", (len(rows[0]) * (SIDE + 2), len(rows) * (SIDE + 2)), "white")
    for number, images in enumerate(rows):
        for column, image in enumerate(images):
            tile = image_grid([[image]]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            tiles.paste(tile, (column * (SIDE + 2), number * (SIDE + 2)))
    return titled(tiles, title)


def titled(tiles: Image.Image, title: str) -> Image.Image:
    """A strip: its title at the left of each row, numbered from the second on."""
    strip = Image.new("RGB", (MARGIN + tiles.width, tiles.height), "white")
    strip.paste(tiles, (MARGIN, 0))
    pen = ImageDraw.Draw(strip)
    for number in range(tiles.height // (SIDE + 2)):
        row = title if number == 0 else f"{title} ({number + 1})"
        pen.text((4, number * (SIDE + 2) + SIDE // 2 - 6), row, fill="black")
    return strip
