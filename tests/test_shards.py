"""Queries in shards: read as a stream, in a fixed order, from any place on."""

import os
import signal
import sys
import zipfile
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest
import tiny

from namap import checkpoint
from namap.data import load_domain, open_queries
from namap.data.batches import never
from namap.data.feeding import StreamFeed, open_stream
from namap.errors import DataError, Interrupted, StorageError, UsageError
from namap.mapping import VAENAM, Mapping
from namap.pictures import encode_png
from namap.translating import translate_files
from tars import EACH, SHARDS, pictures, write_tar, write_tars


@pytest.fixture(scope="module")
def parquet(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("parquet")
    kinds = datasets.Features({"n": datasets.Value("int64"), "picture": datasets.Image()})
    for shard in range(SHARDS):
        rows = range(shard * EACH, (shard + 1) * EACH)
        columns = {"n": [*rows], "picture": [{"bytes": encode_png(pictures()[i]), "path": None} for i in rows]}
        datasets.Dataset.from_dict(columns, kinds).to_parquet(folder / f"train-{shard}.parquet")
    return f"datasets:{folder}"


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> str:
    return write_tars(tmp_path_factory.mktemp("tars"))


@pytest.fixture
def images():
    return pictures()


@pytest.fixture(params=["tars", "parquet"])
def source(request) -> str:
    return request.getfixturevalue(request.param)


def test_every_epoch_reads_every_picture_once(source, images):
    feed = StreamFeed(open_stream(source, 32), batch_size=12, seed=0)
    assert feed.lanes == 4
    epochs = [[y.tobytes() for _ in range(4) for y in feed.take(0).images] for _ in range(2)]
    assert Counter(epochs[0]) == Counter(epochs[1]) == Counter(y.tobytes() for y in images)
    assert epochs[0] != epochs[1]


def test_reading_goes_on_at_the_sample_where_it_stopped(source):
    feed = StreamFeed(open_stream(source, 32), batch_size=8, seed=1)
    for step in range(8):
        feed.take(step)
    positions = feed.positions()
    assert positions["positions"][0][0] == 1, "in the second epoch"
    expected = [feed.take(8).images, feed.take(9).images]
    again = StreamFeed(open_stream(source, 32), batch_size=8, seed=1)
    again.seek(positions, Path("checkpoint"))
    assert np.array_equal(again.take(8).images, expected[0]) and np.array_equal(again.take(9).images, expected[1])
    feed.seek(positions, Path("checkpoint"))
    assert np.array_equal(feed.take(8).images, expected[0])
    for damaged in ({}, {"positions": 3}, {"positions": [[0, 0, 0]] * 3}, {"positions": [[0, 0, -1]] * 4}):
        with pytest.raises(StorageError, match="does not say where its 4 lanes of shards stand"):
            feed.seek(damaged, Path("checkpoint"))


def fit(source, outdir, stop_at=None):
    mapping = tiny.unfitted("vae", 8)
    make = VAENAM.make_task

    def make_task(*given):
        task = make(*given)
        task.after_step = lambda step: os.kill(os.getpid(), signal.SIGTERM) if step == stop_at else None
        return task

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VAENAM, "make_task", make_task)
        return mapping.fit(source, outdir, quiet=True)


