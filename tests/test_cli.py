import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from namap import cli

VERBS = [
    "train-generator", "fit", "translate", "match", "evaluate", "demo", "check-data", "check-generator", "report",
    "bench", "explore", "train-mapper", "ground", "push", "export", "distil", "doctor",
]  # fmt: skip

AT_ONCE = ("check-generator", "export", "doctor")


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
        assert "--json" in text
        assert ("--quiet" in text) == (verb not in AT_ONCE), "a second's work shows no progress"


def test_verbs_stand_in_the_order_in_which_one_meets_them(namap):
    _, out, _ = namap("--help")
    places = [out.index(f"│ {verb} ") for verb in ("demo", "train-generator", "fit", "translate", "report", "export")]
    assert places == sorted(places)
    assert "Further" not in out, "a verb is in no panel"
    code, out, _ = namap("--version")
    assert (code, out.split()[0]) == (0, "namap")


def test_final_weights_lie_outside_checkpoints(models):
    for run in ("g", "m"):
        assert (models / run / "final" / "model.safetensors").is_file()
        assert not (models / run / "checkpoints").exists()


def test_translate_names_pngs_after_their_queries(models, pictures, namap, tmp_path):
    code, out, _ = namap("translate", models / "m", pictures, "--outdir", tmp_path, "--solutions", 2, "--json")
    assert code == 0
    assert json.loads(out) == {"outdir": str(tmp_path), "queries": 4, "files": 8, "written": 8, "skipped": 0}
    names = {"7", "a_jpg", "a_png", "deep_b"}
    assert {p.name for p in tmp_path.glob("*.png")} == {f"{n}{k}.png" for n in names for k in ("", "_k1")}
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


@pytest.mark.parametrize("option", [("--actors", 2), ("--column", "image"), ("--id-column", "name")])
def test_options_of_ray_are_not_taken_and_ignored(models, namap, tmp_path, option):
    code, _, err = namap("translate", models / "m", "embedded:handwriting/test", "--outdir", tmp_path / "o", *option)
    assert (code, "are of --engine ray" in err) == (2, True)
    assert not (tmp_path / "o").exists()


def test_overwrite_deletes_runs_only(tmp_path, namap):
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "final").mkdir()
    code, _, err = namap("train-generator", "--data", "embedded:typeset/test", "--outdir", tmp_path, "--overwrite")
    assert code == 2
    assert "delete it yourself" in err
    assert (tmp_path / "thesis.tex").exists()
    assert (tmp_path / "final").exists()


def test_overwrite_leaves_what_a_run_did_not_write(models, namap):
    command = ("train-generator", "--data", "embedded:typeset/test", "--outdir", models / "g2", "--latent-dim", 6,
               "--images", 64, "--width", 8, "--quiet")  # fmt: skip
    assert namap(*command)[0] == 0
    (models / "g2" / "notes.txt").write_text("good run")
    assert namap(*command, "--seed", 1, "--overwrite")[0] == 0
    assert (models / "g2" / "notes.txt").read_text() == "good run"
    code, _, err = namap(*command, "--seed", 2)  # and the new seed is the run's
    assert (code, "seed (1, now 2)" in err) == (2, True)


