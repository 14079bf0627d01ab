"""One loop for everything that is trained: generators, mappings, classifiers.

A task owns modules and optimizers and yields its losses; the loop owns everything else: the order of the
data, precision, schedule, the guard against NaN, checkpoints, resuming, signals and the log. All randomness is a
function of (seed, step), so a resumed run repeats the uninterrupted one.
"""

import json
import math
import signal
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor, nn
from tqdm import tqdm

from . import processes, snapshots
from .data import ImageDomain
from .data.feeding import ImageStream, open_feed
from .errors import DivergedError, Interrupted, tell, warn
from .logs import Log
from .networks.table import divided_tables
from .runs import Row, claim
from .signals import collect_signals
from .tensors import Images, PerSample, autocast, from_numpy, inference, pick_device, pick_precision, random_stream

MAX_ROLLBACKS = 3
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


class Task:
    """What can be trained. `updates` may yield several times a step; each is applied before it goes on.

    Attributes:
        modules: what is trained and kept, by name.
        optimizers: of their parameters, by name.
        config: what decides the result beside the images and the run, as JSON values.
        divisible: whether several processes may share a batch: its noise is drawn with `processes.normal` and
            `uniform`, and what looks at a batch as a whole gathers it with `processes.gather`.
    """

    modules: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    config: dict[str, Any]
    divisible: bool = False

    def updates(self, batch: Batch) -> Iterator[Update]:
        """Yield the losses of one step, in order."""
        raise NotImplementedError

    def learning_rate(self, progress: float) -> float:
        """Factor on every learning rate at this share of the run."""
        return late_decay(progress)

    def after_step(self, step: int) -> None:
        """Whatever follows the updates of a step, e.g. an average of the weights."""

    def concern(self, row: Row) -> str:
        """What looks wrong in a logged row, said once a run; '' if nothing does."""
        return ""

    def pictures(self) -> list[Tensor]:
        """Rows of images `[n c h w]` that show how far training has come, drawn from no stream of its own; [] if none.

        Called in eval mode, without gradients.
        """
        return []


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


def train(task: Task, domain: ImageDomain | ImageStream, run: Run, outdir: Path | None = None) -> list[Row]:
    """Train `task` on `domain`; return the log, one entry per logged step.

    With an `outdir`, `checkpoints/`, `metrics.jsonl` and `tensorboard/` are kept there and an interrupted run goes on
    from them. Several processes that train together take the steps that one alone would take.

    Raises:
        UsageError: `outdir` holds a run with another configuration or other data, or these processes cannot share it.
        DivergedError: NaN or infinity came back after `MAX_ROLLBACKS` rollbacks.
        StorageError: checkpoints would not fit, cannot be written, or none of them is sound.
        Interrupted: SIGINT or SIGTERM, after a checkpoint.
    """
    scratch = tempfile.TemporaryDirectory(prefix="namap-") if outdir is None else nullcontext(outdir)
    modules = task.modules.values()
    with (
        scratch as place,
        Log(Path(place), events=outdir is not None) as records,
        processes.shared_statistics(*modules),
        divided_tables(*modules),
    ):
        return Loop(task, domain, run, Path(place), records, kept=outdir is not None).run_all()


