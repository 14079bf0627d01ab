"""The components of the explorer's page, and how they are filled from a view."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image as PillowImage

from ..data.images import to_picture
from ..report import image_grid
from . import views
from .server import Picture
from .views import DIRECTIONS, Explorer, Tiles, View

PICKS = 12
# Small images are shown as their pixels, as large as their place.
CSS = """
.namap img { image-rendering: pixelated; object-fit: contain !important; width: 100%; height: 100%; }
"""
NO_X = "Start with `--x SRC`, images of X, to see which of them an analogy resembles, and so whether G copies."
NO_DATA = "Start with `--data SRC` to pick queries here."
NO_DIRECTIONS = "This method gives one solution per query, so there is no spread to walk along."


class Look:
    """The components that show a view, and how they are filled from one."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self.state = gr.State(None, time_to_live=3600)

    def main(self) -> None:
        """The analogy, what T makes of it, and the solutions."""
        with gr.Row():
            options: dict[str, Any] = {"format": "png", "height": 232, "interactive": False, "elem_classes": "namap"}
            self.analogy = gr.Image(label="Analogy G(z)", buttons=["download"], elem_id="analogy", **options)
            self.rebuilt = gr.Image(label="Reconstruction T(G(z))", buttons=[], **options)
        self.status = gr.Markdown("No query yet.", elem_id="status")
        self.gallery = gr.Gallery(
            label="Solutions: analogy and reconstruction, with their loss",
            columns=6, height=176, allow_preview=False, format="png", interactive=False, buttons=[],
            elem_id="solutions", elem_classes="namap",
        )  # fmt: skip

    def directions(self) -> None:
        """A slider for each direction of largest spread."""
        self.hint = gr.Markdown("Directions of largest spread, in standard deviations")
        self.sliders = [
            gr.Slider(-3, 3, 0, step=0.1, label=f"Direction {i + 1}", interactive=True, elem_id=f"direction{i + 1}")
            for i in range(DIRECTIONS)
        ]

    def ends(self) -> None:
        """The strip between two pinned codes."""
        with gr.Row():
            self.pins = [gr.Button(f"Pin this code as {end}", size="sm") for end in "AB"]
        self.strip_text = gr.Markdown("Pin two codes: solutions, or places that you walked to.")
        self.strip = gr.Gallery(
            label="From A to B, with the loss", columns=views.STRIP, height=130, allow_preview=False, format="png",
            interactive=False, buttons=[], elem_id="strip", elem_classes="namap",
        )  # fmt: skip

    def neighbours(self) -> None:
        """The nearest images of X."""
        if not self.explorer.x:
            gr.Markdown(NO_X)
        self.near = gr.Gallery(
            label="First the analogy, below it the query; then the nearest images of X (difference in grey levels)",
            columns=views.NEAREST + 1, height=216, allow_preview=False, format="png", interactive=False, buttons=[],
            visible=bool(self.explorer.x), elem_id="near", elem_classes="namap",
        )  # fmt: skip

    # ---- filled from a view ------------------------------------------------------------------------------------

    def solutions(self, view: View) -> dict:
        """The gallery of the view's solutions."""
        tiles = views.decode(self.explorer, view.model, view.query, view.codes)
        items = [(beside(x, t), f"{i + 1}: {loss:.3f}") for i, (x, t, loss) in enumerate(rows_of(tiles))]
        return {self.gallery: gr.Gallery(items, selected_index=view.chosen)}

    def walked(self, view: View, done: str = "") -> dict:
        """The code on display."""
        code = views.shown_code(self.explorer, view)
        tiles = views.decode(self.explorer, view.model, view.query, code[None])
        moved = ", moved" if any(view.steps) else ""
        text = f"**Solution {view.chosen + 1}** of {len(view.codes)}{moved} · loss **{tiles.losses[0]:.3f}** · "
        text += f"{view.model} ({self.explorer.model(view.model).method})" + (done and f" · {done}")
        pictures = {self.analogy: to_picture(tiles.x[0]), self.rebuilt: to_picture(tiles.t[0])}
        return {self.state: view, **pictures, self.status: text, **self._neighbours(view, tiles.x[0])}

    def still(self, view: View) -> dict:
        """The sliders, where the view has them."""
        lines = views.axes(self.explorer, view)
        spreads = np.linalg.norm(lines, axis=1)
        text = "Directions of largest spread, in standard deviations" if len(lines) else NO_DIRECTIONS
        sliders = {}
        for i, slider in enumerate(self.sliders):
            label = f"Direction {i + 1}: σ {spreads[i]:.2f}" if i < len(lines) else f"Direction {i + 1}"
            sliders[slider] = gr.Slider(value=view.steps[i], label=label, interactive=i < len(lines))
        return {self.hint: text, **sliders}

    def between(self, view: View) -> dict:
        """The strip, or what is missing for one."""
        tiles = views.strip(self.explorer, view)
        if tiles is None:
            pinned = [end for end, code in zip("AB", view.pins, strict=True) if code is not None]
            text = f"Pinned: {pinned[0]}; pin the other end." if pinned else "Pin two codes to see what lies between."
            return {self.state: view, self.strip: [], self.strip_text: text}
        items = [(to_picture(x), f"{loss:.3f}") for x, _, loss in rows_of(tiles)]
        text = "The segment from A to B in the space of codes, and how well each point explains the query."
        return {self.state: view, self.strip: items, self.strip_text: text}

    def whole(self, view: View, done: str = "") -> dict:
        """Everything."""
        return {**self.solutions(view), **self.walked(view, done), **self.still(view), **self.between(view)}

    def _neighbours(self, view: View, analogy: views.Image) -> dict:
        items = []
        for image, name in ((analogy, "analogy"), (view.query, "query")):
            found = views.nearest(self.explorer, view.model, image)
            if found is not None:
                near = zip(found.x, found.distances, strict=True)
                items += [(to_picture(image), name), *((to_picture(x), f"{d:.0f}") for x, d in near)]
        return {self.near: items}

    @property
    def all(self) -> list:
        """Every component that a view fills."""
        shown = [self.state, self.analogy, self.rebuilt, self.status, self.gallery, self.hint, *self.sliders]
        return [*shown, self.strip, self.strip_text, self.near]


