"""When the next message should be received: what is expected of the running task, in seconds. Pure.

One task runs; its successors are received and prepared only when it is about to end, since a message that
is held here cannot be run by an agent that is free.
"""

from __future__ import annotations

# How much of a moving average the newest value makes up.
WEIGHT = 0.3
# Successors are received when the running task should end within this time: enough for a receive, a claim
# and most inputs, little enough that a task of minutes holds no second message.
WINDOW_SECONDS = 3.0
# A running task that should need longer than this gives back the successors that are held for it.
YIELD_SECONDS = 12.0
MAX_DEPTH = 4
# A fraction below this says nothing yet about the time that is left.
TELLING_PROGRESS = 0.1


class Estimator:
    """Moving averages of how long a task runs, and of how long it takes to get the next one ready."""

    def __init__(self) -> None:
        self.task_seconds: float | None = None
        self.input_seconds: float | None = None

    def task_ended(self, seconds: float) -> None:
        """Learn how long a task was on the runtime."""
        self.task_seconds = _moved(self.task_seconds, seconds)

    def input_ready(self, seconds: float) -> None:
        """Learn how long a task took from the receive to being ready to start."""
        self.input_seconds = _moved(self.input_seconds, seconds)

    def remaining(self, elapsed: float, progress: float | None) -> float | None:
        """Expect how long a running task still needs; None where nothing is known.

        A task that is overdue is expected to need as long again as it is overdue.
        """
        if progress is not None and progress >= TELLING_PROGRESS and elapsed > 0:
            return elapsed * (1 - min(progress, 1.0)) / progress
        if self.task_seconds is None:
            return None
        return abs(self.task_seconds - elapsed)

    def depth(self) -> int:
        """Return how many messages to hold behind the running task: input time / task time + 1, at most 4."""
        if not self.task_seconds or self.input_seconds is None:
            return 1
        return min(MAX_DEPTH, int(self.input_seconds / self.task_seconds) + 1)


def _moved(average: float | None, value: float) -> float:
    return value if average is None else average + WEIGHT * (value - average)
