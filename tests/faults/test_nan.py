"""NaN and infinity from anywhere: the weights stay, half the rate, three times; then exit 4 with the step and name."""

import itertools
import math
import random

import pytest
import tiny
import torch

from namap import checkpoint, snapshots
from namap.errors import DivergedError, StorageError

STEPS, AT = 6, 3


def break_images(loop, fails, value):
    batch = loop.batch

    def broken(step):
        found = batch(step)
        return found._replace(images=found.images * value) if fails(step) else found

    loop.batch = broken


def break_loss(loop, fails, value):
    updates = loop.task.updates

    def broken(batch):
        for update in updates(batch):
            yield update._replace(loss=update.loss * value) if fails(loop.state.step) else update

    loop.task.updates = broken


def break_gradient(loop, fails, value):
    weight = next(p for name, p in loop.task.modules["codes"].named_parameters() if name.endswith("weight"))
    weight.register_hook(lambda gradient: gradient * value if fails(loop.state.step) else gradient)


def break_generator(loop, fails, value):
    loop.task.generator.register_forward_hook(lambda g, z, x: x * value if fails(loop.state.step) else x)


SOURCES = {
    "an image of the batch": break_images,
    "the loss of networks": break_loss,
    r"the gradient of codes\.": break_gradient,
    r"the loss of networks \(.*diversity.*\)": break_generator,
}


def watch(loop) -> list[bool]:
    """Whether the weights were the same before and after each step that broke."""
    step, same = loop.step, []

    def watched(batch):
        before = [p.clone() for m in loop.task.modules.values() for p in m.parameters()]
        found = step(batch)
        if found[0]:
            now = [p for m in loop.task.modules.values() for p in m.parameters()]
            same.append(all(map(torch.equal, before, now)))
        return found

    loop.step = watched
    return same


@pytest.mark.parametrize(("said", "value"), [(s, v) for s in SOURCES for v in (math.nan, math.inf)])
def test_nan_and_infinity_touch_no_weight(said, value, tmp_path, capsys):
    loop, count = tiny.loop(tmp_path / "thrice", STEPS), itertools.count()
    SOURCES[said](loop, lambda step: step == AT and next(count) < 3, value)
    same = watch(loop)
    loop.run_all()
    assert same == [True] * 3
    assert loop.state.scale == 1 / 8
    assert capsys.readouterr().err.count(f"at step {AT}; back to step {AT} with half the learning rate") == 3
    loop = tiny.loop(tmp_path / "always", STEPS)
    SOURCES[said](loop, lambda step: step == AT, value)
    same = watch(loop)
    with pytest.raises(DivergedError, match=f"{said}.* is not finite at step {AT}, after 3 rollbacks") as error:
        loop.run_all()
    assert (error.value.exit_code, same) == (4, [True] * 4)
    assert sorted(p.name for p in (tmp_path / "always" / "checkpoints").iterdir()) == ["000000002", "000000003"]


@pytest.mark.parametrize("seconds", [0, 1000])
def test_a_bad_weight_reaches_no_checkpoint(seconds, tmp_path, monkeypatch):
    """Neither one in between nor the result of the last step."""
    loop = tiny.loop(tmp_path, STEPS)
    object.__setattr__(loop.run, "checkpoint_seconds", seconds)
    bad_at = STEPS if seconds else AT

    def spoil(step):
        if step == bad_at:
            with torch.no_grad():
                next(loop.task.modules["mapper"].parameters()).fill_(math.inf)

    loop.task.after_step = spoil
    with pytest.raises(DivergedError, match=rf"the weight of mapper\..* is not finite at step {bad_at}"):
        loop.run_all()
    for folder in (tmp_path / "checkpoints").iterdir():
        assert all(torch.isfinite(t).all() for t in checkpoint.load_directory(folder)[0].values())


def flip(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def test_a_good_checkpoint_is_not_rotated_away_by_bad_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshots, "KEPT", 3)
    tiny.loop(tmp_path, STEPS).run_all()
    monkeypatch.undo()
    names = sorted(p.name for p in (tmp_path / "checkpoints").iterdir())
    assert names == ["000000004", "000000005", "000000006"]
    for name in names[1:]:
        flip(tmp_path / "checkpoints" / name / "model.safetensors", random.Random(0))
    loop = tiny.loop(tmp_path, STEPS)
    loop.restore()
    assert loop.state.step == 4
    loop.save()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["000000004"]


def test_a_checkpoint_without_its_manifest_is_passed_over_and_replaced(tmp_path, capsys):
    tiny.loop(tmp_path, STEPS).run_all()
    newest = tmp_path / "checkpoints" / f"{STEPS:09d}"
    whole = checkpoint.load_directory(newest)[0]
    (newest / "manifest.json").unlink()
    tiny.loop(tmp_path, STEPS).run_all()
    assert str(newest) in capsys.readouterr().err
    again = checkpoint.load_directory(newest)[0]
    assert all(torch.equal(again[name], whole[name]) for name in whole)


def test_200_damages_of_checkpoints_are_passed_over_and_named(tmp_path, capsys):
    tiny.loop(tmp_path, STEPS).run_all()
    loop, rng = tiny.loop(tmp_path, STEPS), random.Random(0)
    older, newer = sorted((tmp_path / "checkpoints").iterdir())
    for case in range(200):
        path = newer / rng.choice(["model.safetensors", "config.json", "manifest.json"])
        whole = path.read_bytes()
        if case % 2:
            flip(path, rng)
        else:
            path.write_bytes(whole[: rng.randrange(len(whole))])
        loop.restore()
        err = capsys.readouterr().err
        if loop.state.step == STEPS:  # only white space of the manifest may change without notice
            assert (path.name, err) == ("manifest.json", "")
        else:
            assert loop.state.step == STEPS - 1
            assert str(newer) in err
            assert path.name in err or path.name == "manifest.json", err  # whose sums then accuse another file
        path.write_bytes(whole)
    for folder in (older, newer):
        flip(folder / "model.safetensors", rng)
    with pytest.raises(StorageError, match="no sound checkpoint") as error:
        loop.restore()
    assert error.value.exit_code == 5
