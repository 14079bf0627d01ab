"""What the explorer shows of a query: solutions, walks, segments, neighbours. Plain functions of plain values."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from pydantic import Field
from pydantic.dataclasses import dataclass as checked

from ..checkpoint import digest
from ..codes import GaussianEncoder
from ..data import ImageDomain, UnreadableImage, load_domain, read_image
from ..errors import DataError, UsageError
from ..exploring import losses_of, picture, spread_directions
from ..mapping import Mapping
from ..solving import CodeSearch
from ..tensors import autocast, from_numpy, to_uint8

DIRECTIONS = 6
STRIP = 9  # images from one pinned solution to the other
CHUNK = 10  # iterations of Eq. 6 between two looks
NEAREST = 6
READING = threading.BoundedSemaphore(2)  # pictures that are decoded at a time: each may be large before it is reduced

Image = UInt8[np.ndarray, "c h w"]
Sheet = UInt8[np.ndarray, "n c h w"]
Code = Float[np.ndarray, " d"]


@checked(frozen=True)
class Settings:
    """How a query is solved: solutions k, iterations of Eq. 6 (None: the method's), temperature, seed."""

    solutions: int = Field(6, ge=1, le=12)
    refine: int | None = Field(None, ge=0, le=1000)
    temperature: float = Field(1.0, ge=0, le=4, allow_inf_nan=False)
    seed: int = Field(0, ge=0, lt=2**31)


@dataclass(frozen=True)
class View:
    """One query in one model, and where the user has walked.

    Attributes:
        model: its name.
        settings: how the solutions were found.
        query: y at the model's size.
        codes: the solutions, `[k d]`.
        losses: their reconstruction, `[k]`.
        chosen: the solution that walks start from.
        steps: how far along each direction, in standard deviations.
        pins: codes at the two ends of the strip.
    """

    model: str
    settings: Settings
    query: Image
    codes: Float[np.ndarray, "k d"]
    losses: Float[np.ndarray, " k"]
    chosen: int = 0
    steps: tuple[float, ...] = (0.0,) * DIRECTIONS
    pins: tuple[Code | None, Code | None] = (None, None)


@dataclass(frozen=True)
class Tiles:
    """Codes as images: analogies G(z) and reconstructions T(G(z)), uint8 `[n c h w]`, and losses `[n]`."""

    x: Sheet
    t: Sheet
    losses: Float[np.ndarray, " n"]


@dataclass(frozen=True)
class Neighbours:
    """Images of X by their distance to a picture: root mean square difference in grey levels of 255."""

    x: Sheet
    distances: Float[np.ndarray, " n"]


@dataclass
class Explorer:
    """The models on offer, the queries to pick from, and the images of X.

    Attributes:
        models: by name.
        queries: to pick from; None: the user brings all of them.
        x: images of X, for the neighbours, by model; empty: not given.
        lock: one computation at a time: many visitors share the processor in turns, not in a crowd.
        zips: one zip at a time is held in memory.
    """

    models: dict[str, Mapping]
    queries: ImageDomain | None = None
    x: dict[str, ImageDomain] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    zips: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.digests = {name: weights_digest(m) for name, m in self.models.items()}
        for mapping in self.models.values():
            mapping.make_reconstruction()  # a missing feature network is said before the page opens

    def model(self, name: str) -> Mapping:
        """The model of this name.

        Raises:
            UsageError: there is none.
        """
        if name not in self.models:
            raise UsageError(f"model {name!r}: not here; choose one of {', '.join(self.models)}")
        return self.models[name]


def open_explorer(
    paths: Sequence[Path],
    data: str | None = None,
    x: str | None = None,
    generator: str | None = None,
    **options,
) -> Explorer:
    """Load models and images; `options` are those of `Mapping.from_pretrained`.

    Args:
        paths: directories of `namap fit`.
        data: source of queries to pick from.
        x: source of images of X.
        generator: spec of a foreign generator that has moved.
        options: of `Mapping.from_pretrained`.

    Raises:
        UsageError: the same model twice, or what loading a model raises.
        DataError: what loading images raises.
    """
    mappings = [Mapping.from_pretrained(path, generator, **options) for path in paths]
    models = dict(zip(model_names(paths), mappings, strict=True))
    side, channels = max(m.image_size for m in mappings), max(m.channels for m in mappings)
    queries = None if data is None else load_domain(data, side, channels)
    if x is None:
        return Explorer(models, queries)
    shapes = {name: _x_shape(m) for name, m in models.items()}
    sets = {shape: load_domain(x, shape[-1], shape[0]) for shape in set(shapes.values())}
    return Explorer(models, queries, {name: sets[shape] for name, shape in shapes.items()})


def _x_shape(mapping: Mapping) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(picture(mapping, torch.zeros(1, mapping.latent_dim, device=mapping.device)).shape[1:])


def model_names(paths: Sequence[Path]) -> list[str]:
    """A name for each directory: as much of its end as tells it from the others.

    >>> model_names([Path("runs/a/map/final"), Path("runs/b/map"), Path("runs/c")])
    ['a/map', 'b/map', 'c']
    """
    places = [p.resolve() if p.name != "final" else p.resolve().parent for p in paths]
    if len(set(places)) < len(places):
        raise UsageError(f"{' '.join(map(str, paths))}: the same model twice; give each once")

    def name(place: Path) -> str:
        for count in range(1, len(place.parts)):
            end = place.parts[-count:]
            if sum(other.parts[-count:] == end for other in places) == 1:
                return "/".join(end)
        return str(place)

    return [name(place) for place in places]


def weights_digest(mapping: Mapping) -> str:
    """Short sha256 of T, the codes and G: a shared view belongs to these weights."""
    modules = {"t": mapping.mapper, "codes": mapping.fitted_codes, "g": mapping.generator}
    return digest({f"{k}.{n}": t for k, m in modules.items() for n, t in m.state_dict().items()})


# ---- queries ------------------------------------------------------------------------------------------------


def read_query(mapping: Mapping, file) -> Image:
    """An uploaded picture as a query of this model.

    Raises:
        DataError: no picture, or one that is not read.
    """
    if file is None:
        raise DataError("there is no query yet; drop, paste or pick a picture")
    try:
        with READING:
            return read_image(file, mapping.channels, mapping.image_size).copy()  # torch wants one it may write to
    except UnreadableImage as error:
        raise DataError(f"this picture cannot be used: {error}") from None


def targets(mapping: Mapping, queries: Sheet) -> torch.Tensor:
    """Queries as the model compares with them, `[n c h w]` in [-1, 1]."""
    return from_numpy(mapping.prepare_queries(ImageDomain.from_array(queries)).images, mapping.device)


# ---- solutions ----------------------------------------------------------------------------------------------


def start_search(mapping: Mapping, y: torch.Tensor, settings: Settings) -> CodeSearch:
    """The search that `Mapping.translate` makes with these settings, not yet begun.

    A method with one solution per query gets one.
    """
    solutions = settings.solutions if mapping.fitted_codes.several else 1
    return mapping.search(y, solutions, settings.refine, settings.seed, settings.temperature)


def solve(explorer: Explorer, name: str, query: Image, settings: Settings) -> Iterator[tuple[View, int, int]]:
    """The solutions of a query: at once, then again after every few iterations of Eq. 6.

    The processor is given to others between two looks. The last view is what `Mapping.translate` gives.

    Yields:
        The view, iterations done, iterations in all: fewer than asked for where the codes have converged.
    """
    mapping = explorer.model(name)
    with explorer.lock:
        search = start_search(mapping, targets(mapping, query[None]), settings)
    while True:
        with explorer.lock, autocast(mapping.device, mapping.precision):
            codes, losses, _ = (part.float().cpu().numpy() for part in search.result())
        # An encoder's first solution is its mean; NAM's starts are all alike, and the best of them is shown.
        chosen = 0 if mapping.method != "nam" else int(losses[0].argmin())
        done = min(search.step, search.steps)
        yield View(name, settings, query, codes[0], losses[0], chosen), done, done if search.finished else search.steps
        if search.finished:
            return
        left = search.steps + 1 - search.step  # after the last iteration its codes are scored
        with explorer.lock, autocast(mapping.device, mapping.precision):
            search.advance(CHUNK if left > CHUNK + 1 else left)


def finish(explorer: Explorer, mapping: Mapping, search: CodeSearch) -> UInt8[np.ndarray, "b k c h w"]:
    """Carry a search to its end, in turns with others; its analogies."""
    while not search.finished:
        with explorer.lock, autocast(mapping.device, mapping.precision):
            search.advance(CHUNK)
    with explorer.lock, torch.no_grad():
        x = picture(mapping, search.codes)
    return to_uint8(x.unflatten(0, search.shape)).cpu().numpy()


def decode(explorer: Explorer, name: str, query: Image, codes: Float[np.ndarray, "n d"]) -> Tiles:
    """Codes as images, judged against the query."""
    mapping = explorer.model(name)
    z = torch.from_numpy(np.ascontiguousarray(codes, dtype=np.float32)).to(mapping.device)
    with explorer.lock, torch.no_grad():
        y = targets(mapping, query[None])
        with autocast(mapping.device, mapping.precision):
            seen = mapping.generator(z).float()
        t = mapping.map_forward(seen, like=y.expand(len(z), -1, -1, -1))
        x, losses = picture(mapping, z), losses_of(mapping, y, z)
    return Tiles(to_uint8(x).cpu().numpy(), to_uint8(t).cpu().numpy(), losses.float().cpu().numpy())


def axes(explorer: Explorer, view: View) -> Float[np.ndarray, "m d"]:
    """A standard deviation along each direction of largest spread; none where a query has one solution."""
    mapping = explorer.model(view.model)
    if not mapping.fitted_codes.several or (mapping.method == "nam" and len(view.codes) < 2):
        return np.zeros((0, mapping.latent_dim), np.float32)
    with explorer.lock, torch.no_grad(), autocast(mapping.device, mapping.precision):
        codes = torch.from_numpy(view.codes).to(mapping.device)
        return (
            spread_directions(mapping, targets(mapping, view.query[None]), codes, DIRECTIONS)[1].float().cpu().numpy()
        )


def shown_code(explorer: Explorer, view: View) -> Code:
    """The chosen solution, moved along the directions."""
    code, lines = view.codes[view.chosen], axes(explorer, view)
    return (code + np.asarray(view.steps[: len(lines)], np.float32) @ lines).astype(np.float32)


def choose(view: View, index: int) -> View:
    """Walk from another solution.

    Raises:
        UsageError: there is no such solution.
    """
    if not 0 <= index < len(view.codes):
        raise UsageError(f"solution {index + 1}: this query has {len(view.codes)}")
    return replace(view, chosen=index, steps=(0.0,) * DIRECTIONS)


def walk(view: View, steps: Sequence[float]) -> View:
    """Move along the directions, in standard deviations."""
    return replace(view, steps=tuple(float(s) for s in steps))


def strip(explorer: Explorer, view: View) -> Tiles | None:
    """The segment between the pinned codes; None until both are pinned."""
    a, b = view.pins
    if a is None or b is None:
        return None
    shares = np.linspace(0, 1, STRIP, dtype=np.float32)[:, None]
    return decode(explorer, view.model, view.query, (1 - shares) * a + shares * b)


def compare(explorer: Explorer, file, settings: Settings) -> Iterator[tuple[View, int]]:
    """The solutions of one query in every model, and how many iterations of Eq. 6 they had.

    `settings.refine` None: as many as are proposed for each model.
    """
    for name, mapping in explorer.models.items():
        query = read_query(mapping, file)
        refine = default_refine(mapping) if settings.refine is None else settings.refine
        found = solve(explorer, name, query, replace(settings, refine=refine))
        yield from ((view, steps) for view, done, steps in found if done == steps)


# ---- neighbours ---------------------------------------------------------------------------------------------


def nearest(explorer: Explorer, name: str, image: Image) -> Neighbours | None:
    """The images of X nearest to a picture, which may be an analogy or a query; None where no X was given."""
    if name not in explorer.x:
        return None
    domain = explorer.x[name]
    other = ImageDomain.from_array(image[None]).resized(domain.size, domain.channels).images.astype(np.float32)
    with explorer.lock:
        squares = [np.square(part - other).mean((1, 2, 3)) for part in _parts(domain.images)]
    distances = np.sqrt(np.concatenate(squares))
    order = np.argsort(distances, kind="stable")[:NEAREST]
    return Neighbours(domain.images[order], distances[order])


def _parts(images: Sheet) -> Iterator[np.ndarray]:
    """Pieces of a few megabytes: X may be large, and float32 is four times as much."""
    count = max(1, 4_000_000 // images[0].size)
    return (images[i : i + count] for i in range(0, len(images), count))


def default_refine(mapping: Mapping) -> int:
    """Iterations of Eq. 6 that the page proposes: encode, then refine; NAM needs its own number."""
    return 50 if isinstance(mapping.fitted_codes, GaussianEncoder) else mapping.fitted_codes.refine or 50
