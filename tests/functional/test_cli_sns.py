"""`submit --via sns`: straight to the input topic, on AWS's own protocol."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from sdctl import contract
from sdctl.deployments import Deployment, Deployments
from support.cli import run


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Deploy a topic with a queue on it, and return the queue's (client, URL)."""
    monkeypatch.chdir(tmp_path)
    with mock_aws():
        sns, sqs = (boto3.client(name, region_name="us-east-1") for name in ("sns", "sqs"))
        topic = sns.create_topic(Name="input")["TopicArn"]
        url = sqs.create_queue(QueueName="sdruntime")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        outputs = {"sdNotificationLambdaARN": topic, "OutputS3Bucket": "bucket"}
        record = Deployment(
            stack_name="s", region="us-east-1", target="aws", folder=str(tmp_path), outputs=outputs,
            runtimes={"sdruntime": "sdwebui"},
        )  # fmt: skip
        Deployments(tmp_path / "sdctl-home").record(record)
        yield sqs, url


def received(queue: tuple[Any, str]) -> dict[str, Any]:
    sqs, url = queue
    (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    envelope: dict[str, Any] = json.loads(message["Body"])
    return envelope


def test_the_message_is_one_that_the_agent_reads(queue: tuple[Any, str]) -> None:
    ran = run("submit", "t2i", "A dog", "--via", "sns", "--id", "one", "--context", '{"a":1}', "-o", "json")
    assert ran.document == {
        "id": "one", "runtime": "sdruntime", "status": "queued", "output_location": "s3://bucket/output/one",
    }  # fmt: skip
    envelope = received(queue)
    assert envelope["MessageAttributes"] == {"runtime": {"Type": "String", "Value": "sdruntime"}}
    task = contract.parse_message(
        json.dumps(envelope), runtime="sdruntime", task_types=contract.TASK_TYPES["sdwebui"], message_id="m"
    )
    assert (task.id, task.context, task.content["prompt"], task.problems) == ("one", {"a": 1}, "A dog", ())


def test_a_task_is_checked_before_it_is_published(queue: tuple[Any, str]) -> None:
    sqs, url = queue
    for words in (["--id", "a b"], ["--prefix", "../x"], ["--set", f"x={'y' * 300_000}"]):
        assert run("submit", "t2i", "A dog", "--via", "sns", *words).code == 3
    assert "Messages" not in sqs.receive_message(QueueUrl=url)


def test_a_raw_body_goes_to_the_topic_too_but_not_one_of_v1alpha1(queue: tuple[Any, str]) -> None:
    metadata = {"id": "r", "runtime": "sdruntime", "tasktype": "text-to-image"}
    body = {"task": {"metadata": metadata, "content": {"prompt": "x"}}}
    assert run("submit", "raw", "-", "--via", "sns", stdin=json.dumps(body)).stdout == "r\n"
    assert json.loads(received(queue)["Message"])["content"] == {"prompt": "x"}
    old = {"alwayson_scripts": {"task": "text-to-image", "sd_model_checkpoint": "v"}}
    assert run("submit", "raw", "-", "--via", "sns", stdin=json.dumps(old)).code == 3


def test_a_topic_that_is_gone_leaves_with_4(queue: tuple[Any, str]) -> None:
    boto3.client("sns", region_name="us-east-1").delete_topic(
        TopicArn="arn:aws:sns:us-east-1:123456789012:input"
    )
    assert run("submit", "t2i", "x", "--via", "sns").code == 4
