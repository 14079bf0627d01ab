"""Generators from disk: what namap saved, and what others made."""

import inspect
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..errors import StorageError, UsageError
from .adapt import wrap_generator
from .base import Generator, freeze
from .foreign import open_foreign, reference_files
from .simulator import FaceSimulator
from .training import find_family
from .warped import unwarped

LIMITS = {"latent_dim": 65536, "image_size": 4096, "channels": 3, "width": 2048, "stages": 8}
FOREIGN_LATENT = 2**24  # numbers in a code of somebody else's generator, which may be a picture itself


def build_generator(config: Any, where: str | Path) -> Generator:
    """A generator of a saved configuration, on the meta device: without memory until weights are loaded into it.

    Raises:
        StorageError: an unknown kind or key, or a value out of bounds.
    """
    values = {k: v for k, v in config.items() if k != "kind"} if isinstance(config, dict) else {}
    try:
        simulated = values and config.get("kind") == "simulator"
        kind = FaceSimulator if simulated else find_family(str(values and config.get("kind"))).generator
    except UsageError:
        kind = None
    if kind is None or values.keys() != inspect.signature(kind).parameters.keys():
        raise StorageError(f"{where}: generator configuration {config} is not one that namap writes")
    for key, value in values.items():
        if type(value) is not int or not 1 <= value <= LIMITS[key]:
            raise StorageError(f"{where}: generator {key} {value!r} is not a whole number from 1 to {LIMITS[key]}")
    try:
        with torch.device("meta"):
            return kind(**values)
    except UsageError as error:
        raise StorageError(f"{where}: {error}") from None


def load_generator(
    spec: str | Path,
    *,
    latent_dim: int | None = None,
    image_range: tuple[float, float] = (-1.0, 1.0),
    spatial: bool | None = None,
    stage: int | None = None,
    trust_pickle: bool = False,
) -> Generator:
    """Load a generator, frozen: one that namap saved, or anybody's.

    Args:
        spec: the directory of a generator that namap saved, or the output directory of `namap train-generator`; a
            TorchScript archive or torch.export program; `diffusers:DIRECTORY`, an auto-encoder whose decoder is used,
            or a consistency model; `hub:REPO:NAME`, an entry of a torch.hub repository, whose code is then run;
            `simulator:face`, or `simulator:face:SIDE`, namap's drawn face (32 pixels a side).
        latent_dim: of a foreign generator: d, where it cannot be found out.
        image_range: of a foreign generator: lowest and highest value of its images, e.g. (0, 1).
        spatial: of a foreign generator: it wants codes `[b d 1 1]`; None: whichever it takes.
        stage: of a foreign generator that returns several images: which one.
        trust_pickle: take also a file that `torch.save` wrote of a whole module: a pickle, which runs whatever code it
            holds, with your rights.

    Returns:
        G: codes N(0, I) `[b d]` to images `[b c s s]` in [-1, 1], differentiable, in eval mode.

    Raises:
        UsageError: nothing there, a pickle that is not trusted, something else, or it does not fit.
        StorageError: damaged files of namap's own.

    Examples:
        >>> load_generator("simulator:face").latent_dim
        12
    """
    spec = str(spec)
    ours = latent_dim is None and (image_range, spatial, stage) == ((-1, 1), None, None)
    if spec.startswith("simulator:"):
        if not ours:
            raise UsageError(f"{spec}: a simulator knows its codes and range; leave those options out")
        return _simulator(spec)
    if spec.startswith(("diffusers:", "hub:")) or Path(spec).is_file():
        found = open_foreign(spec, latent_dim, trust_pickle)
        source = {"spec": found.spec, "sha256": found.sha256}
        latent_dim = found.latent_dim if latent_dim is None else latent_dim
        try:
            return wrap_generator(found.module, latent_dim, image_range, spatial, stage, source)
        except UsageError as error:
            raise UsageError(f"{spec}: {error}") from error
    if not Path(spec).exists():
        raise UsageError(f"{spec}: no such file or directory")
    place, tensors, config = checkpoint.open_model(spec, "generator")
    generator = build_generator(config.get("generator"), place)
    checkpoint.load_weights(generator, tensors, place)
    if latent_dim not in (None, generator.latent_dim) or (image_range, spatial, stage) != ((-1, 1), None, None):
        raise UsageError(f"{place}: namap made it and knows its codes and range; leave those options out")
    return freeze(generator)


def _simulator(spec: str) -> Generator:
    _, name, *sizes = spec.split(":")
    if name != "face" or len(sizes) > 1 or not all(s.isdecimal() and 16 <= int(s) <= 1024 for s in sizes):
        raise UsageError(
            f"--generator {spec}: unknown simulator; use simulator:face or simulator:face:SIDE, 16 to 1024"
        )
    return freeze(FaceSimulator(int(sizes[0]) if sizes else 32))


