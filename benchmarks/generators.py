"""NAM Fig. 4: the same queries mapped with generators of different kinds, and the digits kept with each.

    python benchmarks/generators.py [--only dcgan,vae-h] [--images 150000] [--mapping-images 100000]

X = digits, Y = street digits. Writes benchmarks/results/generators.json and generators.png. Every stage resumes; the
budgets are smaller than those of `benchmarks/digits.py`, the same for every kind. Accuracy is on the test split.
"""

import argparse
import json
import os
import subprocess
from pathlib import Path

import numpy as np
import torch

from digits import FILES, RESULTS
from namap.data import load_domain
from namap.evaluation import evaluate_kept, obtain_classifier
from namap.generators import find_family, sample, train_generator
from namap.mapping import VAENAM
from namap.report import image_grid
from namap.runs import read_log
from namap.settings import make_settings
from namap.tensors import random_stream, to_uint8

KINDS = {
    "dcgan": ("dcgan", {}),
    "sn-gan": ("dcgan", {"spectral_norm": True}),
    "vae-h": ("vae", {"beta": 5e-3}),
    "vae-l": ("vae", {"beta": 2e-4}),
    "glo": ("glo", {}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(KINDS))
    parser.add_argument("--images", type=int, default=150_000)
    parser.add_argument("--mapping-images", type=int, default=100_000)
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("NAMAP_DATA", "../shared/data")))
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    kinds = arguments.only.split(",")
    x, x_test = (load_domain(f"{arguments.data_root / FILES['digits']}:x_{split}") for split in ("train", "test"))
    y, y_test = (load_domain(f"{arguments.data_root / FILES['street']}:x_{split}") for split in ("train", "test"))
    judge = obtain_classifier(arguments.runs / "classifier-digits", x, held_out=x_test)
    shown = np.random.default_rng(0).permutation(len(y_test))[:12]
    rows, results = [list(y_test.images[shown])], {}
    for kind in kinds:
        arch, settings = KINDS[kind]
        settings = {"latent_dim": 32, "images": arguments.images, **settings}
        home = arguments.runs / f"fig4-{kind}"
        generator = train_generator(x, make_settings(find_family(arch), settings, arch), home / "generator")
        mapping = VAENAM(generator, images=arguments.mapping_images, seed=0).fit(y, home / "mapping")
        found = mapping.translate(y_test)
        rows += [list(to_uint8(sample(generator, 12, random_stream(1))).numpy()), list(found.x[shown, 0])]
        results[kind] = {
            "arch": arch,
            "settings": settings,
            **evaluate_kept(mapping, y_test, judge, found).as_dict(),
            "seconds": {part: read_log(home / part)[-1]["seconds"] for part in ("generator", "mapping")},
        }
        print(kind, f"{results[kind]['kept']:.1%}", flush=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    record = {
        "name": "generators",
        "mapping_images": arguments.mapping_images,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit,
        "classifier_on_x": judge.accuracy_on_x,
        "kinds": results,
    }
    (RESULTS / "generators.json").write_text(json.dumps(record, indent=2) + "\n")
    sheet = image_grid(rows, gaps=[])
    sheet.resize((sheet.width * 2, sheet.height * 2), 0).save(RESULTS / "generators.png")


if __name__ == "__main__":
    main()
