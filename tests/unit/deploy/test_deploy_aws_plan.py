"""The plan of a deployment on AWS: order, Kubernetes' version, what goes, and what cannot be changed."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from sdctl.clients.cloudformation import StackView
from sdctl.clients.helm import digest_of
from sdctl.clients.helm_commands import description_of
from sdctl.config.model import Config
from sdctl.deploy.apply import check_images
from sdctl.deploy.bundle import Bundle
from sdctl.deploy.choices import kubernetes_version
from sdctl.deploy.observed import ClusterFinds, Observed
from sdctl.deploy.observed_releases import ReleaseView
from sdctl.deploy.outputs import joined_outputs
from sdctl.deploy.planner import plan_deploy
from sdctl.deploy.steps import Plan, ReleaseStep, StackStep, Step
from sdctl.errors import ConfigError, NotFoundError
from sdctl.render.stacks import code_parameters, outputs_in, resolve
from sdctl.versions import KubernetesRelease

TODAY = date(2026, 11, 22)
IMAGE = {"runtime": {"inferenceApi": {"image": {"repository": "example.com/sd", "tag": "1"}}}}
RUNTIMES: list[dict[str, Any]] = [
    {"name": "one", "type": "sdwebui", "extraValues": IMAGE},
    {"name": "two", "type": "comfyui", "namespace": "pipes", "extraValues": IMAGE},
]
FINDS = ClusterFinds("arn:aws:iam::123456789012:role/deployer", zones=("us-west-2a", "us-west-2b"))
EMPTY = Observed(
    account="123456789012", region="us-west-2", asset_bucket="assets", model_bucket="models", cluster=FINDS,
)  # fmt: skip
BUNDLES = {name: Bundle(name, "h", b"zip", "0" * 64) for name in code_parameters().values()}


def configured(**document: Any) -> Config:
    return Config.model_validate({"stackName": "farm", "modelsRuntime": RUNTIMES} | document)


def plan(observed: Observed = EMPTY, **document: Any) -> Plan:
    return plan_deploy(configured(**document), observed, target="aws", bundles=BUNDLES, today=TODAY)


def by_id(made: Plan) -> dict[str, Step]:
    steps = {step.id: step for step in made}
    assert len(steps) == len(made.steps)
    return steps


def stack(made: Plan, step_id: str) -> StackStep:
    step = by_id(made)[step_id]
    assert isinstance(step, StackStep)
    return step


def deployed(made: Plan | None = None, **document: Any) -> Observed:
    """What is observed after a plan was carried out; an output's value is its placeholder."""
    made = made or plan(**document)
    stacks = [step for step in made if isinstance(step, StackStep)]
    releases = [step for step in made if isinstance(step, ReleaseStep)]
    used = [one for step in stacks for one in outputs_in(step.parameters)]
    used += [one for step in releases for one in outputs_in(step.release.values)]
    outputs: dict[str, dict[str, str]] = {step.name: {} for step in stacks}
    for one in used:
        outputs[one.stack][one.name] = one.placeholder
    views = {
        step.name: StackView(
            step.name, "arn", "CREATE_COMPLETE", outputs=outputs[step.name],
            parameters=resolve(step.parameters, outputs), tags=step.tags, is_protected=step.is_protected,
        )
        for step in stacks
    }  # fmt: skip
    found = []
    for step in releases:
        release = replace(step.release, values=resolve(step.release.values, outputs))
        description = description_of(digest_of(release))
        found.append(
            ReleaseView(release.name, release.namespace, 1, "deployed", "c", "1", description, "sha256:0")
        )
    return replace(
        EMPTY,
        bucket_regions={"assets": "us-west-2", "models": "us-west-2"},
        asset_keys=frozenset(f"functions/{name}-{item.sha256}.zip" for name, item in BUNDLES.items()),
        stacks=views,
        templates={step.name: json.loads(step.body) for step in stacks},
        cluster=replace(FINDS, has_spot_role=True, running_version="1.36", zones=(), releases=tuple(found)),
    )


def changes(made: Plan) -> dict[str, str]:
    return {step.id: step.action for step in made.changes}


def test_everything_is_made_in_an_order_in_which_nothing_waits_without_reason() -> None:
    steps = by_id(plan())
    assert set(changes(plan()).values()) == {"create"}
    needs = {step_id: set(step.needs) for step_id, step in steps.items()}
    assert needs["network"] == needs["spot-role"] == needs["asset-bucket"] == set()
    assert needs["cluster"] == {"network"}
    assert needs["front"] == {"asset-bucket", "model-bucket", "functions"}
    assert needs["runtime-one"] == {"front", "cluster"}
    assert needs["release-karpenter-crd"] == needs["release-keda"] == {"cluster"}
    assert needs["release-karpenter"] == {"cluster", "release-karpenter-crd", "spot-role"}
    assert needs["release-two"] == {"runtime-two", "release-karpenter", "release-keda"}
    for step in steps.values():
        assert set(step.needs) <= set(steps)


