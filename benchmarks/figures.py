"""Pictures of an experiment: queries, drawn by seed, and the answers of every row below them."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from namap.report import image_grid

from .scene import Scene

QUERIES, SIDE, MARGIN = 12, 64, 230
SHOWN = 2  # answers of a row to the same query


def draw(scene: Scene, home: Path, titles: dict[str, str]) -> Image.Image:
    """A column a query. Rows are those with seed 0; below samples of G there are no queries."""
    queries = scene.y_test.images
    shown = np.random.default_rng(0).permutation(len(queries))[:QUERIES]
    rows = {"query": list(queries[shown])}
    for method, title in titles.items():
        path = home / f"{method}-0" / "answers.npz"
        x = np.load(path)["x"] if path.exists() else np.empty(0)
        if x.ndim == 5 and method != "bound":  # whose inversions are of X, not of queries
            x = x[:QUERIES] if method == "generator" else x[shown]
            rows |= {title if k == 0 else f"{title} ({k + 1})": list(x[:, k]) for k in range(min(SHOWN, x.shape[1]))}
    return sheet(rows)


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
