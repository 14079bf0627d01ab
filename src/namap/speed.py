"""How fast this machine trains and translates, beside what its convolutions could do, and where the time goes."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16
from tqdm import tqdm

from .data import ImageDomain
from .errors import UsageError
from .generators import DCGAN
from .generators.families import dcgan
from .generators.training import GeneratorTask
from .logs import Log
from .mapping import METHODS, Mapping
from .networks import VGGFeatures
from .recipes import default_recipe
from .tensors import autocast, from_numpy, pick_device, pick_precision
from .training import Loop, Run, Task

CHANNELS_LAST, NCHW = torch.channels_last, torch.contiguous_format
LOSSES = {"l2": "l2", "appearance": "appearance", "vgg": "perceptual"}
# Images/s of the authors' code (fp32) on two cores whose fp32 convolutions reached REFERENCE operations a second.
PUBLISHED = {"nam 32 l2": 1050.0, "nam 32 vgg": 135.0, "nam 64 vgg": 17.0}
REFERENCE = 265e9
WARM, LEAST, TIMED, SECONDS = 3, 3, 10, 5.0  # runs before, at least and at most; when those are enough
PROFILED = ("vae 32 appearance", "vae 64 vgg", "dcgan 32")
IMAGES = 512
STEPS = 50  # of a profile: the log is written once in them, as in a training


class Setting(NamedTuple):
    """What a figure is of, and how it is computed."""

    task: str  # a method, or dcgan
    side: int
    loss: str = "l2"
    batch: int = 128
    cached: bool = True  # phi(y)
    precision: str = "fp32"
    layout: torch.memory_format = NCHW
    vgg: Path | None = None


Work = tuple[int, Callable[[], object]]  # images, and what is done with them
Make = Callable[[Setting], Work]


def figures() -> dict[str, tuple[Make, Setting]]:
    """What is measured: every training step, then what follows a training."""
    found: dict[str, tuple[Make, Setting]] = {}
    for side, small, large in ((32, 128, 128), (64, 64, 32)):
        for method in ("nam", "ae", "vae"):
            for loss in LOSSES:
                batch = large if loss == "vgg" else small
                found[f"{method} {side} {loss}"] = (train_step, Setting(method, side, loss, batch))
        found[f"dcgan {side}"] = (train_step, Setting("dcgan", side, "adversarial", 64))
    found["vae 64 vgg, phi(y) not kept"] = (train_step, Setting("vae", 64, "vgg", 32, cached=False))
    for side in (32, 64):
        setting = Setting("vae", side, "appearance", 256)
        found[f"translate {side}"] = (translation, setting)
        found[f"translate {side}, refine 20"] = (refinement, setting)
        found[f"eq. 6 {side}, an iteration"] = (iteration, setting._replace(task="nam"))
    return found


def bench_speed(
    vgg_weights: Path | None = None, quiet: bool = True, profiled: bool = False, only: str = ""
) -> dict[str, Any]:
    """Images/s of a training step of each method and of what follows it, in fp32 NCHW and in namap's default.

    Each figure stands beside the FLOPs of one image and the share of the machine's own convolution rate (a 128 to 128
    3x3 convolution on 64 images of 32x32, same precision and layout, measured in the same run).

    The published code's rate is its rate on a reference machine, times this machine's fp32 convolution rate over that
    machine's: a faster machine does not make namap look better.

    Args:
        vgg_weights: local VGG-16 weights; None: random ones, as their values do not matter for speed.
        quiet: no progress bar.
        profiled: also say where the time of some training steps goes, see `profile_step`.
        only: figures whose names hold this; '': all.
    """
    device = pick_device("auto")
    if profiled and device.type != "cpu":
        raise UsageError("--profile: times operators of a CPU; hide the GPU with CUDA_VISIBLE_DEVICES= to profile one")
    modes = {"fp32 nchw": ("fp32", NCHW), "default": (pick_precision("auto", device), CHANNELS_LAST)}
    chosen = {name: figure for name, figure in figures().items() if only in name}
    measured: list[tuple[str, str, float, float]] = []
    rates: dict[str, list[float]] = {mode: [] for mode in modes}
    for name, (make, setting) in tqdm(chosen.items(), "measuring", disable=True if quiet else None):
        for mode, (precision, layout) in modes.items():
            rates[mode].append(_convolution_rate(precision, layout))  # between the steps: the machine's rate drifts
            how = setting._replace(precision=precision, layout=layout, vgg=vgg_weights)
            measured.append((name, mode, *_measure(*make(how))))
    convolution = {mode: float(np.median(rate)) for mode, rate in rates.items()}
    result = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "precision": modes["default"][0],
        "convolution_gflops": {m: r / 1e9 for m, r in convolution.items()},
        "rows": [_row(name, mode, images_s, flops, convolution[mode]) for name, mode, images_s, flops in measured],
        "published_images_s": {step: p * convolution["fp32 nchw"] / REFERENCE for step, p in PUBLISHED.items()},
    }
    if profiled:
        precision, layout = modes["default"]
        how = {"precision": precision, "layout": layout, "vgg": vgg_weights}
        result["profile"] = {n: profile_step(chosen[n][1]._replace(**how)) for n in PROFILED if n in chosen}
    return result


def speed_table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    columns = ("images/s", "MFLOP", "GFLOP/s", "of conv", "x fp32", "x published")
    lines = [f"{'step':28} {'mode':10} " + " ".join(f"{column:>11}" for column in columns)]
    base = {r["step"]: r["images_s"] for r in result["rows"] if r["mode"] == "fp32 nchw"}
    for row in result["rows"]:
        known = result["published_images_s"].get(row["step"])
        published = f"{row['images_s'] / known:.1f}" if known else "-"
        lines.append(
            f"{row['step']:28} {row['mode']:10} {row['images_s']:11.0f} {row['mflop_per_image']:11.0f} "
            f"{row['gflops']:11.0f} {row['share_of_convolution']:11.0%} {row['images_s'] / base[row['step']]:11.1f} "
            f"{published:>11}"
        )
    rates = ", ".join(f"{m} {r:.0f}" for m, r in result["convolution_gflops"].items())
    lines += [f"convolution rate, GFLOP/s: {rates}; {result['threads']} threads"]
    for name, found in result.get("profile", {}).items():
        shares = ", ".join(f"{part} {share:.1%}" for part, share in found["shares"].items())
        lines += [f"{name}: {found['ms']:.0f} ms a step; {shares}; convolutions in all {found['convolutions']:.0%}"]
    return "\n".join(lines)


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


def _measure(images: int, run: Callable[[], object]) -> tuple[float, float]:
    """Images/s, and FLOPs of an image."""
    run()  # also fills the cache of phi(y), once a run
    with FlopCounterMode(display=False) as counter:
        run()
    return images / _median_seconds(run), counter.get_total_flops() / images


def _median_seconds(run: Callable[[], object]) -> float:
    times: list[float] = []
    for _ in range(WARM):
        run()
    _wait()
    while len(times) < LEAST or (len(times) < TIMED and sum(times) < SECONDS):
        started = time.perf_counter()
        run()
        _wait()
        times.append(time.perf_counter() - started)
    return float(np.median(times))


def _wait() -> None:
    """Until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _convolution_rate(precision: str, layout: torch.memory_format) -> float:
    device = pick_device("auto")
    convolution = nn.Conv2d(128, 128, 3, padding=1, device=device).to(memory_format=layout)
    x = torch.randn(64, 128, 32, 32).to(device, memory_format=layout)
    if precision == "bf16":
        convolution, x = convolution.bfloat16(), x.bfloat16()
    with torch.no_grad():
        seconds = _median_seconds(lambda: convolution(x))
    return 2 * 64 * 32 * 32 * 128 * 128 * 9 / seconds