def test_dry_run_prints_a_configuration_that_config_reads(models, namap, tmp_path):
    base = ("fit", "--generator", models / "g", "--data", "embedded:handwriting/test", "--outdir", tmp_path / "m")
    code, out, _ = namap(*base, "--dry-run", "--set", "beta=0.5", "--images", 77)
    assert code == 0
    settings = json.loads(out)
    assert (settings["beta"], settings["images"], settings["method"]) == (0.5, 77, "vae")
    assert not (tmp_path / "m").exists()
    file = tmp_path / "c.yaml"
    file.write_text(out)
    assert json.loads(namap(*base, "--dry-run", "--config", file)[1]) == settings
    file.write_text("method: ae\nseed: 5\n")
    again = json.loads(namap(*base, "--dry-run", "--config", file, "--method", "vae", "--seed", 0)[1])
    assert (again["method"], again["seed"], again["beta"]) == ("vae", 0, 1e-3)
    file.write_text("beta: 0.25\nmethod: ae\n")
    assert json.loads(namap(*base, "--dry-run", "--config", file)[1])["beta"] == 0.25
    file.write_text("bta: 0.25\n")
    code, _, err = namap(*base, "--config", file)
    assert code == 2
    assert "did you mean 'beta'" in err


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("translate", "nowhere", "embedded:handwriting/test", "--outdir", "o"), 2, "no such directory"),
        (("train-generator", "--data", "nowhere", "--outdir", "o"), 3, "no such folder"),
        (
            ("fit", "--generator", "{g}", "--data", "embedded:handwriting/test", "--outdir", "o", "--method", "gan"),
            2,
            "'nam', 'ae', 'vae' or 'wae'",
        ),
        (
            ("fit", "--generator", "{g}", "--data", "embedded:handwriting/test", "--outdir", "o", "--loss", "l3"),
            2,
            "setting loss",
        ),
        (("fit", "--generator", "{m}", "--data", "embedded:handwriting/test", "--outdir", "o"), 2, "not a generator"),
        (("fit", "--generator", "{g}", "--data", "embedded:handwriting/test", "--outdir", "{g}"), 2, "which is read"),
        (
            ("fit", "--generator", "{g}", "--data", "embedded:handwriting/test", "--outdir", "o", "--mapper-skip"),
            2,
            "--mapper-skip: with --set mapper=crn",
        ),
        (("translate", "{g}", "embedded:handwriting/test", "--outdir", "o"), 2, "not a mapping"),
        (("translate", "{m}", "embedded:handwriting/test", "--outdir", "o", "--device", "cuda:9"), 2, "CUDA devices"),
        (("bench", "nothing"), 2, "checkout"),
        (("fit", "--generator", "{g}"), 2, "Missing option"),
        (("check-data", "embedded:handwriting/test", "--sizes", "32"), 2, "No such option"),
        (("check-generator", "{g}/final/config.json"), 2, "neither a TorchScript archive"),
        (("translate", "{m}", "embedded:handwriting/test", "--outdir", "o", "--device", "meta"), 2, "not supported"),
        (("train-generator", "--data", "embedded:typeset/test", "--outdir", "o", "--channels", "2"), 2, "use 1"),
        (("demo", "--outdir", "o", "--extra-fonts", "nope.ttf"), 3, "not a font"),
        (
            ("fit", "--generator", "{g}", "--data", "embedded:handwriting/test", "--outdir", "o", "--set", "beta=["),
            2,
            "is not a value",
        ),
        (
            (
                "fit",
                "--generator",
                "{g}",
                "--data",
                "embedded:handwriting/test",
                "--outdir",
                "o",
                "--quiet",
                "--images",
                "2560",
                "--set",
                "rate=1e30",
                "--set",
                "encoder_width=8",
            ),
            4,
            "is not finite",
        ),
    ],
)
def test_errors_are_one_line_with_their_exit_code(models, namap, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    found, _, err = namap(*(a.format(g=models / "g", m=models / "m") for a in arguments))
    assert (found, words in err) == (code, True), err
    assert len([line for line in err.splitlines() if not line.startswith("warning: ")]) == 1
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
    assert html.count("data:image/webp;base64") >= 100
    assert "http" not in html


def test_translate_never_writes_among_its_queries(models, pictures, namap):
    for outdir in (pictures, pictures / "deep" / "er"):
        code, _, err = namap("translate", models / "m", pictures, "--outdir", outdir)
        assert (code, "folder of the images" in err) == (2, True)


def test_two_queries_never_share_a_file(tmp_path):
    from namap.analogies import Analogies

    x = np.arange(3, dtype=np.uint8)[:, None, None, None, None] + np.zeros((3, 2, 1, 8, 8), np.uint8)
    found = Analogies(x, np.zeros((3, 2, 4), np.float32), np.zeros((3, 2), np.float32), ["7", "7_K1", "7_k1_"])
    assert found.save_pngs(tmp_path) == 6
    assert len(list(tmp_path.iterdir())) == 6
    assert np.asarray(Image.open(tmp_path / "7_K1_.png")).max() == 1


def test_unreadable_queries_are_listed_by_fit_and_too_many_end_it(models, namap, tmp_path):
    folder = tmp_path / "y"
    folder.mkdir()
    for i in range(20):
        Image.fromarray(np.full((32, 32), i * 10, np.uint8)).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"")
    command = ("fit", "--generator", models / "g", "--data", folder, "--outdir", tmp_path / "run", "--images", 64,
               "--quiet", "--set", "encoder_width=8")  # fmt: skip
    code, _, err = namap(*command)
    assert (code, "19 images are few for a mapping, which wants 200" in err) == (0, True)
    assert "3.png" in (tmp_path / "run" / "skipped.jsonl").read_text()
    for i in range(4, 7):
        (folder / f"{i}.png").write_bytes(b"text")
    code, _, err = namap(*command, "--overwrite")
    assert (code, "4 of 20" in err) == (3, True)
    assert (tmp_path / "run" / "final").exists(), "the finished run fell to a mistake in --data"
    for i in range(3, 7):
        (folder / f"{i}.png").unlink()
    code, _, err = namap(*command, "--overwrite", "--x", folder)
    assert (code, "say how many kinds" in err) == (2, True)
    assert (tmp_path / "run" / "final").exists(), "the finished run fell to settings that do not go together"


