"""What stands of a deployment, for its teardown: read from AWS and from its cluster, by its name alone.

The same reading serves a first teardown and one that takes up where another stopped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from sdctl.clients import kubernetes as k8s
from sdctl.clients.aws import Aws
from sdctl.clients.cloudformation import CloudFormation, StackState, StackView
from sdctl.clients.cluster_access import find_cluster
from sdctl.clients.ec2_remains import Ec2Remains
from sdctl.clients.eks import Eks
from sdctl.clients.instance_profiles import InstanceProfiles
from sdctl.clients.kubernetes import Kubernetes, connect
from sdctl.clients.kubernetes_http import KubernetesError, Object
from sdctl.clients.kubernetes_objects import ReleaseName, named, read_scaling, read_workload, release_of
from sdctl.clients.logs import Logs
from sdctl.clients.s3 import S3
from sdctl.clients.tagging import STACK_TAG, Tagging, is_named_after
from sdctl.errors import AwsError, ConflictError, SdctlError
from sdctl.render.runtime import runtime_stack_prefix

_READERS: Final = 8
# In these a cluster holds nothing, or nothing that could still be asked for.
_EMPTY_STATUSES: Final = frozenset({"CREATING", "DELETING", "FAILED"})


@dataclass(frozen=True, slots=True)
class Inside:
    """What runs in the cluster: names, with their namespace before a slash where they have one.

    `awake` are the ScaledObjects and Deployments of runtimes that are not held at no replica.
    """

    awake: tuple[str, ...] = ()
    node_pools: tuple[str, ...] = ()
    node_claims: tuple[str, ...] = ()
    node_classes: tuple[str, ...] = ()
    scaled_objects: tuple[str, ...] = ()
    releases: tuple[ReleaseName, ...] = ()
    runtime_releases: tuple[ReleaseName, ...] = ()


@dataclass(frozen=True, slots=True)
class ClusterSight:
    """A cluster from outside, and from inside where it could be asked: else `problem` says why not.

    `owner` is the deployment that its tag names.
    """

    status: str
    owner: str = ""
    is_protected: bool = False
    node_groups: tuple[str, ...] = ()
    inside: Inside | None = None
    problem: SdctlError | None = None


@dataclass(frozen=True, slots=True)
class BucketSight:
    """A bucket: where it is, whether it holds anything, whether the deployment made it."""

    region: str
    is_empty: bool
    is_own: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """What is there of a deployment.

    `stacks` are by name, `instances` those that Karpenter started, `orphans` the launch templates and
    instance profiles that it left. `buckets` and `snapshots` are those found and those asked for;
    `snapshots` maps each to its size in GiB and whether it is the deployment's.
    """

    stack_name: str
    stacks: Mapping[str, StackView] = field(default_factory=dict)
    cluster: ClusterSight | None = None
    instances: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    log_groups: tuple[str, ...] = ()
    buckets: Mapping[str, BucketSight] = field(default_factory=dict)
    snapshots: Mapping[str, tuple[int, bool]] = field(default_factory=dict)

    @property
    def own_cluster(self) -> ClusterSight | None:
        """The cluster, unless it is someone else's that happens to have the name."""
        is_own = self.cluster and (
            self.cluster.owner == self.stack_name or f"{self.stack_name}-cluster" in self.stacks
        )
        return self.cluster if is_own else None

    @property
    def own_instances(self) -> tuple[str, ...]:
        """The instances, unless they are of someone else's cluster of the name."""
        return self.instances if self.cluster is None or self.own_cluster else ()

    @property
    def own_orphans(self) -> tuple[str, ...]:
        """The launch templates and instance profiles, unless they are of someone else's cluster."""
        return self.orphans if self.cluster is None or self.own_cluster else ()

    @property
    def own_log_prefixes(self) -> tuple[str, ...]:
        """What the names of the deployment's log groups begin with."""
        of_cluster = (f"/aws/eks/{self.stack_name}/", f"/aws/containerinsights/{self.stack_name}/")
        is_own = self.cluster is None or self.own_cluster
        return (f"/aws/lambda/{self.stack_name}Stack-", *(of_cluster if is_own else ()))

    @property
    def own_log_groups(self) -> tuple[str, ...]:
        """The log groups, without those of someone else's cluster of the name."""
        return tuple(one for one in self.log_groups if one.startswith(self.own_log_prefixes))

    @property
    def is_nothing(self) -> bool:
        """Whether nothing is left that a teardown would look at, kept buckets and snapshots included."""
        snapshots = any(is_own for _, is_own in self.snapshots.values())
        buckets = any(one.is_own for one in self.buckets.values())
        return not (
            self.stacks or self.own_cluster or self.own_instances or self.own_orphans
            or self.own_log_groups or buckets or snapshots
        )  # fmt: skip


