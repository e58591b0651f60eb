"""Reads what runs of a deployment: everything at once, with deadlines; what cannot be read hides nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from typing import Any, Final

from sdctl.clients import kubernetes as k8s
from sdctl.clients.aws import Aws
from sdctl.clients.cluster_access import find_cluster
from sdctl.clients.kubernetes import connect
from sdctl.clients.kubernetes_http import Object
from sdctl.clients.kubernetes_objects import (
    read_claim,
    read_node,
    read_pod,
    read_scaling,
    read_workload,
    release_of,
)
from sdctl.clients.pricing import Pricing
from sdctl.clients.queue_depth import QueueDepth, queue_name
from sdctl.clients.tagging import Found, Tagging
from sdctl.deploy.observed_releases import read_releases
from sdctl.deploy.results import front_of, read_runtimes
from sdctl.deploy.standing import own_stacks, runtime_workloads
from sdctl.inventory import price_keys
from sdctl.prices import EKS_CLUSTER
from sdctl.reads import Unknown, read_all
from sdctl.render.runtime import runtime_stack_prefix
from sdctl.status.facts import ClusterFacts, Facts

# All parts are read at once, then the prices of what was found.
PARTS_SECONDS: Final = 15.0
PRICES_SECONDS: Final = 8.0
KUBERNETES_SECONDS: Final = 6.0
_NO_CLUSTER: Final = Unknown("the deployment has no cluster")
_DEAD: Final = "DeadLetterQueueUrl"


def observe_status(
    aws: Aws, stack_name: str, *, environment: Mapping[str, str], parts_seconds: float = PARTS_SECONDS
) -> Facts:
    """Read what runs of a deployment.

    Args:
        aws: the session, best one with short timeouts.
        stack_name: the deployment's name.
        environment: for the proxy on the way to the cluster.
        parts_seconds: deadline of each read.

    Raises:
        NotFoundError: there is no such deployment in this region.
        AwsError: its stacks could not be read.
    """
    stacks = own_stacks(aws, stack_name)
    front = front_of(stack_name, aws.region, stacks)
    prefix = runtime_stack_prefix(stack_name)
    outputs = {
        name.removeprefix(prefix): view.outputs for name, view in stacks.items() if name.startswith(prefix)
    }
    queues = {name: found["QueueUrl"] for name, found in outputs.items() if "QueueUrl" in found}
    dead = {name: found[_DEAD] for name, found in outputs.items() if _DEAD in found}
    has_cluster = f"{stack_name}-cluster" in stacks
    depth = QueueDepth(aws)
    reads: dict[str, Callable[[], Any]] = {
        "runtimes": lambda: read_runtimes(aws, stack_name),
        "oldest": lambda: depth.oldest_seconds({name: queue_name(url) for name, url in queues.items()}),
        "machines": lambda: paid_by_the_hour(aws, stack_name, has_cluster=has_cluster),
    }
    if has_cluster:
        reads["cluster"] = lambda: read_cluster(aws, stack_name, outputs, environment)
        reads["releases"] = lambda: {
            one.name: one.chart_version for one in read_releases(aws, stack_name, environment)
        }
    if "UnroutedQueueUrl" in front.outputs:
        reads["unrouted"] = lambda: depth.depth(front.outputs["UnroutedQueueUrl"])
    reads |= {f"queue {name}": partial(depth.depth, url) for name, url in queues.items()}
    reads |= {f"dead {name}": partial(depth.depth, url) for name, url in dead.items()}
    found = read_all(reads, timeout_seconds=parts_seconds)
    machines = found["machines"]
    return Facts(
        stack_name,
        aws.region,
        stacks,
        runtimes=found["runtimes"],
        has_cluster=has_cluster,
        cluster=found.get("cluster", _NO_CLUSTER),
        releases=found.get("releases", _NO_CLUSTER),
        queues={name: found[f"queue {name}"] for name in queues},
        dead_letters={name: found[f"dead {name}"] for name in dead},
        oldest_seconds=found["oldest"],
        unrouted=found.get("unrouted", Unknown("the front's stack has no output of it")),
        machines=machines,
        prices=_prices(aws, () if isinstance(machines, Unknown) else machines),
    )


def paid_by_the_hour(aws: Aws, stack_name: str, *, has_cluster: bool) -> tuple[Found, ...]:
    """Return what of a deployment costs for being there: machines, volumes, gateways, the cluster."""
    found = Tagging(aws).machines(stack_name, has_cluster=has_cluster)
    return (*found, *([Found("eks:cluster", stack_name, EKS_CLUSTER)] if has_cluster else []))


def _prices(aws: Aws, machines: tuple[Found, ...]) -> Any:
    """Read each price by itself, so that one which is not to be had hides no other."""
    pricing = Pricing(aws)
    keys = price_keys(machines)
    read = read_all(
        {str(key): partial(pricing.prices, [key]) for key in keys}, timeout_seconds=PRICES_SECONDS
    )
    known: dict[Any, Any] = {}
    for found in read.values():
        known |= {} if isinstance(found, Unknown) else found
    failed = [found for found in read.values() if isinstance(found, Unknown)]
    return known if known or not failed else failed[0]


def read_cluster(
    aws: Aws, stack_name: str, names: Collection[str], environment: Mapping[str, str]
) -> ClusterFacts:
    """Read what runs in the cluster; `names` are the runtimes'.

    Raises:
        SdctlError: it cannot be reached, or does not let us in.
    """
    access, limit = find_cluster(aws, stack_name), KUBERNETES_SECONDS
    with connect(aws, access, environment=environment, request_timeout_seconds=limit) as kubernetes:
        scaled, deployments = kubernetes.list(k8s.SCALED_OBJECTS), kubernetes.list(k8s.DEPLOYMENTS)
        releases = {release_of(one) for one in deployments}
        runtimes = frozenset(one for one in releases if one[1] in names)
        pods = kubernetes.list(k8s.PODS)
        workloads = {
            release_of(one)[1] or one["metadata"]["name"]: one
            for one in runtime_workloads(scaled, deployments, runtimes)
        }
        targets = {(one.namespace, one.target): one for one in map(read_scaling, scaled)}
        return ClusterFacts(
            kubernetes.server_version(),
            workloads={name: read_workload(one) for name, one in workloads.items()},
            scalings={
                name: targets[where] for name, one in workloads.items() if (where := _where(one)) in targets
            },
            pods={name: tuple(map(read_pod, _pods_of(one, pods))) for name, one in workloads.items()},
            nodes=tuple(map(read_node, kubernetes.list(k8s.NODES))),
            claims=tuple(map(read_claim, kubernetes.list(k8s.NODE_CLAIMS))),
        )


def _where(found: Object) -> tuple[str, str]:
    return found["metadata"]["namespace"], found["metadata"]["name"]


def _pods_of(workload: Object, pods: list[Object]) -> Iterator[Object]:
    """Yield the pods that a Deployment's selector means."""
    wanted = workload["spec"]["selector"].get("matchLabels", {}).items()
    namespace = workload["metadata"]["namespace"]
    for pod in pods:
        labels = pod["metadata"].get("labels", {}).items()
        if wanted and pod["metadata"]["namespace"] == namespace and wanted <= labels:
            yield pod
