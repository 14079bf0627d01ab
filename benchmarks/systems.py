"""One figure or number for each system of the papers that the other benchmarks do not show.

    python benchmarks/systems.py [--only simulator,warp,…]

Writes benchmarks/results/systems.json (a system that is not run keeps its entry) and PNGs beside it. Training resumes.
"""

import argparse
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from namap.data import ImageDomain, load_domain
from namap.evaluation import evaluate_kept, obtain_classifier
from namap.exploring import explore, one_query, save_exploration
from namap.generators import (
    FaceSimulator,
    Generator,
    WarpedGenerator,
    sample,
    train_generator,
    wrap_generator,
)
from namap.grounding import Grounding
from namap.mapping import METHODS, NAM, VAENAM, Mapping
from namap.networks import VGGFeatures
from namap.report import image_grid
from namap.strong import train_mapper
from namap.tensors import from_numpy, random_stream, to_uint8

RESULTS = Path(__file__).parent / "results"
SYSTEMS: dict[str, Callable[[Path, Path], dict]] = {}


def system(function: Callable[[Path, Path], dict]) -> Callable[[Path, Path], dict]:
    SYSTEMS[function.__name__] = function
    return function


@system
def simulator(data: Path, home: Path) -> dict:
    """The fitted codes are the parameters: recovered from blurred faces in random colours of ink and paper."""
    face = FaceSimulator(32)
    rng = random_stream(0)
    z = torch.randn(4500, 12, generator=rng)
    ink, paper = 0.4 * torch.rand(4500, 3, 1, 1, generator=rng), 1 - 0.5 * torch.rand(4500, 3, 1, 1, generator=rng)
    strokes = (nn.functional.avg_pool2d(face(z), 3, 1, 1) + 1) / 2
    noise = 0.03 * torch.randn(4500, 3, 32, 32, generator=rng)
    y = ImageDomain.from_array(to_uint8(2 * (paper * (1 - strokes) + ink * strokes + noise) - 1).numpy())
    test = y.subset(slice(4000, 4500))
    mapping = VAENAM(FaceSimulator(32), images=128_000).fit(y.subset(slice(0, 4000)), home)
    truth, ranges = face.parameters_of(z[4000:]), face.high - face.low
    record: dict = {"queries": 500}
    for refine in (0, 50):
        found = mapping.translate(test, refine=refine)
        ours = face.parameters_of(torch.from_numpy(found.codes[:, 0]))
        record[f"refine {refine}"] = {
            name: {
                "median_error_of_range": float((ours[name] - truth[name]).abs().median() / span),
                "correlation": float(np.corrcoef(ours[name], truth[name])[0, 1]),
            }
            for name, span in zip(truth, ranges, strict=True)
        }
        draw([test.images[:16], found.x[:16, 0]], RESULTS / "simulator.png")
    return record


class Upright(nn.Module):
    """A face whose outline is fixed: nose, brows and smile are the code."""

    def __init__(self):
        super().__init__()
        self.face, self.unused = FaceSimulator(64), nn.Parameter(torch.zeros(()))

    def forward(self, z):
        still = torch.zeros(len(z), 12, device=z.device)
        return self.face(torch.cat([still[:, :5], z[:, :1], still[:, :2], z[:, 1:2], still[:, :2], z[:, 2:3]], 1))


@system
def warp(data: Path, home: Path) -> dict:
    """Shift, scale and angle of 32-pixel queries against a 64-pixel generator, recovered by each method."""
    warped = WarpedGenerator(wrap_generator(Upright(), 3), 32)
    code = torch.randn(2200, 7, generator=random_stream(0))
    y = -warped(code)
    y = ImageDomain.from_array(to_uint8(y + 0.05 * torch.randn(y.shape, generator=random_stream(1))).numpy())
    test, truth = y.subset(slice(2000, 2200)), warped.pose(code[2000:])
    record: dict = {"queries": 200}
    for method in ("nam", "ae", "vae"):
        mapping = METHODS[method](wrap_generator(Upright(), 3), warp=True, query_size=32, images=32_000)
        mapping.fit(y.subset(slice(0, 2000)), home / method)
        for refine in (200,) if method == "nam" else (0, 50):
            found = mapping.translate(test, refine=refine)
            ours = warped.pose(torch.from_numpy(found.codes[:, 0]))
            error = {name: float((ours[name] - truth[name]).abs().median()) for name in truth}
            record[f"{method}, refine {refine}"] = {
                "shift_px": 32 * max(error["shift_x"], error["shift_y"]),
                "scale": error["scale"],
                "angle_degrees": error["angle"],
            }
    return record


