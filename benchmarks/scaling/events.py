"""Time that goes from event to event."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable


class Events:
    """What is going to happen, in order; at the same time, in the order of its planning."""

    def __init__(self) -> None:
        self.now = 0.0
        self._order = itertools.count()
        self._planned: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an action."""
        heapq.heappush(self._planned, (self.now + seconds, next(self._order), action))

    def every(self, seconds: float, action: Callable[[], None]) -> None:
        """Plan an action again and again, from one period on."""

        def again() -> None:
            action()
            self.after(seconds, again)

        self.after(seconds, again)

    def run(self, is_over: Callable[[], bool], limit_seconds: float) -> None:
        """Let everything happen until it is over.

        Raises:
            RuntimeError: it was not over in time, which is a flaw of the simulation or of the values.
        """
        while not is_over():
            self.now, _, action = heapq.heappop(self._planned)
            if self.now > limit_seconds:
                raise RuntimeError(f"not over after {limit_seconds:g} simulated seconds")
            action()
