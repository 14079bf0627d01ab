"""The explorer: what it computes, what it refuses, and what it serves to programs."""

import http.server
import json
import struct
import subprocess
import sys
import threading
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from PIL import Image

from namap import cli, cli_app
from namap.app import sharing, views
from namap.app.views import Explorer, Settings
from namap.app.visit import Visit
from namap.data import ImageDomain, load_domain
from namap.errors import DataError, UsageError
from namap.pictures import encode_png
from test_app_zips import make_zip

pytest.importorskip("gradio", reason="the explorer needs pip install 'namap[app]'")
pytest.importorskip("gradio_client", reason="the explorer needs pip install 'namap[app]'")

CLIENT = Path(__file__).resolve().parents[1] / "examples" / "app_client.py"
FEW = Settings(solutions=3, refine=20, seed=1)
QUICK = replace(FEW, refine=2)


@pytest.fixture
def query(explorer):
    return explorer.queries.images[3]


@pytest.fixture
def picture(tmp_path, query):
    path = tmp_path / "query.png"
    path.write_bytes(encode_png(query))
    return path


def last(looks):
    *_, (view, _, _) = looks
    return view


# ---- views ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vae", "nam", "ae"])
def test_one_pass_comes_first_and_the_last_look_is_what_translate_gives(explorer, query, name):
    looks = list(views.solve(explorer, name, query, FEW))
    assert [done for _, done, _ in looks] == [0, 10, 20]
    k = 1 if name == "ae" else 3
    for (view, done, _), refine in ((looks[0], 0), (looks[-1], 20)):
        found = explorer.models[name].translate(ImageDomain.from_array(query[None]), k, refine, seed=1)
        np.testing.assert_array_equal(view.codes, found.codes[0], f"{name} after {done}")
        np.testing.assert_array_equal(views.decode(explorer, name, query, view.codes).x, found.x[0])


def test_a_walk_moves_by_deviations_and_the_strip_joins_the_pins(explorer, query):
    view = views.choose(last(views.solve(explorer, "vae", query, QUICK)), 2)
    lines = views.axes(explorer, view)
    spreads = np.linalg.norm(lines, axis=1)
    assert len(lines) == views.DIRECTIONS and (spreads[:-1] >= spreads[1:]).all()
    moved = views.walk(view, (2.0, *[0.0] * 5))
    np.testing.assert_allclose(views.shown_code(explorer, moved) - view.codes[2], 2 * lines[0], atol=1e-6)
    a, b = view.codes[0], views.shown_code(explorer, moved)
    assert views.strip(explorer, replace(view, pins=(a, None))) is None
    tiles = views.strip(explorer, replace(view, pins=(a, b)))
    ends = views.decode(explorer, "vae", query, np.stack([a, b]))
    np.testing.assert_allclose(tiles.x[[0, -1]].astype(int), ends.x, atol=1)
    with pytest.raises(UsageError, match="this query has 3"):
        views.choose(view, 3)


def test_a_method_with_one_solution_has_no_directions(explorer, query):
    view = last(views.solve(explorer, "ae", query, QUICK))
    assert len(view.codes) == 1 and len(views.axes(explorer, view)) == 0
    np.testing.assert_array_equal(views.shown_code(explorer, views.walk(view, (1.0,) * 6)), view.codes[0])


def test_the_nearest_image_of_an_image_of_x_is_itself(explorer):
    x = explorer.x["vae"]
    near = views.nearest(explorer, "vae", x.images[17])
    np.testing.assert_array_equal(near.x[0], x.images[17])
    assert near.distances[0] == 0 and (np.diff(near.distances) >= 0).all()
    assert views.nearest(Explorer(explorer.models), "vae", x.images[17]) is None


def test_every_model_is_compared(explorer, picture):
    found = [*views.compare(explorer, picture, QUICK)]
    assert [(view.model, steps) for view, steps in found] == [(m, QUICK.refine) for m in ("vae", "nam", "ae")]
    own = [view.settings.refine for view, _ in views.compare(explorer, picture, replace(QUICK, refine=None))]
    assert own == [50, 200, 50], "each model as the page proposes for it"


