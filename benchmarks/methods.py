"""The rows of every table: namap, the papers' methods, the rivals, and what needs no training.

A method is a function of (scene, seed, budget, home) that answers the test queries. The generator of a seed is trained
once, in a cell of its own, and shared.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from namap.data import ImageDomain
from namap.generators import Generator, load_generator, sample, train_generator
from namap.kinds import MOST, edge_rows, find_kinds, neighbour_graph, resembling, vote
from namap.losses import Reconstruction, l2
from namap.mapping import METHODS, Mapping
from namap.recipes import default_recipe
from namap.runs import read_log
from namap.solving import CodeSearch
from namap.tensors import autocast, from_numpy, pick_precision, random_stream, to_uint8

from .baselines import RIVALS, train_rival
from .cells import affordable_images
from .scene import REFINE, Answer, Row, Scene, of_recipe

INVERSION_STARTS, INVERSION_STEPS, INVERTED = 4, 200, 200
QUICK_STEPS = 5
SAMPLES = 500  # of G that are judged
PAPERS = {"nam": "NAM", "ae": "AE-NAM", "vae": "VAE-NAM"}
NO_VOTE = {"kinds": 0}
REFINED_STEPS = 50  # of Eq. 6 after one pass
NAM_STEPS = 100  # of Eq. 6, as in VAE-NAM's comparison of run times
NAM_QUERIES = 200  # that it answers: each costs a hundred passes through VGG


def generator(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
    """G of this seed; its answers are samples."""
    settings, images = {}, 0
    if scene.generator is not None and not isinstance(scene.generator, str):
        recipe = replace(scene.generator, seed=seed)
        train_generator(scene.x_train, recipe, home)
        settings, images = asdict(recipe), recipe.images
    return Answer(samples_of(own_generator(scene, home, seed)), "samples", images, {}, settings)


@torch.no_grad()
def samples_of(g: Generator) -> np.ndarray:
    """uint8 `[n 1 c h w]`, as a judge wants answers: the same codes for every generator of a size."""
    return to_uint8(sample(g, SAMPLES, random_stream(1))).cpu().numpy()[:, None]


def own_generator(scene: Scene, home: Path, seed: int) -> Generator:
    """The generator of this seed, or the one that somebody else trained."""
    return load_generator(scene.generator if isinstance(scene.generator, str) else generator_home(scene, home, seed))


def generator_home(scene: Scene, home: Path, seed: int) -> Path:
    """The cell of G: of this seed; of seed 0 in an ablation, which changes the mapping."""
    return home.parent / f"{scene.generator_cell}-{0 if scene.held_out else seed}"


def namap(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
    """namap's best recipe."""
    return fitted(scene, seed, home, {"method": "vae", **scene.ours})


