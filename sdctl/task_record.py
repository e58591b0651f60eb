"""What is kept of a task: its row in the task table, every change of state, and what is told of it.

The row's life is `queued` → `running` → an end status. Each change is one conditional write, built
here as the arguments of a low-level DynamoDB call (without `TableName`) and sent by the Lambda
functions and the agent, so that the state machine stands in one place. Pure, standard library only.

Times are whole milliseconds since the epoch, UTC. A row of the table:

| attribute | what |
|---|---|
| `id` (key), `runtime`, `tasktype`, `prefix`, `context` (JSON), `hash` | the task |
| `body` or `body_bucket`, `body_key` | the content: gzip JSON while small, else where it is in S3 |
| `status`, `attempts`, `step`, `retry_base` | the state; `step` is what the next claim adds to `attempts` |
| `submitted_at`, `finished_at`, `deadline_at`, `deadline_seconds`, `ttl` (seconds) | when |
| `started_at` | when the runtime began; until the agent knows that, when the task was claimed |
| `published`, `notified` | what has been told to the topics |
| `claim`, `claim_until`, `cancel_requested` | who runs it, and until when nobody else may |
| `run_ms` | for how long the runtime worked on it in its last attempt |
| `progress`, `node`, `image_url`, `output_url`, `error` (JSON) | what came of it |
| `listing` | sort key of the index `by_runtime` (partition key `runtime`): newest first |
| `open_runtime`, `open_until` | index `open`: only while something is still to be done for the row |
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from sdctl import contract
from sdctl.contract import Task

INDEX_BY_RUNTIME: Final = "by_runtime"
INDEX_OPEN: Final = "open"
# Larger bodies are kept in S3: a row is read and written whole, and billed by its size.
INLINE_BODY_BYTES: Final = 8 * 1024
# Rows, and their bodies in S3, live this long after the submit: longer than any queue keeps a message.
ROW_LIFE_SECONDS: Final = 30 * 24 * 3600
CLAIM_MS: Final = contract.VISIBILITY_SECONDS * 1000
# A row that is not published, or ended and not notified, by then is taken up by the sweep.
UNSETTLED_MS: Final = 120_000

Call = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Row:
    """One item of the task table; absent attributes are None, empty or 0."""

    id: str
    status: str
    runtime: str = ""
    tasktype: str = ""
    prefix: str = contract.DEFAULT_PREFIX
    context: Any = None
    hash: str = ""
    body: bytes = b""
    body_bucket: str = ""
    body_key: str = ""
    attempts: int = 0
    retry_base: int = 0
    submitted_at: int = 0
    started_at: int | None = None
    finished_at: int | None = None
    run_ms: int | None = None
    deadline_at: int | None = None
    deadline_seconds: float | None = None
    published: bool = False
    notified: bool = False
    claim: str = ""
    claim_until: int = 0
    cancel_requested: bool = False
    progress: float | None = None
    node: str = ""
    image_url: tuple[str, ...] = ()
    output_url: str = ""
    error: Mapping[str, Any] | None = None
    listing: str = ""
    ttl: int = 0
    open_until: int = 0

    @property
    def is_ended(self) -> bool:
        """Tell whether the task has its one end state."""
        return self.status in contract.END_STATUSES

    @property
    def queued_at(self) -> int:
        """Return when the task was last put into the queue: by its submit or by a retry."""
        return max(self.submitted_at, (self.ttl - ROW_LIFE_SECONDS) * 1000)


def to_attribute(value: Any) -> dict[str, Any]:
    """Encode one value as DynamoDB's typed JSON."""
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, (int, float)):
        return {"N": repr(value)}
    if isinstance(value, bytes):
        return {"B": value}
    if isinstance(value, (list, tuple)):
        return {"L": [to_attribute(item) for item in value]}
    return {"S": str(value)}


