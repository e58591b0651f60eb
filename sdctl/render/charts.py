"""The charts that others wrote: which releases a cluster needs, with their values; data, no effects.

Order matters: what an earlier release of the list brings (CRDs, webhooks), a later one may need. Versions
are those of `sdctl.versions`. With a mirror, charts and images come from one private registry, under the
paths that they have where they come from; nothing then names a public registry.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from sdctl.config.model import Config, RuntimeConfig
from sdctl.releases import Chart, Release
from sdctl.render.stacks import Output
from sdctl.versions import (
    DCGM_EXPORTER_CHART,
    DCGM_EXPORTER_IMAGE,
    DCGM_EXPORTER_REPOSITORY,
    DCGM_EXPORTER_TAG,
    DCGM_EXPORTER_VERSION,
    KARPENTER_CHART,
    KARPENTER_CRD_CHART,
    KARPENTER_VERSION,
    KEDA_CHART,
    KEDA_REPOSITORY,
    KEDA_VERSION,
)

# Both are in the trust of the pod identities that the cluster's stack makes.
KARPENTER_NAMESPACE: Final = "kube-system"
KARPENTER_ACCOUNT: Final = "karpenter"
KEDA_NAMESPACE: Final = "keda"
KEDA_ACCOUNT: Final = "keda-operator"

_KARPENTER_IMAGE: Final = "public.ecr.aws/karpenter/controller"
# What the mirror keeps the charts as that come from https repositories.
_MIRRORED_KEDA_CHART: Final = "kedacore/charts/keda"
_MIRRORED_DCGM_CHART: Final = "nvidia/charts/dcgm-exporter"
# KEDA's images by their place in the chart's values: https://github.com/kedacore/charts/tree/v2.20.2/keda
_KEDA_REGISTRY: Final = "ghcr.io"
_KEDA_IMAGES: Final = {
    "keda": "kedacore/keda",
    "metricsApiServer": "kedacore/keda-metrics-apiserver",
    "webhooks": "kedacore/keda-admission-webhooks",
}
DCGM_NAMESPACE: Final = "gpu-metrics"

# What Karpenter's own guide gives its controller: https://karpenter.sh/docs/getting-started/
_KARPENTER_RESOURCES: Final = {"cpu": "1", "memory": "1Gi"}


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What only a cluster that exists knows: outputs of its stack, or their values."""

    endpoint: str | Output
    interruption_queue: str | Output

    @classmethod
    def of(cls, config: Config) -> ClusterFacts:
        """Name the outputs of the cluster's stack, to be resolved when it is there."""
        stack = f"{config.stack_name}-cluster"
        return cls(Output(stack, "ClusterEndpoint"), Output(stack, "InterruptionQueueName"))


def third_party_releases(config: Config, facts: ClusterFacts) -> tuple[Release, ...]:
    """List the releases of others' charts, in the order in which they are installed.

    Args:
        config: the configuration; with an `image_registry` nothing comes from anywhere else.
        facts: what the cluster's stack gives.
    """
    mirror = config.image_registry or ""
    releases = [_karpenter_crds(mirror), _karpenter(config, facts, mirror), _keda(config, mirror)]
    return tuple(releases + ([_gpu_exporter(mirror)] if config.gpu_metrics_exporter else []))


def mirrored(reference: str, mirror: str) -> str:
    """Name an image in the mirror: its path stays, its registry changes; unchanged without a mirror."""
    return f"{mirror}/{reference.partition('/')[2]}" if mirror else reference


def _oci_chart(reference: str, version: str, mirror: str) -> Chart:
    return Chart(f"oci://{mirrored(reference.removeprefix('oci://'), mirror)}", version)


def _karpenter_crds(mirror: str) -> Release:
    """Helm never upgrades the CRDs inside a chart: as a release of their own they are upgraded."""
    chart = _oci_chart(KARPENTER_CRD_CHART, KARPENTER_VERSION, mirror)
    return Release("karpenter-crd", KARPENTER_NAMESPACE, chart)


