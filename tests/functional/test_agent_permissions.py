"""The agent's role against the calls of the agent: none is missing, none is left over.

The agent's own doors to AWS are used against an emulator, their calls recorded, and judged by the statements
that the runtime's stack gives to its role. That every call in the agent's sources was made is checked, too.
"""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore import xform_name

import sdctl_agent
from sdctl.config.model import Config
from sdctl.contract import FAILED, Task
from sdctl.render.runtime import runtime_stack
from sdctl.task_record import Ending, Row
from sdctl_agent.aws import AwsClients
from sdctl_agent.consumer import Consumer
from sdctl_agent.inputs import s3_objects
from sdctl_agent.job import Job
from sdctl_agent.notify import Notifier
from sdctl_agent.runtimes.base import SLICE_BYTES, Output, memory_output
from sdctl_agent.storage import PART_BYTES, Storage
from sdctl_agent.table import TableTasks
from support.agent import ACCOUNT, REGION, Account
from support.emulator import running_emulator
from support.iam_evaluator import Request, allows

SERVICES = ("dynamodb", "s3", "sns", "sqs")
# The actions that IAM asks for where they are not called as the operation is.
ACTIONS = {
    "s3:CreateMultipartUpload": "s3:PutObject", "s3:UploadPart": "s3:PutObject",
    "s3:CompleteMultipartUpload": "s3:PutObject",
    "sqs:ChangeMessageVisibilityBatch": "sqs:ChangeMessageVisibility",
}  # fmt: skip
# S3 tells "not there" from "forbidden" only to who may list the bucket; no call of the agent lists it.
UNCALLED = {"s3:ListBucket"}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    with running_emulator(tmp_path_factory.mktemp("emulator")) as url:
        yield Account(url)


Calls = list[tuple[str, str, Mapping[str, Any]]]


