"""Eq. 6: the codes of queries by optimisation."""

import numpy as np
import pytest
import torch

from namap import solving
from namap.codes import draw_starts
from namap.generators import Generator
from namap.losses import Reconstruction, l2
from namap.solving import CodeSearch
from namap.tensors import from_numpy, random_stream
from test_mapping import fitted


def test_equation_6_recovers_the_code_of_a_generated_image(generator):
    truth = torch.randn(4, 1, 6, generator=random_stream(3))
    y = generator(truth[:, 0]).detach()
    starts = truth + 0.3 * torch.randn(truth.shape, generator=random_stream(4))
    reconstruction, identity = Reconstruction(l2), torch.nn.Identity()
    z0, before, _ = CodeSearch(generator, identity, reconstruction, y, starts, steps=0).run()
    z, after, x = CodeSearch(generator, identity, reconstruction, y, starts, steps=150).run()
    assert torch.equal(z0, starts)
    torch.testing.assert_close(x[:, 0], generator(z[:, 0]))
    assert (after < before / 20).all()
    assert (z - truth).abs().max() < 0.15
    with torch.no_grad():
        torch.testing.assert_close(l2(generator(z[:, 0]), y), after[:, 0], atol=1e-6, rtol=1e-3)


def test_noise_does_not_move_a_code_away_from_its_optimum():
    class Same(Generator):
        latent_dim, channels, image_size, config = 256, 1, 16, {}

        def forward(self, z):
            return z.view(-1, 1, 16, 16)

    y, start = torch.zeros(1, 1, 16, 16), torch.zeros(1, 1, 256)
    search = CodeSearch(Same(), torch.nn.Identity(), Reconstruction(l2), y, start, 300, spread=torch.ones(1, 256))
    z, _, _ = search.run()
    assert search.spent > 10 and z.square().mean().sqrt() < 0.02


class Counted(Reconstruction):
    """How many images a search looks at, and at most at a time."""

    seen, widest = 0, 0

    def forward(self, t, y, targets=None):
        self.seen, self.widest = self.seen + len(t), max(self.widest, len(t))
        return super().forward(t, y, targets)


def search(mapping, queries, steps=120, solutions=1, **options):
    """Eq. 6 from the mapping's own starts; (codes, losses, images looked at)."""
    y, reconstruction = from_numpy(queries), Counted(l2)
    with torch.no_grad():
        starts = mapping.fitted_codes.starts(y, draw_starts(solutions, mapping.latent_dim, 1, "cpu"))
        spread = mapping.fitted_codes.spread(y)
    networks = (mapping.generator, mapping.mapper, reconstruction)
    z, losses, _ = CodeSearch(*networks, y, starts, steps, prior_weight=1e-3, spread=spread, **options).run()
    assert reconstruction.widest <= max(options.get("batch_size", 64), z.shape[0] * solutions)
    return z, losses, reconstruction.seen


@pytest.mark.parametrize("method", ["nam", "vae"])
def test_a_query_that_has_converged_makes_room(method, generator, handwriting):
    mapping = fitted(method, generator, handwriting, loss="l2", images=2560)
    queries = handwriting.images[:24]
    _, whole, all_seen = search(mapping, queries, tolerance=0.0)
    assert all_seen == 24 * 122  # 120 iterations, the codes after the last, and the result
    _, found, seen = search(mapping, queries, batch_size=8)
    assert seen < 0.8 * all_seen
    assert found.mean() < 1.02 * whole.mean()
    torch.testing.assert_close(found, whole, rtol=0.1, atol=1e-3)  # under a VAE's noise a query may stop early


def test_codes_refined_without_noise_reconstruct_better(generator, handwriting):
    with_noise, without = (
        fitted("vae", generator, handwriting, loss="l2", images=2560, refine_noise=share) for share in (1.0, 0.0)
    )
    queries = handwriting.subset(slice(0, 16))
    assert (with_noise.translate(queries).x == without.translate(queries).x).all()  # the fits are the same
    assert without.translate(queries, refine=60).losses.mean() < with_noise.translate(queries, refine=60).losses.mean()


@pytest.mark.parametrize("method", ["nam", "vae"])
def test_what_a_query_finds_does_not_depend_on_its_neighbours(method, generator, handwriting):
    mapping = fitted(method, generator, handwriting, loss="l2", images=2560)
    together, losses, _ = search(mapping, handwriting.images[:12], 60, 2)
    crowded, _, _ = search(mapping, handwriting.images[:12], 60, 2, batch_size=5)
    torch.testing.assert_close(crowded, together, atol=5e-3, rtol=1e-2)
    last, loss, _ = search(mapping, handwriting.images[11:12], 60, 2)
    torch.testing.assert_close(last, together[11:], atol=5e-3, rtol=1e-2)
    torch.testing.assert_close(loss, losses[11:], atol=1e-4, rtol=1e-3)


def test_refinement_never_raises_the_objective(generator, handwriting):
    mapping = fitted("ae", generator, handwriting)
    first, refined = (mapping.translate(handwriting, refine=steps).losses for steps in (0, 20))
    assert (refined <= first + 1e-6).all()
    assert refined.mean() < first.mean() - 2e-3


def test_refinement_under_the_encoders_noise_lowers_the_mean_loss(generator, handwriting):
    mapping = fitted("vae", generator, handwriting, images=2560)
    first, refined = (mapping.translate(handwriting, refine=steps).losses for steps in (0, 20))
    assert refined.mean() < first.mean()


def test_large_pictures_are_scored_in_pieces_to_the_same_answers(generator, handwriting, monkeypatch):
    mapping, drawn = fitted("vae", generator, handwriting), []
    whole = mapping.translate(handwriting.subset(slice(0, 9)), 2)
    monkeypatch.setattr(solving, "SCORED_PIXELS", 4 * 32**2)
    mapping.generator.register_forward_hook(lambda module, given, images: drawn.append(len(images)))
    pieces = mapping.translate(handwriting.subset(slice(0, 9)), 2)
    assert drawn == [4, 4, 4, 4, 2]
    np.testing.assert_allclose(pieces.losses, whole.losses, rtol=1e-4)
