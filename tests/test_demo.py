import json
from dataclasses import replace

import pytest

import namap.demo as demo
import namap.kinds as kinds
import namap.speed as speed
from namap.data.embedded import font_files
from namap.errors import UsageError


def test_a_short_demo_writes_a_self_contained_report_and_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "GENERATOR", replace(demo.GENERATOR, images=640, width=8))
    monkeypatch.setitem(demo.MAPPING, "images", 1280)
    monkeypatch.setattr(kinds, "TRAINING_IMAGES", 1280)
    monkeypatch.setattr(demo, "CLASSIFIER_IMAGES", 1280)
    monkeypatch.setattr(demo, "CLASSIFIER_WIDTH", 8)
    summary = demo.run_demo(tmp_path, [0, 1], quiet=True)
    assert summary == json.loads((tmp_path / "metrics.json").read_text())
    assert set(summary["seeds"]) == {"0", "1"}
    assert summary["kept"] == sum(s["kept"] for s in summary["seeds"].values()) / 2
    html = (tmp_path / "report.html").read_text()
    for words in ("digits kept", "copy baseline", "generator, seconds", "Training of the generator", "data:image/webp"):
        assert words in html
    assert "http" not in html
    with pytest.raises(UsageError, match=r"another precision .*; use --overwrite or another --outdir"):
        demo.run_demo(tmp_path, [0, 1], precision="bf16" if summary["precision"] == "fp32" else "fp32")
    font = font_files()[0]
    with pytest.raises(UsageError, match=r"another fonts \(\[\], now \['\w{16}'\]\)"):
        demo.run_demo(tmp_path, [0], [font])
    (tmp_path / "metrics.json").unlink()
    again = demo.run_demo(tmp_path, [0, 1], quiet=True)
    assert again["kept"] == summary["kept"]
    assert again["seeds"]["0"]["confusion"] == summary["seeds"]["0"]["confusion"]
    (tmp_path / "seed1" / "notes.txt").write_text("years of work")
    (tmp_path / "seed1-notes.txt").write_text("years of work")
    demo.clear_demo(tmp_path)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")} == {
        ".lock", "seed1", "seed1/notes.txt", "seed1-notes.txt",
    }  # fmt: skip
    with pytest.raises(UsageError, match="does not look like a demo of namap"):
        demo.clear_demo(tmp_path)


@pytest.mark.parametrize("name", ["metrics.json", "report.html", "analogies.png"])
def test_a_demo_leaves_what_is_somebody_elses(tmp_path, name):
    (tmp_path / name).write_text('{"kept": 0.5}')
    with pytest.raises(UsageError, match=f"holds no demo of namap, and its {name} would be lost"):
        demo.run_demo(tmp_path, quiet=True)
    assert (tmp_path / name).read_text() == '{"kept": 0.5}'
    assert len([*tmp_path.iterdir()]) == 1


@pytest.fixture
def brief(monkeypatch):
    """Figures of little work, so few runs that only their kind can be judged."""
    figures = {name: (make, s._replace(batch=min(s.batch, 4))) for name, (make, s) in speed.figures().items()}
    monkeypatch.setattr(speed, "figures", lambda: figures)
    monkeypatch.setattr(speed, "WARM", 0)
    monkeypatch.setattr(speed, "LEAST", 1)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    monkeypatch.setattr(speed, "IMAGES", 8)
    monkeypatch.setattr(speed, "STEPS", 4)


def test_speed_counts_what_a_step_costs(brief):
    result = speed.bench_speed(only="nam 32 vgg")
    rows = {(r["step"], r["mode"]): r for r in result["rows"]}
    assert len(rows) == 2
    for row in rows.values():
        assert row["images_s"] > 0
        assert 0 < row["share_of_convolution"] < 2
    step = [rows["nam 32 vgg", mode]["mflop_per_image"] for mode in ("fp32 nchw", "default")]
    assert step[0] == step[1]
    vgg = 3.5 + 75.5 + 37.7 + 75.5 + 37.7 + 75.5 + 75.5  # multiply-adds of a pixel's columns, forward, in Mflop
    assert 2 * vgg < step[0] < 2.5 * vgg, "T(G(z)) through VGG and back, phi(y) not at all"
    assert "nam 32 vgg" in speed.speed_table(result)


def test_a_profile_says_where_a_step_goes(brief):
    result = speed.bench_speed(only="vae 32 app", profiled=True)
    found = result["profile"]["vae 32 appearance"]
    assert sum(found["shares"].values()) == pytest.approx(1)
    assert min(found["shares"].values()) > 0
    assert found["shares"]["networks"] > 0.5
    assert 0.1 < found["convolutions"] < found["shares"]["networks"] + 0.05
    assert any("convolution" in name for name in found["slowest"])
    assert "optimiser" in speed.speed_table(result)


@pytest.mark.parametrize("name", ["dcgan 32", "translate 32", "translate 32, refine 20", "eq. 6 32, an iteration"])
def test_speed_measures_what_is_not_a_fit(name, brief):
    make, setting = speed.figures()[name]
    images, run = make(setting)
    images_s, flops = speed._measure(images, run)
    assert images == 4 and images_s > 0
    assert flops > (1.5e9 if "refine" in name else 2e7)


def test_the_public_names_exist():
    import namap

    for name in namap.__all__:
        assert getattr(namap, name).__name__ == name
