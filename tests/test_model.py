"""The model of a mapping: generators that are odd, and what a fit leaves of the one before it."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from namap.data import ImageDomain
from namap.errors import UsageError
from namap.generators import DCGAN, WarpedGenerator, freeze, load_generator, wrap_generator
from namap.generators.base import DRAWN_PIXELS, sample
from namap.grounding import Grounding
from namap.mapping import AENAM, NAM, VAENAM, Mapping
from namap.tensors import place, random_stream

SMALL = {"images": 320, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}


def linear(side: int, channels: int = 1) -> nn.Sequential:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, channels * side * side), nn.Hardtanh(), nn.Unflatten(1, (channels, side, side)))
    nn.init.normal_(module[0].weight)
    return module


class Promoting(nn.Module):
    """Images in float64, by a buffer that numpy made."""

    def __init__(self):
        super().__init__()
        self.net = linear(32)
        self.gain: torch.Tensor
        self.register_buffer("gain", torch.from_numpy(np.ones(1)))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.net(z) * self.gain


class FiveDimensions(nn.Module):
    """A weight with five dimensions, as StyleGAN2 has them, and one with four."""

    shape: ClassVar = (1, 1, 1, 3, 3)

    def __init__(self):
        super().__init__()
        self.net = linear(32)
        self.weight = nn.Parameter(torch.randn(self.shape))
        self.conv = nn.Conv2d(1, 8, 3)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(self.net(z), self.weight[0], padding=1).tanh()


@pytest.mark.parametrize("module", [Promoting, FiveDimensions])
def test_a_generator_of_odd_tensors_is_fitted(module, handwriting):
    mapping = VAENAM(wrap_generator(module(), latent_dim=6), **SMALL).fit(handwriting, quiet=True)
    assert mapping.translate(handwriting.subset(slice(0, 2))).x.shape == (2, 1, 1, 32, 32)


def test_weights_of_four_dimensions_alone_are_laid_out_channels_last():
    module = place(FiveDimensions(), torch.device("cpu"))
    assert module.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert module.weight.is_contiguous()


def test_large_images_are_drawn_few_at_a_time():
    generator, seen = wrap_generator(linear(256), latent_dim=6), []
    generator.register_forward_hook(lambda module, z, x: seen.append(len(x)))
    assert sample(generator, 9, random_stream(0)).shape == (9, 1, 256, 256)
    assert max(seen) * 256**2 <= DRAWN_PIXELS and sum(seen) == 9
    assert sample(WarpedGenerator(generator, 32), 9, random_stream(0)).shape == (9, 1, 32, 32)
    assert sum(seen) == 18 and max(seen) * 256**2 <= DRAWN_PIXELS


def test_a_fit_that_fails_leaves_what_an_earlier_one_has_learnt(generator, handwriting, tmp_path):
    queries = handwriting.subset(slice(0, 4))
    VAENAM(generator, **SMALL, beta=0.5).fit(handwriting, tmp_path, quiet=True)
    mapping = VAENAM(generator, **SMALL).fit(handwriting, quiet=True)
    before = mapping.translate(queries).codes
    with pytest.raises(UsageError, match="beta"):
        mapping.fit(handwriting, tmp_path, quiet=True)
    np.testing.assert_array_equal(mapping.translate(queries).codes, before)
    fresh = VAENAM(generator, **SMALL)
    with pytest.raises(UsageError, match="beta"):
        fresh.fit(handwriting, tmp_path, quiet=True)
    with pytest.raises(UsageError, match="not fitted"):
        fresh.translate(queries)


def test_a_second_fit_takes_the_channels_of_its_own_queries(generator, handwriting):
    mapping = AENAM(generator, **SMALL).fit(handwriting, quiet=True)
    assert mapping.channels == 1
    assert mapping.fit(handwriting.resized(channels=3), quiet=True).channels == 3


def test_a_generator_of_other_weights_is_refused_for_one_that_is_inside(generator, handwriting, tmp_path):
    AENAM(generator, **SMALL).fit(handwriting, quiet=True).save_pretrained(tmp_path)
    torch.manual_seed(1)
    other = freeze(DCGAN(latent_dim=6, image_size=32, channels=1, width=8))
    with pytest.raises(UsageError, match="other weights"):
        Mapping.from_pretrained(tmp_path, generator=other)
    assert Mapping.from_pretrained(tmp_path, generator=generator).generator is generator


def test_a_mapper_without_colours_takes_those_of_x(handwriting):
    colours = wrap_generator(linear(32, 3), latent_dim=6)
    mapping = VAENAM(colours, **SMALL).fit(handwriting.resized(channels=3), quiet=True)
    x = mapping.sample_x(4)
    drawn = mapping.map_forward(x)
    assert (drawn - drawn.mean(1, keepdim=True)).abs().max() > 0.01
    torch.testing.assert_close(drawn.mean((2, 3)), x.mean((2, 3)), atol=0.1, rtol=0)
    grey = VAENAM(colours, **SMALL).fit(handwriting, quiet=True)
    assert grey.map_forward(x, like=x).shape == (4, 1, 32, 32)


def test_one_query_is_no_collapse_and_nothing_asked_for_is_refused(generator, handwriting, capsys):
    one = handwriting.subset(slice(0, 1))
    mapping = NAM(generator, **{**SMALL, "images": 3200}).fit(one, quiet=True)
    assert "collapsed" not in capsys.readouterr().err
    for wrong in ({"solutions": 0}, {"refine": -1}):
        with pytest.raises(UsageError, match="use whole numbers, of 1 or more and 0 or more"):
            mapping.translate(one, **wrong)


# ---- warp ------------------------------------------------------------------------------------------------------


def test_a_warp_reduces_images_of_any_side_and_enlarges_none(handwriting):
    odd = wrap_generator(linear(100), latent_dim=6)
    with pytest.raises(UsageError, match=r"100 pixels a side.*--warp --query-size"):
        VAENAM(odd)
    assert VAENAM(odd, warp=True, query_size=32).image_size == 32
    with pytest.raises(UsageError, match="query_size 128"):
        VAENAM(odd, warp=True, query_size=128)


def test_a_warped_generator_is_known_wherever_its_file_lies(tmp_path):
    identities = []
    for place_ in ("a", "b"):
        (tmp_path / place_).mkdir()
        torch.jit.trace(linear(32), torch.zeros(2, 6)).save(str(tmp_path / place_ / "g.pt"))
        if place_ == "b":
            (tmp_path / "b" / "g.pt").write_bytes((tmp_path / "a" / "g.pt").read_bytes())
        identities.append(WarpedGenerator(load_generator(tmp_path / place_ / "g.pt"), 16).identity)
    assert identities[0] == identities[1]


def test_a_warped_domain_is_grounded_but_not_arrived_in(generator, handwriting):
    upright = AENAM(generator, **SMALL).fit(handwriting, quiet=True)
    moved = VAENAM(generator, warp=True, query_size=16, **SMALL).fit(handwriting, quiet=True)
    grounding = Grounding().add("upright", upright).add("moved", moved)
    queries = ImageDomain.from_array(handwriting.images[:3])
    assert grounding.translate(queries, "moved", "upright").x.shape == (3, 1, 1, 32, 32)
    with pytest.raises(UsageError, match="'moved' was fitted with warp"):
        grounding.translate(queries, "upright", "moved")
