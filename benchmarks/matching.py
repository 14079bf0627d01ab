"""Exact matching of two designs of the same emoji, beside the baselines that learn nothing (NAM sections 3.1 and 3.2).

    python benchmarks/matching.py                  # the table and the figure
    python benchmarks/matching.py --scale          # also 5,000 x 5,000, for time and memory

Writes benchmarks/results/matching.json and matching.png. Queries are Twemoji, X is Noto; the pairing is used for
scoring only. `train` are 1160 shuffled pictures a side, `test` another 128. Every system runs in a process of its own:
seconds and the peak of its memory include reading, describing and matching both splits.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.optimize import linear_sum_assignment

from namap import ImageDomain, load_domain, match
from namap.matching import synthesise
from namap.networks import VGGFeatures
from namap.tensors import from_numpy

RESULTS = Path(__file__).parent / "results"
SYSTEMS = {
    "ours, pixel": {"loss": "pixel"},
    "ours, perceptual": {"loss": "perceptual"},
    "ours, inexact": {"loss": "perceptual", "inexact": True},
}
FIGURE_QUERIES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("NAMAP_DATA", "../shared/data")))
    parser.add_argument("--scale", action="store_true", help="also match 5,000 with 5,000 pictures")
    parser.add_argument("--only-baselines", action="store_true", help="keep the measured rows of namap")
    parser.add_argument("--only-ours", action="store_true", help="keep the measured baselines")
    parser.add_argument("--one", help=argparse.SUPPRESS)  # what the process of one system is asked for
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    root = arguments.data_root
    if arguments.one:
        print(json.dumps(run_one(root, arguments.one, arguments.seed)))
        return
    path = RESULTS / "matching.json"
    before = json.loads(path.read_text()) if path.exists() else {"rows": {}, "scale": None}
    rows, scale = before["rows"], before["scale"]
    if not arguments.only_ours:
        rows = alone(root, "by pixels", 0) | alone(root, "by VGG features", 0) | {n: rows.get(n) for n in SYSTEMS}
    for name in () if arguments.only_baselines else SYSTEMS:
        runs = [alone(root, name, int(s)) for s in arguments.seeds.split(",")]
        rows[name] = {key: float(np.mean([r[key] for r in runs])) for key in runs[0]}
        rows[name] |= {"seeds": [r["train_top1"] for r in runs]}
    if arguments.scale:
        scale = {loss: alone(root, f"scale {loss}", 0) for loss in ("pixel", "perceptual")}
    result = {"seeds": arguments.seeds, "threads": torch.get_num_threads(), "rows": rows, "scale": scale}
    path.write_text(json.dumps(result, indent=2) + "\n")
    figure(root).save(RESULTS / "matching.png")
    for name, row in rows.items():
        print(f"{name:32s} {row['train_top1']:.1%} {row['train_top5']:.1%}   {row['test_top1']:.1%}")


def alone(root: Path, name: str, seed: int) -> dict:
    """Run a system in a process of its own."""
    command = [sys.executable, __file__, "--one", name, "--seed", str(seed), "--data-root", str(root)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def run_one(root: Path, name: str, seed: int) -> dict:
    started = time.monotonic()
    if name.startswith("by "):
        return baselines(root, name, started)
    if name.startswith("scale"):
        return at_scale(root, name.split()[1])
    row = {}
    for split in ("train", "test"):
        x, y, truth = emoji(root, split)
        found = match(x, y, **vgg(root), seed=seed, **SYSTEMS[name])
        row |= scored(split, found.ranking, truth)
    return row | cost(started)


def vgg(root: Path) -> dict:
    return {"vgg_weights": root / "weights" / "vgg16_hed_bsds.safetensors", "vgg_input": "caffe"}


def cost(started: float) -> dict:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"seconds": round(time.monotonic() - started, 1), "peak_gb": round(peak, 2)}


def emoji(root: Path, split: str) -> tuple[ImageDomain, ImageDomain, np.ndarray]:
    """X, the queries, and the position in X of each query's counterpart."""
    x, y = (load_domain(f"{root}/emoji_pairs.npz:{design}_{split}") for design in ("google", "twitter"))
    truth = np.arange(len(x))
    if split == "train":
        with np.load(root / "emoji_pairs.npz") as file:
            truth[file["pair_index_train"]] = np.arange(len(x))
    return x, y, truth


