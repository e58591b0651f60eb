"""What a chart's values choose, as far as it bears on scaling; and what upstream's values choose."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Policy:
    """How many pods may come or go within a period: a number, or a percentage of those there were."""

    kind: str
    value: int
    period_seconds: float

    def step(self, replicas: int) -> int:
        """Return by how many pods a number of pods may change."""
        return self.value if self.kind == "Pods" else math.ceil(replicas * self.value / 100)


@dataclass(frozen=True, slots=True)
class Budget:
    """How many nodes Karpenter may take at once, for some reasons or for all where there are none."""

    nodes: str
    reasons: tuple[str, ...] = ()

    def allows(self, total: int) -> int:
        """Return how many of so many nodes may be going at once; a percentage is rounded up."""
        return math.ceil(total * int(self.nodes[:-1]) / 100) if self.nodes.endswith("%") else int(self.nodes)


@dataclass(frozen=True, slots=True)
class Agent:
    """What the queue agent does.

    `heartbeats` keeps the message invisible, `drains` ends or hands back a task when its pod stops (else it
    is reported as failed and lost), `ahead_seconds` before a task's end the next one is received.
    """

    heartbeats: bool
    drains: bool
    ahead_seconds: float
    visibility_seconds: float = 30.0
    heartbeat_seconds: float = 10.0


@dataclass(frozen=True, slots=True)
class Choices:
    """One runtime's values. Durations in seconds; None where something is never done or not there."""

    name: str
    queue_length: int
    activation_queue_length: float
    counts_running: bool  # a pod for each running task; else running ones count as waiting ones do
    polling_seconds: float
    cooldown_seconds: float
    min_pods: int
    max_pods: int
    stabilization_seconds: float
    scale_up: tuple[Policy, ...]
    scale_down: tuple[Policy, ...]
    grace_seconds: float
    drain_seconds: float
    do_not_disrupt_seconds: float | None
    max_unavailable: str | None
    idle_pods_go_first: bool
    warms_up: bool
    spot: bool
    on_demand: bool
    gpu_limit: int
    consolidates: bool
    consolidate_after_seconds: float
    node_grace_seconds: float | None
    budgets: tuple[Budget, ...]
    image_cache: str  # soci, snapshot or none
    has_local_disks: bool
    volume_mib_per_second: float
    initialization_mib_per_second: float
    agent: Agent


OUR_AGENT = Agent(heartbeats=True, drains=True, ahead_seconds=4.0)

# https://github.com/aws-solutions-library-samples/guidance-for-asynchronous-inference-with-stable-diffusion-on-aws
# src/charts/sd_on_eks at bfec8e2, with the defaults of Kubernetes and Karpenter where it says nothing. Its
# `scaleOnInFlight: false` stands where the ScaledObject has no such field, so that KEDA's default stays. Its
# agent has no heartbeat; at SIGTERM its server ends at once, and the agent reports the task as failed and
# deletes the message. Its instance types are left out: both charts get the same machine at the same price.
UPSTREAM = Choices(
    name="upstream",
    queue_length=10,
    activation_queue_length=0,
    counts_running=False,
    polling_seconds=1,
    cooldown_seconds=60,
    min_pods=0,
    max_pods=20,
    stabilization_seconds=300,
    scale_up=(Policy("Percent", 100, 15), Policy("Pods", 4, 15)),
    scale_down=(Policy("Percent", 100, 15),),
    grace_seconds=30,
    drain_seconds=0,
    do_not_disrupt_seconds=None,
    max_unavailable=None,
    idle_pods_go_first=False,
    warms_up=False,
    spot=True,
    on_demand=True,
    gpu_limit=100,
    consolidates=True,
    consolidate_after_seconds=30,
    node_grace_seconds=None,
    budgets=(Budget("10%"),),
    image_cache="soci",
    has_local_disks=True,
    volume_mib_per_second=125,
    initialization_mib_per_second=0,
    agent=Agent(heartbeats=False, drains=False, ahead_seconds=0.0),
)
