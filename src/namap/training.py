"""One loop for everything that is trained: generators, mappings, classifiers.

A task owns modules and optimizers and yields its losses; the loop owns everything else: the order of the
data, precision, schedule, the guard against NaN, checkpoints, resuming, signals and the log. All randomness is a
function of (seed, step), so a resumed run repeats the uninterrupted one.
"""

import json
import math
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor, nn
from tqdm import tqdm

from . import checkpoint
from .data import ImageDomain
from .data.order import batch_index
from .errors import DivergedError, Interrupted, StorageError, warn
from .logs import Log
from .runs import Row, claim, progress
from .signals import collect_signals
from .tensors import Images, PerSample, autocast, from_numpy, inference, pick_device, pick_precision, random_stream

MAX_ROLLBACKS = 3
KEPT_CHECKPOINTS = 2
CHECKPOINTS = "[0-9]" * 9  # a step each; nothing else in their directory is read or deleted
PICTURES = 10  # times that a run is shown, evenly spaced


class Batch(NamedTuple):
    """What a task sees of one step."""

    index: Int[Tensor, " b"]
    images: Images
    labels: Int[Tensor, " b"] | None
    rng: torch.Generator
    images_seen: int
    progress: float  # images seen as a share of the run, 0 to 1


class Update(NamedTuple):
    """One step of the named optimizers: minimise the mean of `loss` `[b]`; log means, of `[b d]` one for each d."""

    optimizers: tuple[str, ...]
    loss: PerSample
    logs: dict[str, Tensor]


@runtime_checkable
class Task(Protocol):
    """What can be trained. `updates` may yield several times a step; each is applied before it goes on."""

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    config: dict[str, Any]

    def updates(self, batch: Batch) -> Iterator[Update]:
        """Yield the losses of one step, in order."""
        ...

    def learning_rate(self, progress: float) -> float:
        """Factor on every learning rate at this share of the run."""
        ...

    def after_step(self, step: int) -> None:
        """Whatever follows the updates of a step, e.g. an average of the weights."""
        ...

    def concern(self, row: Row) -> str:
        """What looks wrong in a logged row, said once a run; '' if nothing does."""
        ...

    def pictures(self) -> list[Tensor]:
        """Rows of images `[n c h w]` that show how far training has come, drawn from no stream of its own; [] if none.

        Called in eval mode, without gradients.
        """
        ...


@dataclass(frozen=True)
class Run:
    """How a task is run: everything that does not belong to the model.

    Attributes:
        images: training images to see in all.
        batch_size: images of one step.
        seed: decides the order of the data and all noise.
        checkpoint_seconds: pause between two checkpoints.
        result_bytes: what the result takes on the disk beside the weights that are trained.
    """

    images: int
    batch_size: int
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    checkpoint_seconds: float = 15.0
    result_bytes: int = 0
    log_every: int = 50
    quiet: bool = False
    label: str = "training"

    @property
    def steps(self) -> int:
        """Steps that see at least `images` images."""
        return max(1, math.ceil(self.images / self.batch_size))


@dataclass
class _State:
    step: int = 0
    rollbacks: int = 0
    seconds: float = 0.0
    scale: float = 1.0  # halved by a rollback
    concerned: bool = False  # whether a warning of a collapse has been said
    log: list[Row] = field(default_factory=list)


def train(task: Task, domain: ImageDomain, run: Run, outdir: Path | None = None) -> list[Row]:
    """Train `task` on `domain`; return the log, one entry per logged step.

    With an `outdir`, `checkpoints/`, `metrics.jsonl` and `tensorboard/` are kept there and an interrupted run goes on
    from them.

    Raises:
        UsageError: `outdir` holds a run with another configuration or other data.
        DivergedError: NaN or infinity came back after `MAX_ROLLBACKS` rollbacks.
        StorageError: checkpoints would not fit, cannot be written, or none of them is sound.
        Interrupted: SIGINT or SIGTERM, after a checkpoint.
    """
    scratch = tempfile.TemporaryDirectory(prefix="namap-") if outdir is None else nullcontext(outdir)
    with scratch as place, Log(Path(place), events=outdir is not None) as records:
        return Loop(task, domain, run, Path(place), records).run_all()


