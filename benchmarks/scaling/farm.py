"""One run: a workload, the choices of a chart, and what came of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from .autoscaler import Autoscaler
from .choices import Choices
from .events import Events
from .nodes import Nodes
from .pods import Pods
from .task_queue import Task, TaskQueue
from .timings import Timings

SAMPLE_SECONDS = 5.0
LIMIT_SECONDS = 48 * 3600.0


@dataclass(frozen=True, slots=True)
class Sample:
    """How it stood at a time, in seconds."""

    at: float
    waiting: int
    in_flight: int
    ready_pods: int
    pods: int
    nodes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a run; hours of GPUs are those that are paid for."""

    name: str
    tasks: int
    done: int
    first_image_seconds: float
    last_image_seconds: float
    median_wait_seconds: float
    p95_wait_seconds: float
    gpu_hours: float
    idle_gpu_hours: float
    wasted_gpu_hours: float
    failed: int
    handed_back: int
    lost_with_node: int
    ran_twice: int
    spot_interruptions: int
    nodes_launched: int
    dollars_per_million: float
    samples: tuple[Sample, ...]

    @property
    def interrupted(self) -> int:
        """Tasks whose work was cut off, whether they were lost or ran again."""
        return self.failed + self.handed_back + self.lost_with_node


def simulate(
    choices: Choices, tasks: Sequence[Task], *, timings: Timings | None = None, seed: int = 1
) -> Outcome:
    """Let a workload through until the last node is gone; the same seed gives the same outcome."""
    timings = timings or Timings()
    events = Events()
    queue = TaskQueue(events, choices.agent)
    pods = Pods(events, choices, timings, queue, random.Random(f"pods {seed}"))
    nodes = Nodes(events, choices, timings, pods, random.Random(f"nodes {seed}"))
    Autoscaler(events, choices, timings, queue, pods)
    if choices.min_pods:
        pods.scale(choices.min_pods)
    for task in tasks:
        events.after(task.submitted, lambda task=task: queue.send(task))  # type: ignore[misc]
    samples: list[Sample] = []

    def sample() -> None:
        running = sum(node.ended_at is None for node in nodes.all)
        samples.append(
            Sample(events.now, queue.waiting, queue.in_flight, pods.count("ready"), len(pods.all), running)
        )

    events.every(SAMPLE_SECONDS, sample)

    def is_over() -> bool:
        tally = pods.tally
        is_done = len(tally.waits) + tally.failed == len(tasks)
        return is_done and len(pods.all) <= choices.min_pods and len(nodes.all) <= choices.min_pods

    events.run(is_over, LIMIT_SECONDS)
    sample()
    return _outcome(timings, pods, nodes, name=choices.name, now=events.now, samples=samples)


def _outcome(
    timings: Timings, pods: Pods, nodes: Nodes, *, name: str, now: float, samples: list[Sample]
) -> Outcome:
    tally = pods.tally
    dollars = paid = 0.0
    for node in nodes.past + nodes.all:
        hours = node.paid_seconds(now) / 3600
        paid += hours
        dollars += hours * (timings.spot_price_per_hour if node.is_spot else timings.on_demand_price_per_hour)
    waits = sorted(tally.waits)
    done = len(waits)
    return Outcome(
        name=name,
        tasks=done + tally.failed,
        done=done,
        first_image_seconds=tally.first_done_at,
        last_image_seconds=tally.last_done_at,
        median_wait_seconds=waits[done // 2],
        p95_wait_seconds=waits[min(done - 1, done * 95 // 100)],
        gpu_hours=paid,
        idle_gpu_hours=paid - (tally.useful_seconds + tally.wasted_seconds) / 3600,
        wasted_gpu_hours=tally.wasted_seconds / 3600,
        failed=tally.failed,
        handed_back=tally.handed_back,
        lost_with_node=tally.lost_with_node,
        ran_twice=tally.ran_twice,
        spot_interruptions=nodes.interrupted,
        nodes_launched=len(nodes.past) + len(nodes.all),
        dollars_per_million=dollars / done * 1e6,
        samples=tuple(samples),
    )
