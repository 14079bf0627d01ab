"""emoji_pairs.npz: the same emoji in two designs, Google's Noto and Twitter's Twemoji.

    python -m benchmarks.data.build_emoji --output DATA

Source: npm packages emoji-datasource-google and emoji-datasource-twitter (MIT; pictures: Noto Apache-2.0, Twemoji CC-BY
4.0 by Twitter and contributors). Flags, variants of skin and pictures that occur twice are left out. The two sides of
`train` are shuffled independently; variants of one thing (gender, clock faces, keycaps) stay in one split.
"""

import argparse
import json
from collections import Counter
from typing import Any

import numpy as np
from PIL import Image

from namap.errors import DataError

from .packages import Package, find, main, obtain, picture

VERSION = "16.0.0"
DESIGNS = ("google", "twitter")
SIDE = 64
LEFT_OUT = ("Flags", "Component")
GENDERS = ("200D", "2640", "2642", "FE0F")  # the joiner, signs and variation that make variants
PEOPLE = ("1F468", "1F469", "1F9D1")  # man, woman, person


def family(unified: str, name: str) -> str:
    """What an emoji is a variant of."""
    if name.startswith("clock") and name.removeprefix("clock").isdigit():
        return "clock"
    parts = unified.split("-")
    if "20E3" in parts:
        return "keycap"
    return "-".join("person" if p in PEOPLE else p for p in parts if p not in GENDERS)


def read(arguments: argparse.Namespace) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Pictures of each design, row by row of the same emoji, and what the emoji are."""
    folders = {
        d: obtain(Package("npm", f"emoji-datasource-{d}", VERSION), arguments.package, arguments.work) for d in DESIGNS
    }
    listed = json.loads(find(folders["google"], "emoji.json").read_text())
    listed = [e for e in listed if e["category"] not in LEFT_OUT and all(e[f"has_img_{design}"] for design in DESIGNS)]
    images = {}
    for design in DESIGNS:
        place = find(folders[design], f"img/{design}/64")
        images[design] = np.stack([picture(Image.open(place / e["image"]), SIDE) for e in listed])
    seen = {d: Counter(image.tobytes() for image in images[d]) for d in DESIGNS}
    rows = [i for i in range(len(listed)) if all(seen[d][images[d][i].tobytes()] == 1 for d in DESIGNS)]
    return {d: images[d][rows] for d in DESIGNS}, [listed[i] for i in rows]


def build(arguments: argparse.Namespace) -> dict[str, np.ndarray]:
    """Whole families go to the test split until it is full; the rest is for training."""
    images, listed = read(arguments)
    rng = np.random.default_rng(arguments.seed)
    families: dict[str, list[int]] = {}
    for row, e in enumerate(listed):
        families.setdefault(family(e["unified"], e["short_name"]), []).append(row)
    test: list[int] = []
    groups = list(families.values())
    for g in rng.permutation(len(groups)):
        if len(test) + len(groups[g]) <= arguments.test_count:
            test += groups[g]
    train = np.setdiff1d(np.arange(len(listed)), test)
    if arguments.count > len(train):
        raise DataError(f"--count {arguments.count}: there are {len(train)} emoji beside the test split")
    splits = {"train": rng.permutation(train)[: arguments.count], "test": rng.permutation(np.array(test, int))}
    order = rng.permutation(len(splits["train"]))  # of the queries
    arrays = {"google_train": images["google"][splits["train"]], "google_test": images["google"][splits["test"]]}
    arrays |= {
        "twitter_train": images["twitter"][splits["train"][order]],
        "twitter_test": images["twitter"][splits["test"]],
    }
    arrays["pair_index_train"] = np.argsort(order).astype(np.int32)
    for split, rows in splits.items():
        arrays |= {
            f"{key}_{split}": np.array([listed[i][key] for i in rows]) for key in ("short_name", "unified", "category")
        }
    return arrays


if __name__ == "__main__":
    main(__doc__ or "", "emoji_pairs.npz", (1160, 128), build)
