"""The settings of a runtime's agent, from configuration and stack outputs."""

from __future__ import annotations

import pytest

from sdctl.config.model import Config
from sdctl.errors import NotFoundError
from sdctl.render.values import agent_environment

OUTPUTS = {
    "sdoneks-runtime-comfy-1": {"QueueUrl": "https://sqs/q", "DeadLetterQueueUrl": "https://sqs/d"},
    "sdoneksStack": {
        "sdNotificationOutputARN": "arn:aws:sns:us-west-2:123456789012:out",
        "OutputS3Bucket": "results",
        "TaskTableName": "tasks",
    },
}


def test_the_agent_is_told_everything_but_its_server() -> None:
    config = Config.model_validate(
        {
            "modelsRuntime": [{"name": "comfy-1", "type": "comfyui"}],
            "queueAgent": {
                "maxAttempts": 5,
                "notifyRunning": True,
                "inputAllowlist": ["10.0.0.0/8", "s3://in"],
            },
        }
    )
    assert agent_environment(config, config.runtimes[0], OUTPUTS, region="us-west-2") == {
        "RUNTIME_TYPE": "comfyui",
        "RUNTIME_NAME": "comfy-1",
        "SQS_QUEUE_URL": "https://sqs/q",
        "SNS_TOPIC_ARN": "arn:aws:sns:us-west-2:123456789012:out",
        "S3_BUCKET": "results",
        "AWS_DEFAULT_REGION": "us-west-2",
        "DYNAMIC_SD_MODEL": "false",
        "TASK_TABLE": "tasks",
        "DEAD_LETTER_QUEUE_URL": "https://sqs/d",
        "MAX_ATTEMPTS": "5",
        "TASK_TIMEOUT_SECONDS": "3600",
        "NOTIFY_RUNNING": "true",
        "INPUT_ALLOWLIST": "10.0.0.0/8,s3://in",
    }


def test_a_stack_that_lacks_the_runtime_says_so() -> None:
    config = Config()
    with pytest.raises(NotFoundError, match="sdoneks-runtime-sdruntime has no output QueueUrl") as caught:
        agent_environment(config, config.runtimes[0], OUTPUTS, region="us-west-2")
    assert caught.value.hint == "run sdctl deploy"
