"""Configuration and stack outputs to the settings of what runs: now the agent's environment."""

from __future__ import annotations

from collections.abc import Mapping

from sdctl.config.model import Config, RuntimeConfig
from sdctl.render.runtime import runtime_stack_name
from sdctl.render.stacks import Output, resolve


def agent_environment(
    config: Config, runtime: RuntimeConfig, outputs: Mapping[str, Mapping[str, str]], *, region: str
) -> dict[str, str]:
    """Return the settings of one runtime's queue agent, all but `API_BASE_URL`, which the caller knows.

    Args:
        config: the configuration.
        runtime: one of its runtimes.
        outputs: the outputs of the front's and the runtime's stack, by stack name.
        region: where the front is.

    Raises:
        NotFoundError: a stack is not there, or older than the configuration and lacks an output.
    """
    environment: dict[str, str] = resolve(agent_settings(config, runtime, region=region), outputs)
    return environment


def agent_settings(config: Config, runtime: RuntimeConfig, *, region: str) -> dict[str, str | Output]:
    """Return the same settings, with what only stacks know as their outputs."""
    front = config.front_stack_name
    own = runtime_stack_name(config.stack_name, runtime.name)
    settings: dict[str, str | Output] = {
        "RUNTIME_TYPE": runtime.type,
        "RUNTIME_NAME": runtime.name,
        "SQS_QUEUE_URL": Output(own, "QueueUrl"),
        "SNS_TOPIC_ARN": Output(front, "sdNotificationOutputARN"),
        "S3_BUCKET": Output(front, "OutputS3Bucket"),
        "AWS_DEFAULT_REGION": region,
        "DYNAMIC_SD_MODEL": _flag(runtime.dynamic_model),
        "TASK_TABLE": Output(front, "TaskTableName"),
        "DEAD_LETTER_QUEUE_URL": Output(own, "DeadLetterQueueUrl"),
        "MAX_ATTEMPTS": str(config.queue_agent.max_attempts),
        "TASK_TIMEOUT_SECONDS": str(config.queue_agent.task_timeout_seconds),
        "NOTIFY_RUNNING": _flag(config.queue_agent.notify_running),
    }
    if config.queue_agent.input_allowlist:
        settings["INPUT_ALLOWLIST"] = ",".join(config.queue_agent.input_allowlist)
    return settings


def _flag(value: bool) -> str:
    return "true" if value else "false"
