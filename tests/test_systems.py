"""The systems of the papers beyond the three methods: losses, warp, simulator, strong T, exploration, grounding."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from namap import cli, model
from namap.card import draw
from namap.data import ImageDomain
from namap.errors import StorageError, UsageError
from namap.exploring import explore, one_query
from namap.generators import FaceSimulator, WarpedGenerator, check_generator, load_generator, wrap_generator
from namap.grounding import Grounding
from namap.losses import Reconstruction, gram, l1, nothing, sliced_wasserstein
from namap.mapping import AENAM, NAM, VAENAM, WAENAM, Mapping
from namap.networks import CodeTable, VGGFeatures
from namap.networks.warp import warp
from namap.strong import StrongMapper, train_mapper
from namap.tensors import random_stream, to_uint8

SMALL = {"images": 640, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}


class Blocks(nn.Module):
    """A feature network of fixed random weights: no download, same answers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(1, 6, 3, 1, 1), nn.Conv2d(6, 8, 3, 2, 1)

    def forward(self, images):
        a = self.first(images.mean(1, keepdim=True)).relu()
        return [a, self.second(a).relu()]


# ---- losses ---------------------------------------------------------------------------------------------------


def test_a_gram_matrix_knows_style_and_not_place():
    features = torch.rand(2, 5, 8, 8)
    rows = features.flatten(2)
    torch.testing.assert_close(gram(features), torch.einsum("bip,bjp->bij", rows, rows) / 64)
    shuffled = features.flatten(2)[:, :, torch.randperm(64)].view_as(features)
    torch.testing.assert_close(gram(shuffled), gram(features))
    assert (gram(features * 2) - gram(features)).abs().min() > 0.1


def test_the_gram_loss_takes_any_feature_network(generator, handwriting):
    style = Reconstruction(nothing, Blocks(), gram)
    y = torch.rand(3, 1, 16, 16)
    assert style(y, y).abs().max() == 0
    turned = y.flip(3)
    assert style(turned, y).mean() < Reconstruction(l1, Blocks())(turned, y).mean() / 5
    mapping = NAM(generator, loss="gram", features=Blocks(), **SMALL)
    assert mapping.recipe.skip
    assert mapping.recipe.mapper == "crn"
    found = mapping.fit(handwriting, quiet=True).translate(handwriting.subset(slice(0, 3)), refine=3)
    assert np.isfinite(found.losses).all()


def test_weights_of_vgg_may_be_named_by_a_string(tmp_path):
    with pytest.raises(UsageError, match=r"vgg\.safetensors"):
        VGGFeatures(str(tmp_path / "vgg.safetensors"))


def test_vgg_levels_follow_the_image_size():
    small, large = (VAENAM(FaceSimulator(size), loss="perceptual").recipe for size in (32, 64))
    assert (small.blocks, large.blocks) == (3, 4)
    network = VGGFeatures(nn.Sequential(*[nn.Conv2d(3, 3, 1), nn.ReLU()] * 16), blocks=1)
    assert network.mean.shape == (3,)


def test_sliced_wasserstein_is_the_distance_of_shifted_gaussians():
    rng = random_stream(0)
    a, b = torch.randn(4000, 8, generator=rng), torch.randn(4000, 8, generator=rng)
    shift = torch.full((8,), 2.0)
    assert sliced_wasserstein(a, b, rng) < 0.01
    expected = (shift.square().sum() / 8).item()  # the mean of (shift . theta)^2 over unit directions
    assert sliced_wasserstein(a + shift, b, rng).item() == pytest.approx(expected, rel=0.25)


def test_codes_of_wae_match_the_prior_and_those_of_ae_need_not(generator, handwriting):
    settings = {**SMALL, "images": 3000, "loss": "l2"}
    codes = {}
    for kind in (WAENAM, AENAM):
        mapping = kind(generator, **settings, **({"beta": 1.0} if kind is WAENAM else {}))
        codes[kind] = torch.from_numpy(mapping.fit(handwriting, quiet=True).translate(handwriting).codes[:, 0])
    distance = {
        kind: sliced_wasserstein(z, torch.randn(z.shape, generator=random_stream(1)), random_stream(2)).item()
        for kind, z in codes.items()
    }
    assert distance[WAENAM] < 0.3, distance
    assert distance[WAENAM] < distance[AENAM] / 2
    with pytest.raises(UsageError, match="one solution per query"):
        mapping.translate(handwriting, solutions=2)