def growing(arch: str, data: Path, home: Path, **settings) -> dict:
    x = load_domain(f"{data / 'cars.npz'}:x_a_train")
    generator = train_generator(x, arch=arch, outdir=home, latent_dim=32, **settings)
    images = to_uint8(sample(generator, 40, random_stream(0))).numpy()
    draw([x.images[:10], *images.reshape(4, 10, *images.shape[1:])], RESULTS / f"{arch}.png")
    return {"settings": settings, "images": settings["images"], "side": generator.image_size}


@system
def progressive(data: Path, home: Path) -> dict:
    """Cars at 64 pixels, grown from 4; the first row of the figure is real."""
    return growing("progressive", data, home, width=16, images=80_000, batch_size=32, noise=0.05)


@system
def stack(data: Path, home: Path) -> dict:
    """Cars at 16, 32 and 64 pixels from one code; the first row of the figure is real."""
    return growing("stack", data, home, width=16, images=120_000, batch_size=32)


def print_generator(home: Path) -> Generator:
    """Of typeset digits, as in the demo."""
    from namap.demo import GENERATOR

    return train_generator("embedded:typeset/train", GENERATOR, home.parent / "print")


def print_mapping(home: Path, method: str) -> Mapping:
    from namap.demo import MAPPING

    beta = {"vae": MAPPING["beta"], "wae": 0.1, "ae": 0.0}[method]
    settings = {**MAPPING, "beta": beta, "kinds": 0}  # without a vote, which would hide how methods differ
    mapping = METHODS[method](print_generator(home), **settings)
    return mapping.fit("embedded:handwriting/train", home.parent / f"print-{method}")


@system
def wae(data: Path, home: Path) -> dict:
    """Handwriting to print, as in the demo, by each method with an encoder: digits kept."""
    x = load_domain("embedded:typeset/train")
    judge = obtain_classifier(home.parent / "print-classifier", x, images=48_000, width=32)
    queries = load_domain("embedded:handwriting/test")
    kept = {}
    for method in ("wae", "ae", "vae"):
        kept[method] = evaluate_kept(print_mapping(home, method), queries, judge).kept
    return {"kept": kept}


@system
def strong(data: Path, home: Path) -> dict:
    """X to Y on held-out pairs: the small T of a mapping and a strong T that was trained on its pairs."""
    mapping = print_mapping(home, "vae")
    queries = load_domain("embedded:handwriting/train")
    mapper, errors = train_mapper(mapping, queries, home)
    shown = load_domain("embedded:handwriting/test").subset(slice(0, 12))
    x = from_numpy(mapping.translate(shown).x[:, 0])
    with torch.no_grad():
        rows = [to_uint8(t).numpy() for t in (x, mapping.map_forward(x), mapper(x))]
    draw([shown.images, *rows], RESULTS / "strong.png")
    return {"mean_absolute_error_of_255": errors}


@system
def exploration(data: Path, home: Path) -> dict:
    """Diversity (perceptual) and fidelity of eight solutions, by temperature; the sheet of one query."""
    mapping = print_mapping(home, "vae")
    queries = load_domain("embedded:handwriting/test")
    features = VGGFeatures(data / "weights" / "vgg16_hed_bsds.safetensors", 3, "caffe")
    record = {}
    for temperature in (0.5, 1.0, 2.0):
        found = [explore(mapping, one_query(queries, i), temperature=temperature, features=features) for i in range(20)]
        record[f"temperature {temperature}"] = {
            "diversity": float(np.mean([f.diversity for f in found])),
            "fidelity": float(np.mean([f.fidelity for f in found])),
        }
        if temperature == 2:
            save_exploration(found[3], RESULTS)
    return record


