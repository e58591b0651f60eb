"""The plan of a teardown: what goes before what, what stays, and that any beginning of it can be resumed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sdctl.clients.cloudformation import StackView
from sdctl.deploy.drain_steps import (
    HinderedStackStep,
    InstancesStep,
    LogGroupsStep,
    NodeClassesStep,
    NodePoolsStep,
    OrphansStep,
    ScaledObjectsStep,
    ScaleInStep,
    SnapshotStep,
    SystemNodesStep,
)
from sdctl.deploy.standing import BucketSight, ClusterSight, Inside, Standing
from sdctl.deploy.steps import BucketStep, Plan, ReleaseStep, StackStep, Step
from sdctl.deploy.teardown import ClusterUnreachableError, Wishes, kept, plan_destroy
from sdctl.errors import RemoteError, UsageError

ASSETS, OUTPUTS, MODELS = "farm-assets-0123456789", "farmstack-outputbucket-1", "farm-model-bucket-0123"
INSIDE = Inside(
    awake=("sd/sd", "comfy/comfy"),
    node_pools=("comfy", "sd"),
    node_claims=("sd-1",),
    node_classes=("comfy", "sd"),
    scaled_objects=("comfy/comfy", "sd/sd"),
    releases=(
        ("comfy", "comfy"), ("elsewhere", "prometheus"), ("keda", "keda"), ("kube-system", "karpenter"),
        ("kube-system", "karpenter-crd"), ("sd", "sd"),
    ),
    runtime_releases=(("comfy", "comfy"),),
)  # fmt: skip


def stack(name: str, **outputs: str) -> StackView:
    return StackView(name, f"arn:{name}", "CREATE_COMPLETE", outputs=outputs)


def full(**changes: Any) -> Standing:
    names = ("farmStack", "farm-cluster", "farm-runtime-sd", "farm-runtime-comfy", "farm-budget")
    stacks = {name: stack(name) for name in names} | {"farm-network": stack("farm-network", VpcId="vpc-1")}
    standing = Standing(
        "farm",
        stacks=stacks,
        cluster=ClusterSight("ACTIVE", "farm", node_groups=("system",), inside=INSIDE),
        instances=("i-1",),
        orphans=("lt-1",),
        log_groups=("/aws/eks/farm/cluster", "/aws/lambda/farmStack-api"),
        buckets={
            ASSETS: BucketSight("us-west-2", is_empty=False, is_own=True),
            OUTPUTS: BucketSight("us-west-2", is_empty=False, is_own=True),
            MODELS: BucketSight("us-west-2", is_empty=True, is_own=True),
        },
        snapshots={"snap-1": (100, True)},
    )
    return replace(standing, **changes)


def before(plan: Plan, step_id: str) -> set[str]:
    """Everything that is done by the time a step begins."""
    needs = {step.id: step.needs for step in plan}
    found: set[str] = set()
    waiting = list(needs[step_id])
    while waiting:
        one = waiting.pop()
        if one not in found:
            found.add(one)
            waiting += needs[one]
    return found


def actions(plan: Plan) -> dict[str, str]:
    return {step.id: step.action for step in plan}


def test_what_lets_something_go_goes_after_it() -> None:
    plan = plan_destroy(full())
    ids = [step.id for step in plan]
    assert len(ids) == len(set(ids))
    assert all(set(step.needs) <= set(ids) for step in plan)
    for earlier, later in (
        ("scale-in", "node-pools"), ("node-pools", "node-classes"), ("node-classes", "release-sd"),
        ("node-classes", "release-karpenter"), ("release-karpenter", "release-karpenter-crd"),
        ("release-sd", "release-keda"), ("scaled-objects", "release-keda"), ("release-sd", "scaled-objects"),
        ("node-pools", "instances"), ("instances", "orphans"), ("release-karpenter", "orphans"),
        ("release-sd", "runtime-sd"), ("runtime-sd", "front"), ("runtime-sd", "cluster"),
        ("release-keda", "cluster"), ("orphans", "cluster"), ("cluster", "network"),
        ("cluster", "log-groups"),
        ("network", "asset-bucket"), ("log-groups", "asset-bucket"),
    ):  # fmt: skip
        assert earlier in before(plan, later), (earlier, later)


def test_a_step_that_finds_nothing_says_what_it_looked_for() -> None:
    details = {step.id: step.detail for step in plan_destroy(full(orphans=(), log_groups=()))}
    assert details["orphans"] == "launch templates and instance profiles that nodes leave"
    assert details["log-groups"] == "no log group"
    nothing = plan_destroy(Standing("farm", stacks={"farmStack": stack("farmStack")}))
    details = {step.id: step.detail for step in nothing if step.action == "none"}
    assert details["orphans"] == "no launch templates and instance profiles"
    assert all(detail.startswith("no ") for detail in details.values()), details


def test_front_and_cluster_go_at_the_same_time_and_options_at_any() -> None:
    plan = plan_destroy(full())
    assert "cluster" not in before(plan, "front")
    assert "front" not in before(plan, "cluster")
    assert before(plan, "budget") == set()


def test_a_users_own_release_goes_with_the_cluster() -> None:
    assert "release-prometheus" not in actions(plan_destroy(full()))


def test_a_release_is_a_runtimes_by_its_stack_or_by_what_it_installed() -> None:
    step = next(step for step in plan_destroy(full()) if isinstance(step, ScaleInStep))
    assert step.releases == (("comfy", "comfy"), ("sd", "sd"))


def test_pictures_models_and_snapshots_stay_unless_named() -> None:
    plan = plan_destroy(full())
    assert actions(plan)[f"bucket-{OUTPUTS}"] == "none"
    assert actions(plan)[f"bucket-{MODELS}"] == "none"
    assert actions(plan)["asset-bucket"] == "delete"
    assert kept(full(), Wishes()) == (OUTPUTS, MODELS, "snap-1")
    wishes = Wishes(buckets=(OUTPUTS,), snapshots=("snap-1",))
    plan = plan_destroy(full(), wishes)
    assert (actions(plan)[f"bucket-{OUTPUTS}"], actions(plan)["snapshot-snap-1"]) == ("delete", "delete")
    assert kept(full(), wishes) == (MODELS,)


def test_an_output_bucket_without_pictures_goes() -> None:
    empty = full(buckets={OUTPUTS: BucketSight("us-west-2", is_empty=True, is_own=True)})
    assert actions(plan_destroy(empty))[f"bucket-{OUTPUTS}"] == "delete"


def test_somebody_elses_bucket_or_snapshot_is_refused() -> None:
    brought = {"my-models": BucketSight("us-west-2", is_empty=False, is_own=False)}
    with pytest.raises(UsageError, match="the bucket my-models is not farm's"):
        plan_destroy(full(buckets=brought), Wishes(buckets=("my-models",)))
    with pytest.raises(UsageError, match="the snapshot snap-2 is another deployment's"):
        plan_destroy(full(snapshots={"snap-2": (1, False)}), Wishes(snapshots=("snap-2",)))


def test_what_is_named_and_gone_already_is_no_error() -> None:
    plan = plan_destroy(full(), Wishes(buckets=("farm-assets-gone",), snapshots=("snap-9",)))
    assert actions(plan)["snapshot-snap-9"] == "none"
    assert "bucket-farm-assets-gone" not in actions(plan)


def test_a_cluster_that_does_not_answer_is_an_error_that_names_the_way_around() -> None:
    silent = ClusterSight("ACTIVE", "farm", problem=RemoteError("no answer", hint="sdctl doctor"))
    with pytest.raises(
        ClusterUnreachableError, match="farm cannot be asked what runs in it: no answer"
    ) as it:
        plan_destroy(full(cluster=silent))
    assert it.value.hint == "sdctl doctor; or --skip-cluster: its nodes end through EC2"
    assert it.value.exit_code == 5


def test_without_the_cluster_karpenter_ends_with_its_nodes_before_the_instances_do() -> None:
    silent = ClusterSight("ACTIVE", "farm", node_groups=("system",), problem=RemoteError("no answer"))
    plan = plan_destroy(full(cluster=silent), Wishes(skips_cluster=True))
    found = actions(plan)
    assert (found["system-nodes"], found["instances"], found["orphans"]) == ("delete", "delete", "delete")
    assert (found["scale-in"], found["node-pools"]) == ("none", "none")
    assert not any(step.id.startswith("release-") for step in plan)
    assert "system-nodes" in before(plan, "instances")
    assert "instances" in before(plan, "cluster")


def test_somebody_elses_cluster_of_the_name_is_left_alone() -> None:
    stacks = {"farmStack": stack("farmStack")}
    plan = plan_destroy(full(stacks=stacks, cluster=ClusterSight("ACTIVE", "", inside=INSIDE)))
    assert {step.id for step in plan.changes} == {"front", "log-groups", "asset-bucket"}
    groups = next(step for step in plan if isinstance(step, LogGroupsStep))
    assert groups.prefixes == ("/aws/lambda/farmStack-",)
    assert groups.detail == "/aws/lambda/farmStack-api"


def test_a_protected_cluster_is_freed_first() -> None:
    plan = plan_destroy(full(cluster=ClusterSight("ACTIVE", "farm", is_protected=True, inside=INSIDE)))
    assert actions(plan)["protection"] == "update"
    assert "protection" in before(plan, "cluster")


def test_nothing_left_is_nothing_to_do() -> None:
    assert plan_destroy(Standing("farm")).changes == ()
    assert Standing("farm").is_nothing
    assert not full().is_nothing


def test_many_names_are_shown_as_a_few() -> None:
    plan = plan_destroy(full(instances=tuple(f"i-{number}" for number in range(7))))
    step = next(step for step in plan if isinstance(step, InstancesStep))
    assert step.detail == "i-0, i-1, i-2, i-3 and 3 more"


def inside(standing: Standing, **changes: Any) -> Standing:
    assert standing.cluster is not None
    assert standing.cluster.inside is not None
    return replace(
        standing, cluster=replace(standing.cluster, inside=replace(standing.cluster.inside, **changes))
    )


def after(standing: Standing, step: Step) -> Standing:
    """What stands once a step is done."""
    match step:
        case ScaleInStep():
            return inside(standing, awake=())
        case NodePoolsStep():
            return replace(inside(standing, node_pools=(), node_claims=()), instances=())
        case NodeClassesStep():
            return inside(standing, node_classes=())
        case ScaledObjectsStep():
            return inside(standing, scaled_objects=())
        case ReleaseStep():
            assert standing.cluster is not None
            assert standing.cluster.inside is not None
            gone = (step.release.namespace, step.release.name)
            found = standing.cluster.inside
            runtimes = tuple(one for one in found.runtime_releases if one != gone)
            releases = tuple(one for one in found.releases if one != gone)
            return inside(standing, releases=releases, runtime_releases=runtimes)
        case InstancesStep():
            return replace(standing, instances=())
        case OrphansStep():
            return replace(standing, orphans=())
        case StackStep() | HinderedStackStep():
            stacks = {name: view for name, view in standing.stacks.items() if name != step.name}
            cluster = None if step.id == "cluster" else standing.cluster
            return replace(standing, stacks=stacks, cluster=cluster)
        case LogGroupsStep():
            return replace(standing, log_groups=())
        case BucketStep():
            return replace(standing, buckets={k: v for k, v in standing.buckets.items() if k != step.name})
        case SnapshotStep():
            return replace(standing, snapshots={})
        case SystemNodesStep():
            assert standing.cluster is not None
            return replace(standing, cluster=replace(standing.cluster, node_groups=()))
    raise AssertionError(step)


WISHES = Wishes(buckets=(OUTPUTS, MODELS), snapshots=("snap-1",))
PREFIXES = range(len(plan_destroy(full(), WISHES).changes) + 1)


@pytest.mark.parametrize("count", PREFIXES)
def test_a_teardown_that_stopped_anywhere_goes_on_with_what_is_left(count: int) -> None:
    whole, standing = plan_destroy(full(), WISHES), full()
    done = whole.changes[:count]
    for step in done:
        standing = after(standing, step)
    rest = plan_destroy(standing, WISHES)
    expected = {step.id for step in whole.changes[count:]}
    # Whole kinds of things go with others: an instance with its pool, say.
    assert {step.id for step in rest.changes} <= expected
    for step in rest.changes:
        standing = after(standing, step)
    assert plan_destroy(standing, WISHES).changes == ()
    assert standing.is_nothing
