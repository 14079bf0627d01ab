"""What one visitor of the explorer has asked for, and where they have walked.

A refinement runs beside the visitor's clicks, so each kind of event writes fields of its own, in place, and a view is
put together when it is shown: neither can undo the other.
"""

from dataclasses import dataclass, field, replace

from ..errors import UsageError
from .views import Code, View


@dataclass
class Visit:
    """One visitor's state, shared by the events that run side by side.

    Attributes:
        turn: which of the visitor's searches may show what it finds: a new query, or Stop, ends the one before.
        asked: when that query was asked for, on the visitor's clock.
        found: the newest look of that search.
        looks: how many there were.
        progress: how far the search has come, in words.
        running: whether it goes on.
        place: the solution chosen and the steps from it; None: the visitor has not moved.
        pins: codes at the two ends of the strip.
    """

    turn: int = 0
    asked: float = 0.0
    found: View | None = None
    looks: int = 0
    progress: str = ""
    running: bool = False
    place: tuple[int, tuple[float, ...]] | None = None
    pins: list[Code | None] = field(default_factory=lambda: [None, None])

    def take(self, asked: float | None = None) -> int:
        """Make it the caller's turn; 0, which is nobody's, where the visitor has asked for something later than this.

        Two clicks may be answered in any order.
        """
        if asked is not None:
            if asked < self.asked:
                return 0
            self.asked = asked
        self.turn += 1
        return self.turn

    def open(self, view: View | None, progress: str, running: bool = False) -> None:
        """Another view: of a new query, or one that was kept; None: the query was taken away."""
        self.place, self.pins = None, [None, None] if view is None else list(view.pins)
        self.find(view, progress, running)

    def find(self, view: View | None, progress: str, running: bool) -> None:
        """A newer look of the same search. Where the visitor has moved stays."""
        self.found, self.progress, self.running = view, progress, running
        self.looks += 1

    def stop(self) -> None:
        """End the search where it is."""
        self.take()
        if self.running:
            self.progress, self.running = f"stopped after {self.progress}", False

    def move(self, view: View) -> None:
        """Go where this view is."""
        self.place = (view.chosen, view.steps)

    def view(self) -> View:
        """The newest codes, from where the visitor stands.

        Raises:
            UsageError: there is no query yet.
        """
        if self.found is None:
            raise UsageError("there is no query yet; drop, paste or pick a picture")
        chosen, steps = self.place or (self.found.chosen, self.found.steps)
        return replace(self.found, chosen=chosen, steps=steps, pins=(self.pins[0], self.pins[1]))

    def mark(self) -> tuple:
        """What `view` depends on: where it differs from an earlier mark, a view of then is out of date."""
        return self.looks, self.place
