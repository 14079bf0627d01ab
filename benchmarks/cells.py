"""Cells: one row of a table with one seed, measured in a process of its own, kept in a directory of its own.

A cell leaves `wanted.json` (its configuration), `result.json` and its answers. A cell that has its result is never
measured again; training in one that was interrupted goes on from its checkpoint.
"""

import platform
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from namap.checkpoint import read_json, write_json
from namap.errors import NamapError, UsageError
from namap.files import write_file
from namap.report import version_rows
from namap.runs import differences
from namap.tensors import pick_device, pick_precision

ROOT = Path(__file__).parents[1]
NOTED_EVERY = 30.0  # seconds between two notes of what a cell has cost: a kill loses no more


def finished(cell: Path, wanted: dict[str, Any]) -> bool:
    """Whether a cell is there.

    Raises:
        UsageError: it was measured, or begun, with another configuration; the differences are named.
    """
    for name in ("result.json", "wanted.json"):
        if (cell / name).exists():
            there = read_json(cell / name)
            changed = differences(there.get("configuration", there), wanted)
            if changed:
                raise UsageError(
                    f"{cell}: was measured with another configuration: {'; '.join(changed)}; "
                    "remove it to measure it anew"
                )
            return name == "result.json"
    return False


def run_cell_apart(arguments: list[str], cell: Path, wanted: dict[str, Any], quiet: bool) -> None:
    """Run `benchmarks.runner` on a cell in a process of its own: its peak of memory is its own, and it may be killed.

    Raises:
        NamapError: the cell failed; its own line has said why.
    """
    cell.mkdir(parents=True, exist_ok=True)
    write_json(cell / "wanted.json", wanted)
    command = [sys.executable, "-m", "benchmarks.runner", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE if quiet else None, text=True) as process:
        try:
            _, said = process.communicate()
        except BaseException:  # not killed, as `subprocess.run` would: it leaves a checkpoint and what it cost
            process.terminate()
            raise
    if code := process.returncode:
        why = f": {said.strip().splitlines()[-1]}" if said else "; run the same command again to go on"
        error = NamapError(f"bench: {cell.name} ended with exit code {code}{why}")
        error.exit_code = code if code > 0 else 128 - code
        raise error


def affordable_images(
    home: Path, seconds: float, batch_size: int, train: Callable[[int], object], steps: tuple[int, int]
) -> int:
    """Images that a training sees in `seconds` of processor time, once it has begun.

    It is timed in two short runs, and the outcome kept: a killed training goes on to the same end.

    Args:
        home: the cell.
        train: trains on so many images, elsewhere.
        steps: of the two runs.
    """
    record = home / "budget.txt"
    if record.exists():
        return int(record.read_text())
    times = []
    for count in steps:
        started = time.process_time()
        train(count * batch_size)
        times.append(time.process_time() - started)
    each = max((times[1] - times[0]) / (steps[1] - steps[0]), 1e-3)
    images = max(1, int(seconds / each)) * batch_size
    home.mkdir(parents=True, exist_ok=True)
    write_file(record, str(images).encode())
    return images


def circumstances() -> dict[str, Any]:
    """Where and with what a cell is measured. `+` after the commit: files of the program differed from it."""
    commit, changed = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", "src", "benchmarks/*.py")
    return {
        "threads": torch.get_num_threads(),
        "processor": processor(),
        "versions": {**dict(version_rows()), "python": platform.python_version()},
        "commit": commit + "+" * bool(changed) or "unknown",
    }


def processor() -> str:
    """What decides how fast this machine is: its vector instructions and the precision that namap takes on it."""
    device = pick_device()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    return f"{name} in {pick_precision('auto', device)}"


def git(*arguments: str) -> str:
    """What git says of this checkout; nothing where there is no git, or no repository."""
    try:
        return subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""


def peak_memory_gb() -> float:
    """Of this process, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


@contextmanager
def cost(cell: Path) -> Iterator[dict[str, float]]:
    """Seconds of wall-clock and of processor time, which add up where a cell is interrupted, and the peak of memory.

    They are noted as they pass.
    """
    record = cell / "cost.json"
    before = {"wall": 0.0, "processor": 0.0, "peak_memory_gb": 0.0} | (read_json(record) if record.exists() else {})
    spent, ended = dict(before), threading.Event()
    wall, busy = time.monotonic(), time.process_time()

    def note() -> None:
        spent["wall"] = before["wall"] + time.monotonic() - wall
        spent["processor"] = before["processor"] + time.process_time() - busy
        spent["peak_memory_gb"] = max(before["peak_memory_gb"], peak_memory_gb())
        write_json(record, spent)

    def keep_noting() -> None:
        while not ended.wait(NOTED_EVERY):
            note()

    thread = threading.Thread(target=keep_noting, daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        ended.set()
        thread.join()
        note()
