import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from namap import cli
from namap.codes import QueryTable
from namap.data import ImageDomain, load_domain
from namap.errors import DataError, UsageError
from namap.evaluation import train_classifier
from namap.generators import FaceSimulator, load_generator, train_generator
from namap.generators.families import dcgan
from namap.mapping import AENAM, NAM, VAENAM, WAENAM
from namap.report import charts, report_runs
from namap.report.page import LARGEST, image_grid, tile

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SMALL = {"images": 128, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}
TEST = "embedded:handwriting/test"


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A generator, a mapping that names its queries, and one that cannot."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = dcgan.Recipe(latent_dim=6, images=640, width=8)
    generator = train_generator("embedded:typeset/test", recipe, folder / "g", precision="fp32", quiet=True)
    VAENAM(generator, **SMALL).fit(TEST, folder / "vae", quiet=True)
    images = np.random.default_rng(0).integers(0, 256, (40, 1, 32, 32), np.uint8)
    np.savez(folder / "y.npz", x=images)
    WAENAM(generator, seed=3, **SMALL).fit(f"{folder}/y.npz:x", folder / "wae", quiet=True)
    return folder


def page(*runs: Path, **options) -> tuple[str, dict]:
    output = runs[0].parent / "page.html"
    result = report_runs(list(runs), output, **options)
    html = output.read_text()
    assert "http" not in html, "the page names a network"
    assert len(html) < 3_000_000
    return html, result


def titles(html: str) -> list[str]:
    return re.findall("<h2>(.*?)</h2>", html)


@pytest.mark.parametrize("kind", [NAM, AENAM, VAENAM])  # WAE-NAM's stands beside another one below
def test_every_method_has_a_report(generator, handwriting, tmp_path, monkeypatch, kind):
    monkeypatch.setattr(QueryTable, "refine", 20)
    kind(generator, **SMALL).fit(handwriting, tmp_path / "run", quiet=True)
    html, result = page(tmp_path / "run", data=TEST, queries=6, solutions=3)
    several = ["Solutions"] if kind in (NAM, VAENAM) else []
    assert titles(html) == [
        "Analogies at a glance", *several, "Best by loss", "Worst by loss", "Training", "Codes", "The generator",
        "Settings", "Timings and versions",
    ]  # fmt: skip
    assert html.count('alt="analogy"') == 6 + 3 + 3
    numbers = result["runs"][str(tmp_path / "run")]
    assert numbers["method"] == kind.method
    assert ("KL of each dimension" in html) == ("informative_dimensions" in numbers) == (kind is VAENAM)


def test_runs_side_by_side_answer_the_same_queries(work, tmp_path):
    html, result = page(work / "vae", work / "wae", data=TEST, queries=10, quiet=True)
    assert result["queries"] == 10
    assert titles(html)[0] == "In numbers"
    rows = re.findall(r'<tr class="marked"><th scope="row">(.*?)</th>', html)
    assert {"method", "seed", "beta", "queries of the fit"} <= set(rows)
    assert "batch size" not in rows
    assert html.count('alt="query') == 10 + 8 + 5 + 5


def test_a_warped_mapping_between_sizes_and_channels(tmp_path):
    y = ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (40, 1, 32, 32), np.uint8))
    mapping = VAENAM(FaceSimulator(64), warp=True, query_size=32, **SMALL)
    mapping.fit(y, tmp_path / "warp", quiet=True)
    VAENAM(FaceSimulator(32), **SMALL).fit(y, tmp_path / "plain", quiet=True)
    html, _ = page(tmp_path / "warp", tmp_path / "plain", data=TEST, queries=4)
    assert "warp" in re.findall(r'<tr class="marked"><th scope="row">(.*?)</th>', html)


