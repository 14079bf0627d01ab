"""Cells of a bench: what is measured again, what is not, and what a row costs."""

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import cells, figures, methods, runner, wanted
from benchmarks.experiment_tables import summary_table
from benchmarks.experiments import EXPERIMENTS
from benchmarks.scene import draw_queries

from namap.checkpoint import read_json, write_json
from namap.cli_bench import bench
from namap.errors import UsageError
from namap.runs import hold


def test_a_cell_of_another_configuration_is_never_mixed_in(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", tmp_path, quick=True)
    wanted = runner.configuration(scene, "copy", None)
    cell = tmp_path / "copy-0"
    assert not runner.finished(cell, wanted)
    cell.mkdir()
    write_json(cell / "result.json", {"configuration": {**wanted, "solutions": 9}})
    with pytest.raises(UsageError, match="another configuration"):
        runner.finished(cell, wanted)


def test_rows_come_after_what_they_build_on_and_some_may_get_more_time():
    experiment = EXPERIMENTS["street2digits"]
    assert runner.in_order(experiment, ["cyclegan-5x", "vae"]) == ["generator", "namap", "cyclegan-5x", "vae"]
    assert runner.in_order(experiment, ["cyclegan", "vae"], own_budget=False) == ["cyclegan", "generator", "vae"]
    longer = runner.find_row(experiment, "cyclegan-5x")
    assert runner.budget(longer, Path(), 0, 2.0) == 600 and longer.title.endswith("5× the time")
    assert runner.find_row(experiment, "vae-kl-5x").settings(runner.make_scene("street2digits", "reference", None)) == {
        "beta": 1e-3
    }
    with pytest.raises(UsageError, match="namap-5x: unknown"):
        runner.find_row(experiment, "namap-5x")


def test_rows_that_the_results_have_are_not_measured_again(tmp_path, capsys):
    scene, runs = runner.make_scene("handwriting2print", "reference", None), tmp_path / "runs"
    home = runner.cells_home(scene, runs)
    cells = [
        {"method": m, "seed": 0, "configuration": runner.configuration(scene, m, None), "measures": {"kept": kept}}
        for m, kept in (("generator", None), ("copy", 0.5), ("nearest", 0.25))
    ]
    cells[2]["configuration"]["solutions"] = 99  # another configuration: measured anew, never mixed in
    write_json(tmp_path / "handwriting2print.json", {"cells": cells})
    runner.take_recorded(scene, home, tmp_path, ["copy"], None)
    assert {p.parent.name for p in home.glob("*/result.json")} == {"generator-0", "copy-0"}
    (home / "copy-7").mkdir()
    write_json(home / "copy-7" / "result.json", cells[1])  # that an earlier version took over
    runner.take_recorded(scene, home, tmp_path, ["copy"], None)
    assert not (home / "copy-7").exists()
    assert "nearest-0: left out, as it is of another configuration: solutions (99, now" in capsys.readouterr().err
    summary = runner.run_bench("handwriting2print", [0], ["copy"], None, "reference", None, runs, tmp_path)
    assert [(c["method"], c["measures"]["kept"]) for c in summary["cells"]] == [("generator", None), ("copy", 0.5)]
    runner.forget_lost_weights(scene, home / "generator-0")
    assert not (home / "generator-0").exists()


def test_rows_of_other_data_are_never_mixed_in(tmp_path, capsys):
    root, runs = tmp_path / "data", tmp_path / "runs"
    scene = runner.make_scene("street2digits", "reference", root)
    (root / "weights").mkdir(parents=True)
    for name in ("digits_mnist5k.npz", "street_digits.npz", "weights/vgg16_hed_bsds.safetensors"):
        (root / name).write_bytes(name.encode())
    recorded = {"method": "copy", "seed": 0, "configuration": runner.configuration(scene, "copy", None)}
    write_json(tmp_path / "street2digits.json", {"files": scene.digests(), "cells": [recorded]})
    home = runner.open_cells(scene, runs)
    (root / "street_digits.npz").write_bytes(b"made again")
    runner.take_recorded(scene, home, tmp_path, ["copy"], None)
    assert not (home / "copy-0").exists()
    assert (
        "street2digits.json: left as it is, as it was measured with other files: street_digits.npz"
        in capsys.readouterr().err
    )
    with pytest.raises(UsageError, match=r"with other files: street_digits\.npz; use another --runs"):
        runner.open_cells(scene, runs)
    (root / "weights" / "vgg16_hed_bsds.safetensors").unlink()  # torchvision's would measure another distance
    with pytest.raises(UsageError, match=r"street_digits\.npz, vgg16_hed_bsds\.safetensors"):
        runner.open_cells(scene, runs)
    (root / "street_digits.npz").write_bytes(b"street_digits.npz")
    (root / "weights" / "vgg16_hed_bsds.safetensors").write_bytes(b"weights/vgg16_hed_bsds.safetensors")
    assert runner.open_cells(scene, runs) == home
    runner.take_recorded(scene, home, tmp_path, ["copy"], None)
    assert (home / "copy-0").exists()


def test_rows_are_measured_again_on_request_where_only_the_results_have_them(tmp_path, monkeypatch):
    scene, runs = runner.make_scene("handwriting2print", "reference", None), tmp_path / "runs"
    recorded = [
        {"method": m, "seed": 0, "configuration": runner.configuration(scene, m, None), "measures": {"kept": 0.5}}
        for m in ("copy", "nearest")
    ]
    write_json(tmp_path / "handwriting2print.json", {"cells": recorded})

    def measured(arguments, cell, wanted, quiet):  # the judge of the real one trains for minutes
        cell.mkdir()
        np.savez(cell / "answers.npz", x=scene.y_test.images[:, None])
        write_json(cell / "result.json", {**recorded[0], "configuration": wanted, "measures": {"kept": 0.75}})

    monkeypatch.setattr(runner, "run_cell_apart", measured)
    wanted = ("handwriting2print", [0], ["copy"], None, "reference", None, runs, tmp_path)
    summary = runner.run_bench(*wanted, anew=True)
    assert {c["method"]: c["measures"]["kept"] for c in summary["cells"]} == {"copy": 0.75, "nearest": 0.5}
    monkeypatch.setattr(runner, "run_cell_apart", None)  # what was measured here stays
    assert runner.run_bench(*wanted, anew=True) == summary


def test_answers_are_refined_and_those_of_one_pass_are_not(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", tmp_path, quick=True)
    scene = replace(scene, experiment=replace(scene.experiment, ours={"refine": 3}, solutions=2))
    methods.generator(scene, 0, 0.0, tmp_path / "generator-0")
    refined, alone = (run(scene, 0, 0.0, tmp_path / "namap-0") for run in (methods.namap, methods.with_iterations(0)))
    assert (refined.settings["refine"], alone.settings["refine"]) == (3, 0)
    assert refined.evidence["loss"] < alone.evidence["loss"] and (refined.x != alone.x).any()


def test_measures_that_need_labels_are_left_out_where_data_have_none(tmp_path):
    scene = runner.make_scene("edges2shoes", "papers", tmp_path)
    measures = {"distance": 0.2, "diversity": None}
    cells = [{"method": m, "seed": 0, "measures": measures, "configuration": {}} for m in ("namap", "copy")]
    headline = runner.measured_headline(scene, [*cells, {"method": "runtime", "measures": None}])
    assert headline == [("distance", "distance to the photo"), ("diversity", "diversity")]
    result = {"name": "edges2shoes", "what": "edges to shoes", "data": "papers", "headline": headline, "cells": cells}
    assert "| distance to the photo ↓ | 0.200 (one seed) |" in summary_table([result])


def test_the_budget_of_a_wanted_row_leaves_the_others_theirs(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", None)
    recorded = [
        {"method": method, "seed": 0, "configuration": runner.configuration(scene, method, minutes)}
        for method, minutes in (("cyclegan", None), ("discogan", 5.0), ("distancegan", 5.0))
    ]
    write_json(tmp_path / "handwriting2print.json", {"cells": recorded})
    runner.take_recorded(scene, tmp_path / "cells", tmp_path, ["discogan"], 7.0)
    assert {p.parent.name for p in tmp_path.glob("cells/*/result.json")} == {"cyclegan-0", "distancegan-0"}
    runner.take_recorded(scene, tmp_path / "cells", tmp_path, ["cyclegan"], 7.0)  # though it was taken before
    assert {p.parent.name for p in tmp_path.glob("cells/*/result.json")} == {"discogan-0", "distancegan-0"}


def recorded_cells(scene, results, **budgets):
    """Results of every row: G and namap with three seeds, the others with seed 1."""
    seeds = {"generator": (0, 1, 2), "namap": (0, 1, 2)}
    cells = [
        {
            "method": method,
            "seed": seed,
            "configuration": runner.configuration(scene, method, budgets.get(method)),
            "measures": {"kept": 0.5},
            "processor": "one of long ago",
        }
        for method in runner.rows_of(scene.experiment)
        for seed in seeds.get(method, (1,))
    ]
    write_json(results / "handwriting2print.json", {"cells": cells, "files": scene.digests()})


def test_what_the_results_have_is_shown_with_the_seeds_and_budgets_that_it_has(tmp_path, monkeypatch):
    recorded_cells(runner.make_scene("handwriting2print", "reference", None), tmp_path, cyclegan=40.0)
    monkeypatch.setattr(runner, "run_cell_apart", None)  # nothing is measured
    asked = (None, "reference", None, tmp_path / "runs", tmp_path)
    shown = runner.run_bench("handwriting2print", None, None, *asked)
    assert len(shown["taken"]) == len(shown["cells"]) and not shown["missing"]
    assert {c["configuration"]["budget_min"] for c in shown["cells"] if c["method"] == "cyclegan"} == {40.0}
    assert runner.run_bench("handwriting2print", None, ["cyclegan"], *asked)["cells"] == shown["cells"]


def test_a_budget_of_another_processor_is_refused_before_anything_is_trained(tmp_path, monkeypatch):
    recorded_cells(runner.make_scene("handwriting2print", "reference", None), tmp_path)
    measured = []
    monkeypatch.setattr(runner, "run_cell_apart", lambda arguments, cell, *rest: measured.append(cell.name))
    asked = ("handwriting2print", None, ["discogan"])
    with pytest.raises(UsageError, match="took its time on one of long ago"):
        runner.run_bench(*asked, None, "reference", None, tmp_path / "runs", tmp_path, anew=True)
    assert not measured
    runner.run_bench(*asked, 5.0, "reference", None, tmp_path / "runs", tmp_path, anew=True)
    assert measured == ["discogan-1"]  # and no G, of which it needs nothing


def test_a_row_that_builds_on_lost_weights_has_them_trained_again_first(tmp_path, monkeypatch):
    recorded_cells(runner.make_scene("handwriting2print", "reference", None), tmp_path)
    measured = []
    monkeypatch.setattr(runner, "run_cell_apart", lambda arguments, cell, *rest: measured.append(cell.name))
    asked = ("handwriting2print", None, ["bound"], None, "reference", None, tmp_path / "runs", tmp_path)
    runner.run_bench(*asked, anew=True)
    assert measured == ["generator-1", "bound-1"]


def test_results_of_other_files_are_left_alone(tmp_path, monkeypatch, capsys):
    scene = runner.make_scene("handwriting2print", "reference", None)
    recorded_cells(scene, tmp_path)
    path = tmp_path / "handwriting2print.json"
    before = read_json(path)
    write_json(path, before | {"files": dict.fromkeys(scene.digests(), "another")})
    kept = path.read_bytes()

    def measured(arguments, cell, wanted, quiet):
        cell.mkdir()
        np.savez(cell / "answers.npz", x=scene.y_test.images[:, None])
        write_json(cell / "result.json", {**before["cells"][0], "method": "copy", "seed": 0, "configuration": wanted})

    monkeypatch.setattr(runner, "run_cell_apart", measured)
    found = runner.run_bench("handwriting2print", None, ["copy"], None, "reference", None, tmp_path / "runs", tmp_path)
    assert "left as it is, as it was measured with other files" in capsys.readouterr().err
    assert path.read_bytes() == kept and not (tmp_path / "handwriting2print.png").exists()
    assert Path(found["written"], "handwriting2print.json").is_file() and len(found["cells"]) == 1


def test_a_row_that_is_the_same_for_every_seed_is_measured_once(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", None)
    recorded = {"configuration": runner.configuration(scene, "copy", None), "measures": {"kept": 0.5}}
    write_json(tmp_path / "handwriting2print.json", {"cells": [{"method": "copy", "seed": 1, **recorded}]})
    found = runner.run_bench("handwriting2print", [2], ["copy"], None, "reference", None, tmp_path / "runs", tmp_path)
    assert [(c["method"], c["seed"]) for c in found["cells"]] == [("copy", 0)]
    assert wanted.seeds_of(scene.experiment, ["copy", "nearest"], [1, 2]) == [0]
    assert wanted.seeds_of(EXPERIMENTS["runtime"], ["generator", "runtime"], [0, 1, 2]) == [0]
    assert wanted.seeds_of(scene.experiment, ["generator"], [1, 2]) == [1, 2]
    assert wanted.seeds_of(scene.experiment, ["copy", "namap"], [1, 2]) == [1, 2]


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
        runner.borrow_generator(scene, runner.configuration(scene, "generator", None), cell)
        return (cell / "final" / "weights").exists()

    write_json(lender.parent / "files.json", shoes.digests())
    assert not borrowed(bags), "it is still being trained"
    write_json(lender / "result.json", {})
    write_json(lender.parent / "files.json", dict.fromkeys(shoes.digests(), "of another folder"))
    assert not borrowed(bags)
    write_json(lender.parent / "files.json", shoes.digests())
    assert borrowed(bags) and not borrowed(other)
    assert not (cells["bags2shoes"] / "result.json").exists(), "whose judge is another"


def test_namap_without_its_vote_stands_below_namap():
    scene = runner.make_scene("street2digits", "reference", None)
    rows = [*runner.rows_of(scene.experiment)]
    assert rows[rows.index("namap") + 1] == "without-vote"
    ours, without = (runner.configuration(scene, m, None)["settings"] for m in ("namap", "without-vote"))
    assert ours["kinds"] and without == ours | {"kinds": 0}


@pytest.mark.parametrize("held_out", [False, True])
def test_a_figure_shows_queries_that_every_row_answers(held_out, tmp_path):
    scene = replace(runner.make_scene("handwriting2print", "reference", None), held_out=held_out)
    queries = scene.y_test.images[:, None]
    some = replace(scene, queries=20).y_test.images[:, None]
    assert len(some) == 20 < len(queries)
    for method, x in (("generator", queries[:3]), ("copy", queries), ("nearest", some)):
        (tmp_path / f"{method}-0").mkdir()
        np.savez(tmp_path / f"{method}-0" / "answers.npz", x=x)
    strips = figures.draw(scene, tmp_path, {"generator": "", "copy": "query", "nearest": "query"}, {})
    assert [*strips] == ["query", "copy", "nearest", "generator"]
    assert strips["query"].tobytes() == strips["copy"].tobytes() == strips["nearest"].tobytes()


def test_a_row_that_answers_only_some_queries_says_so():
    scene = runner.make_scene("handwriting2print", "reference", None)
    wanted = {m: runner.configuration(scene, m, None) for m in ("nam", "ae")}
    count = wanted["nam"]["queries"]
    assert f"{count} queries" in runner.find_row(scene.experiment, "nam").title
    seen = runner.as_wanted(scene, wanted["nam"]).y_test
    assert len(seen) == count and len(set(seen.names)) == count
    assert [*seen.labels] == [*scene.y_test.labels[draw_queries(len(scene.y_test))[:count]]]
    few = replace(scene, queries=7)
    assert len(few.x_test) == 7 and (few.whole.x_test.images == scene.x_test.images).all(), "a judge is judged on all"
    assert "queries" not in wanted["ae"] and len(runner.as_wanted(scene, wanted["ae"]).y_test) == len(scene.y_test)


def test_a_figure_shows_the_lowest_seed_of_a_row(tmp_path):
    scene = runner.make_scene("handwriting2print", "reference", None)
    queries = scene.y_test.images[:, None]
    for cell, x in (("cyclegan-5x-0", 255 - queries), ("cyclegan-10", 255 - queries), ("cyclegan-2", queries)):
        (tmp_path / cell).mkdir()
        np.savez(tmp_path / cell / "answers.npz", x=x)
        write_json(tmp_path / cell / "result.json", {})
    strips = figures.draw(scene, tmp_path, {"cyclegan": "query", "cyclegan-5x": "query", "discogan": "query"}, {})
    assert [*strips] == ["query", "cyclegan", "cyclegan-5x"]
    assert strips["query"].tobytes() == strips["cyclegan"].tobytes() != strips["cyclegan-5x"].tobytes()


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
    renamed = figures.draw(scene, tmp_path, {**titles, "copy": "copy"}, before)["copy"]
    assert (
        renamed.tobytes()
        == figures.titled(whole["copy"].crop((figures.MARGIN, 0, *whole["copy"].size)), "copy").tobytes()
    )
    assert renamed.tobytes() != whole["copy"].tobytes(), "with today's title"
    assert again["nearest"].tobytes() != whole["nearest"].tobytes()
    assert [*figures.draw(scene, tmp_path, titles, {})] == ["query", "nearest"], "never another row's pictures"


def test_a_rival_gets_the_seconds_of_the_generator_and_the_mapping(tmp_path):
    for method, seconds in (("generator", 30.0), ("namap", 40.0)):
        (tmp_path / f"{method}-1").mkdir()
        took = {"seconds": {"processor": seconds, "wall": 999.0}, "processor": runner.processor(), "settings": {}}
        write_json(tmp_path / f"{method}-1" / "result.json", took)
    rows = runner.rows_of(EXPERIMENTS["street2digits"])
    assert runner.budget(rows["discogan"], tmp_path, 1, None) == 70
    assert runner.budget(rows["vae"], tmp_path, 1, None) == 40
    assert runner.budget(rows["copy"], tmp_path, 1, None) == 0
    result = tmp_path / "namap-1" / "result.json"
    write_json(result, took | {"seconds": {"processor": 40.0, "answering": 15.0}})
    assert runner.budget(rows["vae"], tmp_path, 1, None) == 25, "answering is no training"
    write_json(result, took | {"settings": {"refine": 100}})
    with pytest.raises(UsageError, match=r"namap-1: does not say how long its answers.*; --method namap --anew"):
        runner.budget(rows["vae"], tmp_path, 1, None)
    for there, said in (({"processor": "ABACUS in fp64"}, "ABACUS in fp64"), ({}, "an unknown processor")):
        write_json(result, {"seconds": read_json(result)["seconds"], "settings": {}, **there})
        with pytest.raises(UsageError, match=rf"namap-1: took its time on {said}, not .*; --method namap --anew"):
            runner.budget(rows["discogan"], tmp_path, 1, None)
    assert runner.budget(rows["discogan"], tmp_path, 1, 1.0) == 60


def test_an_ablation_refuses_what_it_would_ignore():
    for option in ({"method": "nam"}, {"budget_min": 1.0}, {"anew": True}):
        with pytest.raises(UsageError, match=next(iter(option)).replace("_", "-")):
            bench("street2digits", ablate=["a: beta=1"], **option)
