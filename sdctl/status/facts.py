"""What was found of a deployment: frozen, with an `Unknown` in place of what could not be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sdctl.clients.cloudformation import StackView
from sdctl.clients.kubernetes_objects import Claim, Node, Pod, Scaling, Workload
from sdctl.clients.queue_depth import Depth
from sdctl.clients.tagging import Found
from sdctl.inventory import PriceKey
from sdctl.prices import Price
from sdctl.reads import Read, Unknown

NOT_ASKED = Unknown("it was not asked for")


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What runs in the cluster: of each runtime its Deployment, how it is scaled, and its pods."""

    kubernetes: str
    workloads: Mapping[str, Workload] = field(default_factory=dict)
    scalings: Mapping[str, Scaling] = field(default_factory=dict)
    pods: Mapping[str, tuple[Pod, ...]] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    claims: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """What was found: `queues`, `dead_letters` and `oldest_seconds` are by runtime.

    `has_cluster` is false where the deployment has none, or not yet. `releases` maps each Helm release to its
    chart's version. `machines` is what is paid by the hour.
    """

    stack_name: str
    region: str
    stacks: Mapping[str, StackView]
    runtimes: Read[Mapping[str, str]]
    has_cluster: bool = False
    cluster: Read[ClusterFacts] = NOT_ASKED
    releases: Read[Mapping[str, str]] = NOT_ASKED
    queues: Mapping[str, Read[Depth]] = field(default_factory=dict)
    dead_letters: Mapping[str, Read[Depth]] = field(default_factory=dict)
    oldest_seconds: Read[Mapping[str, float]] = NOT_ASKED
    unrouted: Read[Depth] = NOT_ASKED
    machines: Read[tuple[Found, ...]] = NOT_ASKED
    prices: Read[Mapping[PriceKey, Price]] = NOT_ASKED