def test_the_queries_of_the_fit_are_found_or_asked_for(work, generator, handwriting, tmp_path):
    assert page(work / "vae", queries=4)[1]["queries"] == 4
    (work / "y.npz").rename(work / "moved.npz")
    with pytest.raises(UsageError, match=r"cannot be read again .*; give --data SRC"):
        page(work / "wae", queries=4)
    with pytest.raises(UsageError, match=r"different queries .*; give --data SRC"):
        page(work / "vae", work / "wae")
    (work / "moved.npz").rename(work / "y.npz")
    with pytest.raises(DataError, match="nowhere"):
        page(work / "vae", data="nowhere")
    record = json.loads((work / "wae" / "run.json").read_text())
    assert record.pop("source") == f"{work}/y.npz:x"
    (work / "wae" / "run.json").write_text(json.dumps(record))  # as runs were before they recorded it
    with pytest.raises(UsageError, match="names no queries; give --data SRC"):
        page(work / "wae")
    (work / "wae" / "run.json").write_text(json.dumps({**record, "source": "webdataset:y.tar"}))
    with pytest.raises(UsageError, match=r"cannot be read again \(webdataset:y\.tar: is read as .*; give --data SRC"):
        page(work / "wae")
    VAENAM(generator, **SMALL).fit(TEST, tmp_path / "run", quiet=True)


def test_a_run_goes_on_where_only_the_place_of_its_data_has_changed(work, generator, tmp_path):
    (tmp_path / "y.npz").write_bytes((work / "y.npz").read_bytes())
    first = VAENAM(generator, **SMALL).fit(f"{work}/y.npz:x", tmp_path / "run", quiet=True)
    again = VAENAM(generator, **SMALL).fit(f"{tmp_path}/y.npz:x", tmp_path / "run", quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(first.mapper.parameters(), again.mapper.parameters(), strict=True))


def test_labels_bring_a_confusion_matrix(work):
    train_classifier(load_domain("embedded:typeset/test"), work / "vae" / "classifier", images=640, width=8, quiet=True)
    html, result = page(work / "vae", queries=30)
    assert "Labels kept" in titles(html)
    assert html.count('<table class="matrix">') == 1
    assert 0 <= result["runs"][str(work / "vae")]["kept"] <= 1
    html, _ = page(work / "vae", work / "wae", data=TEST, queries=30, classifier=work / "vae" / "classifier")
    assert html.count('<table class="matrix">') == 2
    with pytest.raises(DataError, match="no labels, which --classifier"):
        page(work / "vae", data=f"{work}/y.npz:x", classifier=work / "vae" / "classifier")


def test_a_judge_that_nobody_named_and_that_knows_other_classes_is_left_out(work, tmp_path, capsys):
    for name in ("dark", "light"):
        (tmp_path / "y" / name).mkdir(parents=True)
        for i in range(5):
            Image.new("L", (32, 32), 200).save(tmp_path / "y" / name / f"{i}.png")
    shutil.copytree(work / "vae", tmp_path / "vae", ignore=shutil.ignore_patterns("classifier"))
    train_classifier(load_domain(TEST), tmp_path / "vae" / "classifier", images=64, width=4, quiet=True)
    options = {"data": str(tmp_path / "y"), "queries": 10, "generator": str(work / "g")}
    html, _ = page(tmp_path / "vae", **options)
    assert "Labels kept" not in titles(html)
    assert "vae/classifier: does not judge these queries (" in capsys.readouterr().err
    with pytest.raises(DataError, match="classes of the queries have names"):
        page(tmp_path / "vae", **options, classifier=tmp_path / "vae" / "classifier")


def test_other_pictures_where_those_of_the_fit_lay_are_told(work, tmp_path, monkeypatch, capsys):
    for place, level in (("a", 10), ("b", 200)):
        (tmp_path / place / "y").mkdir(parents=True)
        for i in range(8):
            Image.new("L", (32, 32), level + i).save(tmp_path / place / "y" / f"{i}.png")
    monkeypatch.chdir(tmp_path / "a")
    VAENAM(load_generator(work / "g"), **SMALL).fit("y", tmp_path / "run", quiet=True)
    page(tmp_path / "run", queries=4)
    assert "other pictures" not in capsys.readouterr().err
    monkeypatch.chdir(tmp_path / "b")
    page(tmp_path / "run", queries=4)
    assert "run: was fitted to other pictures than are in y now; --data SRC says" in capsys.readouterr().err


