"""The stack of one runtime: what a runtime needs and no other part does, so that it comes and goes alone."""

from __future__ import annotations

import json
from typing import Any, Final

from sdctl import contract
from sdctl.config.model import Config, RuntimeConfig
from sdctl.render import policies
from sdctl.render.alarms import runtime_alarms
from sdctl.render.engine import render_yaml
from sdctl.render.stacks import (
    DEAD_LETTERS_TIMEOUT_SECONDS,
    VISIBILITY_FACTOR,
    Output,
    Stack,
    runtime_stack_prefix,
    runtimes_path,
    stack_tags,
)

__all__ = [
    "filter_policy", "registration", "runtime_service_account", "runtime_stack",
    "runtime_stack_name", "runtime_stack_prefix",
]  # fmt: skip

RUNTIME_TEMPLATE: Final = "runtime.yaml.j2"
# Messages may come this often without our agent having failed: hand-backs are receives too.
SPARE_RECEIVES: Final = 20

# Parameter of the stack: the front's output that it takes, and what it is.
_FROM_FRONT: Final = {
    "InputTopicArn": ("sdNotificationLambdaARN", "Topic of the tasks"),
    "OutputTopicArn": ("sdNotificationOutputARN", "Topic of the results"),
    "OutputBucket": ("OutputS3Bucket", "Bucket of the results"),
    "TaskTableName": ("TaskTableName", "Task table"),
    "UnroutedQueueArn": ("UnroutedQueueArn", "Takes what the queue does not"),
    "DeadLettersFunctionArn": ("DeadLettersFunctionArn", "Fails the tasks of dead letters"),
    "AlarmTopicArn": ("AlarmTopicArn", "Topic of the alarms"),
}
# What only the agent's role refers to: where there is no cluster, there is none.
_FOR_THE_AGENT: Final = ("OutputTopicArn", "OutputBucket", "TaskTableName")


def runtime_stack_name(stack_name: str, runtime_name: str) -> str:
    """Return the name of a runtime's stack."""
    return f"{runtime_stack_prefix(stack_name)}{runtime_name}"


def runtime_service_account(runtime: RuntimeConfig) -> str:
    """Return the service account of a runtime's pods, in `runtime.namespace`."""
    return runtime.name


def runtime_stack(config: Config, runtime: RuntimeConfig, *, target: str) -> Stack:
    """Render a runtime's stack.

    Args:
        config: the configuration.
        runtime: one of its runtimes.
        target: `aws` or `local`; there no pod needs an identity.
    """
    has_cluster = target == "aws"
    names = {name: row for name, row in _FROM_FRONT.items() if has_cluster or name not in _FOR_THE_AGENT}
    described = {name: description for name, (_, description) in names.items()}
    parameters: dict[str, str | Output] = {
        name: Output(config.front_stack_name, output) for name, (output, _) in names.items()
    }
    if has_cluster:
        described["ClusterName"] = "Cluster whose pods the agents are"
        parameters["ClusterName"] = Output(f"{config.stack_name}-cluster", "ClusterName")
    context = _context(config, runtime, has_cluster=has_cluster) | {"parameters": described}
    template = render_yaml(RUNTIME_TEMPLATE, context)
    return Stack(
        runtime_stack_name(config.stack_name, runtime.name), template, parameters, stack_tags(config)
    )


def filter_policy(runtime: RuntimeConfig) -> dict[str, Any]:
    """Build the filter policy of a runtime's subscription; attributes match in any case.

    A message with both attributes goes by `runtime` alone, so that no message reaches two queues.
    """
    by_name = {contract.ROUTE_RUNTIME: [{"equals-ignore-case": runtime.name}]}
    if not runtime.checkpoint:
        return by_name
    by_checkpoint = {
        contract.ROUTE_CHECKPOINT: [{"equals-ignore-case": runtime.checkpoint}],
        contract.ROUTE_RUNTIME: [{"exists": False}],
    }
    return {"$or": [by_name, by_checkpoint]}


def registration(runtime: RuntimeConfig) -> str:
    """Render a runtime's entry in the list that the functions read: JSON, as `contract.RuntimeInfo`."""
    entry = {
        "name": runtime.name,
        "type": runtime.type,
        "checkpoint": runtime.checkpoint,
        "dynamic": runtime.dynamic_model,
        "checkpoints": [runtime.checkpoint] if runtime.checkpoint else [],
    }
    text = json.dumps(entry, separators=(",", ":"))
    # Parameter Store takes `{{name}}` for another parameter; here it stands inside a string only.
    # https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html
    return text.replace("{{", "{\\u007b")


def _context(config: Config, runtime: RuntimeConfig, *, has_cluster: bool) -> dict[str, Any]:
    return {
        "description": f"sdctl {config.stack_name}: runtime {runtime.name}",
        "has_cluster": has_cluster,
        "filter_policy": filter_policy(runtime),
        "retention_seconds": contract.QUEUE_RETENTION_SECONDS,
        "visibility_seconds": contract.VISIBILITY_SECONDS,
        "dead_letters_visibility_seconds": VISIBILITY_FACTOR * DEAD_LETTERS_TIMEOUT_SECONDS,
        "max_receive_count": config.queue_agent.max_attempts + SPARE_RECEIVES,
        "kms_key_arn": config.kms_key_arn if has_cluster else None,
        "permissions_boundary_arn": config.permissions_boundary_arn,
        "alarms": runtime_alarms(config.queue_agent.task_timeout_seconds),
        "registration": {
            "name": f"{runtimes_path(config.stack_name)}/{runtime.name}",
            "description": f"sdctl {config.stack_name}: where tasks for {runtime.name} go",
            "value": registration(runtime),
        },
        "agent": {
            "description": f"The queue agent of {runtime.name}",
            "namespace": runtime.namespace,
            "service_account": runtime_service_account(runtime),
            "statements": policies.agent_statements(
                config.queue_agent.input_allowlist, kms_key_arn=config.kms_key_arn
            ),
        },
        "queue_description": f"Queue of runtime {runtime.name}",
        "dead_letter_description": f"Dead-letter queue of runtime {runtime.name}",
    }
