"""What SQS's answers about a receipt mean."""

from __future__ import annotations

import time
from typing import Any

import pytest
from botocore.exceptions import ClientError
from botocore.session import Session
from botocore.stub import Stubber

from sdctl_agent.aws import AwsClients
from sdctl_agent.consumer import Consumer
from sdctl_agent.job import Message

QUEUE = "https://sqs.us-east-1.amazonaws.com/1/q"
MESSAGE = Message(id="m", receipt="r", body="", receive_count=1, sent_ms=0, received_at=0.0)
IN_FLIGHT = "Value r for parameter ReceiptHandle is invalid. Reason: Message does not exist."


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> tuple[Consumer, Stubber]:
    client: Any = Session().create_client(
        "sqs", region_name="us-east-1", aws_access_key_id="a", aws_secret_access_key="s"
    )
    clients = AwsClients("us-east-1")
    monkeypatch.setattr(clients, "client", lambda service: client)
    return Consumer(clients, QUEUE, "", time.monotonic), Stubber(client)


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("ReceiptHandleIsInvalid", "The input receipt handle is invalid."),
        ("AWS.SimpleQueueService.MessageNotInflight", ""),
        ("MessageNotInflight", ""),
        ("InvalidParameterValue", IN_FLIGHT),
        ("InvalidParameterValue", "Message r is not in flight"),
    ],
)
@pytest.mark.parametrize("step", ["delete", "release"])
def test_a_message_that_is_gone_is_settled(
    stubbed: tuple[Consumer, Stubber], step: str, code: str, text: str
) -> None:
    consumer, stub = stubbed
    method = "delete_message" if step == "delete" else "change_message_visibility"
    stub.add_client_error(method, code, text, 400)
    with stub:
        consumer.delete(MESSAGE) if step == "delete" else consumer.release(MESSAGE, 0)
        stub.assert_no_pending_responses()


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("InvalidParameterValue", "Value 50000 for parameter VisibilityTimeout is invalid."),
        ("ServiceUnavailable", ""),
        ("AccessDenied", ""),
    ],
)
def test_any_other_refusal_is_an_error(stubbed: tuple[Consumer, Stubber], code: str, text: str) -> None:
    consumer, stub = stubbed
    stub.add_client_error("change_message_visibility", code, text, 400)
    with stub, pytest.raises(ClientError):
        consumer.release(MESSAGE, 50_000)
