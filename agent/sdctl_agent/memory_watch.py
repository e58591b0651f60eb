"""Notices that the runtime leaks memory, tells it, and has it free some before it is killed for it.

Looked at no more than once a minute, and only while the agent is idle or just after a task has left the
runtime, by a thread that no task waits for. Models and caches come and go, so single figures say little:
what counts is the floor. The readings of the last half hour are cut into three parts; where the lowest
figure of each is clearly above that of the part before, memory is lost with the tasks.

A rising floor is logged and exported. Once nearly all RAM is gone, too, ComfyUI is asked to unload models
and empty its caches, which costs the next task a load, against being killed, which would cost that and the
task's work so far. SD WebUI has no such request that frees RAM. A runtime that dies nonetheless is
restarted by whoever runs it, and its task is handed back without counting an attempt.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from sdctl_agent.metrics import Metrics
from sdctl_agent.runtimes.memory import Memory, TellsMemory

LOOK_SECONDS = 60.0
READINGS = 30
MIN_READINGS = 9
# A part's floor is higher when it rose by this share of all RAM.
STEP_SHARE = 0.01
FULL_SHARE = 0.9
FREE_SECONDS = 600.0

log = logging.getLogger(__name__)


class MemoryWatch:
    """Reads and judges one runtime's memory; safe to use from several threads."""

    def __init__(self, runtime: object, metrics: Metrics, now: Callable[[], float]) -> None:
        self._teller = runtime if isinstance(runtime, TellsMemory) else None
        self._metrics = metrics
        self._now = now
        self._looking = threading.Lock()
        self._looked_at = float("-inf")
        self._freed_at = float("-inf")
        self._tasks = 0
        self._readings: deque[tuple[int, int]] = deque(maxlen=READINGS)  # (tasks so far, bytes of RAM)
        self._is_leaking = False

    def task_ended(self) -> None:
        """Count a task that left the runtime, and look if that is due."""
        self._tasks += 1
        self.look()

    def look(self) -> None:
        """Read the figures if that is due; never raises."""
        teller = self._teller
        if teller is None or self._now() - self._looked_at < LOOK_SECONDS:
            return
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._looked_at = self._now()
            memory = teller.memory()
            if memory is not None:
                self._judge(teller, memory)
        except Exception as error:
            log.warning("memory could not be read", exc_info=error, extra={"action": "memory_unread"})
        finally:
            self._looking.release()

    def _judge(self, teller: TellsMemory, memory: Memory) -> None:
        if not self._readings or self._tasks > self._readings[-1][0]:
            self._readings.append((self._tasks, memory.ram_used_bytes))
        growth = leak_bytes_per_task(list(self._readings), memory.ram_total_bytes)
        self._metrics.runtime_memory(memory, growth)
        if growth and not self._is_leaking:
            log.warning(
                "the runtime's memory grows with its tasks",
                extra={
                    "action": "runtime_leaks", "bytes_per_task": round(growth),
                    "ram_share": round(memory.ram_share, 3),
                },
            )  # fmt: skip
        self._is_leaking = growth > 0
        if (
            self._is_leaking
            and memory.ram_share >= FULL_SHARE
            and self._now() - self._freed_at > FREE_SECONDS
        ):
            self._freed_at = self._now()
            if teller.free_memory():
                self._metrics.count("memory_freed")
                log.warning("the runtime was asked to free memory", extra={"action": "memory_freed"})


def leak_bytes_per_task(readings: list[tuple[int, int]], total_bytes: int) -> float:
    """Return by how much the floor of the used memory rises a task; 0.0 where it does not.

    Args:
        readings: (tasks ended so far, used bytes), oldest first, with a task between any two.
        total_bytes: all the memory that there is.
    """
    if len(readings) < MIN_READINGS:
        return 0.0
    third = len(readings) // 3
    parts = (readings[:third], readings[third:-third], readings[-third:])
    (first_at, first), (_, middle), (last_at, last) = (
        min(part, key=lambda reading: reading[1]) for part in parts
    )
    step = STEP_SHARE * total_bytes
    if middle - first < step or last - middle < step:
        return 0.0
    return (last - first) / (last_at - first_at)