class Loop:
    """The state of one run; `train` drives it to the end."""

    def __init__(
        self,
        task: Task,
        domain: ImageDomain | ImageStream,
        run: Run,
        outdir: Path,
        records: Log | None = None,
        kept: bool = True,
    ):
        self.task, self.domain, self.run, self.outdir = task, domain, run, outdir
        self.records, self.kept = records or Log(outdir), kept
        self.device = pick_device(run.device)
        self.precision = pick_precision(run.precision, self.device)
        self.state = _State()
        self.base_rates = {name: [g["lr"] for g in o.param_groups] for name, o in task.optimizers.items()}
        self.identity = identity(task, domain, run)
        self.feed = open_feed(domain, run.batch_size, run.seed)

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
            disable=True if run.quiet or not processes.is_main() else None,
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
                # One that comes later waits for the next step. What one process has received ends all.
                stopped, due = processes.most(*(signals[:1] or [0]), time.monotonic() - saved > run.checkpoint_seconds)
                due = bool(stopped or due)
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
                    raise self.interruption(stopped)
        self.feed.close()
        return state.log

    def interruption(self, received: float) -> Interrupted:
        """What ends a run that has received this signal."""
        name, code = ("SIGTERM", 143) if received == signal.SIGTERM else ("Ctrl-C", 130)
        remedy = "run the same command again to go on (not with --overwrite)"
        where = f"{self.run.label}: stopped by {name} at step {self.state.step} of {self.run.steps}"
        return Interrupted(f"{where}; {remedy if self.kept else 'nothing is kept without a directory'}", code)

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
            loss = update.loss.mean() / processes.count()
            loss.backward()
            parameters = [p for o in optimizers for g in o.param_groups for p in g["params"]]
            gradients = [p.grad for p in parameters if p.grad is not None]
            dense = [g.coalesce().values() if g.is_sparse else g for g in gradients]
            check = loss.detach() + torch.nn.utils.get_total_norm(dense)
            # Rows of a table stay with the process that keeps them.
            processes.add_up([check, *(g for g in gradients if not g.is_sparse)])
            # One synchronisation a step, on purpose: no weight is touched by a step that is not finite.
            if not torch.isfinite(check):
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
        found = _not_finite("weight", {f"{m}.{name}": t for m, x in modules for name, t in x.state_dict().items()})
        return found or ("a weight of another process" if any(processes.most(bool(found))) else "")

    def batch(self, step: int) -> Batch:
        """What step number `step` sees, or this process's part of it."""
        run, drawn = self.run, self.feed.take(step)
        return Batch(
            torch.from_numpy(drawn.index).to(self.device),
            from_numpy(drawn.images, self.device),
            None if drawn.labels is None else torch.from_numpy(drawn.labels).to(self.device),
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
        row |= _means(logs)
        state.log.append(row)
        if processes.is_main():
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
                pictures = self.task.pictures()  # by every process: each may keep a part of what is needed
            if processes.is_main():
                self.records.add_pictures(self.state.step, "pictures", pictures)

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
        tensors = snapshots.collect(task.modules, task.optimizers)
        meta = {name: getattr(state, name) for name in ("step", "rollbacks", "seconds", "scale")}
        config = {"state": meta, **self.feed.positions()}
        if processes.is_main():
            snapshots.write(self.outdir / "checkpoints", state.step, tensors, config)

    def resume(self) -> None:
        """Go on from the newest checkpoint, or write the first one: something to roll back to."""
        there = False
        if processes.is_main():
            claim(self.outdir, self.identity)
            there = any((self.outdir / "checkpoints").glob(snapshots.STEPS))
        if processes.of_main(there):
            self.restore()
            if self.state.step and not self.run.quiet:
                tell(f"{self.run.label}: goes on from step {self.state.step} of {self.run.steps}")
            return
        if processes.is_main():
            snapshots.check_space(self.outdir, self.task.modules, self.task.optimizers, self.run.result_bytes)
            self.records.clear()
        self.save()

    def restore(self) -> None:
        """Load the newest sound checkpoint, which main reads for all."""
        folder = self.outdir / "checkpoints"
        tensors, config = snapshots.read_newest(folder, self.run.steps) if processes.is_main() else (None, None)
        snapshots.put_back(self.task.modules, self.task.optimizers, processes.tensors_of_main(tensors), folder)
        config = processes.of_main(config)
        self.state.__dict__.update(config["state"])
        self.feed.seek(config, folder)
        self.state.log = processes.of_main(self.records.rewind(self.state.step) if processes.is_main() else None)


def _not_finite(what: str, tensors: Mapping[str, Tensor]) -> str:
    """Name the first tensor that holds NaN or infinity; '' if none does."""
    return next((f"the {what} of {name}" for name, t in tensors.items() if not torch.isfinite(t).all()), "")


def _means(logs: Mapping[str, Tensor]) -> dict[str, float | list[float]]:
    """What is logged of values over all processes: their mean, of `[b d]` the mean of each d."""
    means = [value.detach().float().mean(0 if value.ndim == 2 else None) / processes.count() for value in logs.values()]
    processes.add_up(means)
    rows = zip(logs, means, strict=True)
    return {name: [round(v, 5) for v in mean.tolist()] if mean.ndim else mean.item() for name, mean in rows}


def identity(task: Task, domain: ImageDomain | ImageStream, run: Run) -> dict[str, Any]:
    """Everything that decides the result of a run, and where its data came from, as JSON values.

    Raises:
        UsageError: these processes cannot share it: nobody's earlier run makes room for one that cannot begin.
    """
    processes.check_division(run.label, run.batch_size, task.divisible)
    precision = pick_precision(run.precision, pick_device(run.device))
    settings = {"images": run.images, "batch_size": run.batch_size, "seed": run.seed, "precision": precision}
    decisive = {"task": task.config, "run": settings, "data": domain.fingerprint}
    return json.loads(json.dumps({**decisive, "source": domain.source}))


def late_decay(progress: float) -> float:
    """Constant over the first half of a run, then linearly to (almost) zero."""
    return min(1.0, 2 * (1 - progress) + 1e-3)
