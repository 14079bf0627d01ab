"""What the answers to the pictures of a folder are called."""

import os

from hypothesis import given
from hypothesis import strategies as st

from namap.data.folders import unique_names


@given(
    st.lists(st.sampled_from(["a.png", "a.jpg", "A.png", "a_png.png", "a_png.jpg", "b/a.png", "b_a.png"]), unique=True)
)
def test_names_are_unique_whatever_the_file_system(names):
    found = unique_names(names)
    assert len({n.casefold() for n in found}) == len(names)
    assert not any("/" in n for n in found)


def test_a_name_does_not_move_up_when_another_file_goes():
    files = ["a/b/c.png", "a/b_c.png", "a_b/c.png", "d.png"]
    before = dict(zip(files, unique_names(files), strict=True))
    assert [before[f] for f in files[1:]] == unique_names(files[1:])
    assert len({*before.values()}) == 4


def test_names_fit_a_file_system_however_long_the_paths_are():
    long = "年" * 80
    files = ["a/b.png", f"{long}.jpg", f"{long}.png", f"{long}一.png", f"{long}/{long}.png", f"{'x' * 200}.png"]
    names = unique_names(files)
    assert (names[0], names[-1]) == ("a_b", "x" * 200)
    assert len({*names}) == len(files)
    assert max(len(os.fsencode(name)) for name in names) <= 200
    assert names[3].startswith("年" * 60) and unique_names(files) == names
    assert len({n.casefold() for n in unique_names([*files, *(f"{n}.png" for n in names)])}) == 2 * len(files)
