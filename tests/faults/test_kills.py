"""A run that is killed, stopped or starved of disk goes on to the weights of the undisturbed one."""

import random
import resource
import time

import pytest
import tiny

from namap import checkpoint


def finished(outdir) -> dict:
    return checkpoint.read_json(outdir / "final" / "manifest.json")["sha256"]


def start(forks, name, outdir):
    process = forks.Process(target=tiny.run, args=(name, outdir))
    process.start()
    return process


def newest(outdir) -> str:
    """The name of the last checkpoint."""
    return max((p.name for p in outdir.glob("checkpoints/0*")), default="")


@pytest.mark.parametrize("name", tiny.RUNS)
@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.long)])
def test_killed_at_any_moment(forks, tmp_path, name, kills):
    start(forks, name, tmp_path / "whole").join()
    rng, died = random.Random(f"{name}{kills}"), 0
    for _ in range(kills):
        before = newest(tmp_path / "killed")
        process = start(forks, name, tmp_path / "killed")
        while newest(tmp_path / "killed") == before and process.is_alive():
            time.sleep(0.002)
        process.join(rng.uniform(0, 0.05))
        died += process.is_alive()
        process.kill()
        process.join()
    assert died >= 3, "the run was over before it could be killed"
    process = start(forks, name, tmp_path / "killed")
    process.join()
    assert process.exitcode == 0
    assert finished(tmp_path / "killed") == finished(tmp_path / "whole")
    assert not [p for p in (tmp_path / "killed").iterdir() if p.name.startswith(".final")]


@pytest.mark.parametrize("name", tiny.RUNS)
def test_stopped_by_sigterm(forks, tmp_path, name):
    start(forks, name, tmp_path / "whole").join()
    process = start(forks, name, tmp_path / "stopped")
    while not list((tmp_path / "stopped").glob("checkpoints/0*5")) and process.is_alive():
        time.sleep(0.005)
    process.terminate()
    process.join(20)
    assert process.exitcode != 0
    assert list((tmp_path / "stopped").glob("checkpoints/0*"))
    start(forks, name, tmp_path / "stopped").join()
    assert finished(tmp_path / "stopped") == finished(tmp_path / "whole")


def starved(name, outdir, limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        tiny.run(name, outdir)
    except checkpoint.StorageError as error:
        assert "cannot be written" in str(error)
        raise SystemExit(error.exit_code) from None


@pytest.mark.parametrize("limit", [100, 3_000, 20_000])
def test_a_save_that_does_not_fit(forks, tmp_path, limit):
    process = forks.Process(target=starved, args=("vae", tmp_path / "run", limit))
    process.start()
    process.join()
    assert process.exitcode == 5
    folders = list((tmp_path / "run" / "checkpoints").glob("*")) if (tmp_path / "run" / "checkpoints").exists() else []
    for folder in folders:
        checkpoint.load_directory(folder)  # whole, or not there
    assert not list((tmp_path / "run").rglob(".*.*"))
    if limit > 1_000:
        start(forks, "vae", tmp_path / "run").join()
        assert finished(tmp_path / "run")
