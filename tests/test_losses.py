import pytest
import torch

from namap.losses import Reconstruction, appearance_invariant, bounded, fit_appearance, kl_divergence, l1, paint
from namap.networks import EarnedMapper, PaperMapper, VGGFeatures


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_appearance_is_zero_for_any_recolouring_and_one_for_noise():
    t = images(4, 1, 16, 16)
    y = 0.4 * t * torch.tensor([1.0, -0.5, 0.2]).view(1, 3, 1, 1) + torch.tensor([0.1, 0.3, -0.2]).view(1, 3, 1, 1)
    assert appearance_invariant(t, y).max() < 0.05
    assert appearance_invariant(t, images(4, 3, 16, 16, seed=1)).min() > 0.9


@pytest.mark.parametrize(("k", "c"), [(1, 1), (1, 3), (3, 3), (3, 1)])
def test_appearance_fit_is_least_squares(k, c):
    t, y = images(2, k, 16, 16), images(2, c, 16, 16, seed=1)
    a, b = fit_appearance(t, y)
    for i in range(2):
        design = torch.cat([t[i].flatten(1).T, torch.ones(256, 1)], 1)
        solution = torch.linalg.lstsq(design, y[i].flatten(1).T).solution
        torch.testing.assert_close(a[i], solution[:-1].T, atol=5e-3, rtol=0)
        torch.testing.assert_close(b[i], solution[-1], atol=5e-3, rtol=0)
    assert (paint(t, a, b) - y).square().mean() <= (y - y.mean((2, 3), keepdim=True)).square().mean() + 1e-6


def test_appearance_is_exact_under_autocast():
    t, y = images(3, 1, 32, 32), images(3, 3, 32, 32, seed=1)
    expected = appearance_invariant(t, y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(Reconstruction(appearance_invariant)(t, y), expected)


def test_kl_agrees_with_torch():
    mu, log_var = images(5, 7), images(5, 7, seed=1)
    q, p = torch.distributions.Normal(mu, (log_var / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(kl_divergence(mu, log_var), torch.distributions.kl_divergence(q, p))


@pytest.mark.parametrize("start", [30.0, -30.0])
def test_a_variance_beyond_its_bounds_comes_back(start):
    """A dimension that G does not use has nothing but the KL term to bring it back."""
    log_var = torch.tensor([[start]], requires_grad=True)
    adam = torch.optim.Adam([log_var], 0.1)
    for _ in range(500):
        adam.zero_grad()
        kl = kl_divergence(torch.zeros(1, 1), bounded(log_var))
        assert kl.isfinite().all()
        kl.sum().backward()
        adam.step()
    assert log_var.abs().item() < 1


def test_the_perceptual_loss_is_equation_4_and_its_cache_changes_nothing():
    def features(x: torch.Tensor) -> list[torch.Tensor]:
        return [x * 2, x.mean(1, keepdim=True)]

    class Toy(torch.nn.Module):
        forward = staticmethod(features)

    t, y = images(3, 3, 8, 8), images(3, 3, 8, 8, seed=1)
    loss = Reconstruction(l1, Toy())
    expected = l1(t, y) + sum((a - b).abs().flatten(1).mean(1) for a, b in zip(features(t), features(y), strict=True))
    torch.testing.assert_close(loss(t, y), expected)
    torch.testing.assert_close(loss(t, y, loss.targets(y)), expected)
    ours, composed = t.clone().requires_grad_(), t.clone().requires_grad_()
    loss(ours, y).mul(torch.arange(3)).sum().backward()
    terms = zip(features(composed), features(y), strict=True)
    each = l1(composed, y) + sum((a - b).abs().flatten(1).mean(1) for a, b in terms)
    each.mul(torch.arange(3)).sum().backward()
    torch.testing.assert_close(ours.grad, composed.grad)


def test_caffe_weights_are_folded_exactly(shared):
    weights = shared / "weights" / "vgg16_hed_bsds.safetensors"
    ours = VGGFeatures(weights, 2, "caffe")
    rgb = images(2, 3, 24, 24)
    from safetensors.torch import load_file
    from torchvision.models import vgg16

    plain = vgg16(weights=None).features[:9]
    plain.load_state_dict({k.removeprefix("features."): v.float() for k, v in load_file(weights).items()
                           if int(k.split(".")[1]) < 9})  # fmt: skip
    caffe = (rgb.flip(1) + 1) / 2 * 255 - torch.tensor([104.00699, 116.66877, 122.67892]).view(1, 3, 1, 1)
    unit = 255 * torch.tensor([0.229, 0.224, 0.225]).mean()
    with torch.no_grad():
        torch.testing.assert_close(ours(rgb)[1] * unit, plain(caffe), rtol=1e-4, atol=1e-2)
        assert [f.shape[1] for f in ours(images(1, 1, 24, 24))] == [64, 128]


def test_an_earned_mapper_starts_as_the_identity():
    x = images(2, 3, 32, 32)
    mapper = EarnedMapper(3, 1)
    torch.testing.assert_close(mapper(x), x.mean(1, keepdim=True))
    with torch.no_grad():
        for p in mapper.crn.head.parameters():
            p.add_(1)
    assert (mapper(x) - x.mean(1, keepdim=True)).abs().max() > 0.1
    mapper.free = False
    torch.testing.assert_close(mapper(x), x.mean(1, keepdim=True))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("skip", [False, True])
def test_the_papers_mapper(size, skip):
    out = PaperMapper(3, 1, features=4, skip=skip)(images(2, 3, size, size))
    assert out.shape == (2, 1, size, size)
    assert out.abs().max() <= 1
