"""`python -m namap`, also for launchers."""

from .cli import main

if __name__ == "__main__":
    main()
