"""Each function's role against the calls that its real zip makes: none is missing, none is left over.

No emulator enforces the roles of functions, so the calls are recorded and judged by the rendered statements.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Ending
from support.fronts import rendered
from support.lambda_front import Front, Worker, call, event

ONE = "/v1alpha2/tasks/{id}"
# What Lambda itself does in a function's name: writing its log and traces, reading the queue before it.
BY_LAMBDA = {
    "logs:CreateLogStream", "logs:PutLogEvents",
    "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes",
    "xray:PutTraceSegments", "xray:PutTelemetryRecords",
}  # fmt: skip
Permission = tuple[str, str]


def granted(function: str) -> set[Permission]:
    """Return what a role may do, each resource by its logical name."""
    document = rendered("guide").template.document["Resources"]
    [policy] = document[f"{function}Role"]["Properties"]["Policies"]
    return {
        (action, resource_name(resource))
        for statement in policy["PolicyDocument"]["Statement"]
        for action in statement["Action"]
        for resource in statement["Resource"]
        if action not in BY_LAMBDA
    }


def resource_name(resource: Mapping[str, Any]) -> str:
    [(kind, value)] = resource.items()
    if kind == "Fn::GetAtt":
        return str(value[0])
    if kind == "Fn::Sub":
        if ":ssm:" in value:  # whether IAM is asked for the path, or for what is below it, is AWS's business
            return "runtimes"
        return str(value).removeprefix("arn:${AWS::Partition}:s3:::").replace(".Arn}", "").strip("${}")
    assert kind == "Ref"
    return str(value)


def needed(front: Front, used: Iterable[tuple[str, Mapping[str, Any]]]) -> set[Permission]:
    """Translate calls into the permissions that AWS asks for."""
    names = {
        front.table: "TaskTable", front.bucket: "OutputBucket", front.model_bucket: "ModelBucket",
        front.input_topic: "InputTopic", front.output_topic: "OutputTopic", "unrouted": "UnroutedQueue",
    }  # fmt: skip
    found: set[Permission] = set()
    for name, arguments in used:
        service, _, operation = name.partition(".")
        action = f"{service}:{operation.title().replace('_', '')}"
        if service == "dynamodb":
            index = arguments.get("IndexName")
            found.add((action, names[arguments["TableName"]] + (f"/index/{index}" if index else "")))
        elif service == "sns":
            found.add((action, names[arguments["TopicArn"]]))
        elif service == "ssm":
            assert arguments["Path"] == front.runtimes_path
            found.add((action, "runtimes"))
        elif service == "sqs":
            found.add((action, names[arguments["QueueUrl"].rsplit("/", 1)[-1].split("-")[0]]))
        elif action == "s3:ListObjectsV2":
            found.add(("s3:ListBucket", names[arguments["Bucket"]]))
        else:
            found |= object_permissions(action, names, arguments)
    return found


def object_permissions(
    action: str, names: Mapping[str, str], arguments: Mapping[str, Any]
) -> set[Permission]:
    place = f"{names[arguments['Bucket']]}/{arguments['Key']}"
    if action == "s3:PutObject":
        return {(action, place)}
    # S3 tells "not there" from "forbidden" only to who may list the bucket.
    found = {("s3:GetObject", place), ("s3:ListBucket", names[arguments["Bucket"]])}
    if action == "s3:CopyObject":
        source = arguments["CopySource"]
        found = {("s3:GetObject", f"{names[source['Bucket']]}/{source['Key']}"), ("s3:PutObject", place),
                 ("s3:ListBucket", names[source["Bucket"]])}  # fmt: skip
    return found


def check(front: Front, worker: Worker, function: str) -> None:
    may, does = granted(function), needed(front, worker.used)
    missing = {one for one in does if not any(one[0] == a and fnmatchcase(one[1], r) for a, r in may)}
    unused = {one for one in may if not any(one[0] == a and fnmatchcase(r, one[1]) for a, r in does)}
    assert (missing, unused) == (set(), set())


def now() -> int:
    return time.time_ns() // 1_000_000


def submit_event(task_id: str, prompt: str, runtime: str = "sdweb") -> dict[str, Any]:
    metadata = {"id": task_id, "runtime": runtime, "tasktype": "text-to-image"}
    content = {"prompt": prompt, "override_settings": {"sd_model_checkpoint": "bucket-model"}}
    if runtime == "sdweb":
        del content["override_settings"]
    return event("POST", "/v1alpha2", {"task": {"metadata": metadata, "content": content}})


def change(api: Worker, task_id: str, what: str) -> int:
    return call(api, event("POST", f"{ONE}/{what}", parameters={"id": task_id})).status


def direct(front: Front, task_id: str) -> None:
    """Let an agent take a direct publish that only compression makes small, and fail it."""
    task = Task(task_id, "sdweb", "text-to-image", {"prompt": "a" * 300_000}, route=("runtime", "sdweb"))
    body = task_record.pack_body(task.content)
    front.update(task_record.claim_unseen_call(task, "token", now(), body, submitted_ms=now()))
    front.update(task_record.end_call(front.row(task_id), Ending(contract.FAILED, now())))


def test_the_apis_role_allows_what_it_does_and_nothing_else(front: Front) -> None:
    api = front.worker("sdctl_api")
    front.s3.put_object(Bucket=front.model_bucket, Key="Stable-diffusion/bucket-model.ckpt", Body=b"x")
    assert call(api, submit_event("small", "A dog")).status == 200
    assert call(api, submit_event("large", "a" * 300_000)).status == 200
    assert call(api, submit_event("dynamic", "A dog", "dyn")).status == 200
    assert call(api, submit_event("small", "A dog")).body["replayed"] is True
    for task_id in ("small", "large"):
        assert change(api, task_id, "cancel") == 202
        assert change(api, task_id, "retry") == 202
    direct(front, "direct")
    assert change(api, "direct", "retry") == 202
    front.update(task_record.claim_call("small", "token", now()))
    assert change(api, "small", "cancel") == 202
    url = f"s3://{front.bucket}/any/where/small-1.png"
    ending = Ending(contract.COMPLETED, now(), (url,), url)
    front.update(task_record.end_call(front.row("small"), ending))
    assert call(api, event("GET", ONE, parameters={"id": "small"})).body["output_link"]
    assert call(api, event("GET", "/v1alpha2/tasks")).status == 200
    upload = {"filename": "a.png", "content_type": "image/png", "bytes": 3}
    assert call(api, event("POST", "/v1alpha2/uploads", upload)).status == 200
    check(front, api, "Api")


def letter(task: Task, sent_ms: int) -> dict[str, Any]:
    return {
        "messageId": task.id,
        "body": contract.message_body(task),
        "attributes": {"SentTimestamp": str(sent_ms)},
    }


def test_the_role_of_the_dead_letters_allows_what_they_do_and_nothing_else(front: Front) -> None:
    worker = front.worker("sdctl_dead_letters")
    tasks = [Task(name, "sdweb", "text-to-image", {"prompt": "x"}) for name in ("seen", "unseen")]
    front.dynamodb.put_item(TableName=front.table, **task_record.submit_call(tasks[0], now(), b""))
    answer = worker.invoke({"Records": [letter(task, now()) for task in tasks]})
    assert answer == {"batchItemFailures": []}
    check(front, worker, "DeadLetters")


def test_the_sweeps_role_allows_what_it_does_and_nothing_else(front: Front) -> None:
    sweep = front.worker("sdctl_sweep")
    direct(front, "direct")
    retried_at = now() - 3_600_000
    front.update(task_record.retry_call(front.row("direct"), retried_at))
    late = Task("late", "sdweb", "text-to-image", {"prompt": "x"}, deadline_seconds=1)
    call_late = task_record.submit_call(late, retried_at, task_record.pack_body(late.content))
    front.dynamodb.put_item(TableName=front.table, **call_late)
    done = sweep.invoke({})
    assert (done["publish"], done["expire"]) == (1, 1)
    check(front, sweep, "Sweep")


def test_the_role_of_the_unrouted_messages_allows_what_it_does_and_nothing_else(front: Front) -> None:
    queue = front.sqs.create_queue(QueueName=f"unrouted-{front.unique}")["QueueUrl"]
    worker = front.worker("sdctl_unrouted", UNROUTED_QUEUE_URL=queue)
    worker.invoke({"Records": [{"messageId": "m", "body": json.dumps({"Message": "x"})}]})
    check(front, worker, "Unrouted")
