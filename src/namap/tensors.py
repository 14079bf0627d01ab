"""Shapes, ranges, devices and precision: the conventions every other module builds on.

Images are float `[b c h w]` in [-1, 1] everywhere inside; uint8 lives only at the edges.
"""

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from . import processes
from .errors import UsageError

Images = Float[Tensor, "b c h w"]
XImages = Float[Tensor, "b k h w"]  # beside Images, where the two domains differ in channels
Codes = Float[Tensor, "b d"]
PerSample = Float[Tensor, "b"]


def to_float(images: UInt8[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Map uint8 0..255 to float32 [-1, 1].

    >>> to_float(torch.tensor([0, 255], dtype=torch.uint8)).tolist()
    [-1.0, 1.0]
    """
    return images.float().div_(127.5).sub_(1)


def to_uint8(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """Map float [-1, 1] to uint8 0..255, rounding; values outside the range are clipped."""
    return images.float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def from_numpy(images: UInt8[np.ndarray, "n c h w"], device: torch.device | str = "cpu") -> Images:
    """A uint8 array as a float batch on `device`, channels last (the fast layout on CPU and GPU)."""
    batch = torch.from_numpy(np.ascontiguousarray(images)).to(device)
    return to_float(batch).to(memory_format=torch.channels_last)


def pick_device(name: str = "auto") -> torch.device:
    """Resolve `auto`, `cpu` or `cuda[:n]`; of several processes on a machine, each takes a GPU of its own.

    Raises:
        UsageError: the name is not a device, the device is not there, or the other processes are not.
    """
    if name == "auto":
        return processes.meet(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"--device {name}: not a device; use auto, cpu or cuda[:n]") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"--device {name}: not supported; use auto, cpu or cuda[:n]")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(f"--device {name}: this machine has {torch.cuda.device_count()} CUDA devices; use cpu")
    return processes.meet(device)


def pick_precision(name: str, device: torch.device) -> str:
    """Resolve `auto` to `bf16` where the hardware is faster in it (CUDA sm80, AMX, some AVX512-BF16), else `fp32`."""
    if name not in ("auto", "fp32", "bf16"):
        raise UsageError(f"--precision {name}: unknown; use auto, fp32 or bf16")
    if name != "auto":
        return name
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    features = torch.cpu.get_capabilities()
    return "bf16" if features.get("amx_bf16") or (features.get("avx512_bf16") and bf16_pays()) else "fp32"


@cache
def bf16_pays() -> bool:
    """Whether this processor convolves faster in bf16 than in fp32, by a quarter at least; timed once, in about 100 ms.

    AVX512-BF16 does not tell: with it, some processors take half the time in bf16, others twice as long. What is timed
    is one thread's own time, which stays the same beside other work: a run must go on in the precision that it began
    with. Of several processes main decides for all.
    """
    images = torch.ones(8, 64, 32, 32).to(memory_format=torch.channels_last)
    weight = torch.ones(64, 64, 3, 3).to(memory_format=torch.channels_last)
    best = {"fp32": float("inf"), "bf16": float("inf")}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(5):
        for precision in best:
            started = time.thread_time()
            with torch.inference_mode(), autocast(torch.device("cpu"), precision):
                nn.functional.conv2d(images, weight, padding=1)
            best[precision] = min(best[precision], time.thread_time() - started)
    torch.set_num_threads(threads)
    return processes.of_main(best["fp32"] > 1.25 * best["bf16"])


M = TypeVar("M", bound=nn.Module)


def place(module: M, device: torch.device) -> M:
    """Move a module to `device`, convolution weights channels last.

    Tensors of other ranks stay as they are: `Module.to` would take those of five, too (StyleGAN2's), and fail.
    """
    module.to(device)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The autocast context of a `precision` from `pick_precision`."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def inference(*modules: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; afterwards every part of the modules is in the mode that it was in."""
    modes = [(part, part.training) for module in modules for part in module.modules()]
    for module in modules:
        module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in modes:
            part.training = mode


def random_stream(seed: int, *position: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A random generator that is a pure function of (seed, position).

    Training draws from `random_stream(seed, step)`, so a resumed run needs no saved random state
    to repeat the uninterrupted one.
    """
    state = int(np.random.SeedSequence([seed, *position]).generate_state(1, np.uint64)[0])
    return torch.Generator(device).manual_seed(state % 2**63)


def as_seed(seed: int | torch.Generator) -> int:
    """A seed as it is, or one drawn from a torch.Generator, which moves on: the next draw is another one.

    Raises:
        UsageError: neither, or below zero.

    >>> as_seed(7)
    7
    """
    if isinstance(seed, torch.Generator):
        return int(torch.randint(2**62, (), generator=seed, device=seed.device))
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UsageError(f"seed {seed!r}: use a whole number from 0, or a torch.Generator")
    return int(seed)