def test_a_fit_of_a_stream_resumes_bit_identically(source, tmp_path):
    fit(source, tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(source, tmp_path / "run", stop_at=3)
    fit(source, tmp_path / "run")
    sums = [checkpoint.read_json(tmp_path / name / "final" / "manifest.json")["sha256"] for name in ("whole", "run")]
    assert sums[0] == sums[1]
    skipped = [tmp_path / name / "skipped.jsonl" for name in ("whole", "run")]
    if source.endswith(".tar"):
        assert "broken" in skipped[0].read_text() and skipped[0].read_text() == skipped[1].read_text()
    else:
        assert not any(path.exists() for path in skipped)


def test_what_could_not_be_read_is_known_after_a_stop(source):
    feed = StreamFeed(open_stream(source, 32), batch_size=8, seed=1)
    for step in range(8):
        feed.take(step)
    feed.close()
    found = open_stream(source, 32)
    again = StreamFeed(found, batch_size=8, seed=1)
    again.seek(feed.positions(), Path("checkpoint"))
    assert found.unreadable.items() >= feed.stream.unreadable.items() and found.seen >= feed.stream.seen > 0
    assert bool(found.unreadable) == source.endswith(".tar")
    with pytest.raises(StorageError, match="which images could not be read"):
        again.seek({**feed.positions(), "read": [1]}, Path("checkpoint"))


def test_translate_reads_shards_and_a_second_time_only_what_is_missing(source, images, saved_models, tmp_path):
    mapping = Mapping.from_pretrained(saved_models["ae"], precision="fp32")
    queries = open_queries(source, mapping.image_size, mapping.channels)
    translate = {"batch_size": 10, "workers": 0, "quiet": True}
    assert translate_files(mapping, queries, tmp_path, **translate) == len(images)
    assert queries.total == len(images) + len(queries.skipped)
    names = sorted(p.name for p in tmp_path.glob("*.png"))
    assert names[0] == ("00000_000000_digit_000.png" if source.endswith(".tar") else "00000_000000.png")
    again = open_queries(source, mapping.image_size, mapping.channels)
    (tmp_path / names[15]).unlink()
    assert 0 < translate_files(mapping, again, tmp_path, **translate) <= 10 + 2
    assert sorted(p.name for p in tmp_path.glob("*.png")) == names


def test_pictures_of_a_zip_are_a_data_set(images, tmp_path):
    with zipfile.ZipFile(tmp_path / "train.zip", "w") as archive:
        for i, image in enumerate(images[:20]):
            archive.writestr(f"{i:02}.png", encode_png(image))
    (batch,) = open_queries(f"datasets:{tmp_path}", 32, 1).read(100, never)
    np.testing.assert_array_equal(batch.images, images[:20])
    queries = open_queries(f"datasets:{tmp_path}", 32, 1)
    (tmp_path / "train.zip").unlink()
    with pytest.raises(DataError, match=r"cannot be read on \(.*train\.zip"):
        next(queries.read(100, never))


@pytest.mark.parametrize(("broken", "sound"), [(100, 0), (11, 89), (10, 90), (120, 1200)])
def test_more_than_a_tenth_of_a_stream_end_it(images, tmp_path, broken, sound):
    files = {f"a{i:03}.png": b"no picture" for i in range(broken)}
    write_tar(tmp_path / "q.tar", files | {f"b{i:04}.png": encode_png(images[i % 40]) for i in range(sound)})
    queries = open_queries(f"webdataset:{tmp_path}/q.tar", 32, 1)
    if broken == 10:
        assert sum(len(batch.names) for batch in queries.read(16, never)) == sound
        assert (queries.total, len(queries.skipped)) == (100, 10)
        return
    told = "112 of 112" if broken == 120 else f"{broken} of 100"
    with pytest.raises(DataError, match=rf"q\.tar: {told} images .*first 00000_000000_a000: .*; write these shards"):
        [*queries.read(16, never)]


def test_what_cannot_be_read_is_named(tars, tmp_path, monkeypatch):
    pattern = tars.partition(":")[2]
    with pytest.raises(DataError, match=r"no such file: .*q-4\.tar"):
        open_stream(tars.replace("..3", "..4"), 32)
    whole = Path(pattern.replace("{0..3}", "0")).read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(DataError, match=r"cut\.tar: not a readable tar archive"):
        open_stream(f"webdataset:{tmp_path}/cut.tar", 32)
    write_tar(tmp_path / "text.tar", {"a.txt": b"a"})
    with pytest.raises(DataError, match="holds no images that can be read"):
        open_stream(f"webdataset:{tmp_path}/*.tar".replace("*", "text"), 32)
    with pytest.raises(DataError, match="cannot be opened"):
        open_stream(f"datasets:{tmp_path}/nothing", 32)
    with pytest.raises(UsageError, match="would run a shell command"):
        open_stream(f"webdataset:pipe:touch {tmp_path}/ran", 32)
    with pytest.raises(UsageError, match="nam learns a code for each query"):
        tiny.unfitted("nam").fit(tars)
    with pytest.raises(UsageError, match="is read as a stream, which fit"):
        load_domain(tars)
    for library in ("webdataset.compat", "datasets"):
        monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UsageError, match=r"pip install 'namap\[webdataset\]'"):
        open_stream(tars, 32)
    with pytest.raises(UsageError, match=r"pip install 'namap\[datasets\]'"):
        open_stream("datasets:x", 32)