def test_refining_a_code_of_wae_lowers_its_loss(generator, handwriting):
    mapping = WAENAM(generator, **{**SMALL, "images": 3000}).fit(handwriting, quiet=True)
    first, refined = (mapping.translate(handwriting, refine=steps).losses for steps in (0, 20))
    assert (refined <= first + 1e-6).all()


# ---- the code table -------------------------------------------------------------------------------------------


def test_a_million_codes_cost_a_step_no_more_than_a_thousand():
    import time

    def seconds(count: int) -> float:
        table = CodeTable(count, 100, random_stream(0))
        optimizer = torch.optim.SparseAdam(list(table.parameters()), 0.03)
        times = []
        for i in range(60):
            index = torch.randint(count, (128,), generator=random_stream(i))
            started = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            table.rows(index).square().sum().backward()
            optimizer.step()
            times.append(time.perf_counter() - started)
        state = [t for row in optimizer.state.values() for t in row.values() if isinstance(t, torch.Tensor)]
        size = sum(t.numel() * t.element_size() for t in (table.table.weight, *state))
        assert size <= 1300 * count
        return float(np.median(times[10:]))

    small = seconds(1000)
    # A step of NAM takes 50 ms and more; what the rows' place in memory adds must vanish in it (ratio 1.2).
    assert seconds(1_000_000) < small + 0.010


# ---- warp -----------------------------------------------------------------------------------------------------


def test_a_warp_of_nothing_reduces_and_a_known_one_moves():
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(warp(x, torch.zeros(1, 4), 32), nn.functional.avg_pool2d(x, 2), atol=1e-5, rtol=0)
    spot = -torch.ones(1, 1, 64, 64)
    spot[:, :, 30:34, 30:34] = 1

    def centre(theta: list[float]) -> tuple[float, float]:
        weights = (warp(spot, torch.tensor([theta]), 64) + 1)[0, 0]
        places = torch.arange(64) + 0.5
        return ((weights.sum(0) @ places) / weights.sum()).item(), ((weights.sum(1) @ places) / weights.sum()).item()

    x_moved, y_moved = centre([1.0, 0.0, 0.0, 0.0])
    assert x_moved == pytest.approx(32 + 64 * 0.06 * 3 * np.tanh(1 / 3), abs=0.1)
    assert y_moved == pytest.approx(32, abs=0.1)


class Upright(nn.Module):
    """A face whose outline is fixed: gaze, nose and smile are the code."""

    def __init__(self):
        super().__init__()
        self.face, self.unused = FaceSimulator(64), nn.Parameter(torch.zeros(()))

    def forward(self, z):
        still = torch.zeros(len(z), 12, device=z.device)
        return self.face(torch.cat([still[:, :5], z[:, :1], still[:, :2], z[:, 1:2], still[:, :2], z[:, 2:3]], 1))


def poses(count: int, seed: int) -> tuple[ImageDomain, torch.Tensor]:
    """Dark faces on white, 32 pixels a side, each in its own place, and their codes."""
    code = torch.randn(count, 7, generator=random_stream(seed))
    y = -WarpedGenerator(wrap_generator(Upright(), 3), 32)(code)
    return ImageDomain.from_array(
        to_uint8(y + 0.05 * torch.randn(y.shape, generator=random_stream(seed, 1))).numpy()
    ), code


@pytest.mark.slow
def test_the_spatial_transformer_recovers_a_known_place(tmp_path):
    train, _ = poses(600, 0)
    test, code = poses(40, 1)
    mapping = NAM(wrap_generator(Upright(), 3), warp=True, query_size=32, images=7000, batch_size=64, seed=0)
    found = mapping.fit(train, tmp_path, quiet=True).translate(test)
    assert found.x.shape == (40, 1, 1, 64, 64), "the analogy is upright and in full resolution"
    truth, ours = (WarpedGenerator.pose(torch.as_tensor(c)) for c in (code, found.codes[:, 0]))
    error = {name: (ours[name] - truth[name]).abs().median().item() for name in truth}
    assert 32 * max(error["shift_x"], error["shift_y"]) < 1, error
    assert error["scale"] < 0.03, error
    assert error["angle"] < 2, error
    again = Mapping.from_pretrained(tmp_path, generator=wrap_generator(Upright(), 3))
    np.testing.assert_array_equal(again.translate(test, refine=2).codes, mapping.translate(test, refine=2).codes)


