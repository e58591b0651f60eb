"""IAM statements, one function a role; every action is one that the role's code makes.

A value may be a CloudFormation intrinsic (`{"Ref": …}`): the template writes it as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final

from sdctl.contract import RESERVED_PREFIX

Statement = dict[str, Any]

_TABLE: Final = {"Fn::GetAtt": ["TaskTable", "Arn"]}
_INPUT_TOPIC: Final = {"Ref": "InputTopic"}
_OUTPUT_TOPIC: Final = {"Ref": "OutputTopic"}
# CloudFormation keeps at least this much of a stack's name where a resource's may not be as long as the
# whole. https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/aws-properties-name.html
KEPT_NAME_LENGTH: Final = 24
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
_BUCKET_URL: Final = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/?")


def allow(actions: list[str], resources: list[Any], **condition: Any) -> Statement:
    """Build an Allow statement."""
    statement: Statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
    if condition:
        statement["Condition"] = condition
    return statement


def _index(name: str) -> dict[str, str]:
    return {"Fn::Sub": "${TaskTable.Arn}/index/" + name}


def _output_objects(prefix: str) -> dict[str, str]:
    return {"Fn::Sub": "${OutputBucket.Arn}/" + prefix}


def _consume(queue: dict[str, Any]) -> Statement:
    """What an event source mapping does with a queue in the function's name."""
    return allow(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], [queue])


def write_logs(log_group_logical_id: str) -> Statement:
    """Write into one log group that exists already."""
    return allow(
        ["logs:CreateLogStream", "logs:PutLogEvents"], [{"Fn::GetAtt": [log_group_logical_id, "Arn"]}]
    )


def list_runtimes(path: str) -> Statement:
    """Read the list of deployed runtimes."""
    parameters = f"arn:${{AWS::Partition}}:ssm:${{AWS::Region}}:${{AWS::AccountId}}:parameter{path}"
    return allow(["ssm:GetParametersByPath"], [{"Fn::Sub": parameters}, {"Fn::Sub": f"{parameters}/*"}])


def write_traces(*, is_wanted: bool) -> list[Statement]:
    """Send a function's traces to X-Ray, whose writes know no resource."""
    return [allow(["xray:PutTraceSegments", "xray:PutTelemetryRecords"], ["*"])] if is_wanted else []


def topic_tracing() -> str:
    """Render what lets SNS write the traces of this account's topics, as `Fn::Sub` takes it.

    https://docs.aws.amazon.com/sns/latest/dg/sns-active-tracing.html
    """
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": "sns.amazonaws.com"},
        "Action": ["xray:PutTraceSegments", "xray:GetSamplingRules", "xray:GetSamplingTargets"],
        "Resource": "*",
        "Condition": {
            "StringEquals": {"aws:SourceAccount": "${AWS::AccountId}"},
            "ArnEquals": {"aws:SourceArn": ["${InputTopic}", "${OutputTopic}"]},
        },
    }
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]}, separators=(",", ":"))


def api_statements() -> list[Statement]:
    """Submit, read, list, cancel and retry tasks; sign downloads of outputs and uploads of inputs."""
    return [
        allow(["dynamodb:GetItem", "dynamodb:PutItem", "dynamodb:UpdateItem"], [_TABLE]),
        allow(["dynamodb:Query"], [_index("by_runtime")]),
        allow(["sns:Publish"], [_INPUT_TOPIC, _OUTPUT_TOPIC]),
        # A presigned URL can do what its signer may: reading any output, writing below our own prefix only.
        allow(["s3:GetObject"], [_output_objects("*")]),
        allow(["s3:PutObject"], [_output_objects(f"{RESERVED_PREFIX}/*")]),
        # Without it S3 answers 403 and not 404 to what has expired.
        allow(["s3:ListBucket"], [{"Fn::GetAtt": ["OutputBucket", "Arn"]}]),
        allow(["s3:ListBucket"], [{"Fn::Sub": "arn:${AWS::Partition}:s3:::${ModelBucket}"}]),
    ]


