"""KEDA between none and one pod, the HorizontalPodAutoscaler from there on.

https://keda.sh/docs/2.20/concepts/scaling-deployments/
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/#configurable-scaling-behavior
"""

from __future__ import annotations

import math
from typing import Protocol

from .choices import Choices, Policy
from .events import Events
from .task_queue import TaskQueue
from .timings import Timings


class Scalable(Protocol):
    """What has a number of pods."""

    replicas: int

    def scale(self, replicas: int) -> None:
        """Want another number of pods."""


class Autoscaler:
    """Decides how many pods there should be, from the queue alone."""

    def __init__(
        self, events: Events, choices: Choices, timings: Timings, queue: TaskQueue, target: Scalable
    ) -> None:
        self._events = events
        self._choices = choices
        self._timings = timings
        self._queue = queue
        self._target = target
        self._last_active = -math.inf
        self._recommendations: list[tuple[float, int]] = []
        self._changes: list[tuple[float, int]] = []
        events.every(choices.polling_seconds, self.poll)
        events.every(timings.hpa_sync_seconds, self.sync)

    def pods_wanted(self) -> float:
        """Return what the metric says, in pods."""
        waiting, running = self._queue.waiting, self._queue.in_flight
        if self._choices.counts_running:
            return running + waiting / self._choices.queue_length
        return (running + waiting) / self._choices.queue_length

    def poll(self) -> None:
        """Start the first pod, or stop the last ones: KEDA's part."""
        now, choices = self._events.now, self._choices
        if self.pods_wanted() > choices.activation_queue_length / choices.queue_length:
            self._last_active = now
            if self._target.replicas == 0:
                self._target.scale(max(1, choices.min_pods))
        elif (
            choices.min_pods == 0
            and self._target.replicas
            and now - self._last_active >= choices.cooldown_seconds
        ):
            self._target.scale(0)

    def sync(self) -> None:
        """Change the number of pods within what the behavior allows: the HorizontalPodAutoscaler's part."""
        now, current = self._events.now, self._target.replicas
        if current == 0:
            return
        choices = self._choices
        wanted = self.pods_wanted()
        is_near = abs(wanted / current - 1) <= self._timings.hpa_tolerance
        desired = current if is_near else math.ceil(wanted)
        desired = min(max(desired, choices.min_pods, 1), choices.max_pods)
        self._recommendations.append((now, desired))
        since = now - choices.stabilization_seconds
        self._recommendations = [one for one in self._recommendations if one[0] >= since]
        if desired > current:
            self._scale(min(desired, self._bound(choices.scale_up, 1)))
        elif desired < current:
            kept = max(pods for _, pods in self._recommendations)
            self._scale(max(min(current, kept), self._bound(choices.scale_down, -1)))

    def _bound(self, policies: tuple[Policy, ...], sign: int) -> int:
        """Return the most, or fewest, pods that the most generous of the policies allows."""
        bounds = []
        for policy in policies:
            since = self._events.now - policy.period_seconds
            changed = sum(by for at, by in self._changes if at > since and by * sign > 0)
            before = self._target.replicas - changed
            bounds.append(before + sign * policy.step(before))
        return max(bounds) if sign > 0 else max(0, min(bounds))

    def _scale(self, replicas: int) -> None:
        if replicas != self._target.replicas:
            self._changes = [one for one in self._changes if one[0] > self._events.now - 1800]
            self._changes.append((self._events.now, replicas - self._target.replicas))
            self._target.scale(replicas)