def from_attribute(attribute: Mapping[str, Any]) -> Any:
    """Decode one value of DynamoDB's typed JSON."""
    kind, value = next(iter(attribute.items()))
    if kind == "N":
        number = float(value)
        return int(number) if number.is_integer() else number
    if kind == "L":
        return [from_attribute(item) for item in value]
    return value


_JSON_FIELDS: Final = ("context", "error")


def row_from_item(item: Mapping[str, Any]) -> Row:
    """Read a DynamoDB item; attributes that a newer version wrote are ignored."""
    values = {key: from_attribute(value) for key, value in item.items() if key in Row.__dataclass_fields__}
    for name in _JSON_FIELDS:
        if name in values:
            values[name] = json.loads(values[name])
    if "image_url" in values:
        values["image_url"] = tuple(values["image_url"])
    return Row(**values)


def key_of(task_id: str) -> dict[str, Any]:
    """Return the table key of a task."""
    return {"id": {"S": task_id}}


def pack_body(content: Mapping[str, Any]) -> bytes:
    """Compress a task's content for its row."""
    return gzip.compress(contract.canonical_json(content).encode(), mtime=0)


def unpack_body(body: bytes) -> dict[str, Any]:
    """Return the content that `pack_body` compressed."""
    content: dict[str, Any] = json.loads(gzip.decompress(body))
    return content


def _task_values(task: Task, now_ms: int, body: bytes) -> dict[str, Any]:
    """Return the attributes that a task's first row has, whoever writes it.

    `body` is the packed content; where it is longer than `INLINE_BODY_BYTES` the task's pointer is kept.
    """
    values: dict[str, Any] = {
        "runtime": task.runtime,
        "tasktype": task.tasktype,
        "prefix": task.prefix,
        "hash": task.content_hash,
        "submitted_at": now_ms,
        "ttl": now_ms // 1000 + ROW_LIFE_SECONDS,
        "listing": f"{now_ms:013d}#{task.id}",
        "open_runtime": task.runtime,
    }
    if task.context is not None:
        values["context"] = contract.canonical_json(task.context)
    if task.deadline_seconds is not None:
        values["deadline_seconds"] = task.deadline_seconds
        values["deadline_at"] = now_ms + int(task.deadline_seconds * 1000)
    if task.pointer is not None:
        values["body_bucket"], values["body_key"] = task.pointer
    elif len(body) <= INLINE_BODY_BYTES:
        values["body"] = body
    return values


class _Update:
    """Builds the arguments of one UpdateItem; every name goes through a placeholder."""

    def __init__(self, task_id: str) -> None:
        self._key = key_of(task_id)
        self._names: dict[str, str] = {}
        self._values: dict[str, Any] = {}
        self._set: list[str] = []
        self._remove: list[str] = []
        self._conditions: list[str] = []

    def name(self, attribute: str) -> str:
        self._names[f"#{attribute}"] = attribute
        return f"#{attribute}"

    def value(self, label: str, value: Any) -> str:
        self._values[f":{label}"] = to_attribute(value)
        return f":{label}"

    def set(self, **values: Any) -> _Update:
        for attribute, value in values.items():
            self._set.append(f"{self.name(attribute)} = {self.value(attribute, value)}")
        return self

    def set_missing(self, values: Mapping[str, Any]) -> _Update:
        for attribute, value in values.items():
            name = self.name(attribute)
            self._set.append(f"{name} = if_not_exists({name}, {self.value(attribute, value)})")
        return self

    def expression(self, text: str) -> _Update:
        self._set.append(text)
        return self

    def remove(self, *attributes: str) -> _Update:
        self._remove.extend(self.name(attribute) for attribute in attributes)
        return self

    def require(self, text: str) -> _Update:
        self._conditions.append(text)
        return self

    def require_equal(self, attribute: str, value: Any) -> _Update:
        return self.require(f"{self.name(attribute)} = {self.value(f'is_{attribute}', value)}")

    def call(self) -> Call:
        update = f"SET {', '.join(self._set)}" if self._set else ""
        if self._remove:
            update += f" REMOVE {', '.join(self._remove)}"
        call: Call = {
            "Key": self._key,
            "UpdateExpression": update.strip(),
            "ExpressionAttributeNames": self._names,
            "ReturnValues": "ALL_NEW",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        }
        if self._values:
            call["ExpressionAttributeValues"] = self._values
        if self._conditions:
            call["ConditionExpression"] = " AND ".join(f"({text})" for text in self._conditions)
        return call


