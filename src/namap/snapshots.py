"""Checkpoints of a run: everything that is trained, as tensors, and the newest sound ones of a directory."""

import math
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import checkpoint, processes
from .errors import StorageError, warn
from .files import remove
from .networks.table import CodeTable, all_rows, my_rows

KEPT = 2
STEPS = "[0-9]" * 9  # names of checkpoints; nothing else in their directory is read or deleted

Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def collect(modules: Modules, optimizers: Optimizers) -> dict[str, Tensor]:
    """Weights, buffers and moments; the rows of divided tables come from every process, so every one must call."""
    tensors: dict[str, Tensor] = {}
    for name, module in modules.items():
        tensors |= checkpoint.prefixed(f"module.{name}", module.state_dict())
    for name, optimizer in optimizers.items():
        tensors |= checkpoint.prefixed(f"optimizer.{name}", checkpoint.optimizer_tensors(optimizer))
    return tensors | {name: all_rows(tensors[name], count) for name, count in _divided(modules, optimizers, tensors)}


def put_back(modules: Modules, optimizers: Optimizers, tensors: Mapping[str, Tensor], where: Path) -> None:
    """Load what `collect` took; of divided tables, this process's rows.

    Raises:
        StorageError: tensors are missing, unknown or misshapen.
    """
    tensors = {**tensors, **{name: my_rows(tensors[name]) for name, _ in _divided(modules, optimizers, tensors)}}
    for name, module in modules.items():
        checkpoint.load_weights(module, checkpoint.without_prefix(f"module.{name}", tensors), where)
    for name, optimizer in optimizers.items():
        checkpoint.load_optimizer(optimizer, checkpoint.without_prefix(f"optimizer.{name}", tensors), where)


def _divided(modules: Modules, optimizers: Optimizers, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, int]]:
    """Name and number of rows of everything that is divided over the processes: tables and their moments."""
    tables = {
        f"module.{name}.{path}.".replace("..", ".") + "table.weight": table
        for name, module in modules.items()
        for path, table in module.named_modules()
        if isinstance(table, CodeTable) and table.divided
    }
    yield from ((name, table.count) for name, table in tables.items())
    for o, optimizer in optimizers.items():
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for i, p in enumerate(parameters):
            counts = [table.count for table in tables.values() if table.table.weight is p]
            moments = [name for name in tensors if name.startswith(f"optimizer.{o}.{i}.") and tensors[name].ndim]
            yield from ((name, counts[0]) for name in moments if counts)


def write(folder: Path, step: int, tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    """Write the checkpoint of a step; keep the newest few."""
    target = folder / f"{step:09d}"
    if target.exists() and not (target / checkpoint.MANIFEST).is_file():
        remove(target)  # damaged, and passed over by `read_newest`
    checkpoint.save_directory(target, tensors, config)
    # What lies ahead of this step was found unsound: it may not count as one of those that are kept.
    found = sorted(folder.glob(STEPS))
    sound = [old for old in found if old.name <= target.name]
    for old in set(found) - set(sound[-KEPT:]):
        remove(old)


def read_newest(folder: Path, steps: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and configuration of the newest sound checkpoint; an unsound one is named and passed over.

    Args:
        folder: the checkpoints of a run.
        steps: how many the run has.

    Raises:
        StorageError: there is no sound one, or it is of no run of so many steps.
    """
    for place in sorted(folder.glob(STEPS), reverse=True):
        try:
            tensors, config = checkpoint.load_directory(place)
        except StorageError as error:
            warn(f"{error}; trying the checkpoint before it")
            continue
        _check_progress(config, place, steps)
        return tensors, config
    raise StorageError(f"{folder}: no sound checkpoint; start anew with --overwrite")


def _check_progress(config: Mapping[str, Any], where: Path, steps: int) -> None:
    """Refuse a checkpoint that says nothing possible of how far it has come."""
    state = config.get("state")
    kinds = {"step": int, "rollbacks": int, "seconds": float, "scale": float}
    if not isinstance(state, dict) or {k: type(v) for k, v in state.items()} != kinds:
        raise StorageError(f"{where}: does not say how far it has come")
    if not (0 <= state["step"] <= steps and state["rollbacks"] >= 0 and 0 <= state["seconds"] < math.inf):
        raise StorageError(f"{where}: is at step {state['step']} of {steps}, after {state['seconds']} s")
    if not 0 < state["scale"] <= 1:
        raise StorageError(f"{where}: has a learning rate of {state['scale']} of the run's")


def check_space(outdir: Path, modules: Modules, optimizers: Optimizers, result_bytes: int) -> None:
    """Refuse a run that would not fit: the checkpoints that are kept, one that is being written, the result.

    Raises:
        StorageError: says how much is needed and how much is there.
    """
    parts = [t for m in modules.values() for t in m.modules() if isinstance(t, CodeTable) and t.divided]
    whole = {id(table.table.weight): processes.count() for table in parts}  # as often as what is here
    weights = [t for m in modules.values() for t in (*m.parameters(), *m.buffers())]
    moments = [p for o in optimizers.values() for g in o.param_groups for p in g["params"] for _ in "mv"]
    sizes = (t.numel() * t.element_size() * whole.get(id(t), 1) for t in (*weights, *moments))
    need = (KEPT + 1) * sum(sizes) + result_bytes
    free = shutil.disk_usage(outdir).free
    if need > free:
        raise StorageError(f"{outdir}: this run needs {need / 1e6:.1f} MB, {free / 1e6:.1f} MB are free")
