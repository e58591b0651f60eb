"""What is submitted: three days in the life of a runtime, made from a seed."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from .task_queue import Task

# https://github.com/aws-solutions-library-samples/guidance-for-asynchronous-inference-with-stable-diffusion-on-aws
# counts 1.5 seconds for a task of one picture.
PICTURE_SECONDS = 1.5


def _seconds(rng: random.Random, mean: float, sigma: float) -> float:
    return rng.lognormvariate(math.log(mean) - sigma * sigma / 2, sigma)


def burst(seed: int, tasks: int = 10_000) -> list[Task]:
    """Return so many pictures at once."""
    rng = random.Random(f"burst {seed}")
    return [Task(0.0, _seconds(rng, PICTURE_SECONDS, 0.4)) for _ in range(tasks)]


def day(seed: int, tasks: int = 12_000) -> list[Task]:
    """Return pictures in batches of a few to a few hundred, every eight minutes or so."""
    rng = random.Random(f"day {seed}")
    made: list[Task] = []
    at = 0.0
    while len(made) < tasks:
        size = min(tasks - len(made), max(1, int(_seconds(rng, 250, 1.2))))
        made += [Task(at, _seconds(rng, PICTURE_SECONDS, 0.4)) for _ in range(size)]
        at += rng.expovariate(1 / 480)
    return made


def films(seed: int, tasks: int = 600) -> list[Task]:
    """Return long tasks, a minute and a half each, one by one, five a minute."""
    rng = random.Random(f"films {seed}")
    made: list[Task] = []
    at = 0.0
    for _ in range(tasks):
        made.append(Task(at, _seconds(rng, 90, 0.5)))
        at += rng.expovariate(5 / 60)
    return made


WORKLOADS: dict[str, Callable[..., list[Task]]] = {"burst": burst, "day": day, "films": films}
