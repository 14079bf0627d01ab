"""Where the verbs write: never among their images, never over what is somebody else's, never into half a URI."""

import numpy as np
import pytest
from PIL import Image

from test_cli import call


@pytest.fixture
def namap(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(np.full((32, 32), 80 * i, np.uint8)).save(folder / f"{i}.png")
    return folder


VERBS = {  # without --outdir; what else is wrong with them would be found later
    "train-generator": ("--data", "photos"),
    "fit": ("--generator", "none", "--data", "photos"),
    "fit of X": ("--generator", "none", "--data", "embedded:handwriting/test", "--kinds", 2, "--x", "photos"),
    "explore": ("none", "photos/1.png"),
    "distil": ("none", "--data", "photos"),
    "train-mapper": ("none", "--data", "photos"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_writes_among_its_images(verb, namap, photos):
    before = sorted(photos.rglob("*"))
    code, _, err = namap(verb.split()[0], *VERBS[verb], "--outdir", "photos" if verb == "explore" else "photos/out")
    assert (code, "lies in the folder of the images" in err) == (2, True), err
    assert sorted(photos.rglob("*")) == before


@pytest.mark.parametrize("data", ["photos/x.npz:key", "embedded:none/test", "webdataset:" + "a" * 300, "s3://a/b"])
def test_what_is_no_folder_of_images_lies_nowhere(data, namap, photos):
    _, _, err = namap("fit", "--generator", "none", "--data", data, "--outdir", "photos/out")
    assert "none: no such" in err


@pytest.mark.parametrize("verb", ["translate", "match", "ground", "demo", *VERBS])
def test_no_verb_takes_a_uri_for_a_folder(verb, namap, tmp_path):
    arguments = VERBS.get(verb, {"ground": ("a", "b", "c"), "demo": ()}.get(verb, ("a", "b")))
    code, _, err = namap(verb.split()[0], *arguments, "--outdir", "s3://bucket/out")
    assert (code, "--engine ray" in err, len(err.splitlines())) == (2, True, 1), err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("mine", ["explore.png", "explore.json"])
def test_explore_replaces_an_exploration_only(namap, tmp_path, mine):
    (tmp_path / mine).write_text('{"route": []}')
    code, _, err = namap("explore", "none", "embedded:handwriting/test", "--outdir", tmp_path)
    assert (code, f"{mine}: is no exploration of namap" in err) == (2, True), err
    assert (tmp_path / mine).read_text() == '{"route": []}'
