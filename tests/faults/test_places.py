"""Directories that are somebody else's, and links out of those that are ours: nothing of theirs is lost or read."""

import json
import os
import shutil

import pytest
import tiny
import torch
from PIL import Image

from namap import checkpoint
from namap.errors import NamapError, StorageError, UsageError
from namap.mapping import Mapping
from test_cli import call


def contents(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("name", ["checkpoints/best.pt", "final/thesis.tex", "metrics.jsonl", "tensorboard/events"])
def test_a_directory_of_somebody_else_is_left_as_it_was(tmp_path, name):
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("months of work")
    with pytest.raises(UsageError, match="is no run of namap") as error:
        tiny.fit("vae", tmp_path)
    assert error.value.exit_code == 2
    assert {k: v for k, v in contents(tmp_path).items() if k != ".lock"} == {name: b"months of work"}


@pytest.mark.parametrize("kind", ["directory", "file", "link"])
def test_a_model_is_saved_over_a_model_only(tmp_path, kind):
    target, theirs = tmp_path / "target", tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes").write_text("months of work")
    if kind == "directory":
        theirs.rename(target)
    elif kind == "file":
        target.write_text("months of work")
    else:
        target.symlink_to(theirs)
    before = contents(tmp_path)
    with pytest.raises(StorageError, match="would be replaced"):
        checkpoint.save_directory(target, {"a": torch.zeros(1)}, {})
    assert contents(tmp_path) == before
    for name in ("new", "new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        checkpoint.save_directory(tmp_path / name, {"a": torch.zeros(1)}, {})


@pytest.mark.parametrize("name", ["report.html", "map.onnx", "map.pt2"])
def test_one_file_of_somebody_else_is_left_as_it_was(tmp_path, monkeypatch, capsys, name):
    tiny.fit("vae", tmp_path / "run", 2)
    output = tmp_path / name
    verb = ("report", "--data", "embedded:handwriting/test", "--queries", 4) if name.endswith("html") else ("export",)
    command = (verb[0], tmp_path / "run", *verb[1:], "-o", output)
    output.write_text("months of work")
    code, _, err = call(monkeypatch, capsys, *command)
    assert (code, err.count("\n"), "and would be lost" in err) == (2, 1, True)
    assert output.read_text() == "months of work"
    output.unlink()
    for _ in range(2):  # ours is replaced
        assert call(monkeypatch, capsys, *command)[0] == 0


def test_what_else_lies_beside_checkpoints_stays(tmp_path):
    tiny.loop(tmp_path, 2).run_all()
    for name in ("2019", "000000001-best"):
        (tmp_path / "checkpoints" / name).mkdir()
    tiny.loop(tmp_path, 4).save()  # rotates
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} >= {"2019", "000000001-best"}


def test_no_link_is_followed_to_what_would_be_emptied_or_deleted(tmp_path, monkeypatch, capsys):
    theirs = tmp_path / "theirs"
    (theirs / "000000001").mkdir(parents=True)
    (theirs / "notes").write_text("months of work")
    before, run = contents(theirs), tmp_path / "run"
    run.mkdir()
    (run / ".lock").symlink_to(theirs / "notes")
    with pytest.raises(StorageError, match=r"run: cannot be written"):
        tiny.fit("vae", run)
    (run / ".lock").unlink()
    for name in ("checkpoints", "final", "metrics.jsonl"):
        (run / name).symlink_to(theirs / ("notes" if name == "metrics.jsonl" else ""))
    (run / ".final.0123456789ab").symlink_to(theirs)
    with pytest.raises(UsageError, match="is no run of namap"):
        tiny.fit("vae", run)
    assert not (run / ".final.0123456789ab").is_symlink(), "swept away"
    (run / "run.json").write_text("{}")
    fit = (
        "fit",
        "--generator",
        "simulator:face",
        "--data",
        "embedded:handwriting/test",
        "--outdir",
        run,
        "--overwrite",
    )
    code, _, err = call(monkeypatch, capsys, *fit, "--images", 64, "--quiet", "--set", "encoder_width=4")
    assert code == 0, err
    assert (run / "final" / "manifest.json").is_file()
    assert contents(theirs) == before
    assert (theirs / "000000001").is_dir()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tiny.fit("vae", tmp_path_factory.getbasetemp() / "places", 2)
    return tmp_path_factory.getbasetemp() / "places" / "final"


@pytest.mark.parametrize("name", ["manifest.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["link", "blobs of another place", "fifo"])
def test_nothing_outside_of_a_model_is_read(model, tmp_path, name, how, monkeypatch):
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / name).write_bytes((model / name).read_bytes())
    home = tmp_path / "hub" / "snapshots" / "0" if how == "blobs of another place" else tmp_path / "m"
    shutil.copytree(model, home)
    (home / name).unlink()
    if how == "fifo":
        os.mkfifo(home / name)
    elif how == "link":
        (home / name).symlink_to(secret / name)
    else:
        (tmp_path / "hub" / "blobs").symlink_to(secret)
        (home / name).symlink_to(f"../../blobs/{name}")
    opened = []
    read_text, sha256 = checkpoint.Path.read_text, checkpoint.file_sha256
    monkeypatch.setattr(checkpoint.Path, "read_text", lambda p, *a: opened.append(p.resolve()) or read_text(p, *a))
    monkeypatch.setattr(checkpoint, "file_sha256", lambda p: opened.append(p.resolve()) or sha256(p))
    with pytest.raises(NamapError, match=r"plain file|not a directory that namap saved"):
        Mapping.from_pretrained(home)
    assert secret / name not in opened


def test_a_checkpoint_of_a_stranger_is_one_line(tmp_path):
    """Whose manifest fits: other tensors, other moments, another step than a run of this kind can have."""
    tiny.loop(tmp_path, 2).run_all()
    newest = max((tmp_path / "checkpoints").iterdir())
    tensors, config = checkpoint.load_directory(newest)
    state, moment = config["state"], next(k for k in tensors if k.startswith("optimizer") and k.endswith("exp_avg"))
    step = moment.replace("exp_avg", "step")
    configs = [{}, {"state": 3}, {"state": {}}, *({"state": {**state, k: v}} for k, v in (
        ("step", -1), ("step", 10**9), ("step", "1"), ("scale", 0.0), ("scale", 10**9), ("scale", float("nan")),
        ("rollbacks", None), ("seconds", float("inf")), ("log", [1]), ("__class__", "x"),
    ))]  # fmt: skip
    others = [
        {k: t for k, t in tensors.items() if k != moment},
        {k: t for k, t in tensors.items() if k != step},
        tensors | {moment: tensors[moment][:1]},
        tensors | {step: torch.zeros(3)},
        tensors | {step: torch.zeros(1, 1)},
        tensors | {step: torch.tensor(float("nan"))},
        *(tensors | {f"optimizer.networks.{k}": torch.zeros(1)} for k in ("x", "9999.exp_avg", "-1.step", "0.x", "")),
        tensors | {"module.mapper.more": torch.zeros(1)},
    ]
    for content in (*((tensors, c) for c in configs), *((t, config) for t in others)):
        checkpoint.save_directory(newest, *content)
        with pytest.raises(StorageError) as error:
            tiny.loop(tmp_path, 2).restore()
        assert "\n" not in str(error.value)
    checkpoint.save_directory(newest, tensors, config)
    loop = tiny.loop(tmp_path, 2)
    loop.restore()
    assert loop.state.step == 2


def test_names_that_a_terminal_would_obey_are_spelled_out(model, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "queries"
    folder.mkdir()
    odd = ["new\nline", "\x1b[2J\x1b]0;owned\x07", "<img src=x onerror=alert(1)>", "a|b`c`", "\udcff\udcfe", "‮gnp"]
    for i, name in enumerate(odd * 20):
        Image.new("L", (32, 32), 2 * i).save(folder / f"{i}{name}.png")
        if i < len(odd):
            (folder / f"{name}.png").write_bytes(b"no picture")
    for command in (
        ("check-data", folder),
        ("translate", model, folder, "--outdir", tmp_path / "out"),
        ("translate", model, folder, "--outdir", tmp_path / "npz", "--npz"),
        ("report", model, "--data", folder, "-o", tmp_path / "report.html"),
        ("match", folder, folder, "--outdir", tmp_path / "match"),
    ):
        code, out, err = call(monkeypatch, capsys, *command, "--quiet")
        assert code == 0, err
        assert all(c.isprintable() or c == "\n" for c in out + err)
    assert len(list((tmp_path / "out").glob("*.png"))) == len(odd) * 20
    assert "<img src=x" not in (tmp_path / "report.html").read_text()
    rows = [json.loads(line) for line in (tmp_path / "out" / "skipped.jsonl").read_text().splitlines()]
    assert {row["path"] for row in rows} == {str(folder / f"{name}.png") for name in odd}
    for name in odd:
        code, _, err = call(monkeypatch, capsys, "translate", tmp_path / name, folder, "--outdir", tmp_path / "no")
        assert (code, err.count("\n")) == (2, 1)
        assert all(c.isprintable() or c == "\n" for c in err)


def test_a_card_spells_out_what_a_stranger_wrote(model, tmp_path):
    from namap.card import write_card

    evil = "`|</script><img src=x onerror=alert(1)>\n[a](javascript:b)"
    mapping = Mapping.from_pretrained(model, precision="fp32")
    mapping.data = evil
    checkpoint.write_json(tmp_path / "evaluation.json", {evil: 0.5})
    (tmp_path / "queries").mkdir()
    write_card(mapping, tmp_path / "card", "me/model", None, x=evil, y=evil, run=tmp_path)
    text = (tmp_path / "card" / "README.md").read_text()
    assert "0.5" in text
    assert not any(part in text for part in ("<img", "</script", "](javascript", "`|"))


@pytest.mark.parametrize(
    "record", [{"task": 3}, {"run": []}, {"data": {}}, {"source": ["x"]}, {"task": {"generator": 3}}]
)
def test_a_report_of_a_run_of_a_stranger_is_whole_or_one_line(model, tmp_path, monkeypatch, capsys, record):
    home = tmp_path / "run"
    shutil.copytree(model, home / "final")
    checkpoint.write_json(home / "run.json", record)
    row = {"step": 1, "images": 16, "seconds": 0.1, "<script>alert(1)</script> $x^{$": 0.5}
    (home / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    command = ("report", home, "--data", "embedded:handwriting/test", "--queries", 30, "-o", tmp_path / "report.html")
    code, _, err = call(monkeypatch, capsys, *command, "--quiet")
    if isinstance(record.get("task"), dict):
        assert code == 0, err
        assert "<script>alert(1)" not in (tmp_path / "report.html").read_text()
    else:
        assert (code, err.count("\n")) == (5, 1)
