"""Kubernetes version, cluster, stacks, buckets, models and snapshots: each rule's pass, warn and fail."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from sdctl.clients.cloudformation import StackView
from sdctl.clients.ec2 import Snapshot
from sdctl.clients.eks import Cluster
from sdctl.doctor.cluster import kubernetes_version
from sdctl.doctor.facts import NOT_READ
from sdctl.doctor.needs import agent_image, bucket_names
from sdctl.reads import Unknown
from sdctl.versions import KubernetesRelease
from support.doctor import ACCOUNT, DENIED, MODEL, REGION, config, healthy, judged, provisioner, runtime

OURS = {"sdctl:stack": "sdoneks"}
FUTURE = KubernetesRelease("1.37", date(2026, 10, 1), date(2027, 12, 1), date(2028, 12, 1))


def stack(name: str, status: str = "CREATE_COMPLETE", **tags: str) -> StackView:
    return StackView(name, f"arn:{name}", status, tags=tags or OURS)


@pytest.mark.parametrize(
    ("version", "result", "said"),
    [
        ("1.36", "pass", "until 2027-08-02"),
        ("1.34", "warn", "ends on 2026-12-02"),
        ("1.33", "warn", "ended on 2026-07-29"),
        ("1.29", "fail", "1.31, 1.32, 1.33, 1.34, 1.35, 1.36"),
    ],
)
def test_a_kubernetes_version_is_judged_by_the_calendar(version: str, result: str, said: str) -> None:
    wanted = config(kubernetesVersion=version)
    check = judged(wanted, healthy(wanted))["kubernetes-version"]
    assert check.result == result
    assert said in check.found
    assert ("1.36" in check.fix) == (result != "pass")


def test_a_version_whose_support_has_ended_fails() -> None:
    wanted = config(kubernetesVersion="1.31")
    check = judged(wanted, healthy(wanted, today=date(2026, 11, 27)))["kubernetes-version"]
    assert (check.result, check.found) == ("fail", "support of 1.31 ended on 2026-11-26")


def test_the_version_is_the_newest_of_the_account_that_everything_supports() -> None:
    facts = healthy(calendar=(FUTURE, *healthy().calendar))  # type: ignore[misc]
    assert kubernetes_version(config(), facts) == "1.36"
    assert judged(facts=facts)["components"].result == "pass"


def test_without_the_accounts_calendar_the_built_in_one_is_used_and_named() -> None:
    assert "came with" in judged(facts=healthy(calendar=DENIED))["kubernetes-version"].found
    wanted = config(kubernetesVersion="1.40")
    check = judged(wanted, healthy(wanted, calendar=DENIED))["kubernetes-version"]
    assert check.result == "warn", "the built-in calendar may just be too old"


def test_a_version_that_a_component_does_not_support_fails() -> None:
    wanted = config(kubernetesVersion="1.37")
    facts = healthy(wanted, calendar=(FUTURE, *healthy().calendar))  # type: ignore[misc]
    check = judged(wanted, facts)["components"]
    assert check.result == "fail"
    assert "Karpenter 1.14.1 (1.29 to 1.36)" in check.found
    assert check.fix == "set kubernetesVersion to 1.36, or leave it out"


def test_what_a_component_is_not_tested_with_is_told() -> None:
    assert "KEDA 2.20.2 (its makers test it up to 1.35)" in judged()["components"].found


def test_the_node_image_must_exist_in_the_region() -> None:
    check = judged(facts=healthy(images=frozenset({"1.34", "1.9"})))["node-image"]
    assert check.result == "fail"
    assert "1.9, 1.34" in check.found
    assert judged(facts=healthy(images=DENIED))["node-image"].result == "warn"


@pytest.mark.parametrize(
    ("cluster", "result", "said"),
    [
        (None, "pass", "is free"),
        (Cluster("sdoneks", "1.36", "ACTIVE", OURS), "pass", "runs Kubernetes 1.36"),
        (Cluster("sdoneks", "1.35", "ACTIVE", OURS), "pass", "1.36 is wanted"),
        (Cluster("sdoneks", "1.34", "ACTIVE", OURS), "fail", "one minor version at a time"),
        (Cluster("sdoneks", "1.37", "ACTIVE", OURS), "fail", "never goes back"),
        (Cluster("sdoneks", "", "CREATING", OURS), "pass", "1.36 is wanted"),
        (Cluster("sdoneks", "1.36", "DELETING", OURS), "fail", "DELETING"),
        (Cluster("sdoneks", "1.36", "ACTIVE", {}), "fail", "not this deployment's"),
        (DENIED, "warn", "not checked"),
    ],
)
def test_a_cluster_of_the_name_must_be_ours_and_can_be_raised(cluster: Any, result: str, said: str) -> None:
    check = judged(facts=healthy(cluster=cluster))["cluster"]
    assert check.result == result
    assert said in check.found


@pytest.mark.parametrize(
    ("found", "result", "said"),
    [
        ({}, "pass", "free"),
        ({"sdoneksStack": stack("sdoneksStack")}, "pass", "sdoneksStack will be updated"),
        ({"sdoneksStack": stack("sdoneksStack", **{"sdctl:stack": "x"})}, "fail", "not this deployment's"),
        ({"sdoneks-network": stack("sdoneks-network", "UPDATE_IN_PROGRESS")}, "fail", "at work"),
        ({"sdoneks-cluster": stack("sdoneks-cluster", "ROLLBACK_COMPLETE")}, "warn", "failed attempt"),
        ({"sdoneksStack": DENIED}, "warn", "not checked"),
    ],
)  # fmt: skip
def test_stacks_of_the_names_must_be_ours_and_at_rest(found: Any, result: str, said: str) -> None:
    check = judged(facts=healthy(stacks={**healthy().stacks, **found}))["stacks"]
    assert check.result == result
    assert said in check.found


def test_a_log_group_that_an_earlier_cluster_left_stops_the_cluster_stack() -> None:
    left = ("/aws/eks/sdoneks/cluster", "/aws/containerinsights/sdoneks/host", "/aws/eks/sdoneks/clusters")
    check = judged(facts=healthy(log_groups=left))["log-group"]
    assert check.result == "fail"
    assert check.fix == "; ".join(
        f"aws logs delete-log-group --log-group-name {name} --region us-west-2"
        for name in ("/aws/containerinsights/sdoneks/host", "/aws/eks/sdoneks/cluster")
    )
    assert judged(facts=healthy(log_groups=left[2:]))["log-group"].result == "pass"
    stacks = {**healthy().stacks, "sdoneks-cluster": stack("sdoneks-cluster")}
    assert judged(facts=healthy(log_groups=left, stacks=stacks))["log-group"].result == "pass"
    stacks = {**healthy().stacks, "sdoneks-cluster": DENIED}
    assert judged(facts=healthy(log_groups=left, stacks=stacks))["log-group"].result == "warn"
    assert judged(facts=healthy(log_groups=DENIED))["log-group"].result == "warn"


@pytest.mark.parametrize(
    ("region", "result", "said"),
    [
        (None, "pass", "will be made"),
        (REGION, "pass", "exists"),
        ("eu-central-1", "fail", "is in eu-central-1"),
        (DENIED, "fail", "not authorized"),
        (Unknown("no answer"), "warn", "not checked"),
    ],
)
def test_the_asset_buckets_name_must_be_free_or_ours(region: Any, result: str, said: str) -> None:
    assets, models = bucket_names(config(), ACCOUNT, REGION)
    check = judged(facts=healthy(buckets={assets: region, models: REGION}))["asset-bucket"]
    assert check.result == result
    assert said in check.found


@pytest.mark.parametrize(
    ("region", "result", "said"),
    [
        (REGION, "pass", "my-models is in us-west-2"),
        (None, "fail", "does not exist"),
        ("eu-central-1", "fail", "the deployment in us-west-2"),
        (DENIED, "fail", "not authorized"),
        (Unknown("no answer"), "warn", "not checked"),
    ],
)
def test_a_configured_model_bucket_must_be_there_and_in_the_region(
    region: Any, result: str, said: str
) -> None:
    wanted = config(modelBucketArn="arn:aws:s3:::my-models")
    buckets = {**healthy(wanted).buckets, "my-models": region}
    check = judged(wanted, healthy(wanted, buckets=buckets))["model-bucket"]
    assert check.result == result
    assert said in check.found
    if region is None:
        assert check.fix.startswith("sdctl bucket create my-models")


def test_a_model_bucket_that_deploy_makes_is_fine_and_its_models_come_later() -> None:
    buckets = dict.fromkeys(bucket_names(config(), ACCOUNT, REGION))
    checks = judged(facts=healthy(buckets=buckets, model_files=Unknown("no such bucket")))
    assert checks["model-bucket"].result == "pass"
    assert checks["model-files"].result == "warn"
    assert checks["model-files"].fix.startswith(
        "after the deploy: sdctl models upload hf:stable-diffusion-v1-5/"
    )


def test_each_model_that_a_runtime_starts_with_must_be_in_its_folder() -> None:
    wanted = config(modelsRuntime=[runtime(), runtime(name="xl", modelFilename="xl.safetensors")])
    elsewhere = frozenset(
        {f"Stable-diffusion/{MODEL}", "xl.safetensors", "Stable-diffusion/sub/xl.safetensors"}
    )
    check = judged(wanted, healthy(wanted, model_files=elsewhere))["model-files"]
    assert check.result == "warn"  # or no interrupted deploy could go on: its bucket is empty at first
    assert check.found.endswith("lacks Stable-diffusion/xl.safetensors")
    assert check.fix == "sdctl models upload xl.safetensors --to Stable-diffusion"
    assert judged(wanted, healthy(wanted, model_files=DENIED))["model-files"].result == "warn"


def test_comfyui_names_no_model_of_its_own() -> None:
    wanted = config(modelsRuntime=[{"name": "comfy", "type": "comfyui"}])
    assert "model-files" not in judged(wanted)


@pytest.mark.parametrize(
    ("snapshot", "result", "said"),
    [
        (Snapshot("snap-1", "completed", 100, ACCOUNT), "pass", "100 GiB, on a volume of 100 GiB"),
        (Snapshot("snap-1", "completed", 101, ACCOUNT), "fail", "does not fit"),
        (Snapshot("snap-1", "pending", 50, ACCOUNT), "warn", "is pending"),
        (Snapshot("snap-1", "error", 50, ACCOUNT), "fail", "is broken"),
        (None, "fail", "no snapshot snap-1 in us-west-2"),
        (DENIED, "warn", "not checked"),
    ],
)
def test_a_snapshot_must_be_in_the_region_complete_and_no_larger_than_its_volume(
    snapshot: Any, result: str, said: str
) -> None:
    values = {"karpenter": {"nodeTemplate": {"dataVolume": {"snapshotID": "snap-1"}}}}
    wanted = config(modelsRuntime=[runtime(values)])
    check = judged(wanted, healthy(wanted, snapshots={"snap-1": snapshot}))["snapshot-sdruntime"]
    assert check.result == result
    assert said in check.found


def test_the_configured_size_of_the_data_volume_counts() -> None:
    volume = {"snapshotID": "snap-1", "volumeSize": "200Gi"}
    wanted = config(modelsRuntime=[runtime({"karpenter": {"nodeTemplate": {"dataVolume": volume}}})])
    found = {"snap-1": Snapshot("snap-1", "completed", 150, ACCOUNT)}
    check = judged(wanted, healthy(wanted, snapshots=found))["snapshot-sdruntime"]
    assert (check.result, check.found) == ("pass", "snap-1: 150 GiB, on a volume of 200 GiB")


def test_everything_that_was_not_read_is_a_warning_never_a_pass() -> None:
    facts = replace(
        healthy(), buckets={}, stacks={}, service_roles={}, quotas={}, model_files=NOT_READ, cluster=NOT_READ,
        log_groups=NOT_READ, vpc_count=NOT_READ, images=NOT_READ, offers=NOT_READ,
    )  # fmt: skip
    wanted = config(modelsRuntime=[runtime(provisioner())])
    results = {name: check.result for name, check in judged(wanted, facts).items()}
    silent = (
        "stacks", "asset-bucket", "model-bucket", "model-files", "cluster", "log-group", "node-image",
        "service-role-eks", "quota-g-spot", "vpc-headroom", "bucket-headroom", "instance-offers",
    )  # fmt: skip
    assert {results[name] for name in silent} == {"warn"}


def test_an_agent_that_was_not_pushed_yet_is_a_warning_with_the_commands_that_push_it() -> None:
    assert judged()["agent-image"].result == "pass"
    missing = judged(facts=healthy(agent_image=False))["agent-image"]
    assert missing.result == "warn"
    assert missing.fix.startswith("sdctl image build, then sdctl image push")
    assert judged(facts=healthy(agent_image=DENIED))["agent-image"].found.startswith("not checked")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, ("123456789012.dkr.ecr.us-west-2.amazonaws.com", "sd-on-eks/queue-agent")),
        (
            {"imageRegistry": "210987654321.dkr.ecr.cn-north-1.amazonaws.com.cn/a/b"},
            ("210987654321.dkr.ecr.cn-north-1.amazonaws.com.cn", "a/b/sd-on-eks/queue-agent"),
        ),
        ({"imageRegistry": "registry.example.com/sdctl"}, ("", "")),
        ({"modelsRuntime": [runtime({"runtime": {"queueAgent": {"image": {"repository": "x"}}}})]}, ("", "")),
    ],
)
def test_the_agents_image_is_looked_for_in_ecr_alone(changes: dict[str, Any], place: tuple[str, str]) -> None:
    assert agent_image(config(**changes), "123456789012", "us-west-2") == place
