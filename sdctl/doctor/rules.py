"""All rules over the facts of a target, in the order in which they are shown; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

from sdctl.config.model import Config
from sdctl.doctor.account import account_checks, no_region
from sdctl.doctor.capacity import capacity_checks
from sdctl.doctor.check import Check
from sdctl.doctor.cluster import cluster_checks, helm_check, kubernetes_version
from sdctl.doctor.facts import AwsFacts, LocalFacts, ToolFacts
from sdctl.doctor.headroom import headroom_checks
from sdctl.doctor.key import key_checks
from sdctl.doctor.local import local_checks
from sdctl.doctor.names import name_checks
from sdctl.doctor.needs import RuntimeNeed
from sdctl.doctor.vcpus import QuotaRules
from sdctl.versions import KUBERNETES_DEFAULT


def judge_aws(
    config: Config,
    needs: Sequence[RuntimeNeed],
    tools: ToolFacts,
    facts: AwsFacts | None,
    *,
    today: date,
    is_simulated: bool = False,
) -> list[Check]:
    """Judge a deployment to AWS.

    Args:
        config: what is to be deployed.
        needs: what its runtimes may start.
        tools: the programs of this machine.
        facts: the account's; None where no region is known, so that nothing could be asked.
        today: decides which versions are still supported.
        is_simulated: whether permissions were simulated.
    """
    if facts is None:
        return [helm_check(tools, config.kubernetes_version or KUBERNETES_DEFAULT, today), no_region()]
    return [
        helm_check(tools, kubernetes_version(config, facts), today),
        *account_checks(facts, needs, is_simulated=is_simulated),
        *cluster_checks(config, facts),
        *name_checks(config, facts),
        *key_checks(config, facts),
        *QuotaRules(config, needs, facts).checks(),
        *capacity_checks(config, needs, facts),
        *headroom_checks(config, facts),
    ]


def judge_local(facts: LocalFacts) -> list[Check]:
    """Judge a deployment to this machine."""
    return list(local_checks(facts))
