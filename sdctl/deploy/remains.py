"""Carrying out a teardown's steps outside the cluster: instances, and what no stack holds or lets go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from sdctl.clients.ec2_remains import Ec2Remains
from sdctl.clients.eks import Eks
from sdctl.clients.instance_profiles import InstanceProfiles
from sdctl.clients.logs import Logs
from sdctl.clients.tagging import Tagging
from sdctl.deploy.context import StepContext
from sdctl.deploy.drain_steps import (
    HinderedStackStep,
    InstancesStep,
    LogGroupsStep,
    OrphansStep,
    ProtectionStep,
    SnapshotStep,
    SystemNodesStep,
)
from sdctl.deploy.stack_steps import carry_out_stack
from sdctl.deploy.steps import Step
from sdctl.errors import DeployFailedError

INSTANCES_SECONDS: Final = 900
NODE_GROUPS_SECONDS: Final = 1800
PROTECTION_SECONDS: Final = 300
# What the end of a node leaves is free a moment later; a stack is tried again as often.
ATTEMPTS: Final = 3
PAUSE_SECONDS: Final = 20.0
# Load balancers that a Service or an Ingress made: https://kubernetes-sigs.github.io/aws-load-balancer-controller/
_LOAD_BALANCER_TAG: Final = "elbv2.k8s.aws/cluster"
_LOAD_BALANCERS: Final = "elasticloadbalancing:loadbalancer"


def allow_deletion(step: ProtectionStep, context: StepContext) -> None:
    """Switch the cluster's deletion protection off."""
    eks = Eks(context.aws)
    eks.unprotect(step.cluster)

    def probe() -> bool | None:
        cluster = eks.cluster(step.cluster)
        return True if cluster is None or not cluster.is_protected else None

    context.waiting("EKS to switch the deletion protection off")
    context.poll(
        probe, awaited=f"the cluster {step.cluster} to be unprotected", timeout_seconds=PROTECTION_SECONDS
    )


def delete_system_nodes(step: SystemNodesStep, context: StepContext) -> None:
    """Delete the node groups: Karpenter ends with them, and can start no node any more."""
    eks = Eks(context.aws)
    for name in eks.node_groups(step.cluster):
        eks.delete_node_group(step.cluster, name)
    left: list[str] = []

    def probe() -> bool | None:
        left[:] = eks.node_groups(step.cluster)
        return None if left else True

    context.waiting("EKS to drain and delete the node groups")
    context.poll(
        probe, awaited="the end of the node groups", timeout_seconds=NODE_GROUPS_SECONDS,
        state=lambda: ", ".join(left),
    )  # fmt: skip


def end_instances(step: InstancesStep, context: StepContext) -> None:
    """Terminate the instances that Karpenter started and did not end, and wait until all are terminated."""
    ec2 = Ec2Remains(context.aws)
    last: list[str] = []

    def probe() -> bool | None:
        found = ec2.node_instances(step.cluster)
        ec2.terminate(one.id for one in found if not one.is_ending)
        if found and len(found) != len(last):
            context.waiting(f"{len(found)} instance{'s' if len(found) > 1 else ''} to be terminated")
        last[:] = [f"{one.id} {one.state}" for one in found]
        return None if found else True

    context.poll(
        probe, awaited="the end of the GPU nodes' instances", timeout_seconds=INSTANCES_SECONDS,
        state=lambda: f"{len(last)} left: {', '.join(last[:5])}",
    )  # fmt: skip


def delete_orphans(step: OrphansStep, context: StepContext) -> None:
    """Delete Karpenter's launch templates and instance profiles."""
    ec2, profiles = Ec2Remains(context.aws), InstanceProfiles(context.aws)
    for template_id in ec2.launch_templates(step.cluster):
        ec2.delete_launch_template(template_id)
    for name in profiles.of_cluster(step.cluster):
        profiles.delete(name)


def delete_hindered_stack(step: HinderedStackStep, context: StepContext) -> None:
    """Delete a stack, and free it of network interfaces that nodes left behind where that is in the way.

    The VPC CNI leaves interfaces when a node ends suddenly, and security groups and subnets cannot go before
    them: https://github.com/aws/amazon-vpc-cni-k8s/issues/1223

    Raises:
        DeployFailedError: it failed for another reason, or again; names load balancers and security groups
            that are in the way.
    """
    for attempt in range(1, ATTEMPTS + 1):
        free_interfaces(step, context)
        try:
            carry_out_stack(step, context)
        except DeployFailedError as error:
            view = context.cloudformation.find(step.name)
            if view is None or view.status != "DELETE_FAILED":
                raise
            if attempt == ATTEMPTS:
                raise _hindered(error, step, context) from error
            context.waiting("what the nodes left in the network to be free")
            context.clock.sleep(PAUSE_SECONDS)
        else:
            return


def free_interfaces(step: HinderedStackStep, context: StepContext) -> None:
    """Delete the idle network interfaces that hold a stack."""
    ec2 = Ec2Remains(context.aws)
    for interface_id in ec2.idle_interfaces(step.cluster):
        ec2.delete_interface(interface_id)


def _hindered(error: DeployFailedError, step: HinderedStackStep, context: StepContext) -> DeployFailedError:
    """Name what may be in the way: what Services and Ingresses made, and groups that nobody's stack holds."""
    tagging = Tagging(context.aws)
    owners = ((_LOAD_BALANCER_TAG, step.cluster), (f"kubernetes.io/cluster/{step.cluster}", "owned"))
    found = (one for key, value in owners for one in tagging.tagged(key, value, _LOAD_BALANCERS))
    names = {f"load balancer {one.id}" for one in found}
    if step.vpc_id:
        names |= set(Ec2Remains(context.aws).obstacles(step.vpc_id))
    if not names:
        return error
    listed = "\n".join(f"  {name}" for name in sorted(names))
    return DeployFailedError(
        f"{error.message}\nin the way may be:\n{listed}", hint="delete these, then run sdctl destroy again"
    )


def delete_log_groups(step: LogGroupsStep, context: StepContext) -> None:
    """Delete the log groups with the step's prefixes."""
    logs = Logs(context.aws)
    for name in logs.groups(step.prefixes):
        logs.delete_group(name)


def delete_snapshot(step: SnapshotStep, context: StepContext) -> None:
    """Delete a snapshot."""
    Ec2Remains(context.aws).delete_snapshot(step.snapshot_id)


REMAINS_HANDLERS: Final[dict[type[Step], Callable[[Any, StepContext], None]]] = {
    ProtectionStep: allow_deletion,
    SystemNodesStep: delete_system_nodes,
    InstancesStep: end_instances,
    OrphansStep: delete_orphans,
    HinderedStackStep: delete_hindered_stack,
    LogGroupsStep: delete_log_groups,
    SnapshotStep: delete_snapshot,
}
