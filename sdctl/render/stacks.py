"""Configuration to CloudFormation: the context of each template, its parameters and its tags."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl import contract
from sdctl.config.model import Config
from sdctl.errors import NotFoundError
from sdctl.render import policies
from sdctl.render.alarms import front_alarms
from sdctl.render.api import api_context
from sdctl.render.dashboard import dashboard_body
from sdctl.render.engine import Rendered, render_yaml
from sdctl.render.karpenter import spot_rule_name

FRONT_TEMPLATE: Final = "front.yaml.j2"
STACK_TAG: Final = "sdctl:stack"
# A task's own objects outlive its message and its row's open time.
RESERVED_PREFIX_DAYS: Final = 31
# The stage's own limits protect the keyless routes; a usage plan above them would have no effect.
STAGE_RATE_LIMIT: Final = 1000
STAGE_BURST_LIMIT: Final = 2000
INTAKE_TIMEOUT_SECONDS: Final = 30
DEAD_LETTERS_TIMEOUT_SECONDS: Final = 60
# A queue behind a function stays invisible for six times the function's timeout:
# https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-configure.html
VISIBILITY_FACTOR: Final = 6
# What `GET tasks` shows of a task, beside the keys of the index: everything but the body.
LISTED_ATTRIBUTES: Final = (
    "tasktype", "status", "progress", "attempts", "submitted_at", "started_at", "finished_at",
    "image_url", "output_url", "context", "error", "prefix",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Output:
    """A value that a stack gives once it is there: a parameter of another, or a leaf of Helm values."""

    stack: str
    name: str

    @property
    def placeholder(self) -> str:
        """What stands for the value where no stack is there to give it."""
        return f"${{{self.stack}.{self.name}}}"


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack as it is to be: template, parameters, tags."""

    name: str
    template: Rendered
    parameters: Mapping[str, str | Output] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)


def resolve(value: Any, outputs: Mapping[str, Mapping[str, str]]) -> Any:
    """Replace every `Output` in nested mappings, lists and tuples.

    Args:
        value: what holds them.
        outputs: the outputs by stack name.

    Raises:
        NotFoundError: a stack is not there, or lacks the output.
    """
    match value:
        case Output():
            try:
                return outputs[value.stack][value.name]
            except KeyError as error:
                raise NotFoundError(
                    f"the stack {value.stack} has no output {value.name}", hint="run sdctl deploy"
                ) from error
        case Mapping():
            return {key: resolve(entry, outputs) for key, entry in value.items()}
        case list() | tuple():
            return type(value)(resolve(entry, outputs) for entry in value)
        case _:
            return value


def outputs_in(value: Any) -> Iterator[Output]:
    """Yield every `Output` in nested mappings, lists and tuples."""
    if isinstance(value, Output):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from outputs_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from outputs_in(entry)


def with_placeholders(value: Any) -> Any:
    """Replace the outputs of stacks that are not there by their placeholders, at any depth."""
    named: dict[str, dict[str, str]] = {}
    for output in outputs_in(value):
        named.setdefault(output.stack, {})[output.name] = output.placeholder
    return resolve(value, named)


def stack_tags(config: Config) -> dict[str, str]:
    """Return the tags of every stack of a deployment, which CloudFormation puts on what they hold."""
    return {**config.tags, STACK_TAG: config.stack_name}


def runtimes_path(stack_name: str) -> str:
    """Return below which path of Parameter Store a deployment's runtimes are listed."""
    return f"/sdctl/{stack_name}/runtimes"


def runtime_stack_prefix(stack_name: str) -> str:
    """Return what the names of all runtimes' stacks begin with."""
    return f"{stack_name}-runtime-"


def logical_id(name: str) -> str:
    """Turn a runtime's name into a part of an output's name, letters and digits only.

    Names are lower-case, so the capitals of `Dash` cannot come from a name: no two names share an id.
    """
    text = name.replace("-", "Dash")
    return text[:1].upper() + text[1:]


def code_parameters() -> dict[str, str]:
    """Return the Lambda package behind each code parameter, `{"ApiCodeKey": "sdctl_api", …}`."""
    return {f"{logical}CodeKey": package for logical, package in _PACKAGES.items()}


_PACKAGES: Final = {
    "Api": "sdctl_api", "DeadLetters": "sdctl_dead_letters", "Sweep": "sdctl_sweep",
    "Unrouted": "sdctl_unrouted",
}  # fmt: skip


def front_stack(
    config: Config, *, target: str, model_bucket: str, asset_bucket: str, code_keys: Mapping[str, str]
) -> Stack:
    """Render the front.

    Args:
        config: the configuration.
        target: `aws` or `local`; on AWS the output bucket outlives the stack.
        model_bucket: the model bucket, configured or picked.
        asset_bucket: where the Lambda zips are.
        code_keys: S3 key by package name.
    """
    context = _front_context(config, target)
    # Rendered twice: the second time with the hash of the API that the first one shows.
    draft = render_yaml(FRONT_TEMPLATE, context | {"api_hash": ""})
    template = render_yaml(FRONT_TEMPLATE, context | {"api_hash": _api_hash(draft.document)})
    parameters: dict[str, str | Output] = {"AssetBucket": asset_bucket, "ModelBucket": model_bucket}
    parameters |= {name: code_keys[package] for name, package in code_parameters().items()}
    return Stack(config.front_stack_name, template, parameters, stack_tags(config))


