"""What CloudFormation itself says an update would do, asked of the emulator; nothing stays of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.deploy.display import change_lines, plan_document
from sdctl.deploy.executor import LOCAL_PACE, Executor
from sdctl.deploy.preview import preview
from sdctl.deploy.steps import Plan, StackStep
from sdctl.render.stacks import Output
from support.emulator import running_emulator

ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aws]:
    with running_emulator(tmp_path_factory.mktemp("emulator"), account=ACCOUNT) as url:
        access = AwsAccess("us-west-2", endpoint_url=url, access_key=ACCOUNT, secret_key="x")
        session = Aws(access)
        Executor(session, lambda _: None, pace=LOCAL_PACE).run(Plan((step("create", "one", 60),)))
        yield session


def step(action: str, name: str, seconds: int, **more: object) -> StackStep:
    """A stack of one queue, whose name cannot change without another queue."""
    queue = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": name, "MessageRetentionPeriod": seconds}}
    body = {"Resources": {"Queue": queue, "Topic": {"Type": "AWS::SNS::Topic"}}}
    return StackStep(id="front", action=action, name="shown", body=json.dumps(body), **more)  # type: ignore[arg-type]


def left(aws: Aws) -> list[str]:
    found = aws.client("cloudformation").list_change_sets(StackName="shown")["Summaries"]
    return [one["ChangeSetName"] for one in found if "preview" in one["ChangeSetName"]]


def test_a_change_is_shown_and_nothing_stays_of_the_question(aws: Aws) -> None:
    found = preview(aws, Plan((step("update", "one", 120),)), {})
    assert [(one.resource, one.action, one.is_replacement) for one in found.changes["front"]] == [
        ("Queue", "modify", False)
    ]
    assert left(aws) == []
    url = aws.client("sqs").get_queue_url(QueueName="one")["QueueUrl"]
    assert (
        aws.client("sqs").get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"][
            "MessageRetentionPeriod"
        ]
        == "60"
    )


def test_a_replacement_stands_out(aws: Aws) -> None:
    found = preview(aws, Plan((step("update", "two", 60),)), {})
    assert [(one, change.resource) for one, change in found.replacements] == [("front", "Queue")]
    lines = change_lines(found.plan, found.changes)
    assert lines == ["front:", "  ! REPLACE Queue (AWS::SQS::Queue)"]
    (document,) = plan_document(found.plan, found.changes)["steps"]
    assert document["changes"] == [
        {"resource": "Queue", "type": "AWS::SQS::Queue", "action": "modify", "replacement": "true"}
    ]


def test_what_differs_in_words_alone_is_no_change(aws: Aws) -> None:
    found = preview(aws, Plan((step("update", "one", 60),)), {})
    assert found.plan.changes == ()
    assert left(aws) == []


def test_a_stack_that_waits_for_another_s_output_is_not_asked_about(aws: Aws) -> None:
    waiting = step("update", "two", 60, parameters={"A": Output("absent", "Out")})
    found = preview(aws, Plan((waiting, step("create", "three", 60))), {})
    assert found.changes == {}
    assert len(found.plan.changes) == 2
