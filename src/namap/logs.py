"""The log of a training run: `metrics.jsonl` always, and in a run's own directory the same for TensorBoard.

Both are written at once and in order, by the process that trains: what a checkpoint follows is on disk before it. The
writer that comes with torch works in a thread, whose answer to a full disk is a traceback and not an error to raise.
"""

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.utils import make_grid

from .files import storage_errors, write_file
from .runs import Row, read_log
from .tensors import to_uint8

EVENTS = "tensorboard"  # in the directory of a run
ABOUT = ("step", "images")  # of a row: where it was taken, not what was measured


class Log:
    """Rows of numbers and sheets of images, as training goes on.

    Args:
        outdir: the directory of the run; it need not exist before the first entry.
        events: whether TensorBoard gets its own file there.
    """

    def __init__(self, outdir: Path, events: bool = False):
        self.path, self.folder, self.events = outdir / "metrics.jsonl", outdir / EVENTS, events
        self.purge: int | None = None  # first step that earlier event files hold and this run takes again
        self.writer: Any = None

    def __enter__(self) -> "Log":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def clear(self) -> None:
        """Forget an earlier run."""
        self.close()
        self.path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.purge = None

    def rewind(self, step: int) -> list[Row]:
        """Forget what came after `step`; return the rows up to it."""
        self.close()
        rows = [row for row in read_log(self.path.parent) if row["step"] <= step]
        write_file(self.path, "".join(json.dumps(row) + "\n" for row in rows).encode())
        self.purge = step + 1
        return rows

    def add(self, row: Row) -> None:
        """Append a row.

        Raises:
            StorageError: it cannot be written.
        """
        with storage_errors(self.path), self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.events:
            from torch.utils.tensorboard.summary import histogram, scalar

            measured = {name: value for name, value in row.items() if name not in ABOUT}
            summaries = [
                histogram(name, np.array(value), "auto") if isinstance(value, list) else scalar(name, value)
                for name, value in measured.items()
            ]
            self._write(int(row["step"]), summaries)

    def add_pictures(self, step: int, name: str, rows: Sequence[Tensor]) -> None:
        """Show rows of images `[n c h w]`, or nothing where there are none.

        Raises:
            StorageError: they cannot be written.
        """
        if rows and self.events:
            from torch.utils.tensorboard.summary import image

            self._write(step, [image(name, sheet(rows).cpu().numpy(), dataformats="CHW")])

    def close(self) -> None:
        """Let go of the file; the next entry opens another one."""
        if self.writer is not None:
            self.writer.close()
            self.writer = None

    def _write(self, step: int, summaries: Sequence[Any]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        with storage_errors(self.folder):
            self.writer = writer = self.writer or self._open()
            for summary in summaries:
                event = Event(wall_time=time.time(), step=step, summary=summary)
                writer.write(event.SerializeToString())

    def _open(self) -> Any:
        """Open a file of events after those that are there, and take back their steps from `purge` on."""
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        taken = sorted(self.folder.glob(f"events.out.tfevents.{'[0-9]' * 6}"))
        number = int(taken[-1].name[-6:]) + 1 if taken else 0  # TensorBoard reads them in the order of their names
        # Unbuffered: a full disk is told by the write, and a closed file has nothing left to say.
        file = (self.folder / f"events.out.tfevents.{number:06d}").open("xb", buffering=0)
        writer = RecordWriter(file)
        head = [Event(wall_time=time.time(), step=self.purge or 0, file_version="brain.Event:2")]
        if self.purge is not None:
            restart = SessionLog(status=SessionLog.START)
            head.append(Event(wall_time=time.time(), step=self.purge, session_log=restart))
        for event in head:
            writer.write(event.SerializeToString())
        return writer


@torch.no_grad()
def sheet(rows: Sequence[Tensor]) -> UInt8[Tensor, "c h w"]:
    """Rows of images `[n c h w]` in [-1, 1] as one picture: the largest side, and colours where any row has them."""
    side, channels = max(row.shape[-1] for row in rows), max(row.shape[1] for row in rows)
    even = [F.interpolate(row.float(), size=(side, side)).expand(-1, channels, -1, -1) for row in rows]
    return make_grid(to_uint8(torch.cat(even)), nrow=len(rows[0]), padding=1, pad_value=255)