# ---- shared views -----------------------------------------------------------------------------------------------


def test_a_shared_view_comes_back(explorer, query, tmp_path):
    view = views.walk(views.choose(last(views.solve(explorer, "vae", query, QUICK)), 1), (0.5, -1, 0, 0, 0, 3))
    view = replace(view, pins=(None, view.codes[2]))
    paths = sharing.save_view(explorer, view, tmp_path)
    back = sharing.restore(explorer, paths[3].read_bytes())
    for name in ("model", "settings", "chosen", "steps"):
        assert getattr(back, name) == getattr(view, name)
    for name in ("query", "codes", "losses"):
        np.testing.assert_array_equal(getattr(back, name), getattr(view, name))
    assert back.pins[0] is None
    np.testing.assert_array_equal(back.pins[1], view.pins[1])
    code = views.shown_code(explorer, back)
    np.testing.assert_array_equal(np.load(paths[1]), code)
    np.testing.assert_array_equal(np.array(json.loads(paths[2].read_text()), np.float32), code)
    shown = np.array(Image.open(paths[0]))
    np.testing.assert_array_equal(shown, views.decode(explorer, "vae", query, code[None]).x[0, 0])
    again = last(views.solve(explorer, back.model, back.query, back.settings))
    np.testing.assert_array_equal(again.codes, back.codes)


def test_a_view_that_could_not_be_opened_again_is_not_kept(explorer, query, tmp_path, monkeypatch):
    view = last(views.solve(explorer, "vae", query, QUICK))
    shared = sharing.share(explorer, view)
    monkeypatch.setattr(sharing, "MAX_BYTES", len(shared) - 1)
    with pytest.raises(UsageError, match=r"3 codes of 6 numbers take over .* MB; ask for fewer solutions"):
        sharing.save_view(explorer, view, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def shared_view(explorer):
    return sharing.share(explorer, last(views.solve(explorer, "vae", explorer.queries.images[3], QUICK)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other"}, "not here; choose one of vae, nam, ae"),
        ({"weights": "0" * 16}, "another fit called 'vae'"),
        ({"model": "nam"}, "another fit called 'nam'"),
        ({"codes": [[0.0]], "losses": [0.0]}, "does not fit model"),
        ({"codes": [[1e9] * 6]}, "not a view that namap shared .codes"),
        ({"chosen": 3}, "does not fit model"),
        ({"query": "????"}, "query in this view cannot be read"),
        ({"settings": {"solutions": 10**9}}, "settings.solutions"),
        ({"more": 1}, "more"),
        ({"pins": [[0.0] * 5, None]}, "does not fit model"),
    ],
)
def test_a_view_that_does_not_fit_is_refused(explorer, shared_view, change, message):
    with pytest.raises((DataError, UsageError), match=message):
        sharing.restore(explorer, json.dumps(json.loads(shared_view) | change))


@pytest.mark.parametrize("text", ["", "[" * 100_000, "x" * 3_000_000, '{"format": "namap-view"}', "\x00"])
def test_a_file_that_is_no_view_is_refused(explorer, text):
    with pytest.raises(DataError, match="this file"):
        sharing.restore(explorer, text)


# ---- the server ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def client(address):
    from gradio_client import Client

    # Fifty clients and the server share this process, so an answer may take longer than httpx waits by itself.
    return Client(address, verbose=False, analytics_enabled=False, ssl_verify=False, httpx_kwargs={"timeout": 100})


@pytest.fixture(scope="module")
def web(address):
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


def refusal(client, *values, **named) -> str:
    """The sentence with which /translate is refused."""
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError) as caught:
        client.predict(*values, **{"api_name": "/translate", **named})
    text = str(caught.value)
    assert "Traceback" not in text and "\n" not in text
    return text


