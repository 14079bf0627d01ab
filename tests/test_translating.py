"""Translation of any number of queries: order, memory, what a second run does, worker processes."""

import math
import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from benchmarks.memory import KINDS, command_line, family, measure
from PIL import Image

from namap.console import keep_apart, keep_model
from namap.data import ImageDomain, load_domain, open_queries
from namap.data.batches import never
from namap.errors import DataError, StorageError, UsageError
from namap.generators import DCGAN
from namap.mapping import VAENAM, Mapping
from namap.pictures import png_writer
from namap.translating import translate_files


@pytest.fixture(scope="module")
def mapping(saved_models) -> Mapping:
    return Mapping.from_pretrained(saved_models["vae"], precision="fp32")


def noise(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)


def a_folder(place, count: int):
    place.mkdir()
    for i, image in enumerate(noise(count, 32, 32)):
        Image.fromarray(image).save(place / f"{i:04d}.png")
    return place


def read_all(source, batch_size: int = 7, **shape):
    parts = [*open_queries(source, **{"size": 32, "channels": 1, **shape}).read(batch_size, never)]
    return [n for p in parts for n in p.names], np.concatenate([p.images for p in parts])


def test_a_folder_reads_as_if_it_were_loaded(tmp_path):
    folder = a_folder(tmp_path / "q", 20)
    (folder / "deep").mkdir()
    for name in ("0003.jpg", "deep/b.bmp", "deep.png", "a b.png"):
        Image.fromarray(noise(1, 40, 50, 3)[0]).save(folder / name)
    (folder / "0005.jpg").write_bytes(b"no picture")
    whole = load_domain(folder, 32, 3)
    names, images = read_all(folder, channels=3)
    assert names == whole.names
    np.testing.assert_array_equal(images, whole.images)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("shape", [(8, 8), (3, 8, 8), (8, 8, 3), (1, 8, 8)])
def test_an_npz_reads_as_if_it_were_loaded(tmp_path, save, shape):
    path, images = tmp_path / "q.npz", noise(23, *shape)
    save(path, x_train=images, fortran=np.asfortranarray(images), y_train=np.arange(23))
    for key in ("x_train", "fortran"):
        whole = load_domain(f"{path}:{key}")
        names, found = read_all(f"{path}:{key}")
        assert names == whole.names
        np.testing.assert_array_equal(found, whole.images)


def test_a_damaged_npz_is_one_error(tmp_path):
    path = tmp_path / "q.npz"
    np.savez(path, x=noise(50, 8, 8))
    content = path.read_bytes()
    path.write_bytes(content.replace(noise(50, 8, 8).tobytes()[1000:1100], bytes(100)))
    with pytest.raises(DataError, match="not a readable npz"):
        read_all(f"{path}:x")
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (10**12, 32, 32)}
        np.lib.format.write_array_header_2_0(member, header)
    with pytest.raises(DataError, match="cut short"):
        read_all(f"{path}:x")


def test_batches_are_translated_one_by_one_and_in_order(mapping):
    queries = ImageDomain.from_array(noise(11, 1, 32, 32))
    taken = []

    def endless():
        for names, images in queries.batches(4):
            taken.append(names)
            yield names, images
        raise AssertionError("read ahead")

    stream, whole = mapping.translate_batches(endless(), 2, seed=3), mapping.translate(queries, 2, seed=3, batch_size=4)
    for i in range(3):
        part = next(stream)
        assert len(taken) == i + 1
        assert part.names == queries.names[4 * i : 4 * i + 4]
        np.testing.assert_array_equal(part.x, whole.x[4 * i : 4 * i + 4])
        np.testing.assert_array_equal(part.codes, whole.codes[4 * i : 4 * i + 4])


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (np.zeros((2, 1, 32, 32), np.float32), "images are float32; store uint8"),
        (np.zeros((2, 1, 32, 32), np.uint16), "images are uint16"),
        (np.zeros((3, 1, 32, 32), np.uint8), "a batch of 3 images has 2 names"),
        (np.zeros((0, 1, 32, 32), np.uint8), "holds no images"),
    ],
)
def test_batches_that_are_no_pictures_are_refused(images, said, mapping):
    with pytest.raises(DataError, match=said):
        next(mapping.translate_batches(iter([(["a", "b"], images)])))


