"""The charts of others: pinned, wired to the cluster's stack, and free of public registries in a mirror."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from sdctl.config.model import Config
from sdctl.errors import ConfigError
from sdctl.releases import Release
from sdctl.render import charts
from sdctl.render.cluster import cluster_stack
from sdctl.versions import KARPENTER_VERSION, KEDA_VERSION

FACTS = charts.ClusterFacts("https://a.example", "farm-queue")
MIRROR = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/sdctl"


def config(**fields: object) -> Config:
    return Config.model_validate({"stackName": "farm", **fields})


def releases(mirror: str = "", **fields: object) -> dict[str, Release]:
    found = charts.third_party_releases(config(**fields), FACTS, mirror=mirror)
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
    outputs = cluster_stack(config(), model_bucket="models").template.document["Outputs"]
    facts = charts.ClusterFacts.from_outputs(dict.fromkeys(outputs, "x"))
    assert facts == charts.ClusterFacts("x", "x")


def test_a_mirrored_rendering_names_no_public_registry() -> None:
    text = json.dumps([
        [release.chart.reference, release.chart.repository, release.values]
        for release in releases(MIRROR).values()
    ])  # fmt: skip
    for public in ("public.ecr.aws", "ghcr.io", "github.io", "nvcr.io", "docker.io"):
        assert public not in text
    assert text.count(MIRROR.partition("/")[0]) == 7  # three charts, four images


def test_what_is_rendered_from_a_mirror_is_what_the_mirror_has_to_hold() -> None:
    found = releases(MIRROR)
    image = found["keda"].values["image"]
    used = {release.chart.reference.removeprefix(f"oci://{MIRROR}/") for release in found.values()}
    used |= {found["karpenter"].values["controller"]["image"]["repository"].removeprefix(f"{MIRROR}/")}
    used |= {
        f"{one['registry']}/{one['repository']}".removeprefix(f"{MIRROR}/")
        for one in image.values()
        if isinstance(one, dict)
    }
    assert used == charts.third_party_sources().keys()


def test_a_mirror_without_a_path_is_one_too() -> None:
    image = releases("registry.example")["keda"].values["image"]["keda"]
    assert image == {"registry": "registry.example", "repository": "kedacore/keda"}


def test_the_gpu_exporter_is_optional_and_needs_the_public_registry() -> None:
    found = charts.third_party_releases(config(), FACTS, has_gpu_exporter=True)
    assert found[-1].name == "dcgm-exporter"
    assert found[-1].values["serviceMonitor"] == {"enabled": False}
    with pytest.raises(ConfigError, match="not mirrored"):
        charts.third_party_releases(config(), FACTS, mirror=MIRROR, has_gpu_exporter=True)


def test_values_differ_with_the_configuration_only() -> None:
    assert releases() == releases()
    assert replace(releases()["keda"], values={}) == replace(releases(tags={"a": "b"})["keda"], values={})