@pytest.fixture
def recorded(account: Account, monkeypatch: pytest.MonkeyPatch) -> tuple[AwsClients, Calls]:
    """Return the agent's clients, and where their calls are kept as (service, operation, arguments)."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", account.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCOUNT)
    clients, calls = AwsClients(REGION), []

    def record(params: dict[str, Any], model: Any, **_: Any) -> None:
        calls.append((model.service_model.service_name, model.name, params))

    clients._session.register("provide-client-params.*.*", record)
    return clients, calls


def retry(_name: str, call: Callable[[], Any]) -> Any:
    return call()


def broken_output() -> Output:
    """Make an output that breaks off in its third part."""
    whole = memory_output(b"\x89PNG\r\n\x1a\n" + bytes(3 * PART_BYTES))

    @contextmanager
    def opened() -> Iterator[Iterator[bytes]]:
        with whole.open() as chunks:
            yield breaking_off(chunks)

    def breaking_off(chunks: Iterator[bytes]) -> Iterator[bytes]:
        for _ in range(2 * PART_BYTES // SLICE_BYTES + 1):
            yield next(chunks)
        raise ConnectionError("the runtime is gone")

    return Output(opened)


def exercise(account: Account, clients: AwsClients) -> None:
    """Do everything that the agent does with AWS."""
    consumer = Consumer(clients, account.queue, account.dead_letters, time.monotonic)
    for body in ("first", "second"):
        account.send(body)
        [message] = consumer.receive(1, 1)
        assert not consumer.extend([Job(message, "token")])
        consumer.set_aside(message)
        consumer.release(message, 0)
        [message] = consumer.receive(1, 1)
        consumer.delete(message)
    tasks, now_ms = TableTasks(clients, account.name, lambda: time.time_ns() // 1_000_000), 1
    task = Task("one", "main", "text-to-image", {"prompt": "x"})
    tasks.claim(task.id, "token", 1)
    row = tasks.claim_unseen(task, "token", now_ms, 1)
    assert isinstance(row, Row)
    tasks.hold(task.id, "token", 0.5, None, None)
    ended = tasks.end(row, Ending(FAILED, now_ms))
    Notifier(clients, account.topic).publish(ended)
    tasks.notified(ended)
    assert tasks.look(task.id) is not None
    storage = Storage(clients, account.bucket)
    picture = b"\x89PNG\r\n\x1a\n" + bytes(PART_BYTES + 5)
    storage.store_output("one", "any/where", 1, memory_output(picture[:100]), retry)
    storage.store_output("one", "any/where", 2, memory_output(picture), retry)
    with pytest.raises(ConnectionError):
        storage.store_output("one", "any/where", 3, broken_output(), retry)
    storage.store_answer("one", "any/where", {}, retry)
    storage.read_content(storage.store_content(task, retry), retry)
    account.s3.put_object(Bucket=account.bucket, Key="uploads/one.png", Body=picture[:100])
    with s3_objects(lambda: clients.client("s3"))(account.bucket, "uploads/one.png") as chunks:
        assert list(chunks)


def policy(account: Account) -> dict[str, Any]:
    """Return the role's statements with the names of the account's things in them."""
    config = Config()
    document = runtime_stack(config, config.runtimes[0], target="aws").template.document["Resources"]
    [work] = document["AgentRole"]["Properties"]["Policies"]
    arns = {
        "Queue": queue_arn(account.queue), "DeadLetterQueue": queue_arn(account.dead_letters),
        "OutputTopicArn": account.topic,
    }  # fmt: skip
    values = {
        "AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT,
        "OutputBucket": account.bucket, "TaskTableName": account.name,
    }  # fmt: skip

    def resolved(resource: Mapping[str, Any]) -> str:
        match resource:
            case {"Fn::GetAtt": [logical, "Arn"]} | {"Ref": logical}:
                return arns[logical]
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}]+)\}", lambda match: values[match[1]], text)
        raise AssertionError(resource)

    statements = work["PolicyDocument"]["Statement"]
    return {"Statement": [one | {"Resource": [resolved(r) for r in one["Resource"]]} for one in statements]}


def queue_arn(url: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{url.rsplit('/', 1)[-1]}"


def requests(calls: Calls) -> Iterator[Request]:
    for service, operation, arguments in calls:
        action = ACTIONS.get(f"{service}:{operation}", f"{service}:{operation}")
        match service:
            case "sqs":
                resource = queue_arn(arguments["QueueUrl"])
            case "sns":
                resource = arguments["TopicArn"]
            case "dynamodb":
                assert "IndexName" not in arguments
                resource = f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{arguments['TableName']}"
            case _:
                resource = f"arn:aws:s3:::{arguments['Bucket']}/{arguments['Key']}"
        yield Request(action, resource)


def operations_in_the_sources() -> set[str]:
    """Return every AWS operation that the agent's sources call, as `receive_message`."""
    session = botocore.session.get_session()
    known = {xform_name(name) for one in SERVICES for name in session.get_service_model(one).operation_names}
    # `publish` and `subscribe` are also methods of ours, and the same calls.
    trees = (ast.parse(path.read_text()) for path in Path(sdctl_agent.__path__[0]).rglob("*.py"))
    return {
        node.func.attr
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in known
    }


def test_the_agents_role_allows_what_it_does_and_nothing_else(
    account: Account, recorded: tuple[AwsClients, Calls]
) -> None:
    clients, calls = recorded
    exercise(account, clients)

    assert {xform_name(operation) for _, operation, _ in calls} == operations_in_the_sources()
    document, made = policy(account), list(requests(calls))
    assert [one for one in made if not allows(document, one)] == []
    assert unused(document["Statement"], made) == set()


def unused(statements: Iterable[Mapping[str, Any]], made: list[Request]) -> set[str]:
    """Return what is allowed and was never needed, a statement, action and resource at a time."""
    return {
        json.dumps([action, resource])
        for statement in statements
        for action in statement["Action"]
        for resource in statement["Resource"]
        if action not in UNCALLED
        and not any(
            allows({"Statement": [{**statement, "Action": [action], "Resource": [resource]}]}, one)
            for one in made
        )
    }
