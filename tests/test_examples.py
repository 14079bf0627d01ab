"""Every script of examples/ runs, shortened to seconds; third_party_faces.py has its test in test_foreign.py."""

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

from namap.data import load_domain
from namap.pictures import to_picture

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
IMAGES = ("--images", "256")


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a script as a user would; return what it prints."""

    def call(name: str, *arguments) -> str:
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return call


def write_folder(source: str, count: int, folder: Path) -> Path:
    folder.mkdir()
    for i, image in enumerate(load_domain(source).images[:count]):
        to_picture(image).save(folder / f"{i}.png")
    return folder


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_is_short_and_says_how_it_is_run(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    assert f"python examples/{path.name}" in text.split('"""')[1]


def test_own_folders(run, tmp_path):
    x, y = (write_folder(f"embedded:{name}/test", 40, tmp_path / name) for name in ("typeset", "handwriting"))
    said = run("own_folders.py", x, y, "--outdir", tmp_path / "out", *IMAGES)
    assert "40 analogies" in said
    names = {path.name for path in (tmp_path / "out" / "analogies").iterdir()}
    assert names == {path.name for path in y.iterdir()}


def test_own_generator(run, tmp_path):
    said = run("own_generator.py", "--outdir", tmp_path, *IMAGES)
    assert "mean loss" in said
    assert Image.open(tmp_path / "sheet.png").size == (16 * 33 - 1, 2 * 33 - 1)


def test_several_solutions(run, tmp_path):
    said = run("several_solutions.py", "--outdir", tmp_path, *IMAGES)
    differences = [float(line.split()[1]) for line in said.splitlines()[1:4]]
    assert differences == sorted(differences)  # with the temperature
    assert len(list((tmp_path / "solutions").iterdir())) == 20 * 6
    assert (tmp_path / "explore.png").exists()


def test_matching(run, tmp_path):
    said = run("matching.py", "--images", 60)
    assert float(said.split(": ")[1].split("%")[0]) > 30  # by chance 1.7
    folder = write_folder("embedded:handwriting/test", 8, tmp_path / "x")
    assert "5.png\t5.png" in run("matching.py", folder, folder)


def test_edges_to_shoes(run, shared, tmp_path):
    said = run("edges_to_shoes.py", "--data-root", shared, "--outdir", tmp_path, "--queries", 20, *IMAGES)
    assert "another shoe" in said
    assert Image.open(tmp_path / "sheet.png").size == (16 * 33 - 1, 6 * 33 - 1)
