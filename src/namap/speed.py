"""How fast this machine trains and translates, beside what its convolutions could do."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16
from tqdm import tqdm

from .data import ImageDomain
from .generators import DCGAN
from .mapping import METHODS, Mapping
from .networks import VGGFeatures
from .recipes import default_recipe
from .tensors import pick_device, pick_precision
from .training import Loop, Run

CHANNELS_LAST, NCHW = torch.channels_last, torch.contiguous_format
# name, method, loss, side, channels, batch
STEPS = (
    ("nam 32 l2", "nam", "l2", 32, 1, 128),
    ("ae 32 l2", "ae", "l2", 32, 1, 128),
    ("vae 32 l2", "vae", "l2", 32, 1, 128),
    ("vae 32 appearance", "vae", "appearance", 32, 1, 128),
    ("nam 32 vgg", "nam", "perceptual", 32, 1, 128),
    ("nam 64 vgg", "nam", "perceptual", 64, 3, 32),
    ("vae 64 vgg", "vae", "perceptual", 64, 3, 32),
)
# Images/s of the authors' code (fp32) on two cores whose fp32 convolutions reached REFERENCE operations a second.
PUBLISHED = {"nam 32 l2": 1050.0, "nam 32 vgg": 135.0, "nam 64 vgg": 17.0}
REFERENCE = 265e9
WARM, TIMED = 3, 10


def bench_speed(vgg_weights: Path | None = None, quiet: bool = True) -> dict[str, Any]:
    """Images/s of a training step of each method and of `translate`, in fp32 NCHW and in namap's default.

    Each figure stands beside the FLOPs of one image and the share of the machine's own convolution rate (a 128 to 128
    3x3 convolution on 64 images of 32x32, same precision and layout, measured in the same run).

    The published code's rate is its rate on a reference machine, times this machine's fp32 convolution rate over that
    machine's: a faster machine does not make namap look better.

    Args:
        vgg_weights: local VGG-16 weights; None: random ones, as their values do not matter for speed.
        quiet: no progress bar.
    """
    device = pick_device("auto")
    modes = {"fp32 nchw": ("fp32", NCHW), "default": (pick_precision("auto", device), CHANNELS_LAST)}
    measured: list[tuple[str, str, float, float]] = []
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    for name, *step in tqdm((*STEPS, ("translate 32",)), "measuring", disable=True if quiet else None):
        for mode, (precision, layout) in modes.items():
            rates[mode].append(_convolution_rate(precision, layout))  # between the steps: the machine's rate drifts
            run = partial(_train_step, *step) if step else _translate
            measured.append((name, mode, *run(precision=precision, layout=layout, vgg_weights=vgg_weights)))
    convolution = {mode: float(np.median(rate)) for mode, rate in rates.items()}
    rows = [_row(name, mode, images_s, flops, convolution[mode]) for name, mode, images_s, flops in measured]
    return {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": modes["default"][0],
        "convolution_gflops": {m: r / 1e9 for m, r in convolution.items()},
        "rows": rows,
        "published_images_s": {step: p * convolution["fp32 nchw"] / REFERENCE for step, p in PUBLISHED.items()},
    }


def speed_table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    lines = [f"{'step':20} {'mode':10} {'images/s':>9} {'GFLOP/s':>8} {'of conv':>8} {'x fp32':>7} {'x published':>11}"]
    base = {r["step"]: r["images_s"] for r in result["rows"] if r["mode"] == "fp32 nchw"}
    for row in result["rows"]:
        known = result["published_images_s"].get(row["step"])
        published = f"{row['images_s'] / known:.1f}" if known else "-"
        lines.append(
            f"{row['step']:20} {row['mode']:10} {row['images_s']:9.0f} {row['gflops']:8.0f} "
            f"{row['share_of_convolution']:8.0%} {row['images_s'] / base[row['step']]:7.1f} {published:>11}"
        )
    rates = ", ".join(f"{m} {r:.0f}" for m, r in result["convolution_gflops"].items())
    return "\n".join([*lines, f"convolution rate, GFLOP/s: {rates}; {result['threads']} threads"])


def _row(name: str, mode: str, images_s: float, flops: float, rate: float) -> dict[str, Any]:
    achieved = images_s * flops
    return {
        "step": name,
        "mode": mode,
        "images_s": images_s,
        "mflop_per_image": flops / 1e6,
        "gflops": achieved / 1e9,
        "share_of_convolution": achieved / rate,
    }


def _median_seconds(run: Callable[[], object]) -> float:
    times = []
    for i in range(WARM + TIMED):
        started = time.perf_counter()
        run()
        if i >= WARM:
            times.append(time.perf_counter() - started)
    return float(np.median(times))


def _convolution_rate(precision: str, layout: torch.memory_format) -> float:
    convolution = nn.Conv2d(128, 128, 3, padding=1).to(memory_format=layout)
    x = torch.randn(64, 128, 32, 32).to(memory_format=layout)
    if precision == "bf16":
        convolution, x = convolution.bfloat16(), x.bfloat16()
    with torch.no_grad():
        seconds = _median_seconds(lambda: convolution(x))
    return 2 * 64 * 32 * 32 * 128 * 128 * 9 / seconds


def _make(
    method: str,
    loss: str,
    side: int,
    channels: int,
    batch: int,
    precision: str,
    layout: torch.memory_format,
    vgg_weights: Path | None,
) -> tuple[Mapping, ImageDomain]:
    rng = np.random.default_rng(0)
    domain = ImageDomain.from_array(rng.integers(0, 256, (512, channels, side, side), np.uint8))
    features = None
    if loss == "perceptual":
        blocks = default_recipe("vae", "perceptual", side).blocks
        features = VGGFeatures(vgg_weights or vgg16(weights=None).features, blocks)
    generator = DCGAN(32 if side == 32 else 100, side, channels, 64)
    mapping = METHODS[method](generator, loss=loss, features=features, precision=precision, batch_size=batch)
    mapping.build(channels, len(domain))
    for module in (generator, mapping.mapper, mapping.fitted_codes, features):
        if module is not None:
            module.to(memory_format=layout)  # pyright: ignore[reportCallIssue]
    return mapping, domain


def _train_step(
    method: str,
    loss: str,
    side: int,
    channels: int,
    batch: int,
    precision: str,
    layout: torch.memory_format,
    vgg_weights: Path | None,
) -> tuple[float, float]:
    mapping, domain = _make(method, loss, side, channels, batch, precision, layout, vgg_weights)
    with tempfile.TemporaryDirectory() as scratch:
        loop = Loop(mapping.make_task(domain), domain, Run(10**6, batch, precision=precision), Path(scratch))
        batches = [_in_layout(loop.batch(i), layout) for i in range(2)]
        loop.step(batches[0])  # also fills the cache of phi(y), once a run
        with FlopCounterMode(display=False) as counter:
            loop.step(batches[1])
        seconds = _median_seconds(lambda: loop.step(batches[1]))
    return batch / seconds, counter.get_total_flops() / batch


def _in_layout(batch: Any, layout: torch.memory_format) -> Any:
    return batch._replace(images=batch.images.contiguous(memory_format=layout))


def _translate(precision: str, layout: torch.memory_format, vgg_weights: Path | None) -> tuple[float, float]:
    mapping, domain = _make("vae", "appearance", 32, 1, 256, precision, layout, vgg_weights)
    mapping.eval()

    def one_pass() -> None:
        mapping.solve(domain.images[:256])

    with FlopCounterMode(display=False) as counter:
        one_pass()
    return 256 / _median_seconds(one_pass), counter.get_total_flops() / 256
