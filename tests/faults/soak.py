"""Train and translate for minutes under random kills; end with the weights of the undisturbed run.

    python tests/faults/soak.py --minutes 20 -o benchmarks/results/soak.json

A third of the time goes to the undisturbed run, whose memory and open files must stay flat; the rest to the same run,
killed about every 30 seconds and started again. Then both models translate, the second one killed at random moments
and started again: the same pictures, each of them whole.
"""

import argparse
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

TRIAL = 20_000  # images of the run that measures the speed of this machine
SOLUTIONS = 8  # of each query: some thousand files
STOPPED = 5  # times that the translation is killed
FLAT = 1.1  # memory and open files of the last third, over those of the middle third; medians, as a save has peaks


def command(outdir: Path, images: int) -> list[str]:
    """A small fit on the embedded digits against the embedded simulator: nothing else is needed."""
    settings = ["--set", "encoder_width=16", "--images", str(images), "--precision", "fp32", "--quiet"]
    source = ["--generator", "simulator:face", "--data", "embedded:handwriting/train"]
    return [sys.executable, "-m", "namap", "fit", *source, "--outdir", str(outdir), *settings]


def usage(pid: int) -> tuple[int, int] | None:
    """Resident kilobytes and open files of a process; None once it has gone."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        files = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    except OSError:
        return None
    found = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return (int(found[0].split()[1]), files) if found else None


def watched(arguments: list[str]) -> list[tuple[int, int]]:
    """Run to the end; memory and open files, once a second."""
    process, seen = subprocess.Popen(arguments), []
    while process.poll() is None:
        found = usage(process.pid)
        seen += [] if found is None else [found]
        time.sleep(1)
    assert process.returncode == 0, f"exit {process.returncode}"
    return seen


def newest(outdir: Path) -> str:
    """The name of the last checkpoint."""
    return max((p.name for p in outdir.glob("checkpoints/0*")), default="")


def killed(arguments: list[str], outdir: Path, every: float, rng: random.Random) -> int:
    """Run to the end, killed after about so many seconds in its directory, and some progress; how often."""
    kills = 0
    while True:
        process, before = subprocess.Popen(arguments), newest(outdir)
        lock = outdir / ".lock"  # a busy machine may take longer to start than to be killed
        while process.poll() is None and not (lock.exists() and f"process {process.pid} " in lock.read_text()):
            time.sleep(0.1)
        try:
            code = process.wait(rng.uniform(0.5, 1.5) * every)
        except subprocess.TimeoutExpired:
            while process.poll() is None and newest(outdir) == before:  # else a busy machine would never come to an end
                time.sleep(rng.uniform(0, 2))
            process.kill()
            process.wait()
            kills += 1
            continue
        assert code == 0, f"exit {code}"
        return kills


def interrupted(arguments: list[str], outdir: Path, whole: int, rng: random.Random) -> int:
    """Translate into `outdir`, killed again and again at some number of files out of `whole`; how often."""
    kills = 0
    for _ in range(STOPPED):
        shutil.rmtree(outdir, ignore_errors=True)
        process, some = subprocess.Popen(arguments), rng.randrange(1, whole)
        while process.poll() is None and sum(1 for _ in outdir.glob("*.png")) < some:
            time.sleep(0.05)
        kills += process.poll() is None
        process.kill()
        process.wait()
    subprocess.run(arguments, check=True)
    return kills


def answers(outdir: Path) -> dict[str, str]:
    """The sha256 of every picture."""
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in outdir.glob("*.png")}


def growth(seen: list[tuple[int, int]], what: int) -> float:
    """The median of the last third over that of the middle third."""
    third = len(seen) // 3
    return median(s[what] for s in seen[2 * third :]) / median(s[what] for s in seen[third : 2 * third])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--every", type=float, default=30.0, help="seconds between kills, on average")
    parser.add_argument("-o", "--output", type=Path, help="where the result goes, beside the terminal")
    arguments, started = parser.parse_args(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        trial, whole, broken = (Path(scratch) / name for name in ("trial", "whole", "broken"))
        subprocess.run(command(trial, TRIAL), check=True)
        seconds = json.loads((trial / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]
        images = round(arguments.minutes * 60 / 3 * TRIAL / seconds)
        seen = watched(command(whole, images))
        kills = killed(command(broken, images), broken, arguments.every, random.Random(0))
        sums = [json.loads((p / "final" / "manifest.json").read_text())["sha256"] for p in (whole, broken)]
        queries = ["embedded:handwriting/train", "--quiet", "--solutions", str(SOLUTIONS)]
        translate = [
            [sys.executable, "-m", "namap", "translate", str(p), *queries, "--outdir", str(p / "out")]
            for p in (whole, broken)
        ]
        subprocess.run(translate[0], check=True)
        clean = answers(whole / "out")
        stops = interrupted(translate[1], broken / "out", len(clean), random.Random(1))
        same = answers(broken / "out") == clean
    result = {
        "minutes": round((time.monotonic() - started) / 60, 1),
        "seconds_watched": len(seen),
        "kills": kills,
        "kills_of_translate": stops,
        "pictures": len(clean),
        "same_weights": sums[0] == sums[1],
        "same_answers": same,
        "peak_mb": round(max(s[0] for s in seen) / 1000),
        "memory_growth": round(growth(seen, 0), 3),
        "open_files_growth": round(growth(seen, 1), 3),
    }
    flat = max(result["memory_growth"], result["open_files_growth"]) < FLAT
    result["held"] = bool(result["same_weights"] and same and flat and kills and stops)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    sys.exit(not result["held"])


if __name__ == "__main__":
    main()
