"""Kinds without labels, and a vote that puts right what no query can know alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from namap import checkpoint, distil, kinds
from namap.checkpoint import read_json
from namap.data import ImageDomain, load_domain
from namap.errors import DataError, Interrupted, UsageError
from namap.fitting import SAMPLES_OF_G
from namap.kinds import balance, cast_votes, find_kinds, tell_kinds
from namap.mapping import AENAM, NAM, VAENAM
from namap.pictures import write_pngs
from namap.runs import OUTCOME, PARTS, clear
from namap.voting import read_whole_log

SMALL = {"images": 640, "batch_size": 32, "encoder_width": 8, "filters": 4, "precision": "fp32"}


@pytest.fixture(scope="module")
def typeset():
    return load_domain("embedded:typeset/train").subset(slice(None, None, 5))  # 1200 digits


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(kinds, "TRAINING_IMAGES", 256)


def of_class(labels: np.ndarray, found: kinds.Kinds) -> np.ndarray:
    """Each kind's digit, by the majority of its images."""
    return np.array([np.bincount(labels[found.labels == k], minlength=10).argmax() for k in range(len(found.prior))])


def test_kinds_are_pure_and_the_same_again(typeset):
    found = find_kinds(typeset, 30)
    assert (of_class(typeset.labels, found)[found.labels] == typeset.labels).mean() > 0.9
    np.testing.assert_allclose(found.likeness.sum(1), 1)
    np.testing.assert_array_equal(find_kinds(typeset, 30).labels, found.labels)


def test_colours_and_their_inverse_change_no_neighbours(typeset):
    some = typeset.subset(slice(0, 200))
    inverse = ImageDomain.from_array(255 - some.images)
    graph, other = (kinds.neighbour_graph(kinds.edge_rows(domain)) for domain in (some, inverse))
    assert (graph != other).nnz < 0.02 * graph.nnz


def test_balanced_shares_are_as_frequent_as_the_prior_and_keep_what_is_certain():
    shares = np.random.default_rng(0).dirichlet([0.3] * 4, 500)
    prior = np.array([0.1, 0.2, 0.3, 0.4])
    balanced = balance(shares, prior)
    np.testing.assert_allclose(balanced.mean(0), prior, atol=1e-3)
    np.testing.assert_allclose(balanced.sum(1), 1)
    ratio = np.log(balanced) - np.log(shares + 1e-6) / kinds.TEMPERATURE
    np.testing.assert_allclose(ratio - ratio[:, :1], (ratio - ratio[:, :1])[0] * np.ones((500, 1)), atol=1e-6)