def submit_call(task: Task, now_ms: int, body: bytes) -> Call:
    """Build the PutItem of a submit: queued, not yet published, only where the id is new.

    On a failed condition DynamoDB returns the present item (`ALL_OLD`), which tells replay from conflict.
    """
    values = _task_values(task, now_ms, body)
    values |= {
        "id": task.id, "status": contract.QUEUED, "attempts": 0, "step": 1, "retry_base": 0,
        "published": False, "open_until": now_ms + UNSETTLED_MS,
    }  # fmt: skip
    return {
        "Item": {key: to_attribute(value) for key, value in values.items()},
        "ConditionExpression": "attribute_not_exists(id)",
        "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
    }


def published_call(row: Row, now_ms: int) -> Call:
    """Record that SNS has accepted the message of the task as it is in `row`.

    A failed condition means that an agent has it already, or that it was retried since: the message of
    a retry is recorded by itself.
    """
    until = row.deadline_at or now_ms + contract.QUEUE_RETENTION_SECONDS * 1000
    update = _Update(row.id).set(published=True, open_until=until)
    return update.require_equal("status", contract.QUEUED).require_equal("attempts", row.attempts).call()


def _claim(task_id: str, token: str, now_ms: int) -> _Update:
    update = _Update(task_id)
    # The row stays `open` until its message is surely gone from the queue; then the sweep ends it.
    update.set(
        status=contract.RUNNING,
        claim=token,
        claim_until=now_ms + CLAIM_MS,
        started_at=now_ms,
        published=True,
        step=1,
    )
    update.set_missing({"retry_base": 0, "open_until": now_ms + contract.QUEUE_RETENTION_SECONDS * 1000})
    return update.remove("progress", "node", "error", "finished_at")


def claim_call(task_id: str, token: str, now_ms: int) -> Call:
    """Take a task for one run: fencing token `token`, lease until `now_ms` + `CLAIM_MS`.

    Succeeds for a row that is queued, or running with its lease run out; not for one that is ended,
    asked to be cancelled, running elsewhere, or past its deadline without ever having started: the
    item that DynamoDB returns with the failed condition tells which. No item: `claim_unseen_call`.
    """
    update = _claim(task_id, token, now_ms)
    zero, one = update.value("zero", 0), update.value("one", 1)
    attempts, step = update.name("attempts"), update.name("step")
    update.expression(f"{attempts} = if_not_exists({attempts}, {zero}) + if_not_exists({step}, {one})")
    status, queued = update.name("status"), update.value("queued", contract.QUEUED)
    running, now = update.value("running", contract.RUNNING), update.value("now", now_ms)
    until, cancel = update.name("claim_until"), update.name("cancel_requested")
    deadline, started = update.name("deadline_at"), update.name("started_at")
    update.require(f"{status} = {queued} OR ({status} = {running} AND {until} < {now})")
    update.require(f"attribute_not_exists({cancel})")
    update.require(f"attribute_not_exists({deadline}) OR {deadline} > {now} OR attribute_exists({started})")
    return update.call()


def claim_unseen_call(task: Task, token: str, now_ms: int, body: bytes, *, submitted_ms: int) -> Call:
    """Take a task that has no row, a direct publish sent at `submitted_ms`, and make its row."""
    update = _claim(task.id, token, now_ms).set_missing(_task_values(task, submitted_ms, body))
    return update.set(attempts=1).require(f"attribute_not_exists({update.name('status')})").call()