# ---- what is done -------------------------------------------------------------------------------------------


def make_domain(setting: Setting) -> ImageDomain:
    """Noise: grey at 32 pixels, colours at 64."""
    shape = (IMAGES, 1 if setting.side == 32 else 3, setting.side, setting.side)
    return ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, shape, np.uint8))


def make_mapping(setting: Setting, domain: ImageDomain) -> Mapping:
    """A mapping to an untrained DCGAN."""
    loss, features = LOSSES[setting.loss], None
    if loss == "perceptual":
        blocks = default_recipe("vae", "perceptual", setting.side).blocks
        features = VGGFeatures(setting.vgg or vgg16(weights=None).features, blocks)
    generator = DCGAN(32 if setting.side == 32 else 100, setting.side, domain.channels, 64)
    how: dict[str, Any] = {"precision": setting.precision, "batch_size": setting.batch}
    how |= {} if setting.cached else {"feature_cache_gb": 0.0}
    mapping = METHODS[setting.task](generator, loss=loss, features=features, **how)
    mapping.build(domain.channels, len(domain))
    mapping.place()
    for module in (generator, mapping.mapper, mapping.fitted_codes, features):
        if module is not None:
            module.to(memory_format=setting.layout)  # pyright: ignore[reportCallIssue]
    return mapping


