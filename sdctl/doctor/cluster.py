"""Rules about the cluster: its Kubernetes version, what fits it, and a cluster that is there already."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Final

from sdctl import versions
from sdctl.config.model import Config
from sdctl.doctor.check import Check, Topic
from sdctl.doctor.facts import AwsFacts, ToolFacts
from sdctl.reads import Unknown
from sdctl.versions import EKS_CALENDAR, KubernetesRelease

VERSION: Final = Topic(
    "kubernetes-version", "past its standard support a cluster costs six times as much, then ends"
)
COMPONENTS: Final = Topic(
    "components", "Karpenter, KEDA, the Mountpoint driver and Bottlerocket must fit Kubernetes"
)
IMAGE: Final = Topic(
    "node-image", "GPU nodes start from the pinned Bottlerocket image of the Kubernetes version"
)
CLUSTER: Final = Topic("cluster", "the cluster has the stack's name, which must be free or ours")
HELM: Final = Topic("helm", "helm puts the charts into the cluster")
_SOON: Final = timedelta(days=60)
_CHANGE_VERSION: Final = "set kubernetesVersion to {}, or leave it out"


def kubernetes_version(config: Config, facts: AwsFacts) -> str:
    """Return the Kubernetes version that a deploy of today would choose."""
    newest = versions.newest_fitting(_calendar(facts), facts.today)
    return config.kubernetes_version or newest or versions.KUBERNETES_DEFAULT


def _calendar(facts: AwsFacts) -> tuple[KubernetesRelease, ...]:
    return EKS_CALENDAR if isinstance(facts.calendar, Unknown) else facts.calendar


def cluster_checks(config: Config, facts: AwsFacts) -> Iterator[Check]:
    """Judge the Kubernetes version and what goes with it."""
    version = kubernetes_version(config, facts)
    yield _version(version, facts)
    yield _components(version, facts)
    yield _image(version, facts)
    yield _cluster(config, version, facts)


def _version(version: str, facts: AwsFacts) -> Check:
    calendar = _calendar(facts)
    source = " (by the calendar that sdctl came with)" if isinstance(facts.calendar, Unknown) else ""
    better = versions.newest_fitting(calendar, facts.today) or versions.KUBERNETES_DEFAULT
    fix = _CHANGE_VERSION.format(better)
    release = next((one for one in calendar if one.version == version), None)
    if release is None:
        offered = ", ".join(sorted((one.version for one in calendar), key=versions.numbers))
        judge = VERSION.warn if source else VERSION.fail
        return judge(f"{version} is not among what EKS offers: {offered}{source}", fix)
    match release.support(facts.today):
        case "ended":
            return VERSION.fail(f"support of {version} ended on {release.extended_ends}{source}", fix)
        case "extended":
            found = f"standard support of {version} ended on {release.standard_ends}{source}"
            return VERSION.warn(f"{found}; EKS raises it by itself, or bills extended support", fix)
        case "standard" if release.standard_ends - facts.today < _SOON:
            return VERSION.warn(f"standard support of {version} ends on {release.standard_ends}{source}", fix)
    return VERSION.ok(f"{version}, in standard support until {release.standard_ends}{source}")


def _components(version: str, facts: AwsFacts) -> Check:
    wrong = versions.misfits(version)
    if wrong:
        said = ", ".join(f"{one.name} {one.version} ({one.oldest} to {one.newest or 'any'})" for one in wrong)
        better = versions.newest_fitting(_calendar(facts), facts.today) or versions.KUBERNETES_DEFAULT
        return COMPONENTS.fail(f"Kubernetes {version} is not for {said}", _CHANGE_VERSION.format(better))
    names = [
        f"{one.name} {one.version}"
        + ("" if one.is_tested_with(version) else f" (its makers test it up to {one.tested[1]})")
        for one in versions.COMPONENTS
    ]
    return COMPONENTS.ok(f"{', '.join(names)} with Kubernetes {version}")


def _image(version: str, facts: AwsFacts) -> Check:
    if isinstance(facts.images, Unknown):
        return IMAGE.unknown(facts.images)
    name = f"Bottlerocket {versions.BOTTLEROCKET_VERSION} for Kubernetes {version}"
    if version not in facts.images:
        listed = ", ".join(sorted(facts.images, key=versions.numbers)) or "no version"
        return IMAGE.fail(
            f"{facts.region} has no image of {name} (it has: {listed})", "choose another kubernetesVersion"
        )
    return IMAGE.ok(name)


def _cluster(config: Config, version: str, facts: AwsFacts) -> Check:
    cluster, name = facts.cluster, config.stack_name
    if isinstance(cluster, Unknown):
        return CLUSTER.unknown(cluster)
    if cluster is None:
        return CLUSTER.ok(f"the name {name} is free")
    if cluster.tags.get("sdctl:stack") != name:
        return CLUSTER.fail(
            f"a cluster {name} exists that is not this deployment's", "choose another stackName, or -n NAME"
        )
    if cluster.status not in ("ACTIVE", "UPDATING", "CREATING"):
        return CLUSTER.fail(
            f"the cluster {name} is {cluster.status}", "wait until it is gone, or look at it in the console"
        )
    # A cluster that has just been asked for has no version yet.
    here, there = versions.numbers(cluster.version or version), versions.numbers(version)
    said = f"the cluster {name} runs Kubernetes {cluster.version}; {version} is wanted"
    if here[:2] > there[:2]:
        return CLUSTER.fail(f"{said}, and EKS never goes back", f"set kubernetesVersion to {cluster.version}")
    if there[1] - here[1] > 1:
        return CLUSTER.fail(
            f"{said}, and EKS takes one minor version at a time",
            f"set kubernetesVersion to {here[0]}.{here[1] + 1} first",
        )
    return CLUSTER.ok(said)


def helm_check(tools: ToolFacts, version: str, today: date) -> Check:
    """Judge the helm that would be used for a Kubernetes version.

    Args:
        tools: what was found.
        version: of Kubernetes.
        today: decides whether helm 3 still gets security fixes.
    """
    install = (
        "sdctl doctor --fix installs one"
        if tools.can_install
        else "install helm 4: https://helm.sh/docs/intro/install/"
    )
    if not tools.runs_programs:
        return HELM.fail(
            f"programs cannot be driven from {tools.platform}", "deploy from Linux or macOS, or from WSL"
        )
    if tools.helm_path is None:
        return HELM.fail("helm is not installed", install)
    found = tools.helm_version
    if isinstance(found, Unknown):
        return HELM.fail(f"{tools.helm_path} does not work: {found.reason}", install)
    said = f"helm {found} ({tools.helm_path})"
    newest = versions.numbers(versions.HELM_VERSION)[0]
    if versions.numbers(found) < versions.numbers(versions.OLDEST_HELM):
        return HELM.fail(f"{said} is older than {versions.OLDEST_HELM}", install)
    if versions.numbers(found)[0] > newest:
        return HELM.fail(f"{said}: helm {newest} is the newest that this sdctl drives", install)
    if versions.helm_fits(found, version) is False:
        return HELM.warn(f"{said} was not made for Kubernetes {version}", install)
    is_3 = versions.numbers(found)[0] == 3
    if is_3 and today > versions.HELM_3_ENDED:
        return HELM.warn(f"{said}: helm 3 has got no security fixes since {versions.HELM_3_ENDED}", install)
    return HELM.ok(said)
