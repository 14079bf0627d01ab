"""Generators that others pickled: refused without a word of trust, read as data first, then checked like any other."""

import json
import pickle
import sys

import pytest
import torch
from torch import nn

from foreigners import SMALL, Boom, Detached, save_program, save_script, spatial_module
from namap.errors import UsageError
from namap.generators import load_generator
from namap.mapping import VAENAM, Mapping
from test_cli import call


class Marked(nn.Module):
    """That says when it is unpickled."""

    def __init__(self):
        super().__init__()
        self.inner = spatial_module()

    def __setstate__(self, state):
        print("its code runs")
        super().__setstate__(state)

    def forward(self, z):
        return self.inner(z)


@pytest.fixture
def namap(monkeypatch, capsys):
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.mark.faults
@pytest.mark.parametrize("new", [True, False])
def test_a_trusted_pickle_is_announced_and_checked_like_any_generator(new, tmp_path, capsys):
    path = tmp_path / "g.pt"
    torch.save(Marked(), path, _use_new_zipfile_serialization=new)
    with pytest.raises(UsageError, match=r"runs whatever code it holds .* --trust-pickle") as error:
        load_generator(path)
    assert (error.value.exit_code, capsys.readouterr()) == (2, ("", ""))
    generator = load_generator(path, trust_pickle=True)
    out, err = capsys.readouterr()
    assert out == "its code runs\n"
    assert (err.count("\n"), "g.pt: is unpickled on your word (--trust-pickle)" in err) == (1, True)
    assert (generator.latent_dim, generator.image_size) == (10, 16)
    z = torch.randn(3, 10)
    torch.testing.assert_close(generator(z), spatial_module()(z[:, :, None, None]))
    torch.save(Detached(), path, _use_new_zipfile_serialization=new)
    with pytest.raises(UsageError, match="no gradient"):
        load_generator(path, trust_pickle=True)


@pytest.mark.faults
def test_what_is_no_module_is_read_as_plain_data_and_said(tmp_path, capsys, monkeypatch):
    path = tmp_path / "g.pt"
    torch.save(spatial_module().state_dict(), path)
    for trusted in (False, True):
        with pytest.raises(UsageError, match=r"holds a OrderedDict \(a state dict\?\) and no module"):
            load_generator(path, trust_pickle=trusted)
    assert capsys.readouterr().err == "", "nothing had to be trusted"
    whole = path.read_bytes()
    for content in (whole[:-200], pickle.dumps(spatial_module().state_dict()), b"\x80\x02"):
        path.write_bytes(content)
        with pytest.raises(UsageError) as error:
            load_generator(path, trust_pickle=True)
        assert "\n" not in str(error.value)
    torch.save(Marked(), path)
    monkeypatch.delattr(sys.modules[__name__], "Marked")
    with pytest.raises(UsageError, match=r"cannot be unpickled|needs code that is not here"):
        load_generator(path, trust_pickle=True)
    (tmp_path / "script.pt").write_bytes(save_script(spatial_module(), tmp_path / "s").read_bytes())
    save_program(spatial_module(), tmp_path / "program.pt2")
    capsys.readouterr()
    for name in ("script.pt", "program.pt2"):  # archives are not pickles: nothing to trust
        load_generator(tmp_path / name, trust_pickle=True)
    assert capsys.readouterr().err == ""


@pytest.mark.faults
def test_a_saved_mapping_never_makes_namap_unpickle(handwriting, tmp_path):
    path = tmp_path / "g.pt"
    torch.save(Marked(), path)
    mapping = VAENAM(load_generator(path, trust_pickle=True), **SMALL)
    mapping.build(1, len(handwriting))
    mapping.save_pretrained(tmp_path / "m")
    torch.save(Boom(), tmp_path / "boom.pt")
    for options, problem in (
        ({}, "is a pickle"),
        ({"trust_pickle": True}, "goes with --generator"),
        ({"generator": path}, "is a pickle"),
        ({"generator": tmp_path / "boom.pt"}, "is a pickle"),
    ):
        with pytest.raises(UsageError, match=problem):
            Mapping.from_pretrained(tmp_path / "m", **options)
    assert Mapping.from_pretrained(tmp_path / "m", generator=path, trust_pickle=True).latent_dim == 10


def test_the_verbs_take_a_trusted_pickle(namap, tmp_path):
    path = tmp_path / "g.pt"
    torch.save(Marked(), path)
    code, out, err = namap("check-generator", path, "--trust-pickle", "--json")
    assert (code, json.loads(out.removeprefix("its code runs\n"))["latent_dim"]) == (0, 10), err
    fit = ("fit", "--generator", path, "--data", "embedded:handwriting/test", "--outdir", tmp_path / "m",
           "--images", 64, "--quiet", "--set", "encoder-width=4")  # fmt: skip
    assert namap(*fit)[0] == 2
    code, _, err = namap(*fit, "--trust-pickle")
    assert code == 0, err
    source = "embedded:handwriting/test"
    for command in (
        ("translate", tmp_path / "m", source, "--npz", "--outdir", tmp_path / "o"),
        ("report", tmp_path / "m", "--data", source, "-o", tmp_path / "r.html"),
        ("ground", tmp_path / "m", tmp_path / "m", source, "--npz", "--outdir", tmp_path / "g"),
        ("explore", tmp_path / "m", source, "--outdir", tmp_path / "e"),
        ("export", tmp_path / "m", "-o", tmp_path / "m.onnx"),
        ("push", tmp_path / "m", "you/faces", "--card-only", tmp_path / "card"),
    ):
        code, _, err = namap(*command)
        assert (code, "--trust-pickle" in err, err.count("\n")) == (2, True, 1)
        code, _, err = namap(*command, "--generator", path, "--trust-pickle")
        assert code == 0, err
