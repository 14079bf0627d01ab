"""Real training, small: print from fonts, handwriting mapped to it, judged by a classifier of print."""

import pytest

from namap.data import load_domain
from namap.evaluation import evaluate_kept, train_classifier
from namap.generators import train_generator
from namap.generators.families import dcgan
from namap.mapping import VAENAM


@pytest.mark.slow
@pytest.mark.timeout(900)  # three minutes where nothing else runs
def test_a_tiny_mapping_keeps_the_digit():
    x = load_domain("embedded:typeset/train")
    generator = train_generator(x, dcgan.Recipe(latent_dim=16, images=64_000, width=20), quiet=True)
    mapping = VAENAM(generator, images=40_000, encoder_width=16).fit("embedded:handwriting/train", quiet=True)
    judge = train_classifier(x, images=12_000, quiet=True)
    result = evaluate_kept(mapping, load_domain("embedded:handwriting/test"), judge)
    assert judge.accuracy_on_x is not None
    assert judge.accuracy_on_x > 0.95
    assert result.kept > 0.45, result  # untouched, a fifth of the queries would