def test_an_encoder_of_places_has_a_prior():
    generator = wrap_generator(Upright(), 3)
    assert AENAM(generator).recipe.beta == 0
    assert AENAM(generator, warp=True, query_size=32).recipe.beta > 0


def test_an_encoder_predicts_the_place_and_query_size_needs_a_warp():
    train, _ = poses(64, 0)
    mapping = VAENAM(wrap_generator(Upright(), 3), warp=True, query_size=32, **SMALL).fit(train, quiet=True)
    assert mapping.latent_dim == 7
    found = mapping.translate(train.subset(slice(0, 2)), solutions=2)
    assert found.x.shape == (2, 2, 1, 64, 64)
    assert found.codes.shape == (2, 2, 7)
    for size in (8, 20):
        with pytest.raises(UsageError, match=f"query_size {size}: T needs a multiple of 8, 16 or more"):
            VAENAM(FaceSimulator(64), warp=True, query_size=size)
    with pytest.raises(UsageError, match="query_size: only with warp"):
        VAENAM(FaceSimulator(64), query_size=32)


# ---- simulator ------------------------------------------------------------------------------------------------


def test_the_simulator_is_a_generator_with_named_parameters():
    face = load_generator("simulator:face:64")
    assert isinstance(face, FaceSimulator)
    assert check_generator(face, 12) == (1, 64)
    with pytest.raises(UsageError, match="unknown simulator; use simulator:face"):
        load_generator("simulator:clock")
    z = torch.randn(20, 12, generator=random_stream(0)).clamp(-2, 2)
    parameters = face.parameters_of(z)
    assert len(parameters) == 12
    torch.testing.assert_close(face.codes_of(parameters), z, atol=1e-3, rtol=0)
    wide, narrow = (
        face(face.codes_of({**parameters, "mouth_width": torch.full((20,), width)})) for width in (0.14, 0.07)
    )
    rows = slice(int(64 * 0.6), 64)
    assert (wide[:, :, rows] + 1).sum() > 1.02 * (narrow[:, :, rows] + 1).sum()


@pytest.mark.slow
def test_fitted_codes_are_the_parameters_of_the_simulator():
    rng = random_stream(3)
    face = FaceSimulator(32)
    z = torch.randn(1500, 12, generator=rng)
    ink, paper = 0.4 * torch.rand(1500, 3, 1, 1, generator=rng), 1 - 0.5 * torch.rand(1500, 3, 1, 1, generator=rng)
    strokes = (nn.functional.avg_pool2d(face(z), 3, 1, 1) + 1) / 2
    domain = ImageDomain.from_array(to_uint8(2 * (paper * (1 - strokes) + ink * strokes) - 1).numpy())
    mapping = VAENAM(FaceSimulator(32), images=24_000, seed=0).fit(domain.subset(slice(0, 1400)), quiet=True)
    codes = torch.from_numpy(mapping.translate(domain.subset(slice(1400, 1500)), refine=30).codes[:, 0])
    truth, ours = face.parameters_of(z[1400:]), face.parameters_of(codes)
    correlation = {name: np.corrcoef(ours[name], truth[name])[0, 1] for name in truth}
    assert min(correlation[name] for name in ("head_width", "head_height", "eye_distance", "mouth_width")) > 0.9
    assert np.median(list(correlation.values())) > 0.8, correlation


# ---- strong T, exploration, grounding -------------------------------------------------------------------------


