"""Every error that namap raises on purpose, and its warnings: one line that names the thing and the remedy."""

import sys
from typing import NamedTuple

from tqdm import tqdm

from .launch import place_here


class NamapError(Exception):
    """Base of all deliberate errors; `exit_code` is what the command line returns."""

    exit_code = 1

    def __str__(self) -> str:
        return one_line(super().__str__())


class UsageError(NamapError):
    """A wrong argument, configuration key, or a generator that does not fit."""

    exit_code = 2


class DataError(NamapError):
    """Images that are missing, empty or unreadable; `skipped` holds (path, reason) of each where they are many."""

    exit_code = 3

    def __init__(self, message: str, skipped: list[tuple[str, str]] | None = None):
        super().__init__(message)
        self.skipped = skipped or []


class DivergedError(NamapError):
    """Training met NaN or infinity and did not recover."""

    exit_code = 4


class StorageError(NamapError):
    """A directory that cannot be written, or a saved model that cannot be trusted."""

    exit_code = 5


class Interrupted(NamapError):
    """Ctrl-C or SIGTERM ended the work; in training after a checkpoint, from which the same command goes on."""

    def __init__(self, message: str = "interrupted; run the same command again", exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code


class Advice(NamedTuple):
    """Something that is not as it should be, though it can be used, and what to do about it."""

    what: str
    remedy: str


def tell(text: str) -> None:
    """Say one line on stderr, above a progress bar where there is one; stdout belongs to results.

    Of several processes, the first on a machine says it.
    """
    if place_here() == 0:
        tqdm.write(one_line(text), file=sys.stderr)


def warn(text: str) -> None:
    """Say one line of warning on stderr."""
    tell(f"warning: {text}")


def first_line(error: BaseException) -> str:
    """The first line of what another library raised, cut where it is long; its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).split("\n")[0][:160]


def one_line(text: str) -> str:
    r"""Text with what a terminal would obey, or cannot show, spelled out: names of files come from strangers.

    >>> one_line("a\nb\x1b[2J\udcff")
    'a\\nb\\x1b[2J\\udcff'
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
