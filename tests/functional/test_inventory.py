"""The inventory of what is left, against moto: what it finds, what it leaves out, and what that costs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.stub import Stubber
from moto import mock_aws

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.pricing import Pricing
from sdctl.clients.tagging import Found, Tagging, identified, is_named_after
from sdctl.config.model import Config
from sdctl.iam.calls import CALLS, INVENTORY
from sdctl.iam.policy import policy
from sdctl.iam.scopes import Place
from sdctl.inventory import LISTED_ONLY, price_keys, rows, sum_of
from sdctl.prices import Price
from support.iam_evaluator import Recorder, allows

REGION, ZONE = "us-west-2", "us-west-2a"
ACCOUNT = "123456789012"
OURS = [{"Key": "sdctl:stack", "Value": "farm"}]
NODE = [{"Key": "kubernetes.io/cluster/farm", "Value": "owned"}]


@pytest.fixture
def aws() -> Iterator[Aws]:
    with mock_aws():
        yield Aws(AwsAccess(REGION, access_key="testing", secret_key="testing"))


def tags(kind: str, listed: list[dict[str, str]]) -> list[dict[str, Any]]:
    return [{"ResourceType": kind, "Tags": listed}]


def left_behind(aws: Aws) -> dict[str, str]:
    """Make what a bad destroy leaves; return the ids that tests name."""
    ec2 = aws.client("ec2")
    vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16", TagSpecifications=tags("vpc", OURS))["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.0.0.0/19", AvailabilityZone=ZONE)["Subnet"][
        "SubnetId"
    ]
    address = ec2.allocate_address(Domain="vpc", TagSpecifications=tags("elastic-ip", OURS))["AllocationId"]
    gateway = ec2.create_nat_gateway(
        SubnetId=subnet, AllocationId=address, TagSpecifications=tags("natgateway", OURS)
    )["NatGateway"]["NatGatewayId"]
    endpoint = ec2.create_vpc_endpoint(
        VpcId=vpc, ServiceName=f"com.amazonaws.{REGION}.sqs", VpcEndpointType="Interface",
        SubnetIds=[subnet], TagSpecifications=tags("vpc-endpoint", OURS),
    )["VpcEndpoint"]["VpcEndpointId"]  # fmt: skip
    image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]

    def node(listed: list[dict[str, str]], **more: Any) -> str:
        made = ec2.run_instances(
            ImageId=image, MinCount=1, MaxCount=1, InstanceType="g5.2xlarge", SubnetId=subnet,
            TagSpecifications=tags("instance", listed), **more,
        )  # fmt: skip
        return str(made["Instances"][0]["InstanceId"])

    spot = node(NODE, InstanceMarketOptions={"MarketType": "spot"})
    gone = node(NODE)
    ec2.terminate_instances(InstanceIds=[gone])
    node([{"Key": "kubernetes.io/cluster/other", "Value": "owned"}])
    volume = ec2.create_volume(
        AvailabilityZone=ZONE, Size=100, VolumeType="gp3", TagSpecifications=tags("volume", OURS)
    )["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume, TagSpecifications=tags("snapshot", OURS))["SnapshotId"]
    aws.client("sqs").create_queue(QueueName="farm", tags={"sdctl:stack": "farm"})
    aws.client("sqs").create_queue(QueueName="others", tags={"sdctl:stack": "other"})
    place = {"LocationConstraint": REGION}
    for name in ("farm-assets-0123456789", "farmstack-outputbucket-1", "farmers-data"):
        aws.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration=place)
    for name in ("farm-cluster-KarpenterRole-1", "farmhand"):
        aws.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument="{}")
    for name in (
        "/aws/eks/farm/cluster",
        "/aws/eks/farm2/cluster",
        "/aws/containerinsights/farm/application",
    ):
        aws.client("logs").create_log_group(logGroupName=name)
    return {"vpc": vpc, "address": address, "gateway": gateway, "endpoint": endpoint, "spot": spot,
            "volume": volume, "snapshot": snapshot}  # fmt: skip


def test_everything_that_is_left_is_found_by_tag_or_name_and_nothing_else(aws: Aws) -> None:
    ids = left_behind(aws)
    found = {(one.type, one.id) for one in Tagging(aws).left("farm")}
    assert found == {
        ("ec2:vpc", ids["vpc"]), ("ec2:elastic-ip", ids["address"]), ("ec2:natgateway", ids["gateway"]),
        ("ec2:vpc-endpoint", ids["endpoint"]), ("ec2:instance", ids["spot"]), ("ec2:volume", ids["volume"]),
        ("ec2:snapshot", ids["snapshot"]), ("sqs:queue", "farm"),
        ("s3:bucket", "farm-assets-0123456789"), ("s3:bucket", "farmstack-outputbucket-1"),
        ("iam:role", "farm-cluster-KarpenterRole-1"), ("logs:log-group", "/aws/eks/farm/cluster"),
        ("logs:log-group", "/aws/containerinsights/farm/application"),
    }  # fmt: skip


def test_what_only_the_list_of_tags_has_is_marked(aws: Aws) -> None:
    left_behind(aws)
    unseen = [one.type for one in Tagging(aws).left("farm") if not one.is_seen]
    assert unseen == ["sqs:queue"]


def test_nothing_left_is_an_empty_inventory(aws: Aws) -> None:
    assert Tagging(aws).left("farm") == ()


def listed_price(amount: str, unit: str, usage_type: str) -> dict[str, Any]:
    dimension = {"unit": unit, "beginRange": "0", "pricePerUnit": {"USD": amount}}
    terms = {"OnDemand": {"T": {"priceDimensions": {"D": dimension}}}}
    product = {"attributes": {"usagetype": usage_type}}
    return {"PriceList": [json.dumps({"product": product, "terms": terms})]}


def test_the_whole_inventory_needs_no_call_but_those_of_the_policy(aws: Aws) -> None:
    left_behind(Aws(aws.access))
    recorder, pricing = Recorder(aws), Pricing(aws)
    abroad = Recorder(pricing._aws)
    found = Tagging(aws).left("farm")
    with Stubber(pricing._aws.client("pricing")) as lists, Stubber(aws.client("ec2")) as spot:
        for amount, unit, usage_type in (
            ("0.01", "GB-Mo", "EBS:SnapshotUsage"), ("0.08", "GB-Mo", "EBS:VolumeUsage.gp3"),
            ("0.045", "Hrs", "NatGateway-Hours"), ("0.005", "Hrs", "PublicIPv4:InUseAddress"),
            ("0.01", "Hrs", "VpcEndpoint-Hours"),
        ):  # fmt: skip
            lists.add_response("get_products", listed_price(amount, unit, usage_type))
        entry = {
            "InstanceType": "g5.2xlarge", "AvailabilityZone": ZONE, "SpotPrice": "0.5",
            "Timestamp": datetime(2026, 11, 22, tzinfo=UTC),
        }  # fmt: skip
        spot.add_response("describe_spot_price_history", {"SpotPriceHistory": [entry]}, None)
        keys = price_keys(found)
        by_product = sorted(key for key in keys if not key[1])
        known = pricing.prices([*(key for key in keys if key[1]), *by_product])
        lists.assert_no_pending_responses()
    costs = {row.type: row.monthly for row in rows(found, known)}
    assert costs["ec2:instance"] == pytest.approx(0.5 * 730)
    assert costs["ec2:volume"] == pytest.approx(8.0)
    assert costs["ec2:natgateway"] == pytest.approx(0.045 * 730)
    document = policy("destroy", Config.model_validate({"stackName": "farm"}), Place(REGION, ACCOUNT))
    for one in (recorder, abroad):
        assert [request for request in one.requests(ACCOUNT) if not allows(document, request)] == []
    listed = {(call.service, call.operation) for call in INVENTORY}
    assert recorder.operations | abroad.operations == listed
    assert listed <= {(call.service, call.operation) for call in CALLS["destroy"]}


@pytest.mark.parametrize(
    ("arn", "expected"),
    [
        ("arn:aws:ec2:r:1:volume/vol-1", ("ec2:volume", "vol-1")),
        ("arn:aws-cn:sqs:r:1:farm", ("sqs:queue", "farm")),
        ("arn:aws:s3:::bucket", ("s3:bucket", "bucket")),
        ("arn:aws:iam::1:role/path/name", ("iam:role", "path/name")),
        ("arn:aws:logs:r:1:log-group:/aws/eks/farm/cluster", ("logs:log-group", "/aws/eks/farm/cluster")),
        ("arn:aws:lambda:r:1:function:name", ("lambda:function", "name")),
        ("arn:aws:apigateway:r::/restapis/abc", ("apigateway:restapis", "abc")),
        ("arn:aws:cloudformation:r:1:stack/farmStack/0-1", ("cloudformation:stack", "farmStack")),
        ("arn:aws:eks:r:1:nodegroup/farm/n/id", ("eks:nodegroup", "farm/n/id")),
        ("arn:aws:cloudwatch:r:1:alarm:farm-x", ("cloudwatch:alarm", "farm-x")),
    ],
)
def test_an_arn_says_type_and_id(arn: str, expected: tuple[str, str]) -> None:
    assert identified(arn) == expected


def test_what_is_no_arn_is_refused() -> None:
    with pytest.raises(ValueError, match="is not an ARN"):
        identified("i-0123")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("farmStack-ApiRole-1", True), ("farm-runtime-sd-Role-1", True), ("farm-snapshot-x", True),
     ("farm", False), ("farmer-cluster-x", False), ("farm-other-x", False), ("myfarm-cluster-x", False)],
)  # fmt: skip
def test_a_name_is_a_deployments_by_its_stacks(name: str, expected: bool) -> None:
    assert is_named_after("farm", name) is expected


def test_rows_say_what_is_paid_by_use_by_holding_and_at_most() -> None:
    found = [
        Found("ec2:snapshot", "snap-1", "ebs-snapshot", 100),
        Found("s3:bucket", "b"),
        Found("sqs:queue", "q"),
        Found("ec2:instance", "i-1", "g5.2xlarge"),
        Found("eks:nodegroup", "n", is_seen=False),
    ]
    known = {("ebs-snapshot", ""): Price(0.05, "USD", "gib-month")}
    assert [(row.monthly, row.note) for row in rows(found, known)] == [
        (5.0, "at most"), (None, "by what it holds"), (0.0, ""), (None, "no price is known"),
        (0.0, LISTED_ONLY),
    ]  # fmt: skip
    summed = sum_of(found, known)
    assert summed.monthly == pytest.approx(5.0)
    assert summed.unpriced == ("b", "i-1")