def _karpenter(config: Config, facts: ClusterFacts, mirror: str) -> Release:
    values: dict[str, Any] = {
        # Its replicas refuse to share a node.
        "replicas": min(2, config.cluster_components.desired_count),
        "serviceAccount": {"create": True, "name": KARPENTER_ACCOUNT},
        "settings": {
            "clusterName": config.stack_name,
            "clusterEndpoint": facts.endpoint,
            "interruptionQueue": facts.interruption_queue,
            "eksControlPlane": True,
            # Without a NAT gateway there is no way to the price list, for which no endpoint exists.
            "isolatedVPC": config.network.nat_mode == "none",
        },
        "controller": {"resources": {"requests": _KARPENTER_RESOURCES, "limits": _KARPENTER_RESOURCES}},
    }
    if any(_shares_gpus(runtime) for runtime in config.runtimes):
        # Alpha in Karpenter, and the only way to tell it of shares of a GPU.
        values["settings"]["featureGates"] = {"nodeOverlay": True}
    if mirror:
        values["controller"]["image"] = {"repository": mirrored(_KARPENTER_IMAGE, mirror)}
    chart = _oci_chart(KARPENTER_CHART, KARPENTER_VERSION, mirror)
    return Release("karpenter", KARPENTER_NAMESPACE, chart, values, skip_crds=True)


def _shares_gpus(runtime: RuntimeConfig) -> bool:
    strategy = runtime.extra_value("karpenter", "nodeTemplate", "gpuSharing", "strategy")
    return strategy not in (None, "none")


def _keda(config: Config, mirror: str) -> Release:
    """KEDA needs no values to sign in: EKS gives its service account a role, and it uses the SDK's chain."""
    image: dict[str, Any] = {"pullPolicy": "IfNotPresent"}
    if mirror:
        host, _, path = mirror.partition("/")
        prefix = f"{path}/" if path else ""
        image |= {
            part: {"registry": host, "repository": prefix + repository}
            for part, repository in _KEDA_IMAGES.items()
        }
    values: dict[str, Any] = {
        "clusterName": config.stack_name,
        "image": image,
        "serviceAccount": {"operator": {"create": True, "name": KEDA_ACCOUNT}},
        "logging": {"operator": {"format": "json"}},
    }
    public = Chart(KEDA_CHART, KEDA_VERSION, KEDA_REPOSITORY)
    chart = Chart(f"oci://{mirror}/{_MIRRORED_KEDA_CHART}", KEDA_VERSION) if mirror else public
    return Release("keda", KEDA_NAMESPACE, chart, values)


def _gpu_exporter(mirror: str) -> Release:
    values: dict[str, Any] = {
        "image": {"repository": mirrored(DCGM_EXPORTER_IMAGE, mirror), "tag": DCGM_EXPORTER_TAG},
        # The monitor is an object of the Prometheus operator, which a cluster need not have.
        "serviceMonitor": {"enabled": False},
        "nodeSelector": {"karpenter.k8s.aws/instance-gpu-manufacturer": "nvidia"},
        "tolerations": [{"operator": "Exists"}],
    }
    public = Chart(DCGM_EXPORTER_CHART, DCGM_EXPORTER_VERSION, DCGM_EXPORTER_REPOSITORY)
    chart = Chart(f"oci://{mirror}/{_MIRRORED_DCGM_CHART}", DCGM_EXPORTER_VERSION) if mirror else public
    return Release("dcgm-exporter", DCGM_NAMESPACE, chart, values)


def third_party_sources(*, has_gpu_exporter: bool = False) -> dict[str, str]:
    """List what a mirror has to hold: where each image and chart comes from, by its path in the mirror.

    Charts are marked by their scheme: `oci://…`, or `https://…` with the chart's name behind `#`. Karpenter's
    image is pinned by digest in its chart, so a copy must keep the whole index.
    """
    charts = {
        _path(KARPENTER_CHART.removeprefix("oci://")): f"{KARPENTER_CHART}:{KARPENTER_VERSION}",
        _path(KARPENTER_CRD_CHART.removeprefix("oci://")): f"{KARPENTER_CRD_CHART}:{KARPENTER_VERSION}",
        _MIRRORED_KEDA_CHART: f"{KEDA_REPOSITORY}#{KEDA_CHART}:{KEDA_VERSION}",
    }
    images = {_path(_KARPENTER_IMAGE): f"{_KARPENTER_IMAGE}:{KARPENTER_VERSION}"} | {
        repository: f"{_KEDA_REGISTRY}/{repository}:{KEDA_VERSION}" for repository in _KEDA_IMAGES.values()
    }
    exporter = {
        _MIRRORED_DCGM_CHART: f"{DCGM_EXPORTER_REPOSITORY}#{DCGM_EXPORTER_CHART}:{DCGM_EXPORTER_VERSION}",
        _path(DCGM_EXPORTER_IMAGE): f"{DCGM_EXPORTER_IMAGE}:{DCGM_EXPORTER_TAG}",
    }
    return charts | images | (exporter if has_gpu_exporter else {})


def _path(reference: str) -> str:
    return reference.partition("/")[2]