def test_a_strong_mapper_beats_the_small_one_and_loads_as_saved(generator, handwriting, tmp_path, monkeypatch):
    mapping = VAENAM(generator, loss="l2", **SMALL).fit(handwriting, quiet=True)
    settings = {"images": 2000, "filters": 8, "quiet": True}
    strong, errors = train_mapper(mapping, handwriting, tmp_path, **settings)
    assert errors["strong"] < errors["small"]
    x, saved = mapping.sample_x(4), StrongMapper.from_pretrained(tmp_path)
    torch.testing.assert_close(saved(x), strong(x), atol=1e-4, rtol=0)
    assert len(Grounding().add("ink", mapping, saved)) == 1
    other = VAENAM(generator, loss="l2", **{**SMALL, "seed": 1}).fit(handwriting, quiet=True)
    with pytest.raises(UsageError, match="the mapper for 'ink' was trained for another mapping"):
        Grounding().add("ink", other, saved)
    with monkeypatch.context() as patch:
        patch.setattr(mapping, "solve", None)  # what is finished is loaded: no query is solved again
        assert train_mapper(mapping, handwriting, tmp_path, **settings)[1] == errors
    with pytest.raises(UsageError, match="unknown setting 'filter' of train-mapper; did you mean 'filters'"):
        train_mapper(mapping, handwriting, filter=3)
    with pytest.raises(UsageError, match="too few"):
        train_mapper(mapping, handwriting.subset(slice(0, 2)))
    with pytest.raises(UsageError, match="under warp"):
        train_mapper(VAENAM(generator, warp=True, **SMALL), handwriting)
    (tmp_path / "final" / "config.json").write_text("{}")
    with pytest.raises(StorageError, match="damaged"):
        StrongMapper.from_pretrained(tmp_path)


def test_queries_are_shrunk_once_for_a_strong_mapper_and_a_card(generator, handwriting, monkeypatch):
    mapping = VAENAM(generator, query_scale=0.5, **SMALL).fit(handwriting, quiet=True)
    some, solve, seen = handwriting.subset(slice(0, 20)), mapping.solve, []
    wanted, prepared = mapping.translate(some), mapping.prepare_queries(some).images
    monkeypatch.setattr(mapping, "solve", lambda queries, *a, **k: seen.append(queries) or solve(queries, *a, **k))
    _, _, ((_, loss),) = draw(mapping, some)
    np.testing.assert_array_equal(np.unique(seen.pop(), axis=0), np.unique(prepared, axis=0))
    assert loss == f"{wanted.losses.mean():.4g}"
    features = Blocks()
    train_mapper(mapping, some, images=64, filters=4, quiet=True, features=features)
    assert not features.training and not features.first.weight.requires_grad
    np.testing.assert_array_equal(np.unique(np.concatenate(seen), axis=0), np.unique(prepared, axis=0))


@pytest.mark.parametrize("kind", [VAENAM, NAM])
def test_exploration_walks_from_the_first_solution(generator, handwriting, kind):
    mapping = kind(generator, **SMALL).fit(handwriting, quiet=True)
    features = Blocks()
    found = explore(mapping, one_query(handwriting, 3), solutions=4, directions=3, features=features)
    assert not features.training and not features.first.weight.requires_grad
    assert found.solutions.shape == (4, 1, 32, 32)
    assert found.directions.shape == (3, 5, 1, 32, 32)
    torch.testing.assert_close(found.directions[0, 2], found.directions[1, 2])
    if kind is VAENAM:
        torch.testing.assert_close(found.directions[0, 2], found.solutions[0], atol=1e-4, rtol=0)
    steps = [(found.directions[0, i] - found.directions[0, 2]).abs().mean() for i in (3, 4)]
    assert 0 < steps[0] < steps[1]
    ends = [min((found.segment[i] - s).abs().max() for s in found.solutions) for i in (0, -1)]
    assert max(ends) < 1e-4
    assert found.diversity > 0
    assert found.distance == "perceptual"
    assert len(found.rows()) == 5
    more = explore(mapping, one_query(handwriting, 3), solutions=4, directions=9).directions
    assert len(more) == (6 if kind is VAENAM else 3) and (more[:, 4] - more[:, 2]).abs().flatten(1).mean(1).min() > 1e-4
    none = explore(mapping, one_query(handwriting, 3), solutions=4, directions=0)
    assert none.directions.shape == (0, 5, 1, 32, 32) and len(none.rows()) == 2
    with pytest.raises(UsageError, match="-1 directions"):
        explore(mapping, one_query(handwriting, 3), directions=-1)
    with pytest.raises(UsageError, match="query 200"):
        one_query(handwriting, 200)


