"""Images/s of one and of two processes, measured; and what more would bring, reckoned from what a step moves and costs.

python benchmarks/scaling.py --measure    # a few minutes, on an idle machine -> results/scaling.json
python benchmarks/scaling.py              # -> scaling.md, from results/scaling.json, speed.json and the networks
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import vgg16

from namap.codes import make_codes
from namap.fitting import make_mapper, make_reconstruction
from namap.generators import DCGAN, freeze
from namap.networks import VGGFeatures
from namap.recipes import default_recipe

HERE = Path(__file__).parent
RESULT, PAGE = HERE / "results" / "scaling.json", HERE / "scaling.md"
SIDES, LATENT, SHARE = (64, 256), 100, 32  # pixels; d; images of a process in a step
PROCESSES, NETWORKS = (2, 4, 16, 64), {"10 Gbit/s": 10e9 / 8, "100 Gbit/s": 100e9 / 8}
QUERIES, HOST_GB, SHARD, DAY = 10**9, 192, 10_000, 86_400
FIT = {"vae 32 appearance": "appearance", "vae 32 l2": "l2"}


# ---- measured -----------------------------------------------------------------------------------------------


def run(*command: str, **environment: str) -> None:
    """Run a command with one thread a process; its words are shown where it fails."""
    known = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, env=known, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")


def launch(processes: int) -> list[str]:
    """The beginning of a command line that runs namap in so many processes."""
    if processes == 1:
        return [sys.executable, "-m", "namap"]
    # accelerate's --cpu alone starts one process; --multi_gpu starts as many as it is told, GPUs or not.
    how = ["--multi_gpu", "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no"]
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", *how, "--dynamo_backend", "no"]
    return [*accelerate, "--num_cpu_threads_per_process", "1", "--main_process_port", "0", "-m", "namap"]


def measure_fit(generator: Path, loss: str, processes: int, images: int, scratch: Path) -> float:
    """Images/s of `namap fit`, its start and end left out."""
    outdir = scratch / f"fit-{loss}-{processes}"
    data = ["--generator", str(generator), "--data", "embedded:handwriting/train", "--outdir", str(outdir)]
    run(*launch(processes), "fit", *data, "--loss", loss, "--images", str(images), "--device", "cpu", "--quiet")
    rows = [json.loads(line) for line in (outdir / "metrics.jsonl").read_text().splitlines()]
    return (rows[-1]["images"] - rows[0]["images"]) / (rows[-1]["seconds"] - rows[0]["seconds"])


def busy_seconds() -> float:
    """Of all cores of this machine since it started, whoever used them."""
    user, nice, system = (int(n) for n in Path("/proc/stat").read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def measure_translate(model: Path, actors: int, count: int, scratch: Path) -> dict[str, float]:
    """Queries/s of `namap translate --engine ray`, and cores that it keeps busy.

    The start of Ray is left out: the time of few is taken off.
    """
    seconds, busy = [], []
    for few, queries in (("few", count // 10), ("all", count)):
        outdir = str(scratch / f"ray-{actors}-{few}")
        given = [str(model), str(pictures(scratch / few, queries)), "--outdir", outdir, "--engine", "ray"]
        started, before = time.perf_counter(), busy_seconds()
        run(*launch(1), "translate", *given, "--actors", str(actors), "--quiet")
        seconds.append(time.perf_counter() - started)
        busy.append(busy_seconds() - before)
    took = seconds[1] - seconds[0]
    return {"rate": (count - count // 10) / took, "busy_cores": (busy[1] - busy[0]) / took}


def pictures(folder: Path, count: int) -> Path:
    """Grey noise as a folder of PNGs."""
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(len(list(folder.iterdir())), count):
        Image.fromarray(rng.integers(0, 256, (32, 32), np.uint8)).save(folder / f"{i:06d}.png")
    return folder


def measure(images: int, queries: int, part: str, known: dict[str, Any]) -> dict[str, Any]:
    """Train a small generator, then time a verb, or `all` two, with one and with two processes of one thread."""
    with tempfile.TemporaryDirectory() as place:
        scratch = Path(place)
        small = ["--outdir", str(scratch / "g"), "--images", "6400", "--latent-dim", "32", "--quiet"]
        run(*launch(1), "train-generator", "--data", "embedded:typeset/train", *small)
        found: dict[str, Any] = {**known, "cores": os.cpu_count(), "torch": torch.__version__}
        if part in ("all", "fit"):
            found["fit"] = {
                step: {n: measure_fit(scratch / "g", loss, n, images, scratch) for n in (1, 2)}
                for step, loss in FIT.items()
            }
        if part in ("all", "translate"):
            measure_fit(scratch / "g", "appearance", 1, images // 2, scratch / "model")
            model = scratch / "model" / "fit-appearance-1"
            found["translate"] = {n: measure_translate(model, n, queries, scratch) for n in (1, 2)}
    return found


# ---- reckoned -----------------------------------------------------------------------------------------------


def count_step(side: int) -> tuple[int, float]:
    """(Bytes of the gradient of T and E in float32, FLOPs of an image) of a VAE-NAM step with VGG, phi(y) at hand."""
    recipe = default_recipe("vae", "perceptual", side)
    generator, y = freeze(DCGAN(LATENT, side, 3)), torch.rand(1, 3, side, side)
    mapper, codes = make_mapper(recipe, 3, 3), make_codes(recipe, 3, side, LATENT, 0)
    reconstruction = make_reconstruction(recipe, VGGFeatures(vgg16(weights=None).features, recipe.blocks))
    known = reconstruction.targets(y)
    with FlopCounterMode(display=False) as counter:
        mu, _ = codes.distribution(y)
        reconstruction(mapper(generator(mu)), y, known).sum().backward()
    learnt = sum(p.numel() for module in (mapper, codes) for p in module.parameters())
    return 4 * learnt, counter.get_total_flops()


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def measured_part() -> list[str]:
    if not RESULT.exists():
        return ["Not measured yet: `python benchmarks/scaling.py --measure` on an idle machine."]
    found = json.loads(RESULT.read_text())
    rates = {f"`fit`, {step}": r for step, r in found["fit"].items()}
    rates["`translate --engine ray`"] = {n: r["rate"] for n, r in found["translate"].items()}
    one, two = (found["translate"][n]["busy_cores"] for n in ("1", "2"))
    rows = [[w, f"{r['1']:.0f}", f"{r['2']:.0f}", f"{r['2'] / r['1']:.2f}×"] for w, r in rates.items()]
    return [
        f"Processes of one thread on {found['cores']} cores; two divide one batch: "
        "`python benchmarks/scaling.py --measure`.",
        table(["images/s", "1 process", "2 processes", "gain"], rows),
        "Ray reads pictures and writes answers in tasks beside its actors: one actor and these keep "
        f"{one:.1f} cores busy, two actors {two:.1f}.",
    ]


def training_part(rate: float) -> list[str]:
    costs, shares = [], []
    for side in SIDES:
        size, flops = count_step(side)
        compute = SHARE * flops / rate
        costs += [[f"{side} px", f"{size / 1e6:.1f} MB", f"{flops / 1e9:.1f} GFLOP", f"{compute:.2f} s"]]
        for name, bandwidth in NETWORKS.items():
            seconds = [2 * (n - 1) / n * size / bandwidth for n in PROCESSES]
            shares += [[f"{side} px, {name}", *(f"{compute / (compute + s):.1%}" for s in seconds)]]
    return [
        f"What a step moves and costs: the gradient of T and E in float32, and {SHARE} images for each process at the "
        f"{rate / 1e9:.0f} GFLOP/s of `vae 64 vgg` in `results/speed.json`.",
        table(["VAE-NAM with VGG", "gradient", "an image", f"{SHARE} images"], costs),
        "n processes sum gradients in a ring, in which each sends 2 (n − 1) / n times their bytes. Seconds of "
        "computing over seconds of computing and sending, nothing overlapping:",
        table(["", *(f"{n} processes" for n in PROCESSES)], shares),
        "G and VGG are frozen, T and E are small: every process holds all of it, and there is nothing that sharded "
        "weights (FSDP) could win.",
    ]


def codes_part() -> list[str]:
    row = 3 * 4 * LATENT
    total, hosts = QUERIES * row, -(-QUERIES * row // int(0.75 * HOST_GB * 1e9))
    return [
        f"A code of NAM with its two Adam moments takes 3 × 4 bytes × {LATENT} = {row:,} bytes. 10⁹ queries: "
        f"{total / 1e12:.1f} TB, which is {hosts} hosts of {HOST_GB} GB that give three quarters to the table: "
        f"{QUERIES / hosts / 1e6:.0f} million codes each. A row and its moments stay with one process; of a batch, "
        f"codes and gradients are summed over all, 2 × 4 bytes × {LATENT} = {8 * LATENT:,} for each image. At first "
        "and for a checkpoint every process holds the whole table: that is the limit today, not the step, at "
        f"{int(0.75 * HOST_GB * 1e9) // row / 1e6:.0f} million queries on such hosts."
    ]


def translation_part(speed: dict[str, Any]) -> list[str]:
    rows = {r["step"]: r["images_s"] for r in speed["rows"] if r["mode"] == "default"}
    shards, table_rows = -(-QUERIES // SHARD), []
    for side in (32, 64):
        if f"translate {side}" in rows:
            core = rows[f"translate {side}"] / speed["threads"]
            days = QUERIES / core / DAY
            table_rows += [
                [f"{side} px", f"{core:.0f}", f"{days:.1f}", f"{-(-days // 1):.0f}", f"{SHARD / core:.0f} s"]
            ]
    return [
        f"10⁹ queries in shards of {SHARD:,} are {shards:,} shards. An actor of one core answers what "
        "`translate` in `speed.json` does, over its threads; days of one core are also the actors for one day:",
        table(["", "queries/s of a core", "days of one core", "actors for one day", "a shard takes"], table_rows),
        "An answer needs no other, so actors scale until the store that they read from does not.",
    ]


def write_page() -> None:
    speed = json.loads((HERE / "results" / "speed.json").read_text())
    (rate,) = (r["gflops"] * 1e9 for r in speed["rows"] if (r["step"], r["mode"]) == ("vae 64 vgg", "default"))
    parts = ["# Scaling", "Written by `python benchmarks/scaling.py`."]
    parts += ["## One and two processes", *measured_part(), "## More processes in training", *training_part(rate)]
    parts += ["## Codes of NAM", *codes_part(), "## Translating", *translation_part(speed)]
    PAGE.write_text("\n\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", nargs="?", const="all", choices=("all", "fit", "translate"))
    parser.add_argument("--images", type=int, default=40_000, help="of a fit")
    parser.add_argument("--queries", type=int, default=40_000)
    options = parser.parse_args()
    if options.measure:
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        found = measure(options.images, options.queries, options.measure, known)
        RESULT.write_text(json.dumps(found, indent=2) + "\n")
    write_page()


if __name__ == "__main__":
    main()
