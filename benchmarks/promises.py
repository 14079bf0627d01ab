"""Run the tests of tests/faults and keep their outcomes in results/promises.json, from which README's table comes.

python benchmarks/promises.py          # what `make test` runs
python benchmarks/promises.py --all    # twenty kills a run, ten thousand mutations
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

HERE = Path(__file__).parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--all", action="store_true")
    marks = "" if parser.parse_args().all else "not long"
    with tempfile.TemporaryDirectory() as scratch:
        outcome = Path(scratch) / "outcome.xml"
        command = [sys.executable, "-m", "pytest", "tests/faults", "-n", "0", "-m", marks, "--timeout=3600"]
        status = subprocess.run([*command, f"--junitxml={outcome}"], cwd=HERE.parent, check=False).returncode
        cases = list(ElementTree.parse(outcome).iter("testcase"))
    found: dict[str, list[bool]] = defaultdict(list)
    for case in cases:
        held = not any(child.tag in ("failure", "error", "skipped") for child in case)
        statement = case.attrib["name"].partition("[")[0].removeprefix("test_").replace("_", " ")
        found[statement[0].upper() + statement[1:]].append(held)
    outcomes = {statement: {"cases": len(held), "held": sum(held)} for statement, held in found.items()}
    record = {"all": marks == "", "outcomes": outcomes}
    (HERE / "results" / "promises.json").write_text(json.dumps(record, indent=2) + "\n")
    sys.exit(status)


if __name__ == "__main__":
    main()
