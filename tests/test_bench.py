"""Experiments next to their rivals: what could make a number wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import runner
from benchmarks.baselines import RIVALS, CycleGAN, DistanceGAN
from benchmarks.baselines.cyclegan import Pool
from benchmarks.baselines.distancegan import distances
from benchmarks.experiments import EXPERIMENTS
from benchmarks.experiments.cars import residuals
from benchmarks.experiments.styles import material
from benchmarks.scene import half_images
from PIL import Image

from namap.checkpoint import write_json
from namap.data import load_domain
from namap.errors import DataError, UsageError
from namap.recipes import make_recipe
from namap.tensors import from_numpy, random_stream
from namap.training import Batch, Run, train


@pytest.fixture(scope="module")
def domains():
    return load_domain("embedded:typeset/train").subset(slice(0, 40)), load_domain("embedded:handwriting/train")


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_that_was_interrupted_ends_with_the_same_weights(name, domains, tmp_path):
    x, y = domains[0], domains[1].subset(slice(0, 40))
    kind = type("Small", (RIVALS[name],), {"batch_size": min(RIVALS[name].batch_size, 8)})
    run = Run(4 * kind.batch_size, kind.batch_size, 0, quiet=True, checkpoint_seconds=0)

    def weights(outdir, dies_at=None):
        rival = kind(x, y, 0)
        if dies_at is not None:
            rival.after_step = lambda step: die() if step == dies_at else None
        train(rival, y, run, outdir)
        return torch.cat([p.flatten() for module in rival.modules.values() for p in module.state_dict().values()])

    with pytest.raises(RuntimeError, match="killed"):
        weights(tmp_path / "broken", dies_at=3)
    resumed, straight = weights(tmp_path / "broken"), weights(tmp_path / "straight")
    assert torch.equal(resumed, straight) and straight.isfinite().all()


def die():
    raise RuntimeError("killed")


def test_cyclegan_pool_gives_old_images_back_and_lives_in_checkpoints():
    pool, rng = Pool(1, 4), torch.Generator().manual_seed(0)
    for i in range(50):
        image = torch.full((1, 1, 4, 4), float(i))
        assert pool.swap(image, rng) is image
    seen = [float(pool.swap(torch.full((1, 1, 4, 4), 99.0), rng)[0, 0, 0, 0]) for _ in range(40)]
    assert 5 < sum(value != 99.0 for value in seen) < 35
    assert {"kept", "count"} <= pool.state_dict().keys()


def test_distances_are_of_all_pairs_and_standardised(domains):
    x, y = domains
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert distances(images).tolist() == [1.0, 2.0, 1.0]
    rival = DistanceGAN(x, y.subset(slice(0, 40)), 0)
    assert all(0.05 < mean < 1 and 0 < std < mean for mean, std in rival.scales)


def test_critics_do_not_learn_from_the_translators_step(domains):
    x, y = domains[0], domains[1].subset(slice(0, 8))
    rival = CycleGAN(x, y, 0)
    before = [p.clone() for p in rival.critic_x.parameters()]
    updates = rival.updates(first_batch(y))
    next(updates).loss.mean().backward()
    assert all(p.grad is None for p in rival.critic_x.parameters())
    next(updates).loss.mean().backward()
    assert all(
        torch.equal(p, q) and p.grad is not None for p, q in zip(rival.critic_x.parameters(), before, strict=True)
    )


def first_batch(y):
    return Batch(torch.arange(1), from_numpy(y.images[:1]), None, random_stream(0), 0, 0.0)


def test_angles_are_compared_after_the_better_of_equal_and_reversed():
    truth = np.repeat(np.arange(-90, 91, 15), 3).astype(float)
    assert residuals(7 - truth, truth) == {
        "angle": 0.0,
        "angle_any_line": pytest.approx(0, abs=1e-6),
        "within_10_degrees": 1.0,
        "relation": "reversed",
    }
    collapsed = residuals(np.zeros_like(truth), truth)  # a line of slope 0 would call this perfect
    assert collapsed["angle"] > 40 and collapsed["angle_any_line"] < 1e-6


def test_material_is_of_the_object_not_of_its_size():
    image = np.zeros((2, 1, 16, 16), np.uint8)
    image[0, 0, 4:12, 4:12] = 100
    image[1, 0, 1:15, 1:15] = 100
    found = material(image)
    assert found["brightness"].tolist() == [100, 100] and found["texture"].tolist() == [0, 0]


def test_both_halves_of_a_pix2pix_picture(tmp_path):
    picture = np.zeros((8, 16, 3), np.uint8)
    picture[:, 8:] = 200
    Image.fromarray(picture).save(tmp_path / "1.png")
    left, right = (half_images(f"{tmp_path}#{half}", 8).images for half in "AB")
    assert left.max() == 0 and right.min() == 200
    with pytest.raises(DataError, match="pix2pix layout"):
        half_images(f"{tmp_path / 'none'}#A")


def test_missing_data_is_named(tmp_path):
    scene = runner.make_scene("street2digits", "reference", tmp_path)
    with pytest.raises(DataError, match=r"digits_mnist5k\.npz: no such file.*README"):
        scene.load("x_train")
    with pytest.raises(UsageError, match="unknown; use speed, street2digits"):
        runner.make_scene("nothing", "reference", tmp_path)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_settings_are_settings_of_a_fit(name):
    for settings in (EXPERIMENTS[name].ours, EXPERIMENTS[name].papers):
        make_recipe(settings)


def test_a_cell_of_another_configuration_is_never_mixed_in(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", tmp_path, quick=True)
    wanted = runner.configuration(scene, "copy", None)
    cell = tmp_path / "copy-0"
    assert not runner.finished(cell, wanted)
    cell.mkdir()
    write_json(cell / "result.json", {"configuration": {**wanted, "solutions": 9}})
    with pytest.raises(UsageError, match="another configuration"):
        runner.finished(cell, wanted)


@pytest.mark.slow
def test_a_bench_from_the_command_line(shared, tmp_path):
    what = ["bench", "handwriting2print", "--method", "nearest", "--seeds", "0", "--quick", "--quiet", "--json"]
    where = ["--runs", str(tmp_path), "--data-root", str(shared)]
    root = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-m", "namap", *what, *where], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = json.loads(done.stdout)["cells"]
    assert [c["method"] for c in cells] == ["nearest"]
    assert all(0 <= c["measures"]["kept"] <= 1 and c["commit"] for c in cells)
    assert (tmp_path / "handwriting2print-reference-quick" / "handwriting2print.png").exists()
