"""The builders of the benches' data, each on a few images of the real package, where it can be had."""

import subprocess
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.data import build_avatars, build_digits, build_emoji, build_fashion, build_street, edges, packages
from benchmarks.data.packages import Package, balanced, obtain, picture

from namap.errors import DataError

CACHE = Path.home() / ".cache" / "namap" / "packages"


def asked(tmp_path: Path, count: int, test_count: int, package: Path | None = None) -> Namespace:
    return Namespace(
        output=tmp_path, package=package, work=tmp_path / "work", count=count, test_count=test_count, seed=0
    )


def there(*wanted: Package) -> Path:
    """A directory with these packages; skips where they are not in the cache of packages, which a developer fills."""
    for package in wanted:
        name = package.name.replace("-", "_") if package.kind == "pip" else package.name
        if not any(CACHE.glob(packages.PATTERNS[package.kind].format(name=name))):
            pytest.skip(f"no {package.name} in {CACHE}; fetch it there with: {packages.command_line(package)}")
    return CACHE


def classes_are_balanced(labels: np.ndarray) -> bool:
    return len(np.unique(np.bincount(labels)[np.unique(labels)])) == 1


def test_digits_are_cut_from_the_sheet_and_none_is_in_both_splits(tmp_path):
    sheet = np.random.default_rng(0).integers(0, 256, (1000, 2000), np.uint8)
    (tmp_path / "package").mkdir()
    Image.fromarray(sheet).save(tmp_path / "package" / "digits.png")
    found = build_digits.build(asked(tmp_path, 40, 20, tmp_path / "package"))
    assert found["x_train"].shape == (40, 1, 32, 32) and classes_are_balanced(found["y_train"])
    assert found["x_train"][:, :, :2].max() == 0
    every = np.concatenate([found["x_train"], found["x_test"]]).reshape(60, -1)
    assert len(np.unique(every, axis=0)) == 60
    first = sheet[:20, :20]  # a 0
    large = np.asarray(Image.fromarray(first).resize((28, 28), Image.Resampling.BILINEAR))
    images, labels = build_digits.cells(Image.fromarray(sheet))
    assert (images[0] == large).all() and labels[0] == 0 and labels[-1] == 9


def test_street_digits_of_matplotlibs_fonts(tmp_path):
    import matplotlib

    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    found = build_street.build(asked(tmp_path, 30, 10, fonts))
    assert found["x_train"].shape == (30, 3, 32, 32) and classes_are_balanced(found["y_train"])
    assert len(np.unique(found["x_train"])) <= build_street.LEVELS
    assert 0.3 < found["x_train"].mean() / 255 < 0.6 and 0.1 < found["x_train"].std() / 255 < 0.3
    assert not build_street.has_digits(tmp_path / "none.ttf")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no font with digits"):
        build_street.build(asked(tmp_path, 1, 1, tmp_path / "empty"))


def test_lines_are_drawn_where_the_network_sees_edges():
    probability = np.zeros((64, 64), np.float32)
    probability[:, 30:35] = [0.2, 0.6, 0.9, 0.6, 0.2]  # a ridge
    probability[10:13, 5:8] = 0.9  # a speck
    mask = edges.lines(probability)
    assert mask[32, 30:35].all() and not mask[32, 27].any() and not mask[:20, :20].any()
    drawn = edges.reduce(mask)
    assert drawn.shape == (16, 16) and drawn[8, 8] < 128 < drawn[8, 2] == 255


def test_fashion_and_the_network_of_its_edges(tmp_path, shared):
    folder = there(build_fashion.PHOTOS, build_fashion.NETWORK)
    found = build_fashion.build("footwear", asked(tmp_path, 6, 3, folder))
    assert found["photos_train"].shape == found["edges_train"].shape == (6, 1, 32, 32)
    assert sorted(found["y_test"]) == [5, 7, 9]
    assert 0.75 < found["edges_train"].mean() / 255 < 0.97
    reference = shared / build_fashion.WEIGHTS
    assert (tmp_path / build_fashion.WEIGHTS).read_bytes()[-1000:] == reference.read_bytes()[-1000:]


