"""What stands of a deployment to the plan of its teardown, pure; the deploy's executor carries it out.

Who can only be let go by something else goes before it: nodes before Karpenter, ScaledObjects before KEDA,
what hangs on the cluster or on the front before these. The plan is made from what is still there, so an
interrupted teardown is resumed by planning again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from sdctl.deploy.drain_steps import (
    HinderedStackStep,
    InstancesStep,
    LogGroupsStep,
    NodeClassesStep,
    NodePoolsStep,
    OrphansStep,
    ProtectionStep,
    ScaledObjectsStep,
    ScaleInStep,
    SnapshotStep,
    SystemNodesStep,
)
from sdctl.deploy.standing import ClusterSight, Inside, Standing
from sdctl.deploy.steps import Action, BucketStep, Plan, ReleaseStep, StackStep, Step
from sdctl.errors import RemoteError, UsageError
from sdctl.releases import Chart, Release
from sdctl.render.runtime import runtime_stack_prefix

KEDA: Final = "keda"
KARPENTER: Final = "karpenter"
KARPENTER_CRDS: Final = "karpenter-crd"
GPU_EXPORTER: Final = "dcgm-exporter"
# A part of the name that CloudFormation gives the front's bucket, which it shortens where it is long.
OUTPUT_BUCKET_PART: Final = "-outputbucket-"
SHOWN_NAMES: Final = 4
# How long things take, by experience with EKS and EC2; for the estimate alone.
_MINUTES: Final = {
    "scale-in": 2.0, "node-pools": 3.0, "node-classes": 0.5, "release": 0.5, "system-nodes": 5.0,
    "instances": 2.0, "cluster": 14.0, "front": 2.0, "network": 2.0, "runtime": 1.0, "option": 1.0,
}  # fmt: skip


class ClusterUnreachableError(RemoteError):
    """The cluster cannot be asked what runs in it."""

    code = "cluster_unreachable"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a teardown is asked for beyond the plain one: these buckets and snapshots go too.

    `skips_cluster` leaves the cluster alone that cannot be spoken to: its nodes are ended through EC2.
    """

    buckets: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    skips_cluster: bool = False


def plan_destroy(standing: Standing, wishes: Wishes | None = None) -> Plan:
    """Plan how a deployment goes. Buckets with images or models, and snapshots, stay unless named.

    Raises:
        ClusterUnreachableError: the cluster is there, but cannot be asked what runs in it.
        UsageError: a bucket or snapshot is to go that is not the deployment's.
    """
    wishes = wishes or Wishes()
    refuse_strangers(standing, wishes)
    cluster = standing.own_cluster
    inside = _inside(cluster, wishes, standing.stack_name)
    steps = [
        *_cluster_steps(standing, cluster, inside, wishes),
        *_runtime_stacks(standing),
    ]
    steps = [*steps, *_main_stacks(standing, steps)]
    steps += _beside_the_stacks(standing, wishes, [step.id for step in steps])
    return Plan(tuple(_settled(steps)))


def refuse_strangers(standing: Standing, wishes: Wishes) -> None:
    """Refuse to delete what is not the deployment's, or is elsewhere."""
    for name in wishes.buckets:
        sight = standing.buckets.get(name)
        if sight is not None and not sight.is_own:
            raise UsageError(
                f"the bucket {name} is not {standing.stack_name}'s: neither its name nor its tags say so",
                hint="leave it out; a bucket that you brought along stays yours",
            )
    for snapshot_id in wishes.snapshots:
        _, is_own = standing.snapshots.get(snapshot_id, (0, True))
        if not is_own:
            raise UsageError(f"the snapshot {snapshot_id} is another deployment's", hint="leave it out")


def kept(standing: Standing, wishes: Wishes) -> tuple[str, ...]:
    """Name the buckets and snapshots that a teardown leaves."""
    doomed = {step.name for step in _buckets(standing, wishes) if step.action == "delete"}
    snapshots = (one for one, (_, is_own) in standing.snapshots.items() if is_own)
    left = (*standing.buckets, *snapshots)
    return tuple(one for one in left if one not in doomed and one not in wishes.snapshots)


def _inside(cluster: ClusterSight | None, wishes: Wishes, stack_name: str) -> Inside:
    if cluster is None or wishes.skips_cluster:
        return Inside()
    if cluster.problem is not None:
        raise ClusterUnreachableError(
            f"the cluster {stack_name} cannot be asked what runs in it: {cluster.problem.message}",
            hint=f"{cluster.problem.hint or 'mend that'}; or --skip-cluster: its nodes end through EC2",
        )
    return cluster.inside or Inside()


