"""The model card of a mapping: what it does, of which data, how well, under which licence, how to use it."""

import json
import re
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

import jinja2
import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms
from torchvision.utils import make_grid

from . import checkpoint
from .analogies import Analogies
from .data import ImageDomain, load_domain
from .errors import UsageError, one_line
from .files import storage_errors, write_file
from .generators import Generator, unwarped
from .pictures import to_picture, write_picture
from .recipes import Recipe
from .tensors import Images, XImages, from_numpy, to_uint8
from .voting import read_whole_log

PICTURE = "analogies.png"
COLUMNS = 12
TILE = 64  # pixels of one image in the picture, at least
JUDGED = 512  # queries whose mean loss is given
EVALUATIONS = ("evaluation.json", "metrics.json")
COUNTED = {  # of the last row of a run's log
    "images": "training images seen",
    "reconstruction": "reconstruction loss, training",
    "kl": "KL to the prior, nats",
    "informative_dimensions": "informative dimensions of the code",
    "seconds": "seconds of training",
}


@runtime_checkable
class Fitted(Protocol):
    """What a card needs of a fitted mapping."""

    method: ClassVar[Any]
    recipe: Recipe
    generator: Generator
    channels: int
    data: str | None
    device: torch.device

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and configuration."""
        ...

    def translate(self, data: Any) -> Analogies:
        """Analogies of queries."""
        ...

    def map_forward(self, x: XImages, like: Images | None = None) -> Images:
        """T."""
        ...

    def sample_x(self, count: int) -> Images:
        """Samples of G."""
        ...

    def prepare_queries(self, data: Any) -> ImageDomain:
        """Queries at the generator's size."""
        ...


def write_card(
    mapping: Fitted,
    folder: Path,
    repo_id: str,
    data: Any = None,
    *,
    license: str = "unknown",
    x: str = "the generator's domain",
    y: str = "the queries' domain",
    run: Path | None = None,
) -> None:
    """Write `README.md` and its picture.

    Args:
        mapping: fitted.
        folder: where to.
        repo_id: `owner/name`.
        data: queries to show and to measure on; None: samples of G are shown, nothing is measured.
        license: an identifier of the hub, such as `apache-2.0` or `cc-by-4.0`.
        x: name of the domain X, e.g. "typeset digits".
        y: name of the domain Y.
        run: directory of the run, whose log gives measured numbers, and so does an `evaluation.json` beside it: what
            `namap evaluate --json` printed.

    Raises:
        UsageError: a licence that is no identifier.
        StorageError: `folder` cannot be written.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*", license):
        raise UsageError(f"--license {license}: use an identifier such as apache-2.0, mit, cc-by-4.0 or other")
    x, y = _words(x), _words(y)
    picture, caption, loss = draw(mapping, data)
    measured = [*loss, *measured_numbers(run)]
    known = license not in ("unknown", "other")
    values = {
        "front": front_matter(mapping, license),
        "title": repo_id.split("/")[-1],
        "repo_id": repo_id,
        "kind": type(mapping).__name__,
        "x": x,
        "y": y,
        "picture": PICTURE,
        "caption": caption,
        "size": mapping.generator.image_size,
        "channels": mapping.channels,
        "domains": domain_rows(mapping, x, y, data),
        "measured": measured,
        "settings": yaml.safe_dump(asdict(mapping.recipe), sort_keys=False),
        "licence": f"`{license}`." if known else "Its publisher has not named a licence: ask before you use it.",
        **bring_generator(mapping),
    }
    environment = jinja2.Environment(  # Markdown, which is not escaped as HTML is
        loader=jinja2.PackageLoader("namap", "templates"),
        trim_blocks=True,
        autoescape=False,
        keep_trailing_newline=True,
    )
    text = environment.get_template("card.md").render(values)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_file(folder / "README.md", text.encode())  # first: by it `claim_card` knows the picture
        write_picture(folder / PICTURE, picture)


def claim_card(folder: Path) -> None:
    """Leave alone what is no card.

    Raises:
        UsageError: `folder` has a README.md that `write_card` did not write, or an analogies.png without a card.
        StorageError: it cannot be read.
    """
    path = folder / "README.md"
    with storage_errors(path):
        ours = path.is_file() and "library_name: namap" in path.read_text(errors="replace")
        foreign = [p for p in (path, folder / PICTURE) if p.exists() or p.is_symlink()]
    if foreign and not ours:
        raise UsageError(f"{foreign[0]}: is no card of namap, and would be lost; choose another directory")


def front_matter(mapping: Fitted, license: str) -> str:
    """What the hub reads of a card: licence, library, task, tags, as YAML."""
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        license=license,
        library_name="namap",
        pipeline_tag="image-to-image",
        tags=["namap", "image-to-image", "unsupervised", f"{mapping.method}-nam".removeprefix("nam-")],
    )
    return data.to_yaml()


@torch.no_grad()
def draw(mapping: Fitted, data: Any = None) -> tuple[Image.Image, str, list[tuple[str, str]]]:
    """The card's picture, what it shows, and the loss of the queries; without queries, G's samples and no loss."""
    device = mapping.device
    if data is None:
        return _sheet(list(mapping.sample_x(2 * COLUMNS).split(COLUMNS))), "Samples of the generator", []
    queries = load_domain(data, mapping.generator.image_size, mapping.channels)
    chosen = np.random.default_rng(0).permutation(len(queries))[:JUDGED]
    judged = queries.subset(chosen)
    found = mapping.translate(judged)
    y = from_numpy(mapping.prepare_queries(judged).images[:COLUMNS], device)
    x, z = from_numpy(found.x[:COLUMNS, 0], device), torch.from_numpy(found.codes[:COLUMNS, 0]).to(device)
    rows = [y, x, mapping.map_forward(mapping.generator(z), like=y)]
    caption = "Queries chosen at random, their analogies, and the queries as reconstructed from these"
    return _sheet(rows), caption, [(f"reconstruction loss of {len(chosen)} queries", f"{found.losses.mean():.4g}")]


def _sheet(rows: list[Tensor]) -> Image.Image:
    """Rows of images, enlarged without smoothing to tiles of one size."""
    side = max(TILE, *(row.shape[-1] for row in rows))
    nearest = transforms.InterpolationMode.NEAREST
    tiles = [transforms.resize(to_uint8(row).cpu(), [side, side], nearest).expand(-1, 3, -1, -1) for row in rows]
    return to_picture(make_grid(torch.cat(tiles), nrow=len(tiles[0]), padding=2, pad_value=255).numpy())


def domain_rows(mapping: Fitted, x: str, y: str, data: Any) -> list[tuple[str, str]]:
    """What is known of the two domains."""
    inner = unwarped(mapping.generator)
    colours = {1: "grey", 3: "RGB"}
    shape = f"{inner.image_size} x {inner.image_size}, {colours[inner.channels]}, codes of {inner.latent_dim} numbers"
    rows = [("X, of the analogies", x), ("generator of X", f"{inner.config['kind']}, {shape}")]
    rows += [("Y, of the queries", f"{y}; {colours[mapping.channels]}")]
    if mapping.data:
        rows.append(("queries of the fit", f"fingerprint `{_words(str(mapping.data))}`"))
    if data is not None:
        rows.append(("queries of this card", _name(data.source if isinstance(data, ImageDomain) else str(data))))
    return rows


def _name(source: str) -> str:
    """A source of data without the directory it lies in: that is nobody's business."""
    return source if source.startswith(("embedded:", "torchvision:")) else _words(Path(source).name)