@pytest.mark.parametrize(("method", "loss"), [("nam", "l2"), ("ae", "l1"), ("vae", "perceptual")])
def test_every_method_runs_from_the_command_line(models, namap, shared, tmp_path, method, loss):
    vgg = ("--vgg-weights", shared / "weights" / "vgg16_hed_bsds.safetensors", "--vgg-input", "caffe")
    options = vgg if loss == "perceptual" else ()
    np.savez(tmp_path / "y.npz", x=np.random.default_rng(0).integers(0, 256, (64, 1, 32, 32), np.uint8))
    fit = ("fit", "--generator", models / "g", "--data", f"{tmp_path}/y.npz:x", "--method", method, "--loss", loss,
           "--outdir", tmp_path / "m", "--images", 64, "--set", "batch_size=32", "--set", "encoder_width=8",
           "--quiet", *options)  # fmt: skip
    code, _, err = namap(*fit)
    assert code == 0, err
    translate = ("translate", tmp_path / "m", f"{tmp_path}/y.npz:x", "--outdir", tmp_path / "o", "--npz", "--refine", 1)
    code, _, err = namap(*translate, *options)
    assert code == 0, err
    assert np.load(tmp_path / "o" / "analogies.npz")["x"].shape == (64, 1, 1, 32, 32)


def test_evaluate_trains_its_judge_and_keeps_it(models, namap, tmp_path):
    evaluate = ("evaluate", models / "m", "embedded:handwriting/test", "--classifier", tmp_path / "c", "--quiet",
                "--json")  # fmt: skip
    short = ("--classifier-images", 640, "--train-classifier-on")
    first = namap(*evaluate, *short, "embedded:typeset/test")
    assert first[0] == 0, first[2]
    assert json.loads((tmp_path / "c" / "run.json").read_text())["run"]["images"] == 640
    assert json.loads(namap(*evaluate)[1]) == json.loads(first[1])
    assert namap(*evaluate, *short, "embedded:typeset/test", "--seed", 3)[0] == 0
    code, _, err = namap(*evaluate, *short, "embedded:typeset/train")
    assert code == 2 and "another data" in err, "a judge of other images is not taken for one of these"
    code, _, err = namap(*evaluate, "--classifier-images", 640)
    assert code == 2 and "--classifier-images: of a training" in err
    evaluate = ("evaluate", models / "m", "embedded:handwriting/test", "--classifier", tmp_path / "d")
    for name in ("dark", "light"):
        (tmp_path / "x" / name).mkdir(parents=True)
        Image.new("L", (32, 32)).save(tmp_path / "x" / name / "1.png")
    code, _, err = namap(*evaluate, *short, tmp_path / "x")
    assert code == 3 and "classes of the classifier have names" in err
    assert not (tmp_path / "d").exists(), "said before it is trained"


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_the_shell_completes_verbs_options_and_values_without_loading_torch(tmp_path):
    scripts = Path(sys.executable).parent
    shell = f"""
set -e
export HOME={tmp_path} PATH={scripts}:$PATH
namap --install-completion bash > /dev/null
source {tmp_path}/.bashrc
complete() {{
  COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
  _namap_completion namap; echo "${{COMPREPLY[*]}}"
}}
complete namap tra
complete namap fit --query
complete namap fit --vgg-input ""
"""
    found = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=60)
    assert found.returncode == 0, found.stderr
    assert [sorted(line.split()) for line in found.stdout.splitlines()] == [
        ["train-generator", "train-mapper", "translate"], ["--query-size"], ["caffe", "torchvision"]
    ]  # fmt: skip
    loaded = "import sys, namap.cli; sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", loaded]).returncode == 0
