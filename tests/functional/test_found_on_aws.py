"""A deployment found by its name alone: outputs, runtimes, status, and what the list of tags is worth."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from sdctl.cli import context
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.listed import Listed, Presence, presences
from sdctl.clients.queue_depth import Depth, QueueDepth
from sdctl.deploy.results import read_results
from sdctl.errors import AwsError, NotFoundError
from sdctl.reads import Unknown
from sdctl.status.observe import observe_status
from sdctl.status.view import document

REGION = "us-west-2"
TAGS = [{"Key": "sdctl:stack", "Value": "farm"}]
QUEUE = {"Type": "AWS::SQS::Queue"}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # seconds for each test
    with mock_aws():
        yield Aws(AwsAccess(REGION))


def make_stack(aws: Aws, name: str, resources: dict[str, Any], outputs: dict[str, str], **more: Any) -> str:
    body = {
        "Resources": resources,
        "Outputs": {key: {"Value": {"Ref": logical}} for key, logical in outputs.items()},
    }
    client = aws.client("cloudformation")
    return str(client.create_stack(StackName=name, TemplateBody=json.dumps(body), **more)["StackId"])


@pytest.fixture
def deployed(aws: Aws) -> Aws:
    front = {"Unrouted": QUEUE, "Topic": {"Type": "AWS::SNS::Topic"}}
    outputs = {"UnroutedQueueUrl": "Unrouted", "sdNotificationLambdaARN": "Topic"}
    make_stack(aws, "farmStack", front, outputs, Tags=TAGS)
    own = {"Queue": QUEUE, "Dead": QUEUE}
    both = {"QueueUrl": "Queue", "DeadLetterQueueUrl": "Dead"}
    make_stack(aws, "farm-runtime-my-sd", own, both, Tags=TAGS)
    # Of another deployment, whose name begins like a runtime's stack of ours.
    make_stack(aws, "farm-runtime-xStack", {"Q": QUEUE}, {"QueueUrl": "Q"})
    entry = json.dumps({"name": "my-sd", "type": "comfyui"})
    aws.client("ssm").put_parameter(Name="/sdctl/farm/runtimes/my-sd", Value=entry, Type="String")
    aws.client("ssm").put_parameter(Name="/sdctl/farmer/runtimes/x", Value="{}", Type="String")
    return aws


def test_outputs_and_runtimes_are_read_from_the_stacks(deployed: Aws) -> None:
    outputs, runtimes = read_results(deployed, "farm")
    assert set(outputs) == {
        "UnroutedQueueUrl", "sdNotificationLambdaARN", "QueueUrlMyDashsd", "DeadLetterQueueUrlMyDashsd",
    }  # fmt: skip
    assert runtimes == {"my-sd": "comfyui"}


def test_what_is_not_there_is_not_found(aws: Aws) -> None:
    with pytest.raises(NotFoundError, match="there is no deployment farm in us-west-2"):
        read_results(aws, "farm")


def test_a_command_without_a_record_asks_aws_once_for_what_it_is_told(
    deployed: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDCTL_HOME", str(tmp_path))
    with context.command_line(context.Options(stack_name="farm", region=REGION)):
        found = context.require_deployment()
        assert (found.target, found.region, found.runtimes) == ("aws", REGION, {"my-sd": "comfyui"})
        assert context.require_deployment() is found
    with context.command_line(context.Options(stack_name="farm")), pytest.raises(NotFoundError):
        context.require_deployment()  # no region says where
    with (
        context.command_line(context.Options(stack_name="farm", region=REGION, target="local")),
        pytest.raises(NotFoundError, match="nothing is deployed from this machine"),
    ):
        context.require_deployment()


def test_status_reads_queues_and_runtimes(deployed: Aws) -> None:
    outputs, _ = read_results(deployed, "farm")
    deployed.client("sqs").send_message(QueueUrl=outputs["QueueUrlMyDashsd"], MessageBody="x")
    facts = observe_status(deployed, "farm", environment={})
    assert facts.queues == {"my-sd": Depth(1, 0)}
    found = document(facts, datetime.now(UTC))
    assert [one["name"] for one in found["stacks"]] == ["farm-runtime-my-sd", "farmStack"]
    assert found["queues"][0] == {
        "runtime": "my-sd", "type": "comfyui", "waiting": 1, "running": 0, "oldest_seconds": None,
        "dead_letters": 0,
    }  # fmt: skip


def test_a_part_of_status_that_is_refused_hides_no_other(
    deployed: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: QueueDepth, url: str) -> Depth:
        raise AwsError(f"could not count: denied for {url.rpartition('/')[2][:4]}", aws_code="AccessDenied")

    monkeypatch.setattr(QueueDepth, "depth", refuse)
    facts = observe_status(deployed, "farm", environment={})
    assert isinstance(facts.queues["my-sd"], Unknown)
    found = document(facts, datetime.now(UTC))
    assert found["runtimes"][0]["type"] == "comfyui"
    assert {one["part"] for one in found["problems"]} >= {"queue of my-sd", "unrouted"}


def test_the_age_of_the_oldest_message_is_cloudwatchs_last_word(aws: Aws) -> None:
    now = datetime(2026, 11, 22, 12, tzinfo=UTC)
    for minutes, value in ((8, 900.0), (2, 30.0), (30, 9000.0)):
        datum = {
            "MetricName": "ApproximateAgeOfOldestMessage", "Timestamp": now - timedelta(minutes=minutes),
            "Dimensions": [{"Name": "QueueName", "Value": "q"}], "Value": value,
        }  # fmt: skip
        aws.client("cloudwatch").put_metric_data(Namespace="AWS/SQS", MetricData=[datum])
    ages = QueueDepth(aws).oldest_seconds({"sd": "q", "other": "none"}, now)
    assert ages == {"sd": 30.0}


def test_the_list_of_tags_is_held_against_ec2_the_stacks_and_the_service_itself(aws: Aws) -> None:
    vpc = aws.client("ec2").create_vpc(
        CidrBlock="10.0.0.0/16", TagSpecifications=[{"ResourceType": "vpc", "Tags": TAGS}]
    )["Vpc"]["VpcId"]
    stack_id = make_stack(aws, "farmStack", {"Q": QUEUE}, {}, Tags=TAGS)
    of_stack = {"aws:cloudformation:stack-id": stack_id}
    listed = [
        Listed("ec2:vpc", vpc),
        Listed("ec2:subnet", "subnet-gone"),
        Listed("sqs:queue", "there", of_stack | {"aws:cloudformation:logical-id": "Q"}),
        Listed("sqs:queue", "unheard-of", of_stack | {"aws:cloudformation:logical-id": "Never"}),
        Listed("kms:key", "k"),
        Listed("dynamodb:table", "gone"),
        Listed("eks:cluster", "gone"),
    ]
    assert presences(aws, listed) == {
        ("ec2:vpc", vpc): Presence.THERE,
        ("ec2:subnet", "subnet-gone"): Presence.GONE,
        ("sqs:queue", "there"): Presence.THERE,
        ("sqs:queue", "unheard-of"): Presence.LISTED,
        ("kms:key", "k"): Presence.LISTED,
        ("dynamodb:table", "gone"): Presence.GONE,
        ("eks:cluster", "gone"): Presence.GONE,
    }
