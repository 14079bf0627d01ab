"""Judges of the experiments on answers whose score is known."""

import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks import cells, runner


def judge_of(name, root, home):
    """A judge whose classifiers have seen two thousand images and know little, and its scene, with few queries."""
    scene = replace(runner.make_scene(name, "reference", root, quick=True), queries=40)
    return scene, scene.experiment.judge(scene, home)


def test_the_true_photograph_is_the_best_answer_to_a_drawing(shared, tmp_path):
    scene, judge = judge_of("edges2shoes", shared, tmp_path)
    photos = scene.load("x_test").images[scene.judged("y_test")[1]]
    truth, others = judge(photos[:, None], "y_test"), judge(np.roll(photos, 7, 0)[:, None], "y_test")
    assert truth["distance"] < 1e-4 < 0.1 < others["distance"]
    labels, confusion = scene.y_test.labels, np.array(truth["confusion"])
    assert (confusion.sum(1) == np.bincount(labels, minlength=len(confusion))).all(), "rows are the queries' classes"
    assert truth["kept"] == confusion.trace() / len(labels)
    several = judge(np.stack([np.roll(photos, 7, 0), photos], 1), "y_test")
    assert several["best_distance"] < 1e-4 and several["distance"] == pytest.approx(others["distance"])
    assert several["diversity"] > 0 and truth["diversity"] is None
    assert truth["kid"] < judge(scene.y_test.images[:, None], "y_test")["kid"], "drawings are no photographs"


def test_a_shoe_of_the_material_of_its_bag_keeps_it(shared, tmp_path):
    scene, judge = judge_of("bags2shoes", shared, tmp_path)
    bags = scene.y_test.images[:, None]
    same, other = judge(bags, "y_test"), judge(bags[::-1], "y_test")
    assert same["brightness"] == pytest.approx(1) and same["texture"] == pytest.approx(1)
    assert max(other["brightness"], other["texture"]) < 0.7, "another bag's"
    assert judge(scene.x_test.images[:, None], "samples")["kid"] < same["kid"], "bags are no shoes"


def test_a_training_gets_the_images_that_its_seconds_pay_for(tmp_path):
    asked = []

    def train(images):
        asked.append(images)
        sum(range(images * 20_000))  # so many seconds of processor time an image

    images = cells.affordable_images(tmp_path, 2.0, 8, train, (1, 5))
    assert asked == [8, 40] and images % 8 == 0
    asked.clear()
    started = time.process_time()
    train(images)
    assert 0.5 < time.process_time() - started < 8
    assert cells.affordable_images(tmp_path, 99.0, 8, train, (1, 5)) == images, "timed once"
    assert len(asked) == 1