def _cluster_steps(
    standing: Standing, cluster: ClusterSight | None, inside: Inside, wishes: Wishes
) -> Iterator[Step]:
    """Yield what is done in the cluster and to its nodes, in order."""
    name = standing.stack_name
    if cluster is not None and cluster.is_protected:
        yield ProtectionStep(id="protection", action="update", detail=f"of the cluster {name}", cluster=name)
    runtimes = [
        one
        for one in inside.releases
        if one in inside.runtime_releases or f"{runtime_stack_prefix(name)}{one[1]}" in standing.stacks
    ]
    yield ScaleInStep(
        id="scale-in", action="update" if inside.awake else "none",
        detail=_listed(inside.awake, "no runtime that scales or runs"), cluster=name,
        releases=tuple(runtimes), minutes=_MINUTES["scale-in"],
    )  # fmt: skip
    pools = (*inside.node_pools, *inside.node_claims)
    yield NodePoolsStep(
        id="node-pools", action=_delete_if(pools), needs=("scale-in",),
        detail=_listed(pools, "no node pool or claim"), cluster=name, minutes=_MINUTES["node-pools"],
    )  # fmt: skip
    yield NodeClassesStep(
        id="node-classes", action=_delete_if(inside.node_classes), needs=("node-pools",),
        detail=_listed(inside.node_classes, "no node class"), cluster=name,
        minutes=_MINUTES["node-classes"],
    )  # fmt: skip
    yield from _releases(inside, runtimes, name)
    if wishes.skips_cluster and cluster is not None:
        yield SystemNodesStep(
            id="system-nodes", action=_delete_if(cluster.node_groups),
            detail=_listed(cluster.node_groups, "no node group"), cluster=name,
            minutes=_MINUTES["system-nodes"],
        )  # fmt: skip
    yield InstancesStep(
        id="instances", action=_delete_if(standing.own_instances), needs=("node-pools", "system-nodes"),
        detail=_listed(standing.own_instances, "no instance that Karpenter started"), cluster=name,
        minutes=_MINUTES["instances"],
    )  # fmt: skip
    # A node that starts meanwhile leaves some too.
    nodes = (*pools, *inside.node_classes, *standing.own_instances)
    kinds = "launch templates and instance profiles"
    yield OrphansStep(
        id="orphans", action=_delete_if((*standing.own_orphans, *nodes)),
        needs=("node-classes", "instances", f"release-{KARPENTER}"),
        detail=_listed(standing.own_orphans, f"{kinds} that nodes leave" if nodes else f"no {kinds}"),
        cluster=name,
    )  # fmt: skip


def _releases(inside: Inside, runtimes: list[tuple[str, str]], cluster: str) -> Iterator[Step]:
    """Yield the releases that go: runtimes, then what let go of their objects. Others go with the cluster."""
    for namespace, name in runtimes:
        yield _release(namespace, name, ("node-classes",))
    gone = tuple(f"release-{name}" for _, name in runtimes)
    yield ScaledObjectsStep(
        id="scaled-objects", action=_delete_if(inside.scaled_objects), needs=("scale-in", *gone),
        detail=_listed(inside.scaled_objects, "no ScaledObject"), cluster=cluster,
    )  # fmt: skip
    order = {
        KEDA: ("scaled-objects",),
        GPU_EXPORTER: gone,
        KARPENTER: ("node-classes", *gone),
        KARPENTER_CRDS: (f"release-{KARPENTER}", "node-classes"),
    }
    for third, needs in order.items():
        yield from (_release(namespace, name, needs) for namespace, name in inside.releases if name == third)


def _release(namespace: str, name: str, needs: tuple[str, ...]) -> ReleaseStep:
    return ReleaseStep(
        id=f"release-{name}", action="delete", needs=needs, detail=f"{name} in {namespace}",
        release=Release(name, namespace, Chart("")), minutes=_MINUTES["release"],
    )  # fmt: skip


def _runtime_stacks(standing: Standing) -> Iterator[Step]:
    prefix = runtime_stack_prefix(standing.stack_name)
    for name in standing.stacks:
        if name.startswith(prefix):
            runtime = name.removeprefix(prefix)
            yield _stack(f"runtime-{runtime}", name, ("scale-in", f"release-{runtime}"), "runtime")


