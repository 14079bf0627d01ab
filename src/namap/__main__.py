"""`python -m namap`, also for launchers."""

from .cli import main

main()
