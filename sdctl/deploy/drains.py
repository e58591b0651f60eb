"""Carrying out a teardown's steps inside the cluster: runtimes to no pod, nodes, then who lets go of what.

Karpenter and KEDA hold their objects by finalizers until they have cleaned up. Where one of them is gone
already, nobody would ever let go: its finalizers are taken off, and EC2 is looked at afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from sdctl.clients import kubernetes as k8s
from sdctl.clients.cluster_access import find_cluster
from sdctl.clients.kubernetes import Kind, Kubernetes, connect
from sdctl.clients.kubernetes_http import Object
from sdctl.clients.kubernetes_objects import PAUSED_REPLICAS_ANNOTATION, named, read_pod, read_scaling
from sdctl.deploy.context import StepContext
from sdctl.deploy.drain_steps import (
    ClusterStep,
    NodeClassesStep,
    NodePoolsStep,
    ScaledObjectsStep,
    ScaleInStep,
)
from sdctl.deploy.standing import runtime_workloads
from sdctl.deploy.steps import Step
from sdctl.errors import NotFoundError, WaitTimeoutError
from sdctl.render.charts import KARPENTER_NAMESPACE, KEDA_ACCOUNT, KEDA_NAMESPACE

KARPENTER_DEPLOYMENT: Final = (KARPENTER_NAMESPACE, "karpenter")
KEDA_DEPLOYMENT: Final = (KEDA_NAMESPACE, KEDA_ACCOUNT)
# Beyond the time that the pods themselves have to end.
SPARE_SECONDS: Final = 120
# Kubernetes' own, where a pod names none.
GRACE_SECONDS: Final = 30
NODES_SECONDS: Final = 1200
LET_GO_SECONDS: Final = 180
_SKIP_HINT: Final = "look at what holds it; or --skip-cluster, which ends the nodes through EC2"

Drain = Callable[[Any, StepContext, Kubernetes], None]


def drain_handlers(environment: Mapping[str, str]) -> dict[type[Step], Callable[[Any, StepContext], None]]:
    """Return how the steps inside the cluster are carried out, by their types.

    Args:
        environment: for the proxy on the way to the cluster.
    """
    drains: dict[type[Step], Drain] = {
        ScaleInStep: _scale_in,
        NodePoolsStep: _delete_node_pools,
        NodeClassesStep: _delete_node_classes,
        ScaledObjectsStep: _delete_scaled_objects,
    }

    def connected(drain: Drain) -> Callable[[ClusterStep, StepContext], None]:
        def carry_out(step: ClusterStep, context: StepContext) -> None:
            access = find_cluster(context.aws, step.cluster)
            with connect(context.aws, access, environment=environment, clock=context.clock) as kubernetes:
                drain(step, context, kubernetes)

        return carry_out

    return {kind: connected(drain) for kind, drain in drains.items()}


def _scale_in(step: ScaleInStep, context: StepContext, kubernetes: Kubernetes) -> None:
    """Hold every ScaledObject at no replica, and wait until the pods have handed back their tasks.

    The Deployments are scaled in by ourselves as well: at no replica the autoscaler leaves them alone, and
    nothing depends on KEDA being well.
    """
    scaled = kubernetes.list(k8s.SCALED_OBJECTS)
    workloads = list(runtime_workloads(scaled, kubernetes.list(k8s.DEPLOYMENTS), frozenset(step.releases)))
    for found in scaled:
        one = read_scaling(found)
        kubernetes.annotate(k8s.SCALED_OBJECTS, one.name, {PAUSED_REPLICAS_ANNOTATION: "0"}, one.namespace)
    for found in workloads:
        metadata = found["metadata"]
        kubernetes.patch(k8s.DEPLOYMENTS, metadata["name"], {"spec": {"replicas": 0}}, metadata["namespace"])
    graces = [_grace_seconds(found) for found in workloads]
    _await_none(
        lambda: [read_pod(pod).name for found in workloads for pod in _pods(kubernetes, found)],
        context,
        what="pod",
        until="end: a running task is finished or handed back",
        timeout_seconds=max(graces, default=0) + SPARE_SECONDS,
    )


def _pods(kubernetes: Kubernetes, workload: Object) -> Iterator[Object]:
    labels = workload["spec"]["selector"].get("matchLabels", {})
    selector = ",".join(f"{name}={value}" for name, value in labels.items())
    # A selector that says nothing would mean every pod of the namespace.
    if selector:
        yield from kubernetes.list(k8s.PODS, workload["metadata"]["namespace"], labels=selector)


def _grace_seconds(workload: Object) -> int:
    spec = workload["spec"]["template"]["spec"]
    return int(spec.get("terminationGracePeriodSeconds", GRACE_SECONDS))


def _delete_node_pools(_: NodePoolsStep, context: StepContext, kubernetes: Kubernetes) -> None:
    """Delete the node pools and wait until Karpenter has ended every node of theirs."""
    kinds = (k8s.NODE_POOLS, k8s.NODE_CLAIMS)
    _delete_all(kubernetes, k8s.NODE_POOLS)
    # Their pools' deletion takes them along; those of no pool are not.
    _delete_all(kubernetes, k8s.NODE_CLAIMS)
    if not _is_there(kubernetes, KARPENTER_DEPLOYMENT):
        _release_all(kubernetes, kinds)
    until = "be drained and terminated by Karpenter"
    _await_gone(kubernetes, kinds, context, what="node", until=until, timeout_seconds=NODES_SECONDS)


def _delete_node_classes(_: NodeClassesStep, context: StepContext, kubernetes: Kubernetes) -> None:
    _delete_all(kubernetes, k8s.NODE_CLASSES)
    if not _is_there(kubernetes, KARPENTER_DEPLOYMENT):
        _release_all(kubernetes, (k8s.NODE_CLASSES,))
    _await_gone(
        kubernetes, (k8s.NODE_CLASSES,), context, what="node class", until="be let go by Karpenter",
        timeout_seconds=LET_GO_SECONDS,
    )  # fmt: skip


def _delete_scaled_objects(_: ScaledObjectsStep, context: StepContext, kubernetes: Kubernetes) -> None:
    _delete_all(kubernetes, k8s.SCALED_OBJECTS)
    if not _is_there(kubernetes, KEDA_DEPLOYMENT):
        _release_all(kubernetes, (k8s.SCALED_OBJECTS,))
    _await_gone(
        kubernetes, (k8s.SCALED_OBJECTS,), context, what="ScaledObject", until="be let go by KEDA",
        timeout_seconds=LET_GO_SECONDS,
    )  # fmt: skip


def _is_there(kubernetes: Kubernetes, deployment: tuple[str, str]) -> bool:
    namespace, name = deployment
    return kubernetes.find(k8s.DEPLOYMENTS, name, namespace) is not None


def _delete_all(kubernetes: Kubernetes, kind: Kind) -> None:
    for found in kubernetes.list(kind):
        if "deletionTimestamp" not in found["metadata"]:
            kubernetes.delete(kind, found["metadata"]["name"], found["metadata"].get("namespace", ""))


def _release_all(kubernetes: Kubernetes, kinds: Sequence[Kind]) -> None:
    """Take the finalizers off whose owner is gone."""
    for kind in kinds:
        for found in kubernetes.list(kind):
            metadata = found["metadata"]
            with suppress(NotFoundError):  # gone meanwhile
                kubernetes.patch(
                    kind, metadata["name"], {"metadata": {"finalizers": None}}, metadata.get("namespace", "")
                )


def _await_gone(
    kubernetes: Kubernetes,
    kinds: Sequence[Kind],
    context: StepContext,
    *,
    what: str,
    until: str,
    timeout_seconds: float,
) -> None:
    def left() -> list[str]:
        return [named(found) for kind in kinds for found in kubernetes.list(kind)]

    _await_none(left, context, what=what, until=until, timeout_seconds=timeout_seconds)


def _await_none(
    left: Callable[[], list[str]], context: StepContext, *, what: str, until: str, timeout_seconds: float
) -> None:
    """Wait until nothing is left, saying each time it becomes fewer.

    Raises:
        WaitTimeoutError: something is; names it.
    """
    last: list[list[str]] = [[]]

    def probe() -> bool | None:
        found = left()
        if found and len(found) != len(last[0]):
            context.waiting(f"{len(found)} {what}{'s' if len(found) > 1 else ''} to {until}")
        last[0] = found
        return None if found else True

    try:
        context.poll(
            probe, awaited=f"each {what} to {until}", timeout_seconds=timeout_seconds,
            state=lambda: f"{len(last[0])} left: {', '.join(last[0][:5])}",
        )  # fmt: skip
    except WaitTimeoutError as error:
        raise WaitTimeoutError(error.message, hint=_SKIP_HINT) from error
