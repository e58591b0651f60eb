"""How long a picture takes, and the one thread that draws: one picture at a time, as on a GPU."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")


class Pace:
    """Runs drawing off the event loop, and spreads `seconds_per_image` over the steps of a picture."""

    def __init__(self, seconds_per_image: float = 0.0) -> None:
        self.seconds_per_image = seconds_per_image
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="draw")

    @property
    def is_slow(self) -> bool:
        """Say whether steps take time at all."""
        return self.seconds_per_image > 0

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run `work` in the drawing thread."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    async def steps(
        self, count: int, images: int, stop: asyncio.Event, step_done: Callable[[int], None]
    ) -> int:
        """Let `count` steps of a batch of `images` pass, calling `step_done` with each step's number.

        Returns:
            How many steps passed before `stop` was set.
        """
        if not self.is_slow:
            step_done(count)
            return count
        loop = asyncio.get_running_loop()
        start, whole = loop.time(), self.seconds_per_image * images
        for step in range(1, count + 1):
            wait = start + whole * step / count - loop.time()
            if wait > 0 and await stopped(stop, wait):
                return step - 1
            step_done(step)
        return count

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)


async def stopped(stop: asyncio.Event, seconds: float) -> bool:
    """Wait until `stop` is set, at most some seconds; say whether it was."""
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return False
    return True
