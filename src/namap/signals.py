"""SIGINT and SIGTERM during work that ends at a place of its own choosing."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from .launch import launched


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of a step; a second SIGINT does interrupt.

    Not of several processes: there the launcher passes on the one that they have had.
    """
    received: list[int] = []

    def note(number: int, _frame: object) -> None:
        if number == signal.SIGINT and received and launched() == 1:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {s: signal.signal(s, note) for s in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals are somebody else's
        yield received
        return
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
