"""The pods of a runtime: made, chosen and stopped as a ReplicaSet does it, working as an agent does it."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .choices import Choices
from .events import Events
from .task_queue import Task, TaskQueue
from .timings import Timings

if TYPE_CHECKING:
    from .nodes import Node, Nodes


@dataclass(slots=True, eq=False)
class Pod:
    """One pod; `state` is pending, starting, ready, stopping or gone."""

    created: float
    chance: float
    state: str = "pending"
    node: Node | None = None
    ready_at: float = math.inf
    is_warm: bool = False
    task: Task | None = None
    task_started: float = 0.0
    ahead: Task | None = None
    run: int = 0


@dataclass(slots=True)
class Tally:
    """What became of the work: numbers of tasks, and seconds of a GPU."""

    first_done_at: float = math.inf
    last_done_at: float = 0.0
    waits: list[float] = field(default_factory=list)
    failed: int = 0
    handed_back: int = 0
    lost_with_node: int = 0
    ran_twice: int = 0
    useful_seconds: float = 0.0
    wasted_seconds: float = 0.0


class Pods:
    """A Deployment's pods, and the work that they do."""

    def __init__(
        self, events: Events, choices: Choices, timings: Timings, queue: TaskQueue, rng: random.Random
    ) -> None:
        self.replicas = 0
        self.tally = Tally()
        self.all: list[Pod] = []
        self.nodes: Nodes  # set by the farm: nodes and pods know each other
        self._events = events
        self._choices = choices
        self._timings = timings
        self._queue = queue
        self._rng = rng
        self._idle: list[Pod] = []
        queue.on_arrival = self._wake

    def count(self, *states: str) -> int:
        """Return how many pods are in one of the states."""
        return sum(pod.state in states for pod in self.all)

    def scale(self, replicas: int) -> None:
        """Want a number of pods, and make or stop as many as that takes."""
        self.replicas = replicas
        kept = [pod for pod in self.all if pod.state in ("pending", "starting", "ready")]
        for _ in range(replicas - len(kept)):
            pod = Pod(self._events.now, self._rng.random())
            self.all.append(pod)
            self.nodes.place(pod)
        for pod in sorted(kept, key=self._rank)[: max(0, len(kept) - replicas)]:
            self.stop(pod)

    def _rank(self, pod: Pod) -> tuple[bool, bool, bool, int, float]:
        """Return what pods are chosen by, the first to go first.

        Not placed, not ready, deletion cost, ready for a shorter time in powers of two, by chance:
        https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset
        """
        age = int(math.log2(max(1.0, self._events.now - pod.ready_at))) if pod.state == "ready" else 0
        is_costly = self._choices.idle_pods_go_first and pod.task is not None
        return pod.node is not None, pod.state == "ready", is_costly, age, pod.chance

    def start(self, pod: Pod, node: Node) -> None:
        """Begin to run on a node: pull, server, model, warm-up."""
        pod.node, pod.state = node, "starting"
        times, cached = self._timings, node.is_warm and self._choices.has_local_disks
        seconds = times.server_start_seconds if node.is_warm else self.cold_start_seconds(node)
        rate = times.cached_model_gib_per_second if cached else times.model_gib_per_second
        seconds += times.model_gib / rate
        if self._choices.warms_up:
            seconds += times.warm_up_seconds
            pod.is_warm = True
        node.is_warm = True
        self._events.after(seconds * self._rng.lognormvariate(0, times.spread), lambda: self._get_ready(pod))

    def cold_start_seconds(self, node: Node) -> float:
        """Return how long image and server take on a node that has not run the image yet."""
        times, choices = self._timings, self._choices
        disk = math.inf if choices.has_local_disks else choices.volume_mib_per_second / 1024
        if choices.image_cache == "snapshot":
            rate = choices.initialization_mib_per_second / 1024
            if not rate:
                return (
                    times.image_read_gib / min(times.lazy_gib_per_second, disk) + times.server_start_seconds
                )
            # From its creation on: https://docs.aws.amazon.com/ebs/latest/userguide/initalize-volume.html
            filled = times.image_gib / rate - (self._events.now - node.launched_at)
            return max(0.0, filled) + times.image_read_gib / disk + times.server_start_seconds
        is_parallel = choices.image_cache == "soci"
        pull = times.parallel_pull_gib_per_second if is_parallel else times.pull_gib_per_second
        return times.image_gib / min(pull, disk) + times.server_start_seconds

    def _get_ready(self, pod: Pod) -> None:
        if pod.state == "starting":
            pod.state, pod.ready_at = "ready", self._events.now
            self._look(pod)

    def _wake(self) -> None:
        while self._idle:
            pod = self._idle.pop(0)
            if pod.state == "ready" and pod.task is None:
                self._look(pod)
                return

    def _look(self, pod: Pod) -> None:
        """Begin the next task, or wait for one."""
        task, pod.ahead = pod.ahead or self._queue.receive(), None
        if task is None:
            self._idle.append(pod)
            return
        seconds = task.service_seconds
        if not pod.is_warm:
            seconds += self._timings.warm_up_seconds
            pod.is_warm = True
        pod.task, pod.task_started, pod.run = task, self._events.now, pod.run + 1
        run = pod.run
        self._events.after(seconds, lambda: self._finish(pod, run))
        ahead = self._choices.agent.ahead_seconds
        if ahead:
            self._events.after(max(0.0, seconds - ahead), lambda: self._receive_ahead(pod, run))

    def _receive_ahead(self, pod: Pod, run: int) -> None:
        if pod.run == run and pod.task and pod.state == "ready" and not pod.ahead:
            pod.ahead = self._queue.receive()

    def _finish(self, pod: Pod, run: int) -> None:
        if pod.run != run or pod.task is None:
            return
        now, tally, task = self._events.now, self.tally, pod.task
        pod.task = None
        seconds = now - pod.task_started
        if self._queue.delete(task):
            task.done_at = now
            tally.first_done_at = min(tally.first_done_at, now)
            tally.last_done_at = now
            tally.waits.append(now - task.submitted)
            tally.useful_seconds += seconds
        else:
            tally.ran_twice += 1
            tally.wasted_seconds += seconds
        if pod.state == "stopping":
            self._end(pod)
        else:
            self._look(pod)

    def stop(self, pod: Pod) -> None:
        """Tell a pod to end, as its deletion or eviction does."""
        if pod.state in ("stopping", "gone"):
            return
        was_ready, pod.state = pod.state == "ready", "stopping"
        if pod.ahead:
            ahead, pod.ahead = pod.ahead, None
            self._queue.release(ahead)
        if not was_ready or pod.task is None:
            self._events.after(self._timings.stop_seconds if was_ready else 0, lambda: self._end(pod))
        elif self._choices.agent.drains:
            run = pod.run
            self._events.after(self._choices.drain_seconds, lambda: self._hand_back(pod, run))
        else:
            task = self._give_up(pod)
            if self._queue.delete(task):
                self.tally.failed += 1
            self._events.after(self._timings.stop_seconds, lambda: self._end(pod))

    def delete(self, pod: Pod) -> None:
        """Stop a pod that is still wanted: another one is made at once, not when this one is gone."""
        self.stop(pod)
        self.scale(self.replicas)

    def _hand_back(self, pod: Pod, run: int) -> None:
        if pod.run == run and pod.task:
            self.tally.handed_back += 1
            self._queue.release(self._give_up(pod))
            self._end(pod)

    def die(self, pod: Pod) -> None:
        """End without any warning, with the node."""
        if pod.ahead:
            self._queue.leave(pod.ahead)
        if pod.task:
            self.tally.lost_with_node += 1
            self._queue.leave(self._give_up(pod))
        self._end(pod)

    def _give_up(self, pod: Pod) -> Task:
        task, pod.task = pod.task, None
        assert task is not None
        self.tally.wasted_seconds += self._events.now - pod.task_started
        return task

    def _end(self, pod: Pod) -> None:
        if pod.state == "gone":
            return
        pod.state, pod.ahead = "gone", None
        self.all.remove(pod)
        if pod.node:
            self.nodes.free(pod.node)
        self.scale(self.replicas)

    def may_evict(self, pod: Pod) -> bool:
        """Whether the PodDisruptionBudget lets a pod go; one that is not ready always may."""
        most = self._choices.max_unavailable
        if most is None or pod.state != "ready":
            return True
        unavailable = math.ceil(self.replicas * int(most[:-1]) / 100) if most.endswith("%") else int(most)
        return self.count("ready") - 1 >= self.replicas - unavailable
