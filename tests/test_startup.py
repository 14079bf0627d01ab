"""What starting costs: processor time of a child, which does not depend on what else the machine does."""

import resource
import subprocess
import sys

import pytest

HEAVY = "torch torchvision numpy scipy sklearn matplotlib PIL jinja2 safetensors tensorboard ray accelerate"
SLACK = 2  # a machine may be half as fast as the one that the limits were set on


@pytest.mark.parametrize(
    ("what", "run", "seconds"),
    [
        ("namap --help", "sys.argv = ['namap', '--help']; from namap.cli import main; main()", 0.5),
        ("namap fit --help", "sys.argv = ['namap', 'fit', '--help']; from namap.cli import main; main()", 0.5),
        ("import namap", "import namap", 1.5),
    ],
)
def test_starting_is_quick_and_imports_nothing_heavy(what, run, seconds):
    code = f"""
import sys
try:
    {run}
finally:
    heavy = sorted(set({HEAVY!r}.split()) & {{name.split(".")[0] for name in sys.modules}})
    print(", ".join(heavy), file=sys.stderr)
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True)  # into the file cache
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found.returncode == 0 and found.stderr == "\n", f"{what} imports or says {found.stderr}"
    spent = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    assert spent < SLACK * seconds, f"{what} takes {spent:.2f} s of processor time"
