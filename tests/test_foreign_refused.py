"""Generators that others made, and that are refused: pickles, code, damage, and references that do not hold."""

import contextlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from foreigners import SMALL, Boom, save_program, save_script, save_scripted, spatial_module
from namap.errors import NamapError, UsageError
from namap.generators import load_generator, wrap_generator
from namap.mapping import VAENAM, Mapping

# ---- what is refused --------------------------------------------------------------------------------------------


class Writer(nn.Module):
    def __init__(self, path: str):
        super().__init__()
        self.inner, self.path = nn.Linear(10, 256), path

    def forward(self, z):
        torch.save(z, self.path)
        return torch.tanh(self.inner(z)).view(-1, 1, 16, 16)


class Restored(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.training = nn.Linear(10, 256), False

    def forward(self, z):
        return torch.tanh(self.inner(z)).view(-1, 1, 16, 16)

    @torch.jit.export
    def __getstate__(self):
        return (self.inner.weight, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]):
        print("restored")
        self.training = state[1]


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["module", "state", "old format", "plain", "protocol 4"])
def test_a_pickle_is_refused_and_nothing_of_it_is_executed(kind, tmp_path):
    import pickle

    path = tmp_path / "g.pt"
    if kind in ("plain", "protocol 4"):
        path.write_bytes(pickle.dumps(Boom(), protocol=4 if kind == "protocol 4" else None))
    else:
        content = {"weight": torch.zeros(3), "boom": Boom()} if kind == "state" else Boom()
        torch.save(content, path, _use_new_zipfile_serialization=kind != "old format")
    with pytest.raises(UsageError, match="trust-pickle"):
        load_generator(path)


def rezip(source: Path, target: Path, change) -> Path:
    """A copy of an archive whose records are `change`d, stored as torch stores them."""
    with zipfile.ZipFile(source) as old:
        records = {name.partition("/")[2]: old.read(name) for name in old.namelist()}
    writer = torch._C.PyTorchFileWriter(str(target))
    for name, content in change(records).items():
        if name not in (".data/serialization_id", "version", ".data/version"):
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return target


def boom_archive() -> bytes:
    import io

    file = io.BytesIO()
    torch.save(Boom(), file)
    return file.getvalue()


def in_model(old: str, new: str):
    return lambda r: {**r, "models/model.json": r["models/model.json"].replace(old.encode(), new.encode())}


HOSTILE = {
    "pickled inputs": (lambda r: {**r, "data/sample_inputs/model.pt": boom_archive()}, "pickled sample inputs"),
    "pickled weights": (
        lambda r: {
            **r,
            "data/weights/weight_0": boom_archive(),
            "data/weights/model_weights_config.json": r["data/weights/model_weights_config.json"].replace(
                b'"use_pickle": false', b'"use_pickle": true', 1
            ),
        },
        "pickled weights",
    ),
    "pickled state": (lambda r: {**r, "data/weights/model.pt": boom_archive()}, r"holds data/weights/model\.pt"),
    "a library": (lambda r: {**r, "data/aotinductor/model/a.so": b"\x7fELF"}, "holds data/aotinductor"),
    "a call": (in_model("torch.ops.aten.tanh.default", "torch.os.system"), r"operator torch\.os\.system"),
    "a file": (in_model("torch.ops.aten.tanh.default", "torch.ops.aten.from_file.default"), "operator"),
    "an expression": (
        in_model("Symbol('", "__import__('os').system('true') + Symbol('"), "expression __import__",
    ),
}  # fmt: skip


@pytest.mark.faults
@pytest.mark.parametrize("name", HOSTILE)
def test_a_program_that_does_more_than_compute_is_refused(name, tmp_path):
    change, problem = HOSTILE[name]
    whole = save_program(spatial_module(), tmp_path / "whole.pt2")
    load_generator(rezip(whole, tmp_path / "same.pt2", lambda r: r))
    with pytest.raises(UsageError, match=problem):
        load_generator(rezip(whole, tmp_path / "hostile.pt2", change))


class Named(Writer):
    """Whose size of a code is a property, which would be computed by a call."""

    @property
    def nz(self) -> int:
        torch.save(torch.zeros(1), self.path)
        return 10

    def forward(self, z):
        return torch.tanh(self.inner(z)).view(-1, 1, 16, 16)


