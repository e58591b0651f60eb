"""The stacks of options: there only when chosen; and the tuner's state machine, run against instances."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from sdctl.config.model import Config
from sdctl.render.options import option_stack_names, option_stacks
from sdctl.render.stacks import Stack

BUDGET = {"monthlyAmount": 500, "email": "me@example.com"}
REGION = "us-east-1"


def stacks(**document: Any) -> dict[str, Stack]:
    return option_stacks(Config.model_validate({"stackName": "farm", **document}))


def properties(stack: Stack, logical: str) -> dict[str, Any]:
    return dict(stack.template.document["Resources"][logical]["Properties"])


def test_an_option_that_is_not_chosen_has_no_stack() -> None:
    assert stacks() == {}
    both = stacks(budget=BUDGET, ebsThroughputTuner={})
    assert {option: stack.name for option, stack in both.items()} == option_stack_names("farm")
    assert all(stack.tags == {"sdctl:stack": "farm"} for stack in both.values())


def test_a_budget_counts_what_carries_the_deployments_tag() -> None:
    given = properties(stacks(budget=BUDGET)["budget"], "Budget")
    assert given["Budget"]["BudgetName"] == "farm-budget"
    assert given["Budget"]["BudgetLimit"] == {"Amount": 500, "Unit": "USD"}
    assert given["Budget"]["CostFilters"] == {"TagKeyValue": ["user:sdctl:stack$farm"]}
    told = {
        (one["Notification"]["NotificationType"], one["Notification"]["Threshold"])
        for one in given["NotificationsWithSubscribers"]
    }
    assert told == {("ACTUAL", 80), ("ACTUAL", 100), ("FORECASTED", 100)}


def test_the_tuner_modifies_volumes_of_the_clusters_gpu_nodes_alone() -> None:
    role = properties(stacks(ebsThroughputTuner={})["tuner"], "Role")
    describe, modify = role["Policies"][0]["PolicyDocument"]["Statement"]
    assert describe["Action"] == ["ec2:DescribeInstances", "ec2:DescribeVolumes"]
    assert modify["Action"] == ["ec2:ModifyVolume"]
    assert modify["Condition"] == {
        "StringEquals": {"aws:ResourceTag/kubernetes.io/cluster/farm": "owned"},
        "StringLike": {"aws:ResourceTag/karpenter.sh/nodepool": "*"},
    }


NODE_TAGS = {"kubernetes.io/cluster/farm": "owned", "karpenter.sh/nodepool": "gpu"}


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    # Between states there is JSON, in which times are text; moto hands on the SDK's own.
    monkeypatch.setattr(json.JSONEncoder, "default", lambda _, value: str(value))
    config: Any = {"stepfunctions": {"execute_state_machine": True}}
    with mock_aws(config=config):
        yield boto3.client("ec2", region_name=REGION)


def launch(ec2: Any, tags: dict[str, str], *, iops: int = 6000, throughput: int = 600) -> tuple[str, str]:
    """Start an instance with a data volume; returns both ids."""
    tag_list = [{"Key": key, "Value": value} for key, value in tags.items()]
    image = ec2.describe_images()["Images"][0]["ImageId"]
    instance = ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="g5.xlarge",
        TagSpecifications=[{"ResourceType": "instance", "Tags": tag_list}] if tags else [],
    )["Instances"][0]  # fmt: skip
    volume = ec2.create_volume(
        AvailabilityZone=instance["Placement"]["AvailabilityZone"], Size=100, VolumeType="gp3",
        Iops=iops, Throughput=throughput,
    )  # fmt: skip
    ec2.attach_volume(InstanceId=instance["InstanceId"], VolumeId=volume["VolumeId"], Device="/dev/xvdb")
    return instance["InstanceId"], volume["VolumeId"]


def run_tuner(instance_id: str) -> list[str]:
    """Run the state machine for the event of a started instance; returns the states it went through."""
    stack = stacks(ebsThroughputTuner={"delaySeconds": 30, "iops": 4000, "throughputMibPerSecond": 250})[
        "tuner"
    ]
    definition = json.dumps(properties(stack, "Tuner")["Definition"])
    definition = re.sub(r'\{"Fn::Sub": ("[^"]*")\}', r"\1", definition).replace("${AWS::Partition}", "aws")
    definition = definition.replace('"Seconds": 30', '"Seconds": 0')
    steps = boto3.client("stepfunctions", region_name=REGION)
    role = "arn:aws:iam::123456789012:role/tuner"
    machine = steps.create_state_machine(name="tuner", definition=definition, roleArn=role)["stateMachineArn"]
    event = json.dumps({"detail": {"instance-id": instance_id, "state": "running"}})
    execution = steps.start_execution(stateMachineArn=machine, input=event)["executionArn"]
    deadline = time.monotonic() + 20
    while (status := steps.describe_execution(executionArn=execution)["status"]) == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    history = steps.get_execution_history(executionArn=execution)["events"]
    assert status == "SUCCEEDED", history
    return [one["stateEnteredEventDetails"]["name"] for one in history if "stateEnteredEventDetails" in one]


def performance(ec2: Any, volume_id: str) -> tuple[int, int]:
    volume = ec2.describe_volumes(VolumeIds=[volume_id])["Volumes"][0]
    return volume["Iops"], volume["Throughput"]


def test_a_gpu_nodes_data_volume_is_lowered_after_the_wait(ec2: Any) -> None:
    instance, volume = launch(ec2, NODE_TAGS)
    assert run_tuner(instance) == [
        "FindNode", "IsNode", "WaitForImages", "FindVolume", "HasVolume", "TakeVolume", "IsFaster",
        "Lower", "Done",
    ]  # fmt: skip
    assert performance(ec2, volume) == (4000, 250)


@pytest.mark.parametrize("tags", [{}, NODE_TAGS | {"kubernetes.io/cluster/farm": "shared"}])
def test_an_instance_of_somebody_else_is_left_alone_at_once(ec2: Any, tags: dict[str, str]) -> None:
    instance, volume = launch(ec2, tags)
    assert run_tuner(instance) == ["FindNode", "IsNode", "Done"]
    assert performance(ec2, volume) == (6000, 600)


def test_a_volume_that_went_with_its_node_ends_the_matter(ec2: Any) -> None:
    instance, volume = launch(ec2, NODE_TAGS)
    ec2.detach_volume(VolumeId=volume, InstanceId=instance)
    assert run_tuner(instance)[-2:] == ["HasVolume", "Done"]


def test_a_volume_that_never_was_faster_is_not_modified(ec2: Any) -> None:
    instance, volume = launch(ec2, NODE_TAGS, iops=3000, throughput=125)
    assert run_tuner(instance)[-2:] == ["IsFaster", "Done"]
    assert performance(ec2, volume) == (3000, 125)
