import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from namap import cli

VERBS = ["train-generator", "fit", "translate", "evaluate", "demo", "check-data", "check-generator", "report", "bench"]


def call(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    """Run the command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["namap", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
        raise SystemExit(0)
    out = capsys.readouterr()
    return int(stop.value.code or 0), out.out, out.err


@pytest.fixture
def namap(monkeypatch, capsys):
    return lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def models(work) -> Path:
    """A generator and a mapping, made by the commands themselves."""
    commands = (
        f"train-generator --data embedded:typeset/test --outdir {work}/g --latent-dim 6 --images 640 --width 8",
        f"fit --generator {work}/g --data embedded:handwriting/test --method vae --loss appearance --outdir {work}/m "
        "--images 512 --seed 0 --set encoder-width=8",
    )
    for command in commands:
        subprocess.run([sys.executable, "-m", "namap", *command.split(), "--quiet"], check=True)
    return work


@pytest.fixture(scope="module")
def pictures(work) -> Path:
    folder = work / "queries"
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in ("7.png", "a.jpg", "a.png", "deep/b.bmp"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return folder


def test_help_is_guessable_and_every_verb_shows_an_example(namap):
    code, out, _ = namap("--help")
    assert code == 0
    for verb in VERBS:
        assert verb in out
        code, text, _ = namap(verb, "--help")
        assert code == 0
        assert f"namap {verb}" in text
        assert "Example:" in text


def test_final_weights_lie_outside_checkpoints(models):
    for run in ("g", "m"):
        assert (models / run / "final" / "model.safetensors").is_file()
        assert not (models / run / "checkpoints").exists()


def test_translate_names_pngs_after_their_queries(models, pictures, namap, tmp_path):
    code, out, _ = namap("translate", models / "m", pictures, "--outdir", tmp_path, "--solutions", 2, "--json")
    assert code == 0
    assert json.loads(out) == {"outdir": str(tmp_path), "queries": 4, "files": 8, "skipped": 0}
    names = {"7", "a_jpg", "a_png", "deep_b"}
    assert {p.name for p in tmp_path.iterdir()} == {f"{n}{k}.png" for n in names for k in ("", "_k1")}
    assert Image.open(tmp_path / "7.png").size == (32, 32)


def test_translate_npz_keeps_the_order(models, namap, tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (7, 1, 32, 32), np.uint8)
    np.savez(tmp_path / "q.npz", x=images)
    for name, order in (("a", images), ("b", images[::-1])):
        np.savez(tmp_path / f"{name}.npz", x=order)
        code, *_ = namap("translate", models / "m", f"{tmp_path}/{name}.npz:x", "--outdir", tmp_path / name,
                         "--solutions", 3, "--refine", 2, "--npz", "--precision", "fp32")  # fmt: skip
        assert code == 0
    a, b = (np.load(tmp_path / n / "analogies.npz") for n in "ab")
    assert a["x"].shape == (7, 3, 1, 32, 32)
    assert a["x"].dtype == np.uint8
    assert a["codes"].shape == (7, 3, 6)
    assert a["losses"].shape == (7, 3)
    np.testing.assert_allclose(a["codes"], b["codes"][::-1], atol=1e-4)


def test_evaluate_reports_kept_and_baselines(models, namap, tmp_path):
    arguments = (
        "evaluate",
        models / "m",
        "embedded:handwriting/test",
        "--classifier",
        models / "c",
        "--json",
        "--quiet",
    )
    code, _, err = namap(*arguments)
    assert code == 2
    from namap.data import load_domain
    from namap.evaluation import train_classifier

    train_classifier(load_domain("embedded:typeset/test"), models / "c", images=2560, quiet=True)
    code, out, err = namap(*arguments)
    assert code == 0, err
    result = json.loads(out)
    assert result["queries"] == 500
    assert 0 <= result["kept"] <= result["any_solution"] <= 1
    assert np.sum(result["confusion"]) == 500
    assert {"copy_baseline", "classifier_on_x", "confidence_on_samples"} <= result.keys()
    assert namap(*arguments[:3])[0] == 2
    np.savez(tmp_path / "u.npz", x=np.zeros((3, 1, 32, 32), np.uint8))
    code, _, err = namap("evaluate", models / "m", f"{tmp_path}/u.npz:x", "--classifier", models / "c")
    assert (code, "no labels" in err) == (3, True)


def test_a_finished_run_is_left_alone_unless_told(models, namap):
    stamp = (models / "g" / "final" / "model.safetensors").stat().st_mtime_ns
    command = ("train-generator", "--data", "embedded:typeset/test", "--outdir", models / "g", "--latent-dim", 6,
               "--images", 640, "--width", 8, "--quiet")  # fmt: skip
    assert namap(*command)[0] == 0
    assert (models / "g" / "final" / "model.safetensors").stat().st_mtime_ns == stamp
    code, _, err = namap(*command, "--seed", 5)
    assert code == 2
    assert "seed (0, now 5)" in err
    assert "\n" not in err.strip()


def test_overwrite_deletes_runs_only(tmp_path, namap):
    (tmp_path / "thesis.tex").write_text("years of work")
    code, _, err = namap("train-generator", "--data", "embedded:typeset/test", "--outdir", tmp_path, "--overwrite")
    assert code == 2
    assert "delete it yourself" in err
    assert (tmp_path / "thesis.tex").exists()


def test_dry_run_prints_a_configuration_that_config_reads(models, namap, tmp_path):
    base = ("fit", "--generator", models / "g", "--data", "embedded:handwriting/test", "--outdir", tmp_path / "m")
    code, out, _ = namap(*base, "--dry-run", "--set", "beta=0.5", "--images", 77)
    assert code == 0
    settings = json.loads(out)
    assert (settings["beta"], settings["images"], settings["method"]) == (0.5, 77, "vae")
    assert not (tmp_path / "m").exists()
    file = tmp_path / "c.yaml"
    file.write_text("beta: 0.25\nmethod: ae\n")
    assert json.loads(namap(*base, "--dry-run", "--config", file)[1])["beta"] == 0.25
    file.write_text("bta: 0.25\n")
    code, _, err = namap(*base, "--config", file)
    assert code == 2
    assert "did you mean 'beta'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("translate", "nowhere", ".", "--outdir", "o"), 2, "no such directory"),
        (("train-generator", "--data", "nowhere", "--outdir", "o"), 3, "no such folder"),
        (
            ("fit", "--generator", "{g}", "--data", "embedded:handwriting/test", "--outdir", "o", "--method", "gan"),
            2,
            "nam, ae, vae",
        ),
        (
            ("fit", "--generator", "{g}", "--data", "embedded:handwriting/test", "--outdir", "o", "--loss", "l3"),
            2,
            "setting loss",
        ),
        (("fit", "--generator", "{m}", "--data", "embedded:handwriting/test", "--outdir", "o"), 2, "not a generator"),
        (("translate", "{g}", "embedded:handwriting/test", "--outdir", "o"), 2, "not a mapping"),
        (("translate", "{m}", "embedded:handwriting/test", "--outdir", "o", "--device", "cuda:9"), 2, "CUDA devices"),
        (("bench", "nothing"), 2, "unknown"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(models, namap, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    found, _, err = namap(*(a.format(g=models / "g", m=models / "m") for a in arguments))
    assert (found, words in err) == (code, True), err
    assert err.count("\n") == 1
    assert "Traceback" not in err


def test_debug_shows_the_traceback(namap):
    assert "Traceback" in namap("check-data", "nowhere", "--debug")[2]


def test_checks_and_report(models, pictures, namap, tmp_path):
    code, out, _ = namap("check-data", pictures)
    assert code == 0
    assert "4 images of 32x32" in out
    code, out, _ = namap("check-generator", models / "g")
    assert code in (0, 2)  # 10 steps of training may leave it almost constant: then it is said
    page = tmp_path / "r.html"
    assert namap("report", models / "m", "--data", "embedded:handwriting/test", "-o", page)[0] == 0
    html = page.read_text()
    assert html.count("data:image/png;base64") >= 5
    assert "http" not in html.replace("http-equiv", "")