class Asking:
    """The components by which a query, a model and settings are given."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        first = next(iter(explorer.models))
        self.query = Picture(
            label="Query y: drop, paste or click", sources=["upload", "clipboard"], format="png", height=232,
            buttons=[], elem_id="query", elem_classes="namap",
        )  # fmt: skip
        if explorer.queries is None:
            gr.Markdown(NO_DATA)
        with gr.Row(visible=explorer.queries is not None):
            self.random = gr.Button("Random query", size="sm", elem_id="random")
            self.others = gr.Button("Others", size="sm")
        self.offered = gr.State(self.offer())
        self.picks = gr.Gallery(
            self.pictures(self.offered.value), label="Or pick one", columns=6, height=130, allow_preview=False,
            format="png", interactive=False, buttons=[], visible=explorer.queries is not None, elem_id="picks",
            elem_classes="namap",
        )  # fmt: skip
        self.model = gr.Dropdown(list(explorer.models), value=first, label="Model", interactive=True)
        with gr.Accordion("Settings", open=False):
            refine = views.default_refine(explorer.models[first])
            self.settings = [
                gr.Slider(1, 12, 6, step=1, label="Solutions"),
                gr.Slider(0, 500, refine, step=10, label="Iterations of Eq. 6"),
                gr.Slider(0, 4, 1, step=0.1, label="Temperature of further solutions"),
                gr.Number(0, precision=0, minimum=0, label="Seed"),
            ]
        with gr.Row():
            self.go = gr.Button("Translate", variant="primary", size="sm", elem_id="go")
            self.stop = gr.Button("Stop", size="sm")

    def offer(self) -> list[int]:
        """A few queries of the data, drawn anew at every call."""
        count = 0 if self.explorer.queries is None else len(self.explorer.queries)
        return np.random.default_rng().permutation(count)[:PICKS].tolist()

    def pictures(self, positions: list[int]) -> list[PillowImage.Image]:
        """The pictures at these positions of the data."""
        return [] if self.explorer.queries is None else [to_picture(self.explorer.queries.images[i]) for i in positions]

    def draw(self) -> PillowImage.Image:
        """One query, drawn at random."""
        return self.pictures(self.offer()[:1])[0]


def rows_of(tiles: Tiles) -> Iterator[tuple]:
    """Analogy, reconstruction and loss of each code."""
    return zip(tiles.x, tiles.t, tiles.losses, strict=True)


def beside(*images: views.Image) -> PillowImage.Image:
    """Images in a row, however large."""
    return image_grid([_same(list(images))])


def _same(images: list[views.Image]) -> list[views.Image]:
    """Images enlarged, pixel by pixel, to the side of the largest."""
    side = max(i.shape[1] for i in images)
    big = [np.array(to_picture(i).resize((side, side), PillowImage.Resampling.NEAREST)) for i in images]
    return [b[None] if b.ndim == 2 else b.transpose(2, 0, 1) for b in big]
