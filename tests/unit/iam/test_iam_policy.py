"""The computed policies against the service authorization reference, and what they must never allow."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest

from sdctl.config.model import Config
from sdctl.deploy.planner import bucket_name
from sdctl.iam import handlers
from sdctl.iam.calls import CALLS, PURPOSES, Purpose
from sdctl.iam.policy import MAX_POLICY_CHARACTERS, characters, policy, split, stacks_of
from sdctl.iam.scopes import Place, named
from sdctl.render.policies import KEPT_NAME_LENGTH
from support import handler_permissions, iam_configs
from support.iam_evaluator import Request, allows, grants

ACCOUNT = "123456789012"
IAM, EC2 = f"arn:aws:iam::{ACCOUNT}", f"arn:aws:ec2:us-west-2:{ACCOUNT}"
OF, MADE_FOR = "aws:ResourceTag/sdctl:stack", "aws:RequestTag/sdctl:stack"
PLACES = {partition: Place(region, ACCOUNT) for partition, region in iam_configs.REGIONS.items()}
EVERY = [
    pytest.param(purpose, name, partition, id=f"{purpose}-{name}-{partition}")
    for purpose in PURPOSES
    for name in (iam_configs.CONFIGS if purpose in ("deploy", "destroy") else ("defaults", "bounded"))
    for partition in PLACES
]


# Called for all at once there is nothing to name: IAM is asked for every one of the region.
WITHOUT_A_NAME = {"cloudformation:DescribeStacks"}


@cache
def document(purpose: Purpose, name: str = "defaults", partition: str = "aws") -> dict[str, Any]:
    return policy(purpose, iam_configs.config(name, partition), PLACES[partition])


def test_every_type_that_a_template_uses_is_in_the_data() -> None:
    missing = iam_configs.rendered_types() - set(handlers.handlers().types)
    assert not missing, "run: python tests/support/handler_permissions.py"


def test_the_data_is_what_the_installed_schemas_say() -> None:
    shipped = json.loads(handler_permissions.TARGET.read_text(encoding="utf-8"))
    if shipped["schema_date"] != handler_permissions.schema_date():
        pytest.skip(f"cfn-lint carries the schemas of {handler_permissions.schema_date()}")
    assert handler_permissions.collect(shipped["types"]) == shipped
    assert set(shipped["types"]) == iam_configs.rendered_types()


@pytest.mark.parametrize(("purpose", "name", "partition"), EVERY)
def test_every_action_exists_and_is_named_in_full(purpose: Purpose, name: str, partition: str) -> None:
    for statement in document(purpose, name, partition)["Statement"]:
        for action in statement["Action"]:
            assert re.fullmatch(r"[a-z0-9-]+:[A-Za-z]+", action)
            assert handler_permissions.known(action) is not None, action


@pytest.mark.parametrize(("purpose", "name", "partition"), EVERY)
def test_a_resource_is_as_narrow_as_its_service_lets_it_be(
    purpose: Purpose, name: str, partition: str
) -> None:
    """`*` only where an action knows no resource; else an ARN that fits one of its kinds of resources."""
    for statement in document(purpose, name, partition)["Statement"]:
        for action in statement["Action"]:
            kinds = handler_permissions.kinds(action)
            for resource in statement["Resource"]:
                if resource == "*":
                    assert kinds == [] or action in WITHOUT_A_NAME, action
                else:
                    assert any(fits(resource, format_) for format_ in formats(action)), (action, resource)


def formats(action: str) -> list[str]:
    return [arn for entry in entries(action) for arn in entry["ARNFormats"]]


def entries(action: str) -> list[dict[str, Any]]:
    """What the reference says of each kind of resources of an action."""
    kinds = handler_permissions.kinds(action)
    resources = handler_permissions.reference()[action.partition(":")[0]]["Resources"]
    return [entry for kind, entry in resources.items() if kind.lower() in kinds]


def fits(resource: str, format_: str) -> bool:
    """Compare the first five parts of an ARN as they are, the rest by the reference's pattern."""
    *head, tail = format_.split(":", 5)
    *found, name = resource.split(":", 5)
    same = all("${" in want or want == have for want, have in zip(head, found, strict=True))
    return same and re.fullmatch(tail.replace("${", r"\$\{"), name) is not None


