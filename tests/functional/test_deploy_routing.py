"""Where a message of the input topic goes, through the emulator's own filters and the real function."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.config.model import Config
from sdctl.deploy.executor import LOCAL_PACE, Executor
from sdctl.deploy.outputs import joined_outputs
from sdctl.deploy.planner import observe, plan_deploy
from support.emulator import running_emulator

ACCOUNT = "123456789012"
RUNTIMES = [
    {"name": "sdruntime", "type": "sdwebui", "modelFilename": "v1-5.safetensors"},
    {"name": "comfy", "type": "comfyui"},
    *({"name": f"other-{n}", "type": "sdwebui", "modelFilename": f"m{n}.safetensors"} for n in range(50)),
]


class Front:
    """A deployed front: publishes, and looks into its queues."""

    def __init__(self, aws: Aws, outputs: dict[str, str]) -> None:
        self.sns, self.sqs, self.outputs = aws.client("sns"), aws.client("sqs"), outputs

    def publish(self, message: str, attributes: dict[str, str]) -> None:
        self.sns.publish(
            TopicArn=self.outputs["sdNotificationLambdaARN"],
            Message=message,
            MessageAttributes={
                name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()
            },
        )

    def bodies(self, output: str) -> list[str]:
        """Take the messages of a queue away and return what was published."""
        taken = []
        while True:
            answer = self.sqs.receive_message(
                QueueUrl=self.outputs[output], MaxNumberOfMessages=10, WaitTimeSeconds=0
            )
            for message in answer.get("Messages", []):
                taken.append(json.loads(message["Body"])["Message"])
                self.sqs.delete_message(QueueUrl=self.outputs[output], ReceiptHandle=message["ReceiptHandle"])
            if not answer.get("Messages"):
                return taken


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with running_emulator(tmp_path_factory.mktemp("emulator"), account=ACCOUNT) as url:
        aws = Aws(AwsAccess("us-west-2", endpoint_url=url, access_key=ACCOUNT, secret_key="secret"))
        config = Config.model_validate({"modelsRuntime": RUNTIMES})
        plan = plan_deploy(config, observe(aws, config, target="local"), target="local")
        outputs = Executor(aws, lambda _event: None, pace=LOCAL_PACE).run(plan)
        yield Front(aws, joined_outputs(config.stack_name, outputs))


ROUTED: list[tuple[str, dict[str, str], str]] = [
    ("by name", {"runtime": "sdruntime"}, "QueueUrlSdruntime"),
    ("by name in another case", {"runtime": "SdRuntime"}, "QueueUrlSdruntime"),
    ("comfy by name", {"runtime": "COMFY"}, "QueueUrlComfy"),
    ("by checkpoint", {"sd_model_checkpoint": "V1-5.safetensors"}, "QueueUrlSdruntime"),
    ("the name wins over the checkpoint", {"runtime": "comfy", "sd_model_checkpoint": "v1-5.safetensors"},
     "QueueUrlComfy"),
    ("one of many", {"sd_model_checkpoint": "m49.safetensors"}, "QueueUrlOtherDash49"),
]  # fmt: skip
UNROUTED: list[tuple[str, dict[str, str]]] = [
    ("unknown name", {"runtime": "nobody"}),
    ("unknown checkpoint", {"sd_model_checkpoint": "none.safetensors"}),
    ("unknown name, known checkpoint", {"runtime": "nobody", "sd_model_checkpoint": "v1-5.safetensors"}),
    ("another attribute", {"colour": "red"}),
    ("no attribute", {}),
]


def test_every_message_reaches_one_runtime_or_the_unrouted_queue(front: Front) -> None:
    for message, attributes, _ in ROUTED:
        front.publish(message, attributes)
    for message, attributes in UNROUTED:
        front.publish(message, attributes)

    wanted: dict[str, list[str]] = {}
    for message, _, queue in ROUTED:
        wanted.setdefault(queue, []).append(message)
    for queue, messages in wanted.items():
        assert sorted(front.bodies(queue)) == sorted(messages)

    unrouted: list[str] = []
    deadline = time.monotonic() + 20
    while len(unrouted) < len(UNROUTED) and time.monotonic() < deadline:
        unrouted += front.bodies("UnroutedQueueUrl")
        time.sleep(0.1)
    assert sorted(unrouted) == sorted(message for message, _ in UNROUTED)


def test_the_api_answers_without_a_key_in_our_words(front: Front) -> None:
    import urllib.error
    import urllib.request

    base = _base_url(front)
    for key in ({}, {"x-api-key": "wrong"}):
        request = urllib.request.Request(f"{base}v1alpha2", data=b"{}", headers=key, method="POST")
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=20)
        with caught.value as answer:
            assert answer.code == 401
            body: dict[str, Any] = json.loads(answer.read())
        assert body["error"]["code"] == "unauthorized"
        assert set(body["error"]) == {"code", "message", "fields"}


def _base_url(front: Front) -> str:
    endpoint = front.sns.meta.endpoint_url
    return f"{endpoint}/restapis/{front.outputs['RestApiId']}/{front.outputs['ApiStageName']}/_user_request_/"