def make_task(setting: Setting, domain: ImageDomain) -> Task:
    """The training of a mapping, or of its generator."""
    if setting.task != "dcgan":
        return make_mapping(setting, domain).make_task(domain)
    recipe = dcgan.Recipe(latent_dim=64, width=64, batch_size=setting.batch)
    task = GeneratorTask(recipe, domain, pick_device("auto"))
    for module in task.modules.values():
        module.to(memory_format=setting.layout)  # pyright: ignore[reportCallIssue]
    return task


def train_step(setting: Setting) -> Work:
    """One step of the training loop, its batch at hand."""
    domain = make_domain(setting)
    run = Run(10**6, setting.batch, precision=setting.precision)
    loop = Loop(make_task(setting, domain), domain, run, Path(tempfile.gettempdir()))
    batch = loop.batch(0)
    batch = batch._replace(images=batch.images.contiguous(memory_format=setting.layout))
    return setting.batch, partial(loop.step, batch)


def translation(setting: Setting, refine: int = 0) -> Work:
    """`translate` of one batch: E, G, and T and the loss, which say how good an answer is."""
    domain = make_domain(setting)
    mapping = make_mapping(setting, domain)
    mapping.eval()
    return setting.batch, partial(mapping.solve, domain.images[: setting.batch], refine=refine, tolerance=0.0)


refinement = partial(translation, refine=20)


def iteration(setting: Setting) -> Work:
    """One iteration of Eq. 6 for a batch of queries."""
    domain = make_domain(setting)
    mapping = make_mapping(setting, domain)
    mapping.eval()
    y = from_numpy(domain.images[: setting.batch], mapping.device).contiguous(memory_format=setting.layout)
    search = mapping.search(y, refine=1000, tolerance=0.0)

    def advance() -> None:
        with autocast(mapping.device, setting.precision):
            search.advance(1)

    return setting.batch, advance


# ---- where the time goes ------------------------------------------------------------------------------------


def profile_step(setting: Setting) -> dict[str, Any]:
    """Where the time of a training goes, of `STEPS` steps of the real loop with its data and its log.

    Returns:
        `ms` of a step; `shares` of it: networks (forward and backward), data, optimiser, log, the rest (Python, the
        guard against NaN, what is logged); the share of all `convolutions`; the `slowest` operators in ms a step.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler's own words about GPUs that are not there
    domain = make_domain(setting)
    task = make_task(setting, domain)
    networks = {id(m): m for m in (*task.modules.values(), *vars(task).values()) if isinstance(m, nn.Module)}
    with tempfile.TemporaryDirectory() as scratch, Log(Path(scratch), events=False) as records, ExitStack() as labels:
        run = Run(STEPS * setting.batch, setting.batch, precision=setting.precision, checkpoint_seconds=1e9, quiet=True)
        loop = Loop(task, domain, run, Path(scratch), records)
        loop.step(loop.batch(0))  # also fills the cache of phi(y), once a run
        for owner, method, name in (
            (loop, "resume", "resume"),
            (loop, "batch", "data"),
            (loop, "log", "log"),
            *((network, "forward", "networks") for network in networks.values()),
        ):
            labels.enter_context(labelled(owner, method, name))
        with profile(activities=[ProfilerActivity.CPU]) as trace, record_function("all"):
            loop.run_all()
    events = trace.key_averages()
    spent = {event.key: event.cpu_time_total for event in events}
    total = spent["all"] - spent["resume"]
    backward, steps = ("autograd::engine::evaluate_function", "Optimizer.")
    shares = {
        "networks": spent["networks"] + sum(t for name, t in spent.items() if name.startswith(backward)),
        "data": spent["data"],
        "optimiser": sum(t for name, t in spent.items() if name.startswith(steps)),
        "log": spent["log"],
    }
    shares["rest"] = total - sum(shares.values())
    own = {event.key: event.self_cpu_time_total for event in events if event.key not in ("all", "resume")}
    return {
        "ms": total / 1e3 / STEPS,
        "shares": {part: time / total for part, time in shares.items()},
        "convolutions": sum(t for name, t in own.items() if "convolution" in name) / total,
        "slowest": {name: own[name] / 1e3 / STEPS for name in sorted(own, key=lambda name: -own[name])[:12]},
    }


@contextmanager
def labelled(owner: Any, method: str, name: str) -> Iterator[None]:
    """Have a profile show the calls of `owner.method` under a name."""
    call = getattr(owner, method)

    def labelled_call(*given: Any, **named: Any) -> Any:
        with record_function(name):
            return call(*given, **named)

    setattr(owner, method, labelled_call)
    try:
        yield
    finally:
        delattr(owner, method)