def _main_stacks(standing: Standing, before: Iterable[Step]) -> Iterator[Step]:
    """Yield the stacks that runtimes hang on, and those of options, which stand alone."""
    stack_name, earlier = standing.stack_name, tuple(step.id for step in before)
    front, cluster, network = f"{stack_name}Stack", f"{stack_name}-cluster", f"{stack_name}-network"
    runtimes = tuple(one for one in earlier if one.startswith("runtime-"))
    if front in standing.stacks:
        yield _stack("front", front, runtimes, "front")
    if cluster in standing.stacks:
        step = _stack("cluster", cluster, earlier, "cluster")
        yield _hindered(step, stack_name)
    if network in standing.stacks:
        step = _stack("network", network, ("instances", "cluster"), "network")
        yield _hindered(step, stack_name, standing.stacks[network].outputs.get("VpcId", ""))
    for name in standing.stacks:
        if name not in (front, cluster, network) and not name.startswith(runtime_stack_prefix(stack_name)):
            yield _stack(name.removeprefix(f"{stack_name}-"), name, (), "option")


def _stack(step_id: str, name: str, needs: tuple[str, ...], of: str) -> StackStep:
    return StackStep(id=step_id, action="delete", needs=needs, detail=name, name=name, minutes=_MINUTES[of])


def _hindered(step: StackStep, cluster: str, vpc_id: str = "") -> HinderedStackStep:
    return HinderedStackStep(
        id=step.id, action=step.action, needs=step.needs, detail=step.detail, name=step.name,
        minutes=step.minutes, cluster=cluster, vpc_id=vpc_id,
    )  # fmt: skip


def _beside_the_stacks(standing: Standing, wishes: Wishes, stacks: list[str]) -> Iterator[Step]:
    """Yield what no stack holds. The asset bucket is the last to go: the deployment's lock lies in it."""
    groups = standing.own_log_groups
    yield LogGroupsStep(
        id="log-groups", action=_delete_if(groups), needs=("front", "cluster"),
        detail=_listed(groups, "no log group"), prefixes=standing.own_log_prefixes,
    )  # fmt: skip
    last = ["log-groups"]
    for snapshot_id in wishes.snapshots:
        is_there = snapshot_id in standing.snapshots
        yield SnapshotStep(
            id=f"snapshot-{snapshot_id}", action="delete" if is_there else "none", needs=("instances",),
            detail=snapshot_id if is_there else f"{snapshot_id} is gone already", snapshot_id=snapshot_id,
        )  # fmt: skip
        last.append(f"snapshot-{snapshot_id}")
    for step in _buckets(standing, wishes):
        is_last = step.id == ASSET_BUCKET
        yield replace(step, needs=(*stacks, *last) if is_last else tuple(stacks))
        last.append(step.id)


ASSET_BUCKET: Final = "asset-bucket"


def _buckets(standing: Standing, wishes: Wishes) -> list[BucketStep]:
    steps = []
    for name, sight in standing.buckets.items():
        purpose = _purpose(standing.stack_name, name)
        is_doomed = purpose == "assets" or name in wishes.buckets or (purpose == "output" and sight.is_empty)
        # Of outputs there may be several: each deployment of the name leaves its own.
        step_id = ASSET_BUCKET if purpose == "assets" else f"bucket-{name}"
        detail = name if is_doomed else f"{name} stays"
        action: Action = "delete" if is_doomed else "none"
        steps.append(BucketStep(id=step_id, action=action, detail=detail, name=name))
    return sorted(steps, key=lambda step: step.id == ASSET_BUCKET)


def _purpose(stack_name: str, bucket: str) -> str:
    """Tell what a bucket of the deployment is for, by its name: `assets`, `output`, or neither."""
    lower = stack_name.lower()
    if bucket.startswith(f"{lower[:32].strip('-')}-assets-"):
        return "assets"
    return "output" if OUTPUT_BUCKET_PART in bucket else ""


def _settled(steps: list[Step]) -> Iterator[Step]:
    """Drop the needs for steps that the plan does not have."""
    known = {step.id for step in steps}
    for step in steps:
        yield replace(step, needs=tuple(dict.fromkeys(one for one in step.needs if one in known)))


def _delete_if(names: Iterable[str]) -> Action:
    return "delete" if any(True for _ in names) else "none"


def _listed(names: Iterable[str], none: str) -> str:
    """Name the first few of many; where there is none, say what was looked for."""
    listed = tuple(dict.fromkeys(names))
    more = f" and {len(listed) - SHOWN_NAMES} more" if len(listed) > SHOWN_NAMES else ""
    return ", ".join(listed[:SHOWN_NAMES]) + more if listed else none
