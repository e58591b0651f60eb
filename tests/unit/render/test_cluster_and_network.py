"""The network's and the cluster's templates: layout, order, privileges."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from ipaddress import IPv4Network
from itertools import combinations
from typing import Any

import pytest

from sdctl.config.model import Config
from sdctl.errors import ConfigError
from sdctl.render.cluster import ami_type, cluster_stack
from sdctl.render.karpenter import controller_statements
from sdctl.render.network import choose_zones, network_stack
from sdctl.render.runtime import runtime_stack_name
from sdctl.render.stacks import Stack


def network(nat_mode: str = "single", partition: str = "aws", **changes: Any) -> Stack:
    config = Config.model_validate({"network": {"natMode": nat_mode}} | changes)
    stack = network_stack(config, partition=partition)
    assert stack is not None
    return stack


def cluster(**changes: Any) -> Stack:
    return cluster_stack(Config.model_validate(changes), model_bucket="models")


def of_type(stack: Stack, kind: str) -> dict[str, dict[str, Any]]:
    found = stack.template.document["Resources"].items()
    return {logical: body["Properties"] for logical, body in found if body["Type"] == kind}


def test_six_subnets_of_a_19_lie_in_three_zones_and_do_not_overlap() -> None:
    stack = network(network={"vpcCidr": "172.20.0.0/16"})
    subnets = of_type(stack, "AWS::EC2::Subnet").values()
    blocks = [IPv4Network(subnet["CidrBlock"]) for subnet in subnets]
    assert len(blocks) == 6
    assert all(block.prefixlen == 19 for block in blocks)
    assert all(block.subnet_of(IPv4Network("172.20.0.0/16")) for block in blocks)
    assert not any(first.overlaps(second) for first, second in combinations(blocks, 2))
    zones = [subnet["AvailabilityZone"]["Fn::Select"][0] for subnet in subnets]
    assert sorted(zones) == [0, 0, 1, 1, 2, 2]
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in subnets)


@pytest.mark.parametrize(
    ("mode", "gateways", "endpoints"), [("single", 1, 2), ("perZone", 3, 2), ("none", 0, 14)]
)
def test_the_nat_mode_decides_how_many_gateways_and_endpoints_there_are(
    mode: str, gateways: int, endpoints: int
) -> None:
    stack = network(mode)
    assert len(of_type(stack, "AWS::EC2::NatGateway")) == gateways
    assert len(of_type(stack, "AWS::EC2::VPCEndpoint")) == endpoints
    routes = of_type(stack, "AWS::EC2::Route").values()
    assert sum("NatGatewayId" in route for route in routes) == (3 if gateways else 0)


def test_interface_endpoints_can_stand_beside_a_gateway_and_leave_out_what_nobody_calls() -> None:
    beside = network(network={"interfaceEndpoints": True})
    assert len(of_type(beside, "AWS::EC2::VPCEndpoint")) == 14
    assert len(of_type(beside, "AWS::EC2::NatGateway")) == 1
    untraced = network("none", tracing=False)
    assert "XrayEndpoint" not in of_type(untraced, "AWS::EC2::VPCEndpoint")


def test_zones_are_configured_or_chosen_and_their_subnets_stay_where_they_are() -> None:
    config = Config.model_validate({"network": {"zones": ["us-west-2b", "us-west-2d"]}})
    two = network_stack(config, partition="aws", zones=("us-west-2a", "us-west-2b", "us-west-2c"))
    three = network_stack(Config(), partition="aws", zones=("us-west-2a", "us-west-2b", "us-west-2c"))
    assert two is not None
    assert three is not None
    assert two.parameters == {"Zones": "us-west-2b,us-west-2d"}
    assert three.parameters == {"Zones": "us-west-2a,us-west-2b,us-west-2c"}
    assert network().parameters == {}
    subnets = of_type(two, "AWS::EC2::Subnet")
    assert len(subnets) == 4
    assert subnets.items() <= of_type(three, "AWS::EC2::Subnet").items()


def test_a_zone_that_eks_refuses_is_never_chosen() -> None:
    names = {f"us-east-1{letter}": f"use1-az{number}" for number, letter in enumerate("cabd", start=1)}
    assert names["us-east-1b"] == "use1-az3"
    assert choose_zones(names) == ("us-east-1a", "us-east-1c", "us-east-1d")
    assert choose_zones({f"us-west-2{letter}": letter for letter in "edcba"})[-1] == "us-west-2c"
    with pytest.raises(ConfigError, match="us-west-1a"):
        choose_zones({"us-west-1a": "usw1-az1", "us-west-1b": "usw1-az2"})


def test_endpoint_services_of_china_have_the_prefix_that_they_have_there() -> None:
    names = {
        properties["ServiceName"]["Fn::Sub"]
        for properties in of_type(network("none", "aws-cn"), "AWS::EC2::VPCEndpoint").values()
    }
    assert "cn.com.amazonaws.${AWS::Region}.ecr.api" in names
    assert "com.amazonaws.${AWS::Region}.s3" in names
    assert "com.amazonaws.${AWS::Region}.ssm" in names


def test_an_existing_vpc_needs_no_network_stack() -> None:
    config = Config.model_validate(
        {"network": {"vpcId": "vpc-0123456789abcdef0", "subnetIds": ["subnet-01234567", "subnet-89abcdef"]}}
    )
    assert network_stack(config, partition="aws") is None


def test_add_ons_wait_for_what_makes_them_healthy() -> None:
    resources = cluster().template.document["Resources"]
    assert set(resources["SystemNodes"]["DependsOn"]) == {"VpcCniAddon", "KubeProxyAddon", "PodIdentityAddon"}
    for name in ("CoreDnsAddon", "MountpointAddon", "CloudWatchAddon"):
        assert "SystemNodes" in resources[name]["DependsOn"]


def test_nobody_is_administrator_but_the_deployer_and_support_never_becomes_the_dear_kind() -> None:
    (properties,) = of_type(cluster(), "AWS::EKS::Cluster").values()
    assert properties["AccessConfig"] == {
        "AuthenticationMode": "API",
        "BootstrapClusterCreatorAdminPermissions": False,
    }
    assert properties["UpgradePolicy"] == {"SupportType": "STANDARD"}
    entries = of_type(cluster(), "AWS::EKS::AccessEntry")
    assert [name for name, entry in entries.items() if entry.get("AccessPolicies")] == ["DeployerAccess"]


def test_log_groups_are_there_before_an_agent_makes_its_own_which_would_keep_everything() -> None:
    resources = cluster(logRetentionDays=7).template.document["Resources"]
    groups = {
        name: body["Properties"] for name, body in resources.items() if body["Type"] == "AWS::Logs::LogGroup"
    }
    assert {group["LogGroupName"] for group in groups.values()} == {
        "/aws/eks/sdoneks/cluster",
        *(
            f"/aws/containerinsights/sdoneks/{kind}"
            for kind in ("application", "dataplane", "host", "performance")
        ),
    }
    assert {group["RetentionInDays"] for group in groups.values()} == {7}
    waiting = {resources["Cluster"]["DependsOn"], *resources["CloudWatchAddon"]["DependsOn"]}
    assert waiting == {"SystemNodes", *groups}


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (None, {"EndpointPublicAccess": True, "PublicAccessCidrs": ["0.0.0.0/0"]}),
        (["203.1.113.0/24"], {"EndpointPublicAccess": True, "PublicAccessCidrs": ["203.1.113.0/24"]}),
        ([], {"EndpointPublicAccess": False}),
    ],
)
def test_the_kubernetes_api_is_reached_from_where_the_configuration_says(
    addresses: list[str] | None, expected: dict[str, Any]
) -> None:
    network = {} if addresses is None else {"publicAccessCidrs": addresses}
    (properties,) = of_type(cluster(network=network), "AWS::EKS::Cluster").values()
    access = dict(properties["ResourcesVpcConfig"])
    del access["SubnetIds"]
    assert access == {"EndpointPrivateAccess": True} | expected


KEY = "arn:aws:kms:us-east-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef"


def test_a_key_of_the_users_protects_secrets_logs_and_volumes() -> None:
    stack = cluster(kmsKeyArn=KEY)
    (properties,) = of_type(stack, "AWS::EKS::Cluster").values()
    assert properties["EncryptionConfig"] == [{"Provider": {"KeyArn": KEY}, "Resources": ["secrets"]}]
    assert {group["KmsKeyId"] for group in of_type(stack, "AWS::Logs::LogGroup").values()} == {KEY}
    (template,) = of_type(stack, "AWS::EC2::LaunchTemplate").values()
    (volume,) = template["LaunchTemplateData"]["BlockDeviceMappings"]
    assert volume["Ebs"]["KmsKeyId"] == KEY
    assert KEY not in cluster().template.text


def test_with_a_key_each_role_may_use_it_for_its_own_work_only() -> None:
    allowed = {
        logical: {
            action
            for policy in role.get("Policies", [])
            for statement in policy["PolicyDocument"]["Statement"]
            if statement["Resource"] in (KEY, [KEY])
            for action in statement["Action"]
        }
        for logical, role in of_type(cluster(kmsKeyArn=KEY), "AWS::IAM::Role").items()
    }
    assert {logical for logical, actions in allowed.items() if actions} == {
        "ClusterRole", "KarpenterRole", "ModelReaderRole",
    }  # fmt: skip
    assert allowed["ModelReaderRole"] == {"kms:Decrypt"}
    grants = [
        one for one in controller_statements("farm", kms_key_arn=KEY) if one["Action"] == ["kms:CreateGrant"]
    ]
    assert [one["Condition"]["Bool"] for one in grants] == [{"kms:GrantIsForAWSResource": "true"}]


@pytest.mark.parametrize("name", ["farm", "a" * 48])
def test_keda_reads_the_queues_of_runtimes_that_come_later_and_no_others(name: str) -> None:
    (role,) = [
        one for key, one in of_type(cluster(stackName=name), "AWS::IAM::Role").items() if key == "KedaRole"
    ]
    ((statement,),) = [policy["PolicyDocument"]["Statement"] for policy in role["Policies"]]
    pattern = statement["Resource"][0]["Fn::Sub"].rpartition(":")[2]
    # What CloudFormation calls a queue: as much of the stack's name as 80 characters allow, and a suffix.
    stack_name = runtime_stack_name(name, "a-runtime-with-a-name-of-some-length")
    assert fnmatchcase(f"{stack_name[:50]}-Queue-1A2B3C4D5E6F"[:80], pattern)
    assert not fnmatchcase("Other-runtime-x-Queue-1A2B3C4D5E6F", pattern)
    assert statement["Action"] == ["sqs:GetQueueAttributes"]


@pytest.mark.parametrize(
    ("instance_type", "expected"),
    [("m7g.large", "ARM_64"), ("c8gn.xlarge", "ARM_64"), ("m7i.large", "x86_64"), ("g5.2xlarge", "x86_64"),
     ("t4g.medium", "ARM_64"), ("g5g.xlarge", "ARM_64"), ("m5.large", "x86_64")],
)  # fmt: skip
def test_the_system_nodes_image_fits_their_processor(instance_type: str, expected: str) -> None:
    assert ami_type(instance_type) == f"AL2023_{expected}_STANDARD"


def test_each_pods_role_is_for_one_service_account_of_this_cluster() -> None:
    roles = of_type(cluster(), "AWS::IAM::Role")
    accounts = {}
    for logical, role in roles.items():
        (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
        if statement["Principal"] == {"Service": "pods.eks.amazonaws.com"}:
            tags = statement["Condition"]["StringEquals"]
            assert tags["aws:RequestTag/eks-cluster-arn"] == {"Fn::GetAtt": ["Cluster", "Arn"]}
            names = ("kubernetes-namespace", "kubernetes-service-account")
            accounts[logical] = tuple(tags[f"aws:RequestTag/{name}"] for name in names)
    assert accounts == {
        "KarpenterRole": ("kube-system", "karpenter"),
        "KedaRole": ("keda", "keda-operator"),
        "ModelReaderRole": ("kube-system", "s3-csi-driver-sa"),
        "CloudWatchAgentRole": ("amazon-cloudwatch", "cloudwatch-agent"),
    }


def test_every_role_has_the_permissions_boundary() -> None:
    boundary = "arn:aws:iam::123456789012:policy/boundary"
    roles = of_type(cluster(permissionsBoundaryArn=boundary), "AWS::IAM::Role")
    assert len(roles) == 7
    assert {role["PermissionsBoundary"] for role in roles.values()} == {boundary}


# Reads that know no narrower resource: https://docs.aws.amazon.com/service-authorization/latest/reference/
UNNARROWABLE = ("ec2:Describe", "iam:ListInstanceProfiles", "pricing:GetProducts")


def test_no_statement_allows_every_action_or_a_resource_wider_than_it_must_be() -> None:
    for role in of_type(cluster(), "AWS::IAM::Role").values():
        for policy in role.get("Policies", []):
            for statement in policy["PolicyDocument"]["Statement"]:
                assert not any(action.endswith("*") for action in statement["Action"])
                if "*" in statement["Resource"]:
                    assert all(action.startswith(UNNARROWABLE) for action in statement["Action"])


def test_karpenter_may_end_only_what_it_made_for_this_cluster() -> None:
    for statement in controller_statements("farm"):
        if {"ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"} & set(statement["Action"]):
            assert statement["Condition"] == {
                "StringEquals": {"aws:ResourceTag/kubernetes.io/cluster/farm": "owned"},
                "StringLike": {"aws:ResourceTag/karpenter.sh/nodepool": "*"},
            }
            return
    raise AssertionError("nothing may be ended at all")


def test_an_inline_policy_of_karpenter_stays_below_the_limit_whatever_the_cluster_is_called() -> None:
    place = {
        "AWS::Partition": "aws-us-gov", "AWS::Region": "ap-southeast-2", "AWS::AccountId": "1" * 12,
        "AWS::URLSuffix": "amazonaws.com.cn", "GpuNodeRole": "r" * 90, "GpuInstanceProfile": "p" * 90,
        "InterruptionQueue": "q" * 120,
    }  # fmt: skip

    def known(value: Any) -> Any:
        match value:
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}]+)\}", lambda found: place[found[1]], text)
            case {"Ref": str(name)} | {"Fn::GetAtt": [str(name), _]}:
                return place[name]
            case dict():
                return {key: known(item) for key, item in value.items()}
            case list():
                return [known(item) for item in value]
        return value

    text = json.dumps(known(controller_statements("x" * 48, kms_key_arn=KEY)), separators=(",", ":"))
    assert len(text) < 10_240 - len('{"Version":"2012-10-17","Statement":}')


# Of the reference policies, left out: zonal shift is a setting that is off, and node classes name a profile.
NOT_NEEDED = {
    "arc-zonal-shift:GetManagedResource", "iam:AddRoleToInstanceProfile", "iam:CreateInstanceProfile",
    "iam:DeleteInstanceProfile", "iam:RemoveRoleFromInstanceProfile", "iam:TagInstanceProfile",
}  # fmt: skip


def test_karpenter_may_do_what_its_reference_policies_say_and_no_more() -> None:
    """https://karpenter.sh/v1.14/reference/cloudformation/ : actions and condition keys."""
    reads = {
        "ec2:DescribeCapacityReservations", "ec2:DescribeImages", "ec2:DescribeInstances",
        "ec2:DescribeInstanceStatus", "ec2:DescribeInstanceTypeOfferings", "ec2:DescribeInstanceTypes",
        "ec2:DescribeLaunchTemplates", "ec2:DescribePlacementGroups", "ec2:DescribeSecurityGroups",
        "ec2:DescribeSpotPriceHistory", "ec2:DescribeSubnets",
    }  # fmt: skip
    expected = [
        ({"ec2:RunInstances", "ec2:CreateFleet"}, set()),
        ({"ec2:RunInstances", "ec2:CreateFleet"}, {"aws:ResourceTag"}),
        ({"ec2:RunInstances", "ec2:CreateFleet", "ec2:CreateLaunchTemplate"}, {"aws:RequestTag"}),
        ({"ec2:CreateTags"}, {"aws:RequestTag", "ec2:CreateAction"}),
        ({"ec2:CreateTags"}, {"aws:ResourceTag", "aws:RequestTag", "aws:TagKeys"}),
        ({"ec2:TerminateInstances", "ec2:DeleteLaunchTemplate"}, {"aws:ResourceTag"}),
        ({"iam:PassRole"}, {"iam:PassedToService"}),
        ({"iam:GetInstanceProfile"}, set()),
        ({"iam:ListInstanceProfiles"}, set()),
        (reads, {"aws:RequestedRegion"}),
        ({"ssm:GetParameter"}, set()),
        ({"pricing:GetProducts"}, set()),
        ({"eks:DescribeCluster"}, set()),
        ({"sqs:DeleteMessage", "sqs:GetQueueUrl", "sqs:ReceiveMessage"}, set()),
    ]
    found = [
        (
            set(statement["Action"]),
            {
                key.partition("/")[0]
                for operator in statement.get("Condition", {}).values()
                for key in operator
            },
        )
        for statement in controller_statements("farm")
    ]
    assert found == expected
    assert not any(action in NOT_NEEDED for actions, _ in found for action in actions)


@pytest.mark.parametrize("partition", ["aws", "aws-cn"])
def test_nothing_is_bound_to_one_partition(partition: str) -> None:
    for stack in (network("none", partition), cluster()):
        assert "arn:aws:" not in stack.template.text
        assert "amazonaws.com.cn" not in stack.template.text.replace('"ec2.amazonaws.com.cn"', "")


def test_administrators_are_let_in_once_each_whoever_deploys() -> None:
    ops, eve = "arn:aws:iam::123456789012:role/ops", "arn:aws:iam::123456789012:user/eve"
    stack = cluster(administrators=[ops, eve, ops])
    entries = of_type(stack, "AWS::EKS::AccessEntry")
    assert [one["PrincipalArn"] for one in entries.values() if isinstance(one["PrincipalArn"], str)] == [
        ops,
        eve,
    ]
    assert of_type(cluster(administrators=[eve]), "AWS::EKS::AccessEntry").keys() < entries.keys()
    conditions = stack.template.document["Conditions"].values()
    deployer = {"Ref": "DeployerPrincipalArn"}
    assert list(conditions) == [{"Fn::Not": [{"Fn::Equals": [deployer, arn]}]} for arn in (ops, eve)]