@pytest.mark.parametrize(("purpose", "name", "partition"), EVERY)
def test_a_condition_on_a_resource_is_one_that_the_resource_has(
    purpose: Purpose, name: str, partition: str
) -> None:
    """One that it lacks would never hold, and deny everything."""
    for statement in document(purpose, name, partition)["Statement"]:
        keys = [key for condition in statement.get("Condition", {}).values() for key in condition]
        for key in keys:
            if key.startswith(("aws:ResourceTag/", "ssm:resourceTag/", "ec2:LaunchTemplate")):
                general = re.sub(r"Tag/.*", "Tag/${TagKey}", key)
                for action, resource in itertools.product(statement["Action"], statement["Resource"]):
                    kinds = [
                        one for one in entries(action) if any(fits(resource, a) for a in one["ARNFormats"])
                    ]
                    assert any(general in one.get("ConditionKeys", []) for one in kinds), (action, resource)


@pytest.mark.slow
def test_cfn_lint_finds_nothing_in_the_policies_as_managed_policies(tmp_path: Path) -> None:
    for partition, region in iam_configs.REGIONS.items():
        resources = {
            f"Policy{purpose.capitalize()}{number}": {
                "Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": part},
            }
            for purpose in PURPOSES
            for number, part in enumerate(split(document(purpose, "defaults", partition)))
        }  # fmt: skip
        path = tmp_path / f"{partition}.json"
        path.write_text(json.dumps({"AWSTemplateFormatVersion": "2010-09-09", "Resources": resources}))
        done = subprocess.run(
            [str(Path(sys.executable).parent / "cfn-lint"), "-r", region, "--", str(path)],
            capture_output=True, text=True, timeout=110, check=False,
        )  # fmt: skip
        assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_policy_for_china_is_of_china(purpose: Purpose) -> None:
    text = json.dumps(document(purpose, "defaults", "aws-cn"))
    assert "arn:aws:" not in text
    assert "us-west-2" not in text
    if purpose == "deploy":
        assert '"ec2.amazonaws.com.cn"' in text
        assert "arn:aws-cn:iam::aws:policy/AmazonEKSClusterPolicy" in text


@pytest.mark.parametrize("name", iam_configs.CONFIGS)
def test_whatever_a_handler_may_call_is_allowed_or_tied_to_a_property_we_do_not_set(name: str) -> None:
    config = iam_configs.config(name)
    allowed = {action for action, _, _ in grants(policy("deploy", config, PLACES["aws"]))}
    data = handlers.handlers()
    for stack in stacks_of(config, partition="aws"):
        for body in stack.template.document["Resources"].values():
            for operation in handlers.CHANGING:
                for action in set(data.types[body["Type"]].get(operation, ())) - allowed:
                    table = handlers.OPTIONAL.get(body["Type"], {})
                    needs = table.get(action, table.get(action.partition(":")[0] + ":"))
                    is_bounded = config.permissions_boundary_arn and "DeleteRolePermissions" in action
                    assert needs is not None or is_bounded, (body["Type"], action)
                    assert not any(f'"{key}"' in json.dumps(body) for key in needs or ())


def test_the_table_of_optional_permissions_names_what_the_schemas_have() -> None:
    for resource_type, table in handlers.OPTIONAL.items():
        text = json.dumps(handler_permissions.schema(resource_type, "us-east-1"))
        actions = {one for found in handlers.handlers().types[resource_type].values() for one in found}
        for action, properties in table.items():
            assert any(one == action or (action.endswith(":") and one.startswith(action)) for one in actions)
            assert all(f'"{name}"' in text for name in properties), (resource_type, action)


def test_a_property_that_needs_more_brings_the_permission_with_it() -> None:
    plain = {"Type": "AWS::SNS::Topic", "Properties": {}}
    logged = {"Type": "AWS::SNS::Topic", "Properties": {"DeliveryStatusLogging": [{"Protocol": "sqs"}]}}
    assert "iam:PassRole" not in handlers.handler_actions([plain], handlers.CHANGING)
    assert "iam:PassRole" in handlers.handler_actions([plain, logged], handlers.CHANGING)