def dead_letters_statements(runtime_stack_prefix: str) -> list[Statement]:
    """End and report the tasks of messages that the redrive policy gave up on.

    Args:
        runtime_stack_prefix: what the names of the runtimes' stacks, and so of their queues, begin with: the
            queues come and go without this role being told.
    """
    queues = f"{runtime_stack_prefix[:KEPT_NAME_LENGTH]}*"
    return [
        _consume({"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{queues}"}),
        allow(["dynamodb:GetItem", "dynamodb:UpdateItem"], [_TABLE]),
        allow(["sns:Publish"], [_OUTPUT_TOPIC]),
    ]


def sweep_statements() -> list[Statement]:
    """End and report overdue tasks, and finish what a crash left half published."""
    return [
        allow(["dynamodb:GetItem", "dynamodb:UpdateItem"], [_TABLE]),
        allow(["dynamodb:Query", "dynamodb:Scan"], [_index("open")]),
        allow(["sns:Publish"], [_INPUT_TOPIC, _OUTPUT_TOPIC]),
        allow(["s3:PutObject"], [_output_objects(f"{RESERVED_PREFIX}/tasks/*")]),
    ]


def unrouted_statements() -> list[Statement]:
    """Keep the messages that reach no runtime."""
    return [
        _consume({"Fn::GetAtt": ["IntakeQueue", "Arn"]}),
        allow(["sqs:SendMessage"], [{"Fn::GetAtt": ["UnroutedQueue", "Arn"]}]),
    ]


def agent_statements(
    input_allowlist: Sequence[str] = (), *, kms_key_arn: str | None = None
) -> list[Statement]:
    """Run the tasks of one queue: the agent's work, in the stack of its runtime.

    Args:
        input_allowlist: where inputs may come from; its `s3://` entries may be read.
        kms_key_arn: the key of queue, topic, table and bucket, where there is one.
    """
    bucket = "arn:${AWS::Partition}:s3:::${OutputBucket}"
    table = "arn:${AWS::Partition}:dynamodb:${AWS::Region}:${AWS::AccountId}:table/${TaskTableName}"
    matches = [_BUCKET_URL.fullmatch(entry.strip().lower()) for entry in input_allowlist]
    inputs = [f"arn:${{AWS::Partition}}:s3:::{match[1]}" for match in matches if match]
    statements = [
        allow(
            ["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"],
            [{"Fn::GetAtt": ["Queue", "Arn"]}],
        ),
        allow(["sqs:SendMessage"], [{"Fn::GetAtt": ["DeadLetterQueue", "Arn"]}]),
        allow(["sns:Publish"], [{"Ref": "OutputTopicArn"}]),
        allow(["dynamodb:GetItem", "dynamodb:UpdateItem"], [{"Fn::Sub": table}]),
        allow(["s3:PutObject", "s3:AbortMultipartUpload"], [{"Fn::Sub": f"{bucket}/*"}]),
        allow(["s3:GetObject"], [{"Fn::Sub": f"{arn}/*"} for arn in (bucket, *inputs)]),
        # Without it S3 answers 403 and not 404 to what has expired.
        allow(["s3:ListBucket"], [{"Fn::Sub": arn} for arn in (bucket, *inputs)]),
    ]
    return [*statements, *use_key(kms_key_arn)]


def use_key(kms_key_arn: str | None) -> list[Statement]:
    """Read and write what a key of the account's own protects; nothing where AWS's keys do.

    The services use it in their caller's name: https://docs.aws.amazon.com/kms/latest/developerguide/services.html
    """
    names = ("Decrypt", "DescribeKey", "Encrypt", "GenerateDataKey", "GenerateDataKeyWithoutPlaintext",
             "ReEncryptFrom", "ReEncryptTo")  # fmt: skip
    return [allow([f"kms:{name}" for name in names], [kms_key_arn])] if kms_key_arn else []
