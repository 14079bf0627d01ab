"""A vote of the queries in the middle of a fit: see `namap.kinds` for what is voted on, and why."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from . import checkpoint, processes
from .data import ImageDomain, Source, load_domain
from .data.feeding import ImageStream
from .errors import UsageError
from .fitting import SAMPLES_OF_G, MappingTask, codes_of
from .generators import freeze
from .kinds import (
    MOST,
    Dissent,
    KindNetwork,
    cast_votes,
    draw_kinds,
    find_kinds,
    learn_kinds,
    require_enough,
    tell_kinds,
)
from .pictures import write_picture
from .recipes import Recipe
from .runs import OUTCOME, PARTS, Row, read_log
from .solving import scored_at_once
from .tensors import autocast, from_numpy, inference, pick_device, place, to_uint8
from .training import Run, train

KINDS_SHEET = "kinds.png"  # in the directory of a fit: what was voted on


def load_x(
    x: Source | None,
    recipe: Recipe,
    domain: ImageDomain | ImageStream,
    samples: Callable[[int], UInt8[np.ndarray, "n c h w"]],
) -> ImageDomain | None:
    """The images of X whose kinds are voted on, at most `MOST`: those that were given, or samples of G.

    None where the recipe has no vote.

    Raises:
        UsageError: a vote where not all queries are at hand, or of queries that are warped.
        DataError: too few images of X, or too few queries.
    """
    if not recipe.kinds:
        if x is not None:
            raise UsageError("x is what the queries vote on: say how many kinds of images it has, e.g. --set kinds=30")
        return None
    if isinstance(domain, ImageStream) or processes.count() > 1:
        raise UsageError("setting kinds: the queries vote in one process that has them all at hand")
    if recipe.warp:
        raise UsageError("setting kinds: not with warp, under which an analogy is no picture of X")
    size = samples(1).shape[1:]
    if x is None:
        images = ImageDomain.from_array(samples(MOST), source=SAMPLES_OF_G)
    else:
        images = load_domain(x, size[-1], size[0]).some(MOST)
    require_enough(images, recipe.kinds, domain)
    return images


def hold_vote(first: MappingTask, x: ImageDomain, run: Run, home: Path | None) -> Dissent:
    """Fit up to the vote, then let the queries decide on their kinds.

    Args:
        first: the fit so far; its networks are those that go on.
        x: images of X whose kinds are voted on.
        run: of the whole fit.
        home: the directory of the fit, which keeps the logs of its parts in `PARTS`, and the outcome until it ends: a
            fit that goes on after a vote is told the same, whatever a device rounds otherwise.
    """
    domain = first.targets.domain
    assert isinstance(domain, ImageDomain)  # `load_x` refuses streams
    before, learning = (None if home is None else home / part for part in PARTS)
    train(first, domain, part_of(run, first), before)
    outcome = None if learning is None else learning / OUTCOME
    if outcome is not None and outcome.exists():
        return read_outcome(outcome, KindNetwork(x.channels, x.size, first.recipe.kinds), pick_device(run.device))
    kinds = find_kinds(x, first.recipe.kinds, run.seed)
    if home is not None:
        write_picture(home / KINDS_SHEET, draw_kinds(x, kinds))
    network = learn_kinds(x, kinds, replace(run, label="learning the kinds", result_bytes=0), learning)
    found = analogies_of(first, domain, run.precision)
    wanted = torch.from_numpy(cast_votes(domain, tell_kinds(network, found, run.precision), x, kinds).argmax(1))
    if outcome is not None:
        tensors = checkpoint.prefixed("network", network.state_dict()) | {"wanted": wanted}
        checkpoint.save_directory(outcome, tensors, {})
    return Dissent(network, wanted)


def read_outcome(source: Path, network: KindNetwork, device: torch.device) -> Dissent:
    """The outcome of a vote that was held before a fit was interrupted."""
    tensors, _ = checkpoint.load_directory(source)
    checkpoint.load_weights(network, checkpoint.without_prefix("network", tensors), source)
    return Dissent(place(freeze(network), device), tensors["wanted"])


def drop_checkpoints(home: Path) -> None:
    """Once a fit has its result, its parts need neither their checkpoints nor the outcome."""
    for part in PARTS:
        for what in ("checkpoints", OUTCOME):
            shutil.rmtree(home / part / what, ignore_errors=True)


def part_of(run: Run, task: MappingTask) -> Run:
    """The part of a fit that a task is."""
    return replace(run, images=max(1, round(run.images * (task.span[1] - task.span[0]))))


def analogies_of(task: MappingTask, domain: ImageDomain, precision: str) -> ImageDomain:
    """The analogies of this moment of all queries."""
    device, parts = next(task.mapper.parameters()).device, []
    with inference(*task.modules.values()), autocast(device, precision):
        at_once = scored_at_once(task.generator)
        for start in range(0, len(domain), at_once):
            y = from_numpy(domain.images[start : start + at_once], device)
            index = torch.arange(start, start + len(y), device=device)
            parts.append(to_uint8(task.generator(codes_of(task.codes, index, y))).cpu().numpy())
    return ImageDomain.from_array(np.concatenate(parts), source="analogies")


def read_whole_log(home: Path) -> list[Row]:
    """The rows of a whole fit: those before its vote, if it had one, then the others, counted on from there."""
    before, kinds, after = (read_log(place) for place in (home / PARTS[0], home / PARTS[1], home))
    if not before:
        return after
    past = {key: before[-1][key] for key in ("step", "images", "seconds")}
    past["seconds"] += kinds[-1]["seconds"] if kinds else 0  # the fit waited while the kinds were learnt
    return [*before, *({**row, **{key: row[key] + past[key] for key in past}} for row in after)]
