"""Experiments next to their rivals: what could make a number wrong."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import ablation, runner
from benchmarks.experiments import EXPERIMENTS
from benchmarks.experiments.avatars import UNSEEN, visible_labels
from benchmarks.experiments.cars import angles, residuals
from benchmarks.experiments.styles import material
from benchmarks.scene import half_images, of_recipe
from PIL import Image

from namap.errors import DataError, UsageError
from namap.recipes import complete_recipe, make_recipe


def test_angles_are_compared_after_the_better_of_equal_and_reversed():
    truth = np.repeat(np.arange(-90, 91, 15), 3).astype(float)
    found = residuals(7 - truth, truth)
    assert found.pop("each").max() == 0
    assert found == {
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
    with pytest.raises(DataError, match=r"digits_mnist5k\.npz: no such file.*benchmarks/data/README"):
        scene.load("x_train")
    readme = "# Data\n## digits_mnist5k.npz\nSource: Debian package opencv-doc.\n## other\nSource: another\n"
    (tmp_path / "README.md").write_text(readme)
    with pytest.raises(DataError, match=r"README\.md says: Debian package opencv-doc; say") as caught:
        scene.check_files()
    assert caught.value.exit_code == 3
    with pytest.raises(UsageError, match="unknown; use speed, street2digits"):
        runner.make_scene("nothing", "reference", tmp_path)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiments_settings_are_settings_of_a_fit(name):
    for settings in (EXPERIMENTS[name].ours, EXPERIMENTS[name].papers):
        make_recipe(of_recipe(settings))


@pytest.mark.parametrize(
    ("name", "side", "loss", "skip"),
    [
        ("street2digits", 32, "perceptual", False),
        ("digits2street", 32, "l1", False),  # "perceptual loss was not used in the MNIST→SVHN translation task"
        ("car2car", 64, "l2", True),  # NAM: "a simple Euclidean pixel loss was sufficient"
        ("edges2shoes", 32, "perceptual", False),
        ("bags2shoes", 32, "gram", True),
        ("avatar2face", 64, "perceptual", False),
    ],
)
def test_rows_of_the_papers_have_their_loss_and_their_t(name, side, loss, skip):
    recipe = complete_recipe("vae", loss, side, EXPERIMENTS[name].papers)
    assert {"loss": loss} == {"loss": "perceptual"} | {k: v for k, v in EXPERIMENTS[name].papers.items() if k == "loss"}
    assert (recipe.mapper, recipe.skip, recipe.filters) == ("crn", skip, 8 if side == 32 else 32)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_configuration_is_the_same_wherever_the_data_are(name, tmp_path):
    here, there = (runner.make_scene(name, "reference", tmp_path / place) for place in ("here", "there"))
    for method in runner.rows_of(here.experiment):
        assert runner.configuration(here, method, None) == runner.configuration(there, method, None)


def test_settings_of_an_ablation():
    parse = ablation.parse_change
    assert parse("as it is:") == ("as it is", {})
    assert parse(" two : beta=0.01, generator.width=8 ,rates=[1, 2]")[1] == {
        "beta": 0.01,
        "generator.width": 8,
        "rates": [1, 2],
    }
    with pytest.raises(UsageError, match="expected 'NAME:"):
        parse("beta=1")


def test_an_ablation_changes_the_mapping_or_g_and_leaves_the_test_split_alone(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", tmp_path, quick=True)
    _, _, same = ablation.vary(scene, "as it is", {})
    own = runner.configuration(scene, "generator", None)
    assert runner.configuration(same, "generator", None) == own  # which the bench may have trained already
    _, _, other = ablation.vary(scene, "wider", {"beta": "1e-2", "generator.latent_dim": 16})
    assert same.generator_cell == "generator" != other.generator_cell
    assert other.generator.latent_dim == 16 and other.ours["beta"] == 0.01
    with pytest.raises(UsageError, match="did you mean 'beta'"):
        ablation.vary(scene, "wrong", {"betta": 1})
    with pytest.raises(UsageError, match="of the generator"):
        ablation.vary(scene, "wrong", {"generator.widht": 1})
    assert ablation.vary(scene, "refined", {"refine": 30})[2].ours["refine"] == 30
    wanted = runner.configuration(other, "namap", None)
    again = runner.as_wanted(scene, wanted)
    assert again.generator == other.generator and again.ours == other.ours and again.held_out
    learnt, judged, whole = same.y_train, same.y_test, scene.y_train
    assert len(learnt) + len(judged) == len(whole) and len(judged) == len(whole) // 8
    assert not {image.tobytes() for image in judged.images} & {image.tobytes() for image in scene.y_test.images}
    assert set(learnt.names).isdisjoint(judged.names)


def test_rows_of_an_ablation_are_appended_once(tmp_path):
    for _ in range(2):
        ablation.append({"change": "a", "measures": {}}, tmp_path / "deep" / "ablation.jsonl")
    assert len((tmp_path / "deep" / "ablation.jsonl").read_text().splitlines()) == 1


def test_the_true_photo_of_a_held_out_drawing_is_its_own(shared):
    scene = runner.make_scene("edges2bags", "reference", shared)
    _, _, held_out = ablation.vary(scene, "as it is", {})
    split, rows = held_out.judged("y_test")
    assert split == "y_train" and (held_out.y_test.images == scene.load("y_train").images[rows]).all()
    assert held_out.judged("x_test") == ("x_test", slice(None))
    few = replace(held_out, queries=7)
    _, drawn = few.judged("y_test")
    assert len(drawn) == 7 and (few.y_test.images == scene.load("y_train").images[drawn]).all()
    assert {*drawn} < {*rows}


# ---- the papers' own data, as small local stand-ins -----------------------------------------------------------------


def test_pix2pix_folders_and_cars_with_angles_are_read(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("edges2shoes", "edges2handbags"):
        for split, count in (("train", 5), ("val", 3)):
            (tmp_path / name / split).mkdir(parents=True)
            for i in range(count):
                picture = rng.integers(0, 256, (32, 64, 3), np.uint8)
                Image.fromarray(picture).save(tmp_path / name / split / f"{i}.png")
    for name in ("edges2shoes", "edges2bags", "bags2shoes"):
        scene = runner.make_scene(name, "papers", tmp_path)
        scene.check_files()
        assert scene.x_train.images.shape == (5, 3, 64, 64) == scene.y_train.images.shape
        assert len(scene.x_test) == len(scene.y_test) == 3
    write_cars(tmp_path / "cars")
    scene = runner.make_scene("car2car", "papers", tmp_path)
    scene.check_files()
    assert scene.x_train.images.shape == (4, 3, 64, 64) and scene.x_train.channels == 3
    assert angles(scene, "y_test").tolist() == [-90, -30, 30, 90]
    few = replace(scene, queries=2)
    drawn = [scene.y_test.files.index(name) for name in few.y_test.files]
    assert len(drawn) == 2 and angles(few, "y_test").tolist() == [[-90, -30, 30, 90][i] for i in drawn]
    (tmp_path / "cars" / "a" / "train" / "angles.csv").write_text("file,angle\n0.png,3\n")
    with pytest.raises(DataError, match=r"angles\.csv: says no angle of 1\.png"):
        angles(scene, "x_train")
    (tmp_path / "cars" / "a" / "train" / "angles.csv").write_text("name\n0.png\n")
    with pytest.raises(DataError, match="expected columns file and angle"):
        angles(scene, "x_train")


def write_cars(folder):
    for side in "ab":
        for split in ("train", "test"):
            place = folder / side / split
            place.mkdir(parents=True)
            for i in range(4):
                Image.fromarray(np.full((40, 60, 3), (50 * i, 9, 200), np.uint8)).save(place / f"{i}.png")
            lines = ["file,angle", *(f"{i}.png,{-90 + 60 * i}" for i in range(4))]
            (place / "angles.csv").write_text("\n".join(lines) + "\n")


def test_mnist_and_svhn_come_through_torchvision(tmp_path, monkeypatch):
    from scipy.io import savemat
    from torchvision.datasets import SVHN
    from torchvision.datasets.utils import calculate_md5

    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    place = tmp_path / ".cache" / "namap" / "torchvision"
    raw = place / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for split, name, count in (("train", "train", 6), ("test", "t10k", 4)):
        digits, labels = np.full((count, 28, 28), 9, np.uint8), np.arange(count, dtype=np.uint8)
        (raw / f"{name}-images-idx3-ubyte").write_bytes(
            np.array([2051, count, 28, 28], ">u4").tobytes() + digits.tobytes()
        )
        (raw / f"{name}-labels-idx1-ubyte").write_bytes(np.array([2049, count], ">u4").tobytes() + labels.tobytes())
        file = f"{split}_32x32.mat"
        numbers = (np.arange(count, dtype=np.uint8) + 7) % 10 + 1  # 10 stands for 0 there
        savemat(place / file, {"X": np.zeros((32, 32, 3, count), np.uint8), "y": numbers[:, None]})
        monkeypatch.setitem(SVHN.split_list, split, ["", file, calculate_md5(place / file)])
    scene = runner.make_scene("street2digits", "papers", tmp_path)
    scene.check_files()
    assert scene.x_train.images.shape == (6, 1, 32, 32) and scene.x_test.labels.tolist() == [0, 1, 2, 3]
    assert scene.y_train.images.shape == (6, 3, 32, 32) and scene.y_train.labels.max() <= 9
    assert len(runner.make_scene("digits2street", "papers", tmp_path).y_test) == 4


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


def test_the_colour_of_a_beard_is_not_looked_for_above_the_forehead():
    file = {
        "hair_style_names": np.array(["NONE", "BOB"]),
        "hair_style_train": np.array([0, 1, 1], np.uint8),
        "hair_color_train": np.array([3, 3, UNSEEN], np.uint8),
        "skin_train": np.array([1, 2, 3], np.uint8),
    }
    assert visible_labels(file, "hair", "train").tolist() == [UNSEEN, 3, UNSEEN]
    assert visible_labels(file, "skin", "train").tolist() == [1, 2, 3]
    assert file["hair_color_train"].tolist() == [3, 3, UNSEEN]
