"""RESULTS.md, the summary of README and ABLATION.md from results alone: what is never mixed, and what is visible."""

import json
import re
import sys
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import tables
from benchmarks.experiment_tables import (
    ablation_page,
    check,
    experiment_section,
    realism_table,
    spread,
    summary_table,
    verdict,
)
from benchmarks.experiments import EXPERIMENTS
from benchmarks.wanted import configuration, make_scene

from namap.errors import StorageError, UsageError
from namap.recipes import complete_recipe

CONFIGURATION = {
    "sources": {"x_train": "a"},
    "solutions": 4,
    "held_out": False,
    "generator": {"width": 8},
    "settings": {},
}


def cell(method, seed, kept, **more):
    return {
        "method": method,
        "seed": seed,
        "configuration": CONFIGURATION,
        "measures": {"kept": kept, "kid": 3.0, "judge_on_x": 0.99},
        "settings": {"batch_size": 128},
        "evidence": {"loss": 0.5, "loss_tells": 0.1},
        "seconds": {"processor": 120.0, "wall": 130.0},
        "images_seen": 2000,
        "peak_memory_gb": 1.5,
        "threads": 1,
        "commit": "abcdef0123",
        **more,
    }


@pytest.fixture
def result():
    cells = [cell("namap", s, k) for s, k in enumerate((0.8, 0.9))]
    cells += [cell("vae", 0, 0.3), cell("copy", 0, 0.1)]
    cells += [cell(m, 0, k, settings={"updates": 1500}) for m, k in (("cyclegan", 0.5), ("discogan", 0.4))]
    return {
        "name": "street2digits",
        "what": "house numbers to digits; digit kept",
        "data": "reference",
        "published": "37.4%",
        "headline": {"kept": "digit kept", "kid": "KID"},
        "missing": ["DistanceGAN"],
        "rows": {"namap": "namap", "vae": "VAE-NAM", "cyclegan": "CycleGAN", "discogan": "DiscoGAN", "copy": "copy"},
        "cells": cells,
    }


def test_a_section_says_what_a_reader_must_know(result):
    page = "\n".join(experiment_section(result, None))
    assert "| **namap** | `namap` | 85.0% ± 7.1% | 3.00 ± 0.0 | 2 | 2.0k | 2.0 | 1.5 GB | abcdef0 |" in page
    for words in ("the reference data", "37.4%", "--method ROW", "held-out real X: 99.0%", "0.100 ± 0.0", "Threads: 1"):
        assert words in page
    assert "Not measured yet: DistanceGAN." in page
    assert "different commits" not in page and "Processor: not recorded of the first rows." in page
    result["cells"] += [
        cell("nearest", 0, 0.4, processor="AVX2 in fp32"),
        cell("ae", 0, 0.4, processor="AVX512 in bf16"),
    ]
    assert "Processor: AVX2 in fp32, AVX512 in bf16, not recorded of" in "\n".join(experiment_section(result, None))


def test_judges_of_several_machines_are_all_said(result):
    result["cells"][4]["measures"]["judge_on_x"] = 0.97
    text = "\n".join(experiment_section(result, None))
    assert "The judges on held-out real X: 99.0% (`namap`, `vae`, `copy`, `discogan`); 97.0% (`cyclegan`)." in text


def test_a_section_says_when_realism_is_not_told(result):
    for share, said in ((0.2, False), (0.99, True)):
        result["cells"][3]["measures"]["taken_for_x"] = share
        assert ("tells little here" in "\n".join(experiment_section(result, None))) == said


def test_a_section_says_how_many_steps_the_rivals_had(result):
    asked = {**CONFIGURATION, "budget_min": 22.0}
    result["cells"][-2]["configuration"] = asked
    result["cells"][-1]["seconds"]["granted"] = 600.0
    text = "\n".join(experiment_section(result, None))
    assert (
        "each had time for: VAE-NAM 15; CycleGAN 1,500 in 22 minutes; DiscoGAN 1,500 in 10 minutes. Published" in text
    )


def test_another_commit_is_shown_and_another_configuration_refused(result):
    result["cells"][2]["commit"] = "fffffff9999+"
    page = "\n".join(experiment_section(result, None))
    assert "different commits" in page and "fffffff+" in page and "not committed" in page
    for change, words in (
        ({"settings": {"beta": 1}}, "seeds of namap have different configurations"),
        ({"sources": {"x_train": "b"}}, "seeds of namap"),
    ):
        mixed = deepcopy(result)
        mixed["cells"][1]["configuration"] = {**CONFIGURATION, **change}
        with pytest.raises(UsageError, match=words):
            check(mixed)
    mixed = deepcopy(result)
    mixed["cells"][4]["configuration"] = {**CONFIGURATION, "generator": {"width": 9}}
    with pytest.raises(UsageError, match="cyclegan was measured with other generator"):
        check(mixed)


def test_rows_of_another_generator_are_named(result):
    def said() -> str:
        return "\n".join(experiment_section(result, None)).partition("Measured with another G")[2]

    samples = {**deepcopy(result["cells"][0]), "method": "generator"}
    result["cells"].append(samples)
    assert not said(), "nothing is known of either"
    samples["weights_of_g"] = "abc"
    assert f"`{result['cells'][0]['method']}` {samples['seed']}" in said()
    for cell in result["cells"]:
        cell["weights_of_g"] = "abc"
    assert not said()
    next(c for c in result["cells"] if c["method"] == "vae")["weights_of_g"] = "def"
    assert re.search(r"samples: `vae` \d\.", said()), "rivals have none"


