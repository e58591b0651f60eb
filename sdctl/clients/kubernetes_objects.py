"""Typed readings of the Kubernetes objects that `status` and `destroy` look at; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

CAPACITY_LABEL: Final = "karpenter.sh/capacity-type"
NODE_POOL_LABEL: Final = "karpenter.sh/nodepool"
TYPE_LABEL: Final = "node.kubernetes.io/instance-type"
ZONE_LABEL: Final = "topology.kubernetes.io/zone"
# https://keda.sh/docs/2.20/concepts/scaling-deployments/#pausing-autoscaling
PAUSED_ANNOTATION: Final = "autoscaling.keda.sh/paused"
PAUSED_REPLICAS_ANNOTATION: Final = "autoscaling.keda.sh/paused-replicas"
# What Helm writes on everything that it installs.
RELEASE_NAME_ANNOTATION: Final = "meta.helm.sh/release-name"
RELEASE_NAMESPACE_ANNOTATION: Final = "meta.helm.sh/release-namespace"

ReleaseName = tuple[str, str]  # namespace, name


@dataclass(frozen=True, slots=True)
class Node:
    """A node: `capacity` is `spot`, `on-demand` or `reserved`, empty where Karpenter did not start it."""

    name: str
    instance_type: str
    zone: str
    capacity: str
    node_pool: str
    created_at: datetime | None
    is_ready: bool
    kubelet_version: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment's replicas: wanted, ready, and whether its last change has arrived everywhere."""

    name: str
    namespace: str
    wanted: int
    ready: int
    is_settled: bool


@dataclass(frozen=True, slots=True)
class Scaling:
    """A ScaledObject: its bounds, the Deployment it scales, and whether it is paused.

    `held_replicas` is the number at which it is paused, None where it is not, or where it happens to be.
    """

    name: str
    namespace: str
    target: str
    minimum: int
    maximum: int
    is_paused: bool
    held_replicas: int | None = None


@dataclass(frozen=True, slots=True)
class Claim:
    """A NodeClaim: the instance that Karpenter starts or has started for a pool."""

    name: str
    node_pool: str
    instance_id: str
    is_ready: bool
    is_ending: bool


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: `problem` says in Kubernetes' words why it does not run, empty where nothing is wrong yet."""

    name: str
    namespace: str
    node: str
    phase: str
    is_ready: bool
    problem: str


def read_node(found: Mapping[str, Any]) -> Node:
    """Read a Node."""
    metadata, status = _part(found, "metadata"), _part(found, "status")
    labels = _part(metadata, "labels")
    return Node(
        name=_text(metadata, "name"),
        instance_type=_text(labels, TYPE_LABEL),
        zone=_text(labels, ZONE_LABEL),
        capacity=_text(labels, CAPACITY_LABEL),
        node_pool=_text(labels, NODE_POOL_LABEL),
        created_at=moment(_text(metadata, "creationTimestamp")),
        is_ready=has_condition(found, "Ready"),
        kubelet_version=_text(_part(status, "nodeInfo"), "kubeletVersion"),
        instance_id=_instance(_text(_part(found, "spec"), "providerID")),
    )


def read_workload(found: Mapping[str, Any]) -> Workload:
    """Read a Deployment."""
    metadata, status = _part(found, "metadata"), _part(found, "status")
    wanted = _number(_part(found, "spec"), "replicas", 1)
    observed = _number(status, "observedGeneration") >= _number(metadata, "generation")
    is_whole = _number(status, "updatedReplicas") == _number(status, "replicas") == wanted
    return Workload(
        name=_text(metadata, "name"),
        namespace=_text(metadata, "namespace"),
        wanted=wanted,
        ready=_number(status, "readyReplicas"),
        is_settled=observed and is_whole and _number(status, "availableReplicas") == wanted,
    )


