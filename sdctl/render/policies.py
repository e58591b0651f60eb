"""IAM statements, one function a role; every action is one that the role's code makes.

A value may be a CloudFormation intrinsic (`{"Ref": …}`): the template writes it as it is.
"""

from __future__ import annotations

from typing import Any, Final

from sdctl.contract import RESERVED_PREFIX

Statement = dict[str, Any]

_TABLE: Final = {"Fn::GetAtt": ["TaskTable", "Arn"]}
_INPUT_TOPIC: Final = {"Ref": "InputTopic"}
_OUTPUT_TOPIC: Final = {"Ref": "OutputTopic"}


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