def _words(text: str) -> str:
    """Text that means nothing in Markdown, HTML or a table: names of files and values may be a stranger's."""
    line = one_line(" ".join(text.split()))
    return " ".join(re.sub(r"[`|<>\[\]\\]", " ", line).split())


def bring_generator(mapping: Fitted) -> dict[str, str]:
    """What the reader must add to the card's examples where the generator is somebody else's."""
    config = unwarped(mapping.generator).config
    if config["kind"] != "foreign":
        return {"option": "", "argument": "", "bring": ""}
    spec = (config.get("source") or {}).get("spec")
    sums = sorted((config.get("source") or {}).get("sha256", {}).values())
    name = _words("GENERATOR" if spec is None else re.sub("(^|:)/.*/", r"\1", spec))
    what = f"`{name}`" + (f" (sha256 `{'`, `'.join(map(_words, sums))}`)" if sums else "")
    return {
        "option": f" --generator {shlex.quote(name)}",
        "argument": f", generator={json.dumps(name)}",
        "bring": f"The generator is not in this repository. Bring the one of the fit: {what}.",
    }


def measured_numbers(run: Path | None) -> list[tuple[str, str]]:
    """What a run's directory says: plain numbers of its evaluation, and the end of its log."""
    rows: list[tuple[str, str]] = []
    for home in () if run is None else (run, run.parent) if run.name == "final" else (run,):
        for path in (home / name for name in EVALUATIONS):
            found = checkpoint.read_json(path) if path.is_file() else {}
            numbers = {k: v for k, v in found.items() if type(v) in (int, float) and abs(v) < 1e300}
            rows += [(_words(key.replace("_", " ")), f"{value:.4g}") for key, value in numbers.items()]
        log = read_whole_log(home)
        rows += [(label, _plain(log[-1][key])) for key, label in COUNTED.items() if log and key in log[-1]]
    return rows


def _plain(value: float) -> str:
    """A count with all of its digits, another number with some.

    >>> _plain(1_000_000), _plain(0.123456789)
    ('1,000,000', '0.1235')
    """
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
