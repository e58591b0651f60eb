"""The stacks of options: each stands alone, so that none can hold up or roll back what the farm needs."""

from __future__ import annotations

from typing import Any, Final

from sdctl.config.model import BudgetConfig, Config, ThroughputTuner
from sdctl.render.engine import render_yaml
from sdctl.render.policies import Statement, allow
from sdctl.render.stacks import STACK_TAG, Stack, stack_tags

BUDGET_TEMPLATE: Final = "budget.yaml.j2"
TUNER_TEMPLATE: Final = "tuner.yaml.j2"
# When a budget's mails go out: of what was spent, and of what the month is going to cost.
_NOTIFICATIONS: Final = (("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100))
# A new instance is not known everywhere at once; a busy API refuses for a moment.
_RETRY: Final = [
    {"ErrorEquals": ["States.TaskFailed"], "IntervalSeconds": 5, "MaxAttempts": 4, "BackoffRate": 3}
]


def option_stack_names(stack_name: str) -> dict[str, str]:
    """Return the name of each option's stack by the option, whether it is chosen or not."""
    return {option: f"{stack_name}-{option}" for option in ("budget", "tuner")}


def option_stacks(config: Config) -> dict[str, Stack]:
    """Render the stacks of the chosen options, by option; they need no other stack."""
    contexts: dict[str, tuple[str, dict[str, Any]]] = {}
    if config.budget:
        contexts["budget"] = BUDGET_TEMPLATE, _budget(config, config.budget)
    if config.ebs_throughput_tuner:
        contexts["tuner"] = TUNER_TEMPLATE, _tuner(config, config.ebs_throughput_tuner)
    names = option_stack_names(config.stack_name)
    return {
        option: Stack(names[option], render_yaml(template, context), {}, stack_tags(config))
        for option, (template, context) in contexts.items()
    }


def _budget(config: Config, budget: BudgetConfig) -> dict[str, Any]:
    return {
        "description": f"sdctl {config.stack_name}: budget",
        "name": f"{config.stack_name}-budget",
        "monthly_amount": budget.monthly_amount,
        "email": budget.email,
        # https://docs.aws.amazon.com/cost-management/latest/userguide/budgets-create-filters.html
        "tag_filter": f"user:{STACK_TAG}${config.stack_name}",
        "notifications": [{"type": kind, "percent": percent} for kind, percent in _NOTIFICATIONS],
    }


def _tuner(config: Config, tuner: ThroughputTuner) -> dict[str, Any]:
    owned = f"kubernetes.io/cluster/{config.stack_name}"
    return {
        "description": f"sdctl {config.stack_name}: lowers the volumes of GPU nodes once they need less",
        "permissions_boundary_arn": config.permissions_boundary_arn,
        "statements": _tuner_statements(owned),
        # Karpenter gives these tags to its instances and their volumes.
        "node_filters": [
            {"Name": f"tag:{owned}", "Values": ["owned"]},
            {"Name": "tag-key", "Values": ["karpenter.sh/nodepool"]},
        ],
        "retry": _RETRY,
        "delay_seconds": tuner.delay_seconds,
        "iops": tuner.iops,
        "throughput_mib_per_second": tuner.throughput_mib_per_second,
    }


def _tuner_statements(owned: str) -> list[Statement]:
    """Describe what knows no narrower resource; modify the volumes of this cluster's GPU nodes alone."""
    volumes = {"Fn::Sub": "arn:${AWS::Partition}:ec2:${AWS::Region}:${AWS::AccountId}:volume/*"}
    return [
        allow(
            ["ec2:DescribeInstances", "ec2:DescribeVolumes"],
            ["*"],
            StringEquals={"aws:RequestedRegion": {"Ref": "AWS::Region"}},
        ),
        allow(
            ["ec2:ModifyVolume"],
            [volumes],
            StringEquals={f"aws:ResourceTag/{owned}": "owned"},
            StringLike={"aws:ResourceTag/karpenter.sh/nodepool": "*"},
        ),
    ]
