"""Take docs/app.png and docs/report.png of a fitted mapping, in headless Chromium.

    python docs/screenshots.py runs/street2digits --data street_digits.npz:x_test --x digits_mnist5k.npz:x_train \
        --classifier runs/classifier --query 5

Needs Chromium, and pip install 'namap[app,dev]'.
"""

import argparse
import re
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from namap.app.looks import CSS
from namap.app.page import build_page
from namap.app.server import start
from namap.app.views import open_explorer
from namap.pictures import encode_png
from namap.report import report_runs

DOCS = Path(__file__).parent
WIDTH = 1280


def main() -> None:
    """Both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, help="labelled queries")
    parser.add_argument("--x", required=True, help="images of X")
    parser.add_argument("--classifier", type=Path, help="of X")
    parser.add_argument("--query", type=int, default=0, help="position in --data of the query that the explorer shows")
    parser.add_argument("--outdir", type=Path, default=DOCS)
    given = parser.parse_args()
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        report = Path(scratch) / "report.html"
        report_runs([given.model], report, given.data, given.classifier)
        photograph_report(browser, report, given.outdir / "report.png")
        explorer = open_explorer([given.model], given.data, given.x)
        query = Path(scratch) / "query.png"
        query.write_bytes(encode_png(explorer.queries.images[given.query]))
        page = build_page(explorer)
        photograph_app(browser, start(page, "127.0.0.1", 0, CSS), query, given.outdir / "app.png")
        page.close(verbose=False)


def photograph_app(browser: Browser, address: str, query: Path, picture: Path) -> None:
    """A query, refined; a walk along two directions; a strip between two solutions."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
    page.set_default_timeout(120_000)
    expect.set_options(timeout=120_000)
    page.goto(address)
    page.set_input_files("#query input[type=file]", query)
    says(page, r"(\d\d) of \1 iterations")
    page.locator("#pinA").click()
    page.locator("#solutions .thumbnail-item").nth(4).click()
    says(page, "Solution 5")
    for direction, steps in (("#direction1", "1.5"), ("#direction3", "-1")):
        page.locator(f"{direction} input[type=number]").fill(steps)
        page.locator(f"{direction} input[type=number]").press("Tab")
    says(page, "moved")
    page.locator("#pinB").click()
    page.wait_for_selector("#strip img >> nth=8")
    page.wait_for_timeout(3000)  # the nearest images follow the last move
    page.mouse.move(0, 0)
    page.screenshot(path=picture, full_page=True)
    page.close()


def says(page: Page, text: str) -> None:
    """Wait for a text under the analogy."""
    expect(page.locator("#status")).to_contain_text(re.compile(text))


def photograph_report(browser: Browser, report: Path, picture: Path) -> None:
    """Its first sections beside those on labels, training and codes."""
    page = browser.new_page(viewport={"width": WIDTH, "height": 900})
    page.goto(report.as_uri())
    with tempfile.NamedTemporaryFile(suffix=".png") as file:
        page.screenshot(path=file.name, full_page=True)
        whole = Image.open(file.name).convert("RGB")
    tops = {h.inner_text(): int(h.bounding_box()["y"]) - 24 for h in page.locator("h2").all()}  # pyright: ignore
    page.close()
    middle = tops["Labels kept" if "Labels kept" in tops else "Training"]
    columns = [(0, tops["Best by loss"]), (middle, tops["The generator"])]
    paper = Image.new("RGB", (2 * WIDTH, max(end - top for top, end in columns)), whole.getpixel((2, 2)))
    for i, (top, end) in enumerate(columns):
        paper.paste(whole.crop((0, top, WIDTH, end)), (i * WIDTH, 0))
    small = paper.resize((1500, 1500 * paper.height // paper.width), Image.Resampling.LANCZOS)
    small.save(picture, optimize=True)


if __name__ == "__main__":
    main()
