"""A disk that is full at any save: a small one is mounted where that is allowed, else a limit on files stands in."""

import os
import random
import resource
import shutil
import subprocess
from pathlib import Path

import pytest
import tiny
from test_kills import finished, newest, start

from namap import checkpoint
from namap.errors import StorageError

STEPS = 3
SAVES = STEPS + 2  # the first checkpoint, one a step, the result


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A disk of four megabytes."""
    place = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk needs root; test_a_save_that_does_not_fit runs without")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, rest: int) -> None:
    """Leave `rest` pages."""
    with (disk / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(0, file.tell() - rest * 4096))


@pytest.mark.parametrize("name", ["vae", "generator"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_full_disk_at_every_save(disk, tmp_path, monkeypatch, name, when):
    save, rng = checkpoint.save_directory, random.Random(name)
    tiny.RUNS[name](tmp_path / "whole", STEPS)
    # After a third checkpoint the first one goes, and leaves its room to the next save.
    for full in range(1, SAVES + 1) if when == "before" else (1, 2):
        outdir, saves = disk / f"{name}-{when}-{full}", []

        def save_on_a_full_disk(target, *content, full=full, saves=saves):
            saves.append(target)
            if len(saves) == full and when == "before":
                fill(disk, rng.randrange(5))
            save(target, *content)
            if len(saves) == full and when == "after":
                fill(disk, 0)

        monkeypatch.setattr(checkpoint, "save_directory", save_on_a_full_disk)
        with pytest.raises(StorageError, match="cannot be written") as error:
            tiny.RUNS[name](outdir, STEPS)
        assert error.value.exit_code == 5
        assert not list(outdir.rglob(".*.*")), "no temporary file stays"
        kept = full - 2 if when == "before" else full - 1
        assert newest(outdir) == (f"{kept:09d}" if kept >= 0 else "")
        for folder in outdir.glob("checkpoints/*"):
            checkpoint.load_directory(folder)
        monkeypatch.undo()
        (disk / "filler").unlink()
        tiny.RUNS[name](outdir, STEPS)
        assert finished(outdir) == finished(tmp_path / "whole")
        shutil.rmtree(outdir)


def test_the_need_is_compared_before_the_run(disk):
    fill(disk, 20)
    with pytest.raises(StorageError, match=r"this run needs .* MB, 0\.\d MB are free"):
        tiny.fit("vae", disk / "run")
    assert not (disk / "run" / "checkpoints").exists()
    (disk / "filler").unlink()


def starved(name, outdir, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    tiny.run(name, outdir)


@pytest.mark.parametrize("limit", [100, 3_000, 20_000])
def test_a_save_that_does_not_fit(forks, tmp_path, limit):
    process = forks.Process(target=starved, args=("vae", tmp_path / "run", limit))
    process.start()
    process.join()
    assert process.exitcode == 5
    for folder in (tmp_path / "run").glob("checkpoints/*"):
        checkpoint.load_directory(folder)  # whole, or not there
    assert not list((tmp_path / "run").rglob(".*.*"))
    start(forks, "vae", tmp_path / "run").join()
    assert finished(tmp_path / "run")
