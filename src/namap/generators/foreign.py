"""Generators that others made: TorchScript archives, torch.export programs, diffusers directories, torch.hub.

A file is known by its content, never by its suffix. Both kinds of archive are programs: what they may do is checked
before anything of them runs, so that a file from a stranger can compute images and nothing else. A hub repository and
a pickled module are Python that runs with the caller's rights: the one is loaded only for a caller who names it, the
other only with `trust_pickle`.
"""

import io
import json
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checkpoint import file_sha256
from ..errors import UsageError, first_line, warn

# Operators of the namespaces aten and prim that reach files, other code or other machines.
FORBIDDEN = {"aten::save", "aten::from_file", "prim::PythonOp", "prim::CallMethod", "prim::CallFunction"}

# Methods of a TorchScript archive that run while it is read, and that are no part of the graph of `forward`.
BESIDES = (b"__setstate__", b"__forward_hooks__", b"__forward_pre_hooks__")

# A torch.export archive without pickles, compiled libraries and other models.
RECORDS = re.compile(
    r"models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)|data/sample_inputs/model\.pt"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|archive_\w+|byteorder|version|\.data/\w+|\.\w+"
)
TARGETS = re.compile(
    r"torch\.ops\.(aten|prims)\.(?!from_file\b)\w+\.\w+|torch\.sym_\w+"
    r"|_operator\.(getitem|add|sub|mul|neg|pow|mod|floordiv|truediv|and_|or_|eq|ne|lt|le|gt|ge)"
)
STORED = re.compile(r"(weight|tensor)_\d+")
SYMBOL = re.compile(r"Symbol\('\w+'(, \w+=(True|False))*\)")
SUM = re.compile(r"((FloorDiv|CleanDiv|Mod|PythonMod|Max|Min)?[(]|\d++(\.\d++)?|[-+*/, )])*")

MAX_PACKED = 2**26  # bytes of compressed records, unpacked: torch compresses code only


@dataclass(frozen=True)
class Foreign:
    """A generator from elsewhere, before it is fitted to namap's conventions.

    Attributes:
        module: codes to images.
        spec: where it came from, absolute: `load_generator` takes it again.
        sha256: of each file that it was loaded from; empty for a hub repository, whose code decides what it reads.
        latent_dim: size of its codes, where what it is decides that.
    """

    module: nn.Module
    spec: str
    sha256: dict[str, str]
    latent_dim: int | None = None


def open_foreign(spec: str, latent_dim: int | None = None, trust_pickle: bool = False) -> Foreign:
    """Open a generator by its spec: a file, `diffusers:PATH` or `hub:REPO:NAME`.

    Raises:
        UsageError: nothing there, damaged, a pickle that is not trusted, or a program that does more than compute.
    """
    scheme, _, place = spec.partition(":")
    if scheme == "hub":
        return open_hub(place)
    found = {name: file_sha256(path) for name, path in reference_files(spec).items()}
    if scheme == "diffusers":
        from .diffusion import open_diffusers

        root = Path(place).resolve()
        module = open_diffusers(root, latent_dim)
        return Foreign(module, f"diffusers:{root}", found, module.latent_dim)
    return Foreign(open_file(Path(spec), trust_pickle), str(Path(spec).resolve()), found)


def reference_files(spec: str) -> dict[str, Path]:
    """The files that a file or diffusers spec is loaded from, by name.

    Raises:
        UsageError: not there.
    """
    scheme, _, place = spec.partition(":")
    if scheme == "diffusers":
        from .diffusion import model_files

        return model_files(Path(place))
    path = Path(spec)
    if not path.is_file():
        raise UsageError(f"{spec}: no such file")
    return {path.name: path}


# ---- files ------------------------------------------------------------------------------------------------------