def paper(method: str, own: dict[str, Any]) -> Callable[[Scene, int, float, Path], Answer]:
    """NAM, AE-NAM or VAE-NAM with the papers' losses and rates, for as long as namap's mapping took.

    Args:
        method: as `METHODS` calls it.
        own: settings that are of this row alone.
    """

    def run(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
        settings: dict[str, Any] = {"method": method, "loss": "perceptual", **scene.experiment.papers, **own}
        settings["images"] = budgeted_images(scene, settings, seconds, home, own_generator(scene, home, seed))
        return fitted(scene, seed, home, settings)

    run.__doc__ = f"{PAPERS[method]} with the papers' loss and T."
    return run


def with_iterations(steps: int) -> Callable[[Scene, int, float, Path], Answer]:
    """The mapping of the row `namap`, its one pass followed by so many iterations of Eq. 6."""

    def run(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
        mapping = Mapping.from_pretrained(home.parent / f"namap-{seed}" / "final", **scene.vgg)
        return translated(scene, mapping, seed, steps)

    return run


def without_vote(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
    """namap's best recipe, but for the vote, which takes things to be equally frequent in both domains."""
    return fitted(scene, seed, home, {"method": "vae", **scene.ours, **NO_VOTE})


def fitted(scene: Scene, seed: int, home: Path, settings: dict[str, Any]) -> Answer:
    """Fit, translate the test queries, and give what can be seen without labels.

    Args:
        settings: of the recipe, with its method, and `refine`: iterations of Eq. 6 at inference.
    """
    steps = settings.get(REFINE, NAM_STEPS if settings["method"] == "nam" else 0)
    mapping = make_mapping(scene, of_recipe(settings), own_generator(scene, home, seed), seed)
    mapping.fit(scene.y_train, home, x=scene.x_train if mapping.recipe.kinds else None)
    answer = translated(scene, mapping, seed, steps)
    answer.evidence["diversity_of_analogies"] = read_log(home)[-1]["diversity"]
    answer.images_seen = mapping.recipe.images
    return answer


def translated(scene: Scene, mapping: Mapping, seed: int, steps: int) -> Answer:
    """The answers of a mapping to the test queries, after `steps` iterations of Eq. 6."""
    # VAE-NAM samples; an autoencoder has one answer, and NAM's starts cost a hundred passes through VGG each.
    solutions = scene.experiment.solutions if mapping.method == "vae" else 1
    started = time.process_time()
    found = mapping.translate(scene.y_test, solutions, min(steps, QUICK_STEPS) if scene.quick else steps, seed=seed)
    answering = time.process_time() - started
    losses, settings = found.losses[:, 0], {**asdict(mapping.recipe), REFINE: steps}
    return Answer(found.x, "y_test", 0, {"loss": float(losses.mean())}, settings, losses, answering=answering)


def make_mapping(scene: Scene, settings: dict[str, Any], g: Generator, seed: int) -> Mapping:
    settings = dict(settings)
    method, loss = settings.pop("method"), settings.get("loss", "appearance")
    vgg = scene.vgg if loss in ("perceptual", "gram") else {}
    return METHODS[method](g, seed=seed, **vgg, **settings)


def budgeted_images(scene: Scene, settings: dict[str, Any], seconds: float, home: Path, g: Generator) -> int:
    """Images that a mapping sees in `seconds` of processor time."""
    recipe = make_mapping(scene, settings, g, 0).recipe
    batch = recipe.batch_size
    queries = scene.y_train.subset(slice(0, 4 * batch))
    fitted = min(recipe.queries or len(scene.y_train), len(scene.y_train))
    part = len(queries) / fitted  # phi(y) is kept for these where it is for all
    settings = settings | {"feature_cache_gb": recipe.feature_cache_gb * part}

    def fit(images: int) -> Mapping:
        return make_mapping(scene, settings | {"images": images}, g, 0).fit(queries, quiet=True)

    return affordable_images(home, seconds, batch, fit, (2, 8))


def rival(name: str) -> Callable[[Scene, int, float, Path], Answer]:
    """An adversarial rival, for as long as namap's generator and mapping took together."""

    def run(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
        domains, settings = (scene.x_train, scene.y_train, scene.y_test), scene.experiment.rivals.get(name, {})
        x, images = train_rival(RIVALS[name], *domains, seconds, seed, home, settings)
        size = RIVALS[name].batch_size
        updates = {"batch_size": size, "updates": images // size}
        return Answer(x, "y_test", images, {}, {**updates, **settings})

    run.__doc__ = RIVALS[name].__doc__
    return run


def copy(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
    """The query itself: resized, in X's channels, with the mean and deviation of X."""
    x = scene.x_train
    queries = scene.y_test.resized(x.size, x.channels).images.astype(np.float32)
    mean, deviation = queries.mean((0, 2, 3), keepdims=True), queries.std((0, 2, 3), keepdims=True)
    wanted = x.images.astype(np.float32)
    recoloured = (queries - mean) / deviation * wanted.std((0, 2, 3), keepdims=True) + wanted.mean(
        (0, 2, 3), keepdims=True
    )
    return Answer(recoloured.round().clip(0, 255).astype(np.uint8)[:, None])


def nearest(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
    """The training image of X whose pixels correlate best with the query's, up to a sign."""
    x = scene.x_train
    queries = scene.y_test.resized(x.size, x.channels)
    best = np.abs(standardised(queries) @ standardised(x).T).argmax(1)
    return Answer(x.images[best][:, None])


def voted(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
    """The image of X with the most similar edges, of the kind that the test queries vote for it: no mapping."""
    x = scene.x_train.some(MOST)
    found, rows, among = find_kinds(x, scene.ours["kinds"], seed), edge_rows(scene.y_test), edge_rows(x)
    wanted = vote(neighbour_graph(rows), resembling(rows, among, found), found).argmax(1)
    similarity = np.where(wanted[:, None] == found.labels, rows @ among.T, -np.inf)
    return Answer(x.images[similarity.argmax(1)][:, None])


def standardised(domain: ImageDomain) -> np.ndarray:
    flat = domain.images.mean(1).reshape(len(domain), -1).astype(np.float32)
    flat -= flat.mean(1, keepdims=True)
    return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)


def bound(scene: Scene, seed: int, seconds: float, home: Path) -> Answer:
    """G's own inversion of test images of X: Eq. 6 with T the identity, the best of four starts."""
    g = own_generator(scene, home, seed)
    starts_of_each, steps = (1, 5) if scene.quick else (INVERSION_STARTS, INVERSION_STEPS)
    device = next(g.parameters()).device
    queries = scene.x_test.images
    parts = []
    for start in range(0, len(queries), 100):
        y = from_numpy(queries[start : start + 100], device)
        rng = random_stream(seed, start, device=device)
        starts = torch.randn(len(y), starts_of_each, g.latent_dim, generator=rng, device=device)
        with autocast(device, pick_precision("auto", device)):
            identity, how = torch.nn.Identity(), {"rate": 0.05, "prior_weight": 1e-4}
            _, losses, x = CodeSearch(g, identity, Reconstruction(l2), y, starts, steps, **how).run()
        parts.append(x[torch.arange(len(y)), losses.argmin(1)])
    return Answer(to_uint8(torch.cat(parts)).cpu().numpy()[:, None], "x_test")


def _ours(scene: Scene) -> dict[str, Any]:
    return scene.ours


def _rivals(name: str) -> Callable[[Scene], dict[str, Any]]:
    return lambda scene: scene.experiment.rivals.get(name, {})


def _paper(method: str, more: str = "", queries: int | None = None, **own: Any) -> Row:
    title = f"{PAPERS[method]}, the papers' loss and T{more}"
    return Row(
        paper(method, own), title, lambda s: s.experiment.papers | own, ("generator",), ("namap",), queries=queries
    )


GENERATOR = Row(generator, "samples of G")
ROWS: dict[str, Row] = {
    "generator": GENERATOR,
    "nam": _paper("nam", f", {NAM_QUERIES} queries", NAM_QUERIES),
    "ae": _paper("ae"),
    "vae": _paper("vae"),
    "namap": Row(namap, "namap", _ours, ("generator",)),
    **{
        name: Row(rival(name), kind.__name__, _rivals(name), budget_of=("generator", "namap"))
        for name, kind in RIVALS.items()
    },
    "copy": Row(copy, "the query itself", once=True),
    "nearest": Row(nearest, "nearest neighbour in X", once=True),
    "bound": Row(bound, f"G's inversion of {INVERTED} test images of X", needs=("generator",), queries=INVERTED),
}


# Rows of some experiments.
ONE_PASS = {"one-pass": Row(with_iterations(0), "namap, one pass alone", _ours, ("namap",))}
REFINED = {
    "refined": Row(
        with_iterations(REFINED_STEPS),
        f"namap, then {REFINED_STEPS} iterations of Eq. 6",
        lambda s: s.ours | {REFINE: REFINED_STEPS},
        ("namap",),
    )
}
WITHOUT_VOTE = {
    "without-vote": Row(without_vote, "namap, without the vote", lambda s: s.ours | NO_VOTE, ("generator",))
}
VOTED = {
    "voted": Row(voted, "nearest in X by edges, of the voted kind", lambda s: {"kinds": s.ours["kinds"]}, once=True)
}
WITH_KL = {"vae-kl": _paper("vae", ", with KL", beta=default_recipe().beta)}


def rows_with(**below: dict[str, Row]) -> dict[str, Row]:
    """The rows of every translation, and below some of them others."""
    return {key: row for name in ROWS for key, row in {name: ROWS[name], **below.get(name, {})}.items()}
