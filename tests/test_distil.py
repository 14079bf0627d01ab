"""An encoder from a NAM: as good as its codes on what it has not seen, resumable, and only on the data of the fit."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from namap import distil, model, training
from namap.data import ImageDomain
from namap.errors import Interrupted, UsageError
from namap.export import export_mapping
from namap.generators import FaceSimulator
from namap.mapping import AENAM, NAM, VAENAM, Mapping
from namap.tensors import random_stream, to_uint8
from test_cli import call

QUICK = {"images": 4_800, "width": 8, "rate": 3e-3, "batch_size": 48}
SMALL = {"batch_size": 64, "filters": 4, "precision": "fp32"}


@pytest.fixture(scope="module")
def faces() -> ImageDomain:
    """Drawn faces in the negative: what NAM must find out about the simulator's."""
    simulator = FaceSimulator(16)
    with torch.no_grad():
        x = simulator(torch.randn(400, simulator.latent_dim, generator=random_stream(3)))
    return ImageDomain.from_array(255 - to_uint8(x).numpy())


@pytest.fixture(scope="module")
def nam(faces, tmp_path_factory):
    run = tmp_path_factory.mktemp("nam")
    NAM(FaceSimulator(16), images=8_000, queries=300, seed=1, **SMALL).fit(faces, run, quiet=True)
    return run


@pytest.fixture(scope="module")
def distilled(nam, faces, tmp_path_factory):
    run = tmp_path_factory.mktemp("distilled")
    return run, *distil(NAM.from_pretrained(nam, precision="fp32"), faces, run, quiet=True, **QUICK)


def test_one_pass_is_comparable_with_nam_and_far_from_chance(distilled, nam, faces):
    run, mapping, losses = distilled
    assert losses == json.loads((run / "metrics.json").read_text())
    assert losses["encoder"] < 0.6 * losses["chance"]
    assert losses["encoder"] < 1.5 * losses["table"]
    saved = Mapping.from_pretrained(run, precision="fp32")
    assert type(saved) is AENAM
    unseen = faces.subset(slice(300, 340))
    one_pass = saved.translate(unseen)
    np.testing.assert_array_equal(one_pass.x, mapping.translate(unseen).x)
    solved = NAM.from_pretrained(nam, precision="fp32").translate(unseen, refine=100)
    assert one_pass.losses.mean() < 1.5 * solved.losses.mean()
    assert saved.translate(unseen, refine=20).losses.mean() < one_pass.losses.mean()


def test_it_is_exported_and_t_is_nams(distilled, nam, tmp_path):
    _, mapping, _ = distilled
    assert export_mapping(mapping, tmp_path / "fast.pt2")["difference"] <= 1e-4
    before = NAM.from_pretrained(nam).mapper.state_dict()
    for name, tensor in mapping.mapper.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_an_interrupted_distillation_goes_on_to_the_same_weights(distilled, nam, faces, tmp_path, monkeypatch):
    whole = distilled[1].fitted_codes.state_dict()
    student, step = NAM.from_pretrained(nam, precision="fp32"), training.Loop.step

    def stops(self, batch):
        if self.state.step == 60:
            self.save()
            raise Interrupted
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(training.Loop, "step", stops)
        with pytest.raises(Interrupted):
            distil(student, faces, tmp_path, quiet=True, **QUICK)
    again, losses = distil(student, faces, tmp_path, quiet=True, **QUICK)
    for name, tensor in again.fitted_codes.state_dict().items():
        assert torch.equal(tensor, whole[name]), name
    assert losses == distilled[2]
    loaded, same = distil(student, faces, tmp_path, quiet=True, **QUICK)  # finished: loaded
    assert same == losses
    assert torch.equal(next(loaded.fitted_codes.parameters()), next(again.fitted_codes.parameters()))


def test_only_a_nam_and_only_the_queries_of_its_fit(nam, faces, monkeypatch, capsys, tmp_path):
    mapping = NAM.from_pretrained(nam)
    others = replace(faces, images=faces.images[::-1].copy())
    with pytest.raises(UsageError, match=r"not the queries of the fit.*unchanged"):
        distil(mapping, others, quiet=True, **QUICK)
    with pytest.raises(UsageError, match="gives 20 queries, the fit had 300"):
        distil(mapping, faces.subset(slice(0, 20)), quiet=True, **QUICK)
    with pytest.raises(UsageError, match="has an encoder already"):
        distil(VAENAM(FaceSimulator(16)), faces, quiet=True)
    with pytest.raises(UsageError, match="unknown setting 'rat' of distil; did you mean 'rate'"):
        distil(mapping, faces, quiet=True, rat=1)
    np.savez(tmp_path / "y.npz", x=faces.images)
    command = ("distil", nam, "--data", f"{tmp_path}/y.npz:x", "--outdir", tmp_path / "fast", "--images", 64, "--quiet",
               "--set", "width=8", "--set", "seed=3", "--json")  # fmt: skip
    code, out, err = call(monkeypatch, capsys, *command, "--precision", "bf16")
    assert code == 0, err
    assert json.loads(out)["losses"].keys() == {"encoder", "table", "chance"}
    for automatic in ("fp32", "bf16"):  # of this machine, and of another
        with monkeypatch.context() as there:
            there.setattr(model, "pick_precision", lambda asked, _, a=automatic: a if asked == "auto" else asked)
            code, again, err = call(monkeypatch, capsys, *command)
        assert code == 0, err
        assert json.loads(again) == json.loads(out), "auto goes on in the precision that it began with"
    assert json.loads((tmp_path / "fast" / "run.json").read_text())["run"]["seed"] == 3
    options = ("--outdir", tmp_path / "out", "--npz", "--refine", 1)
    assert call(monkeypatch, capsys, "translate", tmp_path / "fast", f"{tmp_path}/y.npz:x", *options)[0] == 0