class Loop:
    """The state of one run; `train` drives it to the end."""

    def __init__(self, task: Task, domain: ImageDomain, run: Run, outdir: Path, records: Log | None = None):
        self.task, self.domain, self.run, self.outdir = task, domain, run, outdir
        self.records = records or Log(outdir)
        self.device = pick_device(run.device)
        self.precision = pick_precision(run.precision, self.device)
        self.state = _State()
        self.base_rates = {name: [g["lr"] for g in o.param_groups] for name, o in task.optimizers.items()}
        self.identity = identity(task, domain, run)

    def run_all(self) -> list[Row]:
        """Step to the end; return the log."""
        task, run, state = self.task, self.run, self.state
        self.resume()
        started, saved = time.monotonic() - state.seconds, time.monotonic()
        bar = tqdm(
            total=run.steps * run.batch_size,
            initial=state.step * run.batch_size,
            unit="img",
            desc=run.label,
            disable=True if run.quiet else None,
            unit_scale=True,
        )
        with bar, collect_signals() as signals:
            while state.step < run.steps:
                self.set_rates(task.learning_rate(state.step / run.steps))
                broken, logs = self.step(self.batch(state.step))
                if broken:
                    self.roll_back(broken)
                    continue
                state.step += 1
                task.after_step(state.step)
                stopped = signals[:1]  # one that comes later waits for the next step
                due = bool(stopped) or time.monotonic() - saved > run.checkpoint_seconds
                if (due or state.step == run.steps) and (broken := self.bad_weight()):
                    self.roll_back(broken)  # it stays on no disk: a bad checkpoint would push out a good one
                    continue
                state.seconds = time.monotonic() - started
                bar.update(run.batch_size)
                if state.step % run.log_every == 0 or state.step == run.steps:
                    self.log(logs, bar)
                if state.step * PICTURES // run.steps > (state.step - 1) * PICTURES // run.steps:
                    self.show()
                if due:
                    self.save()
                    saved = time.monotonic()
                if stopped:
                    name, code = ("SIGTERM", 143) if stopped[0] == signal.SIGTERM else ("Ctrl-C", 130)
                    where = f"{run.label}: stopped by {name} at step {state.step} of {run.steps}"
                    raise Interrupted(f"{where}; run the same command again to go on", code)
        return state.log

    def step(self, batch: Batch) -> tuple[str, dict[str, Tensor]]:
        """Apply a step's updates; return (what was not finite, or '', and the values to log)."""
        updates = self.task.updates(batch)
        logs: dict[str, Tensor] = {}
        while True:
            with autocast(self.device, self.precision):
                update = next(updates, None)
            if update is None:
                return "", logs
            optimizers = [self.task.optimizers[name] for name in update.optimizers]
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            loss = update.loss.mean()
            loss.backward()
            parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]
            gradients = [p.grad for p in parameters if p.grad is not None]
            dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
            # One synchronisation a step, on purpose: no weight is touched by a step that is not finite.
            if not torch.isfinite(loss + torch.nn.utils.get_total_norm(dense)):
                return self.culprit(batch, update), logs
            for optimizer in optimizers:
                optimizer.step()
            logs |= update.logs

    def culprit(self, batch: Batch, update: Update) -> str:
        """Name what is not finite: the images, a part of the loss, or the first parameter with such a gradient."""
        if not torch.isfinite(batch.images).all():
            return "an image of the batch"
        names = " and ".join(update.optimizers)
        weights = {f"{m}.{name}": p for m, module in self.task.modules.items() for name, p in module.named_parameters()}
        if not torch.isfinite(update.loss).all():
            parts = ", ".join(name for name, value in update.logs.items() if not torch.isfinite(value).all())
            return _not_finite("weight", weights) or f"the loss of {names}" + (parts and f" ({parts})")
        gradients = {name: p.grad.to_dense() for name, p in weights.items() if p.grad is not None}
        return _not_finite("gradient", gradients) or f"the gradient of {names}"

    def bad_weight(self) -> str:
        """Name the first weight or buffer that is not finite; '' if all are."""
        modules = self.task.modules.items()
        return _not_finite("weight", {f"{m}.{name}": t for m, x in modules for name, t in x.state_dict().items()})

    def batch(self, step: int) -> Batch:
        """What step number `step` sees: a function of the seed and the step."""
        run = self.run
        index = batch_index(len(self.domain), run.batch_size, run.seed, step)
        labels = self.domain.labels
        return Batch(
            torch.from_numpy(index).to(self.device),
            from_numpy(self.domain.images[index], self.device),
            None if labels is None else torch.from_numpy(labels[index]).to(self.device),
            random_stream(run.seed, step, device=self.device),
            step * run.batch_size,
            step / run.steps,
        )

    def set_rates(self, factor: float) -> None:
        """Set every learning rate to its base, times the schedule's factor, times what rollbacks left."""
        for name, optimizer in self.task.optimizers.items():
            for group, base in zip(optimizer.param_groups, self.base_rates[name], strict=True):
                group["lr"] = base * factor * self.state.scale

    def log(self, logs: dict[str, Tensor], bar: tqdm) -> None:
        """Append a row to the log, to what is kept of it and to the progress bar."""
        state = self.state
        row = {
            "step": state.step,
            "images": state.step * self.run.batch_size,
            "seconds": round(state.seconds, 3),
        }
        row |= {name: _mean(value.detach().float()) for name, value in logs.items()}
        state.log.append(row)
        self.records.add(row)
        losses = {name: f"{row[name]:.3g}" for name in list(logs)[:2]}
        bar.set_postfix(losses, refresh=False)
        concern = self.task.concern(row)
        if concern and not state.concerned:
            warn(f"{self.run.label}, step {state.step}: {concern}")
        state.concerned |= bool(concern)

    def show(self) -> None:
        """Put pictures of this moment beside the log, where somebody may see them; training takes no notice."""
        if self.records.events:
            with inference(*self.task.modules.values()), autocast(self.device, self.precision):
                self.records.add_pictures(self.state.step, "pictures", self.task.pictures())

    def roll_back(self, broken: str) -> None:
        """Go back to the last checkpoint with half the learning rate, or give up."""
        state = self.state
        where = f"{self.run.label}: {broken} is not finite at step {state.step}"
        if state.rollbacks >= MAX_ROLLBACKS:
            raise DivergedError(
                f"{where}, after {MAX_ROLLBACKS} rollbacks; look at the data or lower the learning rate"
            )
        rollbacks, scale = state.rollbacks + 1, state.scale / 2
        self.restore()
        state.rollbacks, state.scale = rollbacks, scale
        warn(f"{where}; back to step {state.step} with half the learning rate")

    def save(self) -> None:
        """Write a checkpoint; keep the newest few."""
        state, task = self.state, self.task
        tensors: dict[str, Tensor] = {}
        for name, module in task.modules.items():
            tensors |= checkpoint.prefixed(f"module.{name}", module.state_dict())
        for name, optimizer in task.optimizers.items():
            tensors |= checkpoint.prefixed(f"optimizer.{name}", checkpoint.optimizer_tensors(optimizer))
        meta = {
            "step": state.step,
            "rollbacks": state.rollbacks,
            "seconds": state.seconds,
            "scale": state.scale,
        }
        folder = self.outdir / "checkpoints"
        target = folder / f"{state.step:09d}"
        if target.exists() and not (target / checkpoint.MANIFEST).is_file():
            checkpoint.remove(target)  # damaged, and passed over by `restore`
        checkpoint.save_directory(target, tensors, {"state": meta})
        # What lies ahead of this step was found unsound: it may not count as one of those that are kept.
        found = sorted(folder.glob(CHECKPOINTS))
        sound = [old for old in found if old.name <= f"{state.step:09d}"]
        for old in set(found) - set(sound[-KEPT_CHECKPOINTS:]):
            checkpoint.remove(old)

    def resume(self) -> None:
        """Go on from the newest checkpoint, or write the first one: something to roll back to."""
        claim(self.outdir, self.identity)
        if any((self.outdir / "checkpoints").glob(CHECKPOINTS)):
            self.restore()
        else:
            self.check_space()
            self.records.clear()
            self.save()

    def check_space(self) -> None:
        """Refuse a run that would not fit: the checkpoints that are kept, one that is being written, the result."""
        weights = [t for m in self.task.modules.values() for t in m.state_dict().values()]
        moments = [p for o in self.task.optimizers.values() for g in o.param_groups for p in g["params"] for _ in "mv"]
        need = (KEPT_CHECKPOINTS + 1) * sum(t.numel() * t.element_size() for t in (*weights, *moments))
        need += self.run.result_bytes
        free = shutil.disk_usage(self.outdir).free
        if need > free:
            raise StorageError(f"{self.outdir}: this run needs {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")

    def restore(self) -> None:
        """Load the newest sound checkpoint; an unsound one is named and passed over."""
        folders = sorted((self.outdir / "checkpoints").glob(CHECKPOINTS), reverse=True)
        for folder in folders:
            try:
                tensors, config = checkpoint.load_directory(folder)
                break
            except StorageError as error:
                warn(f"{error}; trying the checkpoint before it")
        else:
            raise StorageError(f"{self.outdir / 'checkpoints'}: no sound checkpoint; start anew with --overwrite")
        for name, module in self.task.modules.items():
            checkpoint.load_weights(module, checkpoint.without_prefix(f"module.{name}", tensors), folder)
        for name, optimizer in self.task.optimizers.items():
            checkpoint.load_optimizer(optimizer, checkpoint.without_prefix(f"optimizer.{name}", tensors), folder)
        self.state.__dict__.update(progress(config, folder, self.run.steps))
        self.state.log = self.records.rewind(self.state.step)


