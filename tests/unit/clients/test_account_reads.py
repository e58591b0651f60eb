"""What doctor asks of AWS, call by call, against botocore's stubber: requests checked, answers read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import pytest
from botocore.stub import ANY, Stubber

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.ec2 import Ec2
from sdctl.clients.ecr import Ecr
from sdctl.clients.eks import Cluster, Eks
from sdctl.clients.iam import Denied, Iam, Wish, principal_of, wishes_of
from sdctl.clients.logs import Logs
from sdctl.clients.quotas import Quota, Quotas
from sdctl.clients.ssm import Ssm
from sdctl.errors import AwsError, NotFoundError
from sdctl.versions import KubernetesRelease

G_SPOT = Quota("ec2", "L-3819A6DF", "All G and VT Spot Instance Requests")
KEY = {"ServiceCode": "ec2", "QuotaCode": "L-3819A6DF"}
ACCOUNT = "123456789012"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/Admin"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/Admin/me"


@pytest.fixture(scope="module")
def aws() -> Aws:
    """One session for all: making a client takes longer than any test."""
    return Aws(AwsAccess("us-west-2", access_key="testing", secret_key="testing"))


@contextmanager
def stubbed(aws: Aws, service: str) -> Iterator[Stubber]:
    with Stubber(aws.client(service)) as stub:
        yield stub
        stub.assert_no_pending_responses()


def quota(value: float) -> dict[str, Any]:
    return {"Quota": {"Value": value, "QuotaCode": KEY["QuotaCode"]}}


def test_a_quota_is_the_accounts_value(aws: Aws) -> None:
    with stubbed(aws, "service-quotas") as stub:
        stub.add_response("get_service_quota", quota(64), KEY)
        assert Quotas(aws).value(G_SPOT) == 64


def test_a_quota_that_was_never_changed_is_its_default(aws: Aws) -> None:
    with stubbed(aws, "service-quotas") as stub:
        stub.add_client_error("get_service_quota", "NoSuchResourceException", expected_params=KEY)
        stub.add_response("get_aws_default_service_quota", quota(0), KEY)
        assert Quotas(aws).value(G_SPOT) == 0


@pytest.mark.parametrize("code", ["AccessDeniedException", "TooManyRequestsException"])
def test_a_quota_that_cannot_be_read_is_an_error_not_its_default(aws: Aws, code: str) -> None:
    with stubbed(aws, "service-quotas") as stub:
        stub.add_client_error("get_service_quota", code)
        with pytest.raises(AwsError, match="All G and VT Spot") as caught:
            Quotas(aws).value(G_SPOT)
    assert caught.value.aws_code == code


def test_lambdas_limit_is_the_accounts(aws: Aws) -> None:
    with stubbed(aws, "lambda") as stub:
        stub.add_response("get_account_settings", {"AccountLimit": {"ConcurrentExecutions": 10}})
        assert Quotas(aws).concurrent_executions() == 10


def test_buckets_are_counted_over_all_pages(aws: Aws) -> None:
    with stubbed(aws, "s3") as stub:
        stub.add_response(
            "list_buckets", {"Buckets": [{"Name": "a"}, {"Name": "b"}], "ContinuationToken": "t"}
        )
        stub.add_response("list_buckets", {"Buckets": [{"Name": "c"}]}, {"ContinuationToken": "t"})
        assert Quotas(aws).bucket_count() == 3


def test_the_calendar_is_read_over_all_pages_and_versions_without_dates_are_left_out(aws: Aws) -> None:
    def moment(year: int) -> datetime:
        return datetime(year, 2, 3, 12, tzinfo=UTC)

    dated = {
        "clusterVersion": "1.36", "releaseDate": moment(2026), "endOfStandardSupportDate": moment(2027),
        "endOfExtendedSupportDate": moment(2028),
    }  # fmt: skip
    with stubbed(aws, "eks") as stub:
        stub.add_response(
            "describe_cluster_versions", {"clusterVersions": [dated], "nextToken": "n"}, {"includeAll": True}
        )
        stub.add_response(
            "describe_cluster_versions", {"clusterVersions": [{"clusterVersion": "1.38"}]},
            {"includeAll": True, "nextToken": "n"},
        )  # fmt: skip
        found = Eks(aws).calendar()
    assert found == (KubernetesRelease("1.36", date(2026, 2, 3), date(2027, 2, 3), date(2028, 2, 3)),)


def test_a_cluster_is_found_with_its_tags_or_not_at_all(aws: Aws) -> None:
    with stubbed(aws, "eks") as stub:
        answer = {"cluster": {"name": "s", "version": "1.36", "status": "ACTIVE", "tags": {"a": "b"}}}
        stub.add_response("describe_cluster", answer, {"name": "s"})
        stub.add_client_error("describe_cluster", "ResourceNotFoundException")
        assert Eks(aws).cluster("s") == Cluster("s", "1.36", "ACTIVE", {"a": "b"})
        assert Eks(aws).cluster("s") is None


def test_a_session_is_traced_to_its_roles_own_arn(aws: Aws) -> None:
    path = f"arn:aws:iam::{ACCOUNT}:role/aws-reserved/sso.amazonaws.com/AWSReservedSSO_Admin_0123"
    session = f"arn:aws:sts::{ACCOUNT}:assumed-role/AWSReservedSSO_Admin_0123/me@example.com"
    role = {"Role": {
        "Path": "/", "RoleName": "AWSReservedSSO_Admin_0123", "RoleId": "AROA" + "X" * 16, "Arn": path,
        "CreateDate": datetime(2026, 1, 1, tzinfo=UTC),
    }}  # fmt: skip
    with stubbed(aws, "sts") as sts, stubbed(aws, "iam") as iam:
        sts.add_response("get_caller_identity", {"Account": ACCOUNT, "Arn": session, "UserId": "X"})
        iam.add_response("get_role", role, {"RoleName": "AWSReservedSSO_Admin_0123"})
        found = Iam(aws).identity()
    assert (found.principal_arn, found.kind, found.is_path_known) == (path, "role", True)


@pytest.mark.parametrize(("role", "is_known"), [("Admin", True), ("AWSReservedSSO_Admin_0123", False)])
def test_without_permission_to_read_a_role_its_arn_is_built(aws: Aws, role: str, is_known: bool) -> None:
    with stubbed(aws, "iam") as iam:
        iam.add_client_error("get_role", "AccessDenied")
        found = Iam(aws).identity_of(ACCOUNT, f"arn:aws-cn:sts::{ACCOUNT}:assumed-role/{role}/me")
    assert found.principal_arn == f"arn:aws-cn:iam::{ACCOUNT}:role/{role}"
    assert found.is_path_known is is_known


@pytest.mark.parametrize(
    ("arn", "kind", "name"),
    [
        (SESSION, "role", "Admin"),
        ("arn:aws:iam::1:user/team/me", "user", "me"),
        ("arn:aws:iam::1:root", "root", "root"),
        ("arn:aws-cn:sts::1:federated-user/x", "federated", "x"),
    ],
)
def test_a_callers_arn_tells_what_it_is(arn: str, kind: str, name: str) -> None:
    assert principal_of(arn) == (kind, name)


def test_a_caller_of_another_kind_is_an_error() -> None:
    with pytest.raises(AwsError, match="something-new"):
        principal_of("arn:aws:sts::1:something-new/x")


def test_a_role_exists_or_not(aws: Aws) -> None:
    with stubbed(aws, "iam") as stub:
        stub.add_client_error("get_role", "NoSuchEntity")
        assert Iam(aws).role_exists("AWSServiceRoleForEC2Spot") is False
        stub.add_client_error("get_role", "AccessDenied")
        with pytest.raises(AwsError):
            Iam(aws).role_exists("AWSServiceRoleForEC2Spot")


def decision(action: str, said: str, **more: Any) -> dict[str, Any]:
    return {"EvalActionName": action, "EvalDecision": said, **more}


def test_denied_actions_are_those_that_no_missing_condition_explains(aws: Aws) -> None:
    asked = {"PolicySourceArn": ROLE, "ResourceArns": ["arn:x", "arn:y"], "ContextEntries": ANY}
    with stubbed(aws, "iam") as stub:
        results = [
            decision("a:Ok", "allowed"),
            decision("a:No", "implicitDeny"),
            decision("a:Tagged", "implicitDeny", MissingContextValues=["aws:ResourceTag/x"]),
        ]
        stub.add_response(
            "simulate_principal_policy", {"EvaluationResults": results, "IsTruncated": True, "Marker": "m"},
            {**asked, "ActionNames": ["a:Ok", "a:No", "a:Tagged", "a:Never"]},
        )  # fmt: skip
        stub.add_response(
            "simulate_principal_policy", {"EvaluationResults": [decision("a:Never", "explicitDeny")]},
            {**asked, "ActionNames": ["a:Ok", "a:No", "a:Tagged", "a:Never"], "Marker": "m"},
        )  # fmt: skip
        wish = Wish(("a:Ok", "a:No", "a:Tagged", "a:Never"), ("arn:x", "arn:y"))
        assert Iam(aws).denied(ROLE, [wish]) == (Denied("a:Never", is_explicit=True), Denied("a:No"))


def test_many_actions_are_simulated_in_batches_with_the_region_as_context(aws: Aws) -> None:
    names = tuple(f"a:{number}" for number in range(150))
    context = [
        {
            "ContextKeyName": "aws:RequestedRegion",
            "ContextKeyType": "string",
            "ContextKeyValues": ["us-west-2"],
        }
    ]
    with stubbed(aws, "iam") as stub:
        for part in (names[:100], names[100:]):
            stub.add_response(
                "simulate_principal_policy", {"EvaluationResults": []},
                {"PolicySourceArn": ROLE, "ActionNames": list(part), "ResourceArns": ["*"],
                 "ContextEntries": context},
            )  # fmt: skip
        assert Iam(aws).denied(ROLE, [Wish(names)]) == ()


def test_a_policy_is_read_as_what_its_holder_needs() -> None:
    statements = [
        {"Effect": "Allow", "Action": ["a:B"], "Resource": ["*", "arn:user/${aws:username}"]},
        {"Effect": "Allow", "Action": ["a:D"], "Resource": ["arn:user/${aws:username}"]},
        {"Effect": "Deny", "Action": ["a:C"], "Resource": ["*"]},
    ]
    assert wishes_of({"Statement": statements}) == (Wish(("a:B",), ("*",)),)


def test_placement_scores_are_asked_for_each_zone_of_the_region(aws: Aws) -> None:
    asked = {
        "InstanceTypes": ["a", "b", "c"], "TargetCapacity": 20, "TargetCapacityUnitType": "units",
        "SingleAvailabilityZone": True, "RegionNames": ["us-west-2"],
    }  # fmt: skip
    scores = [{"Region": "us-west-2", "AvailabilityZoneId": "usw2-az1", "Score": 9}]
    with stubbed(aws, "ec2") as stub:
        stub.add_response("get_spot_placement_scores", {"SpotPlacementScores": scores}, asked)
        assert Ec2(aws).placement_scores(["a", "b", "c"], 20) == {"usw2-az1": 9}


def test_the_newest_spot_price_of_each_type_and_zone_counts(aws: Aws) -> None:
    def price(zone: str, value: str) -> dict[str, Any]:
        return {"InstanceType": "g5.2xlarge", "AvailabilityZone": zone, "SpotPrice": value}

    now = datetime(2026, 11, 22, tzinfo=UTC)
    asked = {"InstanceTypes": ["g5.2xlarge"], "ProductDescriptions": ["Linux/UNIX"], "StartTime": now}
    history = [price("a", "0.49"), price("b", "0.6"), price("a", "0.9")]
    with stubbed(aws, "ec2") as stub:
        stub.add_response("describe_spot_price_history", {"SpotPriceHistory": history}, asked)
        found = Ec2(aws).spot_prices(["g5.2xlarge"], now)
    assert found == {("g5.2xlarge", "a"): 0.49, ("g5.2xlarge", "b"): 0.6}


def test_running_instances_are_counted_by_their_real_vcpus(aws: Aws) -> None:
    one = {
        "InstanceType": "g5.2xlarge", "InstanceLifecycle": "spot",
        "CpuOptions": {"CoreCount": 4, "ThreadsPerCore": 2}, "Tags": [{"Key": "k", "Value": "v"}],
    }  # fmt: skip
    with stubbed(aws, "ec2") as stub:
        stub.add_response(
            "describe_instances", {"Reservations": [{"Instances": [one, {"InstanceType": "g6.xlarge"}]}]}
        )
        spot, other = Ec2(aws).running(["g*"])
    assert (spot.capacity, spot.vcpus, spot.tags) == ("spot", 8, {"k": "v"})
    assert (other.capacity, other.vcpus) == ("on-demand", 0)


def test_nat_gateways_are_counted_by_zone_and_regional_ones_have_none(aws: Aws) -> None:
    subnet = {"SubnetId": "subnet-1", "VpcId": "vpc-1", "AvailabilityZone": "us-west-2a"}
    with stubbed(aws, "ec2") as stub:
        gateways = [{"SubnetId": "subnet-1"}, {"SubnetId": "subnet-1"}, {"VpcId": "vpc-1"}]
        stub.add_response("describe_nat_gateways", {"NatGateways": gateways})
        stub.add_response("describe_subnets", {"Subnets": [subnet]}, {"SubnetIds": ["subnet-1"]})
        assert Ec2(aws).nat_gateways() == {"us-west-2a": 2}
        stub.add_response("describe_nat_gateways", {"NatGateways": []})
        assert Ec2(aws).nat_gateways() == {}


def test_a_snapshot_of_another_region_does_not_exist_here(aws: Aws) -> None:
    with stubbed(aws, "ec2") as stub:
        stub.add_client_error("describe_snapshots", "InvalidSnapshot.NotFound")
        assert Ec2(aws).snapshot("snap-1") is None


def test_a_subnet_that_does_not_exist_is_an_error(aws: Aws) -> None:
    with stubbed(aws, "ec2") as stub:
        stub.add_client_error("describe_subnets", "InvalidSubnetID.NotFound")
        with pytest.raises(NotFoundError):
            Ec2(aws).subnets(["subnet-1"])


def test_parameters_are_read_ten_at_a_time_and_missing_ones_left_out(aws: Aws) -> None:
    names = [f"/p/{number}" for number in range(12)]
    with stubbed(aws, "ssm") as stub:
        stub.add_response(
            "get_parameters",
            {"Parameters": [{"Name": "/p/3", "Value": "ami-3"}], "InvalidParameters": ["/p/0"]},
            {"Names": names[:10]},
        )  # fmt: skip
        stub.add_response("get_parameters", {"Parameters": []}, {"Names": names[10:]})
        assert Ssm(aws).parameters(names) == {"/p/3": "ami-3"}


def test_log_groups_are_listed_by_each_prefix(aws: Aws) -> None:
    with stubbed(aws, "logs") as stub:
        for name in ("/aws/eks/s/cluster", "/aws/lambda/s"):
            answer = {"logGroups": [{"logGroupName": f"{name}-old"}]}
            stub.add_response("describe_log_groups", answer, {"logGroupNamePrefix": name})
        found = Logs(aws).groups(["/aws/eks/s/cluster", "/aws/lambda/s"])
        assert found == ("/aws/eks/s/cluster-old", "/aws/lambda/s-old")


def test_known_regions_are_those_of_every_partition(aws: Aws) -> None:
    assert {"us-west-2", "cn-north-1"} <= set(aws.regions("eks"))


@pytest.mark.parametrize("code", ["ImageNotFoundException", "RepositoryNotFoundException"])
def test_an_image_that_is_not_in_a_repository_is_no_error(aws: Aws, code: str) -> None:
    ecr, name = Ecr(aws, f"{ACCOUNT}.dkr.ecr.us-west-2.amazonaws.com"), "sd-on-eks/queue-agent"
    asked = {"registryId": ACCOUNT, "repositoryName": name, "imageIds": [{"imageTag": "1"}]}
    with stubbed(aws, "ecr") as stub:
        stub.add_response("describe_images", {"imageDetails": []}, asked)
        stub.add_client_error("describe_images", code, expected_params=asked)
        stub.add_client_error("describe_images", "AccessDeniedException", "no", expected_params=asked)
        assert ecr.has_image(name, "1") is True
        assert ecr.has_image(name, "1") is False
        with pytest.raises(AwsError):
            ecr.has_image(name, "1")