def hold_call(
    task_id: str,
    token: str,
    now_ms: int,
    *,
    progress: float | None = None,
    node: str | None = None,
    started_at: int | None = None,
) -> Call:
    """Extend the lease of a run, with its progress, node and real start where given.

    The returned row tells whether a cancel was asked for. A failed condition means that the task is
    no longer this run's: its work must stop and must not be settled.
    """
    update = _Update(task_id).set(claim_until=now_ms + CLAIM_MS)
    if progress is not None:
        update.set(progress=progress)
    if node is not None:
        update.set(node=node)
    if started_at is not None:
        update.set(started_at=started_at)
    return update.require_equal("claim", token).require_equal("status", contract.RUNNING).call()


def release_call(task_id: str, token: str, attempts: int, *, counted: bool, has_started: bool = True) -> Call:
    """Give a run back to the queue: with `counted` the next attempt is a new one, else the same again.

    A claim that the runtime never began to work on has not started the task: its deadline still holds.
    """
    update = _Update(task_id).set(
        status=contract.QUEUED, attempts=attempts + 1 if counted else attempts, step=0
    )
    update.remove("claim", "claim_until", "progress", "node", *([] if has_started else ["started_at"]))
    return update.require_equal("claim", token).require_equal("status", contract.RUNNING).call()


@dataclass(frozen=True, slots=True)
class Ending:
    """The one end state of a task: `status` is an end status, `error` has code, message and maybe node.

    What an agent knows better than the claim: when the runtime began (`started_at`), for how long it
    worked (`run_ms`), and how many attempts there really were (`attempts`); None leaves the row's.
    """

    status: str
    finished_at: int
    image_url: Sequence[str] = ()
    output_url: str = ""
    error: Mapping[str, Any] | None = None
    started_at: int | None = None
    run_ms: int | None = None
    attempts: int | None = None


def end_call(row: Row, ending: Ending) -> Call:
    """End a task from the state seen in `row` (status, and claim where it runs), else change nothing.

    For an agent's own run `row` carries its token; for cancel, sweep and dead letters it is the row
    that was read. The row stays `open` until the result is recorded as notified.
    """
    update = _Update(row.id).set(
        status=ending.status,
        finished_at=ending.finished_at,
        notified=False,
        published=True,
        open_until=ending.finished_at + UNSETTLED_MS,
    )
    if ending.image_url:
        update.set(image_url=list(ending.image_url))
    if ending.output_url:
        update.set(output_url=ending.output_url)
    if ending.error is not None:
        update.set(error=contract.canonical_json(ending.error))
    for name in ("started_at", "run_ms", "attempts"):
        if getattr(ending, name) is not None:
            update.set(**{name: getattr(ending, name)})
    if ending.status == contract.COMPLETED:
        update.set(progress=1)
    update.remove("claim", "claim_until", "cancel_requested", "step")
    update.require_equal("status", row.status)
    if row.claim:
        update.require_equal("claim", row.claim)
    elif row.status == contract.QUEUED:
        # Queued again since, after a run or a retry, it is another wait, and not the one to be ended.
        update.require_equal("attempts", row.attempts)
    return update.call()


def end_unseen_call(task: Task, ending: Ending, *, submitted_ms: int, body: bytes = b"") -> Call:
    """End a task that has no row: a direct publish that never could run. Else change nothing."""
    update = _Update(task.id).set_missing({**_task_values(task, submitted_ms, body), "attempts": 0})
    update.set(
        status=ending.status, finished_at=ending.finished_at, notified=False, published=True, retry_base=0,
        open_until=ending.finished_at + UNSETTLED_MS, error=contract.canonical_json(ending.error or {}),
    )  # fmt: skip
    return update.require(f"attribute_not_exists({update.name('status')})").call()


def notified_call(row: Row) -> Call:
    """Record that this end state has been published; nothing is left to be done for the row."""
    return (
        _Update(row.id)
        .set(notified=True)
        .remove("open_runtime", "open_until")
        .require_equal("status", row.status)
        .require_equal("finished_at", row.finished_at or 0)
        .call()
    )


