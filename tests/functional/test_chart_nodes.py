"""Scaling, nodes, image caches and models of a runtime."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from support import chart

NODE = "karpenter/nodeTemplate"


def node_class(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return dict(chart.find(chart.render_ci(name, changes), "EC2NodeClass")["spec"])


def pool(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return dict(chart.find(chart.render_ci(name, changes), "NodePool")["spec"])


def volume(spec: dict[str, Any], device: str) -> dict[str, Any]:
    [found] = [one["ebs"] for one in spec["blockDeviceMappings"] if one["deviceName"] == device]
    return dict(found)


def requirement(spec: dict[str, Any], key: str) -> list[str]:
    [found] = [one["values"] for one in spec["template"]["spec"]["requirements"] if one["key"] == key]
    return list(found)


def test_nodes_are_spot_first_and_on_demand_where_there_is_none() -> None:
    assert requirement(pool("sdwebui"), "karpenter.sh/capacity-type") == ["spot", "on-demand"]
    assert requirement(pool("long-tasks"), "karpenter.sh/capacity-type") == ["reserved", "on-demand"]
    capacity = {"onDemand": False, "spot": True}
    only_spot = pool("sdwebui", {"karpenter/provisioner": {"capacityType": capacity}})
    assert requirement(only_spot, "karpenter.sh/capacity-type") == ["spot"]
    with pytest.raises(chart.Refused, match="neither onDemand nor spot"):
        pool("sdwebui", {"karpenter/provisioner": {"capacityType": {"onDemand": False, "spot": False}}})


def test_nodes_take_the_runtimes_pods_and_no_others() -> None:
    objects = chart.render_ci("sdwebui")
    spec, template = pool("sdwebui"), chart.pod(objects)["spec"]
    tolerated = {(one["key"], one.get("value")) for one in template["tolerations"]}
    for taint in spec["template"]["spec"]["taints"]:
        assert (taint["key"], taint.get("value")) in tolerated
    assert template["nodeSelector"] == {
        "karpenter.sh/nodepool": chart.find(objects, "NodePool")["metadata"]["name"]
    }
    assert spec["template"]["spec"]["nodeClassRef"] == {
        "group": "karpenter.k8s.aws", "kind": "EC2NodeClass", "name": chart.RELEASE,
    }  # fmt: skip


def test_pods_tolerate_further_taints_of_their_nodes() -> None:
    taints = [{"key": "team", "value": "art", "effect": "NoSchedule"}, {"key": "gpu", "effect": "NoExecute"}]
    objects = chart.render_ci("sdwebui", {"karpenter/provisioner": {"extraTaints": taints}})
    assert chart.find(objects, "NodePool")["spec"]["template"]["spec"]["taints"][-2:] == taints
    assert chart.pod(objects)["spec"]["tolerations"][-2:] == [
        {"key": "team", "operator": "Equal", "value": "art", "effect": "NoSchedule"},
        {"key": "gpu", "operator": "Exists", "effect": "NoExecute"},
    ]


def test_no_pod_comes_before_the_driver_of_its_models() -> None:
    startup = [{"key": "s3.csi.aws.com/agent-not-ready", "effect": "NoExecute"}]
    assert pool("sdwebui")["template"]["spec"]["startupTaints"] == startup
    # A node that no driver of ours runs on would keep the taint for ever.
    without = pool("sdwebui", {"runtime/persistence": {"enabled": False}})
    assert "startupTaints" not in without["template"]["spec"]


def test_nodes_are_limited_to_what_all_pods_need_during_a_rollout() -> None:
    assert pool("sdwebui")["limits"] == {"nvidia.com/gpu": "40"}
    assert pool("working-hours")["limits"] == {"nvidia.com/gpu": "16"}
    assert pool("long-tasks")["limits"] == {"nvidia.com/gpu": "8"}


def test_empty_nodes_go_and_others_are_replaced_when_they_are_old() -> None:
    spec = pool("sdwebui")
    assert spec["disruption"] == {
        "consolidationPolicy": "WhenEmpty", "consolidateAfter": "60s",
        "budgets": [
            {"nodes": "100%", "reasons": ["Empty"]},
            {"nodes": "20%", "reasons": ["Drifted", "Underutilized"]},
        ],
    }  # fmt: skip
    # An expired node that nothing ends within a time would be kept by a protected pod.
    assert spec["template"]["spec"]["expireAfter"] == "336h"
    assert spec["template"]["spec"]["terminationGracePeriod"] == "155s"
    on_demand = pool("sdwebui", {"karpenter/provisioner": {"capacityType": {"spot": False}}})
    assert on_demand["template"]["spec"]["terminationGracePeriod"] == "30m"
    asked = pool("sdwebui", {"karpenter/provisioner": {"consolidation": True}})
    assert asked["disruption"]["consolidationPolicy"] == "WhenEmptyOrUnderutilized"


def test_nodes_are_pinned_private_and_encrypted() -> None:
    for name in chart.CI:
        if name == "own-cluster":
            continue
        spec = node_class(name)
        assert spec["amiSelectorTerms"] == [{"alias": "bottlerocket@v1.68.0"}]
        assert (
            spec["metadataOptions"]["httpTokens"],
            spec["metadataOptions"]["httpPutResponseHopLimit"],
        ) == ("required", 1)
        # An override of one device drops the defaults of the other.
        assert [one["deviceName"] for one in spec["blockDeviceMappings"]] == ["/dev/xvda", "/dev/xvdb"]
        assert all(one["ebs"]["encrypted"] for one in spec["blockDeviceMappings"])
    assert volume(node_class("long-tasks"), "/dev/xvdb")["kmsKeyID"].startswith("arn:aws:kms:")


def test_subnets_and_security_groups_are_named_by_id_from_a_list_or_from_a_stacks_output() -> None:
    ids = ["subnet-0aaaaaaaaaaaaaaaa", "subnet-0bbbbbbbbbbbbbbbb"]
    for given in (ids, ",".join(ids), ", ".join(ids)):
        spec = node_class("sdwebui", {f"{NODE}/subnetIds": given})
        assert spec["subnetSelectorTerms"] == [{"id": one} for one in ids]
    tags = {"team": "images"}
    spec = node_class("sdwebui", {f"{NODE}/subnetIds": [], f"{NODE}/subnetSelector": tags})
    assert spec["subnetSelectorTerms"] == [{"tags": tags}]


def test_role_and_instance_profile_exclude_each_other() -> None:
    assert node_class("sdwebui")["instanceProfile"] == "sdoneks-cluster-GpuInstanceProfile"
    assert node_class("sdwebui", {f"{NODE}/instanceProfile": "", f"{NODE}/role": "r"})["role"] == "r"
    with pytest.raises(chart.Refused, match="not both"):
        node_class("sdwebui", {f"{NODE}/role": "r"})


def test_images_are_pulled_in_parallel_onto_local_disks_where_every_type_has_them() -> None:
    spec = node_class("sdwebui")
    assert 'snapshotter = "soci"' in spec["userData"]
    assert spec["instanceStorePolicy"] == "RAID0"
    assert volume(spec, "/dev/xvdb")["volumeSize"] == "20Gi"
    mixed = node_class("sdwebui", {"karpenter/provisioner": {"instanceType": ["g5.xlarge", "p3.2xlarge"]}})
    assert "userData" not in mixed
    assert "instanceStorePolicy" not in mixed
    assert volume(mixed, "/dev/xvdb")["volumeSize"] == "100Gi"


@pytest.mark.parametrize(
    ("instance_type", "has_disks"),
    [
        *((one, True) for one in ("g4dn.xlarge", "g5.2xlarge", "g6e.4xlarge", "p4d.24xlarge", "m6id.large")),
        *((one, False) for one in ("p3.2xlarge", "g5g.xlarge", "m7g.large", "g6f.large")),
    ],
)
def test_types_with_local_disks_are_known(instance_type: str, has_disks: bool) -> None:
    spec = node_class("sdwebui", {"karpenter/provisioner": {"instanceType": [instance_type]}})
    assert ("instanceStorePolicy" in spec) is has_disks


def test_a_snapshot_is_used_with_nothing_that_hides_or_wipes_it() -> None:
    spec = node_class("guide")
    data = volume(spec, "/dev/xvdb")
    assert (data["snapshotID"], data["volumeSize"], data["volumeInitializationRate"]) == (
        "snap-0123456789",
        "100Gi",
        300,
    )
    assert "instanceStorePolicy" not in spec
    assert "userData" not in spec


SNAPSHOT = {"snapshotID": "snap-0123456789"}
SOCI = '[settings.container-runtime]\nsnapshotter = "soci"\n'


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"imageCache": "snapshot"}, "snapshot needs dataVolume.snapshotID"),
        (
            {"imageCache": "soci", "dataVolume": SNAPSHOT},
            "imageCache soci does not use dataVolume.snapshotID",
        ),
        (
            {"imageCache": "none", "dataVolume": SNAPSHOT},
            "imageCache none does not use dataVolume.snapshotID",
        ),
        ({"instanceStorePolicy": "RAID0", "dataVolume": SNAPSHOT}, "hide them"),
        ({"userData": SOCI, "dataVolume": SNAPSHOT}, "wipes the images of a snapshot"),
        ({"userData": SOCI}, "chooses the snapshotter"),
        ({"userData": 'commands = [["apiclient", "ephemeral-storage", "bind"]]'}, "remove ephemeral-storage"),
        ({"userData": 'device-sharing-strategy = "mps"'}, "gpuSharing writes the settings"),
        ({"amiFamily": "AL2023"}, "amiFamily"),
    ],
)
def test_what_would_undo_an_image_cache_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(chart.Refused, match=said):
        node_class("sdwebui", {f"{NODE}/{key}": value for key, value in changes.items()})


def test_ones_own_settings_of_bottlerocket_join_the_charts() -> None:
    own = '[settings.kernel.sysctl]\n"vm.swappiness" = "10"\n'
    text = node_class("sdwebui", {f"{NODE}/userData": own})["userData"]
    assert 'snapshotter = "soci"' in text
    assert '"vm.swappiness" = "10"' in text


def test_what_the_nodes_are_told_is_toml() -> None:
    settings = tomllib.loads(node_class("gpu-sharing")["userData"])["settings"]
    assert settings["container-runtime"] == {"snapshotter": "soci"}
    soci = settings["container-runtime-plugins"]["soci-snapshotter"]
    assert soci["pull-mode"] == "parallel-pull-unpack"
    assert soci["parallel-pull-unpack"]["discard-unpacked-layers"] is True
    nvidia = settings["kubelet-device-plugins"]["nvidia"]
    assert nvidia["device-sharing-strategy"] == "time-slicing"
    assert nvidia["time-slicing"] == {"replicas": 2, "rename-by-default": True}


def test_a_share_of_a_gpu_is_asked_for_and_offered() -> None:
    objects = chart.render_ci("gpu-sharing")
    resources = chart.container(objects, "inference-api")["resources"]
    assert resources["limits"] == {"memory": "12Gi", "nvidia.com/gpu.shared": "1"}
    overlay = chart.find(objects, "NodeOverlay")["spec"]
    assert overlay["capacity"] == {"nvidia.com/gpu.shared": "2"}
    assert overlay["requirements"][0]["values"] == requirement(
        pool("gpu-sharing"), "node.kubernetes.io/instance-type"
    )
    assert "NodeOverlay" not in chart.kinds(chart.render_ci("sdwebui"))
    with pytest.raises(chart.Refused, match="one share"):
        chart.render_ci(
            "gpu-sharing", {"runtime/inferenceApi/resources": {"limits": {"nvidia.com/gpu": "2"}}}
        )


def test_keda_owns_the_number_of_pods() -> None:
    for name in chart.CI:
        objects = chart.render_ci(name)
        has_replicas = "replicas" in chart.find(objects, "Deployment")["spec"]
        assert has_replicas is (name == "own-cluster")
        assert ("ScaledObject" in chart.kinds(objects)) is not has_replicas


def test_the_guides_scaling_values_are_what_keda_gets() -> None:
    spec = chart.find(chart.render_ci("guide"), "ScaledObject")["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"], spec["cooldownPeriod"]) == (0, 20, 300)
    assert "waiting / 10" in spec["advanced"]["scalingModifiers"]["formula"]
    for trigger in spec["triggers"]:
        assert trigger["type"] == "aws-sqs-queue"
        assert trigger["metadata"]["queueURL"].endswith("/sdoneks-runtime-sdruntime-Queue")
        assert trigger["authenticationRef"] == {"name": chart.RELEASE}
    authentication = chart.find(chart.render_ci("guide"), "TriggerAuthentication")["spec"]
    assert authentication == {"podIdentity": {"provider": "aws"}}


def test_running_tasks_can_be_left_uncounted_as_upstream_has_it() -> None:
    spec = chart.find(chart.render_ci("guide", {"runtime/scaling/scaleOnInFlight": False}), "ScaledObject")[
        "spec"
    ]
    assert [one["name"] for one in spec["triggers"]] == ["waiting"]
    assert spec["advanced"]["scalingModifiers"]["formula"] == "waiting / 10"


def test_working_hours_keep_pods_and_leave_none_after_them() -> None:
    spec = chart.find(chart.render_ci("working-hours"), "ScaledObject")["spec"]
    formula = spec["advanced"]["scalingModifiers"]["formula"]
    [cron] = [one["metadata"] for one in spec["triggers"] if one["type"] == "cron"]
    within, without = int(cron["desiredReplicas"]), 1  # what KEDA counts in and out of the hours
    assert chart.wanted_pods(formula, running=0, waiting=0, schedule=within) == 2
    assert chart.wanted_pods(formula, running=5, waiting=8, schedule=within) == 7
    assert chart.wanted_pods(formula, running=0, waiting=0, schedule=without) == 0
    assert chart.wanted_pods(formula, running=1, waiting=0, schedule=without) == 1
    # Three waiting tasks are more than the two that start nothing.
    activation = float(spec["advanced"]["scalingModifiers"]["activationTarget"])
    assert [waiting / 4 > activation for waiting in (1, 2, 3)] == [False, False, True]


def test_ones_own_behavior_goes_before_the_charts() -> None:
    spec = chart.find(chart.render_ci("working-hours"), "ScaledObject")["spec"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]
    assert behavior["scaleDown"]["stabilizationWindowSeconds"] == 600
    assert behavior["scaleDown"]["policies"] == [{"type": "Pods", "value": 2, "periodSeconds": 60}]


def test_fewest_pods_are_not_more_than_most() -> None:
    with pytest.raises(chart.Refused, match="minReplicaCount is more than maxReplicaCount"):
        chart.render_ci("sdwebui", {"runtime/scaling": {"minReplicaCount": 3, "maxReplicaCount": 2}})


def test_models_are_read_only_of_one_bucket_and_one_claim() -> None:
    objects = chart.render_ci("sdwebui")
    found, claim = chart.find(objects, "PersistentVolume"), chart.find(objects, "PersistentVolumeClaim")
    name, spec = found["metadata"]["name"], found["spec"]
    assert spec["csi"]["volumeHandle"] == name
    assert spec["csi"]["readOnly"] is True
    assert spec["csi"]["volumeAttributes"] == {
        "bucketName": "sdoneks-models", "mountpointContainerResourcesLimitsMemory": "4Gi",
        "cache": "emptyDir", "cacheEmptyDirSizeLimit": "100Gi",
    }  # fmt: skip
    assert {"read-only", "allow-other", "region us-west-2"} <= set(spec["mountOptions"])
    assert spec["claimRef"] == {"namespace": chart.NAMESPACE, "name": claim["metadata"]["name"]}
    assert (claim["spec"]["volumeName"], claim["spec"]["storageClassName"]) == (name, "")
    assert claim["spec"]["accessModes"] == spec["accessModes"] == ["ReadOnlyMany"]
    [mounted] = [one for one in chart.pod(objects)["spec"]["volumes"] if one["name"] == "models"]
    assert mounted["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    [mount] = [
        one for one in chart.container(objects, "inference-api")["volumeMounts"] if one["name"] == "models"
    ]
    assert mount == {"name": "models", "mountPath": "/opt/ml/code/models", "readOnly": True}


def test_models_are_cached_only_on_local_disks() -> None:
    for name, is_cached in (("sdwebui", True), ("guide", False)):
        attributes = chart.find(chart.render_ci(name), "PersistentVolume")["spec"]["csi"]["volumeAttributes"]
        assert ("cache" in attributes) is is_cached


def test_a_volume_that_would_change_is_another_one() -> None:
    """Kubernetes refuses to change what a volume is, so that an upgrade of the release would fail."""

    def name(changes: dict[str, Any]) -> str:
        return str(chart.find(chart.render_ci("sdwebui", changes), "PersistentVolume")["metadata"]["name"])

    bucket = {"modelBucket": "other-models"}
    assert name({}) != name({"runtime/persistence/s3": bucket})
    assert name({}) == name({"runtime/persistence/s3/metadataTtlSeconds": 10})


def test_models_can_be_those_that_are_there() -> None:
    objects = chart.render_ci("own-cluster")
    assert not {"PersistentVolume", "PersistentVolumeClaim"} & chart.kinds(objects)
    claimed = chart.render_ci("sdwebui", {"runtime/persistence": {"existingVolume": "mine"}})
    assert chart.find(claimed, "PersistentVolumeClaim")["spec"]["volumeName"] == "mine"
    assert "PersistentVolume" not in chart.kinds(claimed)
    with pytest.raises(chart.Refused, match="give existingClaim, existingVolume or storageClass"):
        chart.render_ci("sdwebui", {"runtime/persistence": {"s3": {"enabled": False}}})


@pytest.mark.parametrize(
    "path",
    [
        "karpenter/nodeTemplate/userData",
        "karpenter/nodeTemplate/dataVolume/snapshotID",
        "karpenter/provisioner/instanceType",
    ],
)
def test_a_value_that_is_null_is_none(path: str) -> None:
    empty: Any = [] if path.endswith("instanceType") else ""
    assert chart.render_ci("sdwebui", {path: None}) == chart.render_ci("sdwebui", {path: empty})