def test_what_is_taken_away_by_tag_is_tagged_when_it_is_made() -> None:
    """A type that takes no tags of the stack must carry the tag in its template."""
    config = iam_configs.config("defaults")
    conditioned = {
        (action, resource) for action, resource, condition in grants(document("deploy"))
        if "aws:ResourceTag" in condition and action.startswith("ec2:D") and action != "ec2:DeleteTags"
    }  # fmt: skip
    assert conditioned
    kinds = {resource.rsplit(":", 1)[1].removesuffix("/*") for _, resource in conditioned}
    types = {"elastic-ip": "EIP", "natgateway": "NatGateway", "vpc": "VPC", "vpc-endpoint": "VPCEndpoint"}
    for kind in kinds - {"launch-template"}:
        of_kind = types.get(kind) or "".join(part.capitalize() for part in kind.split("-"))
        assert handler_permissions.schema(f"AWS::EC2::{of_kind}", "us-east-1")["tagging"]["tagOnCreate"]
    (template,) = (
        body["Properties"]
        for stack in stacks_of(config, partition="aws")
        for body in stack.template.document["Resources"].values()
        if body["Type"] == "AWS::EC2::LaunchTemplate"
    )
    (specification,) = template["TagSpecifications"]
    assert specification["ResourceType"] == "launch-template"
    assert {"Key": "sdctl:stack", "Value": config.stack_name} in specification["Tags"]


FOREIGN = [
    Request("iam:PutRolePolicy", f"{IAM}:role/Admin"),
    Request("iam:PassRole", f"{IAM}:role/Admin", {"iam:PassedToService": ("lambda.amazonaws.com",)}),
    Request(
        "iam:PassRole", f"{IAM}:role/sdoneksStack-ApiRole-X", {"iam:PassedToService": ("glue.amazonaws.com",)}
    ),
    Request(
        "iam:AttachRolePolicy",
        f"{IAM}:role/sdoneksStack-ApiRole-X",
        {"iam:PolicyARN": ("arn:aws:iam::aws:policy/AdministratorAccess",)},
    ),
    Request(
        "iam:CreateServiceLinkedRole",
        f"{IAM}:role/aws-service-role/eks.amazonaws.com/X",
        {"iam:AWSServiceName": ("guardduty.amazonaws.com",)},
    ),
    Request("ec2:DeleteVpc", f"{EC2}:vpc/vpc-1", {OF: ("other",)}),
    Request("ec2:DeleteSubnet", f"{EC2}:subnet/subnet-1"),
    Request("ec2:RunInstances", f"{EC2}:instance/*"),
    Request("eks:DeleteCluster", f"arn:aws:eks:us-west-2:{ACCOUNT}:cluster/other"),
    Request("sqs:DeleteQueue", f"arn:aws:sqs:us-west-2:{ACCOUNT}:other"),
    Request("s3:DeleteBucket", "arn:aws:s3:::others-data"),
    Request("s3:GetObject", "arn:aws:s3:::sdoneksstack-outputbucket-1/output/x/x.png"),
    Request("dynamodb:GetItem", f"arn:aws:dynamodb:us-west-2:{ACCOUNT}:table/sdoneksStack-TaskTable-X"),
    Request("sqs:ReceiveMessage", f"arn:aws:sqs:us-west-2:{ACCOUNT}:sdoneksStack-QueueSdruntime-X"),
    Request(
        "lambda:InvokeFunction", f"arn:aws:lambda:us-west-2:{ACCOUNT}:function:sdoneksStack-ApiFunction-X"
    ),
    Request("apigateway:DELETE", "arn:aws:apigateway:us-west-2::/restapis/abc", {OF: ("other",)}),
    Request("apigateway:GET", "arn:aws:apigateway:us-west-2::/apikeys"),
    Request("ec2:CreateTags", f"{EC2}:vpc/vpc-1", {MADE_FOR: ("other",)}),
    Request("cloudformation:DeleteStack", f"arn:aws:cloudformation:us-west-2:{ACCOUNT}:stack/payroll/1"),
]


