"""Zips of pictures that strangers send to the explorer."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image

from namap.app import archives
from namap.app.views import Settings
from namap.data import ImageDomain
from namap.errors import DataError
from namap.pictures import encode_png

pytest.importorskip("gradio", reason="the explorer needs pip install 'namap[app]'")

QUICK = Settings(solutions=3, refine=2, seed=1)


def make_zip(files, path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return path


def test_a_zip_of_pictures_becomes_a_zip_of_analogies(explorer, tmp_path):
    pictures = {f"set/{i}.png": encode_png(image) for i, image in enumerate(explorer.queries.images[:20])}
    beside = {f"__MACOSX/set/._{i}.png": b"of a Mac" for i in range(archives.MAX_FILES)}
    sent = make_zip({**pictures, "set/": b"", "note.txt": b"hello", **beside}, tmp_path / "in.zip")
    output = tmp_path / "out.zip"
    progress = list(archives.translate_archive(explorer, "vae", sent, QUICK, output))
    assert progress == [(0, 20), (16, 20), (20, 20)]
    domain = ImageDomain.from_array(explorer.queries.images[:20])
    expected = explorer.models["vae"].translate(domain, 3, 2, seed=1, batch_size=16).x
    with zipfile.ZipFile(output) as archive:
        assert len(archive.namelist()) == 61
        first = np.array(Image.open(io.BytesIO(archive.read("set_3_k2.png"))))
        np.testing.assert_array_equal(first, expected[3, 2, 0])
        assert json.loads(archive.read("skipped.jsonl"))["path"] == "note.txt"


@pytest.mark.faults
@pytest.mark.parametrize(
    "name", ["../up.png", "/etc/x.png", "a/../../x.png", "..\\up.png", "C:\\x.png", "a\u202f/../../x.png"]
)
def test_a_name_that_leads_out_of_a_zip_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="leads out of it"):
        archives.read_archive(make_zip({"ok.png": b"", name: b""}, tmp_path / "in.zip"))


@pytest.mark.faults
@pytest.mark.parametrize("name", ["a\x1b[2J.png", "a\x85.png"])
def test_a_name_with_control_characters_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="with control characters; rename it") as error:
        archives.read_archive(make_zip({"ok.png": b"", name: b""}, tmp_path / "in.zip"))
    assert str(error.value).isprintable()


def test_names_as_systems_give_them_are_taken_and_spelled_out(explorer, tmp_path):
    picture = encode_png(explorer.queries.images[0])
    names = ["Screenshot 2024-05-01 at 9.41.00\u202fAM.png", "a\u00a0b.png", "\U0001f469\u200d\U0001f52c.png"]
    sent, output = make_zip(dict.fromkeys(names, picture), tmp_path / "in.zip"), tmp_path / "out.zip"
    [*archives.translate_archive(explorer, "ae", sent, QUICK, output)]
    with zipfile.ZipFile(output) as archive:
        assert sorted(archive.namelist()) == sorted(names)
    sent = make_zip({f"{names[0]}.txt": b"x"}, tmp_path / "in.zip")
    with pytest.raises(DataError, match="holds no picture") as error:
        [*archives.translate_archive(explorer, "ae", sent, QUICK, output)]
    assert "\\u202f" in str(error.value) and str(error.value).isprintable()


@pytest.mark.faults
def test_zip_bombs_are_refused(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="holds 501 files; send at most 500"):
        archives.read_archive(make_zip({f"{i}": b"" for i in range(501)}, tmp_path / "many.zip"))
    monkeypatch.setattr(archives, "MAX_UNPACKED", 2_000_000)  # a hundredth: as much is made here as is refused
    zeros = make_zip({"a": bytes(1_500_000), "b": bytes(600_000)}, tmp_path / "large.zip")
    with pytest.raises(DataError, match="unpacks to more than 2 MB"):
        archives.read_archive(zeros)
    lying = bytearray(make_zip({"a.png": bytes(1000)}, tmp_path / "lying.zip").read_bytes())
    for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        at = lying.index(mark) + offset
        lying[at : at + 4] = struct.pack("<I", 10)  # says ten bytes, unpacks to a thousand
    (tmp_path / "lying.zip").write_bytes(lying)
    with pytest.raises(DataError, match="not a zip that can be read"):
        archives.read_archive(tmp_path / "lying.zip")
    for method in (zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2):  # whose header may ask for gigabytes
        with zipfile.ZipFile(tmp_path / "odd.zip", "w", method) as odd:
            odd.writestr("a.png", b"x" * 100)
        with pytest.raises(DataError, match="unusual way"):
            archives.read_archive(tmp_path / "odd.zip")


@pytest.mark.parametrize(("content", "message"), [(b"", "not a zip"), (b"PK\x03\x04" + bytes(40), "not a zip")])
def test_what_is_no_zip_is_refused(tmp_path, content, message):
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(DataError, match=message):
        archives.read_archive(tmp_path / "x.zip")


def test_a_zip_without_pictures_is_refused(explorer, tmp_path):
    with pytest.raises(DataError, match=r"holds no picture; first: a\.txt"):
        sent = make_zip({"a.txt": b"x"}, tmp_path / "in.zip")
        list(archives.translate_archive(explorer, "vae", sent, QUICK, tmp_path / "o.zip"))