def _not_finite(what: str, tensors: Mapping[str, Tensor]) -> str:
    """Name the first tensor that holds NaN or infinity; '' if none does."""
    return next((f"the {what} of {name}" for name, t in tensors.items() if not torch.isfinite(t).all()), "")


def _mean(value: Tensor) -> float | list[float]:
    """What is logged of a value: its mean, of `[b d]` the mean of each d."""
    if value.ndim == 2:
        return [round(v, 5) for v in value.mean(0).tolist()]
    return float(value.mean())


def identity(task: Task, domain: ImageDomain, run: Run) -> dict[str, Any]:
    """Everything that decides the result of a run, and where its data came from, as JSON values."""
    precision = pick_precision(run.precision, pick_device(run.device))
    settings = {"images": run.images, "batch_size": run.batch_size, "seed": run.seed, "precision": precision}
    decisive = {"task": task.config, "run": settings, "data": domain.fingerprint}
    return json.loads(json.dumps({**decisive, "source": domain.source}))


def follow(average: nn.Module, module: nn.Module, step: int, decay: float = 0.999) -> None:
    """Move `average` towards `module`: exponential moving average of the weights, buffers copied.

    The first steps use a shorter memory, so that the average never remembers the initialisation.
    """
    weight = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for ours, theirs in zip(average.parameters(), module.parameters(), strict=True):
            ours.lerp_(theirs, weight)
        for ours, theirs in zip(average.buffers(), module.buffers(), strict=True):
            ours.copy_(theirs)


def late_decay(progress: float) -> float:
    """Constant over the first half of a run, then linearly to (almost) zero."""
    return min(1.0, 2 * (1 - progress) + 1e-3)