def test_fifty_requests_at_once_all_finish(explorer, client, picture):
    from gradio_client import handle_file

    jobs = [
        client.submit(handle_file(picture), seed=i, solutions=2, refine=2, api_name="/translate") for i in range(50)
    ]
    answers = [job.result(timeout=120)[1] for job in jobs]
    domain = load_domain(ImageDomain.from_array(explorer.queries.images[3:4]))
    for seed in (0, 49):
        expected = explorer.models["vae"].translate(domain, 2, 2, seed)
        np.testing.assert_array_equal(np.array(answers[seed]["codes"], np.float32), expected.codes[0])
    assert len({json.dumps(answer["codes"][1]) for answer in answers}) == 50


def test_the_example_client_fetches_analogies(explorer, address, picture, tmp_path):
    command = [sys.executable, str(CLIENT), address, str(picture)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True)
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [f"analogy{k}.png" for k in range(4)]
    found = explorer.models["vae"].translate(ImageDomain.from_array(explorer.queries.images[3:4]), 4, 50)
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "analogy3.png")), found.x[0, 3, 0])


def test_post_api_translate(web, picture):
    uploaded = web.post("/gradio_api/upload", files={"files": picture.open("rb")}).json()
    file = {"path": uploaded[0], "meta": {"_type": "gradio.FileData"}}
    answer = web.post("/api/translate", json={"data": [file, "nam", 2, 10, 1, 0]})
    assert answer.status_code == 200
    images, numbers = answer.json()["data"]
    assert len(images) == 2 and numbers["refine"] == 10 and np.array(numbers["codes"]).shape == (2, 6)
    wrong = web.post("/api/translate", json={"data": [file, "vae", 99, None, 1, 0]})
    assert wrong.status_code == 500 and "setting solutions" in wrong.json()["error"]
    assert "less than or equal to 12" in wrong.json()["error"]


def test_errors_are_sentences(client, tmp_path, picture):
    from gradio_client import handle_file

    assert "there is no query yet" in refusal(client, None)
    (tmp_path / "note.png").write_text("no picture")
    assert "this picture cannot be used: is not a png" in refusal(client, handle_file(tmp_path / "note.png"))
    assert "setting refine" in refusal(client, handle_file(picture), refine=10**6)
    assert "one that the page sends" in refusal(client, handle_file(picture), seed="x")


def test_an_image_bomb_is_refused(client, tmp_path):
    from gradio_client import handle_file

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9_000, 9_000, 8, 0, 0, 0, 0)
    data = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(data)
    assert "9000x9000 is over 64 megapixels" in refusal(client, handle_file(tmp_path / "bomb.png"))


def test_uploads_over_ten_megabytes_are_refused(web):
    for size, code in ((10 * 1024**2 - 1, 200), (10 * 1024**2 + 1, 413), (12 * 1024**2, 413)):
        answer = web.post("/gradio_api/upload", files={"files": ("a.png", bytes(size))})
        assert answer.status_code == code, answer.text
        assert code == 200 or ("size" in answer.text or "limited to 10 MB" in answer.text)
    unbounded = web.post("/gradio_api/queue/join", content=iter([b"{}"]))
    assert unbounded.status_code == 411
    both = {"Content-Length": "5", "Transfer-Encoding": "chunked"}
    assert web.post("/gradio_api/queue/join", content=iter([b"{}"]), headers=both).status_code == 411
    assert web.post("/gradio_api/queue/join", content=bytes(11 * 1024**2)).status_code == 413