def cancel_call(task_id: str, now_ms: int) -> Call:
    """Ask the agent that runs a task to stop it; the sweep sees to it where that agent is gone."""
    update = _Update(task_id).set(cancel_requested=True, open_until=now_ms + UNSETTLED_MS)
    return update.require_equal("status", contract.RUNNING).call()


def retry_call(row: Row, now_ms: int) -> Call:
    """Put an ended task back to `queued` with `attempts` raised; a published message must follow."""
    update = _Update(row.id).set(
        status=contract.QUEUED, attempts=row.attempts + 1, step=0, retry_base=row.attempts, published=False,
        open_runtime=row.runtime, open_until=now_ms + UNSETTLED_MS,
        ttl=now_ms // 1000 + ROW_LIFE_SECONDS,
    )  # fmt: skip
    if row.deadline_seconds is not None:
        update.set(deadline_at=now_ms + int(row.deadline_seconds * 1000))
    update.remove(
        "started_at", "finished_at", "run_ms", "image_url", "output_url", "error", "notified", "progress",
        "node", "claim", "claim_until", "cancel_requested",
    )  # fmt: skip
    return (
        update.require_equal("status", row.status).require_equal("finished_at", row.finished_at or 0).call()
    )


def iso_time(ms: int | None) -> str | None:
    """Render a time of a row as ISO 8601 in UTC, to the millisecond."""
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _seconds(start: int | None, end: int | None) -> float | None:
    return None if start is None or end is None else round(max(0, end - start) / 1000, 3)


def result_notification(row: Row) -> str:
    """Render what the output topic is told of a row; the same row always gives the same bytes."""
    ran = _seconds(row.started_at, row.finished_at)
    message: dict[str, Any] = {
        "id": row.id,
        "result": row.status == contract.COMPLETED,
        "status": row.status,
        "runtime": row.runtime,
        "image_url": list(row.image_url),
        "output_url": row.output_url or None,
        "context": row.context,
        "error": row.error,
        "attempts": row.attempts,
        "timings": {
            "queued_seconds": _seconds(row.submitted_at, row.started_at or row.finished_at),
            "run_seconds": ran if row.run_ms is None else row.run_ms / 1000,
            "total_seconds": _seconds(row.submitted_at, row.finished_at),
        },
    }
    if row.status == contract.RUNNING:
        message["progress"] = row.progress
    return json.dumps(message, ensure_ascii=False, separators=(",", ":"))


def notification_attributes(row: Row) -> dict[str, dict[str, str]]:
    """Return the SNS message attributes that subscribers filter on."""
    return {
        name: {"DataType": "String", "StringValue": value}
        for name, value in (("runtime", row.runtime), ("status", row.status))
    }


def task_object(row: Row) -> dict[str, Any]:
    """Return the task object of the API and the command line, without `files`."""
    return {
        "id": row.id,
        "runtime": row.runtime,
        "tasktype": row.tasktype,
        "status": row.status,
        "progress": row.progress,
        "attempts": row.attempts,
        "submitted_at": iso_time(row.submitted_at),
        "started_at": iso_time(row.started_at),
        "finished_at": iso_time(row.finished_at),
        "image_url": list(row.image_url),
        "output_url": row.output_url or None,
        "context": row.context,
        "error": row.error,
    }


def republished_task(row: Row, content: dict[str, Any]) -> Task:
    """Rebuild the task of a row, for a retry or a publish that did not happen.

    It is routed by its runtime's name, whatever it came by: the model file may be another one by now.
    """
    return Task(
        id=row.id,
        runtime=row.runtime,
        tasktype=row.tasktype,
        content=content,
        prefix=row.prefix,
        context=row.context,
        deadline_seconds=row.deadline_seconds,
        route=(contract.ROUTE_RUNTIME, row.runtime),
        pointer=(row.body_bucket, row.body_key) if row.body_key else None,
    )
