"""The components of the explorer's page, and how they are filled from a view."""

from collections.abc import Iterator
from typing import Any

import gradio as gr
import numpy as np
from PIL.Image import Resampling

from ..pictures import to_picture
from ..report import image_grid
from . import views
from .server import picture, png_file
from .views import DIRECTIONS, Explorer, Tiles, View
from .visit import Visit

PICKS = 12
# Small images are shown as their pixels, as large as their place.
CSS = """
.namap img { image-rendering: pixelated; object-fit: contain !important; width: 100%; height: 100%; }
.namap .image-container { padding-top: 28px; box-sizing: border-box; }
.namap .grid-container {
  grid-template: none / repeat(var(--grid-cols), minmax(0, 1fr)) !important; grid-auto-rows: auto !important;
  gap: 6px; padding-top: 28px !important;
}
.namap .thumbnail-lg { aspect-ratio: auto !important; height: auto !important; border-radius: 3px; }
.namap .thumbnail-lg img { height: auto; }
.namap .caption-label {
  position: static; max-width: none; border: 0; text-align: center; padding: 1px; font-size: 12px; line-height: 16px;
}
"""
NO_QUERY = "No query yet: drop a picture, paste one, or click one on the left. Its analogy appears here."
NO_X = "Start with `--x SRC`, images of X, to see which of them an analogy resembles, and so whether G copies."
NO_DATA = "Start with `--data SRC` to pick queries here."
NO_PINS = "Pin two codes, of solutions or of places that you walked to, to see what lies between."
NO_DIRECTIONS = "This method gives one solution per query, so there is no spread to walk along."


class Look:
    """The components that show a view, and how they are filled from one."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        self.visit = gr.State(Visit())

    def main(self) -> None:
        """The analogy, what T makes of it, and the solutions."""
        with gr.Row():
            options: dict[str, Any] = {"format": "png", "height": 232, "interactive": False, "elem_classes": "namap"}
            self.analogy = gr.Image(label="Analogy G(z)", buttons=["download"], elem_id="analogy", **options)
            self.rebuilt = gr.Image(label="Reconstruction T(G(z))", buttons=[], **options)
        self.status = gr.Markdown(NO_QUERY, elem_id="status")
        self.gallery = sheet("Solutions: analogy above, reconstruction below, and its loss", "solutions", 6, 272)

    def directions(self) -> None:
        """A slider for each direction of largest spread."""
        self.hint = gr.Markdown("Directions of largest spread, in standard deviations")
        self.sliders = [
            gr.Slider(-3, 3, 0, step=0.1, label=f"Direction {i + 1}", interactive=True, elem_id=f"direction{i + 1}")
            for i in range(DIRECTIONS)
        ]
        with gr.Row():
            self.pins = [gr.Button(f"Pin as {end}", size="sm", min_width=80, elem_id=f"pin{end}") for end in "AB"]
        self.pinned = gr.Markdown(NO_PINS)

    def ends(self) -> None:
        """The strip between two pinned codes."""
        self.strip = sheet(
            "From A to B in the space of codes, and how well each point explains y", "strip", views.STRIP, 134
        )

    def keeping(self) -> None:
        """Files of the view, to download and to open."""
        with gr.Row():
            self.keep = gr.Button("Keep: image, code, view", size="sm", min_width=80, elem_id="keep")
            self.opened = gr.UploadButton(
                "Open a kept view.json", file_types=[".json"], size="sm", min_width=80, elem_id="open"
            )
        self.files = gr.File(
            label="Files to download", file_count="multiple", interactive=False, visible=False, elem_id="files"
        )

    def neighbours(self) -> None:
        """The nearest images of X."""
        if not self.explorer.x:
            gr.Markdown(NO_X)
        text = "Nearest images of X, to the analogy and to the query: their difference in grey levels"
        self.near = sheet(text, "near", views.NEAREST + 1, 258, visible=bool(self.explorer.x))

    # ---- filled from a view ------------------------------------------------------------------------------------

    def solutions(self, view: View) -> dict:
        """The gallery of the view's solutions."""
        tiles = views.decode(self.explorer, view.model, view.query, view.codes)
        items = [(png_file(stacked(x, t)), f"{i + 1}: {loss:.3f}") for i, (x, t, loss) in enumerate(rows_of(tiles))]
        return {self.gallery: gr.Gallery(items, selected_index=view.chosen)}

    def walked(self, view: View, progress: str) -> dict:
        """The code on display."""
        code = views.shown_code(self.explorer, view)
        tiles = views.decode(self.explorer, view.model, view.query, code[None])
        moved = ", moved" if any(view.steps) else ""
        text = f"**Solution {view.chosen + 1}** of {len(view.codes)}{moved} · loss **{tiles.losses[0]:.3f}** · "
        text += f"{view.model} ({self.explorer.model(view.model).method}) · {progress}"
        pictures = {self.analogy: png_file(tiles.x[0], "analogy"), self.rebuilt: png_file(tiles.t[0])}
        return {**pictures, self.status: text}

    def still(self, view: View, placed: bool = True) -> dict:
        """The sliders, where the view has them; `placed`: moved to where it stands, unless a hand may be on them."""
        lines = views.axes(self.explorer, view)
        spreads = np.linalg.norm(lines, axis=1)
        text = "Directions of largest spread, in standard deviations" if len(lines) else NO_DIRECTIONS
        sliders = {}
        for i, slider in enumerate(self.sliders):
            label = f"Direction {i + 1}: σ {spreads[i]:.2f}" if i < len(lines) else f"Direction {i + 1}"
            change: dict[str, Any] = {"value": view.steps[i]} if placed else {}
            sliders[slider] = gr.update(**change, label=label, interactive=i < len(lines))
        return {self.hint: text, **sliders}

    def between(self, view: View) -> dict:
        """The strip, or what is missing for one."""
        tiles = views.strip(self.explorer, view)
        if tiles is None:
            pinned = [end for end, code in zip("AB", view.pins, strict=True) if code is not None]
            text = f"{pinned[0]} is pinned; go on and pin the other end." if pinned else NO_PINS
            return {self.strip: [], self.pinned: text}
        items = [(png_file(x), f"{loss:.3f}") for x, _, loss in rows_of(tiles)]
        return {self.strip: items, self.pinned: "A and B are pinned: the strip is below."}

    def whole(self, view: View, progress: str) -> dict:
        """All of a view."""
        return {**self.solutions(view), **self.walked(view, progress), **self.still(view), **self.between(view)}

    def refined(self, view: View, progress: str) -> dict:
        """What changes between two looks of a search."""
        return {**self.solutions(view), **self.walked(view, progress)}

    def ended(self, view: View, progress: str) -> dict:
        """What changes with the last look of a search; the sliders stay where the visitor has moved them."""
        return {**self.refined(view, progress), **self.still(view, placed=False)}

    def nothing(self) -> dict:
        """There is no query."""
        pictures = {self.analogy: None, self.rebuilt: None, self.gallery: gr.Gallery([]), self.strip: []}
        return {**pictures, self.status: NO_QUERY, self.pinned: NO_PINS}

    def nearest(self, view: View) -> list:
        """The nearest images of X: to the analogy on display, then to the query."""
        code, items = views.shown_code(self.explorer, view), []
        analogy = views.decode(self.explorer, view.model, view.query, code[None]).x[0]
        for image, name in ((analogy, "analogy"), (view.query, "query")):
            found = views.nearest(self.explorer, view.model, image)
            if found is not None:
                near = zip(found.x, found.distances, strict=True)
                items += [(png_file(image), name), *((png_file(x), f"{d:.0f}") for x, d in near)]
        return items

    @property
    def all(self) -> list:
        """Every component that a view fills."""
        shown = [self.analogy, self.rebuilt, self.status, self.gallery, self.hint, *self.sliders]
        return [*shown, self.strip, self.pinned]