@pytest.fixture
def internal():
    """A server that an attacker would like to reach through the explorer: its address, and what it was asked."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()


def test_no_address_is_ever_fetched(web, client, internal):
    from gradio_client import handle_file

    inside, asked = internal
    for url in (f"{inside}/a.png", "http://169.254.169.254/x", "https://huggingface.co/x.png", "file:///etc/passwd"):
        file = {"path": url, "url": url, "meta": {"_type": "gradio.FileData"}}
        for data in ([file, "vae", 1, 0, 1, 0], [None, "vae", 1, 0, 1, file], [None, file, [[file]], 0, 1, 0]):
            answer = web.post("/api/translate", json={"data": data})
            assert "addresses are not fetched" in answer.json()["error"]
        for path in (f"gradio_api/file={url}", f"gradio_api/proxy={url}"):
            assert web.get(path).status_code == 403
    assert "addresses are not fetched" in refusal(client, handle_file(f"{inside}/b.png"))
    assert asked == []


def test_only_uploads_are_read(web, picture):
    for path in (str(picture), "/etc/passwd", "../../etc/passwd", str(Path.cwd() / "README.md")):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        answer = web.post("/api/translate", json={"data": [file, "vae", 1, 0, 1, 0]})
        assert "files must be uploaded first" in answer.json()["error"]
        assert web.get(f"/gradio_api/file={path}").status_code in (403, 404)
    for path in ("gradio_api/process_recording", "gradio_api/vibe-edit", "login"):
        assert web.post(path, json={}).status_code == 404


def test_a_zip_goes_through_the_server(client, explorer, tmp_path):
    from gradio_client import handle_file

    pictures = {f"{i}.png": encode_png(image) for i, image in enumerate(explorer.queries.images[:3])}
    sent = make_zip(pictures, tmp_path / "in.zip")
    result = client.predict(handle_file(sent), "vae", 1, 0, 1.0, 0, api_name="/batch")
    with zipfile.ZipFile(result) as archive:
        assert archive.namelist() == ["0.png", "1.png", "2.png"]


def test_nothing_is_written_beside_the_code(address):
    assert not list(Path(views.__file__).parent.glob("*.pyi"))  # Gradio makes one for a subclass of a component


def test_the_page_names_nothing_outside(web):
    answer = web.get("/")
    assert "default-src 'self'" in answer.headers["content-security-policy"]
    assert "fonts.googleapis" not in answer.text and web.get("/config").json()["analytics_enabled"] is False


# ---- the verb -----------------------------------------------------------------------------------------------------


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["namap", "app", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code, capsys.readouterr().err


def test_the_verb_says_what_is_wrong(monkeypatch, capsys, saved_models, address, tmp_path):
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # the verb sets it for its process; here others go on
    place = saved_models["vae"]
    assert run(monkeypatch, capsys, tmp_path / "none")[0] == 2
    code, text = run(monkeypatch, capsys, place, place)
    assert code == 2 and "the same model twice" in text
    code, text = run(monkeypatch, capsys, place, "--port", address.rstrip("/").rpartition(":")[2])
    assert code == 2 and "cannot listen there" in text and text.count("\n") == 1
    code, text = run(monkeypatch, capsys, place, "--host", "::1")
    assert code == 2 and "--host ::1: is not served" in text and text.count("\n") == 1
    assert run(monkeypatch, capsys, place, "--data", tmp_path / "none")[0] == 3
    for module in ("namap.app.page", "namap.app.looks", "namap.app.server"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "gradio", None)
    code, text = run(monkeypatch, capsys, place)
    assert code == 2 and "pip install 'namap[app]'" in text


def test_it_ends_when_what_it_computes_has_come_to_a_halt(monkeypatch, explorer):
    """A Python that ends while a thread of torch computes may abort."""
    own = replace(explorer, lock=threading.Lock())
    opened = threading.Event()

    def ctrl_c(seconds):
        own.lock.acquire()  # somebody's search
        threading.Timer(0.5, lambda: (opened.set(), own.lock.release())).start()
        raise KeyboardInterrupt

    monkeypatch.setenv("GRADIO_TEMP_DIR", "")
    monkeypatch.setattr(views, "open_explorer", lambda *_, **__: own)
    monkeypatch.setattr(cli_app, "time", SimpleNamespace(sleep=ctrl_c))
    cli_app.serve([Path("vae")], port=0)
    assert opened.is_set()
    assert own.lock.locked()  # and nothing new begins


def test_names_tell_models_apart():
    names = views.model_names([Path("runs/a/map/final"), Path("runs/b/map"), Path("runs/c")])
    assert names == ["a/map", "b/map", "c"]


def test_the_later_of_two_clicks_is_shown_whichever_is_answered_first():
    visit = Visit()
    later = visit.take(20.0)
    assert visit.take(10.0) == 0
    assert visit.turn == later
    assert visit.take(30.0) == visit.turn > later
