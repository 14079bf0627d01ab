import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from namap.data import ImageDomain
from namap.data.order import batch_index
from namap.errors import DivergedError, Interrupted, StorageError, UsageError
from namap.runs import hold
from namap.training import train
from tasks import Autoencoder, run


@pytest.mark.faults
def test_a_stopped_run_resumes_bit_identically(tmp_path, domain):
    whole, stopped, resumed = Autoencoder(), Autoencoder(stop_at=17), Autoencoder()
    log = train(whole, domain, run(), tmp_path / "whole")
    with pytest.raises(Interrupted, match="SIGTERM at step 18") as stop:
        train(stopped, domain, run(), tmp_path / "run")
    assert stop.value.exit_code == 143
    assert train(resumed, domain, run(), tmp_path / "run")[-1]["loss"] == log[-1]["loss"]
    assert resumed.calls == 12
    assert torch.equal(whole.weights(), resumed.weights())
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [5, 10, 15, 20, 25, 30]
    assert rows[-1]["loss"] < rows[0]["loss"] / 2


@pytest.mark.faults
def test_a_damaged_checkpoint_is_passed_over(tmp_path, domain, capsys):
    whole = Autoencoder()
    train(whole, domain, run(), tmp_path / "whole")
    for stop in (7, 17):
        with pytest.raises(Interrupted):
            train(Autoencoder(stop_at=stop), domain, run(), tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").iterdir())[-1]
    content = bytearray((newest / "model.safetensors").read_bytes())
    content[-3] ^= 1
    (newest / "model.safetensors").write_bytes(content)
    resumed = Autoencoder()
    train(resumed, domain, run(), tmp_path / "run")
    assert torch.equal(whole.weights(), resumed.weights())
    assert "model.safetensors" in capsys.readouterr().err


def test_nan_touches_no_weight_and_rolls_back_three_times(tmp_path, domain):
    task = Autoencoder(break_at=(3, 5, 7))
    train(task, domain, run(), tmp_path / "a")
    assert torch.isfinite(task.weights()).all()
    assert task.optimizers["net"].param_groups[0]["lr"] == 1e-2 / 8 * task.learning_rate(29 / 30)
    task = Autoencoder(break_at=(3, 5, 7, 8))
    before = task.weights()
    with pytest.raises(DivergedError, match=r"loss of net and bias \(loss\) is not finite at step 8") as error:
        train(task, domain, run(), tmp_path / "b")
    assert error.value.exit_code == 4
    task = Autoencoder(break_at=(0, 0, 0, 0))
    with pytest.raises(DivergedError):
        train(task, domain, run(), tmp_path / "c")
    assert torch.equal(task.weights(), before)


def test_a_concern_is_said_once(tmp_path, domain, capsys):
    task = Autoencoder()
    task.concerned = True
    train(task, domain, run(), tmp_path)
    assert capsys.readouterr().err.count("warning: training, step 5: the test is concerned") == 1


def test_a_gradient_that_is_not_finite_is_named(tmp_path, domain):
    task = Autoencoder()
    task.net.weight.register_hook(lambda g: g * float("inf"))
    with pytest.raises(DivergedError, match=r"gradient of net\.weight is not finite at step 0"):
        train(task, domain, run(), tmp_path)


def test_a_disk_that_is_too_small_is_found_before_the_run(tmp_path, domain, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10_000))
    with pytest.raises(StorageError, match=r"needs 0\.2 MB, 0\.0 MB are free"):
        train(Autoencoder(), domain, run(), tmp_path)
    assert not (tmp_path / "checkpoints").exists()


def test_a_directory_in_use_is_refused_and_its_holder_named(tmp_path):
    with hold(tmp_path), pytest.raises(StorageError, match=rf"in use by process {os.getpid()} on "), hold(tmp_path):
        pass
    with hold(tmp_path):  # and it is free again
        pass


def test_another_configuration_or_other_data_is_refused(tmp_path, domain):
    train(Autoencoder(), domain, run(), tmp_path / "run")
    with pytest.raises(UsageError, match=r"run.seed \(0, now 1\)"):
        train(Autoencoder(), domain, run(seed=1), tmp_path / "run")
    other = ImageDomain.from_array(domain.images[:20])
    with pytest.raises(UsageError, match="data"):
        train(Autoencoder(), other, run(), tmp_path / "run")


def test_every_epoch_sees_every_image_once():
    order = np.concatenate([batch_index(10, 4, 0, step) for step in range(5)])
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert list(order[:10]) != list(order[10:])
    assert list(batch_index(3, 8, 0, 1)) == list(np.concatenate([batch_index(3, 1, 0, s) for s in range(8, 16)]))


@pytest.mark.faults
def test_the_result_is_a_function_of_the_seed(domain):
    a, b, c = Autoencoder(), Autoencoder(), Autoencoder()
    train(a, domain, run())
    train(b, domain, run())
    train(c, domain, run(seed=1))
    assert torch.equal(a.weights(), b.weights())
    assert not torch.equal(a.weights(), c.weights())


def test_an_unwritable_directory_is_a_storage_error(domain, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        train(Autoencoder(), domain, run(), Path(tmp_path / "file" / "run"))