def open_file(path: Path, trust_pickle: bool = False) -> nn.Module:
    """A TorchScript archive or a torch.export program, known by its content, on the CPU; a pickle only if trusted.

    Raises:
        UsageError: it is neither, is damaged, or does more than compute.
    """
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(b"\x80"):  # of torch before 1.6, or of pickle itself
        return _open_pickle(path, trust_pickle)
    if not start.startswith(b"PK"):
        problem = "is neither a TorchScript archive nor a torch.export program" if start else "is empty"
        raise UsageError(f"{path}: {problem}; namap loads these and directories that it saved")
    try:
        with zipfile.ZipFile(path) as plain:  # in Python first: a flipped bit has ended the process in torch's reader
            packed = sum(info.file_size for info in plain.infolist() if info.compress_type != zipfile.ZIP_STORED)
            if packed > MAX_PACKED or plain.testzip():
                raise UsageError(f"{path}: damaged, or not an archive as torch writes it; export it again")
        archive = torch._C.PyTorchFileReader(str(path))
        records = set(archive.get_all_records())
        check = _script_or_program(path, records)
        if check is None:
            return _open_pickle(path, trust_pickle)
        check(path, archive, records)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.jit warns of its age
            return Program(path) if check is _check_program else _load_script(path)
    except UsageError:
        raise
    except Exception as error:  # torch's readers raise anything on a damaged file
        raise UsageError(f"{path}: truncated or damaged ({first_line(error)}); export it again") from error


def _script_or_program(path: Path, records: set[str]) -> Callable[[Path, Any, set[str]], None] | None:
    """What checks this kind of archive; None for a pickle."""
    if "constants.pkl" in records and any(name.startswith("code/") for name in records):
        return _check_script_code
    if "archive_format" in records:
        return _check_program
    if "data.pkl" in records:
        return None
    raise UsageError(f"{path}: neither a TorchScript archive nor a torch.export program of torch 2.8 or later")


def _open_pickle(path: Path, trusted: bool) -> nn.Module:
    """A module that was pickled whole, by `torch.save`: code that runs while it is read.

    First it is read as plain data, which runs nothing; only what needs more, and is trusted, is unpickled.

    Raises:
        UsageError: it needs more and is not trusted, is damaged, needs code that is not here, or holds no module.
    """
    try:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of other versions of the format
                module = torch.load(path, "cpu", weights_only=True)
        except pickle.UnpicklingError:  # it needs more than tensors and plain values
            if not trusted:
                raise UsageError(
                    f"{path}: is a pickle, which runs whatever code it holds when it is loaded; if you trust who made "
                    "it, say --trust-pickle (trust_pickle=True), with --generator where a mapping refers to it"
                ) from None
            warn(f"{path}: is unpickled on your word (--trust-pickle); whatever code it holds runs now, as you")
            module = torch.load(path, "cpu", weights_only=False)
    except UsageError:
        raise
    except ImportError as error:
        raise UsageError(f"{path}: needs code that is not here ({first_line(error)}); set PYTHONPATH to it") from error
    except Exception as error:  # torch raises anything on a damaged file, and so may the code in it
        raise UsageError(
            f"{path}: cannot be unpickled by torch.load ({first_line(error)}); save it again, or open it in Python as "
            "it was made (StyleGAN: pickle.load) and use wrap_generator"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"{path}: holds a {type(module).__name__} (a state dict?) and no module; load it into its module and "
            "use wrap_generator, or export that module"
        )
    return module


def _check_script_code(path: Path, archive: Any, records: set[str]) -> None:
    """Refuse what would run beside `forward`: methods that restore a module, and hooks."""
    code = [archive.get_record(name) for name in records if name.startswith("code/") and name.endswith(".py")]
    for text in code:
        for word in BESIDES:
            if word in text:
                raise UsageError(f"{path}: has code beside its forward ({word.decode()}); export it without")


def _load_script(path: Path) -> nn.Module:
    """A TorchScript archive whose graph computes and nothing else: every call inlined, every operator looked at."""
    module = torch.jit.load(str(path), map_location="cpu")
    for node in _nodes(module.inlined_graph):
        kind = node.kind()
        if kind.split("::")[0] not in ("aten", "prim") or kind in FORBIDDEN or "Subgraph" in node.attributeNames():
            raise UsageError(f"{path}: uses the operator {kind}; a generator may compute, nothing else")
    return module