def remember_generator(generator: Generator) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What a saved mapping holds of its generator: configuration and weights; a foreign one is only referred to."""
    own = unwarped(generator)
    if own.config["kind"] == "foreign":
        return {**own.config, "weights": own.identity["weights"]}, {}
    return own.config, own.state_dict()


def recall_generator(
    saved: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    where: str | Path,
    given: Generator | str | Path | None,
    trust_pickle: bool = False,
) -> Generator:
    """The generator of a saved mapping: of its weights, or, for a foreign one, the files that it refers to.

    Args:
        saved: its configuration in the mapping, perhaps a stranger's.
        tensors: its weights; empty for a foreign one.
        where: the mapping, for messages.
        given: the generator that the user brings, or its spec; None: find it.
        trust_pickle: of `load_generator`; only for one that is given, never for what the mapping refers to.

    Raises:
        UsageError: it is gone, is another one, or is code that only its user may decide to run.
        StorageError: a file of it has changed, or the configuration is damaged.
    """
    foreign = saved.get("kind") == "foreign"
    options = _check_saved(saved, where) if foreign else {}
    if trust_pickle and given is None:
        raise UsageError("--trust-pickle (trust_pickle): goes with --generator (generator=), which names the file")
    if isinstance(given, Generator):
        generator = given
    elif given is not None:
        generator = load_generator(given, trust_pickle=trust_pickle, **options)
    elif foreign:
        generator = load_generator(_unchanged(saved.get("source"), where), **options)
    else:
        generator = build_generator(saved, where)
        checkpoint.load_weights(generator, tensors, where)
    found = {**generator.identity, **{k: getattr(generator, k) for k in ("latent_dim", "image_size", "channels")}}
    for key in ("latent_dim", "image_size", "channels", *(("image_range", "stage", "weights") if foreign else ())):
        expected = saved.get(key, None if foreign else found[key])
        if found.get(key) != expected:
            raise UsageError(f"{where}: expects {key} {expected}, the generator has {found.get(key)}")
    own = unwarped(generator)
    if given is not None and not foreign and checkpoint.digest(own.state_dict()) != checkpoint.digest(tensors):
        raise UsageError(f"{where}: was fitted to a generator of other weights; give that one, or none: it is inside")
    sums = found.get("source"), sorted((saved.get("source") or {"sha256": {}})["sha256"].values())
    if foreign and all(sums) and sums[0] != sums[1]:
        raise UsageError(f"{where}: was fitted to other files than those of this generator; give the same ones")
    return generator


def _unchanged(source: dict[str, Any] | None, where: str | Path) -> str:
    """The spec of a reference whose files are there and as they were; nothing of them has been loaded."""
    if source is None:
        raise UsageError(
            f"{where}: was fitted to a wrapped generator; pass the same one as generator=, on the command line as "
            "--generator FILE of its TorchScript or torch.export"
        )
    spec, sums = source["spec"], source["sha256"]
    if spec.startswith("hub:"):
        raise UsageError(
            f"{where}: was fitted to {spec}, whose code runs when it is loaded; "
            f"if you trust it, give --generator {spec} (generator=)"
        )
    try:
        files = reference_files(spec)
    except UsageError as error:
        raise UsageError(f"{where}: its generator is gone ({error}); give --generator (generator=)") from error
    for name in sorted(files.keys() | sums.keys()):
        if name not in files or checkpoint.file_sha256(files[name]) != sums.get(name):
            path = files.get(name, name)
            raise StorageError(f"{path}: not as it was in the fit of {where} (another sha256); put the old one back")
    return spec


def _check_saved(saved: dict[str, Any], where: str | Path) -> dict[str, Any]:
    """The options of `load_generator` in a saved configuration, each checked."""
    d, span, spatial, stage = (saved.get(key) for key in ("latent_dim", "image_range", "spatial", "stage"))
    source = {"spec": "", "sha256": {}} if saved.get("source") is None else saved["source"]
    sound = (
        type(d) is int
        and 1 <= d <= FOREIGN_LATENT
        and type(spatial) is bool
        and (stage is None or type(stage) is int)
        and isinstance(source, dict)
        and isinstance(source.get("spec"), str)
        and isinstance(source.get("sha256"), dict)
        and all(isinstance(value, str) for value in source["sha256"].values())
    )
    if not sound or not isinstance(span, list) or [type(v) for v in span] != [float, float]:
        raise StorageError(f"{where}: its configuration of a foreign generator is not one that namap writes")
    return {"latent_dim": d, "image_range": (span[0], span[1]), "spatial": spatial, "stage": stage}