@pytest.mark.parametrize("request_", FOREIGN, ids=lambda request: f"{request.action}")
@pytest.mark.parametrize("purpose", ["deploy", "destroy"])
def test_nothing_of_others_and_no_data_can_be_touched(purpose: Purpose, request_: Request) -> None:
    assert not allows(document(purpose), request_)


OWN = [
    Request("iam:PutRolePolicy", f"{IAM}:role/sdoneksStack-ApiRole-1A2B"),
    Request(
        "iam:PassRole",
        f"{IAM}:role/sdoneks-cluster-ClusterRole-X",
        {"iam:PassedToService": ("eks.amazonaws.com",)},
    ),
    Request("ec2:DeleteVpc", f"{EC2}:vpc/vpc-1", {OF: ("sdoneks",)}),
    Request("eks:CreateCluster", "*", {MADE_FOR: ("sdoneks",)}),
    Request("sqs:CreateQueue", f"arn:aws:sqs:us-west-2:{ACCOUNT}:sdoneks"),
    Request("logs:CreateLogGroup", f"arn:aws:logs:us-west-2:{ACCOUNT}:log-group:/aws/eks/sdoneks/cluster:*"),
    Request("logs:TagResource", f"arn:aws:logs:us-west-2:{ACCOUNT}:log-group:/aws/eks/sdoneks/cluster"),
    Request("apigateway:POST", "arn:aws:apigateway:us-west-2::/restapis", {MADE_FOR: ("sdoneks",)}),
    Request("apigateway:POST", "arn:aws:apigateway:us-west-2::/restapis/abc/resources", {OF: ("sdoneks",)}),
]


@pytest.mark.parametrize("request_", OWN, ids=lambda request: f"{request.action}")
def test_what_a_deployment_is_made_of_can_be_made(request_: Request) -> None:
    assert allows(document("deploy"), request_)


def test_a_teardown_creates_and_changes_nothing() -> None:
    actions = {action for action, _, _ in grants(document("destroy"))}
    making = ("Create", "Put", "Run", "Update", "Attach", "Associate", "Authorize", "Allocate", "Pass")
    assert not allows(
        document("destroy"), Request("s3:PutObject", "arn:aws:s3:::sdoneks-assets-0a1b2c3d4e/x")
    )
    assert {one for one in actions if one.partition(":")[2].startswith(making)} == {
        # The lock, and nothing else.
        "s3:PutObject",
        # The schema of VPC endpoints lists this for every handler; what it may tag is the deployment's.
        "ec2:CreateTags",
        # Protection from deletion is switched off first.
        "cloudformation:UpdateTerminationProtection", "eks:UpdateClusterConfig",
    }  # fmt: skip
    assert not allows(document("destroy"), Request("ec2:CreateTags", f"{EC2}:vpc/v"))


def test_a_permissions_boundary_is_demanded_of_every_role_and_cannot_be_taken_off() -> None:
    bounded = document("deploy", "bounded")
    role = f"{IAM}:role/sdoneksStack-ApiRole-X"
    boundary = {"iam:PermissionsBoundary": ("arn:aws:iam::123456789012:policy/boundary",)}
    for action in ("iam:CreateRole", "iam:PutRolePolicy", "iam:PutRolePermissionsBoundary"):
        assert allows(bounded, Request(action, role, boundary))
        assert not allows(bounded, Request(action, role))
    assert not allows(bounded, Request("iam:DeleteRolePermissionsBoundary", role, boundary))


def test_a_configured_model_bucket_is_looked_at_and_never_made() -> None:
    bounded = document("deploy", "bounded")
    assert allows(bounded, Request("s3:ListBucket", "arn:aws:s3:::my-models"))
    assert not allows(bounded, Request("s3:CreateBucket", "arn:aws:s3:::my-models"))
    assert not allows(bounded, Request("s3:PutBucketPolicy", "arn:aws:s3:::my-models"))


