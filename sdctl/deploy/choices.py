"""What a deploy chooses or refuses by what is there already: Kubernetes' version, what cannot be changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from sdctl.clients.cloudformation import StackState, StackView
from sdctl.config.model import Config
from sdctl.deploy.observed import ClusterFinds, Observed
from sdctl.deploy.release_plan import SHARED
from sdctl.errors import ConfigError
from sdctl.render.stacks import Stack
from sdctl.versions import KUBERNETES_DEFAULT, newest_fitting, numbers

# Of the cluster; a change makes CloudFormation build another one, whose name is taken by the first.
# https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-resource-eks-cluster.html
_FIXED: Final = ("Name", "EncryptionConfig", "BootstrapSelfManagedAddons", "KubernetesNetworkConfig")


def kubernetes_version(config: Config, finds: ClusterFinds, stack_version: str, today: date) -> str:
    """Choose the version of Kubernetes: the configured one, else the cluster's, else the newest that fits.

    Args:
        config: the configuration.
        finds: what runs, and what the region offers.
        stack_version: what the cluster's stack was last given, empty where there is none.
        today: decides what is in standard support.

    Raises:
        ConfigError: the cluster would go back, or over a version that it has to go through.
    """
    wanted = config.kubernetes_version
    if not finds.running_version:
        return wanted or newest_fitting(finds.calendar, today) or KUBERNETES_DEFAULT
    if wanted is None:
        return stack_version or finds.running_version
    here, there = numbers(finds.running_version), numbers(wanted)
    if there < here:
        raise ConfigError(
            f"kubernetesVersion: the cluster runs {finds.running_version} and cannot go back to {wanted}",
            hint="leave kubernetesVersion out, or deploy another stack",
        )
    if there > (here[0], here[1] + 1):
        raise ConfigError(
            f"kubernetesVersion: the cluster runs {finds.running_version} and goes up one version at a "
            f"time, not to {wanted}",
            hint=f'deploy with "{here[0]}.{here[1] + 1}" first',
        )
    return wanted


def first_deployer(config: Config, principal_arn: str, cluster: StackView | None) -> str:
    """Return whose own access entry the cluster has: who deployed it first keeps it, whoever deploys now.

    Raises:
        ConfigError: whoever deploys now is nobody that the cluster lets in.
    """
    is_there = cluster is not None and cluster.state not in (StackState.ABSENT, StackState.BROKEN)
    first = cluster.parameters.get("DeployerPrincipalArn", "") if cluster is not None and is_there else ""
    if not first:
        return principal_arn
    if principal_arn not in (first, *config.administrators):
        raise ConfigError(
            f"administrators: {principal_arn} deploys, but the cluster lets in {first} "
            f"and {', '.join(config.administrators) or 'nobody else'}",
            hint=f"add {principal_arn} to administrators, or deploy as {first}",
        )
    return first


def check_names(config: Config) -> None:
    """Refuse a runtime that is called as what is installed for all of them.

    Raises:
        ConfigError: names it.
    """
    for number, runtime in enumerate(config.runtimes):
        if runtime.name in SHARED:
            raise ConfigError(
                f"modelsRuntime/{number}/name: {runtime.name} is the name of a release of sdctl's own",
                hint="choose another name",
            )


def check_fixed(config: Config, observed: Observed, cluster: Stack) -> None:
    """Refuse what would need another cluster.

    Raises:
        ConfigError: the network or a fixed property of the cluster would change.
    """
    existing = observed.templates.get(cluster.name)
    if not existing:
        return
    has_own_network = f"{config.stack_name}-network" in observed.stacks
    if has_own_network == bool(config.network.vpc_id):
        raise ConfigError(
            "network.vpcId: a cluster cannot move to another VPC",
            hint="set it back, or deploy another stack beside this one",
        )
    before, after = _cluster_properties(existing), _cluster_properties(cluster.template.document)
    for name in _FIXED:
        if before.get(name) != after.get(name):
            reason = "kmsKeyArn: " if name == "EncryptionConfig" else ""
            raise ConfigError(
                f"{reason}{name} of a cluster is fixed at its creation: it is "
                f"{json.dumps(before.get(name))}, not {json.dumps(after.get(name))}",
                hint="set it back, or deploy another stack beside this one",
            )


def _cluster_properties(template: Mapping[str, Any]) -> Mapping[str, Any]:
    resources: Mapping[str, Mapping[str, Any]] = template.get("Resources", {})
    found = (body for body in resources.values() if body.get("Type") == "AWS::EKS::Cluster")
    properties: Mapping[str, Any] = next(found, {}).get("Properties", {})
    return properties
