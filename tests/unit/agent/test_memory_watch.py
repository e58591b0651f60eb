"""When the runtime's memory is read, what counts as a leak, and what is done about it."""

from __future__ import annotations

import random

import pytest

from sdctl_agent.memory_watch import MemoryWatch, leak_bytes_per_task
from sdctl_agent.metrics import NoMetrics
from sdctl_agent.runtimes.memory import Memory

GIB = 1 << 30
TOTAL = 32 * GIB


class Teller:
    """A runtime whose memory is `used`; freeing takes `frees` off."""

    def __init__(self, frees: bool = True) -> None:
        self.used = 4 * GIB
        self.reads = 0
        self.freed = 0
        self.error: Exception | None = None
        self._frees = frees

    def memory(self) -> Memory | None:
        self.reads += 1
        if self.error:
            raise self.error
        return Memory(self.used, TOTAL)

    def free_memory(self) -> bool:
        self.freed += 1
        return self._frees


class Seen(NoMetrics):
    def __init__(self) -> None:
        self.growth: list[float] = []
        self.events: list[str] = []

    def runtime_memory(self, memory: Memory, growth_bytes_per_task: float) -> None:
        self.growth.append(growth_bytes_per_task)

    def count(self, event: str) -> None:
        self.events.append(event)


class World:
    def __init__(self, frees: bool = True) -> None:
        self.now = 0.0
        self.teller, self.seen = Teller(frees), Seen()
        self.watch = MemoryWatch(self.teller, self.seen, lambda: self.now)

    def run_tasks(self, count: int, *, grow_bytes: int) -> None:
        """Run tasks of ten seconds."""
        for _ in range(count):
            self.now += 10
            self.teller.used += grow_bytes
            self.watch.task_ended()


def test_it_is_read_once_a_minute_however_many_tasks_end() -> None:
    world = World()
    world.run_tasks(60, grow_bytes=0)
    for _ in range(100):
        world.watch.look()
    assert world.teller.reads == 10


def test_a_leak_is_logged_once_and_exported_in_bytes_a_task(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.run_tasks(180, grow_bytes=64 << 20)
    assert world.seen.growth[-1] == pytest.approx(64 << 20)
    assert [record.getMessage() for record in caplog.records] == ["the runtime's memory grows with its tasks"]
    assert world.teller.freed == 0


def test_when_a_leak_has_taken_nearly_all_the_runtime_is_asked_to_free_memory_now_and_then() -> None:
    world = World()
    world.teller.used = 24 * GIB
    world.run_tasks(180, grow_bytes=40 << 20)
    assert 1 <= world.teller.freed <= 2
    assert world.seen.events == ["memory_freed"] * world.teller.freed


def test_a_runtime_that_can_free_nothing_is_not_said_to_have_freed() -> None:
    world = World(frees=False)
    world.teller.used = 24 * GIB
    world.run_tasks(180, grow_bytes=40 << 20)
    assert world.teller.freed
    assert world.seen.events == []


def test_full_memory_that_does_not_grow_is_left_alone() -> None:
    world = World()
    world.teller.used = 31 * GIB
    world.run_tasks(300, grow_bytes=0)
    assert world.teller.freed == 0
    assert set(world.seen.growth) == {0.0}


@pytest.mark.parametrize("seed", range(5))
def test_models_that_come_and_go_are_no_leak(seed: int) -> None:
    chance = random.Random(seed)
    readings = [
        (number, chance.choice([4, 6, 10, 12]) * GIB + chance.randrange(GIB // 8)) for number in range(30)
    ]
    assert leak_bytes_per_task(readings, TOTAL) == 0


def test_the_first_models_load_is_no_leak() -> None:
    readings = [(0, GIB), (5, GIB), *((number, 9 * GIB + number) for number in range(10, 38))]
    assert leak_bytes_per_task(readings, TOTAL) == 0


def test_a_few_readings_say_nothing() -> None:
    assert leak_bytes_per_task([(number, number * GIB) for number in range(8)], TOTAL) == 0


def test_a_runtime_that_tells_nothing_is_not_asked() -> None:
    MemoryWatch(object(), NoMetrics(), lambda: 0.0).task_ended()


def test_figures_that_cannot_be_read_end_nothing(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.teller.error = RuntimeError("a plug-in's bug")
    world.run_tasks(6, grow_bytes=0)
    assert "memory could not be read" in caplog.text
