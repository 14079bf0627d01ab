"""Publishing a mapping and loading it by name, against a stand-in of the hub on loopback."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import Image

from namap.card import claim_card
from namap.checkpoint import load_directory
from namap.errors import StorageError, UsageError
from namap.generators import load_generator, wrap_generator
from namap.hub import local_model
from namap.mapping import AENAM, NAM, VAENAM, Mapping
from namap.pictures import write_pngs
from standin import TOKEN, serve
from test_cli import call

SMALL = {"images": 64, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}
REPO = "alice/hand2print"
SRC = "embedded:handwriting/test"


@pytest.fixture(scope="module")
def hub():
    with serve() as server:
        yield server


def turn(monkeypatch, endpoint: str) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    files = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + files)


@pytest.fixture
def online(hub, monkeypatch, tmp_path):
    """huggingface_hub, whose constants are set when it is imported, turned to the stand-in; an empty cache."""
    hub.repos.clear()
    hub.private.clear()
    hub.down = False
    turn(monkeypatch, hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # its protocol is no HTTP API that can be stood in for
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture(scope="module")
def fitted(tmp_path_factory) -> tuple[Mapping, Path]:
    from namap.data import load_domain
    from namap.generators import DCGAN

    torch.manual_seed(0)
    run = tmp_path_factory.mktemp("run")
    queries = load_domain("embedded:handwriting/train").subset(slice(0, 64))
    mapping = VAENAM(DCGAN(latent_dim=6, width=8), seed=0, **SMALL).fit(queries, run, quiet=True)
    return mapping, run


def test_a_round_trip_gives_the_same_weights_and_the_same_translations(
    online, fitted, handwriting, monkeypatch, tmp_path
):
    mapping, run = fitted
    queries = handwriting.subset(slice(0, 20))
    address = mapping.push_to_hub(REPO, queries, private=True, license="cc-by-4.0", run=run, y="handwriting")
    assert address == f"{online.endpoint}/{REPO}"
    assert REPO in online.private
    files = next(iter(online.repos[REPO].values()))
    assert files.keys() == {"README.md", "analogies.png", "config.json", "manifest.json", "model.safetensors"}
    monkeypatch.chdir(tmp_path)
    again = VAENAM.from_pretrained(REPO, precision="fp32").to("cpu")
    saved, loaded = mapping.state()[0], again.state()[0]
    assert saved.keys() == loaded.keys()
    for name, tensor in saved.items():
        assert torch.equal(tensor, loaded[name]), name
    ours, theirs = (m.translate(queries, solutions=2) for m in (mapping, again))
    np.testing.assert_array_equal(ours.x, theirs.x)
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    fetched = [r for r in online.requests if "/resolve/" in r]
    assert not any("README" in r or ".png" in r for r in fetched), "more was fetched than a model consists of"
    online.down = True  # what is in the cache is enough
    Mapping.from_pretrained(REPO)
    online.down = False
    with pytest.raises(UsageError, match="no such revision"):
        Mapping.from_pretrained(REPO, revision="v9")
    with pytest.raises(UsageError, match="holds a VAENAM"):
        AENAM.from_pretrained(REPO, revision=next(iter(online.repos[REPO])))
    assert address == mapping.push_to_hub(REPO)  # a second one into the same repository
    assert len(online.repos[REPO]) == 2


def test_the_code_of_the_card_runs(online, fitted, tmp_path):
    mapping, run = fitted
    (run / "evaluation.json").write_text(json.dumps({"kept": 0.757, "confusion": [[1]]}))
    mapping.push_to_hub(REPO, "embedded:handwriting/test", run=run, license="mit", x="typeset digits", y="handwriting")
    text = next(iter(online.repos[REPO].values()))["README.md"].decode()
    front = yaml.safe_load(text.split("---")[1])
    assert front["license"] == "mit"
    assert front["library_name"] == "namap"
    assert front["pipeline_tag"] == "image-to-image"
    assert "vae-nam" in front["tags"]
    said = "handwriting to typeset digits", "| kept | 0.757 |", "loss of 500 queries", "beta: 0.001", "`mit`", "/test |"
    for words in said:
        assert words in text
    assert "confusion" not in text
    assert "{{" not in text
    folder = tmp_path / "my_images"
    folder.mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50), np.uint8)).save(folder / "a.png")
    code = re.search("```python\n(.*?)```", text, re.S)
    assert code
    environment = os.environ | {"HF_ENDPOINT": online.endpoint, "HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", code[1]], cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert Image.open(tmp_path / "analogy.png").size == (32, 32)
    assert (tmp_path / "analogies" / "a.png").exists()


def test_push_and_card_from_the_command_line(online, fitted, monkeypatch, capsys, tmp_path):
    _, run = fitted
    code, out, err = call(monkeypatch, capsys, "push", run, REPO, "--private", "--json")
    assert code == 0, err
    assert json.loads(out) == {"model": f"{online.endpoint}/{REPO}"}
    assert REPO in online.private
    online.repos.clear()
    online.requests.clear()
    code, _, err = call(monkeypatch, capsys, "push", run, REPO, "--card-only", tmp_path / "card", "--y-name", "a\nb")
    assert code == 0, err
    assert not online.requests
    assert "a b to the generator's domain" in (tmp_path / "card" / "README.md").read_text()
    assert Image.open(tmp_path / "card" / "analogies.png").size == (12 * 66 + 2, 2 * 66 + 2)
    assert re.search(r"\| training images seen \| [\d,]+ \|", (tmp_path / "card" / "README.md").read_text())
    again = ("push", run, REPO, "--card-only", tmp_path / "card")
    assert call(monkeypatch, capsys, *again)[0] == 0, "its own card is written anew"
    (tmp_path / "card" / "README.md").write_text("# Mine")
    code, _, err = call(monkeypatch, capsys, *again)
    assert code == 2 and "is no card of namap" in err
    assert (tmp_path / "card" / "README.md").read_text() == "# Mine"
    write_pngs(tmp_path, ["y.png"], np.zeros((1, 1, 32, 32), np.uint8))
    inside = ("push", run, REPO, "--data", tmp_path, "--card-only", tmp_path / "within")
    code, _, err = call(monkeypatch, capsys, *inside)
    assert code == 2 and "--card-only" in err and "lies in the folder of the images" in err


def test_a_picture_without_a_card_is_somebody_elses(tmp_path):
    claim_card(tmp_path)
    (tmp_path / "analogies.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"analogies.png: is no card of namap"):
        claim_card(tmp_path)
    (tmp_path / "README.md").write_text("---\nlibrary_name: namap\n---")
    claim_card(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "state", "code", "words"),
    [
        (("push", "{run}", "alice/x"), "refused", 2, "refuses (401)"),
        (("push", "{run}", "alice/x"), "down", 5, "answers 503"),
        (("push", "{run}", "alice/x"), "gone", 5, "cannot be reached"),
        (("push", "{run}", "alice"), "", 2, "owner/name"),
        (("push", "{run}", "alice/x", "--license", "a: b"), "", 2, "--license"),
        (("translate", "bob/none", SRC, "--outdir", "o"), "", 2, "not on the hub"),
        (("translate", "bob/none", SRC, "--outdir", "o"), "gone", 5, "cannot be reached"),
        (("translate", "bob/other", SRC, "--outdir", "o"), "", 2, "no model of namap"),
        (("translate", "runs/none", SRC, "--outdir", "o"), "", 2, "runs/none: no such directory"),
    ],
)
def test_errors_of_the_hub_are_one_line(online, fitted, monkeypatch, capsys, tmp_path, arguments, state, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    online.repos["bob/other"] = {"0" * 40: {"README.md": b"nothing", "pytorch_model.bin": b"pickle"}}
    if state == "refused":
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    if state == "gone":
        turn(monkeypatch, "http://127.0.0.1:9")
    online.down = state == "down"
    online.requests.clear()
    found, _, err = call(monkeypatch, capsys, *(a.format(run=fitted[1]) for a in arguments))
    assert (found, words in err) == (code, True), err
    assert len(err.strip().splitlines()) == 1
    assert arguments[1] != "runs/none" or not online.requests, "a misspelt directory was asked of the hub"


def test_a_damaged_download_is_refused_and_nothing_outside_the_cache_is_read(online, fitted, tmp_path):
    mapping, _ = fitted
    mapping.push_to_hub(REPO)
    files = next(iter(online.repos[REPO].values()))
    weights = bytearray(files["model.safetensors"])
    weights[-1] ^= 1
    files["model.safetensors"] = bytes(weights)
    with pytest.raises(StorageError, match="sha256"):
        Mapping.from_pretrained(REPO)
    place = local_model(REPO)
    assert (place / "config.json").is_symlink()
    secret = tmp_path / "secret.json"
    secret.write_text("{}")
    (place / "config.json").unlink()
    (place / "config.json").symlink_to(secret)
    with pytest.raises(StorageError, match="plain file"):
        load_directory(place)


def test_a_foreign_generator_is_referred_to_without_its_directory(online, handwriting, tmp_path):
    module = torch.nn.Sequential(torch.nn.Linear(6, 1024), torch.nn.Tanh(), torch.nn.Unflatten(1, (1, 32, 32)))
    file = tmp_path / "lines.pt"
    torch.jit.save(torch.jit.trace(module, torch.randn(2, 6)), file)
    settings = {**SMALL, "queries": 0}
    mapping = NAM(load_generator(file), **settings).fit(handwriting.subset(slice(0, 40)), quiet=True)
    mapping.push_to_hub(REPO)
    files = next(iter(online.repos[REPO].values()))
    assert not any(str(tmp_path).encode() in content for content in files.values())
    assert b"--generator lines.pt" in files["README.md"]
    with pytest.raises(UsageError, match="generator is gone"):
        Mapping.from_pretrained(REPO)
    again = Mapping.from_pretrained(REPO, generator=file)
    np.testing.assert_array_equal(again.translate(handwriting.subset(slice(0, 2)), refine=2).x.shape, (2, 1, 1, 32, 32))
    wrapped = NAM(wrap_generator(module), **settings).fit(handwriting.subset(slice(0, 40)), quiet=True)
    wrapped.push_to_hub(REPO)
    assert b"Bring the one of the fit" in list(online.repos[REPO].values())[-1]["README.md"]


def test_to_moves_and_answers_stay(fitted, handwriting):
    mapping, run = fitted
    moved = VAENAM.from_pretrained(run, precision="fp32").to("cpu")
    two = handwriting.subset(slice(0, 2))
    np.testing.assert_array_equal(moved.translate(two).x, mapping.translate(two).x)
    with pytest.raises(UsageError, match="CUDA devices"):
        moved.to("cuda:7")