def test_the_summary_takes_the_best_of_each_kind(result):
    line = summary_table([result]).splitlines()[-1]
    assert line == (
        "| house numbers → digits (`street2digits`) | digit kept ↑ | 85.0% ± 7.1% | 30.0% (VAE-NAM) | 50.0% (CycleGAN) "
        "| 10.0% |  | 37.4% |"
    )
    assert realism_table([result]).splitlines()[-1] == "| `street2digits` | 3.00 | 3.00 | 3.00 |  | 3.00 |  |  |"
    result["headline"] = {"kid": "KID"}
    result["cells"][-1]["measures"]["kid"] = 2.0
    assert "KID ↓ |" in summary_table([result]) and "2.00 (DiscoGAN)" in summary_table([result]), "less is better"
    assert summary_table([]) == ""


def test_ablations_keep_configurations_apart_and_rank_the_criterion():
    def row(change, seed, kept, loss, configuration):
        own = {"change": change, "experiment": "street2digits", "settings_changed": configuration}
        return {**cell("namap", seed, kept, configuration=configuration, evidence={"loss": loss}), **own}

    rows = [row("as it is", s, 0.8, 0.4 + s / 10, {}) for s in (0, 1)]
    rows += [row("late", 0, 0.6, 0.7, {"freedom": 0.9}), row("late", 0, 0.5, 0.8, {"freedom": 0.8})]
    page = ablation_page(rows)
    assert page.count("| late |") == 2 and "`freedom=0.9`" in page
    assert "| as it is |  | 80.0% | " in page.replace(" ± 0.0%", "")
    assert "lower held-out loss with `kept`: 0.95 over 4 runs" in page


def test_a_damaged_row_of_an_ablation_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    (tmp_path / "ablation.jsonl").write_text('{"change": "a", "experiment": "b", "measures": {}}\n{"change": 1}\n')
    with pytest.raises(StorageError, match=r"ablation\.jsonl:2"):
        tables.ablations()


def test_pages_are_those_of_the_results(tmp_path, monkeypatch, result):
    """What is committed was written by the command; a result that is refused leaves the pages alone."""
    assert tables.RESULTS.read_text() == tables.results_page()
    assert f"<!-- results -->\n{tables.results_block()}\n<!-- /results -->" in tables.README.read_text()
    monkeypatch.setattr(tables, "FOLDER", tmp_path)
    for name in ("RESULTS", "README", "ABLATION"):
        monkeypatch.setattr(tables, name, tmp_path / f"{name}.md")
    tables.README.write_text("<!-- results -->\n<!-- /results -->\n")
    (tmp_path / "demo.json").write_text('{"seeds": {}}')
    result["cells"][1]["configuration"] = {}
    (tmp_path / "street2digits.json").write_text(json.dumps(result))
    with pytest.raises(UsageError, match="different configurations"):
        tables.main()
    assert not tables.RESULTS.exists()


def test_rows_of_other_settings_than_todays_are_said(result):
    scene = make_scene("street2digits", "reference", None)
    for one in result["cells"]:
        one["configuration"] = configuration(scene, one["method"], None)
    assert tables.outdated(result) == {}
    result["cells"][-1]["configuration"] = {**result["cells"][-1]["configuration"], "settings": {"rates": [1, 1]}}
    result["outdated"] = tables.outdated(result)
    words = "**`discogan` was measured with other settings than today's**: settings.rates ([1, 1], now None)."
    assert words in "\n".join(experiment_section(result, None))


def test_rows_of_other_defaults_than_todays_are_said(result):
    """A default that has changed is in no row's configuration, but in what its mapping was fitted with."""
    scene, ours = make_scene("street2digits", "reference", None), {**EXPERIMENTS["street2digits"].ours}
    cell = {**result["cells"][0], "method": "namap", "configuration": configuration(scene, "namap", None)}
    fitted = json.loads(json.dumps(asdict(complete_recipe("vae", "appearance", 32, ours))))
    assert tables.outdated({**result, "cells": [{**cell, "settings": {**fitted, "seed": 2}}]}) == {}
    assert tables.outdated({**result, "cells": [{**cell, "settings": {**fitted, "vote_at": 0.5}}]}) == {
        "namap": "vote_at (0.5, now 0.6)"
    }


def test_a_generator_called_like_a_paper_has_no_time_of_its_own(result):
    """A row `vae-h` is no row `vae` with more time, and has no batch size."""
    own = {**result["cells"][0], "method": "vae-h", "settings": {"beta": 1}}
    own["measures"] = {**own["measures"], "confidence_on_samples": 0.7}
    section = "\n".join(experiment_section({**result, "name": "generators", "cells": [own]}, None))
    assert "`vae-h`" in section and "Mean confidence" not in section


def test_the_order_of_generators_is_confirmed_or_not():
    kept = {"vae-l": 0.5, "sn-gan": 0.7, "dcgan": 0.8}
    assert verdict(kept).endswith(
        "dcgan 80.0%, sn-gan 70.0%, vae-l 50.0%. The paper's order, DCGAN and SN-GAN before the others, is confirmed."
    )
    assert "not confirmed" in verdict({**kept, "vae-l": 0.75})


def test_spread_of_nothing_of_one_and_of_two():
    assert [spread([]), spread([None]), spread([0.5], True), spread([1.0, 3.0])] == ["", "", "50.0%", "2.00 ± 1.4"]
