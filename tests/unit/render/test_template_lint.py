"""Every template of every option in every region: cfn-lint, the rules it lacks, what China cannot have."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from functools import cache
from typing import Any

import pytest

from sdctl.render.stacks import Stack
from support.template_configs import CONFIGS, REGIONS, config, every_template, releases, stacks
from support.template_rules import RULES, findings

TEMPLATES = every_template()
# Between them these render every resource type and every option.
COVERING = ("guide/", "isolated/", "everything/", "two-zones/network")
INLINE_BYTES = 51_200


@cache
def lint_rules() -> Any:
    """Load the rules once: that takes longer than most templates."""
    from cfnlint.core import get_rules

    return get_rules([], [], ["W", "E"])


def lint(stack: Stack, regions: tuple[str, ...]) -> list[str]:
    from cfnlint.api import lint as cfn_lint

    return [str(match) for match in cfn_lint(stack.template.text, lint_rules(), list(regions))]


def test_there_are_configurations_for_every_option_and_every_region_sees_each_stack() -> None:
    assert len(CONFIGS) >= 12
    assert {region for _, regions in TEMPLATES.values() for region in regions} == set(REGIONS)
    used = {key for name in CONFIGS for key in CONFIGS[name]}
    fields = type(config("guide")).model_fields.items()
    assert used == {field.alias or name for name, field in fields}


def test_the_quick_half_covers_every_resource_type() -> None:
    def types(names: list[str]) -> set[str]:
        bodies = [
            body for name in names for body in TEMPLATES[name][0].template.document["Resources"].values()
        ]
        return {body["Type"] for body in bodies}

    assert types([name for name in TEMPLATES if name.startswith(COVERING)]) == types(list(TEMPLATES))


@pytest.mark.parametrize(
    "name",
    [name if name.startswith(COVERING) else pytest.param(name, marks=pytest.mark.full) for name in TEMPLATES],
)
def test_cfn_lint_finds_nothing(name: str) -> None:
    assert lint(*TEMPLATES[name]) == []


def test_cfn_lint_would_find_what_a_region_does_not_have() -> None:
    stack = deepcopy(stacks("guide")["network"])
    text = stack.template.text.replace(
        "Type: AWS::EC2::InternetGateway", "Type: AWS::XRay::TransactionSearchConfig"
    )
    assert lint(Stack(stack.name, type(stack.template)("x", text, {})), ("cn-northwest-1",))


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_rules_that_cfn_lint_lacks_find_nothing_either(name: str) -> None:
    assert findings(TEMPLATES[name][0].template.document) == []


_FIRST = ("Policies", 0, "PolicyDocument", "Statement", 0)
_FULL_ACCESS = ["arn:aws:iam::aws:policy/AmazonSQSFullAccess"]
# One thing wrong for each rule: (stack, logical id or a prefix of it, path to the value, the wrong value).
WRONG: list[tuple[str, str, str, tuple[str | int, ...], Any]] = [
    ("function_sizes", "front", "ApiFunction", ("MemorySize",), 20_000),
    ("function_sizes", "front", "ApiFunction", ("Timeout",), 901),
    ("node_types", "cluster", "SystemNodes", ("InstanceTypes",), ["m7q.large"]),
    ("filter_policies", "runtime-sdruntime", "Subscription", ("FilterPolicyScope",), "Attributes"),
    ("filter_policies", "runtime-sdruntime", "Subscription", ("FilterPolicy",), {"runtime": "a"}),
    ("queue_endpoints", "runtime-sdruntime", "Subscription", ("Endpoint",), {"Ref": "InputTopicArn"}),
    ("privileges", "cluster", "KedaRole", (*_FIRST, "Resource"), ["*"]),
    ("privileges", "cluster", "KedaRole", (*_FIRST, "Action"), "sqs:*"),
    ("managed_policies", "cluster", "KedaRole", ("ManagedPolicyArns",), _FULL_ACCESS),
    ("encryption", "cluster", "InterruptionQueue", ("SqsManagedSseEnabled",), False),
    ("encryption", "front", "OutputBucket", ("PublicAccessBlockConfiguration", "BlockPublicAcls"), False),
    ("retention", "cluster", "ClusterLog", ("RetentionInDays",), None),
]  # fmt: skip


@pytest.mark.parametrize(("rule", "kind", "logical", "path", "value"), WRONG)
def test_each_rule_finds_what_is_wrong(
    rule: str, kind: str, logical: str, path: tuple[str | int, ...], value: Any
) -> None:
    template = deepcopy(stacks("guide")[kind].template.document)
    place = template["Resources"][logical]["Properties"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert [text.partition(":")[0] for text in findings(template)] == [rule]


def test_the_rules_of_the_api_and_of_sizes_find_what_is_wrong() -> None:
    template = deepcopy(stacks("guide")["front"].template.document)
    methods = [one for one in template["Resources"].values() if one["Type"] == "AWS::ApiGateway::Method"]
    proxied = [one for one in methods if one["Properties"]["Integration"]["Type"] == "AWS_PROXY"]
    del proxied[0]["Properties"]["Integration"]["Uri"]
    (deployment,) = [
        one for one in template["Resources"].values() if one["Type"] == "AWS::ApiGateway::Deployment"
    ]
    deployment["DependsOn"] = deployment["DependsOn"][1:]
    template["Description"] = "x" * 1025
    found = {text.partition(":")[0] for text in findings(template)}
    assert found == {"proxies", "deployments", "sizes"}
    tested = {row[0] for row in WRONG} | found
    assert tested == RULES.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_that_is_given_is_one_of_the_template(name: str) -> None:
    for kind, stack in stacks(name).items():
        assert set(stack.parameters) <= set(stack.template.document.get("Parameters", {})), kind


# Principals that are called the same in China: https://docs.amazonaws.cn/en_us/aws/latest/userguide/iam.html
CHINA_PRINCIPALS = {
    "apigateway", "cloudwatch", "eks", "events", "lambda", "pods.eks", "sns", "states",
}  # fmt: skip
PUBLIC_REGISTRIES = (
    "public.ecr.aws", "ghcr.io", "github.io", "nvcr.io", "docker.io", "quay.io", "registry.k8s.io", "gcr.io",
)  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_no_rendering_for_china_names_another_partition_or_a_public_registry(name: str) -> None:
    texts = {kind: stack.template.body for kind, stack in stacks(name, "aws-cn").items()}
    texts |= {
        release.name: json.dumps(
            [release.chart.reference, release.chart.repository, release.values], default=str
        )
        for release in releases(name, "aws-cn")
    }
    for kind, text in texts.items():
        assert "arn:aws:" not in text, kind
        assert "arn:aws-us-gov:" not in text, kind
        assert not [registry for registry in PUBLIC_REGISTRIES if registry in text], kind
        # What Karpenter may pass its role to is named in both spellings, as in its reference policy.
        rest = text.replace('["ec2.amazonaws.com","ec2.amazonaws.com.cn"]', "")
        hosts = set(re.findall(r"([a-z0-9.-]*)\.amazonaws\.com(?!\.cn)", rest))
        assert hosts <= CHINA_PRINCIPALS, kind


def test_no_template_needs_more_room_than_a_request_has_but_those_that_travel_through_the_asset_bucket() -> (
    None
):
    large = {
        name.partition(" ")[0]: len(stack.template.body.encode())
        for name, (stack, _) in TEMPLATES.items()
        if len(stack.template.body.encode()) > INLINE_BYTES
    }
    assert large == {}