def scored(split: str, ranking: np.ndarray, truth: np.ndarray) -> dict:
    hits = ranking[:, :5] == truth[:, None]
    return {f"{split}_top1": float(hits[:, 0].mean()), f"{split}_top5": float(hits.any(1).mean())}


# ---- systems that learn nothing ---------------------------------------------------------------------------------


def baselines(root: Path, by: str, started: float) -> dict[str, dict]:
    rows: dict[str, dict] = {f"nearest {by}": {}, f"CSLS {by}": {}, f"one-to-one assignment {by}": {}}
    for split in ("train", "test"):
        x, y, truth = emoji(root, split)
        if by == "by pixels":
            flat = (from_numpy(d.images).flatten(1) for d in (x, y))
            phi_x, phi_y = (F.normalize(f - f.mean(0), dim=1) for f in flat)  # the best of four pixel distances
        else:
            weights, convention = vgg(root).values()
            network = VGGFeatures(weights, 4, convention)
            phi_x, phi_y = (vgg_rows(network, d) for d in (x, y))
        similarity = -torch.cdist(phi_y, phi_x)
        found = order(similarity), order(csls(similarity)), assignment(similarity)
        for row, ranking in zip(rows.values(), found, strict=True):
            row |= scored(split, ranking, truth)
    return {name: row | cost(started) for name, row in rows.items()}


@torch.no_grad()
def vgg_rows(network: VGGFeatures, domain: ImageDomain) -> torch.Tensor:
    """The ends of four blocks, averaged over 8x8 cells, every block of unit length."""
    rows = []
    for start in range(0, len(domain), 64):
        blocks = network(from_numpy(domain.images[start : start + 64]))
        rows.append(torch.cat([F.normalize(F.adaptive_avg_pool2d(b, 8).flatten(1), dim=1) for b in blocks], 1))
    return torch.cat(rows)


def csls(similarity: torch.Tensor, k: int = 10) -> torch.Tensor:
    """Cross-domain similarity local scaling: less for what is near to everything."""
    of_y, of_x = (similarity.topk(k, d).values.mean(d, keepdim=True) for d in (1, 0))
    return 2 * similarity - of_y - of_x


def order(similarity: torch.Tensor) -> np.ndarray:
    return similarity.topk(5, 1).indices.numpy()


def assignment(similarity: torch.Tensor) -> np.ndarray:
    """The best one-to-one assignment; the ranks behind it are those of the nearest."""
    best = linear_sum_assignment(similarity.numpy(), maximize=True)[1]
    favoured = similarity.clone()
    favoured[torch.arange(len(best)), torch.from_numpy(best)] = torch.inf
    return order(favoured)


# ---- scale and figure -------------------------------------------------------------------------------------------


def at_scale(root: Path, loss: str) -> dict:
    """5,000 house numbers and their negatives, shuffled."""
    started = time.monotonic()
    images = load_domain(f"{root}/street_digits.npz:x_train").images[:5000]
    truth = np.random.default_rng(0).permutation(len(images))
    x, y = ImageDomain.from_array(images), ImageDomain.from_array(255 - images[truth])
    found = match(x, y, **vgg(root), loss=loss)
    return {"queries": len(y), "candidates": len(x), **scored("train", found.ranking, truth), **cost(started)}


def figure(root: Path) -> Image.Image:
    """A column a query: the query, its match, its mixture of Eq. 2; queries are drawn at random."""
    x, y, _ = emoji(root, "train")
    index = np.sort(np.random.default_rng(0).permutation(len(y))[:FIGURE_QUERIES])
    exact, inexact = (match(x, y, **vgg(root), **SYSTEMS[f"ours, {n}"]) for n in ("perceptual", "inexact"))
    mixed = synthesise(inexact, x, y.names).x[:, 0]
    rows = [y.images[index], x.images[exact.ranking[index, 0]], mixed[index]]
    canvas = np.concatenate([np.concatenate(list(row), 2) for row in rows], 1)
    return Image.fromarray(np.ascontiguousarray(canvas.transpose(1, 2, 0)))


if __name__ == "__main__":
    main()
