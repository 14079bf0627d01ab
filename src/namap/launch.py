"""What a launcher of several processes says of this one: read from the environment, without loading torch."""

import os

MPI = ("PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD")


def launched() -> int:
    """How many processes `accelerate launch`, torchrun or `accelerate` over mpirun has started; 1 without a launcher.

    mpirun and srun alone may start runs that have nothing to do with each other.
    """
    by_mpi = MPI if "ACCELERATE_MIXED_PRECISION" in os.environ else ()
    return max(int(os.environ.get(f"{name}_SIZE") or 1) for name in ("WORLD", *by_mpi))


def place() -> int:
    """Which of them this is, from 0."""
    return _number("RANK", *(f"{name}_RANK" for name in MPI)) if launched() > 1 else 0


def place_here() -> int:
    """Which of those on this machine this is, from 0."""
    names = ("LOCAL_RANK", "MPI_LOCALRANKID", *(f"{name}_LOCAL_RANK" for name in MPI[1:]))
    return _number(*names) if launched() > 1 else 0


def _number(*names: str) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name)), 0)
