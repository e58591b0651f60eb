"""The function on the intake queue: what it keeps, and what it asks to see again."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from botocore.exceptions import ClientError

from sdctl.contract import RuntimeInfo
from sdctl_lambda.records import settle_each
from sdctl_lambda.registry import Registry, Runtimes
from sdctl_unrouted.handler import Unrouted

RUNTIMES = {"web": RuntimeInfo("web", "sdwebui", "A.safetensors")}


class Listed(Registry):
    """A list that is always there."""

    def __init__(self) -> None:
        pass

    def runtimes(self, is_enough: Callable[[Runtimes], object] | None = None) -> Runtimes:
        return RUNTIMES


class FakeSqs:
    """Keeps what is sent; refuses bodies that hold `refuse`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []

    def client(self, service: str) -> FakeSqs:
        assert service == "sqs"
        return self

    def send_message(self, *, QueueUrl: str, MessageBody: str) -> None:
        if "refuse" in MessageBody:
            raise ClientError({"Error": {"Code": "Throttling", "Message": "secret"}}, "SendMessage")
        self.sent.append((QueueUrl, MessageBody))


def record(number: int, body: str) -> dict[str, Any]:
    return {"messageId": f"m{number}", "body": body}


def envelope(message: str = "{}", **attributes: str) -> str:
    values = {name: {"Type": "String", "Value": value} for name, value in attributes.items()}
    return json.dumps({"Type": "Notification", "Message": message, "MessageAttributes": values})


def settle(*bodies: str) -> tuple[dict[str, Any], list[str]]:
    aws: Any = FakeSqs()
    function = Unrouted(Listed(), "https://queue", aws)
    answer = settle_each({"Records": [record(*item) for item in enumerate(bodies)]}, function.settle)
    assert {url for url, _ in aws.sent} <= {"https://queue"}
    return answer, [body for _, body in aws.sent]


def test_what_a_runtimes_queue_has_is_dropped() -> None:
    answer, kept = settle(envelope(runtime="WEB"), envelope(sd_model_checkpoint="a.SAFETENSORS"))
    assert (answer, kept) == ({"batchItemFailures": []}, [])


def test_what_no_queue_has_is_kept_as_it_came() -> None:
    lost = [
        envelope(runtime="nobody"),
        envelope(runtime="nobody", sd_model_checkpoint="A.safetensors"),
        envelope(),
        json.dumps({"Type": "Notification", "Message": "x"}),
        "no envelope at all",
    ]
    answer, kept = settle(*lost)
    assert (answer, kept) == ({"batchItemFailures": []}, lost)


def test_a_message_that_cannot_be_kept_now_is_asked_for_again_and_stops_no_other(capsys: Any) -> None:
    answer, kept = settle(envelope("refuse"), envelope("later"))
    assert answer == {"batchItemFailures": [{"itemIdentifier": "m0"}]}
    assert kept == [envelope("later")]
    assert "secret" not in capsys.readouterr().out
