import json
import resource

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from namap.errors import Interrupted, StorageError
from namap.generators import train_generator
from namap.generators.families import dcgan, progressive
from namap.logs import Log, sheet
from namap.mapping import AENAM, NAM, VAENAM, WAENAM
from namap.training import train
from tasks import Autoencoder, run


def events(outdir) -> EventAccumulator:
    everything = {"images": 0, "scalars": 0, "histograms": 0}
    found = EventAccumulator(str(outdir / "tensorboard"), size_guidance=everything)
    return found.Reload()


def rows(outdir) -> list[dict]:
    return [json.loads(line) for line in (outdir / "metrics.jsonl").read_text().splitlines()]


def assert_same(outdir) -> EventAccumulator:
    """TensorBoard's curves are those of metrics.jsonl, step by step, and nothing else."""
    found, written = events(outdir), rows(outdir)
    lists = {tag for tag, value in written[0].items() if isinstance(value, list)}
    assert set(found.Tags()["scalars"]) == written[0].keys() - {"step", "images"} - lists
    assert set(found.Tags()["histograms"]) == lists
    for tag in lists:
        assert [e.step for e in found.Histograms(tag)] == [row["step"] for row in written], tag
        sums = [e.histogram_value.sum for e in found.Histograms(tag)]
        np.testing.assert_allclose(sums, [sum(row[tag]) for row in written], rtol=1e-5)
    for tag in found.Tags()["scalars"]:
        curve = found.Scalars(tag)
        assert [e.step for e in curve] == [row["step"] for row in written], tag
        np.testing.assert_allclose([e.value for e in curve], [row[tag] for row in written], rtol=1e-6)
    return found


def test_a_run_that_is_stopped_and_damaged_continues_its_curves(tmp_path, domain):
    for stop in (7, 17):
        with pytest.raises(Interrupted):
            train(Autoencoder(stop_at=stop), domain, run(), tmp_path / "run")
    # A kill between two checkpoints: entries that come again, and half of one.
    with Log(tmp_path / "run", events=True) as log:
        log.add({"step": 20, "images": 160, "seconds": 9.0, "loss": 99.0})
    last = sorted((tmp_path / "run" / "tensorboard").iterdir())[-1]
    last.write_bytes(last.read_bytes()[:-3])
    train(Autoencoder(break_at=(25,)), domain, run(), tmp_path / "run")  # and one rollback
    found = assert_same(tmp_path / "run")
    assert [e.step for e in found.Images("pictures")] == list(range(3, 31, 3))


def test_the_weights_take_no_notice_and_without_a_directory_nothing_stays(tmp_path, domain, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    seen, unseen = Autoencoder(), Autoencoder()
    train(seen, domain, run(), tmp_path / "run")
    train(unseen, domain, run())
    assert torch.equal(seen.weights(), unseen.weights())
    assert not list((tmp_path / "scratch").iterdir())


@pytest.mark.parametrize("kind", [NAM, AENAM, VAENAM, WAENAM])
def test_mappings_show_queries_analogies_and_reconstructions(generator, handwriting, tmp_path, kind):
    settings = {"images": 64, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32", "queries": 40}
    seen, unseen = kind(generator, **settings), kind(generator, **settings)
    seen.fit(handwriting, tmp_path, quiet=True)
    unseen.fit(handwriting, quiet=True)
    assert all(torch.equal(a, b) for a, b in zip(seen.mapper.parameters(), unseen.mapper.parameters(), strict=True))
    pictures = assert_same(tmp_path).Images("pictures")
    assert [e.step for e in pictures] == [1, 2]
    assert (pictures[0].width, pictures[0].height) == (12 * 33 + 1, 3 * 33 + 1)


@pytest.mark.parametrize("family", [dcgan, progressive])
def test_generators_show_samples(handwriting, tmp_path, family):
    recipe = family.Recipe(latent_dim=4, images=64, width=4, batch_size=32)
    generator = train_generator(handwriting, recipe, tmp_path, precision="fp32", quiet=True)
    assert len(assert_same(tmp_path).Images("pictures")) == 2
    assert generator(torch.zeros(1, 4)).shape[-1] == generator.image_size
    train_generator(handwriting, recipe, tmp_path, precision="fp32", quiet=True)  # finished: loaded, nothing is added
    assert_same(tmp_path)


def test_a_full_disk_is_an_error_and_no_traceback(tmp_path, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(StorageError, match="cannot be written"), Log(tmp_path, events=True) as log:
            for step in range(99):
                log.add({"step": step, "images": step, "a": 1.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert capfd.readouterr() == ("", "")


def test_an_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be written"), Log(tmp_path / "file" / "run", events=True) as log:
        log.add({"step": 1, "images": 1, "a": 1.0})


def test_rows_of_other_sizes_and_channels_make_one_sheet():
    found = sheet([torch.zeros(3, 1, 16, 16), torch.ones(3, 3, 32, 32)])
    assert found.shape == (3, 67, 100)
    assert found[:, 40, 40].tolist() == [255, 255, 255]
