"""The adversarial rivals: resumed exactly, and true to their publications."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.baselines import RIVALS, CycleGAN, DiscoGAN, DistanceGAN
from benchmarks.baselines.adversarial import answer, settle
from benchmarks.baselines.cyclegan import Pool
from benchmarks.baselines.distancegan import distances
from benchmarks.experiments import EXPERIMENTS

from namap.data import ImageDomain, load_domain
from namap.tensors import from_numpy, random_stream
from namap.training import Batch, Run, train


@pytest.fixture(scope="module")
def domains():
    return load_domain("embedded:typeset/train").subset(slice(0, 40)), load_domain("embedded:handwriting/train")


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_that_was_interrupted_ends_with_the_same_weights(name, domains, tmp_path):
    x, y = domains[0], domains[1].subset(slice(0, 40))
    kind = type("Small", (RIVALS[name],), {"batch_size": min(RIVALS[name].batch_size, 8)})
    run = Run(4 * kind.batch_size, kind.batch_size, 0, quiet=True, checkpoint_seconds=0)

    def weights(outdir, dies_at=None):
        rival = kind(x, y, 0)
        if dies_at is not None:
            rival.after_step = lambda step: die() if step == dies_at else None
        train(rival, y, run, outdir)
        return torch.cat([p.flatten() for module in rival.modules.values() for p in module.state_dict().values()])

    with pytest.raises(RuntimeError, match="killed"):
        weights(tmp_path / "broken", dies_at=3)
    resumed, straight = weights(tmp_path / "broken"), weights(tmp_path / "straight")
    assert torch.equal(resumed, straight) and straight.isfinite().all()


def die():
    raise RuntimeError("killed")


def test_cyclegan_pool_gives_old_images_back_and_lives_in_checkpoints():
    pool, rng = Pool(1, 4), torch.Generator().manual_seed(0)
    for i in range(50):
        image = torch.full((1, 1, 4, 4), float(i))
        assert pool.swap(image, rng) is image
    seen = [float(pool.swap(torch.full((1, 1, 4, 4), 99.0), rng)[0, 0, 0, 0]) for _ in range(40)]
    assert 5 < sum(value != 99.0 for value in seen) < 35
    assert {"kept", "count"} <= pool.state_dict().keys()


def test_distances_are_of_all_pairs_and_standardised(domains):
    x, y = domains
    images = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    assert distances(images).tolist() == [1.0, 2.0, 1.0]
    rival = DistanceGAN(x, y.subset(slice(0, 40)), 0)
    assert all(0.05 < mean < 1 and 0 < std < mean for mean, std in rival.scales)


def test_critics_do_not_learn_from_the_translators_step(domains):
    x, y = domains[0], domains[1].subset(slice(0, 8))
    rival = CycleGAN(x, y, 0)
    before = [p.clone() for p in rival.critic_x.parameters()]
    updates = rival.updates(first_batch(y))
    next(updates).loss.mean().backward()
    assert all(p.grad is None for p in rival.critic_x.parameters())
    next(updates).loss.mean().backward()
    assert all(
        torch.equal(p, q) and p.grad is not None for p, q in zip(rival.critic_x.parameters(), before, strict=True)
    )


def test_a_rival_answers_with_the_statistics_of_queries_alone(domains):
    """In training its Y -> X also gets translations; what these leave behind would colour every answer."""
    x, y = domains[0], domains[1].subset(slice(0, 100))
    rival = DiscoGAN(x, y, 0)
    images = from_numpy(y.images)
    with torch.no_grad():
        expected = rival.to_x(images)
        for _ in range(5):
            rival.to_x(torch.zeros_like(images))
    rival.to_x.eval()
    settle(rival, y)
    found = torch.from_numpy(answer(rival, y)[:, 0]).float() / 127.5 - 1
    assert (found - expected).abs().max() < 0.02


@pytest.mark.parametrize("name", ["discogan", "distancegan"])
def test_rivals_pair_angles_with_the_settings_published_for_it(name):
    settings = EXPERIMENTS["car2car"].rivals[name]
    domain = ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (8, 3, 64, 64), np.uint8))
    rival = RIVALS[name](domain, domain, 0, **settings)
    assert rival.rates == (0.9, 0.9)
    narrow = min(m.out_channels for m in rival.to_x.modules() if isinstance(m, torch.nn.Conv2d) and m.stride == (1, 1))
    assert narrow == 100
    assert len(rival.critic_x(from_numpy(domain.images))[1]) == 2, "of four levels"
    assert answer(rival, domain).shape == (8, 1, 3, 64, 64)


@pytest.mark.parametrize("name", ["discogan", "distancegan"])
def test_rivals_map_bags_to_shoes_with_the_rate_published_for_it(name):
    domain = ImageDomain.from_array(np.random.default_rng(0).integers(0, 256, (8, 1, 32, 32), np.uint8))
    assert RIVALS[name](domain, domain, 0, **EXPERIMENTS["bags2shoes"].rivals[name]).rates == (0.5, 0.5)
    assert RIVALS[name](domain, domain, 0).rates == (0.01, 0.5), "edges and digits have those of the authors' code"


def first_batch(y):
    return Batch(torch.arange(1), from_numpy(y.images[:1]), None, random_stream(0), 0, 0.0)