def test_a_stream_with_broken_pictures_may_be_read_again(tmp_path):
    folder = a_folder(tmp_path / "q", 30)
    for name in ("0003.png", "0017.png"):
        (folder / name).write_bytes(b"no picture")
    queries = open_queries(folder, 32, 1)
    for _ in range(2):
        assert sum(len(part.names) for part in queries.read(8, never)) == 28
        assert len(queries.skipped) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_files_are_those_of_a_translation_in_memory(mapping, tmp_path, workers):
    folder = a_folder(tmp_path / "q", 30)
    whole = mapping.translate(folder, 2, batch_size=8)
    queries = open_queries(folder, 32, 1)
    written = translate_files(
        mapping, queries, tmp_path / "out", solutions=2, batch_size=8, workers=workers, quiet=True
    )
    assert written == 60
    for name, x in zip(whole.file_names(), whole.x.reshape(-1, 32, 32), strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / name)), x)
    assert translate_files(mapping, queries, tmp_path / "npz", solutions=2, batch_size=8, npz=True, quiet=True) == 1
    found = np.load(tmp_path / "npz" / "analogies.npz")
    for key in ("x", "codes", "losses", "names"):
        np.testing.assert_array_equal(found[key], getattr(whole, key))


def test_a_second_run_makes_what_is_missing_and_what_has_changed(mapping, tmp_path, monkeypatch):
    folder, out = a_folder(tmp_path / "q", 30), tmp_path / "out"
    solved, solve = [], mapping.solve
    monkeypatch.setattr(mapping, "solve", lambda q, *a, **k: solved.append(len(q)) or solve(q, *a, **k))

    def run(**options):
        solved.clear()
        how = {"batch_size": 8, "workers": 0, "quiet": True, **options}
        return translate_files(mapping, open_queries(folder, 32, 1), out, **how), [*solved]

    assert run() == (30, [8, 8, 8, 6])
    before = {p.name: p.read_bytes() for p in out.glob("*.png")}
    assert run() == (0, [])
    (out / "0009.png").unlink()
    (out / "0010.png").write_bytes(b"")  # a power cut
    assert run() == (8, [8]), "the batch of the missing ones, whole"
    assert {p.name: p.read_bytes() for p in out.glob("*.png")} == before
    Image.new("L", (32, 32), 255).save(folder / "0029.png")
    (folder / "0000.png").write_bytes(b"no picture")
    (folder / "0001.png").write_bytes(b"no picture")
    assert run() == (6, [6])
    assert (out / "0029.png").read_bytes() != before["0029.png"]
    assert len((out / "skipped.jsonl").read_text().splitlines()) == 2
    Image.new("L", (32, 32), 0).save(tmp_path / "older.png")
    os.utime(tmp_path / "older.png", (0, 0))
    (tmp_path / "older.png").replace(folder / "0028.png")
    assert run() == (6, [6]), "a picture that is moved over another is older than the answer to that"
    for options, word in (({"seed": 1}, "seed"), ({"solutions": 2}, "solutions"), ({"refine": 1}, "refine")):
        with pytest.raises(UsageError, match=f"other analogies: {word} .*--overwrite"):
            run(**options)
    assert run(seed=1, overwrite=True) == (28, [6, 8, 8, 6])
    assert run(seed=1, overwrite=True, solutions=2)[0] == 56
    assert run(seed=1, overwrite=True)[0] == 28
    assert len([*out.glob("*.png")]) == 28, "no second solutions of the translation before"
    Image.new("L", (4, 4)).save(out / "plot.png")
    with pytest.raises(UsageError, match=r"namap has not written its plot\.png; move it"):
        run(seed=2, overwrite=True)
    assert len([*out.glob("*.png")]) == 29
    Image.new("1", (20000, 20000)).save(out / "plot.png")  # larger than Pillow opens
    with pytest.raises(UsageError, match="has not written its plot"):
        run(seed=2, overwrite=True)
    (out / "plot.png").unlink()
    a_folder(tmp_path / "other", 3)
    with pytest.raises(UsageError, match="other analogies: queries"):
        translate_files(mapping, open_queries(tmp_path / "other", 32, 1), out, seed=1, batch_size=8, quiet=True)


def test_queries_of_the_longest_names_have_answers_which_are_found_again(mapping, tmp_path):
    folder, out = a_folder(tmp_path / "q", 3), tmp_path / "out"
    (folder / "0000.png").rename(folder / f"{'年' * 80}.png")
    (folder / "0001.png").rename(folder / f"{'x' * 251}.png")
    for written in (3, 0):
        how = {"workers": 0, "quiet": True}
        assert translate_files(mapping, open_queries(folder, 32, 1), out, **how) == written
    assert len(list(out.glob("*.png"))) == 3
    (batch,) = open_queries(folder / f"{'x' * 251}.png", 32, 1).read(1, never)
    assert len(batch.names[0]) <= 200


@pytest.mark.parametrize(("npz", "mine"), [(False, "0001.png"), (False, "holiday.PNG"), (True, "analogies.npz")])
def test_what_no_translation_has_left_is_not_overwritten(mapping, tmp_path, npz, mine):
    folder, out = a_folder(tmp_path / "q", 3), tmp_path / "out"
    out.mkdir()
    (out / mine).write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match=f"holds no translation, and its {mine} might be lost"):
            translate_files(mapping, open_queries(folder, 32, 1), out, npz=npz, overwrite=overwrite, quiet=True)
    assert [p.name for p in out.iterdir()] == [mine] and (out / mine).read_bytes() == b"mine"