def _front_context(config: Config, target: str) -> dict[str, Any]:
    is_on_aws = target == "aws"
    # The emulator of the local target has neither the account's keys nor traces, and no domain leads there.
    key = config.kms_key_arn if is_on_aws else None
    domain = config.api.custom_domain if is_on_aws else None
    prefix = runtime_stack_prefix(config.stack_name)
    spot_rule = spot_rule_name(config.stack_name) if is_on_aws else ""
    return {
        "description": f"sdctl {config.stack_name}: task API, queues and storage",
        "topics": ("InputTopic", "OutputTopic"),
        "topic_key": key or "alias/aws/sns",
        "kms_key_arn": key,
        "has_tracing": config.tracing and is_on_aws,
        "tracing_policy": policies.topic_tracing(),
        "domain": domain and {"name": domain.domain_name, "certificate_arn": domain.certificate_arn},
        "functions": _functions(config, key, has_tracing=config.tracing and is_on_aws),
        "alarms": front_alarms(list(_PACKAGES), spot_rule=spot_rule),
        "alarm_email": config.alarms.email,
        "dashboard": dashboard_body(
            prefix,
            config.api.stage_name,
            {package: f"{logical}Function" for logical, package in _PACKAGES.items()},
            spot_rule=spot_rule,
        ),
        "api": api_context(),
        "retention_seconds": contract.QUEUE_RETENTION_SECONDS,
        "visibility_seconds": contract.VISIBILITY_SECONDS,
        "intake_visibility_seconds": VISIBILITY_FACTOR * INTAKE_TIMEOUT_SECONDS + 5,
        "listed_attributes": list(LISTED_ATTRIBUTES),
        "reserved_prefix": f"{contract.RESERVED_PREFIX}/",
        "reserved_prefix_days": RESERVED_PREFIX_DAYS,
        # A bucket with users' pictures outlives its stack, but not a stack that never came to be.
        "bucket_deletion_policy": "RetainExceptOnCreate" if is_on_aws else "Delete",
        "bucket_replace_policy": "Retain" if is_on_aws else "Delete",
        "log_retention_days": config.log_retention_days,
        "permissions_boundary_arn": config.permissions_boundary_arn,
        "stage_name": config.api.stage_name,
        "rate_limit": config.api.rate_limit,
        "burst_limit": config.api.burst_limit,
        "stage_rate_limit": max(STAGE_RATE_LIMIT, config.api.rate_limit),
        "stage_burst_limit": max(STAGE_BURST_LIMIT, config.api.burst_limit),
        "config_command": f"sdctl kubeconfig -n {config.stack_name} -R ${{AWS::Region}}",
    }


def _functions(config: Config, key: str | None, *, has_tracing: bool) -> list[dict[str, Any]]:
    prefix, path = runtime_stack_prefix(config.stack_name), runtimes_path(config.stack_name)
    topics = {"INPUT_TOPIC_ARN": {"Ref": "InputTopic"}, "OUTPUT_TOPIC_ARN": {"Ref": "OutputTopic"}}
    shared = {
        "TASK_TABLE": {"Ref": "TaskTable"}, **topics, "OUTPUT_BUCKET": {"Ref": "OutputBucket"},
        "RUNTIMES_PATH": path,
    }  # fmt: skip
    common = [
        policies.list_runtimes(path), *policies.use_key(key), *policies.write_traces(is_wanted=has_tracing)
    ]  # fmt: skip
    return [
        _function(
            "Api", "Takes, lists, cancels and retries tasks", 512, 29,
            policies.api_statements() + common, shared | {"MODEL_BUCKET": {"Ref": "ModelBucket"}},
        ),
        _function(
            "DeadLetters", "Fails the tasks of dead letters", 256, DEAD_LETTERS_TIMEOUT_SECONDS,
            policies.dead_letters_statements(prefix) + common, shared,
        ),
        _function(
            "Sweep", "Ends the tasks whose time is over", 256, 60, policies.sweep_statements() + common,
            shared,
        ),
        _function(
            "Unrouted", "Keeps the messages that reach no runtime", 256, INTAKE_TIMEOUT_SECONDS,
            policies.unrouted_statements() + common,
            {"RUNTIMES_PATH": path, "UNROUTED_QUEUE_URL": {"Ref": "UnroutedQueue"}},
        ),
    ]  # fmt: skip


def _function(  # noqa: PLR0917 - a row of a table
    logical: str,
    description: str,
    memory_mib: int,
    timeout_seconds: int,
    statements: list[policies.Statement],
    environment: dict[str, Any],
) -> dict[str, Any]:
    package = _PACKAGES[logical]
    return {
        "logical": logical,
        "description": description,
        "code_description": f"S3 key of {package}",
        "handler": f"{package}.handler.handle",
        "memory_mib": memory_mib,
        "timeout_seconds": timeout_seconds,
        "log_group": f"/aws/lambda/${{AWS::StackName}}-{package}",
        "statements": [policies.write_logs(f"{logical}Log"), *statements],
        "environment": environment,
    }


def _api_hash(document: Mapping[str, Any]) -> str:
    """Hash what a deployment of the API takes a snapshot of."""
    kinds = ("AWS::ApiGateway::RestApi", "AWS::ApiGateway::Resource", "AWS::ApiGateway::Method",
             "AWS::ApiGateway::GatewayResponse")  # fmt: skip
    shown = {name: body for name, body in document["Resources"].items() if body["Type"] in kinds}
    return hashlib.sha256(contract.canonical_json(shown).encode()).hexdigest()[:12]