def footwear_generator(data: Path, home: Path) -> Generator:
    x = f"{data / 'fashion_footwear.npz'}:photos_train"
    return train_generator(x, outdir=home.parent / "footwear", latent_dim=100, images=150_000)


@system
def gram(data: Path, home: Path) -> dict:
    """Bags to footwear under the Gram loss with a skip connection (Shoes2Handbags)."""
    generator = footwear_generator(data, home)
    weights = data / "weights" / "vgg16_hed_bsds.safetensors"
    options = {"vgg_weights": weights, "vgg_input": "caffe", "images": 40_000, "queries": 1000}
    mapping = NAM(generator, loss="gram", **options).fit(f"{data / 'fashion_bags.npz'}:photos_train", home)
    queries = load_domain(f"{data / 'fashion_bags.npz'}:photos_test").subset(slice(0, 64))
    found = mapping.translate(queries)
    draw([queries.images[:16], found.x[:16, 0]], RESULTS / "gram.png")
    brightness = np.corrcoef(queries.images.mean((1, 2, 3)), found.x[:, 0].mean((1, 2, 3)))[0, 1]
    return {"queries": 64, "brightness_correlation": float(brightness)}


@system
def grounding(data: Path, home: Path) -> dict:
    """One generator, two query domains: edges to photos on white (footwear), street digits to pen strokes (digits)."""
    x = f"{data / 'digits_mnist5k.npz'}:x_train"
    footwear = footwear_generator(data, home)
    digits = train_generator(x, outdir=home.parent / "digits", latent_dim=32, images=150_000)
    shoes, street = data / "fashion_footwear.npz", data / "street_digits.npz"
    photos = load_domain(f"{shoes}:photos_train")
    pairs = {
        "edges to photos": (footwear, f"{shoes}:edges_train", ImageDomain.from_array(255 - photos.images)),
        "street to pen": (digits, f"{street}:x_train", load_domain("embedded:handwriting/train")),
    }
    tests = {"edges to photos": f"{shoes}:edges_test", "street to pen": f"{street}:x_test"}
    for name, (generator, first, second) in pairs.items():
        grounded = Grounding()
        for role, domain in (("from", first), ("to", second)):
            place = home / f"{name} {role}".replace(" ", "-")
            mapping = VAENAM(generator, loss="appearance" if role == "from" else "l2", images=64_000)
            grounded.add(role, mapping.fit(domain, place))
        queries = load_domain(tests[name]).subset(slice(0, 16))
        x = grounded.get("from").translate(queries).x[:, 0]
        y = grounded.translate(queries, "from", "to").x[:, 0]
        draw([queries.images, x, y], RESULTS / f"grounding-{name.replace(' ', '-')}.png")
    return {"domains": list(pairs)}


def draw(rows: list[np.ndarray], output: Path) -> None:
    """Rows of uint8 images, twice as large."""
    sheet = image_grid([[*row] for row in rows])
    sheet.resize((sheet.width * 2, sheet.height * 2), 0).save(output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(SYSTEMS))
    parser.add_argument("--data-root", type=Path, default=Path(os.environ.get("NAMAP_DATA", "../shared/data")))
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmarks"))
    arguments = parser.parse_args()
    output = RESULTS / "systems.json"
    for name in arguments.only.split(","):
        started = time.monotonic()
        result = SYSTEMS[name](arguments.data_root, arguments.runs / name)
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        result |= {
            "what": SYSTEMS[name].__doc__,
            "seconds": round(time.monotonic() - started),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "commit": commit.stdout.strip(),
        }
        record = json.loads(output.read_text()) if output.exists() else {}
        output.write_text(json.dumps({**record, name: result}, indent=2) + "\n")
        print(json.dumps({name: result}, indent=2), flush=True)


if __name__ == "__main__":
    main()
