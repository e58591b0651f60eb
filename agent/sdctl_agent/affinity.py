"""Which of the prepared tasks goes next: one for the loaded model, but nobody waits for ever. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from sdctl import contract

# The oldest task is passed over this often at most, so a queue of mixed models cannot starve one of them.
MAX_PASSED_OVER = 8


def choose(checkpoints: Sequence[str], loaded: str, passed_over: int) -> int:
    """Return the index of the task to run next.

    Args:
        checkpoints: the model that each prepared task needs, oldest first; empty for any.
        loaded: the model that the server has loaded, or empty where unknown.
        passed_over: how often the oldest task has been passed over already.
    """
    if not loaded or passed_over >= MAX_PASSED_OVER:
        return 0
    wanted = contract.checkpoint_key(loaded)
    for index, checkpoint in enumerate(checkpoints):
        if not checkpoint or contract.checkpoint_key(checkpoint) == wanted:
            return index
    return 0
