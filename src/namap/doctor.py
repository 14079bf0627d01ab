"""What this machine offers, what is wrong with it, and how to mend that. Works where torch does not."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import StorageError, UsageError, first_line

NEEDED = {"torch": (2, 10), "torchvision": (0, 25), "numpy": (1, 26), "safetensors": (0, 5), "huggingface_hub": (0, 30)}
EXTRAS = {
    "app": ("gradio",),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "diffusers": ("diffusers",),
    "ray": ("ray", "pyarrow"),
    "datasets": ("datasets",),
    "webdataset": ("webdataset",),
}
LITTLE = 2**30  # bytes of free disk under which a run is likely to stop
VGG_FILE = "vgg16-397923af.pth"  # torchvision's name for VGG-16's ImageNet weights


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        found: how it is.
        remedy: what to do about it; empty where there is nothing to do.
        code: exit code of the problem; 0 where namap can be used as it is.
    """

    name: str
    found: str
    remedy: str = ""
    code: int = 0


def examine() -> list[Finding]:
    """Everything, in order."""
    findings = [*packages(), *machine(), *caches(), *disks()]
    return [f for f in findings if f.found]


def packages() -> Iterator[Finding]:
    """Versions of what namap needs and of what it can use. Each is imported: that is where a bad install shows."""
    yield Finding("python", platform.python_version())
    yield Finding("namap", _version("namap") or "not installed", "" if _version("namap") else "pip install namap")
    for name, least in NEEDED.items():
        wanted = ".".join(map(str, least))
        mend = f"pip install --upgrade '{name}>={wanted}'"
        found = _version(name)
        if found is None:
            yield Finding(name, "missing", mend, UsageError.exit_code)
            continue
        try:
            import_module(name)
        except Exception as error:  # a shared library, a wrong pair of torch and torchvision: anything
            mend = "pip install --force-reinstall torch torchvision, both of one index" if "torch" in name else mend
            yield Finding(name, f"{found}, but cannot be imported ({first_line(error)})", mend, UsageError.exit_code)
            continue
        old = tuple(int(part) for part in found.split(".")[:2] if part.isdecimal()) < least
        yield Finding(name, found, mend if old else "", UsageError.exit_code if old else 0)
    for extra, names in EXTRAS.items():
        missing = [name for name in names if find_spec(name) is None]
        have = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
        found = f"without {', '.join(missing)}" if missing else have
        yield Finding(f"extra {extra}", found, f"pip install 'namap[{extra}]' if you want it" if missing else "")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine() -> Iterator[Finding]:
    """Devices, precision and threads."""
    try:
        import torch

        from .tensors import pick_device, pick_precision
    except (ImportError, OSError):  # was said above
        return
    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(i) for i in range(count)]
    built, remedy = torch.version.cuda, ""
    if Path("/dev/nvidia0").exists() and not count and os.environ.get("CUDA_VISIBLE_DEVICES") != "":
        remedy = "a GPU is there, but this torch is built without CUDA: install a build with it"
        if built is not None:
            remedy = f"a GPU is there, but torch for CUDA {built} does not see it: check the driver with nvidia-smi"
    yield Finding("devices", ", ".join(["cpu", *names]), remedy)
    device = pick_device()
    capable = [name for name in ("avx512_bf16", "amx_bf16") if torch.cpu.get_capabilities().get(name)]
    chosen = pick_precision("auto", device)
    cpu = f"the CPU has {', '.join(capable) or 'no bfloat16 instructions'}"
    slower = ", but is no faster in bf16" if capable and (device.type, chosen) == ("cpu", "fp32") else ""
    yield Finding("precision", f"{chosen} on {device.type}; {cpu}{slower}")
    threads, cores = (
        torch.get_num_threads(),
        len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
    )
    remedy = ""
    if cores and threads > cores:
        remedy = f"more threads than cores slow each other down: export OMP_NUM_THREADS={cores}"
    elif cores and threads == 1 < cores:
        limit = "unset OMP_NUM_THREADS" if os.environ.get("OMP_NUM_THREADS") else "export OMP_NUM_THREADS"
        remedy = f"one thread of {cores} cores: {limit} where a single run should have them all"
    yield Finding("threads", f"{threads}, of {cores} cores", remedy)


def caches() -> Iterator[Finding]:
    """Where models of the hub and VGG-16's weights are, or would come from."""
    below = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    home = Path(os.environ.get("HF_HOME") or below / "huggingface")
    yield _writable("HF_HOME", home)
    torch_home = Path(os.environ.get("TORCH_HOME") or below / "torch")
    yield _writable("TORCH_HOME", torch_home)
    given = os.environ.get("NAMAP_VGG_WEIGHTS")
    cached = torch_home / "hub" / "checkpoints" / VGG_FILE
    if given is not None and not Path(given).is_file():
        yield Finding("VGG-16", f"NAMAP_VGG_WEIGHTS={given}: no such file", "correct or unset it", UsageError.exit_code)
    elif given is not None or cached.is_file():
        yield Finding("VGG-16", str(given or cached))
    else:
        remedy = "only --loss perceptual and gram need them: fetched at first use, or --vgg-weights FILE.safetensors"
        yield Finding("VGG-16", "no weights at hand", remedy)


def _writable(name: str, place: Path) -> Finding:
    """Whether a cache can be written: it, or the nearest directory above it that is there."""
    there = next(p for p in (place, *place.parents) if p.exists())
    if there.is_dir() and os.access(there, os.W_OK):
        return Finding(name, str(place) + ("" if place.exists() else ", not there yet"))
    return Finding(name, f"{place}: cannot be written", f"export {name}=DIRECTORY that can", StorageError.exit_code)


def disks() -> Iterator[Finding]:
    """Free disk where runs are written and where they keep scratch files."""
    temporary: Callable[[], str] = tempfile.gettempdir
    for name, find in (("disk here", os.getcwd), ("disk for scratch", temporary)):
        remedy = "free some, or work elsewhere" if find is os.getcwd else "free some, or export TMPDIR=DIRECTORY"
        try:
            place = find()
            free = shutil.disk_usage(place).free
        except OSError as error:
            yield Finding(name, f"unusable ({error.strerror or error})", remedy, StorageError.exit_code)
            continue
        shut = not os.access(place, os.W_OK)
        found = f"{place}: {free / 2**30:.1f} GB free" + (", but it cannot be written" if shut else "")
        bad = shut or free < LITTLE
        yield Finding(name, found, remedy if bad else "", StorageError.exit_code if bad else 0)


def as_dict(findings: list[Finding]) -> dict[str, Any]:
    """For programs: whether namap can be used, and every finding."""
    return {"usable": not any(f.code for f in findings), "findings": [asdict(f) for f in findings]}


def as_text(findings: list[Finding]) -> str:
    """For people: a line each, the remedy under it, and a verdict."""
    width = max(len(f.name) for f in findings)
    lines = []
    for f in findings:
        lines.append(f"{'✗' if f.code else '!' if f.remedy else ' '} {f.name:<{width}}  {f.found}")
        lines += [f"  {'':<{width}}  → {f.remedy}"] if f.remedy else []
    problems = [f.name for f in findings if f.code]
    lines.append(f"to be mended: {', '.join(problems)}" if problems else "namap can be used here")
    return "\n".join(lines)
