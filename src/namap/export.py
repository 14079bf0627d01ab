"""Hand a mapping on as one file without namap: ONNX, or a torch.export program."""

import io
import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from .codes import QueryTable
from .data.coverage import shrinking
from .errors import StorageError, UsageError, first_line
from .files import atomic_file, claim_file, storage_errors
from .fitting import map_x
from .mapping import Mapping
from .tensors import Images, XImages, random_stream

Part = Literal["analogy", "mapper"]
Format = Literal["onnx", "pt2"]
TOLERANCE = 1e-4  # largest difference of one value, of images in [-1, 1], in fp32
BATCHES = (1, 5)  # that an exported file is tried on; it is traced with another
TRACED = 3
MARK = {"onnx": b"namap.size", "pt2": b"namap.json"}  # of what is known beside the network


class AnalogyPart(nn.Module):
    """y to G(E(y)): queries to their analogies, in one pass; of a VAE-NAM, those of the mean.

    Queries are shrunk here as `Mapping.translate` shrinks them, to whole grey levels.
    """

    shrinking: Tensor | None

    def __init__(self, mapping: Mapping):
        super().__init__()
        codes = mapping.fitted_codes
        assert not isinstance(codes, QueryTable)
        self.encoder: nn.Module = codes.encoder
        self.generator = mapping.generator
        self.latent_dim = mapping.latent_dim
        scale = mapping.recipe.query_scale
        self.register_buffer("shrinking", None if scale == 1 else shrinking(mapping.image_size, scale))

    def forward(self, images: Images) -> XImages:
        """`[b c h w]` in [-1, 1] to `[b c h w]` in [-1, 1]."""
        if self.shrinking is not None:
            small = self.shrinking @ images @ self.shrinking.T
            images = ((small + 1) * 127.5).round().clamp(0, 255) / 127.5 - 1
        codes = self.encoder(images)[:, : self.latent_dim]
        return self.generator.picture(codes).clamp(-1, 1)


class MapperPart(nn.Module):
    """x to T(x)."""

    def __init__(self, mapping: Mapping):
        super().__init__()
        self.mapper = mapping.mapper
        self.channels = mapping.channels
        self.recipe = mapping.recipe

    def forward(self, images: XImages) -> Images:
        """`[b c h w]` in [-1, 1] to `[b c h w]` in [-1, 1], as `Mapping.map_forward` without `like`."""
        return map_x(self.mapper, images, self.channels, self.recipe)


def export_mapping(
    mapping: Mapping,
    output: str | Path,
    part: Part | None = None,
    format: Format | None = None,
    verify: bool = True,
) -> dict[str, Any]:
    """Write one part of a mapping as a file that runs without namap, in fp32, for batches of any size.

    The file maps one input, `images`, float32 `[b c h w]` in [-1, 1], to one output of the same kind. An ONNX file
    carries in its metadata, as `namap.size` and so on, what its user must know: `size`, `channels`, `part`.

    Args:
        mapping: fitted.
        output: the file; written whole or not at all, after it was verified.
        part: `analogy`, queries to their analogies, G(E(y)); or `mapper`, T: X to Y. None: `analogy`, or of a NAM,
            which has no encoder, `mapper`.
        format: `onnx` or `pt2` (torch.export); None: as the suffix of `output` says.
        verify: run it in onnxruntime, or by `torch.export.load`, on two sizes of a batch, and compare.

    Returns:
        What the file is: `file`, `size`, `channels`, `part`, and `difference`, the largest from PyTorch.

    Raises:
        UsageError: the analogies of a NAM were asked for, the network cannot be exported, a library is missing, or
            `output` is there and no export.
        StorageError: the file differs from PyTorch, or cannot be written.
    """
    output = Path(output)
    kind = format or output.suffix.removeprefix(".")
    if kind not in get_args(Format):
        raise UsageError(f"export {output}: the suffix says no format; use .onnx or .pt2, or --format")
    claim_file(output, MARK[kind], "export")
    alone = isinstance(mapping.fitted_codes, QueryTable)
    part = part or ("mapper" if alone else "analogy")
    if part not in get_args(Part):
        raise UsageError(f"export: no part {part!r}; use analogy or mapper")
    if part == "analogy" and alone:
        raise UsageError(
            "export: NAM has no encoder, each new query is optimised; make one with `namap distil`, "
            "or export T with --part mapper"
        )
    before = mapping.device, mapping.precision
    try:
        content, result = _made(mapping.to("cpu"), part, kind, verify, output)
    finally:
        mapping.to(before[0]).precision = before[1]  # of `auto`, that in which it was fitted
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(output) as file:
            file.write(content)
    return result