def test_an_npz_is_of_one_translation(mapping, tmp_path):
    folder, out = a_folder(tmp_path / "q", 3), tmp_path / "out"

    def run(**options) -> int:
        return translate_files(mapping, open_queries(folder, 32, 1), out, npz=True, quiet=True, **options)

    assert run() == run() == 1
    with pytest.raises(UsageError, match="other analogies: seed"):
        run(seed=1)
    assert run(seed=1, overwrite=True) == 1


def test_what_cannot_be_asked_for_leaves_the_folder_free(mapping, tmp_path):
    folder, out = a_folder(tmp_path / "q", 3), tmp_path / "out"
    for wrong in ({"solutions": 0}, {"refine": -1}, {"temperature": math.inf}):
        with pytest.raises(UsageError, match="use "):
            translate_files(mapping, open_queries(folder, 32, 1), out, quiet=True, **wrong)
        assert not out.exists()


def test_answers_stay_apart_from_the_model_that_gives_them(tmp_path):
    (tmp_path / "run" / "final").mkdir(parents=True)
    for model in ("run", "run/final", "run/../run"):
        with pytest.raises(UsageError, match="is read; choose another"):
            keep_model(tmp_path / "run", tmp_path / model)
    keep_model(tmp_path / "run" / "answers", tmp_path / "run")
    keep_model(tmp_path / "run", "simulator:face", None)


def test_answers_stay_apart_from_the_queries(tmp_path):
    folder = a_folder(tmp_path / "q", 2)
    for outdir, source in ((folder, folder), (folder / "deep", folder), (folder, folder / "0000.png")):
        with pytest.raises(UsageError, match="lies in the folder of the images"):
            keep_apart(outdir, str(source))
    keep_apart(tmp_path / "out", str(folder))
    keep_apart(tmp_path / "out", str(folder / "0000.png"))
    (tmp_path / "y.npz").touch()
    for source in ("y.npz", "y.npz:x"):
        keep_apart(tmp_path, f"{tmp_path}/{source}")


def test_a_second_process_is_refused(mapping, tmp_path):
    from namap.runs import hold

    with hold(tmp_path / "out"), pytest.raises(StorageError, match="in use"):
        translate_files(mapping, open_queries("embedded:handwriting/test", 32, 1), tmp_path / "out", quiet=True)


def workers() -> set[int]:
    """The processes that write pictures for this one."""
    return {pid for pid in family(os.getpid()) if "spawn_main" in command_line(pid)}


def test_workers_leave_signals_to_their_parent(tmp_path):
    images, names = noise(4, 1, 8, 8), [f"{i}.png" for i in range(4)]
    with png_writer(tmp_path / "out", 1) as write:
        write(names, images)
        while len(list((tmp_path / "out").glob("[0-9].png"))) < 4:
            time.sleep(0.01)
        assert len(workers()) == 1
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(*workers(), number)
        write(["later.png"], images[:1])
    assert (tmp_path / "out" / "later.png").exists()
    assert not workers()


def test_a_worker_that_is_killed_is_said(tmp_path):
    with pytest.raises(StorageError, match="was killed"), png_writer(tmp_path / "out", 1) as write:
        for _ in range(1000):
            write(["a.png"], noise(1, 1, 8, 8))
            for pid in workers():
                os.kill(pid, signal.SIGKILL)
    assert not workers()


def test_an_unwritable_place_is_said_by_a_worker(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"), png_writer(tmp_path / "out", 1) as write:
        write(["no/such/folder.png"], noise(1, 1, 8, 8))


@pytest.fixture(scope="module")
def colourful(tmp_path_factory) -> Path:
    """A mapping of 64 pixels and three channels: a query and its analogy take 24 kB."""
    place = tmp_path_factory.mktemp("colourful")
    unfitted = VAENAM(DCGAN(6, 64, 3, 8), encoder_width=4, filters=2, blocks=3, precision="fp32")
    unfitted.build(3, 0)
    unfitted.save_pretrained(place / "model")
    return place / "model"


@pytest.mark.slow
def test_memory_does_not_grow_with_the_queries(colourful, tmp_path):
    """In megabytes: the libraries of torch alone hold so many that a tenth of all would hide four thousand queries."""
    how = {"side": 64, "batch_size": 64}  # the heap settles within some batches
    few, many = (measure(colourful, count, tmp_path, "folder", **how) for count in (1000, 5000))
    assert many["files"] == 5000
    assert many["peak_mb"] - few["peak_mb"] < 30, "the queries alone take 49 more, and so do their answers"


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_a_thousand_and_of_twenty_thousand(colourful, tmp_path, kind):
    few, many = (measure(colourful, count, tmp_path, kind, side=64) for count in (1000, 20_000))
    assert many["peak_mb"] < 1.1 * few["peak_mb"]
