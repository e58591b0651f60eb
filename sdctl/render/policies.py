"""IAM statements, one function a role; every action is one that the role's code makes.

A value may be a CloudFormation intrinsic (`{"Ref": …}`): the template writes it as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sdctl.contract import RESERVED_PREFIX

Statement = dict[str, Any]

_TABLE: Final = {"Fn::GetAtt": ["TaskTable", "Arn"]}
_INPUT_TOPIC: Final = {"Ref": "InputTopic"}
_OUTPUT_TOPIC: Final = {"Ref": "OutputTopic"}
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


def _consume(queue_logical_ids: list[str]) -> Statement:
    """What an event source mapping does with a queue in the function's name."""
    queues = [{"Fn::GetAtt": [logical, "Arn"]} for logical in queue_logical_ids]
    return allow(["sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"], queues)


def write_logs(log_group_logical_id: str) -> Statement:
    """Write into one log group that exists already."""
    return allow(
        ["logs:CreateLogStream", "logs:PutLogEvents"], [{"Fn::GetAtt": [log_group_logical_id, "Arn"]}]
    )


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


def dead_letters_statements(dead_letter_queues: list[str]) -> list[Statement]:
    """End and report the tasks of messages that the redrive policy gave up on."""
    return [
        _consume(dead_letter_queues),
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
    return [_consume(["IntakeQueue"]), allow(["sqs:SendMessage"], [{"Fn::GetAtt": ["UnroutedQueue", "Arn"]}])]


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
    """Read and write what a key of the account's own protects; nothing where AWS's keys do."""
    return [allow(["kms:Decrypt", "kms:GenerateDataKey"], [kms_key_arn])] if kms_key_arn else []