def test_emoji_pair_the_same_and_keep_families_together(tmp_path):
    folder = there(*(Package("npm", f"emoji-datasource-{d}", build_emoji.VERSION) for d in build_emoji.DESIGNS))
    found = build_emoji.build(asked(tmp_path, 60, 20, folder))
    assert found["google_train"].shape == (60, 3, 64, 64) and found["google_test"].shape == (20, 3, 64, 64)
    kinds = {
        split: {
            build_emoji.family(u, n)
            for u, n in zip(found[f"unified_{split}"], found[f"short_name_{split}"], strict=True)
        }
        for split in ("train", "test")
    }
    assert not kinds["train"] & kinds["test"]
    x, y = (found[f"{design}_train"].astype(float).mean((2, 3)) for design in build_emoji.DESIGNS)
    paired = np.abs(x - y[found["pair_index_train"]]).mean()
    assert paired < 0.6 * np.abs(x - np.roll(y[found["pair_index_train"]], 7, 0)).mean()


def test_a_family_is_of_all_its_variants():
    same = [("1F468-200D-1F692", "male-firefighter"), ("1F9D1-200D-1F692", "firefighter")]
    assert len({build_emoji.family(*e) for e in same}) == 1
    assert build_emoji.family("1F550", "clock1") == build_emoji.family("1F55B", "clock12") == "clock"
    assert build_emoji.family("0031-FE0F-20E3", "one") == "keycap"


def test_avatars_are_what_their_labels_say(tmp_path):
    pytest.importorskip("python_avatars", reason="pip install 'namap[bench-data]'")
    pytest.importorskip("resvg_py", reason="pip install 'namap[bench-data]'")
    found = build_avatars.build(asked(tmp_path, 12, 4))
    assert found["x_train"].shape == (12, 3, 64, 64)
    drawn = dict.fromkeys(build_avatars.NAMES, 0)
    dark = drawn | {"skin": build_avatars.NAMES["skin"].index("BLACK")}
    pale, black = (build_avatars.draw(d)[:, 30:44, 24:40].mean() for d in (drawn, dark))
    assert pale > black + 60
    assert (
        build_avatars.visible(drawn)["hair_color"]
        == build_avatars.UNSEEN
        == build_avatars.visible(drawn)["clothing_color"]
    )
    labels = np.stack([found[f"{label}_train"] for label in build_avatars.NAMES], 1)
    assert len(np.unique(labels, axis=0)) == 12


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: (folder / "a_1.deb").write_bytes(b"no package"), "cannot be unpacked"),
        (lambda folder: None, "apt-get is not on this machine"),
    ],
)
def test_a_package_that_cannot_be_had_is_named(tmp_path, monkeypatch, make: Callable[[Path], object], words):
    monkeypatch.setitem(packages.COMMANDS, "deb", ["no-such-apt-get", "download"])
    make(tmp_path)
    with pytest.raises(DataError, match=words.replace("apt-get", "no-such-apt-get")):
        obtain(Package("deb", "a", "1"), None, tmp_path)


def test_an_installed_package_is_taken_as_it_is(tmp_path):
    assert obtain(Package("deb", "a", "1"), tmp_path, tmp_path / "work") == tmp_path
    with pytest.raises(DataError, match=r"holds no digits\.png"):
        packages.find(tmp_path, "digits.png")


def test_transparent_pictures_stand_on_white_and_classes_run_out():
    assert picture(Image.new("RGBA", (4, 4), (9, 9, 9, 0)), 2).min() == 255
    with pytest.raises(DataError, match="there are 1"):
        balanced(np.array([0, 1, 1]), [0, 1], 2, np.random.default_rng(0))


def test_a_builder_from_the_command_line(tmp_path):
    root = Path(__file__).parents[1]
    command = [
        sys.executable,
        "-m",
        "benchmarks.data.build_digits",
        "--output",
        str(tmp_path),
        "--package",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 3 and done.stderr.startswith("namap: ") and len(done.stderr.splitlines()) == 1
