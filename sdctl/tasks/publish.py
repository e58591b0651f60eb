"""Submitting past the API: one message to the input topic, as CONTRACT section 2 opens it to anyone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sdctl import contract
from sdctl.errors import ConfigError, NotFoundError
from sdctl.tasks.answers import Submitted
from sdctl.tasks.api import V1ALPHA2

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws

# https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
MAX_MESSAGE_BYTES: Final = 262_144


def publish(
    aws: Aws, outputs: Mapping[str, str], body: Mapping[str, Any], version: str = V1ALPHA2
) -> Submitted:
    """Publish a task to the deployment's input topic.

    Args:
        aws: session of the deployment.
        outputs: of the front stack; the topic is `sdNotificationLambdaARN`.
        body: a body of v1alpha2.
        version: of the body; v1alpha1 is a form of the API alone.

    Raises:
        ConfigError: the body breaks the contract, is of v1alpha1, or is too large for a message.
        NotFoundError: the deployment has no input topic.
        AwsError: SNS refused it.
    """
    if version != V1ALPHA2:
        raise ConfigError("a body of v1alpha1 goes through the API only", hint="leave out --via sns")
    topic = outputs.get("sdNotificationLambdaARN", "")
    if not topic:
        raise NotFoundError("the deployment has no input topic", hint="sdctl outputs")
    task = _checked(body)
    message = contract.message_body(task)
    if contract.message_bytes(message, task.route) > MAX_MESSAGE_BYTES:
        raise ConfigError(f"the task is larger than {MAX_MESSAGE_BYTES} bytes", hint="leave out --via sns")
    from sdctl.clients.aws import aws_errors

    with aws_errors("publish the task"):
        aws.client("sns").publish(
            TopicArn=topic,
            Message=message,
            MessageAttributes={task.route[0]: {"DataType": "String", "StringValue": task.route[1]}},
        )
    location = f"s3://{outputs.get('OutputS3Bucket', '')}/{task.prefix}/{task.id}"
    return Submitted(task.id, task.runtime, contract.QUEUED, location)


def _checked(body: Mapping[str, Any]) -> contract.Task:
    """Check the body as the API would, which is not there to do it; what is deployed is not known."""
    metadata = body["task"]["metadata"]
    name, tasktype = str(metadata.get("runtime") or ""), metadata.get("tasktype")
    kind = next((kind for kind, names in contract.TASK_TYPES.items() if tasktype in names), contract.SDWEBUI)
    try:
        return contract.parse_v1alpha2(dict(body), {name.lower(): contract.RuntimeInfo(name, kind)})
    except contract.InvalidTaskError as error:
        lines = [f"  {one.path}: {one.message}" for one in error.problems]
        raise ConfigError("\n".join(["the task is not valid", *lines])) from error