def test_generators_have_a_report_of_their_own(work):
    html, _ = page(work / "g", data="embedded:typeset/test")
    assert titles(html) == ["The generator", "Nearest training images", "Training", "Settings", "Timings and versions"]
    assert "embedded:typeset/test" in html
    html, result = page(work / "g", work / "g" / "final")
    assert html.count('alt="samples"') == 1, "the same generator is shown once"
    assert result["runs"]
    with pytest.raises(UsageError, match="mappings, or generators"):
        page(work / "g", work / "vae")
    for option in ({"queries": 10}, {"classifier": work}):
        with pytest.raises(UsageError, match="are of mappings"):
            page(work / "g", **option)


def test_the_verb_prints_json_and_escapes_names(work, monkeypatch, capsys):
    odd = work / "<b>$x_{1}$ & co"
    odd.symlink_to(work / "vae")
    arguments = ["namap", "report", str(odd), str(work / "vae"), "-o", str(work / "r.html"), "--json", "--queries", "4"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert not stop.value.code
    assert json.loads(capsys.readouterr().out)["runs"].keys() == {str(odd), str(work / "vae")}
    html = (work / "r.html").read_text()
    assert "&lt;b&gt;$x_{1}$ &amp; co" in html
    assert "<b>$x" not in html


def test_a_number_that_never_changed_is_said_in_words():
    log = [{"step": i, "images": 100 * i, "seconds": i, "loss": 1 / i, "copies": 0.0} for i in (1, 2, 3)]
    chart = charts.curves([("a", log)])
    assert chart.caption == "The same all along: copies 0."
    assert "loss" in chart.svg and "copies" not in chart.svg
    assert "fill: " + charts.colour(0) not in chart.svg
    once = charts.curves([("a", log[:1])]).svg
    assert "copies" in once, "one row says nothing of change"
    assert "fill: " + charts.colour(0) in once, "a point, since one row makes no line"


def test_charts_leave_the_backend_alone_and_take_any_name():
    import matplotlib

    before = matplotlib.get_backend()
    chart = charts.bars("KL", "nats", [(name, np.ones(3)) for name in ("a\udcff", "b")], "")
    assert "KL, a\\udcff" in chart.svg
    assert matplotlib.get_backend() == before


def test_small_images_are_enlarged_by_a_whole_factor_and_large_ones_reduced():
    sides = {s: tile(np.zeros((3, s, s), np.uint8)).width for s in (16, 28, 32, 64, 100, 256)}
    assert sides == {16: 64, 28: 56, 32: 64, 64: 64, 100: 100, 256: LARGEST}
    rng = np.random.default_rng(0)
    sheet = image_grid([list(rng.integers(0, 256, (3, 1, 8, 8), np.uint8))] * 2, gaps=[1])
    assert sheet.size == (3 * 9 - 1 + 4, 17)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: apt-get install chromium")
def test_a_browser_opens_the_page_from_disk_without_a_network(work):
    playwright = pytest.importorskip("playwright.sync_api", reason="the browser test needs playwright")
    path = (work / "page.html").resolve()
    page(work / "vae", data=TEST, queries=40)
    with playwright.sync_playwright() as api:
        browser = api.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 800})
        said, asked = [], []
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(path.as_uri())
        broken = view.evaluate("[...document.images].filter(i => !i.complete || !i.naturalWidth).length")
        smooth = view.evaluate(
            "[...document.images].filter(i => getComputedStyle(i).imageRendering != 'pixelated').length"
        )
        count = view.evaluate("document.images.length")
        charts = view.evaluate("[...document.querySelectorAll('svg')].filter(s => s.getBBox().width > 100).length")
        widths = []
        for width in (1280, 400):
            view.set_viewport_size({"width": width, "height": 800})
            widths.append(view.evaluate("document.documentElement.scrollWidth") <= width)
        picture = view.screenshot(full_page=True)
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("file://", "data:"))] == []
    assert (broken, smooth) == (0, 0)
    assert count > 100
    assert charts == 3
    assert widths == [True, True], "the page scrolls sideways"
    assert len(picture) > 50_000
