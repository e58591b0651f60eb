"""The charts of others: pinned, wired to the cluster's stack, and free of public registries in a mirror."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sdctl.config.model import Config
from sdctl.releases import Release
from sdctl.render import charts
from sdctl.render.cluster import cluster_stack
from sdctl.render.stacks import resolve
from sdctl.versions import DCGM_EXPORTER_TAG, KARPENTER_VERSION, KEDA_VERSION

FACTS = charts.ClusterFacts("https://a.example", "farm-queue")
MIRROR = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/sdctl"


def config(**fields: object) -> Config:
    return Config.model_validate({"stackName": "farm", **fields})


def releases(mirror: str = "", **fields: object) -> dict[str, Release]:
    given = config(**fields, **({"imageRegistry": mirror} if mirror else {}))
    found = charts.third_party_releases(given, FACTS)
    return {release.name: release for release in found}


def test_crds_come_before_the_controller_that_serves_them() -> None:
    assert list(releases()) == ["karpenter-crd", "karpenter", "keda"]
    assert releases()["karpenter"].skip_crds


def test_every_chart_is_pinned() -> None:
    versions = {name: release.chart.version for name, release in releases().items()}
    assert versions == {
        "karpenter-crd": KARPENTER_VERSION, "karpenter": KARPENTER_VERSION, "keda": KEDA_VERSION,
    }  # fmt: skip


def test_karpenter_is_told_its_cluster() -> None:
    settings = releases()["karpenter"].values["settings"]
    assert settings == {
        "clusterName": "farm", "clusterEndpoint": "https://a.example", "interruptionQueue": "farm-queue",
        "eksControlPlane": True, "isolatedVPC": False,
    }  # fmt: skip
    isolated = releases(network={"natMode": "none"})["karpenter"].values["settings"]
    assert isolated["isolatedVPC"] is True


def test_karpenter_is_told_of_shares_of_gpus_only_where_there_are_some() -> None:
    def runtime(strategy: str) -> dict[str, object]:
        sharing = {"gpuSharing": {"strategy": strategy}}
        extra = {"karpenter": {"nodeTemplate": sharing}}
        return {"name": strategy, "type": "comfyui", "extraValues": extra}

    without, with_shares = ([runtime("none")], [runtime("none"), runtime("mps")])
    assert "featureGates" not in releases(modelsRuntime=without)["karpenter"].values["settings"]
    settings = releases(modelsRuntime=with_shares)["karpenter"].values["settings"]
    assert settings["featureGates"] == {"nodeOverlay": True}


@pytest.mark.parametrize(("nodes", "replicas"), [(1, 1), (2, 2), (5, 2)])
def test_karpenter_has_no_more_replicas_than_there_are_nodes(nodes: int, replicas: int) -> None:
    found = releases(clusterComponents={"desiredCount": nodes})["karpenter"]
    assert found.values["replicas"] == replicas


def test_service_accounts_are_those_that_the_stack_gives_roles_to() -> None:
    template = cluster_stack(config(), model_bucket="models").template.document
    associated = {
        (one["Properties"]["Namespace"], one["Properties"]["ServiceAccount"])
        for one in template["Resources"].values()
        if one["Type"] == "AWS::EKS::PodIdentityAssociation"
    }
    found = releases()
    karpenter, keda = found["karpenter"], found["keda"]
    assert (karpenter.namespace, karpenter.values["serviceAccount"]["name"]) in associated
    assert (keda.namespace, keda.values["serviceAccount"]["operator"]["name"]) in associated


def test_the_facts_are_outputs_of_the_stack() -> None:
    stack = cluster_stack(config(), model_bucket="models")
    outputs = dict.fromkeys(stack.template.document["Outputs"], "x")
    values = charts.third_party_releases(config(), charts.ClusterFacts.of(config()))[1].values
    settings = resolve(values, {stack.name: outputs})["settings"]
    assert (settings["clusterEndpoint"], settings["interruptionQueue"]) == ("x", "x")


def test_a_mirrored_rendering_names_no_public_registry() -> None:
    text = json.dumps([
        [release.chart.reference, release.chart.repository, release.values]
        for release in releases(MIRROR, gpuMetricsExporter=True).values()
    ])  # fmt: skip
    for public in ("public.ecr.aws", "ghcr.io", "github.io", "nvcr.io", "docker.io"):
        assert public not in text
    assert text.count(MIRROR.partition("/")[0]) == 9  # four charts, five images


def test_what_is_rendered_from_a_mirror_is_what_the_mirror_has_to_hold() -> None:
    found = releases(MIRROR, gpuMetricsExporter=True)
    image = found["keda"].values["image"]
    used = {release.chart.reference.removeprefix(f"oci://{MIRROR}/") for release in found.values()}
    repositories = (
        found["karpenter"].values["controller"]["image"]["repository"],
        found["dcgm-exporter"].values["image"]["repository"],
    )
    used |= {repository.removeprefix(f"{MIRROR}/") for repository in repositories}
    used |= {
        f"{one['registry']}/{one['repository']}".removeprefix(f"{MIRROR}/")
        for one in image.values()
        if isinstance(one, dict)
    }
    assert used == charts.third_party_sources(has_gpu_exporter=True).keys()
    assert charts.third_party_sources().keys() == {name for name in used if "dcgm" not in name}


def test_a_mirror_without_a_path_is_one_too() -> None:
    image = releases("registry.example")["keda"].values["image"]["keda"]
    assert image == {"registry": "registry.example", "repository": "kedacore/keda"}


def test_the_gpu_exporter_is_optional_and_runs_on_gpu_nodes_only() -> None:
    exporter = releases(gpuMetricsExporter=True)["dcgm-exporter"]
    assert exporter.values["image"] == {
        "repository": "nvcr.io/nvidia/k8s/dcgm-exporter", "tag": DCGM_EXPORTER_TAG,
    }  # fmt: skip
    assert f"-{exporter.chart.version}-" in DCGM_EXPORTER_TAG
    assert exporter.values["serviceMonitor"] == {"enabled": False}
    assert exporter.values["nodeSelector"]


def test_values_differ_with_the_configuration_only() -> None:
    assert releases() == releases()
    assert replace(releases()["keda"], values={}) == replace(releases(tags={"a": "b"})["keda"], values={})
