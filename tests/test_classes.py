"""Classes by name: what a judge and its queries mean by a label."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from namap import checkpoint
from namap.data import ImageDomain, load_domain
from namap.errors import DataError, Interrupted, StorageError, UsageError
from namap.evaluation import Classifier, obtain_classifier, train_classifier
from namap.tensors import pick_precision

SHADES = {"dark": 20, "light": 230}


def folder(place, *classes: str, count: int = 12):
    rng = np.random.default_rng(0)
    for name in classes:
        (place / name).mkdir(parents=True)
        for i in range(count):
            shade = SHADES.get(name, 128) + rng.integers(-15, 15, (16, 16))
            Image.fromarray(shade.astype(np.uint8)).save(place / name / f"{i}.png")
    return load_domain(place, 16)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("classes")


@pytest.fixture(scope="module")
def judge(place):
    x = folder(place / "x", "dark", "light")
    return train_classifier(x, place / "judge", images=2000, width=4, quiet=True)


def test_a_class_is_known_by_its_name_and_not_by_its_place(judge, place, tmp_path):
    light = folder(tmp_path / "y", "light")
    assert light.classes == ["light"] and set(light.labels) == {0}
    for classifier in (judge, Classifier.load(place / "judge")):
        assert set(classifier.labels_of(light)) == {1}
        assert classifier.accuracy(light.images, classifier.labels_of(light)) == 1
    with pytest.raises(DataError, match="class grey is none of the classifier's, which are dark, light"):
        judge.labels_of(folder(tmp_path / "z", "dark", "grey"))


@pytest.mark.parametrize(("count", "images"), [(100, 24_000), (1000, 90_000), (4000, 240_000)])
def test_a_judge_sees_each_picture_a_hundred_times_within_bounds(count, images, monkeypatch):
    asked = []

    def stop(task, domain, run, outdir):
        asked.append(run.images)
        raise Interrupted

    monkeypatch.setattr("namap.evaluation.classifier.train", stop)
    x = ImageDomain.from_array(np.zeros((count, 1, 16, 16), np.uint8), np.arange(count) % 2)
    with pytest.raises(Interrupted):
        train_classifier(x, width=4, quiet=True)  # a tenth is held out
    assert asked == [images]


def test_the_accuracy_on_held_out_images_is_by_name(place, judge, tmp_path):
    x, light = load_domain(place / "x", 16), folder(tmp_path / "held-out", "light")

    def trained(held_out):
        return train_classifier(x, tmp_path / "judge", images=2000, width=4, held_out=held_out, quiet=True)

    assert trained(x).accuracy_on_x == 1.0
    assert trained(light).accuracy_on_x == 1.0, "its number there is that of the dark ones among the others"
    assert trained(replace(light, classes=["dark"])).accuracy_on_x == 0.0, "of these images, not of those before"
    with pytest.raises(DataError, match="has no labels"):
        train_classifier(x, tmp_path / "new", images=2000, width=4, held_out=replace(light, labels=None), quiet=True)
    assert not (tmp_path / "new").exists(), "refused before any training"


def test_numbers_far_apart_are_no_classes(place):
    x = load_domain(place / "x", 16)
    far = replace(x, labels=np.where(x.labels, 1998, 0), classes=[])
    with pytest.raises(DataError, match="2 classes with numbers up to 1998; number them from 0"):
        train_classifier(far, images=10, width=4, quiet=True)


def test_numbers_stay_what_they_are(judge, tmp_path):
    numbered = folder(tmp_path / "y", "1", "7", count=2)
    assert numbered.classes == [] and numbered.labels.tolist() == [1, 1, 7, 7]
    assert replace(judge, names=(), classes=8).labels_of(numbered).tolist() == [1, 1, 7, 7]
    with pytest.raises(DataError, match="class 7 is none of the classifier's, which are 0, 1;"):
        replace(judge, names=()).labels_of(numbered)
    with pytest.raises(DataError, match="classes of the classifier have names, of the queries numbers"):
        judge.labels_of(numbered)
    with pytest.raises(DataError, match="has no labels"):
        judge.labels_of(folder(tmp_path / "y" / "1"))


def test_a_number_that_the_judge_never_saw_is_refused(tmp_path):
    train_classifier(folder(tmp_path / "x", "1", "7"), tmp_path / "judge", images=200, width=4, quiet=True)
    judge = Classifier.load(tmp_path / "judge")
    assert (judge.classes, judge.numbers) == (8, (1, 7))
    assert judge.labels_of(folder(tmp_path / "y", "7", count=2)).tolist() == [7, 7]
    with pytest.raises(DataError, match="class 3 is none of the classifier's, which are 1, 7;"):
        judge.labels_of(folder(tmp_path / "z", "1", "3"))


def test_a_judge_of_some_of_the_named_classes_knows_the_others_names(tmp_path):
    some = folder(tmp_path / "x", "dark", "grey", "light")
    some = some.subset(some.labels < 2)
    settings = {"images": 200, "width": 4, "quiet": True}
    judge = train_classifier(some, tmp_path / "judge", **settings)
    again = Classifier.load(tmp_path / "judge")
    assert (judge.classes, judge.names) == (again.classes, again.names) == (3, ("dark", "grey", "light"))
    assert again.labels_of(folder(tmp_path / "y", "light")).max() == 2


def test_a_judge_goes_on_in_the_precision_that_it_began_with(tmp_path):
    x, settings = folder(tmp_path / "x", "dark", "light"), {"images": 200, "width": 4, "quiet": True}
    other = "bf16" if pick_precision("auto", torch.device("cpu")) == "fp32" else "fp32"
    train_classifier(x, tmp_path / "judge", precision=other, **settings)
    assert train_classifier(x, tmp_path / "judge", **settings).precision == other


def test_a_judge_of_other_images_is_refused(judge, place, tmp_path):
    settings = {"images": 2000, "width": 4, "quiet": True}
    same = obtain_classifier(place / "judge", load_domain(place / "x", 16), **settings)
    assert same.names == judge.names == ("dark", "light")
    with pytest.raises(UsageError, match=r"another run.seed.*leave out --train-classifier-on, or name another --class"):
        obtain_classifier(place / "judge", load_domain(place / "x", 16), seed=1, **settings)
    with pytest.raises(UsageError, match="another data"):
        obtain_classifier(place / "judge", folder(tmp_path / "x", "dark", "light", count=9), **settings)
    with pytest.raises(UsageError, match="classifier without its run"):
        obtain_classifier(place / "judge" / "final", load_domain(place / "x", 16), **settings)


def test_odd_names_in_a_file_are_refused(judge, tmp_path):
    shape = {"size": 16, "channels": 1, "classes": 2, "width": 4}
    odd = {"format": "namap-classifier", **shape, "names": ["dark", 3]}
    checkpoint.save_directory(tmp_path / "c", judge.network.state_dict(), odd)
    with pytest.raises(StorageError, match="not a list of words"):
        Classifier.load(tmp_path / "c")
