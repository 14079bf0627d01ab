"""Verbs that do not train: stopped or killed, they leave whole files only, and run again they finish the work."""

import sys
import time

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from namap import cli

QUERIES = 400


def command(arguments: list[str]) -> None:
    torch.set_num_threads(1)
    sys.argv = ["namap", *arguments]
    cli.main()


def start(forks, *arguments: object):
    process = forks.Process(target=command, args=([str(a) for a in arguments],))
    process.start()
    return process


@pytest.fixture
def work(forks, tmp_path):
    """A fitted mapping and a folder of queries."""
    fit = forks.Process(target=tiny.run, args=("vae", tmp_path / "model"))
    fit.start()
    images = np.random.default_rng(1).integers(0, 256, (QUERIES, 32, 32), np.uint8)
    (tmp_path / "queries").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "queries" / f"{i:03}.png")
    fit.join()
    return tmp_path


def whole_pictures(folder) -> dict[str, bytes]:
    """Every picture of a folder, decoded: one that is cut short raises."""
    return {p.name: Image.open(p).convert("L").tobytes() for p in sorted(folder.glob("[0-9]*.png"))}


@pytest.mark.parametrize("how", ["terminate", "kill"])
def test_interrupted_translation_leaves_whole_files_and_finishes_when_run_again(forks, work, how):
    def translate(name: str):
        # Batches that were handed to a worker are written to their end; there are many more of these.
        how_many = ["--solutions", 2, "--batch-size", 16]
        return start(
            forks, "translate", work / "model", work / "queries", "--outdir", work / name, *how_many, "--quiet"
        )

    translate("clean").join()
    clean = whole_pictures(work / "clean")
    assert len(clean) == 2 * QUERIES
    process = translate("broken")
    while len(list((work / "broken").glob("[0-9]*.png"))) < 20 and process.is_alive():
        time.sleep(0.001)
    getattr(process, how)()
    process.join()
    found = whole_pictures(work / "broken")
    assert 0 < len(found) < len(clean), "it was over before it could be stopped"
    if how == "terminate":
        assert process.exitcode == 143
        assert not list((work / "broken").glob(".[0-9]*"))
    again = translate("broken")
    again.join()
    assert again.exitcode == 0
    assert whole_pictures(work / "broken") == clean


def test_a_stopped_evaluation_keeps_no_half_classifier(forks, work):
    labels = np.arange(QUERIES) % 10
    images = np.random.default_rng(2).integers(0, 256, (QUERIES, 1, 32, 32), np.uint8)
    np.savez(work / "x.npz", x_train=images, y_train=labels)
    judge = work / "judge"
    process = start(
        forks, "evaluate", work / "model", f"{work}/x.npz:x_train", "--classifier", judge,
        "--train-classifier-on", f"{work}/x.npz:x_train", "--quiet",
    )  # fmt: skip
    while not list(judge.glob("checkpoints/0*")) and process.is_alive():
        time.sleep(0.01)
    process.terminate()
    process.join()
    assert process.exitcode == 143
    assert list(judge.glob("checkpoints/0*")), "it goes on from here"
    assert not (judge / "final").exists()