def _nodes(block: Any) -> Iterator[Any]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _nodes(inner)


def _check_program(path: Path, archive: Any, records: set[str]) -> None:
    """Refuse what torch.export would unpickle, link or evaluate: it trusts its file with all three."""
    for what in _suspicious(archive, records):
        raise UsageError(f"{path}: {what}; a generator may compute, nothing else")


def _suspicious(archive: Any, records: set[str]) -> Iterator[str]:
    yield from (f"holds {name}" for name in sorted(records) if not RECORDS.fullmatch(name))
    for kind in ("weights", "constants"):
        values = json.loads(archive.get_record(f"data/{kind}/model_{kind}_config.json"))["config"].values()
        if any(v["use_pickle"] is not False or not STORED.fullmatch(v["path_name"]) for v in values):
            yield f"holds pickled {kind}"
    try:
        torch.load(io.BytesIO(archive.get_record("data/sample_inputs/model.pt")), weights_only=True)
    except Exception:  # whatever stops it, this is more than plain tensors
        yield "holds pickled sample inputs"
    for key, value in _leaves(json.loads(archive.get_record("models/model.json"))):
        if key == "expr_str" and not SUM.fullmatch(SYMBOL.sub("1", str(value))):
            yield f"holds the expression {str(value)[:60]}"
        targets = [node["target"] for node in value] if key == "nodes" else []
        yield from (f"uses the operator {t[:60]}" for t in targets if not TARGETS.fullmatch(t))


def _leaves(value: Any) -> Iterator[tuple[str, Any]]:
    """Every key of nested JSON with its value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield str(key), inner
        yield from _leaves(inner)


class Program(nn.Module):
    """A torch.export program. Training or inference mode was decided when it was exported."""

    def __init__(self, path: Path):
        from torch.export.pt2_archive._package import load_pt2

        super().__init__()
        # Without its guards, which are Python source.
        self.module = load_pt2(str(path)).exported_programs["model"].module(check_guards=False)

    def train(self, mode: bool = True) -> "Program":
        """Nothing: a program has one mode, and its module refuses to be asked."""
        self.training = mode
        return self

    def forward(self, z: Tensor) -> Any:
        """Run the program."""
        return self.module(z)


# ---- torch.hub --------------------------------------------------------------------------------------------------


def open_hub(place: str) -> Foreign:
    """An entry of a hub repository: its `hubconf.py` is run.

    Args:
        place: `REPO:NAME`; REPO a local directory, or `owner/name[:branch]` on GitHub.

    Raises:
        UsageError: not found, cannot be fetched, or its code fails.
    """
    repo, _, name = place.rpartition(":")
    local = Path(repo)
    if not repo or not name:
        raise UsageError(f"hub:{place}: expected hub:REPO:NAME, REPO a local directory or owner/name on GitHub")
    if local.is_dir() and not (local / "hubconf.py").is_file():
        raise UsageError(f"hub:{place}: {repo} has no hubconf.py")
    if not local.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w./-]+)?", repo):
        raise UsageError(f"hub:{place}: no directory {repo}, and not owner/name of a GitHub repository")
    try:
        if local.is_dir():
            repo = str(local.resolve())
            module = torch.hub.load(repo, name, source="local")
        else:
            module = torch.hub.load(repo, name, trust_repo=True, verbose=False)  # pyright: ignore[reportArgumentType]
    except Exception as error:  # the repository's code may raise anything
        remedy = "" if local.is_dir() else f"; without a network, clone it and use hub:DIRECTORY:{name}"
        raise UsageError(f"hub:{place}: cannot be loaded ({first_line(error)}){remedy}") from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"hub:{place}: returned a {type(module).__name__}, not a module; wrap it in one")
    return Foreign(module, f"hub:{repo}:{name}", {})