def test_every_output_that_a_step_uses_is_of_a_stack_that_it_waits_for() -> None:
    steps = by_id(plan())
    names = {step.name: step.id for step in steps.values() if isinstance(step, StackStep)}

    def before(step_id: str) -> set[str]:
        needs = steps[step_id].needs
        return set(needs).union(*(before(need) for need in needs))

    for step in steps.values():
        used = step.parameters if isinstance(step, StackStep) else None
        used = step.release.values if isinstance(step, ReleaseStep) else used
        for output in outputs_in(used):
            assert names[output.stack] in before(step.id), (step.id, output)


def test_the_cluster_gets_its_network_its_deployer_and_its_version() -> None:
    parameters = stack(plan(), "cluster").parameters
    assert parameters["DeployerPrincipalArn"] == "arn:aws:iam::123456789012:role/deployer"
    assert parameters["KubernetesVersion"] == "1.36"
    assert stack(plan(), "network").parameters["Zones"] == "us-west-2a,us-west-2b"
    network = {"vpcId": "vpc-01234567", "subnetIds": ["subnet-01234567", "subnet-89abcdef"]}
    existing = plan(network=network)
    assert "network" not in by_id(existing)
    assert stack(existing, "cluster").parameters["SubnetIds"] == "subnet-01234567,subnet-89abcdef"
    assert stack(existing, "cluster").needs == ()


def test_what_is_deployed_is_left_alone() -> None:
    assert changes(plan(deployed())) == {}


def test_a_runtime_is_added_changed_and_removed_without_the_others() -> None:
    third = {"name": "three", "type": "comfyui", "extraValues": IMAGE}
    added = plan(deployed(), modelsRuntime=[*RUNTIMES, third])
    assert changes(added) == {"runtime-three": "create", "release-three": "create"}
    slower = [RUNTIMES[0], RUNTIMES[1] | {"extraValues": IMAGE | {"global": {"awsRegion": "x"}}}]
    assert changes(plan(deployed(), modelsRuntime=slower)) == {"release-two": "update"}
    removed = plan(deployed(), modelsRuntime=RUNTIMES[:1])
    assert changes(removed) == {"release-two": "delete", "runtime-two": "delete"}
    assert stack(removed, "runtime-two").needs == ("release-two",)


def test_a_runtime_in_another_namespace_is_taken_down_where_it_was() -> None:
    moved = plan(deployed(), modelsRuntime=[RUNTIMES[0], RUNTIMES[1] | {"namespace": "other"}])
    assert changes(moved) == {
        "runtime-two": "update", "release-two": "create", "release-two-in-pipes": "delete",
    }  # fmt: skip
    assert "release-two-in-pipes" in by_id(moved)["release-two"].needs


@pytest.mark.parametrize(
    ("view", "action"),
    [({"status": "failed"}, "update"), ({"description": "Rollback to 1"}, "update"), ({}, "none")],
)
def test_a_release_counts_as_there_only_where_it_runs_what_is_wanted(
    view: dict[str, str], action: str
) -> None:
    there = deployed()
    assert there.cluster is not None
    assert there.cluster.releases is not None
    releases = tuple(replace(one, **view) if one.name == "keda" else one for one in there.cluster.releases)
    finds = replace(there.cluster, releases=releases)
    assert by_id(plan(replace(there, cluster=finds)))["release-keda"].action == action


def test_a_cluster_that_cannot_be_asked_leaves_its_releases_unknown_and_says_why() -> None:
    there = deployed()
    assert there.cluster is not None
    finds = replace(there.cluster, releases=None, problem="it does not answer")
    step = by_id(plan(replace(there, cluster=finds)))["release-keda"]
    assert (step.action, step.detail) == ("update", "keda 2.20.2 in keda: unknown, it does not answer")


def test_protection_that_was_switched_off_is_switched_on_again() -> None:
    there = deployed()
    view = replace(there.stacks["farmStack"], is_protected=False)
    made = plan(replace(there, stacks={**there.stacks, "farmStack": view}))
    assert changes(made) == {"front": "update"}
    assert by_id(made)["front"].detail == "farmStack: +protection"


CALENDAR = tuple(
    KubernetesRelease(version, date(2026, 1, 1), date(2027, 1, 1), date(2028, 1, 1))
    for version in ("1.35", "1.36", "1.99")
)