READ_CLOCK = "(...given) => [...given.slice(0, -1), performance.now()]"  # the last input: when the visitor asked


class Asking:
    """The components by which a query, a model and settings are given."""

    def __init__(self, explorer: Explorer):
        self.explorer = explorer
        first = next(iter(explorer.models))
        self.query = picture(
            label="Query y: drop, paste or click", sources=["upload", "clipboard"], height=232,
            buttons=[], elem_id="query", elem_classes="namap",
        )  # fmt: skip
        if explorer.queries is None:
            gr.Markdown(NO_DATA)
        with gr.Row(visible=explorer.queries is not None):
            self.random = gr.Button("Random query", size="sm", min_width=80, elem_id="random")
            self.others = gr.Button("Show others", size="sm", min_width=80)
        self.offered = gr.State(self.offer())
        pictures, given = self.pictures(self.offered.value), explorer.queries is not None
        self.picks = sheet("Or pick one", "picks", 6, 136, pictures, visible=given)
        self.model = gr.Dropdown(list(explorer.models), value=first, label="Model", interactive=True, elem_id="model")
        with gr.Accordion("Settings", open=False):
            refine = views.default_refine(explorer.models[first])
            self.settings = [
                gr.Slider(1, 12, 6, step=1, label="Solutions"),
                gr.Slider(0, 1000, refine, step=10, label="Iterations of Eq. 6"),
                gr.Slider(0, 4, 1, step=0.1, label="Temperature of further solutions"),
                gr.Number(0, precision=0, minimum=0, label="Seed"),
            ]
        self.clock = gr.Number(0, visible=False)
        with gr.Row():
            self.go = gr.Button("Translate", variant="primary", size="sm", min_width=80, elem_id="go")
            self.stop = gr.Button("Stop", size="sm", min_width=80)

    def offer(self) -> list[int]:
        """A few queries of the data, drawn anew at every call."""
        count = 0 if self.explorer.queries is None else len(self.explorer.queries)
        return np.random.default_rng().permutation(count)[:PICKS].tolist()

    def pictures(self, positions: list[int]) -> list[str]:
        """The pictures at these positions of the data."""
        return [] if self.explorer.queries is None else [png_file(self.explorer.queries.images[i]) for i in positions]

    def draw(self) -> str:
        """One query, drawn at random."""
        return self.pictures(self.offer()[:1])[0]


def sheet(
    label: str, name: str, columns: int, height: int, value: list | None = None, visible: bool = True
) -> gr.Gallery:
    """A gallery to look at and click, not to enlarge."""
    return gr.Gallery(
        value, label=label, columns=columns, height=height, fit_columns=False, allow_preview=False, format="png",
        interactive=False, buttons=[], visible=visible, elem_id=name, elem_classes="namap",
    )  # fmt: skip


def rows_of(tiles: Tiles) -> Iterator[tuple]:
    """Analogy, reconstruction and loss of each code."""
    return zip(tiles.x, tiles.t, tiles.losses, strict=True)


def stacked(*images: views.Image) -> views.Image:
    """Images above each other, a pixel apart, all as large as the largest, pixel by pixel."""
    side = max(image.shape[1] for image in images)
    big = [np.array(to_picture(i).convert("RGB").resize((side, side), Resampling.NEAREST)) for i in images]
    return np.array(image_grid([[b.transpose(2, 0, 1)] for b in big])).transpose(2, 0, 1)
