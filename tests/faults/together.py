"""Several processes of one run on this machine, as a launcher starts them, each forked with torch already loaded."""

import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import mkdtemp

import tiny
import torch

from namap import console, processes
from namap.data import open_queries
from namap.errors import NamapError
from namap.generators import train_generator
from namap.generators.families import glo, vae
from namap.mapping import Mapping
from namap.translating import translate_files

GENERATORS = {"glo": glo.Recipe, "vae-generator": vae.Recipe}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def work(name: str, outdir: Path, steps: int) -> None:
    """One run of `tiny`, or of a family of generators that is not there, a fit of a stream, or a translation of one."""
    torch.set_num_threads(1)
    if name.startswith("translate "):
        _, model, source = name.split()
        mapping = Mapping.from_pretrained(model, precision="fp32")
        queries = open_queries(source, mapping.image_size, mapping.channels)
        translate_files(mapping, queries, outdir, batch_size=5, workers=0, quiet=True)
        return
    if name.startswith("webdataset:"):
        tiny.unfitted("vae", steps).fit(name, outdir, quiet=True)
        return
    if name not in GENERATORS:
        return tiny.RUNS.get(name, lambda *a: tiny.fit(name, *a))(outdir, steps)
    recipe = GENERATORS[name](latent_dim=4, images=steps * tiny.BATCH, width=4, batch_size=tiny.BATCH)
    train_generator(tiny.pictures(), recipe, outdir, precision="fp32", quiet=True)


def member(rank: int, count: int, port: int, said: Path, name: str, outdir: Path, steps: int, trick: Callable | None):
    """What one process does; what it says goes into a file."""
    os.dup2(os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    sys.argv = ["namap"]
    os.environ |= {"WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        if trick is not None:
            trick(rank)
        work(name, outdir, steps)
        processes.leave()
    except NamapError as error:
        console.end(error)


class Together:
    """`count` processes of one run."""

    def __init__(self, forks, count, name, outdir, steps, trick=None, port=None):
        self.said = Path(mkdtemp()) / "said"
        port = port or free_port()
        how = [(rank, count, port, self.said, name, outdir, steps, trick) for rank in range(count)]
        self.members = [forks.Process(target=member, args=each) for each in how]
        for process in self.members:
            process.start()

    def exits(self, seconds: float = 240) -> list[int | None]:
        """The exit codes, once all have ended."""
        until = time.monotonic() + seconds
        for process in self.members:
            process.join(max(0.0, until - time.monotonic()))
        return [process.exitcode for process in self.members]

    @property
    def lines(self) -> list[str]:
        """What they said to the user."""
        return [line for line in self.said.read_text().splitlines() if line.startswith(("namap:", "warning:"))]
