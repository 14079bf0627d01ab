"""Kinds of images of X, found without labels, and the kind that each query is given by a vote of all queries.

A fit explains every query by itself, and the cheapest explanation of one may mean another thing: the stroke and serif
of a printed 1 are explained by a handwritten 7. Three facts that no query knows alone put this right:

    neighbours     queries that look alike mean the same
    likeness       kinds that are neighbours in X are one thing in several styles
    balance        each thing is as frequent among the queries as it is in X

A vote starts from two witnesses that err in different ways: the kinds of the analogies that a first fit found, and the
kinds of the images of X whose edges are most like the query's. A second fit is told its outcome.
"""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from scipy import sparse
from sklearn.cluster import SpectralClustering
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors, kneighbors_graph
from torch import Tensor, nn
from torch.nn import functional as F

from .checkpoint import digest
from .classifying import ClassifierTask, jitter
from .data import ImageDomain
from .descriptors import edge_energy
from .errors import DataError
from .networks import ConvEncoder
from .pictures import image_grid
from .tensors import Images, PerSample, autocast, from_numpy, pick_device, pick_precision, place
from .training import Run, train

NEIGHBOURS, CELLS, DIRECTIONS = 10, 8, 40
MOST = 4000  # images of X that kinds are found among
SHOWN = 16  # images of a kind on a sheet
SPREAD, SPREADINGS = 0.97, 150  # a vote's share that is taken from the neighbours, so many times
TEMPERATURE, LIKENESS, TURNS, PRICE_STEPS = 0.7, 4, 5, 300
TRAINING_IMAGES, WIDTH, BATCH = 96_000, 32, 128
EPSILON = 1e-9

Shares = Float[np.ndarray, "n k"]  # of the kinds, for each query: rows sum to 1


@dataclass(frozen=True)
class Kinds:
    """Kinds of images of X.

    Attributes:
        labels: the kind of each image.
        prior: how frequent each kind is.
        likeness: share of the neighbours of a kind's images that are of each kind; rows sum to 1.
    """

    labels: Int[np.ndarray, " n"]
    prior: Float[np.ndarray, " k"]
    likeness: Float[np.ndarray, "k k"]


def find_kinds(x: ImageDomain, count: int, seed: int = 0) -> Kinds:
    """Spectral clusters of images of X by their edges.

    Args:
        x: images of X.
        count: k, how many kinds. Several kinds for one thing are well; two things in one kind are never told apart.
        seed: of the clustering.

    Raises:
        DataError: not twice as many images as kinds.
    """
    require_enough(x, count)
    graph = neighbour_graph(edge_rows(x))
    clustering = SpectralClustering(count, affinity="precomputed", assign_labels="kmeans", random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # whole islands are kinds of their own
        labels = clustering.fit_predict(graph)
    member = np.eye(count)[labels]
    near = member.T @ (graph @ member)
    return Kinds(labels.astype(np.int64), member.mean(0), near / near.sum(1, keepdims=True))


def require_enough(x: ImageDomain, count: int, queries: ImageDomain | None = None) -> None:
    """Make sure that kinds can be found among images of X, and that queries have neighbours to agree with.

    Raises:
        DataError: not twice as many images as kinds, not as many queries, or too few of either.
    """
    if len(x) < max(2 * count, NEIGHBOURS + 1):
        raise DataError(f"{x.source}: {len(x)} images are too few for {count} kinds; give more images or fewer kinds")
    least = max(count, NEIGHBOURS + 1)
    if queries is not None and len(queries) < least:
        few = f"{len(queries)} queries are too few to vote on {count} kinds"
        raise DataError(f"{queries.source}: {few}; give {least} or more, or no kinds")


def draw_kinds(x: ImageDomain, kinds: Kinds) -> Image.Image:
    """Some images of each kind, a row a kind, the commonest first: a mixed row asks for another number of kinds."""
    rng = np.random.default_rng(0)
    rows = [rng.permutation(np.flatnonzero(kinds.labels == kind))[:SHOWN] for kind in np.argsort(-kinds.prior)]
    return image_grid([list(x.images[row]) for row in rows])


def neighbour_graph(rows: Float[np.ndarray, "n e"]) -> sparse.csr_matrix:
    """Which images are among whose nearest neighbours, symmetric, by their edges."""
    principal = PCA(min(DIRECTIONS, *rows.shape), random_state=0).fit_transform(rows)
    principal /= np.sqrt(principal.std(0) + EPSILON)  # half-way to directions of equal weight
    near = kneighbors_graph(principal, NEIGHBOURS)
    return (near + near.T) / 2


@torch.no_grad()
def edge_rows(domain: ImageDomain) -> Float[np.ndarray, "n e"]:
    """Strength of the edges of slightly blurred images, by direction in 8x8 cells, whatever the colours; unit rows."""
    device, rows = pick_device("cpu"), []
    for start in range(0, len(domain), 500):
        images = from_numpy(domain.images[start : start + 500], device)
        edges = edge_energy(blur(images))
        rows.append(F.normalize(F.adaptive_avg_pool2d(edges, CELLS).sqrt().flatten(1)))
    return torch.cat(rows).numpy()


def blur(images: Images) -> Images:
    """The mean of 3x3 pixels."""
    return F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, 1)