def hook(module, codes: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    torch.save(codes[0], "written by a hook")
    return codes


@pytest.mark.faults
def test_a_script_that_does_more_than_compute_is_refused(tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written = tmp_path / "written"
    hooked = Named(str(written))
    hooked.register_forward_pre_hook(hook)
    with pytest.raises(UsageError, match="__forward_pre_hooks__"):
        load_generator(save_scripted(hooked, tmp_path / "hooked.pt"))
    assert not (tmp_path / "written by a hook").exists()
    save_scripted(Named(str(written)), tmp_path / "named.pt")
    written.unlink()  # scripting asks for the property
    with contextlib.suppress(UsageError):
        load_generator(tmp_path / "named.pt")
    assert not written.exists()
    with pytest.raises(UsageError, match="operator aten::save"):
        load_generator(save_scripted(Writer(str(written)), tmp_path / "writer.pt"))
    assert not written.exists()
    save_scripted(Restored(), tmp_path / "restored.pt")
    capfd.readouterr()
    with pytest.raises(UsageError, match="__setstate__"):
        load_generator(tmp_path / "restored.pt")
    assert "restored" not in capfd.readouterr().out


@pytest.mark.parametrize("save", [save_script, save_program])
def test_a_truncated_or_damaged_archive_is_one_line(save, tmp_path):
    whole = save(spatial_module(), tmp_path / "whole").read_bytes()
    rng = np.random.default_rng(0)
    path = tmp_path / "g.pt"
    for end in (0, 3, 100, len(whole) // 2, len(whole) - 300, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(UsageError) as error:
            load_generator(path)
        assert "\n" not in str(error.value)
    for _ in range(40):
        content = bytearray(whole)
        content[rng.integers(len(content))] ^= 1 << rng.integers(8)
        path.write_bytes(content)
        try:
            load_generator(path)
        except NamapError as error:
            assert error.exit_code == 2
            assert "\n" not in str(error)


def test_a_batch_that_was_fixed_at_export_is_said(tmp_path):
    with pytest.raises(UsageError, match="dynamic"):
        load_generator(save_program(spatial_module(), tmp_path / "g.pt2", dynamic=False))


def test_weights_without_values_or_on_several_devices_are_named():
    module = spatial_module()
    with pytest.raises(UsageError, match="meta device"):
        wrap_generator(spatial_module().to("meta"))
    module[3].to("meta")
    with pytest.raises(UsageError, match="spread over cpu, meta"):
        wrap_generator(module)


def test_a_part_of_a_generator_that_does_not_move_with_it_is_one_line(monkeypatch):
    class Stays(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.shift = spatial_module(), torch.zeros(())

        def forward(self, z):
            return self.inner(z) + self.shift

    generator = wrap_generator(Stays())
    generator.module.shift = torch.zeros(1, 1, 1, 1, device="meta")
    monkeypatch.setattr("namap.fitting.device_of", lambda module: torch.device("cuda:0"))  # as if it came from there
    with pytest.raises(UsageError, match="on cpu") as error:
        VAENAM(generator)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["latent_dim", "image_range", "spatial", "stage", "source", "weights"])
@pytest.mark.parametrize("value", [None, "x", -1, [], {"spec": 3}, [1.0, 1.0], 10**30])
def test_references_of_strangers_are_checked(key, value, handwriting, tmp_path):
    from namap import checkpoint

    path = save_script(spatial_module(), tmp_path / "g.pt")
    mapping = VAENAM(load_generator(path), **SMALL)
    mapping.build(1, len(handwriting))
    mapping.save_pretrained(tmp_path / "m")
    config = checkpoint.read_json(tmp_path / "m" / "config.json")
    if config["generator"][key] == value:
        return
    config["generator"][key] = value
    tensors, _ = checkpoint.load_directory(tmp_path / "m")
    checkpoint.save_directory(tmp_path / "m", tensors, config)
    if key == "stage" and type(value) is int:
        Mapping.from_pretrained(tmp_path / "m")  # of no meaning where there is one image
        return
    with pytest.raises(NamapError) as error:
        Mapping.from_pretrained(tmp_path / "m")
    assert "\n" not in str(error.value)
