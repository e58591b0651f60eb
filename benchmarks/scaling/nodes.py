"""The nodes: launched, emptied and ended as Karpenter does it, and taken back by Spot.

https://karpenter.sh/docs/concepts/disruption/
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .choices import Choices
from .events import Events
from .pods import Pod, Pods
from .timings import Timings

EVICTION_RETRY_SECONDS = 5.0


@dataclass(slots=True, eq=False)
class Node:
    """One instance with one GPU; `state` is launching, ready, leaving or gone."""

    launched_at: float
    is_spot: bool
    state: str = "launching"
    pod: Pod | None = None
    is_warm: bool = False
    is_reserved: bool = False  # for the pod of a node that it replaces
    last_change: float = 0.0
    ended_at: float | None = None

    def paid_seconds(self, now: float) -> float:
        """Return how long it was paid for."""
        return (now if self.ended_at is None else self.ended_at) - self.launched_at


class Nodes:
    """A NodePool's nodes."""

    def __init__(
        self, events: Events, choices: Choices, timings: Timings, pods: Pods, rng: random.Random
    ) -> None:
        self.all: list[Node] = []
        self.past: list[Node] = []
        self.interrupted = 0
        self._events = events
        self._choices = choices
        self._timings = timings
        self._pods = pods
        self._rng = rng
        self._pending: list[Pod] = []
        self._batch_began: float | None = None
        self._last_pending = 0.0
        self._is_validating = False
        pods.nodes = self
        events.every(timings.disruption_loop_seconds, self._look_for_disruption)

    def place(self, pod: Pod) -> None:
        """Put a pod onto a node that is free, or let it wait for one."""
        free = next((node for node in self.all if self._is_free(node)), None)
        if free:
            self._bind(pod, free)
            return
        self._pending.append(pod)
        self._last_pending = self._events.now
        if self._batch_began is None:
            self._batch_began = self._events.now
            self._events.after(self._timings.batch_idle_seconds, self._end_batch)

    def _is_free(self, node: Node) -> bool:
        return node.state == "ready" and node.pod is None and not node.is_reserved

    def _bind(self, pod: Pod, node: Node) -> None:
        node.pod, node.last_change = pod, self._events.now
        self._pods.start(pod, node)

    def free(self, node: Node) -> None:
        """Note that a node's pod is gone."""
        node.pod, node.last_change = None, self._events.now
        if node.state == "leaving":
            self._end(node)
        else:
            self._place_pending()

    def _place_pending(self) -> None:
        self._pending = [pod for pod in self._pending if pod.state == "pending"]
        for node in self.all:
            if self._pending and self._is_free(node):
                self._bind(self._pending.pop(0), node)

    def _end_batch(self) -> None:
        """Launch a node for each pod that waits, unless more pods have just come."""
        assert self._batch_began is not None
        now, times = self._events.now, self._timings
        idle_at = self._last_pending + times.batch_idle_seconds
        if now < min(idle_at, self._batch_began + times.batch_most_seconds):
            self._events.after(idle_at - now, self._end_batch)
            return
        self._batch_began = None
        self._place_pending()
        coming = sum(node.state == "launching" and not node.is_reserved for node in self.all)
        for _ in range(len(self._pending) - coming):
            if len(self.all) < self._choices.gpu_limit:
                self._launch()

    def _launch(self, then: Callable[[Node], None] | None = None) -> Node:
        """Launch an instance, on Spot where that has capacity; `then` gets it when it is ready."""
        has_spot = self._choices.spot and self._rng.random() >= self._timings.spot_unavailable
        node = Node(self._events.now, has_spot or not self._choices.on_demand, is_reserved=then is not None)
        self.all.append(node)

        def get_ready() -> None:
            node.state, node.last_change = "ready", self._events.now
            if node.is_spot:
                rate = self._timings.spot_interruptions_per_hour / 3600
                if rate:
                    self._events.after(self._rng.expovariate(rate), lambda: self._take_back(node))
            if then:
                then(node)
            self._place_pending()

        seconds = self._timings.node_launch_seconds * self._rng.lognormvariate(0, self._timings.spread)
        self._events.after(seconds, get_ready)
        return node

    def _end(self, node: Node) -> None:
        """Terminate an instance that nothing runs on any more."""
        if node.ended_at is None:
            node.ended_at = self._events.now
            self._events.after(self._timings.node_end_seconds, lambda: self._forget(node))

    def _forget(self, node: Node) -> None:
        node.state = "gone"
        self.all.remove(node)
        self.past.append(node)

    def _drain(self, node: Node) -> None:
        """Empty a node that goes, and terminate it.

        A pod that must not be disrupted is not evicted, whatever the reason: it is deleted so long before the
        end of the node's grace as it needs itself. Deletion asks no PodDisruptionBudget.
        https://karpenter.sh/docs/concepts/disruption/#terminationgraceperiod
        """
        node.state = "leaving"
        pod, choices = node.pod, self._choices
        if pod is None:
            self._end(node)
            return
        if choices.node_grace_seconds is not None:
            left = max(0.0, choices.node_grace_seconds - choices.grace_seconds)
            self._events.after(left, lambda: self._pods.delete(pod))
        if not self._is_protected(pod):
            self._evict(node, pod)

    def _evict(self, node: Node, pod: Pod) -> None:
        if node.pod is not pod or node.ended_at is not None or pod.state == "stopping":
            return
        if self._pods.may_evict(pod):
            self._pods.delete(pod)
        else:
            self._events.after(EVICTION_RETRY_SECONDS, lambda: self._evict(node, pod))

    def _is_protected(self, pod: Pod) -> bool:
        seconds = self._choices.do_not_disrupt_seconds
        return seconds is not None and self._events.now - pod.created < seconds

    def _take_back(self, node: Node) -> None:
        """Spot's notice, and its end two minutes later."""
        if node.state != "ready":
            return
        self.interrupted += 1
        self._drain(node)

        def die() -> None:
            if node.ended_at is None:
                if node.pod:
                    self._pods.die(node.pod)
                self._end(node)

        self._events.after(self._timings.spot_notice_seconds, die)

    def _look_for_disruption(self) -> None:
        if self._is_validating:
            return
        now, after = self._events.now, self._choices.consolidate_after_seconds
        old = [node for node in self.all if node.state == "ready" and now - node.last_change >= after]
        empty = [node for node in old if self._is_free(node)][: self._allowed("Empty")]
        if empty:
            self._validate(lambda: self._take(empty))
            return
        if self._choices.consolidates and self._allowed("Underutilized") > 0:
            # One pod fills a node, so the only cheaper node is one on Spot instead of one on demand.
            for node in old:
                pod = node.pod
                if not node.is_spot and pod and not node.is_reserved and not self._is_protected(pod):
                    self._validate(lambda node=node: self._replace(node))  # type: ignore[misc]
                    return

    def _validate(self, action: Callable[[], None]) -> None:
        def validated() -> None:
            self._is_validating = False
            action()

        self._is_validating = True
        self._events.after(self._timings.validation_seconds, validated)

    def _take(self, nodes: list[Node]) -> None:
        for node in nodes:
            if self._is_free(node):
                self._drain(node)

    def _replace(self, node: Node) -> None:
        """Launch a cheaper node; move the pod when it is ready."""
        if node.state != "ready" or node.pod is None:
            return

        def move(new: Node) -> None:
            new.is_reserved = False
            if node.state == "ready":
                self._drain(node)

        self._launch(move)

    def _allowed(self, reason: str) -> int:
        """Return how many more nodes may go for a reason."""
        total = sum(node.state != "launching" for node in self.all)
        going = sum(node.state == "leaving" for node in self.all)
        budgets = [one for one in self._choices.budgets if not one.reasons or reason in one.reasons]
        return max(0, min((one.allows(total) for one in budgets), default=total) - going)
