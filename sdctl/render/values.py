"""Configuration and stack outputs to the settings of what runs: now the agent's environment."""

from __future__ import annotations

from collections.abc import Mapping

from sdctl.config.model import Config, RuntimeConfig
from sdctl.errors import NotFoundError
from sdctl.render.stacks import logical_id


def agent_environment(
    config: Config, runtime: RuntimeConfig, outputs: Mapping[str, str], *, region: str
) -> dict[str, str]:
    """Return the settings of one runtime's queue agent, all but `API_BASE_URL`, which the caller knows.

    Args:
        config: the configuration.
        runtime: one of its runtimes.
        outputs: the front stack's outputs.
        region: where the front is.

    Raises:
        NotFoundError: the stack is older than the configuration and lacks an output.
    """
    logical = logical_id(runtime.name)
    try:
        environment = {
            "RUNTIME_TYPE": runtime.type,
            "RUNTIME_NAME": runtime.name,
            "SQS_QUEUE_URL": outputs[f"QueueUrl{logical}"],
            "SNS_TOPIC_ARN": outputs["sdNotificationOutputARN"],
            "S3_BUCKET": outputs["OutputS3Bucket"],
            "AWS_DEFAULT_REGION": region,
            "DYNAMIC_SD_MODEL": _flag(runtime.dynamic_model),
            "TASK_TABLE": outputs["TaskTableName"],
            "DEAD_LETTER_QUEUE_URL": outputs[f"DeadLetterQueueUrl{logical}"],
            "MAX_ATTEMPTS": str(config.queue_agent.max_attempts),
            "TASK_TIMEOUT_SECONDS": str(config.queue_agent.task_timeout_seconds),
            "NOTIFY_RUNNING": _flag(config.queue_agent.notify_running),
        }
    except KeyError as error:
        raise NotFoundError(
            f"the stack {config.front_stack_name} has no output {error.args[0]}", hint="run sdctl deploy"
        ) from error
    if config.queue_agent.input_allowlist:
        environment["INPUT_ALLOWLIST"] = ",".join(config.queue_agent.input_allowlist)
    return environment


def _flag(value: bool) -> str:
    return "true" if value else "false"
