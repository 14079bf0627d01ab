"""Experiments next to their rivals: what could make a number wrong."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import ablation, cells, figures, runner
from benchmarks.baselines import RIVALS, CycleGAN, DiscoGAN, DistanceGAN
from benchmarks.baselines.adversarial import answer, settle
from benchmarks.baselines.cyclegan import Pool
from benchmarks.baselines.distancegan import distances
from benchmarks.experiments import EXPERIMENTS
from benchmarks.experiments.avatars import UNSEEN, visible_labels
from benchmarks.experiments.cars import angles, residuals
from benchmarks.experiments.styles import material
from benchmarks.scene import half_images
from PIL import Image

from namap.checkpoint import read_json, write_json
from namap.data import ImageDomain, load_domain
from namap.errors import DataError, UsageError
from namap.recipes import make_recipe
from namap.runs import hold
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


def test_a_rival_answers_with_the_statistics_of_queries_alone(domains):
    """In training its Y -> X also gets translations; what these leave behind would colour every answer."""
    x, y = domains[0], domains[1].subset(slice(0, 100))
    rival = DiscoGAN(x, y, 0)
    images = from_numpy(y.images)
    with torch.no_grad():
        expected = rival.to_x(images)
        for _ in range(5):
            rival.to_x(torch.zeros_like(images))
    rival.to_x.eval()
    settle(rival, y)
    found = torch.from_numpy(answer(rival, y)[:, 0]).float() / 127.5 - 1
    assert (found - expected).abs().max() < 0.02


@pytest.mark.parametrize("name", ["discogan", "distancegan"])
def test_rivals_pair_angles_with_the_settings_published_for_it(name):
    settings = EXPERIMENTS["car2car"].rivals[name]
    domain = ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (8, 3, 64, 64), np.uint8))
    rival = RIVALS[name](domain, domain, 0, **settings)
    assert rival.rates == (0.9, 0.9)
    narrow = min(m.out_channels for m in rival.to_x.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (1, 1))
    assert narrow == 100
    assert len(rival.critic_x(from_numpy(domain.images))[1]) == 2, "of four levels"
    assert answer(rival, domain).shape == (8, 1, 3, 64, 64)


def first_batch(y):
    return Batch(torch.arange(1), from_numpy(y.images[:1]), None, random_stream(0), 0, 0.0)


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


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_configuration_is_the_same_wherever_the_data_are(name, tmp_path):
    here, there = (runner.make_scene(name, "reference", tmp_path / place) for place in ("here", "there"))
    for method in runner.rows_of(here.experiment):
        assert runner.configuration(here, method, None) == runner.configuration(there, method, None)


def test_rows_come_after_what_they_build_on_and_rivals_may_get_more_time():
    experiment = EXPERIMENTS["street2digits"]
    assert runner.in_order(experiment, ["cyclegan-5x", "vae"]) == ["generator", "namap", "cyclegan-5x", "vae"]
    assert runner.in_order(experiment, ["cyclegan", "vae"], own_budget=False) == ["cyclegan", "generator", "vae"]
    longer = runner.find_row(experiment, "cyclegan-5x")
    assert runner.budget(longer, Path(), 0, 2.0) == 600 and longer.title.endswith("5× the time")
    with pytest.raises(UsageError, match="namap-5x: unknown"):
        runner.find_row(experiment, "namap-5x")


def test_rows_that_the_results_have_are_not_measured_again(tmp_path):
    scene, runs = runner.make_scene("handwriting2print", "reference", None), tmp_path / "runs"
    home = runner.cells_home(scene, runs)
    cells = [
        {"method": m, "seed": 0, "configuration": runner.configuration(scene, m, None), "measures": {"kept": kept}}
        for m, kept in (("generator", None), ("copy", 0.5), ("nearest", 0.25))
    ]
    cells[2]["configuration"]["solutions"] = 99  # another configuration: measured anew, never mixed in
    write_json(tmp_path / "handwriting2print.json", {"cells": cells})
    runner.take_recorded(scene, home, tmp_path, None)
    assert {p.parent.name for p in home.glob("*/result.json")} == {"generator-0", "copy-0"}
    summary = runner.run_bench("handwriting2print", [0], ["copy"], None, "reference", None, runs, tmp_path)
    assert [(c["method"], c["measures"]["kept"]) for c in summary["cells"]] == [("generator", None), ("copy", 0.5)]
    runner.forget_lost_generator(scene, home / "generator-0")
    assert not (home / "generator-0").exists()


def test_a_row_that_is_the_same_for_every_seed_is_measured_once(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", None)
    recorded = {"configuration": runner.configuration(scene, "copy", None), "measures": {"kept": 0.5}}
    write_json(tmp_path / "handwriting2print.json", {"cells": [{"method": "copy", "seed": 1, **recorded}]})
    found = runner.run_bench("handwriting2print", [2], ["copy"], None, "reference", None, tmp_path / "runs", tmp_path)
    assert [(c["method"], c["seed"]) for c in found["cells"]] == [("copy", 0)]
    assert runner.seeds_of(scene.experiment, ["copy", "nearest"], [1, 2]) == [0]
    assert runner.seeds_of(EXPERIMENTS["runtime"], ["generator", "runtime"], [0, 1, 2]) == [0]
    assert runner.seeds_of(scene.experiment, ["generator"], [1, 2]) == [1, 2]
    assert runner.seeds_of(scene.experiment, ["copy", "namap"], [1, 2]) == [1, 2]


def test_what_a_cell_costs_is_noted_as_it_passes_and_adds_up(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "NOTED_EVERY", 0.01)
    with cells.cost(tmp_path):
        while not (tmp_path / "cost.json").exists():
            time.sleep(0.01)
    first = read_json(tmp_path / "cost.json")
    with cells.cost(tmp_path) as spent:
        time.sleep(0.05)
    assert spent["wall"] >= first["wall"] + 0.05
    assert read_json(tmp_path / "cost.json") == spent


def test_a_bench_that_is_stopped_stops_its_cell_in_order(tmp_path):
    command = [sys.executable, "-m", "namap", "bench", "handwriting2print", "--quick", "--seeds", "0", "--quiet"]
    cell = tmp_path / "handwriting2print-reference-quick" / "generator-0"
    with subprocess.Popen([*command, "--method", "generator", "--runs", tmp_path], cwd=cells.ROOT) as bench:
        while not (cell / "run.json").exists():
            assert bench.poll() is None
            time.sleep(0.05)
        bench.terminate()
    assert bench.returncode == 143
    assert read_json(cell / "cost.json")["processor"] > 0
    with hold(cell):
        assert not (cell / "result.json").exists(), "it had ended, and not by finishing"


def test_experiments_share_the_generator_of_the_same_images(tmp_path):
    shoes, bags, other = (runner.make_scene(n, "reference", None) for n in ("edges2shoes", "bags2shoes", "edges2bags"))
    cells = {s.experiment.name: runner.cells_home(s, tmp_path) / "generator-1" for s in (shoes, bags, other)}
    lender = cells["edges2shoes"]
    (lender / "final").mkdir(parents=True)
    (lender / "final" / "weights").write_text("of shoes")
    write_json(lender / "wanted.json", runner.configuration(shoes, "generator", None))

    def borrowed(scene) -> bool:
        cell = cells[scene.experiment.name]
        runner.borrow_generator(runner.configuration(scene, "generator", None), cell)
        return (cell / "final" / "weights").exists()

    assert not borrowed(bags), "it is still being trained"
    write_json(lender / "result.json", {})
    assert borrowed(bags) and not borrowed(other)
    assert not (cells["bags2shoes"] / "result.json").exists(), "whose judge is another"


def test_a_figure_shows_queries_that_every_row_answers(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", None)
    queries = scene.y_test.images[:, None]
    for method, x in (("generator", queries[:3]), ("copy", queries), ("nearest", queries[:20])):
        (tmp_path / f"{method}-0").mkdir()
        np.savez(tmp_path / f"{method}-0" / "answers.npz", x=x)
    strips = figures.draw(scene, tmp_path, {"generator": "", "copy": "query", "nearest": "query"}, {})
    assert [*strips] == ["query", "generator", "copy", "nearest"]
    assert strips["query"].tobytes() == strips["copy"].tobytes() == strips["nearest"].tobytes()


def test_a_row_whose_answers_are_gone_keeps_its_strip_of_the_figure(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", None)
    titles = {"copy": "the query itself", "nearest": "nearest neighbour in X"}
    rng = np.random.default_rng(0)
    for method in titles:
        (tmp_path / f"{method}-0").mkdir()
        x = rng.integers(0, 256, (len(scene.y_test), 1, 1, 32, 32), np.uint8)
        np.savez(tmp_path / f"{method}-0" / "answers.npz", x=x)
    whole = figures.draw(scene, tmp_path, titles, {})
    assert [*whole] == ["query", "copy", "nearest"]
    figures.stack(whole).save(tmp_path / "figure.png")
    (tmp_path / "copy-0" / "answers.npz").unlink()
    np.savez(tmp_path / "nearest-0" / "answers.npz", x=255 - x)  # measured anew
    before = figures.cut(tmp_path / "figure.png", [(name, strip.height) for name, strip in whole.items()])
    assert [*figures.draw(scene, tmp_path, titles, before)] == ["query", "nearest"], (
        "no result of today's configuration"
    )
    write_json(tmp_path / "copy-0" / "result.json", {})
    again = figures.draw(scene, tmp_path, titles, before)
    assert [*again] == [*whole]
    assert again["copy"].tobytes() == whole["copy"].tobytes()
    assert again["nearest"].tobytes() != whole["nearest"].tobytes()
    assert [*figures.draw(scene, tmp_path, titles, {})] == ["query", "nearest"], "never another row's pictures"


def test_a_rival_gets_the_seconds_of_the_generator_and_the_mapping(tmp_path):
    for method, seconds in (("generator", 30.0), ("namap", 40.0)):
        (tmp_path / f"{method}-1").mkdir()
        took = {"seconds": {"processor": seconds, "wall": 999.0}, "processor": runner.processor()}
        write_json(tmp_path / f"{method}-1" / "result.json", took)
    rows = runner.rows_of(EXPERIMENTS["street2digits"])
    assert runner.budget(rows["discogan"], tmp_path, 1, None) == 70
    assert runner.budget(rows["vae"], tmp_path, 1, None) == 40
    assert runner.budget(rows["copy"], tmp_path, 1, None) == 0
    result = tmp_path / "namap-1" / "result.json"
    for there, said in (({"processor": "ABACUS in fp64"}, "ABACUS in fp64"), ({}, "an unknown processor")):
        write_json(result, {"seconds": read_json(result)["seconds"], **there})
        with pytest.raises(UsageError, match=rf"namap-1: took its time on {said}, not .*; remove it"):
            runner.budget(rows["discogan"], tmp_path, 1, None)
    assert runner.budget(rows["discogan"], tmp_path, 1, 1.0) == 60


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