def cast_votes(queries: ImageDomain, shares: Shares, x: ImageDomain, kinds: Kinds) -> Shares:
    """The outcome for all queries.

    Args:
        queries: all of them.
        shares: of the kinds, as their analogies have them.
        x: the images among which the kinds were found.
        kinds: of these images.
    """
    rows = edge_rows(queries)
    return vote(neighbour_graph(rows), (shares + resembling(rows, edge_rows(x), kinds)) / 2, kinds)


def resembling(
    rows: Float[np.ndarray, "q e"], among: Float[np.ndarray, "n e"], kinds: Kinds
) -> Float[np.ndarray, "q k"]:
    """Shares of the kinds among the images of X whose edges are most like those of a query."""
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(among).kneighbors_graph(rows)
    return nearest @ np.eye(len(kinds.prior))[kinds.labels] / NEIGHBOURS


def vote(graph: sparse.csr_matrix, shares: Shares, kinds: Kinds) -> Shares:
    """The kinds of queries, from what each says by itself: neighbours, likeness, balance, a few times over.

    Args:
        graph: `neighbour_graph` of the queries.
        shares: of the kinds, as each query has them by itself.
        kinds: of X.
    """
    degree = np.asarray(graph.sum(1)).ravel() ** -0.5
    step = sparse.diags(degree) @ graph @ sparse.diags(degree)
    likeness = np.linalg.matrix_power(kinds.likeness, LIKENESS)
    prior, said = kinds.prior @ likeness, shares
    for _ in range(TURNS):
        shares = balance(propagate(step, said) @ likeness, prior)
        winner = np.eye(len(prior))[shares.argmax(1)]
        said = (winner + shares) / 2
    return shares


def propagate(step: sparse.csr_matrix, said: Shares) -> Shares:
    """Label propagation (Zhou et al. 2004): p <- a S p + (1 - a) said, with S the normalised graph `step`."""
    p = said
    for _ in range(SPREADINGS):
        p = SPREAD * (step @ p) + (1 - SPREAD) * said
    return p / p.sum(1, keepdims=True)


def balance(shares: Shares, prior: Float[np.ndarray, " k"]) -> Shares:
    """Shares times a price of each kind, such that kinds are used as often as the prior says (Sinkhorn's scaling).

    A temperature below 1 makes a crowd of equal rows choose its kinds in turn, rather than all the same mixture.
    """
    logits, price = np.log(shares + 1e-6) / TEMPERATURE, np.zeros_like(prior)
    scaled = shares
    for _ in range(PRICE_STEPS):
        scaled = np.exp(logits + price)
        scaled /= scaled.sum(1, keepdims=True)
        price += (np.log(prior) - np.log(scaled.mean(0) + EPSILON)) / 2
    return scaled


class KindNetwork(nn.Module):
    """Images to logits of their kinds: the encoder's trunk on images of mean 0 and deviation 1.

    Args:
        channels: of X.
        image_size: of X.
        count: of kinds.
    """

    def __init__(self, channels: int, image_size: int, count: int):
        super().__init__()
        self.trunk = ConvEncoder(channels, image_size, count, WIDTH)

    def forward(self, x: Images) -> Float[Tensor, "b k"]:
        """Logits `[b k]` of images in [-1, 1]."""
        centred = x.float() - x.float().mean((2, 3), keepdim=True)
        deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt()
        return self.trunk(centred / (deviation + 0.1))


def learn_kinds(x: ImageDomain, kinds: Kinds, run: Run, outdir: Path | None) -> KindNetwork:
    """A network that tells the kind of an image of X, sharp or blurred as a generator's may be; frozen.

    Args:
        x: the images among which the kinds were found.
        kinds: of these images.
        run: its device, precision and seed.
        outdir: where its checkpoints are kept.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(run.seed)
        network = place(KindNetwork(x.channels, x.size, len(kinds.prior)), pick_device(run.device))
    labelled = ImageDomain.from_array(x.images, kinds.labels, x.source)
    config: dict[str, Any] = {"kind": "kinds", "labels": digest({"labels": torch.from_numpy(kinds.labels)})}
    task = ClassifierTask(network, config, soften)
    train(task, labelled, replace(run, images=TRAINING_IMAGES, batch_size=BATCH), outdir)
    return network.eval().requires_grad_(False)


def soften(images: Images, rng: torch.Generator) -> Images:
    """Jittered images, half of them blurred, with a little noise."""
    images = jitter(images, rng)
    some = torch.rand(len(images), 1, 1, 1, generator=rng, device=images.device) < 0.5
    images = torch.where(some, blur(images), images)
    return images + 0.05 * torch.randn(images.shape, generator=rng, device=images.device)


@torch.no_grad()
def tell_kinds(network: KindNetwork, x: ImageDomain, precision: str) -> Shares:
    """Probability of each kind, for images of X."""
    device = next(network.parameters()).device
    with autocast(device, pick_precision(precision, device)):
        parts = [network(from_numpy(x.images[i : i + 500], device)) for i in range(0, len(x), 500)]
    return torch.cat(parts).softmax(1).double().cpu().numpy()


class Dissent:
    """How much images of X disagree with the kinds that they should have, e.g. analogies with the outcome of a vote.

    Args:
        network: tells kinds.
        wanted: the kind of each.
    """

    def __init__(self, network: KindNetwork, wanted: Int[Tensor, " n"]):
        self.network, self.wanted = network, wanted.to(next(network.parameters()).device)

    def __call__(self, index: Int[Tensor, " b"], x: Images) -> PerSample:
        """Cross-entropy of the kind of x and the one that is wanted of number `index`."""
        return F.cross_entropy(self.network(x), self.wanted[index], reduction="none")
