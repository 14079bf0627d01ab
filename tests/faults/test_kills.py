"""A run that is killed or stopped goes on to the weights of the undisturbed one."""

import os
import random
import shutil
import signal
import sys
import time

import pytest
import tiny

from namap import checkpoint
from namap.runs import read_log

LONG = pytest.param(20, marks=pytest.mark.long)
STEPS_A_KILL = 16  # more than a run makes between two of them


def finished(outdir) -> dict:
    return checkpoint.read_json(outdir / "final" / "manifest.json")["sha256"]


def start(forks, name, outdir, steps=tiny.STEPS):
    process = forks.Process(target=tiny.run, args=(name, outdir, steps))
    process.start()
    return process


def newest(outdir) -> str:
    """The name of the last checkpoint."""
    return max((p.name for p in outdir.glob("checkpoints/0*")), default="")


def at_a_random_moment(forks, name, outdir, steps, rng, early=False):
    """A process of the run, soon after its next checkpoint, or, `early`, after its directory is there."""
    before = newest(outdir)
    process = start(forks, name, outdir, steps)
    while (not outdir.exists() if early else newest(outdir) == before) and process.is_alive():
        time.sleep(0.002)
    process.join(rng.uniform(0, 0.05))
    assert process.is_alive(), "the run was over before it could be ended"
    return process


def goes_on(forks, name, tmp_path, steps):
    process = start(forks, name, tmp_path / "broken", steps)
    process.join()
    assert process.exitcode == 0
    assert finished(tmp_path / "broken") == finished(tmp_path / "whole")
    assert [row["step"] for row in read_log(tmp_path / "broken")] == list(range(1, steps + 1))
    assert not list((tmp_path / "broken").rglob(".*.*")), "what the killed left is swept away"


@pytest.mark.parametrize("name", tiny.RUNS)
@pytest.mark.parametrize("kills", [4, LONG])
def test_killed_at_any_moment(forks, tmp_path, name, kills):
    steps = STEPS_A_KILL * kills
    start(forks, name, tmp_path / "whole", steps).join()
    rng = random.Random(f"{name}{kills}")
    for kill in range(kills):
        process = at_a_random_moment(forks, name, tmp_path / "broken", steps, rng, early=kill == 0)
        process.kill()
        process.join()
    goes_on(forks, name, tmp_path, steps)


@pytest.mark.parametrize("name", tiny.RUNS)
def test_another_process_with_the_same_seed_makes_the_same_bits(forks, tmp_path, name):
    start(forks, name, tmp_path / "theirs", 5).join()
    tiny.RUNS[name](tmp_path / "ours", 5)
    assert finished(tmp_path / "ours") == finished(tmp_path / "theirs")


@pytest.mark.parametrize("name", tiny.RUNS)
@pytest.mark.parametrize("stops", [2, LONG])
def test_stopped_by_sigterm(forks, tmp_path, name, stops):
    steps = STEPS_A_KILL * stops
    start(forks, name, tmp_path / "whole", steps).join()
    rng = random.Random(f"{name}{stops}")
    for _ in range(stops):
        process = at_a_random_moment(forks, name, tmp_path / "broken", steps, rng)
        process.terminate()
        process.join()
        assert process.exitcode == 143
        assert not list((tmp_path / "broken").rglob(".*.*")), "it cleans up behind itself"
        checkpoint.load_directory(tmp_path / "broken" / "checkpoints" / newest(tmp_path / "broken"))
    goes_on(forks, name, tmp_path, steps)


CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
WRITTEN = os.O_WRONLY | os.O_RDWR


def killed_before_a_change(name, outdir, number, count):
    """SIGKILL where the run is about to make its change `number` to its directory; without one, count them."""

    def watch(event, arguments):
        changes = event in CHANGES or (event == "open" and arguments[2] & WRITTEN)
        if changes and str(arguments[0]).startswith(str(outdir)):
            count.value += 1
            if count.value == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    tiny.run(name, outdir, 2)


@pytest.mark.parametrize("name", tiny.RUNS)
@pytest.mark.parametrize("kills", [2, LONG])
def test_killed_before_any_change_of_its_directory(forks, tmp_path, name, kills):
    """Of a run of two steps, whose every file is written, renamed or deleted in a save."""
    start(forks, name, tmp_path / "whole", 2).join()
    count = forks.Value("i", 0)

    def run_until(number):
        count.value = 0
        process = forks.Process(target=killed_before_a_change, args=(name, tmp_path / "broken", number, count))
        process.start()
        process.join()
        return process.exitcode

    assert run_until(0) == 0
    changes = count.value
    assert changes > 30
    for number in random.Random(f"{name}{kills}").sample(range(1, changes + 1), kills):
        shutil.rmtree(tmp_path / "broken")
        assert run_until(number) == -signal.SIGKILL
        for folder in (tmp_path / "broken").glob("checkpoints/0*"):
            checkpoint.load_directory(folder)  # whole, or not there
        goes_on(forks, name, tmp_path, 2)


def stopped_in_the_last_save(name, outdir, call):
    """SIGTERM at one of the moments at which the result is flushed to the disk."""
    flush, calls = checkpoint._flush, []

    def flush_and_stop(path):
        flush(path)
        if ".final." in str(path) or path == outdir:
            calls.append(path)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGTERM)

    checkpoint._flush = flush_and_stop
    tiny.run(name, outdir)


@pytest.mark.parametrize("call", [1, 4, 5])
def test_stopped_while_the_result_is_saved(forks, tmp_path, call):
    start(forks, "vae", tmp_path / "whole").join()
    process = forks.Process(target=stopped_in_the_last_save, args=("vae", tmp_path / "broken", call))
    process.start()
    process.join()
    assert process.exitcode == 143
    assert (tmp_path / "broken" / "final").exists() == (call == 5), "whole or not there"
    goes_on(forks, "vae", tmp_path, tiny.STEPS)


def alone(outdir):
    """Train, fit and translate where a further process or a connection is an error."""

    def refuse(event, arguments):
        if event in ("os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.exec", "os.system"):
            raise AssertionError(f"{event}: namap works in one process")
        if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.bind"):
            raise AssertionError(f"{event} {arguments[1:]}: namap needs no network")

    sys.addaudithook(refuse)
    tiny.train_generator(outdir / "generator")
    tiny.fit("vae", outdir / "map")
    mapping = tiny.mapping.Mapping.from_pretrained(outdir / "map", precision="fp32")
    mapping.translate(tiny.pictures()).save_pngs(outdir / "out")


def test_no_further_process_and_no_connection(forks, tmp_path):
    process = forks.Process(target=alone, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert len(list((tmp_path / "out").glob("*.png"))) == 64
