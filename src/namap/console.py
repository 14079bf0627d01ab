"""What the verbs of the command line share: settings and output."""

import ctypes
import json
import os
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

import typer

from .errors import NamapError, StorageError, UsageError, one_line
from .launch import launched, place

PLACES = ("generator", "data", "outdir")  # printed by --dry-run beside the settings; given as flags
TOGETHER = ("fit", "train-generator", "translate")  # verbs that several processes share
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h


def read_settings(config: Path | None, pairs: list[str], **flags: Any) -> dict[str, Any]:
    """Settings of a fit: a YAML file or what --dry-run printed, overridden by --set, overridden by flags."""
    import yaml

    settings: dict[str, Any] = {}
    if config is not None:
        try:
            settings = yaml.safe_load(config.read_text()) or {}
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise UsageError(f"--config {config}: not readable YAML ({str(error).splitlines()[0]})") from None
        if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
            raise UsageError(f"--config {config}: expected `key: value` lines")
        settings = {key: value for key, value in settings.items() if key not in PLACES}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"--set {pair!r}: expected KEY=VALUE")
        try:
            settings[key.replace("-", "_")] = yaml.safe_load(value)
        except (ValueError, RecursionError, yaml.YAMLError):
            raise UsageError(f"--set {pair!r}: {value!r} is not a value") from None
    return {**settings, **{k: v for k, v in flags.items() if v is not None}}


def keep_apart(outdir: str | Path, *sources: str | None, option: str = "--outdir") -> None:
    """Refuse to write among the images of a source; what is no path, such as `embedded:NAME/SPLIT`, has no place.

    Raises:
        UsageError: `outdir` is their folder or lies in it, or is the folder of the one picture.
    """
    place = Path(outdir).resolve()
    for source in (s for s in sources if s is not None):
        with suppress(OSError):  # a pattern of shards may be longer than any path
            images = Path(source).resolve()
            picture = images.is_file() and images.suffix.lower() != ".npz"
            if (images.is_dir() and place.is_relative_to(images)) or (picture and place == images.parent):
                raise UsageError(f"{option} {outdir}: lies in the folder of the images; choose another")


def keep_model(outdir: str | Path, *models: str | Path | None) -> None:
    """Refuse to write into the directory of a model that is read: it would make room with `--overwrite`.

    Raises:
        UsageError: `outdir` is the directory of one of them.
    """
    for model in (m for m in models if m is not None):
        with suppress(OSError):
            place = Path(model).resolve()
            if Path(outdir).resolve() in (place, place.parent if place.name == "final" else place):
                raise UsageError(f"--outdir {outdir}: holds {model}, which is read; choose another")


def parse_seeds(text: str) -> list[int]:
    """`0,1,2` as a list."""
    parts = text.split(",")
    if not all(p.strip().isdecimal() for p in parts):
        raise UsageError(f"--seeds {text}: expected whole numbers, e.g. 0,1,2")
    return [int(p) for p in parts]


def parse_range(text: str) -> tuple[float, float]:
    """`LOW,HIGH` as two numbers."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--image-range {text}: expected LOW,HIGH, e.g. 0,1") from None
    return low, high


def say(result: dict[str, Any], as_json: bool = True, text: str = "") -> None:
    """Print a result, for people or for programs; of several processes, the first does."""
    lines = [one_line(line) for line in text.split("\n")]
    if place() == 0:
        typer.echo(json.dumps(result, indent=2, default=str) if as_json else "\n".join(lines))


def keep_freed_memory() -> None:
    """Have glibc keep what is freed: giving large tensors back to the kernel costs up to a sixth of a step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def end(error: NamapError) -> Never:
    """Say an error in one line and exit with its code; what several processes have to say, one of them says."""
    if "--debug" in sys.argv:
        traceback.print_exc()
    if launched() == 1:
        typer.echo(f"namap: {error}", err=True)
        sys.exit(error.exit_code)
    from . import processes

    if processes.tell(error):
        who = f"process {place()} on {socket.gethostname()}: " if place() else ""
        typer.echo(f"namap: {who}{error}", err=True)
    sys.exit(error.exit_code)


def out_of_memory(error: Exception) -> NamapError | None:
    """What to say of an error that is a lack of memory, of the machine or of its GPU; None: it is something else."""
    first = str(error).partition("\n")[0]
    lacking = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if lacking or "DefaultCPUAllocator" in first:  # torch itself is not imported for this
        first = first.partition("DefaultCPUAllocator: ")[2] or first or "no more to be had"
        return StorageError(f"out of memory ({first}); take a smaller batch size, smaller images or another device")
    return None


def take_part(verb: str) -> None:
    """Refuse to run a verb in several processes where each would do all of it.

    Raises:
        UsageError: it works in one.
    """
    if launched() == 1:
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what becomes of a lost process is said by `end`
    if verb not in TOGETHER:
        raise UsageError(f"{verb}: works in one process; only {', '.join(TOGETHER)} share their work among several")


def leave() -> None:
    """Wait for the other processes, where there are any: what one of them meets at the end is the error of all."""
    if launched() > 1:
        from . import processes

        processes.leave()