def _made(mapping: Mapping, part: str, kind: str, verify: bool, output: Path) -> tuple[bytes, dict[str, Any]]:
    """The content of an export, from a mapping on the CPU, and what to say of it.

    Raises:
        StorageError: it does not compute what PyTorch does.
    """
    module = (AnalogyPart if part == "analogy" else MapperPart)(mapping).eval()
    channels = mapping.channels if part == "analogy" else mapping.generator.channels
    about = {"size": mapping.image_size, "channels": channels, "part": part}
    shape = (channels, mapping.image_size, mapping.image_size)
    content = (_onnx if kind == "onnx" else _program)(module, _images(TRACED, shape), about)
    result = {"file": str(output), **about}
    if verify:
        result["difference"] = compare(module, content, kind, shape)
        if not result["difference"] <= TOLERANCE:
            raise StorageError(
                f"export {output}: differs from PyTorch by {result['difference']:.1e}, more than {TOLERANCE:g}; "
                f"nothing was written; try --format {'pt2' if kind == 'onnx' else 'onnx'}"
            )
    return content, result


def _images(count: int, shape: tuple[int, ...]) -> Images:
    return torch.rand(count, *shape, generator=random_stream(count)) * 2 - 1


def _program(module: nn.Module, example: Tensor, about: dict[str, Any]) -> bytes:
    """A torch.export program, archived."""
    file, program = io.BytesIO(), _trace(module, example)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of channels-last weights, which torch saves all the same
        torch.export.save(program, file, extra_files={"namap.json": json.dumps(about)})
    return file.getvalue()


def _trace(module: nn.Module, example: Tensor) -> torch.export.ExportedProgram:
    """The graph of a module for batches of any size.

    Raises:
        UsageError: it holds what has no graph, such as a TorchScript archive.
    """
    if any(isinstance(m, torch.jit.ScriptModule) for m in module.modules()):
        raise UsageError(
            "export: the generator is a TorchScript archive, which has no graph that can be exported; fit to its "
            "torch.export program (.pt2) instead, or export T with --part mapper"
        )
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            shapes = ({0: torch.export.Dim("batch")},)
            program = torch.export.export(module, (example,), dynamic_shapes=shapes)
    except Exception as error:  # foreign generators: anything may be in their way
        raise UsageError(f"export: the network cannot be exported ({_cause(error)})") from error
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines, with the directories of this machine
    return program


def _onnx(module: nn.Module, example: Tensor, about: dict[str, Any]) -> bytes:
    """An ONNX model with `about` as its metadata."""
    need("onnx", "onnxscript", "onnxruntime")
    program = _trace(module, example).run_decompositions({torch.ops.aten.hypot.default: _hypot})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program, (example,), input_names=["images"], output_names=["found"], dynamo=True, verbose=False
            )
    except Exception as error:  # whatever has no ONNX operator
        raise UsageError(f"export: cannot be written as ONNX ({_cause(error)}); try --format pt2") from error
    assert exported is not None
    exported.model.metadata_props.update({f"namap.{key}": str(value) for key, value in about.items()})
    return exported.model_proto.SerializeToString()


def _hypot(a: Tensor, b: Tensor) -> Tensor:
    """ONNX has no operator for it."""
    return (a.square() + b.square()).sqrt()


def compare(module: nn.Module, content: bytes, kind: str, shape: tuple[int, ...]) -> float:
    """The largest difference of an exported file from its module, over two sizes of a batch."""
    run = _onnx_runner(content) if kind == "onnx" else _program_runner(content)
    gaps = []
    for count in BATCHES:
        images = _images(count, shape)
        with torch.no_grad():
            expected = module(images)
        found = run(images)
        if found.shape != expected.shape:
            raise StorageError(f"export: gives {tuple(found.shape)} for {tuple(images.shape)}; report this as a bug")
        gaps.append((found - expected).abs().max().item())
    return max(gaps)


def _onnx_runner(content: bytes):
    need("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _program_runner(content: bytes):
    return torch.export.load(io.BytesIO(content)).module()


def need(*modules: str) -> None:
    """Raise a UsageError that names the extra where a library of ONNX is missing."""
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UsageError(f"export: needs {', '.join(missing)}; pip install 'namap[onnx]'")


def _cause(error: BaseException) -> str:
    """The first line of what began it: the exporters put theirs around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
