import numpy as np
import pytest
import torch

from namap.data import load_domain
from namap.errors import DataError, StorageError, UsageError
from namap.exploring import explore
from namap.generators import DCGAN
from namap.generators.families import dcgan
from namap.losses import share_of_copies
from namap.mapping import AENAM, METHODS, NAM, VAENAM, Mapping
from namap.networks import CodeTable, EarnedMapper
from namap.runs import read_log
from namap.tensors import from_numpy

SMALL = {"images": 640, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}


def fitted(method: str, generator, domain, **settings) -> Mapping:
    return METHODS[method](generator, **{**SMALL, **settings}).fit(domain, quiet=True)


# Losses of the last step of a tiny run. A change here is a change of the method, not of the code around it.
GOLDEN = {("nam", "l2"): 0.4059, ("ae", "l1"): 0.4223, ("vae", "appearance"): 0.9937}


@pytest.mark.parametrize(("method", "loss"), GOLDEN)
def test_golden_losses(method, loss, generator, handwriting, tmp_path):
    mapping = METHODS[method](generator, loss=loss, **SMALL)
    mapping.fit(handwriting, tmp_path, quiet=True)
    assert read_log(tmp_path)[-1]["reconstruction"] == pytest.approx(GOLDEN[method, loss], rel=5e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_fit_changes_nothing_of_the_generator(method, generator, handwriting):
    before = {k: v.clone() for k, v in generator.state_dict().items()}
    mapping = METHODS[method](generator.train(), **SMALL)
    assert not generator.training
    generator.train()
    mapping.fit(handwriting, quiet=True)
    assert not generator.training
    assert all(torch.equal(v, before[k]) for k, v in generator.state_dict().items())


@pytest.mark.parametrize("method", METHODS)
def test_save_and_load_give_the_same_answers(method, generator, handwriting, tmp_path):
    mapping = fitted(method, generator, handwriting)
    mapping.save_pretrained(tmp_path / "m")
    loaded = Mapping.from_pretrained(tmp_path / "m", precision="fp32")
    assert type(loaded) is type(mapping)
    assert loaded.recipe == mapping.recipe
    queries = handwriting.subset(slice(0, 5))
    ours, theirs = mapping.translate(queries, refine=3), loaded.translate(queries, refine=3)
    np.testing.assert_array_equal(ours.x, theirs.x)
    np.testing.assert_array_equal(ours.codes, theirs.codes)
    assert {p.suffix for p in (tmp_path / "m").iterdir()} == {".json", ".safetensors"}
    wrong = next(c for c in METHODS.values() if c is not type(mapping) and not issubclass(type(mapping), c))
    with pytest.raises(UsageError, match="holds a"):
        wrong.from_pretrained(tmp_path / "m")


@pytest.mark.parametrize(("method", "solutions", "refine"), [("vae", 3, 0), ("vae", 2, 4), ("ae", 1, 0), ("nam", 2, 5)])
def test_an_answer_does_not_depend_on_its_batch_mates(method, solutions, refine, generator, handwriting):
    mapping = fitted(method, generator, handwriting)
    queries = handwriting.subset(slice(0, 9))
    together = mapping.translate(queries, solutions, refine)
    for i in (0, 4, 8):
        alone = mapping.translate(queries.subset(slice(i, i + 1)), solutions, refine)
        np.testing.assert_allclose(alone.codes[0], together.codes[i], atol=1e-4)
        assert np.abs(alone.x[0].astype(int) - together.x[i]).max() <= 1
    pieces = mapping.translate(queries, solutions, refine, batch_size=2)
    np.testing.assert_allclose(pieces.codes, together.codes, atol=1e-4)


def test_several_solutions(generator, handwriting):
    mapping = fitted("vae", generator, handwriting)
    found = mapping.translate(handwriting.subset(slice(0, 4)), solutions=3)
    assert found.x.shape == (4, 3, 1, 32, 32)
    assert found.codes.shape == (4, 3, 6)
    assert found.losses.shape == (4, 3)
    assert found.images[1][2].size == (32, 32)
    assert np.abs(found.codes[:, 0] - found.codes[:, 1]).min() > 0
    np.testing.assert_array_equal(mapping.translate(handwriting.subset(slice(0, 4))).codes[:, 0], found.codes[:, 0])
    varied = mapping.translate(handwriting.subset(slice(0, 4)), solutions=3, temperature=2)
    steps = [codes[:, 1:] - codes[:, :1] for codes in (found.codes, varied.codes)]
    np.testing.assert_allclose(steps[1], 2 * steps[0], rtol=1e-3, atol=1e-5)
    other = mapping.translate(handwriting.subset(slice(0, 4)), solutions=3, seed=1)
    np.testing.assert_array_equal(other.codes[:, 0], found.codes[:, 0])
    assert np.abs(other.codes[:, 1] - found.codes[:, 1]).max() > 0
    with pytest.raises(UsageError, match="one solution"):
        fitted("ae", generator, handwriting).translate(handwriting, solutions=2)


@pytest.mark.parametrize("method", ["vae", "nam"])
def test_more_solutions_leave_the_first_ones_as_they_were(method, generator, handwriting):
    mapping, queries = fitted(method, generator, handwriting), handwriting.subset(slice(0, 3))
    few, many = (mapping.translate(queries, solutions=k, refine=0).codes for k in (2, 5))
    np.testing.assert_array_equal(few, many[:, :2])


def test_answers_are_the_same_whatever_torch_is_told_around_them(generator, handwriting):
    mapping, queries = fitted("vae", generator, handwriting), handwriting.subset(slice(0, 3))
    wanted = mapping.translate(queries, refine=3)
    with torch.inference_mode():
        np.testing.assert_array_equal(mapping.translate(queries, refine=3).codes, wanted.codes)
    mapping.generator.train()  # somebody else's business with G
    before = {name: value.clone() for name, value in mapping.generator.state_dict().items()}
    np.testing.assert_array_equal(mapping.translate(queries, refine=3).x, wanted.x)
    for name, value in mapping.generator.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_a_fit_that_fails_leaves_what_an_earlier_one_has_learnt(generator, handwriting, monkeypatch):
    mapping, queries = fitted("vae", generator, handwriting), handwriting.subset(slice(0, 3))
    before = mapping.translate(queries).codes

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("namap.mapping.train", stop)
    with pytest.raises(KeyboardInterrupt):
        mapping.fit(handwriting.resized(channels=3), quiet=True)
    np.testing.assert_array_equal(mapping.translate(queries).codes, before)


def test_a_seed_may_be_a_torch_generator(generator, handwriting):
    mapping = fitted("vae", generator, handwriting)
    queries = handwriting.subset(slice(0, 5))
    stream = torch.Generator().manual_seed(3)
    first, second = (mapping.translate(queries, solutions=2, seed=stream).codes for _ in range(2))
    again = mapping.translate(queries, solutions=2, seed=torch.Generator().manual_seed(3), batch_size=2).codes
    np.testing.assert_allclose(again, first, atol=1e-4)
    np.testing.assert_array_equal(first[:, 0], second[:, 0])  # the mean
    assert np.abs(first[:, 1] - second[:, 1]).max() > 0.1
    one = explore(mapping, queries.subset(slice(0, 1)), 2, 1, seed=torch.Generator().manual_seed(3))
    np.testing.assert_allclose(one.codes, first[0], atol=1e-4)
    with pytest.raises(UsageError, match="seed -1: use a whole number from 0"):
        mapping.translate(queries, seed=-1)


def test_rows_that_are_absent_from_a_batch_stay(generator, handwriting):
    mapping = NAM(generator, **{**SMALL, "images": 64, "queries": 0})
    domain = mapping.prepare_queries(handwriting)
    mapping.build(1, len(domain))
    codes = mapping.codes
    assert isinstance(codes, CodeTable)
    first = codes.table.weight.detach().clone()
    mapping.fit(handwriting, quiet=True)
    assert isinstance(mapping.codes, CodeTable)
    moved = (mapping.codes.table.weight != first).any(1)
    assert moved.sum() == 64


def test_nam_takes_a_random_subset_of_the_queries(generator, handwriting):
    mapping = fitted("nam", generator, handwriting, queries=50)
    assert isinstance(mapping.codes, CodeTable)
    assert len(mapping.codes.table.weight) == 50


def test_a_mapper_is_freed_when_its_time_has_come(generator, handwriting):
    mapping = fitted("vae", generator, handwriting, freedom=1.0)
    assert isinstance(mapping.mapper, EarnedMapper)
    assert mapping.mapper.crn.head.weight.abs().max() == 0
    assert mapping.mapper.local[-1].weight.abs().max() > 0
    mapping = fitted("vae", generator, handwriting, freedom=0.5)
    assert isinstance(mapping.mapper, EarnedMapper)
    assert mapping.mapper.crn.head.weight.abs().max() > 0


def test_map_forward_paints_in_a_querys_colours(generator, handwriting):
    mapping = fitted("vae", generator, handwriting)
    x = mapping.sample_x(4)
    like = from_numpy(np.ascontiguousarray(255 - handwriting.images[:4] // 2))
    assert mapping.map_forward(x).shape == (4, 1, 32, 32)
    assert (mapping.map_forward(x, like=like).mean() - like.mean()).abs() < 0.05


def test_rgb_queries_for_a_grey_generator(generator, handwriting):
    colour = handwriting.resized(channels=3)
    mapping = fitted("vae", generator, colour)
    assert mapping.translate(colour.subset(slice(0, 2))).x.shape == (2, 1, 1, 32, 32)
    assert mapping.map_forward(mapping.sample_x(2)).shape == (2, 3, 32, 32)


def test_the_perceptual_loss_caches_its_targets_or_not_with_the_same_result(generator, handwriting):
    class Features(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv = torch.nn.Conv2d(1, 4, 3)

        def forward(self, x):
            return [self.conv(x).relu()]

    losses = []
    for budget in (1.0, 0.0):
        mapping = AENAM(generator, loss="perceptual", features=Features(), feature_cache_gb=budget, **SMALL)
        mapping.fit(handwriting, quiet=True)
        losses.append(mapping.translate(handwriting).losses.mean())
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_what_does_not_fit_is_refused(generator, tmp_path, handwriting):
    with pytest.raises(UsageError, match="did you mean 'beta'"):
        VAENAM(generator, betta=1)
    with pytest.raises(UsageError, match="setting batch_size"):
        VAENAM(generator, batch_size=0)
    with pytest.raises(UsageError, match="wrap_generator"):
        VAENAM(torch.nn.Linear(2, 2))
    from namap.generators import wrap_generator

    odd = torch.nn.Sequential(torch.nn.Linear(6, 28 * 28), torch.nn.Hardtanh(), torch.nn.Unflatten(1, (1, 28, 28)))
    torch.nn.init.normal_(odd[0].weight)
    with pytest.raises(UsageError, match="28 pixels a side"):
        VAENAM(wrap_generator(odd, latent_dim=6))
    with pytest.raises(UsageError, match="not fitted"):
        VAENAM(generator).translate(handwriting)
    with pytest.raises(UsageError, match="not fitted"):
        VAENAM(generator).map_forward(torch.zeros(2, 1, 32, 32))
    with pytest.raises(DataError, match="no images"):
        VAENAM(generator).fit(handwriting.subset(slice(0)), quiet=True)
    mapping = fitted("vae", generator, handwriting)
    with pytest.raises(UsageError, match=r"map_forward: images of \(1, 16, 16\); T maps those of G, of \(1, 32, 32\)"):
        mapping.map_forward(torch.zeros(2, 1, 16, 16))
    with pytest.raises(DataError, match="no images"):
        mapping.translate(handwriting.subset(slice(0)))
    for wrong in ({"batch_size": 0}, {"temperature": float("nan")}, {"temperature": -1.0}, {"tolerance": -1.0}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))}="):
            mapping.translate(handwriting, **wrong)
    with pytest.raises(UsageError, match="features: loss=appearance has no use"):
        VAENAM(generator, features=torch.nn.Identity(), **SMALL).fit(handwriting)
    mapping.save_pretrained(tmp_path / "m")
    with pytest.raises(UsageError, match="beta was decided by the fit"):
        VAENAM.from_pretrained(tmp_path / "m", beta=1.0)
    with pytest.raises(UsageError, match="not a generator"):
        from namap.generators import load_generator

        load_generator(tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(config.read_text().replace('"beta"', '"bet"'))
    with pytest.raises(StorageError, match="damaged"):
        VAENAM.from_pretrained(tmp_path / "m")


def test_a_wrapped_generator_fits_saves_and_wants_itself_back(handwriting, tmp_path):
    from namap.generators import wrap_generator

    module = torch.nn.Sequential(torch.nn.Linear(6, 1024), torch.nn.Sigmoid(), torch.nn.Unflatten(1, (1, 32, 32)))
    torch.nn.init.normal_(module[0].weight)
    wrapped = wrap_generator(module, latent_dim=6, image_range=(0, 1))
    VAENAM(wrapped, **SMALL).fit(handwriting, tmp_path, quiet=True)
    with pytest.raises(UsageError, match="pass the same one"):
        VAENAM.from_pretrained(tmp_path)
    loaded = VAENAM.from_pretrained(tmp_path, generator=wrapped)
    assert loaded.translate(handwriting.subset(slice(0, 2))).x.shape == (2, 1, 1, 32, 32)


def test_a_gross_difference_of_scale_is_said(generator, capsys):
    from dataclasses import replace

    from namap.data.coverage import shrink

    print_ = load_domain("embedded:typeset/test")

    class Small(VAENAM):
        def sample_x_uint8(self, count):
            return shrink(print_.images[:count], 0.55)

    Small(generator, **SMALL).fit(replace(print_), quiet=True)
    assert "times as large" in capsys.readouterr().err


@pytest.mark.faults
@pytest.mark.parametrize(("settings", "said"), [({"beta": 1e4}, "posterior collapse"), ({"beta": 0.0}, "")])
def test_a_collapse_is_said(settings, said, generator, handwriting, capsys):
    fitted("vae", generator, handwriting, images=1600, warmup=0.0, mapper="crn", **settings)
    err = capsys.readouterr().err
    assert said in err if said else "collapse" not in err, err


@pytest.mark.faults
def test_copies_of_one_image_are_counted_and_said(generator, handwriting, tmp_path):
    x = torch.rand(64, 1, 8, 8)
    assert share_of_copies(x, 0.1) == 0
    assert share_of_copies(x[:1].repeat(9, 1, 1, 1), 0.1) == 1
    x[10:50] = x[10] + 0.001 * torch.randn(40, 1, 8, 8)
    assert share_of_copies(x, 0.1).item() == pytest.approx(39 / 63)
    mapping = METHODS["vae"](generator, **SMALL).fit(handwriting, tmp_path, quiet=True)
    row = read_log(tmp_path)[-1]
    assert len(row["kl_of_dimensions"]) == mapping.latent_dim
    assert sum(row["kl_of_dimensions"]) == pytest.approx(row["kl"], abs=1e-3)
    task = mapping.make_task(handwriting)
    assert task.concern(row) == ""
    assert "62% of the analogies of different queries are copies" in task.concern(row | {"copies": 39 / 63})
    sound = {"diversity": 1.0, "copies": 0.0}
    concern = dcgan.Recipe().concern
    assert (concern(sound), "mode collapse: 90%" in concern(sound | {"copies": 0.9})) == ("", True)
    assert "mode collapse" in concern(sound | {"diversity": 0.05})


@pytest.mark.parametrize("change", [{"latent_dim": 5}, {"channels": 3}, {"image_size": 64}])
@pytest.mark.parametrize("method", ["nam", "vae"])
def test_another_generator_is_refused(method, change, generator, handwriting, tmp_path):
    fitted(method, generator, handwriting).save_pretrained(tmp_path)
    other = DCGAN(**{"latent_dim": 6, "image_size": 32, "channels": 1, "width": 8, **change})
    with pytest.raises(UsageError, match=f"expects {next(iter(change))}"):
        Mapping.from_pretrained(tmp_path, generator=other)


def test_a_class_keeps_to_its_method(generator):
    with pytest.raises(UsageError, match="this class is method vae"):
        VAENAM(generator, method="nam")
