"""Every call of a build, a copy and a deletion against the policy that `sdctl iam policy snapshot` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from fakes.snapshot_guest import account_with_guests
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.ebs import Ebs
from sdctl.config.model import Config
from sdctl.iam.policy import policy
from sdctl.iam.scopes import Place
from sdctl.polling import Clock
from sdctl.snapshots.building import Around, Wishes, build_snapshot
from sdctl.snapshots.owner import Owner
from sdctl_snapshot.images import Image
from support.iam_evaluator import Recorder, Request, allows

REGION, ACCOUNT = "us-west-2", "123456789012"
CONFIG = Config.model_validate({"stackName": "farm", "kubernetesVersion": "1.36"})
Asked = tuple[str, str, Mapping[str, tuple[str, ...]]]
OURS = {"aws:ResourceTag/sdctl:stack": ("farm",), "ssm:resourceTag/sdctl:stack": ("farm",)}
SURROUNDINGS = ("network-interface", "security-group", "subnet", "image")
LOOKS = ("Describe", "GetProducts", "GetCommandInvocation", "GetCallerIdentity")


def arn(service: str, resource: str, account: str = ACCOUNT, region: str = REGION) -> str:
    return f"arn:aws:{service}:{region}:{account}:{resource}"


def wanted_tags(params: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    listed = params["TagSpecifications"][0]["Tags"]
    return {f"aws:RequestTag/{one['Key']}": (one["Value"],) for one in listed}


def asked(service: str, operation: str, params: Mapping[str, Any]) -> Iterator[Asked]:
    """Translate a call into what IAM is asked, as the service authorization reference has it."""
    match service, operation:
        case "ec2", "RunInstances":
            for kind in ("instance", "volume"):
                yield "ec2:RunInstances", arn("ec2", f"{kind}/x-1"), wanted_tags(params)
                yield "ec2:CreateTags", arn("ec2", f"{kind}/x-1"), {"ec2:CreateAction": (operation,)}
            for kind in ("network-interface", "security-group", "subnet"):
                yield "ec2:RunInstances", arn("ec2", f"{kind}/x-1"), {}
            yield "ec2:RunInstances", arn("ec2", "image/ami-1", ""), {}
            role = arn("iam", f"role/{params['IamInstanceProfile']['Name']}", region="")
            yield "iam:PassRole", role, {"iam:PassedToService": ("ec2.amazonaws.com",)}
        case "ec2", "CreateSnapshot" | "CopySnapshot":
            if operation == "CreateSnapshot":
                yield f"ec2:{operation}", arn("ec2", f"volume/{params['VolumeId']}"), OURS
            else:
                yield f"ec2:{operation}", arn("ec2", "snapshot/snap-1", "", params["SourceRegion"]), OURS
            there = arn("ec2", "snapshot/snap-2", "", params.get("DestinationRegion", REGION))
            yield f"ec2:{operation}", there, wanted_tags(params)
            yield "ec2:CreateTags", there, {"ec2:CreateAction": (operation,)}
        case "ec2", "StopInstances" | "TerminateInstances":
            yield f"ec2:{operation}", arn("ec2", f"instance/{params['InstanceIds'][0]}"), OURS
        case (
            "ec2",
            "CreateTags" | "DeleteSnapshot" | "DisableFastSnapshotRestores" | "EnableFastSnapshotRestores",
        ):
            yield f"ec2:{operation}", arn("ec2", "snapshot/snap-1", ""), OURS
        case "iam", _:
            kind, key = "instance-profile", "InstanceProfileName"
            if key not in params:
                kind, key = "role", "RoleName"
            context = {"iam:PolicyARN": (params["PolicyArn"],)} if "PolicyArn" in params else {}
            names = [operation]
            if operation.startswith("Create"):
                names.append(f"Tag{operation.removeprefix('Create')}")
            for name in names:
                yield f"iam:{name}", arn("iam", f"{kind}/{params[key]}", region=""), context
        case "ssm", "SendCommand":
            yield "ssm:SendCommand", arn("ssm", f"document/{params['DocumentName']}", ""), {}
            yield "ssm:SendCommand", arn("ec2", f"instance/{params['InstanceIds'][0]}"), OURS
        case "ssm", "GetParameter":
            yield "ssm:GetParameter", arn("ssm", f"parameter{params['Name']}", ""), {}
        case _:
            assert operation.startswith(LOOKS), f"{service} {operation}: say here what it asks for"
            yield f"{service}:{operation}", "*", {}


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, dict[str, Any]]]:
    with account_with_guests(tmp_path, monkeypatch):
        aws = Aws(AwsAccess(REGION, access_key="testing", secret_key="testing"))
        watched = Aws(aws.access)
        recorder = Recorder(watched)
        seconds = [0.0]

        def sleep(wanted: float) -> None:
            seconds[0] += wanted

        clock = Clock(lambda: seconds[0], sleep, lambda low, high: high)
        around = Around(watched, lambda text: None, Owner.this_process(), clock)
        images = (Image("r.io/a", "1", f"sha256:{'1' * 64}", {}),)
        built = build_snapshot(CONFIG, images, Wishes(fast_restore_zones=("us-west-2a",)), around)
        tags = {"sdctl:stack": "farm"}
        zones = Ebs(watched).fast_restores([built.snapshot_id])[built.snapshot_id]
        Ebs(watched).disable_fast_restore(built.snapshot_id, zones)
        Ebs(watched).tag(built.snapshot_id, {"sdctl:copies": REGION})
        Ebs(watched).copy_from(REGION, built.snapshot_id, "a copy", tags)
        Ebs(watched).delete(built.snapshot_id)
        return recorder.calls


def requests(calls: list[tuple[str, str, dict[str, Any]]]) -> list[Request]:
    region = {"aws:RequestedRegion": (REGION,)}
    return [
        Request(action, resource, {**region, **context})
        for call in calls
        for action, resource, context in asked(*call)
    ]


def test_the_policy_allows_what_a_build_does_and_nothing_of_others(
    calls: list[tuple[str, str, dict[str, Any]]],
) -> None:
    document = policy("snapshot", CONFIG, Place(REGION, ACCOUNT))
    listed = requests(calls)
    assert len({one.action for one in listed}) > 20
    assert [one for one in listed if not allows(document, one)] == []
    # The same calls on what another deployment owns, or without its tags, are refused.
    strange = policy("snapshot", CONFIG.model_copy(update={"stack_name": "other"}), Place(REGION, ACCOUNT))
    changing = [
        one for one in listed
        if not one.action.split(":")[1].startswith(LOOKS) and "parameter/aws/" not in one.resource
        and "document/" not in one.resource and one.action != "ec2:CreateTags"
        and not any(f":{kind}/" in one.resource for kind in SURROUNDINGS)
    ]  # fmt: skip
    assert changing
    assert [one for one in changing if allows(strange, one)] == []


def test_the_policy_lets_the_configured_key_be_looked_at_and_no_other() -> None:
    key, other = (arn("kms", f"key/{digit * 8}-1111-1111-1111-111111111111") for digit in "12")
    document = policy("snapshot", CONFIG.model_copy(update={"kms_key_arn": key}), Place(REGION, ACCOUNT))
    region = {"aws:RequestedRegion": (REGION,)}
    assert allows(document, Request("kms:DescribeKey", key, region))
    assert not allows(document, Request("kms:DescribeKey", other, region))