def test_domains_of_one_generator_translate_into_one_another(generator, handwriting):
    inverted = ImageDomain.from_array(255 - handwriting.images)
    grounding = Grounding()
    for name, domain in (("ink", handwriting), ("chalk", inverted)):
        mapping = VAENAM(generator, loss="l2", **{**SMALL, "images": 3200}).fit(domain, quiet=True)
        grounding.add(name, mapping)
    y = grounding.translate(handwriting.subset(slice(0, 20)), "ink", "chalk").x
    assert y.shape == (20, 1, 1, 32, 32)
    assert y.mean() > 128 > handwriting.images.mean()
    with pytest.raises(UsageError, match="no domain 'oil'; there are ink, chalk"):
        grounding.translate(handwriting, "ink", "oil")
    torch.manual_seed(1)
    other = VAENAM(FaceSimulator(32), **SMALL).fit(handwriting, quiet=True)
    with pytest.raises(UsageError, match="another generator"):
        grounding.add("face", other)


def test_a_simulator_is_saved_with_its_mapping(handwriting, tmp_path):
    mapping = VAENAM(FaceSimulator(32), **SMALL).fit(handwriting, tmp_path, quiet=True)
    loaded = Mapping.from_pretrained(tmp_path, precision="fp32")
    assert isinstance(loaded.generator, FaceSimulator)
    np.testing.assert_allclose(loaded.translate(handwriting).codes, mapping.translate(handwriting).codes, atol=1e-4)


# ---- the same from the command line ---------------------------------------------------------------------------


def test_the_verbs_that_go_on_from_a_mapping(handwriting, tmp_path, capsys, monkeypatch):
    def run(*arguments: object) -> dict:
        monkeypatch.setattr(sys, "argv", ["namap", *map(str, arguments), "--json"])
        try:
            cli.main()
        except SystemExit as end:
            assert not end.code, capsys.readouterr().err
        return json.loads(capsys.readouterr().out)

    Image.fromarray(handwriting.images[0, 0]).save(tmp_path / "query.png")
    np.savez(tmp_path / "y.npz", ink=handwriting.images, chalk=255 - handwriting.images)
    quick = ["--images", 640, "--set", "batch_size=32", "--set", "encoder_width=8", "--quiet"]
    for name in ("ink", "chalk"):
        source = f"{tmp_path}/y.npz:{name}"
        run("fit", "--generator", "simulator:face", "--data", source, "--outdir", tmp_path / name, *quick)
    found = run("explore", tmp_path / "ink", tmp_path / "query.png", "--outdir", tmp_path / "walk", "--solutions", 3)
    assert found["solutions"] == 3
    assert Image.open(tmp_path / "walk" / "explore.png").size == (5 * 34 + 2, 6 * 34 + 2)
    again = ["ground", tmp_path / "ink", tmp_path / "chalk", f"{tmp_path}/y.npz:ink", "--outdir", tmp_path / "chalked"]
    assert run(*again)["files"] == 200
    train = (
        "train-mapper", tmp_path / "chalk", "--data", f"{tmp_path}/y.npz:chalk", "--outdir", tmp_path / "t",
        "--images", 640, "--filters", 4, "--quiet",
    )  # fmt: skip
    strong = run(*train, "--precision", "bf16")
    assert strong["mean_absolute_error_of_255"]["strong"] > 0
    for automatic in ("fp32", "bf16"):  # of this machine, and of another
        with monkeypatch.context() as there:
            there.setattr(model, "pick_precision", lambda asked, _, a=automatic: a if asked == "auto" else asked)
            assert run(*train) == strong, "auto goes on in the precision that it began with"
    monkeypatch.setattr(sys, "argv", ["namap", *map(str, again), "--mapper", str(tmp_path / "t")])
    with pytest.raises(SystemExit) as refused:
        cli.main()
    assert refused.value.code == 2 and "holds other analogies: mapper" in capsys.readouterr().err
    assert run(*again, "--mapper", tmp_path / "t", "--npz", "--overwrite")["files"] == 1
