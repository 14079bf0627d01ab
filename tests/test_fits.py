"""The directory of a fit: whose it is, what goes on in it, what is left of it."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from namap import processes
from namap.errors import Interrupted, UsageError
from namap.generators import train_generator
from namap.generators.families import dcgan
from namap.mapping import METHODS, VAENAM
from namap.runs import REMEDY
from namap.training import Loop

SMALL = {"images": 640, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}


def test_a_finished_directory_is_loaded_not_trained_again(generator, handwriting, tmp_path):
    first = VAENAM(generator, **SMALL).fit(handwriting, tmp_path, quiet=True)
    stamp = (tmp_path / "final" / "model.safetensors").stat().st_mtime_ns
    again = VAENAM(generator, **SMALL).fit(handwriting, tmp_path, quiet=True)
    assert (tmp_path / "final" / "model.safetensors").stat().st_mtime_ns == stamp
    queries = handwriting.subset(slice(0, 3))
    np.testing.assert_array_equal(first.translate(queries).x, again.translate(queries).x)
    with pytest.raises(UsageError, match="beta"):
        VAENAM(generator, **SMALL, beta=0.5).fit(handwriting, tmp_path, quiet=True)


def test_a_run_that_cannot_begin_leaves_the_one_before(generator, handwriting, tmp_path, monkeypatch):
    fitted_to = METHODS["ae"](generator, **SMALL)
    fitted_to.fit(handwriting, tmp_path, quiet=True)
    monkeypatch.setattr(processes, "count", lambda: 7)
    with pytest.raises(UsageError, match="7 processes cannot divide a batch"):
        METHODS["ae"](generator, **SMALL).fit(handwriting, tmp_path, quiet=True, overwrite=True)
    assert (tmp_path / "final" / "config.json").exists()


def test_a_run_without_a_directory_does_not_promise_to_go_on(generator, handwriting, tmp_path, monkeypatch):
    def stop(loop, batch, step=Loop.step):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(loop, batch)

    monkeypatch.setattr(Loop, "step", stop)
    for outdir, said in ((None, "nothing is kept without a directory"), (tmp_path, "again to go on")):
        with pytest.raises(Interrupted, match=f"SIGTERM at step 1 of 20; .*{said}"):
            METHODS["ae"](generator, **SMALL).fit(handwriting, outdir, quiet=True)


@pytest.mark.parametrize("before", ["bf16", "fp32"])
def test_a_run_of_another_precision_can_go_on(before, generator, handwriting, tmp_path):
    now = {"bf16": "fp32", "fp32": "bf16"}[before]
    METHODS["ae"](generator, **{**SMALL, "precision": before}).fit(handwriting, tmp_path, quiet=True)
    with pytest.raises(UsageError, match=rf"run\.precision \({before}, now {now}\); --precision {before} goes on"):
        METHODS["ae"](generator, **{**SMALL, "precision": now}).fit(handwriting, tmp_path, quiet=True)
    METHODS["ae"](generator, **{**SMALL, "precision": before}).fit(handwriting, tmp_path, quiet=True)


@pytest.mark.parametrize(("before", "now"), [("bf16", "fp32"), ("fp32", "bf16")])
def test_under_auto_a_run_goes_on_in_the_precision_that_it_began_with(
    before, now, generator, handwriting, tmp_path, monkeypatch
):
    def fit(**options):
        mapping = METHODS["ae"](generator, **{**SMALL, "precision": "auto"})
        return mapping.fit(handwriting, tmp_path / "map", quiet=True, **options)

    METHODS["ae"](generator, **{**SMALL, "precision": before}).fit(handwriting, tmp_path / "map", quiet=True)
    recipe = dcgan.Recipe(latent_dim=4, images=64, width=4, batch_size=16)
    train_generator(handwriting, recipe, tmp_path / "g", precision=before, quiet=True)
    # Another machine, where `auto` is another one.
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": now == "bf16"})
    assert fit().precision == before
    train_generator(handwriting, recipe, tmp_path / "g", quiet=True)
    assert fit(overwrite=True).precision == now


def test_a_run_that_goes_on_says_from_where(generator, handwriting, tmp_path, monkeypatch, capsys):
    def stop(loop, batch, step=Loop.step):
        os.kill(os.getpid(), signal.SIGTERM)
        return step(loop, batch)

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Loop, "step", stop)
        METHODS["ae"](generator, **SMALL).fit(handwriting, tmp_path)
    assert "goes on" not in capsys.readouterr().err
    METHODS["ae"](generator, **SMALL).fit(handwriting, tmp_path)
    assert "fitting ae: goes on from step 1 of 20\n" in capsys.readouterr().err


def test_another_run_is_told_in_a_few_words(generator, handwriting, tmp_path):
    METHODS["ae"](generator, **SMALL).fit(handwriting, tmp_path, quiet=True)
    others = replace(handwriting, images=255 - handwriting.images, source="negatives")
    for domain, settings, said in (
        (others, {}, f"data ({handwriting.source}, now negatives)"),
        (replace(others, source=handwriting.source), {}, "data (changed since)"),
        (handwriting, {"images": 960}, "task.recipe.images (640, now 960)"),  # which the run itself has, too
    ):
        with pytest.raises(UsageError) as error:
            METHODS["ae"](generator, **SMALL | settings).fit(domain, tmp_path, quiet=True)
        assert str(error.value) == f"{tmp_path}: holds a run with another {said}; {REMEDY}"
    with pytest.raises(UsageError, match=r"with another (.*; ){6}\d+ more; use"):
        train_generator(handwriting, dcgan.Recipe(latent_dim=4), tmp_path, quiet=True)


def test_a_run_belongs_to_its_generator(generator, handwriting, tmp_path):
    fitted_to = METHODS["ae"](generator, **SMALL)
    fitted_to.fit(handwriting, tmp_path, quiet=True)
    with torch.no_grad():
        next(generator.parameters()).add_(0.1)
    with pytest.raises(UsageError, match=r"generator\.weights"):
        METHODS["ae"](generator, **SMALL).fit(handwriting, tmp_path, quiet=True)
