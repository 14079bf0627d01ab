"""Several processes train what one would, lose each other, and go on in another number."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from functools import partial

import numpy as np
import pytest
import tiny
import together
import torch
from test_kills import newest
from together import Together

from namap import checkpoint, console, processes
from namap.errors import UsageError
from namap.fitting import MappingTask
from namap.generators.training import save_generator
from namap.runs import read_log
from tars import EACH, SHARDS, write_tars

STEPS = 8
MANY = 60  # more than a run makes before it is killed
OF_PARTS = ("seconds", "code_spread", "diversity", "copies", "informative_dimensions")  # measured within each part
SOME = ["vae", "nam", "generator"]
OTHERS = [pytest.param(name, marks=pytest.mark.long) for name in ("ae", "wae", "glo", "vae-generator")]


@pytest.fixture(scope="session")
def alone(forks, tmp_path_factory):
    """Directories of runs of one process."""
    folder, done = tmp_path_factory.mktemp("alone"), {}

    def run(name, steps=STEPS):
        if (name, steps) not in done:
            done[name, steps] = folder / f"{name}-{steps}"
            process = forks.Process(target=together.work, args=(name, done[name, steps], steps))
            process.start()
            process.join()
        return done[name, steps]

    return run


def same(ours, theirs):
    """Logs to 1e-4 and weights to 1e-3: the same steps, added up in another order."""
    rows, others = read_log(ours), read_log(theirs)
    assert [row["step"] for row in rows] == [row["step"] for row in others]
    for row, other in zip(rows, others, strict=True):
        for key in row.keys() - set(OF_PARTS):
            np.testing.assert_allclose(row[key], other[key], rtol=1e-4, atol=1e-4, err_msg=f"{key} at {row['step']}")
    tensors, others = (checkpoint.load_directory(place / "final")[0] for place in (ours, theirs))
    assert tensors.keys() == others.keys()
    for name, t in tensors.items():
        np.testing.assert_allclose(t, others[name], rtol=1e-2, atol=1e-3, err_msg=name)


@pytest.mark.parametrize("name", SOME + OTHERS)
def test_two_processes_train_what_one_does(forks, tmp_path, alone, name):
    run = Together(forks, 2, name, tmp_path / "run", STEPS)
    assert run.exits() == [0, 0]
    same(tmp_path / "run", alone(name))


def test_each_process_reads_shards_of_its_own(forks, tmp_path, alone):
    source = write_tars(tmp_path)
    run = Together(forks, 2, source, tmp_path / "run", STEPS, partial(stop_one, 3))
    assert run.exits() == [143, 143]
    assert Together(forks, 4, source, tmp_path / "run", STEPS).exits() == [0] * 4
    together.work(source, tmp_path / "whole", STEPS)
    same(tmp_path / "run", tmp_path / "whole")
    run = Together(forks, 3, source, tmp_path / "other", STEPS)
    assert run.exits() == [2, 2, 2] and len(run.lines) == 1
    verb = f"translate {alone('ae')} {source}"
    assert Together(forks, 2, verb, tmp_path / "out", STEPS).exits() == [0, 0]
    assert len([*(tmp_path / "out").glob("*.png")]) == SHARDS * EACH
    assert len((tmp_path / "out" / "skipped.jsonl").read_text().splitlines()) == 1


def stop_one(step, rank):
    """SIGTERM reaches one process only, in the middle of its `step`-th step."""
    updates, steps = MappingTask.updates, []

    def stopping(self, batch):
        steps.append(batch)
        if rank == 1 and len(steps) == step:
            os.kill(os.getpid(), signal.SIGTERM)
        return updates(self, batch)

    MappingTask.updates = stopping


@pytest.mark.parametrize("name", ["vae", "nam"])
def test_a_run_goes_on_in_another_number_of_processes(forks, tmp_path, alone, name):
    for count, steps, reached in ((2, 4, 4), (4, 2, 6)):
        run = Together(forks, count, name, tmp_path / "run", STEPS, partial(stop_one, steps))
        assert run.exits() == [143] * count
        (line,) = run.lines
        assert f"stopped by SIGTERM at step {reached} of {STEPS}; run the same command again to go on" in line
        assert newest(tmp_path / "run") == f"{reached:09d}"
    together.work(name, tmp_path / "run", STEPS)
    same(tmp_path / "run", alone(name))


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_others_and_the_run_resumes(forks, tmp_path, alone, lost):
    run = Together(forks, 2, "nam", tmp_path / "run", MANY)
    while newest(tmp_path / "run") < "000000003":
        time.sleep(0.01)
    run.members[lost].kill()
    killed = time.monotonic()
    exits = run.exits()
    assert exits[lost] == -signal.SIGKILL and exits[1 - lost] == 143
    assert time.monotonic() - killed < 60
    (line,) = run.lines
    assert "another process of this run is lost; run the same command again to go on from the last checkpoint" in line
    assert newest(tmp_path / "run") >= "000000003"
    assert Together(forks, 2, "nam", tmp_path / "run", MANY).exits() == [0, 0]
    rows, others = (read_log(place) for place in (tmp_path / "run", alone("nam", MANY)))
    assert [row["step"] for row in rows] == list(range(1, MANY + 1))
    for row, other in zip(rows[:8], others[:8], strict=True):
        np.testing.assert_allclose(row["reconstruction"], other["reconstruction"], atol=1e-4)


def little_room(rank):
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, 3_000))


def other_rate(rank):
    if rank:
        unfitted = tiny.unfitted
        tiny.unfitted = lambda method, steps: unfitted(method, steps + 1)


def other_torch(rank):
    found = processes.versions()
    processes.versions = lambda: found | {"torch": f"2.{rank}.0"}


def refused(forks, outdir, code, text, trick=None, count=2, name="vae", port=None):
    """All end with this code, and one line says why."""
    run = Together(forks, count, name, outdir, STEPS, trick, port)
    assert run.exits() == [code] * count
    assert len(run.lines) == 1 and text in run.lines[0], run.lines


def test_what_the_processes_cannot_do_is_said_once(forks, tmp_path):
    refused(forks, tmp_path / "a", 2, "process 1 has another run.images (128, now 144)", other_rate)
    refused(
        forks, tmp_path / "b", 2, "process 1 has another version.torch (2.0.0, now 2.1.0) than process 0", other_torch
    )
    refused(forks, tmp_path / "c", 2, "3 processes cannot divide a batch of 16; start another number", count=3)
    refused(forks, tmp_path / "d", 5, "cannot be written", little_room)
    (tmp_path / "file").write_text("")
    refused(forks, tmp_path / "file" / "run", 5, "cannot be written (Not a directory)")


def test_a_port_in_use_is_named(forks, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        run = Together(forks, 2, "vae", tmp_path / "run", STEPS, port=port)
        assert run.exits(20)[0] == 2
        run.members[1].kill()
    assert run.lines == [f"namap: port 127.0.0.1:{port} is in use; choose another with --main_process_port"]


def test_accelerate_launches_a_fit(tmp_path):
    (tmp_path / "g").mkdir()
    save_generator(tiny.generator(), 0, tmp_path / "g")
    fit = ["fit", "--generator", tmp_path / "g", "--data", write_tars(tmp_path), "--outdir", tmp_path / "run"]
    small = [f"--set={pair}" for pair in ("images=64", "batch_size=16", "encoder_width=4", "filters=2")]
    start = ["--multi_gpu", "--num_processes=2", f"--main_process_port={together.free_port()}", "-m", "namap"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", *start]
    done = subprocess.run(
        [*launch, *fit, *small, "--device=cpu", "--precision=fp32", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == {"model": str(tmp_path / "run")}, "one of them says it"
    assert [row["step"] for row in read_log(tmp_path / "run")] == [4]
    checkpoint.load_directory(tmp_path / "run" / "final")


def test_other_verbs_are_for_one_process(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "ERROR")
    console.take_part("translate")
    with pytest.raises(UsageError, match="evaluate: works in one process; only fit, train-generator, translate share"):
        console.take_part("evaluate")
    with pytest.raises(UsageError, match="--device cuda:1: each of several processes takes a GPU of its own"):
        processes.meet(torch.device("cuda", 1))
