"""The explorer's page: which function of `views`, `sharing` or `archives` each event calls."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from ..errors import UsageError
from ..settings import make_settings
from . import views
from .archives import MAX_FILES, translate_archive
from .looks import READ_CLOCK, Asking, Look, sheet
from .server import Page, kept, picture, png_file, spoken
from .sharing import restore, save_view
from .views import Explorer, Settings, View
from .visit import Visit

INTRO = (
    "## namap explorer\n"
    "Drop a query: its analogy appears at once and is refined while you watch. "
    "Click a solution, move along the directions, pin two codes to walk between them."
)


def build_page(explorer: Explorer) -> Page:
    """The page, ready to be started."""
    with Page(title="namap explorer", analytics_enabled=False, delete_cache=(3600, 86400), fill_width=True) as page:
        gr.Markdown(INTRO)
        with gr.Tab("Explore"):
            look = Look(explorer)
            with gr.Row():
                with gr.Column(scale=3, min_width=260):
                    asking = Asking(explorer)
                with gr.Column(scale=6, min_width=420):
                    look.main()
                with gr.Column(scale=3, min_width=220):
                    look.directions()
            with gr.Row():
                with gr.Column():
                    look.ends()
                    look.keeping()
                with gr.Column():
                    look.neighbours()
        with gr.Tab("Compare models"):
            _comparing(explorer, asking)
        with gr.Tab("Batch"):
            _batch(explorer, asking)
        _solving(explorer, asking, look)
        _walking(explorer, look)
        _keeping(explorer, asking, look)
        _api(explorer)
    return page


def _solving(explorer: Explorer, asking: Asking, look: Look) -> None:
    """A query is given: by the user, at random, picked; or the model or settings change."""

    @spoken
    def ask(visit: Visit, file: str | None, model: str, *given: float) -> Iterator[dict]:
        *values, asked = given
        turn = visit.take(asked)
        if not turn:
            yield {look.status: gr.skip()}
            return
        if file is None:  # the picture was taken away
            visit.open(None, "")
            yield look.nothing()
            return
        query = views.read_query(explorer.model(model), file)
        yield from _search(visit, turn, look, views.solve(explorer, model, query, _settings(*values)))

    @spoken
    def stop(visit: Visit) -> dict:
        visit.stop()
        return look.nothing() if visit.found is None else look.whole(visit.view(), visit.progress)

    def pick(offered: list[int], event: gr.SelectData) -> str:
        return asking.pictures([offered[int(event.index)]])[0]

    def others() -> tuple[list[int], list[str]]:
        positions = asking.offer()
        return positions, asking.pictures(positions)

    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    inputs = [look.visit, asking.query, asking.model, *asking.settings, asking.clock]
    run: dict[str, Any] = {
        "inputs": inputs,
        "outputs": look.all,
        "js": READ_CLOCK,
        "trigger_mode": "multiple",
        **private,
    }
    for asked in (
        asking.query.input(ask, **run),
        asking.go.click(ask, **run),
        asking.model.input(ask, **run),
        asking.random.click(spoken(asking.draw), outputs=asking.query, **private).success(ask, **run),
        asking.picks.select(spoken(pick), asking.offered, asking.query, **private).success(ask, **run),
    ):
        asked.success(_near(look), look.visit, look.near, **private)
    asking.stop.click(stop, look.visit, look.all, **private)
    asking.others.click(spoken(others), outputs=[asking.offered, asking.picks], **private)


def _walking(explorer: Explorer, look: Look) -> None:
    """A solution is chosen, a slider moved, a code pinned."""

    @spoken
    def choose(visit: Visit, event: gr.SelectData) -> dict:
        visit.move(views.choose(visit.view(), int(event.index)))
        return _unless_late(visit, lambda view: {**look.walked(view, visit.progress), **look.still(view)})

    @spoken
    def walk(visit: Visit, *steps: float) -> dict:
        visit.move(views.walk(visit.view(), steps))
        return _unless_late(visit, lambda view: look.walked(view, visit.progress))

    def pin(place: int) -> Any:
        def pinned(visit: Visit) -> dict:
            visit.pins[place] = views.shown_code(explorer, visit.view())
            return look.between(visit.view())

        return spoken(pinned)

    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    near: dict[str, Any] = {"fn": _near(look), "inputs": look.visit, "outputs": look.near, **private}
    look.gallery.select(choose, look.visit, look.all, **private).success(**near)
    for slider in look.sliders:
        moved = slider.input(walk, [look.visit, *look.sliders], look.all, trigger_mode="always_last", **private)
        moved.success(trigger_mode="always_last", **near)
    for place, button in enumerate(look.pins):
        button.click(pin(place), look.visit, look.all, **private)


def _near(look: Look) -> Any:
    """The nearest images of X, anew."""

    @spoken
    def nearest(visit: Visit) -> list:
        return [] if visit.found is None else look.nearest(visit.view())

    return nearest


def _search(visit: Visit, turn: int, look: Look, found: Iterator[tuple[View, int, int]]) -> Iterator[dict]:
    """What the page shows of a search's looks, until it is another's turn."""
    for view, done, steps in found:
        if visit.turn != turn:
            break
        record, fill = (visit.open, look.whole) if done == 0 else (visit.find, look.refined)
        record(view, f"{done} of {steps} iterations" if steps else "one pass", done < steps)
        yield from _newest(visit, turn, look.ended if 0 < done == steps else fill)
    yield {look.status: gr.skip()}  # Gradio shows the last yield once more at the end: it must change nothing


def _newest(visit: Visit, turn: int, fill: Callable[[View, str], dict]) -> Iterator[dict]:
    """What the page shows of the newest view, made anew where the visitor moved meanwhile; nothing out of turn."""
    while visit.turn == turn:
        mark = visit.mark()
        filled = fill(visit.view(), visit.progress)
        if visit.turn == turn and visit.mark() == mark:
            yield filled
            return


def _unless_late(visit: Visit, fill: Callable[[View], dict]) -> Any:
    """What the page shows of a move, unless a later event has more to show, this move included."""
    mark = visit.mark()
    filled = fill(visit.view())
    return filled if visit.mark() == mark else gr.skip()


def _keeping(explorer: Explorer, asking: Asking, look: Look) -> None:
    """Files of the view, and a view from a file."""

    @spoken
    def save(visit: Visit) -> gr.File:
        with tempfile.TemporaryDirectory() as folder:
            paths = save_view(explorer, visit.view(), Path(folder))
            return gr.File([kept(path.name, path.read_bytes()) for path in paths], visible=True)

    @spoken
    def load(visit: Visit, file: str | None) -> dict:
        if file is None:
            raise UsageError("choose the view.json that was kept")
        view = restore(explorer, Path(file).read_bytes())
        visit.take()
        visit.open(view, "as it was kept")
        values = (view.settings.solutions, view.settings.refine, view.settings.temperature, view.settings.seed)
        given = {c: v for c, v in zip(asking.settings, values, strict=True) if v is not None}
        back = {asking.query: png_file(view.query), asking.model: view.model}
        return {**look.whole(view, visit.progress), **back, **given}

    private: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    look.keep.click(save, look.visit, look.files, **private)
    look.opened.upload(
        load, [look.visit, look.opened], [*look.all, asking.query, asking.model, *asking.settings], **private
    ).success(_near(look), look.visit, look.near, **private)


def _comparing(explorer: Explorer, asking: Asking) -> None:
    """The same query in every model."""
    proposed = {views.default_refine(mapping) for mapping in explorer.models.values()}

    @spoken
    def compare(file: str | None, *values: float) -> Iterator[list]:
        shown = []
        settings = _settings(*values)
        if settings.refine in proposed:  # nobody has asked for another number
            settings = replace(settings, refine=None)
        for view, steps in views.compare(explorer, file, settings):
            tiles = views.decode(explorer, view.model, view.query, view.codes[view.chosen][None])
            method = explorer.model(view.model).method
            caption = f"{view.model} ({method}, {steps} iterations): loss {tiles.losses[0]:.3f}"
            shown += [(view.query, "query"), (tiles.x[0], caption), (tiles.t[0], "reconstruction")]
            yield [(png_file(image), text) for image, text in shown]

    text = "The query of the first tab in every model that `namap app` was given: query, analogy, reconstruction."
    several = "Losses can be compared where the models were fitted with the same one."
    gr.Markdown(f"{text} {several if len(explorer.models) > 1 else 'Here it is one; name several.'}")
    with gr.Row():
        button = gr.Button("Compare", size="sm", variant="primary", scale=0, min_width=200, elem_id="compare")
    found = sheet("Models", "compared", 6, 640 if len(explorer.models) > 2 else 270)
    button.click(compare, [asking.query, *asking.settings], found, show_progress="minimal", api_visibility="private")


def _batch(explorer: Explorer, asking: Asking) -> None:
    """A zip in, a zip out."""

    @spoken
    def batch(
        file: str | None,
        model: str,
        solutions: float = 1,
        refine: float | None = None,
        temperature: float = 1.0,
        seed: float = 0,
        progress: gr.Progress = gr.Progress(),
    ) -> str:
        if file is None:
            raise UsageError("choose a zip of pictures")
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "analogies.zip"
            settings = _settings(solutions, refine, temperature, seed)
            for count in translate_archive(explorer, model, file, settings, output):
                progress(count, desc="translating", unit="pictures")
            return kept(output.name, output.read_bytes())

    gr.Markdown(
        f"A zip of up to {MAX_FILES} pictures becomes a zip of their analogies, with the model and settings of the "
        "first tab: NAME.png, NAME_k1.png … for each; files that are no pictures are listed in skipped.jsonl."
    )
    with gr.Row(equal_height=True):
        source = gr.File(label="Zip of pictures", file_types=[".zip"], height=160, elem_id="zip")
        result = gr.File(label="Zip of analogies", interactive=False, height=160, elem_id="unzipped")
    with gr.Row():
        button = gr.Button("Translate all", size="sm", variant="primary", scale=0, min_width=200)
    inputs = [source, asking.model, *asking.settings]
    button.click(batch, inputs, result, concurrency_limit=1, api_name="batch")


def _api(explorer: Explorer) -> None:
    """The endpoint /translate, for programs."""

    @spoken
    def translate(
        picture: str | None,
        model: str,
        solutions: float = 1,
        refine: float | None = None,
        temperature: float = 1.0,
        seed: float = 0,
    ) -> tuple[list, dict]:
        query = views.read_query(explorer.model(model), picture)
        *_, (view, _, steps) = views.solve(explorer, model, query, _settings(solutions, refine, temperature, seed))
        tiles = views.decode(explorer, model, query, view.codes)
        numbers = {"codes": view.codes.tolist(), "losses": view.losses.tolist()}
        return [png_file(x) for x in tiles.x], {"model": model, "refine": steps, **numbers}

    with gr.Row(visible=False):
        inputs = [
            picture(label="Query"),
            gr.Dropdown(list(explorer.models), value=next(iter(explorer.models)), label="Model"),
            gr.Number(1, precision=0, label="Solutions"),
            gr.Number(None, precision=0, label="Iterations of Eq. 6; none: the method's"),
            gr.Number(1.0, label="Temperature"),
            gr.Number(0, precision=0, label="Seed"),
        ]
        outputs = [gr.Gallery(label="Analogies", format="png"), gr.JSON(label="Codes and losses")]
        gr.Button().click(translate, inputs, outputs, api_name="translate")


def _settings(solutions: float, refine: float | None, temperature: float, seed: float) -> Settings:
    """Settings as the page and the API send them: whole numbers may come as floats, or not at all."""
    return make_settings(Settings, {"solutions": solutions, "refine": refine, "temperature": temperature, "seed": seed})