@pytest.mark.parametrize("stack_name", ["sdoneks", "A" + "b" * 47, "x-" * 20 + "y"])
def test_the_buckets_that_deploy_picks_are_the_ones_allowed(stack_name: str) -> None:
    found = policy("deploy", Config.model_validate({"stackName": stack_name}), PLACES["aws"])
    for purpose in ("assets", "model-bucket"):
        name = bucket_name(stack_name, purpose, ACCOUNT, "us-west-2")
        assert allows(found, Request("s3:CreateBucket", f"arn:aws:s3:::{name}"))


def test_a_long_stack_name_is_cut_where_cloudformation_cuts_it() -> None:
    assert named("short") == "short-*"
    assert named("x" * 40) == "x" * KEPT_NAME_LENGTH + "*"


def test_an_existing_network_needs_no_permission_to_make_one() -> None:
    actions = {action for action, _, _ in grants(document("deploy", "existing-vpc"))}
    assert not actions & {"ec2:CreateVpc", "ec2:DeleteVpc", "ec2:CreateNatGateway", "ec2:CreateRoute"}


@pytest.mark.parametrize(("purpose", "name", "partition"), EVERY)
def test_a_split_policy_allows_the_same_in_documents_that_fit(
    purpose: Purpose, name: str, partition: str
) -> None:
    whole = document(purpose, name, partition)
    parts = split(whole)
    assert all(characters(part) <= MAX_POLICY_CHARACTERS for part in parts)
    assert len(parts) <= 10  # a role takes no more managed policies
    assert set().union(*map(grants, parts)) == grants(whole)
    assert len(parts) < 2 or characters(whole) > MAX_POLICY_CHARACTERS


def test_one_statement_longer_than_a_document_is_halved() -> None:
    statement = {"Effect": "Allow", "Action": [f"ec2:Do{n}" for n in range(40)], "Resource": ["r" * 100] * 2}
    whole = {"Version": "2012-10-17", "Statement": [statement]}
    parts = split(whole, limit=300)
    assert all(characters(part) <= 300 for part in parts)
    assert set().union(*map(grants, parts)) == grants(whole)


def test_policies_are_the_same_at_every_run() -> None:
    assert document("deploy", "many") == document("deploy", "many")
    assert set(get_args(Purpose)) == set(PURPOSES) == set(CALLS)


def test_a_custom_domain_can_be_made_and_mapped_and_no_other_domain_touched() -> None:
    document_ = document("deploy", "every-option")
    domains = "arn:aws:apigateway:us-west-2::/domainnames"
    own, other = f"{domains}/art.example.com", f"{domains}/shop.example.com"
    assert allows(document_, Request("apigateway:POST", domains, {MADE_FOR: ("sdoneks",)}))
    assert allows(document_, Request("apigateway:POST", f"{own}/basepathmappings"))
    assert allows(document_, Request("apigateway:DELETE", f"{own}/basepathmappings/(none)"))
    assert allows(document("destroy", "every-option"), Request("apigateway:DELETE", own))
    for resource in (other, f"{other}/basepathmappings", f"{other}/basepathmappings/(none)"):
        for verb in ("POST", "DELETE", "PATCH"):
            assert not allows(document_, Request(f"apigateway:{verb}", resource))


def test_a_runtime_that_is_added_later_needs_no_other_policy() -> None:
    queue = f"arn:aws:sqs:us-west-2:{ACCOUNT}:sdoneks-runtime-later-Queue-X"
    assert allows(document("deploy"), Request("sqs:CreateQueue", queue))
    assert allows(
        document("deploy"), Request("iam:CreateRole", f"{IAM}:role/sdoneks-runtime-later-AgentRole-X")
    )
    entry = f"arn:aws:ssm:us-west-2:{ACCOUNT}:parameter/sdctl/sdoneks/runtimes/later"
    assert allows(document("deploy"), Request("ssm:PutParameter", entry))
    assert allows(document("destroy"), Request("ssm:DeleteParameter", entry))
    others = entry.replace("/sdoneks/", "/other/")
    assert not allows(document("deploy"), Request("ssm:PutParameter", others))
    stack = f"arn:aws:cloudformation:us-west-2:{ACCOUNT}:stack/sdoneks-runtime-later/0a1b"
    assert allows(document("deploy"), Request("cloudformation:CreateChangeSet", stack))
