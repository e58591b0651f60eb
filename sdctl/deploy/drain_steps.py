"""The steps that only a teardown has, as data: what runs in the cluster, and what nobody's stack holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from sdctl.deploy.steps import StackStep, Step


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterStep(Step):
    """A step about a cluster, which is named as the deployment."""

    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtectionStep(ClusterStep):
    """Allow the cluster to be deleted. A stack's protection is its own step's."""

    kind: ClassVar[str] = "protection"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleInStep(ClusterStep):
    """Take the runtimes down to no pod and keep them there, so that running tasks are handed back.

    `releases` are the runtimes' Helm releases as (namespace, name).
    """

    kind: ClassVar[str] = "scale-in"
    releases: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePoolsStep(ClusterStep):
    """Delete the node pools while Karpenter is there to end their nodes."""

    kind: ClassVar[str] = "node-pools"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeClassesStep(ClusterStep):
    """Delete the node classes while Karpenter is there to remove their instance profiles."""

    kind: ClassVar[str] = "node-classes"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaledObjectsStep(ClusterStep):
    """Delete the ScaledObjects that no release took along while KEDA is there to let them go."""

    kind: ClassVar[str] = "scaled-objects"


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemNodesStep(ClusterStep):
    """Delete the node groups, and Karpenter with them, where the cluster itself is not spoken to."""

    kind: ClassVar[str] = "system-nodes"


@dataclass(frozen=True, slots=True, kw_only=True)
class InstancesStep(ClusterStep):
    """Wait until the instances that Karpenter started are terminated; terminate what it left running."""

    kind: ClassVar[str] = "instances"


@dataclass(frozen=True, slots=True, kw_only=True)
class OrphansStep(ClusterStep):
    """Delete the launch templates and instance profiles that Karpenter left."""

    kind: ClassVar[str] = "orphans"


@dataclass(frozen=True, slots=True, kw_only=True)
class HinderedStackStep(StackStep):
    """Delete a stack that network interfaces which nodes left may be in the way of.

    `vpc_id` is the stack's own VPC, where it has one: what else is in it is named if the deletion fails.
    """

    cluster: str
    vpc_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogGroupsStep(Step):
    """Delete log groups: EKS and Lambda make them again when something is logged after their deletion."""

    kind: ClassVar[str] = "log-groups"
    prefixes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SnapshotStep(Step):
    """Delete an image cache, which ends its fast restore as well."""

    kind: ClassVar[str] = "snapshot"
    snapshot_id: str