def read_scaling(found: Mapping[str, Any]) -> Scaling:
    """Read a ScaledObject; KEDA's own defaults are 0 and 100 replicas."""
    metadata, spec = _part(found, "metadata"), _part(found, "spec")
    annotations = _part(metadata, "annotations")
    held = _text(annotations, PAUSED_REPLICAS_ANNOTATION)
    return Scaling(
        name=_text(metadata, "name"),
        namespace=_text(metadata, "namespace"),
        target=_text(_part(spec, "scaleTargetRef"), "name"),
        minimum=_number(spec, "minReplicaCount"),
        maximum=_number(spec, "maxReplicaCount", 100),
        is_paused=_text(annotations, PAUSED_ANNOTATION) == "true"
        or PAUSED_REPLICAS_ANNOTATION in annotations,
        held_replicas=int(held) if held.isdecimal() else None,
    )


def read_claim(found: Mapping[str, Any]) -> Claim:
    """Read a NodeClaim."""
    metadata = _part(found, "metadata")
    return Claim(
        name=_text(metadata, "name"),
        node_pool=_text(_part(metadata, "labels"), NODE_POOL_LABEL),
        instance_id=_instance(_text(_part(found, "status"), "providerID")),
        is_ready=has_condition(found, "Ready"),
        is_ending="deletionTimestamp" in metadata,
    )


def read_pod(found: Mapping[str, Any]) -> Pod:
    """Read a Pod."""
    metadata, status = _part(found, "metadata"), _part(found, "status")
    return Pod(
        name=_text(metadata, "name"),
        namespace=_text(metadata, "namespace"),
        node=_text(_part(found, "spec"), "nodeName"),
        phase=_text(status, "phase"),
        is_ready=has_condition(found, "Ready"),
        problem=_pod_problem(status),
    )


# Reasons of a container that waits for something that comes by itself.
_WAITING_WELL: Final = frozenset({"", "ContainerCreating", "PodInitializing"})


def _pod_problem(status: Mapping[str, Any]) -> str:
    """Find out why a pod does not run: no node takes it, or a container does not start or stay."""
    for condition in _items(status, "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return _because("no node takes it", _text(condition, "message"))
    for container in (*_items(status, "initContainerStatuses"), *_items(status, "containerStatuses")):
        waiting = _part(_part(container, "state"), "waiting")
        reason = _text(waiting, "reason")
        if reason in _WAITING_WELL:
            continue
        last = _part(_part(container, "lastState"), "terminated")
        ended = f"{_text(last, 'reason')}, exit code {_number(last, 'exitCode')}" if last else ""
        return _because(f"{_text(container, 'name')}: {reason}", ended or _text(waiting, "message"))
    return _because(_text(status, "reason"), _text(status, "message")) if _text(status, "reason") else ""


def _because(what: str, why: str) -> str:
    return f"{what} ({why})" if why else what


def named(found: Mapping[str, Any]) -> str:
    """Name an object, with its namespace before a slash where it has one."""
    metadata = _part(found, "metadata")
    return "/".join(filter(None, (_text(metadata, "namespace"), _text(metadata, "name"))))


def release_of(found: Mapping[str, Any]) -> ReleaseName:
    """Return the Helm release that installed an object, empty names where none did."""
    annotations = _part(_part(found, "metadata"), "annotations")
    return _text(annotations, RELEASE_NAMESPACE_ANNOTATION), _text(annotations, RELEASE_NAME_ANNOTATION)


def has_condition(found: Mapping[str, Any], name: str) -> bool:
    """Tell whether a condition of an object's status is true."""
    conditions = _items(_part(found, "status"), "conditions")
    return any(one.get("type") == name and one.get("status") == "True" for one in conditions)


def moment(text: str) -> datetime | None:
    """Read a time as Kubernetes writes it, `2026-11-22T10:00:00Z`; None where there is none."""
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _part(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = found.get(name)
    return value if isinstance(value, dict) else {}


def _items(found: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    value = found.get(name)
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(found: Mapping[str, Any], name: str) -> str:
    return str(found.get(name) or "")


def _number(found: Mapping[str, Any], name: str, default: int = 0) -> int:
    value = found.get(name)
    return value if isinstance(value, int) else default


def _instance(provider_id: str) -> str:
    """Return the instance of a provider id, `aws:///us-west-2a/i-0abc`."""
    return provider_id.rpartition("/")[2]
