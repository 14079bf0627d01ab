"""Translation by Ray Data on a real cluster of this machine."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.memory import command_line, family

from namap import cli
from namap.data import load_domain
from namap.errors import DataError, UsageError
from namap.exploring import losses_of, picture
from namap.mapping import Mapping
from namap.tensors import from_numpy, to_uint8

ray = pytest.importorskip("ray")
pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
fs = pytest.importorskip("pyarrow.fs")

from namap.batch import _rename, claim, count_rows, find_files, pick_columns, translate_on_ray  # noqa: E402
from namap.data.places import keep_apart  # noqa: E402

pytestmark = pytest.mark.slow
QUERIES = 60


@pytest.fixture(scope="module")
def cluster():
    """Two processors for two actors, and one for reading."""
    before = family(os.getpid())
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}  # not behind the other tests
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()
    deadline = time.monotonic() + 20
    while set(family(os.getpid())) - set(before) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not set(family(os.getpid())) - set(before), "a process was left behind"


@pytest.fixture(scope="module")
def queries(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("queries")
    (folder / "deep").mkdir()
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (QUERIES, 32, 32), np.uint8)):
        Image.fromarray(image).save(folder / ("deep" if i % 2 else "") / f"{i:03d}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


def actors() -> set[int]:
    """Processes that answer."""
    titles = {pid: command_line(pid) for pid in family(os.getpid())}
    return {pid for pid, title in titles.items() if title.startswith("ray::") and "Translator" in title}


def kill_one_at_work(outdir: Path, killed: list[int]) -> None:
    """SIGKILL to an actor once some of the rows are written."""
    while not killed:
        busy = actors()
        if len(busy) == 2 and list(outdir.glob("*.parquet")):
            killed.append(min(busy))
            os.kill(killed[0], signal.SIGKILL)
        time.sleep(0.005)


def rows_of(outdir: Path) -> dict[str, dict]:
    """Rows by id; none may be there twice."""
    rows = [row for path in sorted(outdir.glob("*.parquet")) for row in parquet.read_table(path).to_pylist()]
    found = {row["id"]: row for row in rows}
    assert len(found) == len(rows), "a query was answered twice"
    return found


def test_a_worker_is_killed_in_the_middle_and_nothing_is_lost_or_doubled(cluster, queries, saved_models, tmp_path):
    outdir, killed = tmp_path / "out", []
    killer = threading.Thread(target=kill_one_at_work, args=(outdir, killed), daemon=True)
    killer.start()
    how = {"actors": 2, "batch_size": 4, "refine": 60, "precision": "fp32", "quiet": True}
    counted = translate_on_ray(saved_models["vae"], str(queries), str(outdir), **how)
    assert killed, "it was over before a worker could be killed"
    assert counted == (QUERIES + 1, 1, QUERIES + 1)
    rows = rows_of(outdir)
    assert rows.keys() == {p.relative_to(queries).as_posix() for p in queries.rglob("*.png")}
    broken = rows.pop("broken.png")
    assert "is not a png" in broken["error"]
    assert broken["analogy_png"] is broken["code"] is broken["loss"] is None
    mapping = Mapping.from_pretrained(saved_models["vae"], precision="fp32")
    asked = load_domain(queries, 32, 1)
    whole = mapping.translate(asked, refine=60)
    expected = dict(zip(whole.names, range(QUERIES), strict=True))
    for name, row in rows.items():
        i = expected[name.removesuffix(".png").replace("/", "_")]
        assert row["error"] is None
        # Sixty steps of Adam make much of the last bits, which depend on the company in a batch: the loss stays, and
        # fits the code; codes are compared without refinement, below.
        assert row["loss"] == pytest.approx(float(whole.losses[i, 0]), rel=1e-2)
        code, y = torch.tensor([row["code"]]), from_numpy(asked.images[i : i + 1])
        with torch.no_grad():
            assert row["loss"] == pytest.approx(float(losses_of(mapping, y, code)), rel=1e-3)
        shown = np.asarray(Image.open(io.BytesIO(row["analogy_png"])), int)
        drawn = to_uint8(picture(mapping, code))[0, 0]
        assert np.abs(shown - drawn.int().numpy()).max() <= 1  # what G, here a sharp one, makes of that very code
    # What is whole is kept, what a killed process left is not, and only what is missing is computed.
    first, *others = sorted(outdir.glob("*.parquet"))
    lost = parquet.read_metadata(first).num_rows
    first.write_bytes(first.read_bytes()[:-20])
    stamps = {p.name: p.stat().st_mtime_ns for p in others}
    assert translate_on_ray(saved_models["vae"], str(queries), str(outdir), **how) == (QUERIES + 1, 1, lost)
    assert rows_of(outdir).keys() == {*rows, "broken.png"}
    assert stamps.items() <= {p.name: p.stat().st_mtime_ns for p in outdir.glob("*.parquet")}.items()
    for source, options, error, words in (
        (queries, {"seed": 1}, UsageError, "other analogies: seed"),
        (tmp_path / "no", {"overwrite": True}, DataError, "no files"),  # and deletes nothing
    ):
        with pytest.raises(error, match=words):
            translate_on_ray(saved_models["vae"], str(source), str(outdir), **{**how, **options})
    assert len(rows_of(outdir)) == QUERIES + 1


def test_parquet_with_and_without_ids(cluster, queries, saved_models, tmp_path):
    pictures = [p.read_bytes() for p in sorted(queries.glob("*.png"))] + [None]
    tables = {
        "ids": pa.table({"id": [f"q{i}" for i in range(len(pictures))], "image": pictures}),
        "none": pa.table({"label": [0] * len(pictures), "image": [{"bytes": b, "path": None} for b in pictures]}),
    }
    for name, table in tables.items():
        folder, outdir = tmp_path / name, tmp_path / f"out-{name}"
        folder.mkdir()
        for part in range(2):
            ids = [f"{i}-{part}" for i in range(len(table))]
            part_table = table.set_column(0, "id", [ids]) if name == "ids" else table
            parquet.write_table(part_table, folder / f"{part}.parquet", row_group_size=10)
        for new in (2 * len(pictures), 0) if name == "none" else (2 * len(pictures),):
            uri = f"file://{folder}"
            counted = translate_on_ray(saved_models["ae"], uri, str(outdir), actors=1, precision="fp32", quiet=True)
            assert counted == (2 * len(pictures), 4, new)
        rows = rows_of(outdir)
        assert len(rows) == 2 * len(pictures)
        if name == "ids":  # without refinement the codes are those of `translate`
            whole = Mapping.from_pretrained(saved_models["ae"], precision="fp32").translate(queries)
            codes = dict(zip(whole.names, whole.codes[:, 0], strict=True))
            for i, path in enumerate(sorted(queries.glob("*.png"))):
                if path.name != "broken.png":
                    np.testing.assert_allclose(rows[f"{i}-1"]["code"], codes[path.stem], atol=1e-3)


def test_a_row_without_an_id_gets_one_of_its_own():
    columns = {"path": ["a/q.parquet"] * 3, "row_hash": [1, 2, 3], "id": ["x", None, None], "image": [b"1", b"2", b"3"]}
    found = _rename(pa.table(columns), "image", "id", np.array(["x"]))
    names = found["id"].to_pylist()
    assert len(set(names)) == 2 and all(name.startswith("q-") for name in names)


def test_columns_are_found_or_named():
    text, content = pa.string(), pa.binary()
    known = pa.schema([("id", text), ("image", content)])
    assert pick_columns("q", known, None, "id") == {"column": "image", "id_column": "id"}
    two = pa.schema([("a", content), ("b", pa.struct([("bytes", content), ("path", text)]))])
    assert pick_columns("q", two, "b", "id") == {"column": "b", "id_column": None}
    for schema, column in ((two, None), (known, "id"), (pa.schema([("id", text)]), None)):
        with pytest.raises(DataError, match="name one with --column"):
            pick_columns("q", schema, column, "id")


def test_what_lies_below_the_answers_is_left_alone(tmp_path):
    system, below = fs.LocalFileSystem(), tmp_path / "queries" / "0.parquet"
    below.parent.mkdir()
    parquet.write_table(pa.table({"id": ["theirs"], "error": ["none"]}), below)
    content = below.read_bytes()
    assert len(claim(system, str(tmp_path), {"seed": 0}, False)) == 0
    parquet.write_table(pa.table({"id": ["ours"], "error": ["none"]}), tmp_path / "0.parquet")
    assert claim(system, str(tmp_path), {"seed": 0}, False).tolist() == ["ours"]
    assert count_rows(system, str(tmp_path), 0) == (1, 1, 1)
    assert len(claim(system, str(tmp_path), {"seed": 1}, True)) == 0
    assert below.read_bytes() == content


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_answers_stay_apart_from_the_queries(queries, saved_models, tmp_path, scheme):
    (tmp_path / "link").symlink_to(queries)
    for outdir in (queries, queries / "out", queries / "deep" / "out", tmp_path / "link" / "out"):
        with pytest.raises(UsageError, match="lies in the folder of the images; choose another"):
            translate_on_ray(saved_models["ae"], f"{scheme}{queries}", f"file://{outdir}")
    picture = next(queries.glob("*.png"))
    with pytest.raises(UsageError, match="lies in the folder of the images"):
        keep_apart(str(queries), f"{scheme}{picture}")
    keep_apart(f"{queries}/out", f"{scheme}{picture}")
    keep_apart(f"{scheme}{queries}-out", str(queries))
    assert not (queries / "out").exists()


def test_files_are_listed_as_everywhere_else(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "q" / "cat").mkdir(parents=True)
    (tmp_path / "q" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "up").symlink_to(tmp_path / "q")
    for name in ("q/cat/0.png", "elsewhere/1.png", "elsewhere/note.txt"):
        (tmp_path / name).touch()
    expected = [str(tmp_path / "q" / name) for name in ("cat/0.png", "dog/1.png")]
    assert [*find_files(f"file://{tmp_path}/q").files] == [*find_files(f"{tmp_path}/q/").files] == expected
    (tmp_path / "q" / "cat" / "\udcff.png").touch()
    for source in (tmp_path / "q", tmp_path / "\udcff"):
        with pytest.raises(DataError, match=r"udcff\S*: a name that is not UTF-8, which Ray cannot read; rename it"):
            find_files(str(source))


def test_the_command_starts_a_cluster_and_ends_it(saved_models, queries, tmp_path):
    command = [sys.executable, "-m", "namap", "translate", "--engine", "ray", str(saved_models["ae"])]
    options = ["--outdir", str(tmp_path / "out"), "--actors", "1", "--quiet", "--json"]
    found = subprocess.run([*command, str(queries), *options], capture_output=True, text=True, timeout=400)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout) == {
        "outdir": str(tmp_path / "out"), "rows": QUERIES + 1, "errors": 1, "written": QUERIES + 1,
    }  # fmt: skip


def test_without_ray_the_extra_is_named(saved_models, queries, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    command = ("translate", saved_models["ae"], queries, "--outdir", tmp_path / "o", "--engine", "ray")
    monkeypatch.setattr(sys, "argv", ["namap", *map(str, command)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "pip install 'namap[ray]'" in capsys.readouterr().err
