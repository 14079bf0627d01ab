"""street2digits and digits2street: generator, mapping and judgement from scratch.

    python benchmarks/digits.py street2digits --seeds 0,1,2
    python benchmarks/digits.py digits2street --seeds 0,1,2

Writes benchmarks/results/NAME.json and NAME.png. Every stage resumes; a finished one is loaded. The recipes are the
defaults of `namap train-generator` and `namap fit`. The generator is trained once, with seed 0, unless
`--generators` asks for one per seed; the mapping is fitted anew for every seed.
The test split is used for the final numbers only.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from namap.data import ImageDomain, load_domain
from namap.evaluation import evaluate_kept, obtain_classifier
from namap.generators import train_generator
from namap.generators.families import dcgan
from namap.mapping import VAENAM
from namap.report import image_grid
from namap.runs import read_log

FILES = {"digits": "digits_mnist5k.npz", "street": "street_digits.npz"}
LATENT = {"digits": 32, "street": 64}
T = TypeVar("T")
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=["street2digits", "digits2street"])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("NAMAP_DATA", "../shared/data")))
    parser.add_argument("--generators", action="store_true", help="train a generator for every seed")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    y_name, x_name = arguments.name.split("2")
    seeds = [int(s) for s in arguments.seeds.split(",")]
    results = [
        run(arguments.data_root, arguments.runs, x_name, y_name, seed, seed if arguments.generators else 0)
        for seed in seeds
    ]
    kept = [r["kept"] for r in results]
    summary = {
        "name": arguments.name,
        "kept_mean": float(np.mean(kept)),
        "kept_std": float(np.std(kept)),
        "minutes_mean": float(np.mean([r["seconds"]["generator"] + r["seconds"]["mapping"] for r in results])) / 60,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True
        ).stdout.strip(),
        "seeds": results,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(json.dumps({k: v for k, v in summary.items() if k != "seeds"}, indent=2))


def run(data_root: Path, runs: Path, x_name: str, y_name: str, seed: int, generator_seed: int) -> dict:
    name = f"{y_name}2{x_name}"
    place = runs / f"{name}-g{generator_seed}-{seed}"
    record = place / "result.json"
    if record.exists():
        return json.loads(record.read_text())
    x, x_test = (load_domain(f"{data_root / FILES[x_name]}:x_{split}") for split in ("train", "test"))
    y, y_test = (load_domain(f"{data_root / FILES[y_name]}:x_{split}") for split in ("train", "test"))
    recipe = dcgan.Recipe(latent_dim=LATENT[x_name], seed=generator_seed)
    home = runs / f"generator-{x_name}-{generator_seed}"
    generator = train_generator(x, recipe, home)
    generator_s = read_log(home)[-1]["seconds"]
    mapping = VAENAM(generator, seed=seed).fit(y, place / "mapping")
    judge = obtain_classifier(runs / f"classifier-{x_name}", x, held_out=x_test)
    mapping_s = read_log(place / "mapping")[-1]["seconds"]
    found, translate_s = timed(lambda: mapping.translate(y_test, solutions=4, seed=seed))
    result = {
        "seed": seed,
        **evaluate_kept(mapping, y_test, judge, found).as_dict(),
        "seconds": {"generator": generator_s, "mapping": mapping_s, "translation": translate_s},
        "threads": torch.get_num_threads(),
        "generator_recipe": asdict(recipe),
        "recipe": asdict(mapping.recipe),
    }
    if seed == 0:
        draw(y_test, found.x, RESULTS / f"{name}.png")
    record.write_text(json.dumps(result, indent=2) + "\n")
    return result


def timed(function: Callable[[], T]) -> tuple[T, float]:
    started = time.monotonic()
    return function(), time.monotonic() - started


def draw(queries: ImageDomain, x: np.ndarray, output: Path) -> None:
    """Queries chosen by seed; each beside its first analogy and three further solutions."""
    rows = np.random.default_rng(0).permutation(len(queries))[:40]
    cells = [[queries.images[r], *x[r]] for r in rows]
    table = [[image for c in range(4) for image in cells[c * 10 + r]] for r in range(10)]
    sheet = image_grid(table, gaps=[1, 5, 6, 10, 11, 15, 16])
    output.parent.mkdir(exist_ok=True)
    sheet.resize((sheet.width * 2, sheet.height * 2), 0).save(output)


if __name__ == "__main__":
    main()