def observe_standing(
    aws: Aws,
    stack_name: str,
    *,
    environment: Mapping[str, str],
    skips_cluster: bool = False,
    buckets: tuple[str, ...] = (),
    snapshots: tuple[str, ...] = (),
) -> Standing:
    """Read what stands of a deployment.

    Args:
        aws: the session.
        stack_name: the deployment's name.
        environment: for the proxy on the way to the cluster.
        skips_cluster: do not speak to the cluster.
        buckets: names of further buckets to look at.
        snapshots: ids of further snapshots to look at.

    Raises:
        AwsError: AWS could not be asked.
    """
    remains = Ec2Remains(aws)
    with ThreadPoolExecutor(_READERS) as pool:
        stacks = pool.submit(own_stacks, aws, stack_name)
        cluster = pool.submit(_cluster, aws, stack_name, environment, skips_cluster)
        instances = pool.submit(remains.node_instances, stack_name)
        templates = pool.submit(remains.launch_templates, stack_name)
        profiles = pool.submit(InstanceProfiles(aws).of_cluster, stack_name)
        log_groups = pool.submit(Logs(aws).groups, Standing(stack_name).own_log_prefixes)
        found_buckets = pool.submit(_buckets, aws, stack_name, buckets)
        found_snapshots = pool.submit(_snapshots, remains, stack_name, snapshots)
    return Standing(
        stack_name,
        stacks=stacks.result(),
        cluster=cluster.result(),
        instances=tuple(one.id for one in instances.result()),
        orphans=(*templates.result(), *profiles.result()),
        log_groups=log_groups.result(),
        buckets=found_buckets.result(),
        snapshots=found_snapshots.result(),
    )


def own_stacks(aws: Aws, stack_name: str) -> dict[str, StackView]:
    """Return the stacks of a deployment by name: those with its tag.

    An unexecuted first change set leaves a stack without tags: it is known by its name.
    """
    names = {f"{stack_name}{suffix}" for suffix in ("Stack", "-cluster", "-network")}
    prefix = runtime_stack_prefix(stack_name)

    def is_own(stack: StackView) -> bool:
        is_shell = stack.state is StackState.ABSENT and not stack.tags
        is_named = stack.name in names or stack.name.startswith(prefix)
        return stack.tags.get(STACK_TAG) == stack_name or (is_shell and is_named)

    return {one.name: one for one in CloudFormation(aws).all() if is_own(one)}


def _buckets(aws: Aws, stack_name: str, more: tuple[str, ...]) -> dict[str, BucketSight]:
    s3, tagging = S3(aws), Tagging(aws)
    found = {}
    tagged = (one.id for one in tagging.tagged(STACK_TAG, stack_name, "s3"))
    for name in dict.fromkeys((*tagging.buckets(stack_name), *tagged, *more)):
        region = s3.bucket_region(name)
        if region == aws.region:
            is_own = is_named_after(stack_name, name) or tagging.bucket_owner(name) == stack_name
            found[name] = BucketSight(region, not s3.has_objects(name), is_own)
    return found


def _snapshots(remains: Ec2Remains, stack_name: str, more: tuple[str, ...]) -> dict[str, tuple[int, bool]]:
    found = remains.snapshots(tag=(STACK_TAG, stack_name)) + (remains.snapshots(more) if more else [])
    return {one.id: (one.size_gib, one.tags.get(STACK_TAG) in (stack_name, None)) for one in found}


def _cluster(
    aws: Aws, stack_name: str, environment: Mapping[str, str], skips_cluster: bool
) -> ClusterSight | None:
    eks = Eks(aws)
    cluster = eks.cluster(stack_name)
    if cluster is None:
        return None
    inside: Inside | None = None
    problem: SdctlError | None = None
    if not skips_cluster and cluster.status not in _EMPTY_STATUSES:
        try:
            with connect(aws, find_cluster(aws, stack_name), environment=environment) as kubernetes:
                inside = read_inside(kubernetes)
        except (KubernetesError, AwsError, ConflictError) as error:
            problem = error
    return ClusterSight(
        cluster.status, cluster.tags.get(STACK_TAG, ""), cluster.is_protected, eks.node_groups(stack_name),
        inside=inside, problem=problem,
    )  # fmt: skip


def read_inside(kubernetes: Kubernetes) -> Inside:
    """Read what of a deployment runs in its cluster."""
    scaled = kubernetes.list(k8s.SCALED_OBJECTS)
    pools, claims = kubernetes.list(k8s.NODE_POOLS), kubernetes.list(k8s.NODE_CLAIMS)
    classes = kubernetes.list(k8s.NODE_CLASSES)
    secrets = kubernetes.list(k8s.SECRETS, labels="owner=helm", only_metadata=True)
    installed = {(one["metadata"]["namespace"], one["metadata"]["labels"]["name"]) for one in secrets}
    runtimes = {release for one in (*scaled, *pools, *classes) if (release := release_of(one)) in installed}
    return Inside(
        awake=tuple(_awake(scaled, kubernetes.list(k8s.DEPLOYMENTS), frozenset(runtimes))),
        node_pools=_names(pools),
        node_claims=_names(claims),
        node_classes=_names(classes),
        scaled_objects=_names(scaled),
        releases=tuple(sorted(installed)),
        runtime_releases=tuple(sorted(runtimes)),
    )


def runtime_workloads(
    scaled: Iterable[Object], deployments: Iterable[Object], releases: frozenset[ReleaseName]
) -> Iterator[Object]:
    """Yield the Deployments of runtimes: those that are scaled, and those of a runtime's release."""
    targets = {(one.namespace, one.target) for one in map(read_scaling, scaled)}
    for found in deployments:
        where = found["metadata"]["namespace"], found["metadata"]["name"]
        if where in targets or release_of(found) in releases:
            yield found


def _awake(
    scaled: list[Object], deployments: list[Object], releases: frozenset[ReleaseName]
) -> Iterator[str]:
    yield from (named(one) for one in scaled if read_scaling(one).held_replicas != 0)
    workloads = runtime_workloads(scaled, deployments, releases)
    yield from (named(one) for one in workloads if read_workload(one).wanted > 0)


def _names(found: Iterable[Object]) -> tuple[str, ...]:
    return tuple(sorted(map(named, found)))
