"""The explorer in a real browser: a query is uploaded, its analogy seen, a slider moved. Needs Chromium."""

import functools
import io
import json
import re
import shutil
import threading
import zipfile

import numpy as np
import pytest
from PIL import Image

from namap import Mapping
from namap.app import sharing, views
from namap.pictures import encode_png
from test_app_zips import make_zip

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)
pytest.importorskip("gradio", reason="the explorer needs pip install 'namap[app]'")
sync_api = pytest.importorskip("playwright.sync_api", reason="driving Chromium needs pip install playwright")
DONE = r"(\d\d) of \1 iterations"  # fewer than 50 where the codes have converged
PATIENCE = 120_000  # milliseconds, for a machine that does other things besides
sync_api.expect.set_options(timeout=PATIENCE)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser, address):
    """The explorer, opened; at the end, nothing was asked of any other place."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("#query input[type=file]", state="attached")
    yield page
    page.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []


@pytest.fixture
def picture(explorer, tmp_path):
    path = tmp_path / "query.png"
    path.write_bytes(encode_png(explorer.queries.images[3]))
    return path


def source(page, selector) -> str | None:
    return page.get_attribute(f"{selector} img", "src")


def status(page, text: str) -> None:
    """Wait for a text under the analogy."""
    sync_api.expect(page.locator("#status")).to_contain_text(re.compile(text))


def test_a_query_is_translated_and_walked(page, picture, tmp_path):
    page.set_input_files("#query input[type=file]", picture)
    status(page, r"Solution 1 of 6 · loss .*(one pass|of 50 iterations)")
    status(page, DONE)
    assert page.locator("#solutions img").count() == 6
    sync_api.expect(page.locator("#near img")).to_have_count(14)
    before = source(page, "#analogy")
    slider = page.locator("#direction1 input[type=range]")
    for _ in range(20):
        slider.press("ArrowRight")
    status(page, "moved")
    sync_api.expect(page.locator("#analogy img")).not_to_have_attribute("src", before)
    page.locator("#pinA").click()
    page.locator("#solutions .thumbnail-item").nth(2).click()
    status(page, "Solution 3 of 6")
    page.locator("#pinB").click()
    page.wait_for_selector("#strip img >> nth=8")
    shown = source(page, "#analogy")
    assert json.loads(kept_view(page, tmp_path))["chosen"] == 2
    page.screenshot(path=tmp_path / "page.png", full_page=True)

    page.reload()
    with page.expect_file_chooser() as chooser:
        page.locator("#open").click()
    chooser.value.set_files(tmp_path / "view.json")
    status(page, "Solution 3 of 6.*as it was kept")
    page.wait_for_selector("#strip img >> nth=8")
    assert source(page, "#analogy") == shown and source(page, "#query")


@pytest.fixture
def gate(monkeypatch):
    """Every search waits for it after twenty of its iterations, and none has converged before."""
    monkeypatch.setattr(Mapping, "search", functools.partialmethod(Mapping.search, tolerance=0.0))
    opened, solve = threading.Event(), views.solve

    def waiting(*given):
        for view, done, steps in solve(*given):
            yield view, done, steps
            if done == 20:
                opened.wait(100)

    monkeypatch.setattr(views, "solve", waiting)
    yield opened
    opened.set()


def kept_view(page, folder) -> bytes:
    """What Keep gives as view.json."""
    page.locator("#keep").click()
    with page.expect_download() as download:
        page.locator("#files a", has_text=re.compile("B")).nth(3).click()
    download.value.save_as(folder / "view.json")
    return (folder / "view.json").read_bytes()


def test_a_visitor_goes_on_while_a_query_is_refined(page, explorer, gate, tmp_path):
    first, second = (page.get_attribute(f"#picks .thumbnail-item img >> nth={i}", "src") for i in (1, 4))
    page.locator("#picks .thumbnail-item").nth(1).click()
    status(page, "20 of 50 iterations")
    shown = source(page, "#analogy")
    page.locator("#picks .thumbnail-item").nth(4).click()  # another query, while the first is refined
    sync_api.expect(page.locator("#analogy img")).not_to_have_attribute("src", shown)
    status(page, "20 of 50 iterations")
    page.locator("#solutions .thumbnail-item").nth(2).click()
    status(page, "Solution 3 of 6 .* 20 of 50")
    page.locator("#direction1 input[type=range]").press("ArrowRight")
    status(page, "Solution 3 of 6, moved .* 20 of 50")
    gate.set()
    status(page, "Solution 3 of 6, moved .* 50 of 50")  # the looks that followed undid neither
    assert page.input_value("#direction1 input[type=range]") == "0.1"
    view = sharing.restore(explorer, kept_view(page, tmp_path))
    assert (view.chosen, view.steps[0]) == (2, 0.1)
    asked = np.array(Image.open(io.BytesIO(page.request.get(second).body())))
    np.testing.assert_array_equal(view.query[0], asked, f"not the second query, but perhaps {first}")
    *_, (found, _, _) = views.solve(explorer, view.model, view.query, view.settings)
    np.testing.assert_array_equal(view.codes, found.codes)  # the newest ones


def test_a_search_is_stopped_where_it_is(page, gate):
    page.locator("#random").click()
    status(page, "20 of 50 iterations")
    page.get_by_role("button", name="Stop").click()
    status(page, "stopped after 20 of 50 iterations")
    gate.set()
    sync_api.expect(page.locator("#near img")).to_have_count(14)  # what follows the end of a search
    status(page, "stopped after 20 of 50 iterations")


def test_queries_are_picked_and_models_chosen_and_compared(page):
    page.locator("#random").click()
    status(page, DONE)
    page.locator("#picks .thumbnail-item").nth(4).click()
    page.wait_for_selector("#query img")
    page.locator("#model input").click()
    page.get_by_role("option", name="ae", exact=True).click()
    status(page, r"Solution 1 of 1 .* ae \(ae\) · " + DONE)
    page.get_by_role("tab", name="Compare models").click()
    page.locator("#compare").click()
    page.wait_for_selector("#compared img >> nth=8")
    sync_api.expect(page.locator("#compared")).to_contain_text(re.compile(r"nam \(nam, \d+ iterations\): loss"))


def test_a_zip_in_the_batch_tab_becomes_a_zip_to_download(page, explorer, tmp_path):
    pictures = {f"pen/{i:02}.png": encode_png(explorer.queries.images[i]) for i in range(20)}
    sent = make_zip({**pictures, "note.txt": b"no picture"}, tmp_path / "in.zip")
    page.get_by_role("tab", name="Batch").click()
    page.set_input_files("#zip input[type=file]", sent)
    sync_api.expect(page.locator("#zip")).to_contain_text(re.compile(r"in\s*\.zip"))  # its ending stands apart
    page.get_by_role("button", name="Translate all").click()
    with page.expect_download() as download:
        page.locator("#unzipped a").first.click()
    download.value.save_as(tmp_path / "out.zip")
    with zipfile.ZipFile(tmp_path / "out.zip") as archive:
        names = archive.namelist()
        first = np.array(Image.open(io.BytesIO(archive.read("pen_07.png"))))
        assert "note.txt" in archive.read("skipped.jsonl").decode()
    assert len(names) == 20 * 6 + 1  # six solutions, as the first tab has them
    # All of them, as sums of a batch of another size round otherwise.
    found = explorer.models["vae"].translate(explorer.queries.subset(slice(0, 20)), 6, refine=50)
    np.testing.assert_allclose(first.astype(float), found.x[7, 0, 0], atol=1)


def test_an_error_is_a_sentence_on_the_page(page, tmp_path):
    (tmp_path / "note.png").write_text("no picture")
    page.set_input_files("#query input[type=file]", tmp_path / "note.png")
    toast = page.locator(".toast-body")
    sync_api.expect(toast).to_contain_text("this picture cannot be used: is not a png, jpg, webp, bmp or tiff image")
    assert "Traceback" not in page.content()