def saying(says: np.ndarray, digit: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shares of queries whose analogies show these digits, each in a style of its own."""
    one = np.stack([np.eye(len(digit))[rng.choice(np.flatnonzero(digit == d))] for d in says])
    return 0.8 * one + 0.2 / len(digit)


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        # half the 1s say 7, half the 7s say 2: alone nothing tells; the 1 of X would stay without a query
        ([(1, 7, 0.5), (7, 2, 0.5)], 0.95),
        # a chain: prices alone would move each class on by one
        ([(1, 4, 0.6), (4, 9, 0.8), (9, 3, 0.8)], 0.93),
    ],
)
def test_a_vote_mends_what_most_of_a_class_got_wrong(typeset, errors, kept):
    found = find_kinds(typeset, 30)
    digit = of_class(typeset.labels, found)
    queries = load_domain("embedded:handwriting/train")
    rng = np.random.default_rng(0)
    says = queries.labels.copy()
    for is_digit, wrong, share in errors:
        says[(queries.labels == is_digit) & (rng.random(len(says)) < share)] = wrong
    before = (says == queries.labels).mean()
    outcome = cast_votes(queries, saying(says, digit, rng), typeset, found)
    assert before < 0.9
    assert (digit[outcome.argmax(1)] == queries.labels).mean() > kept


def test_a_query_resembles_what_has_its_shape_whatever_the_colours(typeset):
    found = find_kinds(typeset, 30)
    inverse = ImageDomain.from_array(255 - typeset.images[::7])
    shares = kinds.resembling(kinds.edge_rows(inverse), kinds.edge_rows(typeset), found)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (shares.argmax(1) == found.labels[::7]).mean() > 0.9


def test_a_fit_hears_the_vote_and_goes_on_where_it_was_stopped(generator, handwriting, typeset, tmp_path, quick):
    some = typeset.subset(slice(0, 200))

    def fit(home):
        return VAENAM(generator, kinds=5, **SMALL).fit(handwriting, home, quiet=True, x=some)

    whole = fit(tmp_path / "whole")
    rows = (tmp_path / "whole" / "metrics.jsonl").read_text()
    assert "dissent" in rows
    assert "dissent" not in (tmp_path / "whole" / "before-the-vote" / "metrics.jsonl").read_text()
    assert not list((tmp_path / "whole").rglob("checkpoints"))
    with Image.open(tmp_path / "whole" / "kinds.png") as sheet:
        assert sheet.height == 5 * (some.size + 1) - 1
    log = read_whole_log(tmp_path / "whole")  # with what came before the vote
    assert (log[-1]["images"], log[-1]["step"]) == (SMALL["images"], SMALL["images"] // SMALL["batch_size"])
    assert "dissent" in log[-1] and "dissent" not in log[0]
    assert [row["seconds"] for row in log] == sorted(row["seconds"] for row in log)
    loaded = fit(tmp_path / "whole")  # finished: loads
    queries = handwriting.subset(slice(0, 5))
    np.testing.assert_array_equal(whole.translate(queries).codes, loaded.translate(queries).codes)


def test_refining_keeps_the_kinds_that_the_vote_gave(generator, handwriting, typeset, tmp_path, quick):
    settings = {**SMALL, "kinds": 5, "vote_weight": 30.0, "code_rate": 0.3, "refine_noise": 0.0}
    mapping = VAENAM(generator, **settings).fit(handwriting, tmp_path, quiet=True, x=typeset.subset(slice(0, 200)))
    loaded, queries = VAENAM.from_pretrained(tmp_path, precision="fp32"), handwriting.subset(slice(0, 60))

    def doubt(found):
        """How little the images still are of the kinds that they were of after one pass."""
        x = ImageDomain.from_array(found.x[:, 0])
        return -np.log(np.take_along_axis(tell_kinds(loaded.kinds, x, "fp32"), wanted[:, None], 1)).mean()

    one_pass, refined = (loaded.translate(queries, refine=steps, tolerance=0.0) for steps in (0, 30))
    wanted = tell_kinds(loaded.kinds, ImageDomain.from_array(one_pass.x[:, 0]), "fp32").argmax(1)
    np.testing.assert_array_equal(refined.codes, mapping.translate(queries, refine=30, tolerance=0.0).codes)
    loaded.kinds, told = None, loaded.kinds
    without = loaded.translate(queries, refine=30, tolerance=0.0)
    loaded.kinds = told
    assert doubt(refined) < min(doubt(one_pass), doubt(without)) and without.losses.mean() < refined.losses.mean()


def test_a_distilled_mapping_keeps_what_tells_the_kinds_of_samples(generator, handwriting, tmp_path, quick):
    nam = NAM(generator, **{**SMALL, "kinds": 5}).fit(handwriting, tmp_path / "nam", quiet=True)
    # Samples follow from G and the recipe: another processor, whose last bits differ, goes on with the same run.
    assert read_json(tmp_path / "nam" / "run.json")["task"]["x"] == SAMPLES_OF_G
    distil(nam, handwriting, tmp_path / "ae", quiet=True, images=640, batch_size=32)
    loaded = AENAM.from_pretrained(tmp_path / "ae", precision="fp32")
    for name, tensor in nam.kinds.state_dict().items():
        torch.testing.assert_close(loaded.kinds.state_dict()[name], tensor)


@pytest.mark.parametrize("stage", ["fitting vae", "learning the kinds"])
def test_a_fit_that_is_stopped_before_or_while_kinds_are_learnt_ends_the_same(
    generator, handwriting, typeset, tmp_path, quick, monkeypatch, stage
):
    from namap import training, voting

    def fit(home):
        return VAENAM(generator, kinds=5, **SMALL).fit(handwriting, home, quiet=True, x=typeset.subset(slice(0, 200)))

    fit(tmp_path / "whole")

    def stops(task, domain, run, outdir=None):
        if run.label == stage:
            loop = training.Loop(task, domain, run, outdir)
            loop.resume()
            loop.set_rates(task.learning_rate(0))
            loop.step(loop.batch(0))
            loop.state.step = 1
            loop.save()
            raise Interrupted("stopped", 143)
        return training.train(task, domain, run, outdir)

    for module in (voting, kinds):
        monkeypatch.setattr(module, "train", stops)
    with pytest.raises(Interrupted):
        fit(tmp_path / "broken")
    for module in (voting, kinds):
        monkeypatch.setattr(module, "train", training.train)
    fit(tmp_path / "broken")
    results = [checkpoint.read_json(tmp_path / n / "final" / "manifest.json")["sha256"] for n in ("whole", "broken")]
    assert results[0] == results[1]


def test_a_fit_that_is_stopped_after_the_vote_is_told_the_same(
    generator, handwriting, typeset, tmp_path, quick, monkeypatch
):
    def fit(home):
        return VAENAM(generator, kinds=5, **SMALL).fit(handwriting, home, quiet=True, x=typeset.subset(slice(0, 200)))

    def stop(*arguments):
        raise Interrupted("stopped", 143)

    fit(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr("namap.mapping.train", stop)  # what follows the vote
        fit(tmp_path / "broken")
    monkeypatch.setattr("namap.voting.cast_votes", None)  # no second one, which another device may count otherwise
    fit(tmp_path / "broken")
    results = [checkpoint.read_json(tmp_path / n / "final" / "manifest.json")["sha256"] for n in ("whole", "broken")]
    assert results[0] == results[1]
    assert not (tmp_path / "broken" / "kinds" / "outcome").exists()


def test_what_cannot_be_voted_on_is_one_line(generator, handwriting, typeset, tmp_path):
    with pytest.raises(UsageError, match="how many kinds"):
        VAENAM(generator, **SMALL).fit(handwriting, quiet=True, x=typeset)
    with pytest.raises(UsageError, match="not with warp"):
        VAENAM(generator, kinds=5, warp=True, **SMALL).fit(handwriting, quiet=True)
    with pytest.raises(DataError, match="too few for 30 kinds"):
        find_kinds(typeset.subset(slice(0, 40)), 30)
    for count, given, words in (
        (30, {"data": handwriting, "x": typeset.subset(slice(0, 40))}, "40 images are too few for 30 kinds"),
        (30, {"data": handwriting.subset(slice(0, 20))}, "20 queries are too few to vote on 30 kinds; give 30 or more"),
        (5, {"data": handwriting.subset(slice(0, 10))}, "10 queries are too few to vote on 5 kinds; give 11 or more"),
    ):
        with pytest.raises(DataError, match=words):
            VAENAM(generator, kinds=count, **SMALL).fit(outdir=tmp_path, quiet=True, **given)
    assert not any(tmp_path.iterdir()), "said before anything is trained"


def test_any_seed_of_a_fit_is_one_of_its_clustering(typeset):
    assert find_kinds(typeset.subset(slice(0, 40)), 5, seed=5_000_000_000).prior.sum() == pytest.approx(1)


def test_what_a_vote_leaves_is_cleared_with_its_run(tmp_path):
    for part in PARTS:
        (tmp_path / part / "checkpoints").mkdir(parents=True)
        (tmp_path / part / OUTCOME).mkdir()
        for name in (".lock", "run.json", "metrics.jsonl"):
            (tmp_path / part / name).write_text("{}")
    (tmp_path / "run.json").write_text("{}")
    clear(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == []


def test_what_no_run_left_is_not_cleared_with_one(tmp_path):
    home, elsewhere = tmp_path / "fit", tmp_path / "before"
    for run in (home, home / "seed1", elsewhere):
        run.mkdir()
        (run / "run.json").write_text("{}")
    (home / "kinds").mkdir()
    write_pngs(home / "kinds", ["query.png"], np.zeros((1, 1, 8, 8), np.uint8))  # the data of the fit
    Image.new("L", (8, 8)).save(home / "samples.png")
    for name in ("report.html", "matches.csv", "seed1-notes.txt", "metrics.jsonl"):
        (home / name).write_text("years of work")
    (home / PARTS[0]).symlink_to(elsewhere)
    clear(home)
    left = {PARTS[0], "kinds", "samples.png", "seed1", "report.html", "matches.csv", "seed1-notes.txt"}
    assert {p.name for p in home.iterdir()} == left
    assert all(place.exists() for place in (home / "kinds" / "query.png", home / "seed1" / "run.json"))
    assert (elsewhere / "run.json").exists()