@pytest.mark.parametrize(
    ("configured_version", "running", "stack_version", "chosen"),
    [
        (None, "", "", "1.36"), ("1.35", "", "", "1.35"),
        (None, "1.34", "1.34", "1.34"), (None, "1.35", "", "1.35"),
        ("1.35", "1.34", "1.34", "1.35"), ("1.34", "1.34", "1.34", "1.34"),
    ],
)  # fmt: skip
def test_kubernetes_is_the_newest_that_fits_once_and_stays_unless_configured(
    configured_version: str | None, running: str, stack_version: str, chosen: str
) -> None:
    config = configured(kubernetesVersion=configured_version) if configured_version else configured()
    finds = ClusterFinds(running_version=running, calendar=CALENDAR)
    assert kubernetes_version(config, finds, stack_version, TODAY) == chosen


@pytest.mark.parametrize(
    ("wanted", "said"), [("1.33", "cannot go back to 1.33"), ("1.36", "one version at a time, not to 1.36")]
)
def test_kubernetes_goes_neither_back_nor_over_a_version(wanted: str, said: str) -> None:
    finds = ClusterFinds(running_version="1.34", calendar=CALENDAR)
    with pytest.raises(ConfigError, match=said):
        kubernetes_version(configured(kubernetesVersion=wanted), finds, "1.34", TODAY)


def test_what_would_need_another_cluster_is_refused() -> None:
    key = "arn:aws:kms:us-west-2:123456789012:key/0123abcd-0123-0123-0123-0123456789ab"
    with pytest.raises(ConfigError, match="kmsKeyArn: EncryptionConfig of a cluster is fixed"):
        plan(deployed(), kmsKeyArn=key)
    network = {"vpcId": "vpc-01234567", "subnetIds": ["subnet-01234567", "subnet-89abcdef"]}
    with pytest.raises(ConfigError, match="cannot move to another VPC"):
        plan(deployed(), network=network)
    with pytest.raises(ConfigError, match="cannot move to another VPC"):
        plan(deployed(network=network))


def test_whoever_deployed_first_keeps_the_cluster_and_others_are_let_in_by_name() -> None:
    first, second = FINDS.principal_arn, "arn:aws:iam::123456789012:role/second"
    there = deployed()
    assert there.cluster is not None
    as_second = replace(there, cluster=replace(there.cluster, principal_arn=second))
    with pytest.raises(ConfigError, match=f"{second} deploys, but the cluster lets in {first}"):
        plan(as_second)
    let_in = plan(as_second, administrators=[second])
    assert changes(let_in) == {"cluster": "update"}
    assert stack(let_in, "cluster").parameters["DeployerPrincipalArn"] == first
    assert changes(plan(deployed(let_in), administrators=[second])) == {}
    broken = replace(there.stacks["farm-cluster"], status="ROLLBACK_COMPLETE")
    again = plan(replace(as_second, stacks=dict(there.stacks) | {"farm-cluster": broken}))
    assert stack(again, "cluster").parameters["DeployerPrincipalArn"] == second


def test_a_runtime_may_not_be_called_as_what_is_installed_for_all() -> None:
    with pytest.raises(ConfigError, match="modelsRuntime/0/name: keda is the name of"):
        plan(modelsRuntime=[{"name": "keda", "type": "comfyui"}])


def test_an_image_without_a_digest_is_refused_before_anything_is_made() -> None:
    check_images(plan())
    with pytest.raises(NotFoundError, match=r"the digest of public\.ecr\.aws/bingjiao/sd-on-eks/comfyui"):
        check_images(plan(modelsRuntime=[{"name": "one", "type": "comfyui"}]))
    pinned = replace(EMPTY, image_digests={"public.ecr.aws/bingjiao/sd-on-eks/comfyui": "sha256:1"})
    check_images(plan(pinned, modelsRuntime=[{"name": "one", "type": "comfyui"}]))


def test_a_deployment_tells_the_front_s_outputs_and_each_runtime_s_queues() -> None:
    outputs = {
        "farmStack": {"FrontApiEndpoint": "https://x/"},
        "farm-runtime-one": {"QueueUrl": "q1", "DeadLetterQueueUrl": "d1", "AgentRoleArn": "r"},
        "farm-runtime-two": {"QueueUrl": "q2", "DeadLetterQueueUrl": "d2"},
    }
    assert joined_outputs("farm", outputs) == {
        "FrontApiEndpoint": "https://x/", "QueueUrlOne": "q1", "DeadLetterQueueUrlOne": "d1",
        "QueueUrlTwo": "q2", "DeadLetterQueueUrlTwo": "d2",
    }  # fmt: skip
