"""A view as files: the image, its code, and a JSON from which the same view comes back."""

import base64
import io
import json
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ..errors import DataError, UsageError
from ..pictures import encode_png
from .views import DIRECTIONS, Explorer, Settings, View, decode, read_query, shown_code

MAX_BYTES = 10_000_000

Number = Annotated[float, Field(ge=-1e4, le=1e4, allow_inf_nan=False)]
Vector = Annotated[list[Number], Field(min_length=1, max_length=500_000)]


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class SharedView:
    """What a shared view holds. `query` is a PNG in base64, `code` the one on display."""

    format: Literal["namap-view"]
    version: Literal[1]
    model: str
    weights: str
    settings: Settings
    query: str
    codes: Annotated[list[Vector], Field(min_length=1, max_length=12)]
    losses: Vector
    chosen: Annotated[int, Field(ge=0)]
    steps: Annotated[tuple[Number, ...], Field(min_length=DIRECTIONS, max_length=DIRECTIONS)]
    pins: tuple[Vector | None, Vector | None]
    code: Vector


def share(explorer: Explorer, view: View) -> str:
    """The view as JSON: model, settings, query, codes, and where the user has walked.

    Raises:
        UsageError: it is larger than `restore` takes.
    """
    numbers = {name: getattr(view, name) for name in ("model", "chosen", "steps")}
    text = json.dumps(
        {
            "format": "namap-view",
            "version": 1,
            "weights": explorer.digests[view.model],
            **numbers,
            "settings": {name: getattr(view.settings, name) for name in Settings.__dataclass_fields__},
            "query": base64.b64encode(encode_png(view.query)).decode(),
            "codes": [written(code) for code in view.codes],
            "losses": written(view.losses),
            "pins": [None if p is None else written(p) for p in view.pins],
            "code": written(shown_code(explorer, view)),
        }
    )
    if len(text) > MAX_BYTES:
        count, size = view.codes.shape
        raise UsageError(f"{count} codes of {size} numbers take over {MAX_BYTES // 10**6} MB; ask for fewer solutions")
    return text


def written(vector: Float[np.ndarray, " d"]) -> list[float]:
    """Numbers that JSON writes as shortly as float32 allows; read as float32, they are the same."""
    return [float(f"{value:.9g}") for value in vector.tolist()]


def restore(explorer: Explorer, text: str | bytes) -> View:
    """The view that `share` wrote, perhaps elsewhere.

    Raises:
        DataError: another kind of file, or damaged.
        UsageError: its model is not here, or has other weights.
    """
    if len(text) > MAX_BYTES:
        raise DataError(f"this file is over {MAX_BYTES // 10**6} MB; a shared view is smaller")
    try:
        shared = TypeAdapter(SharedView).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"this file is not a view that namap shared ({where}: {first['msg']})") from None
    mapping = explorer.model(shared.model)
    if shared.weights != explorer.digests[shared.model]:
        raise UsageError(f"this view belongs to another fit called {shared.model!r}; open that one with namap app")
    try:
        picture = base64.b64decode(shared.query, validate=True)
        query = read_query(mapping, io.BytesIO(picture))
    except (DataError, ValueError) as error:
        raise DataError(f"the query in this view cannot be read ({error})") from None
    count = len(shared.codes)
    vectors = [*shared.codes, *(p for p in shared.pins if p is not None)]
    sound = all(len(v) == mapping.latent_dim for v in vectors) and len(shared.losses) == count
    if not sound or shared.chosen >= count or (count > 1 and not mapping.fitted_codes.several):
        raise DataError(f"this view does not fit model {shared.model!r}: other codes than its {mapping.latent_dim}")
    pins = tuple(None if p is None else np.array(p, np.float32) for p in shared.pins)
    numbers = (np.array(shared.codes, np.float32), np.array(shared.losses, np.float32))
    return View(shared.model, shared.settings, query, *numbers, shared.chosen, shared.steps, (pins[0], pins[1]))


def save_view(explorer: Explorer, view: View, folder: Path) -> list[Path]:
    """Write analogy.png, code.npy, code.json and view.json of what is on display; return their paths.

    Raises:
        UsageError: the view is too large to be opened again; nothing is written.
    """
    code, shared = shown_code(explorer, view), share(explorer, view)
    tiles = decode(explorer, view.model, view.query, code[None])
    paths = [folder / name for name in ("analogy.png", "code.npy", "code.json", "view.json")]
    paths[0].write_bytes(encode_png(tiles.x[0]))
    np.save(paths[1], code)
    paths[2].write_text(json.dumps(code.tolist()) + "\n")
    paths[3].write_text(shared + "\n")
    return paths
