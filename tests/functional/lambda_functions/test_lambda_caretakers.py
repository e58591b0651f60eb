"""Dead letters, the sweep and the unrouted messages through the real zips against the emulator."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from sdctl_lambda.aws import Aws
from sdctl_lambda.contents import Contents
from sdctl_lambda.table import Table
from sdctl_lambda.topics import Topics
from sdctl_sweep.sweeping import REMOVED_AFTER_MS, Sweeper
from support.lambda_front import CHECKPOINT, Front, Worker, call, event

HOUR_MS = 3_600_000
PACKED = task_record.pack_body({"prompt": "A dog"})
RETENTION_MS = contract.QUEUE_RETENTION_SECONDS * 1000


def now() -> int:
    return time.time_ns() // 1_000_000


def make_task(task_id: str = "t-1", runtime: str = "sdweb", **more: Any) -> Task:
    route = more.pop("route", ("runtime", runtime))
    return Task(task_id, runtime, "text-to-image", {"prompt": "A dog"}, route=route, **more)


def put(front: Front, task: Task, at_ms: int, *, published: bool = True) -> Row:
    """Write the row of a submit at `at_ms`, and what its publish recorded."""
    packed = task_record.pack_body(task.content)
    front.dynamodb.put_item(TableName=front.table, **task_record.submit_call(task, at_ms, packed))
    if published:
        front.update(task_record.published_call(front.row(task.id), at_ms))
    return front.row(task.id)


def end(front: Front, status: str, at_ms: int, task_id: str = "t-1") -> Row:
    error = None if status == contract.COMPLETED else {"code": "why", "message": "because"}
    front.update(task_record.end_call(front.row(task_id), Ending(status, at_ms, error=error)))
    return front.row(task_id)


def letter(
    task: Task | None, *, body: str | None = None, attribute: tuple[str, str] | None = None, sent_ms: int = 0,
    raw: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Make an SQS record of a message, inside SNS's envelope unless `raw`."""
    message = contract.message_body(task) if task is not None else (body or "")
    name, value = attribute or (task.route if task is not None else ("", ""))
    if not raw:
        envelope = {
            "Type": "Notification",
            "TopicArn": "arn",
            "MessageId": "11111111-2222",
            "Message": message,
        }
        if name:
            envelope["MessageAttributes"] = {name: {"Type": "String", "Value": value}}  # type: ignore[assignment]
        message = json.dumps(envelope)
    return {
        "messageId": f"m-{task.id if task else 'x'}",
        "body": message,
        "attributes": {"SentTimestamp": str(sent_ms or now()), "ApproximateReceiveCount": "1"},
        "eventSourceARN": "arn:aws:sqs:eu-west-1:123456789012:whatever",
    }


def failures(answer: dict[str, Any]) -> list[str]:
    assert set(answer) == {"batchItemFailures"}
    return [entry["itemIdentifier"] for entry in answer["batchItemFailures"]]


def test_a_dead_letter_ends_its_task_and_tells_of_it(front: Front, dead_letters: Worker) -> None:
    put(front, make_task(context="mine"), now())
    assert failures(dead_letters.invoke({"Records": [letter(make_task())]})) == []
    row = front.row("t-1")
    assert (row.status, row.notified, (row.error or {})["code"]) == ("failed", True, "dead_letter")
    [envelope] = front.messages(front.output_queue)
    assert envelope["Message"] == task_record.result_notification(row)
    assert json.loads(envelope["Message"])["context"] == "mine"
    assert failures(dead_letters.invoke({"Records": [letter(make_task())]})) == []
    assert front.results_sent() == []


@pytest.mark.parametrize(
    ("task", "attribute", "runtime"),
    [
        (make_task(), None, "sdweb"),
        (make_task(runtime="SDWEB"), ("runtime", "sdWeb"), "sdweb"),
        (make_task(runtime="legacy"), ("sd_model_checkpoint", CHECKPOINT.upper()), "sdweb"),
        (make_task(runtime="Dyn"), ("", ""), "dyn"),
    ],
)
def test_a_direct_publish_that_nobody_saw_gets_a_row(
    front: Front, dead_letters: Worker, task: Task, attribute: Any, runtime: str
) -> None:
    assert failures(dead_letters.invoke({"Records": [letter(task, attribute=attribute)]})) == []
    row = front.row("t-1")
    assert (row.runtime, row.status, row.notified, row.attempts) == (runtime, "failed", True, 0)
    assert task_record.unpack_body(row.body) == {"prompt": "A dog"}
    assert [result["id"] for result in front.results_sent()] == ["t-1"]


def test_a_letter_delivered_raw_and_one_without_an_id_are_read(front: Front, dead_letters: Worker) -> None:
    raw = letter(make_task("raw"), raw=True)
    nameless = letter(
        None, attribute=("runtime", "sdweb"),
        body='{"metadata":{"tasktype":"text-to-image"},"content":{}}',
    )  # fmt: skip
    assert failures(dead_letters.invoke({"Records": [raw, nameless]})) == []
    assert front.row("raw").status == front.row("11111111-2222").status == "failed"


def test_what_people_must_look_at_stays_and_stops_no_other(front: Front, dead_letters: Worker) -> None:
    records = [
        letter(None, body="{", attribute=("runtime", "sdweb")) | {"messageId": "not-json"},
        letter(None, body="[]") | {"messageId": "a-list"},
        letter(make_task("lost", "gone")) | {"messageId": "no-runtime"},
        letter(make_task("good")),
        letter(None, body="x", raw=True) | {"messageId": "raw-rubbish"},
    ]
    answer = dead_letters.invoke({"Records": records})
    assert failures(answer) == ["not-json", "a-list", "no-runtime", "raw-rubbish"]
    assert front.row("good").status == "failed"
    assert front.item("lost") is None
    lines = [json.loads(line) for line in dead_letters.log.splitlines()]
    assert [line.get("reason") for line in lines] == [
        "undecodable",
        "undecodable",
        "no_runtime",
        None,
        "undecodable",
    ]


def test_a_task_that_runs_right_now_is_left_alone(front: Front, dead_letters: Worker) -> None:
    put(front, make_task(), now())
    front.update(task_record.claim_call("t-1", "token", now()))
    assert failures(dead_letters.invoke({"Records": [letter(make_task())]})) == ["m-t-1"]
    assert front.row("t-1").status == "running"


def test_a_run_whose_lease_ran_out_is_ended(front: Front, dead_letters: Worker) -> None:
    put(front, make_task(), now() - HOUR_MS)
    front.update(task_record.claim_call("t-1", "token", now() - HOUR_MS))
    assert failures(dead_letters.invoke({"Records": [letter(make_task())]})) == []
    assert front.row("t-1").status == "failed"


def test_a_letter_older_than_the_tasks_retry_ends_nothing(front: Front, dead_letters: Worker) -> None:
    put(front, make_task(), now() - HOUR_MS)
    end(front, "failed", now() - HOUR_MS)
    front.update(task_record.retry_call(front.row("t-1"), now()))
    assert failures(dead_letters.invoke({"Records": [letter(make_task(), sent_ms=now() - HOUR_MS)]})) == []
    assert front.row("t-1").status == "queued"


def test_an_end_that_nobody_was_told_of_is_told(front: Front, dead_letters: Worker) -> None:
    put(front, make_task(), now())
    row = end(front, "completed", now())
    assert failures(dead_letters.invoke({"Records": [letter(make_task())]})) == []
    [envelope] = front.messages(front.output_queue)
    assert envelope["Message"] == task_record.result_notification(row)
    assert front.row("t-1").notified


@pytest.mark.parametrize("fault", ["refused", "throttled", "silent"])
@pytest.mark.parametrize(
    "point", ["dynamodb.get_item", "dynamodb.update_item#1", "sns.publish", "dynamodb.update_item#2"]
)
def test_a_letter_survives_every_failure_of_aws(
    front: Front, dead_letters: Worker, point: str, fault: str
) -> None:
    put(front, make_task(), now())
    assert failures(dead_letters.invoke({"Records": [letter(make_task())]}, {point: fault})) == ["m-t-1"]
    assert failures(dead_letters.invoke({"Records": [letter(make_task())]})) == []
    row = front.row("t-1")
    assert (row.status, row.notified) == ("failed", True)
    results = front.messages(front.output_queue)
    assert {envelope["Message"] for envelope in results} == {task_record.result_notification(row)}
    assert "secret" not in dead_letters.log


def test_a_state_that_changes_meanwhile_is_read_again(front: Front, dead_letters: Worker) -> None:
    put(front, make_task(), now())
    answer = dead_letters.invoke({"Records": [letter(make_task())]}, {"dynamodb.update_item#1": "condition"})
    assert failures(answer) == []
    assert front.row("t-1").status == "failed"


def test_the_sweep_publishes_what_a_crash_left_unpublished(front: Front, sweep: Worker) -> None:
    put(front, make_task(), now() - HOUR_MS, published=False)
    put(front, make_task("fresh"), now(), published=False)
    route = ("sd_model_checkpoint", CHECKPOINT)
    large = make_task("large", route=route, pointer=(front.bucket, ".sdctl/tasks/large/x.json"))
    put(front, large, now() - HOUR_MS, published=False)
    assert sweep.invoke({})["publish"] == 2
    sent = {
        json.loads(envelope["Message"])["metadata"]["id"]: envelope
        for envelope in front.messages(front.input_queue)
    }
    assert set(sent) == {"t-1", "large"}
    assert json.loads(sent["t-1"]["Message"])["content"] == {"prompt": "A dog"}
    assert json.loads(sent["large"]["Message"])["content_pointer"]["key"] == ".sdctl/tasks/large/x.json"
    assert sent["large"]["MessageAttributes"] == {"runtime": {"Type": "String", "Value": "sdweb"}}
    assert front.row("t-1").published
    assert sweep.invoke({})["publish"] == 0


def test_the_sweep_expires_what_waits_past_its_deadline(front: Front, sweep: Worker) -> None:
    put(front, make_task(deadline_seconds=60), now() - HOUR_MS)
    put(front, make_task("unpublished", deadline_seconds=60), now() - HOUR_MS, published=False)
    put(front, make_task("in-time", deadline_seconds=7200), now() - HOUR_MS)
    assert sweep.invoke({})["expire"] == 2
    for task_id in ("t-1", "unpublished"):
        row = front.row(task_id)
        assert (row.status, row.notified, (row.error or {})["code"]) == ("expired", True, "expired")
    assert front.row("in-time").status == "queued"
    assert sorted(result["id"] for result in front.results_sent()) == ["t-1", "unpublished"]
    assert front.tasks_sent() == []


def test_the_sweep_expires_what_no_queue_keeps_any_more(front: Front, sweep: Worker) -> None:
    long_ago = now() - RETENTION_MS - HOUR_MS
    put(front, make_task("waiting"), long_ago)
    for task_id, lease_ms in (("crashed", long_ago), ("held", now())):
        put(front, make_task(task_id), long_ago)
        front.update(task_record.claim_call(task_id, "token", lease_ms))
    assert sweep.invoke({})["expire"] == 2
    states = {task_id: front.row(task_id).status for task_id in ("waiting", "crashed", "held")}
    assert states == {"waiting": "expired", "crashed": "expired", "held": "running"}


def test_a_deadline_is_for_the_start_only(front: Front, sweep: Worker) -> None:
    put(front, make_task(deadline_seconds=60), now() - HOUR_MS)
    front.update(task_record.claim_call("t-1", "token", now() - HOUR_MS + 1000))
    assert sweep.invoke({})["expire"] == 0
    front.update(task_record.release_call("t-1", "token", 1, counted=False))
    assert sweep.invoke({})["expire"] == 0
    assert front.row("t-1").status == "queued"


def test_the_sweep_tells_of_an_end_that_nobody_told(front: Front, sweep: Worker) -> None:
    put(front, make_task(), now() - HOUR_MS)
    row = end(front, "completed", now() - HOUR_MS + 1000)
    put(front, make_task("fresh"), now() - HOUR_MS)
    end(front, "completed", now(), "fresh")
    assert sweep.invoke({})["notify"] == 1
    [envelope] = front.messages(front.output_queue)
    assert envelope["Message"] == task_record.result_notification(row)
    assert front.row("t-1").notified
    assert "open_until" not in (front.item("t-1") or {})


def test_a_row_that_fails_stops_no_other_and_is_swept_again(front: Front, sweep: Worker) -> None:
    for number in range(3):
        put(front, make_task(f"t-{number}"), now() - HOUR_MS + number, published=False)
    done = sweep.invoke({}, {"sns.publish#2": "refused"})
    assert (done["publish"], done["failed"]) == (2, 1)
    assert sweep.invoke({})["publish"] == 1
    assert len(front.tasks_sent()) == 3
    assert "secret" not in sweep.log


@pytest.mark.parametrize("moment", ["die_before", "die_after"])
@pytest.mark.parametrize("point", ["dynamodb.update_item#1", "sns.publish", "dynamodb.update_item#2"])
def test_a_sweep_that_dies_is_completed_by_the_next(
    front: Front, sweep: Worker, point: str, moment: str
) -> None:
    put(front, make_task(deadline_seconds=60), now() - HOUR_MS)
    assert sweep.invoke({}, {point: moment}) is None
    row = front.row("t-1")
    if row.status == "expired" and not row.notified:  # the next sweep waits until nobody else will tell
        front.dynamodb.update_item(
            TableName=front.table, Key={"id": {"S": "t-1"}}, UpdateExpression="SET open_until = :past",
            ExpressionAttributeValues={":past": {"N": "1"}},
        )  # fmt: skip
    sweep.invoke({})
    row = front.row("t-1")
    assert (row.status, row.notified) == ("expired", True)
    results = [envelope["Message"] for envelope in front.messages(front.output_queue)]
    assert set(results) == {task_record.result_notification(row)}


def test_a_sweep_reads_every_page_of_every_runtime(front: Front, sweep: Worker) -> None:
    calls = [task_record.submit_call(make_task(f"t-{n}"), now() - HOUR_MS, PACKED) for n in range(130)]
    for start in range(0, 130, 25):
        rows = [{"PutRequest": {"Item": call["Item"]}} for call in calls[start : start + 25]]
        front.dynamodb.batch_write_item(RequestItems={front.table: rows})
    put(front, make_task("other", "comfy"), now() - HOUR_MS, published=False)
    assert sweep.invoke({})["publish"] == 131
    assert len(front.tasks_sent()) == 131


class Clock:
    """Wall time that a test moves on, in milliseconds."""

    def __init__(self) -> None:
        self.ms = now()

    def __call__(self) -> int:
        return self.ms


def sweeper_of(front: Front, monkeypatch: pytest.MonkeyPatch) -> tuple[Sweeper, Clock]:
    """Make a sweep of this process, whose time can be moved on."""
    for name, value in front.variables.items():
        monkeypatch.setenv(name, value)
    aws, clock = Aws(), Clock()
    topics = Topics(aws, input_arn=front.input_topic, output_arn=front.output_topic)
    return Sweeper(Table(aws, front.table), topics, Contents(aws, front.bucket), clock), clock


def test_tasks_of_a_removed_runtime_end_and_are_told(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    put(front, make_task("waits", "gone"), now() - HOUR_MS)
    put(front, make_task("untold", "gone"), now() - HOUR_MS)
    end(front, contract.COMPLETED, now() - HOUR_MS, "untold")
    put(front, make_task("runs", "gone"), now() - HOUR_MS)
    put(front, make_task("deployed"), now() - HOUR_MS)
    sweeper, clock = sweeper_of(front, monkeypatch)

    first = sweeper.sweep(["sdweb"], lambda: True)
    assert (first["expire"], first["notify"], first["publish"]) == (0, 0, 0)
    clock.ms += REMOVED_AFTER_MS
    front.update(task_record.claim_call("runs", "token", clock.ms))
    done = sweeper.sweep(["sdweb"], lambda: True)

    assert (done["expire"], done["notify"], done["publish"]) == (1, 1, 0)
    row = front.row("waits")
    assert (row.status, row.notified) == ("expired", True)
    assert "gone" in (row.error or {})["message"]
    assert {result["id"]: result["status"] for result in front.results_sent()} == {
        "waits": "expired",
        "untold": "completed",
    }
    assert (front.row("runs").status, front.row("deployed").status) == ("running", "queued")


def test_a_runtime_that_leaves_the_list_is_noticed_and_one_that_comes_back_is_left_alone(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper, clock = sweeper_of(front, monkeypatch)
    sweeper.sweep(["sdweb", "left", "blinks"], lambda: True)
    for name in ("left", "blinks"):
        put(front, make_task(name, name), now())
    sweeper.sweep(["sdweb"], lambda: True)
    clock.ms += REMOVED_AFTER_MS - 1
    sweeper.sweep(["sdweb", "blinks"], lambda: True)
    clock.ms += 1
    assert sweeper.sweep(["sdweb"], lambda: True)["expire"] == 1
    assert (front.row("left").status, front.row("blinks").status) == ("expired", "queued")


def test_the_names_of_removed_runtimes_are_looked_for_once_a_sandbox(front: Front) -> None:
    sweep = front.worker("sdctl_sweep")
    counts = []
    for _ in range(2):
        sweep.invoke({})
        counts.append(sweep.calls.count("dynamodb.scan"))
    assert counts == [1, 0]


@pytest.mark.parametrize("is_given_back", [True, False])
def test_a_cancel_whose_agent_went_away_is_carried_out_by_the_sweep(
    front: Front, sweep: Worker, is_given_back: bool
) -> None:
    put(front, make_task(), now() - HOUR_MS)
    front.update(task_record.claim_call("t-1", "token", now() - HOUR_MS))
    front.update(task_record.cancel_call("t-1", now() - HOUR_MS))
    if is_given_back:
        front.update(task_record.release_call("t-1", "token", 1, counted=False))
    assert sweep.invoke({})["cancel"] == 1
    row = front.row("t-1")
    assert (row.status, row.notified) == ("cancelled", True)
    assert [result["status"] for result in front.results_sent()] == ["cancelled"]


def test_a_cancel_is_left_to_the_agent_that_still_holds_the_task(front: Front, sweep: Worker) -> None:
    put(front, make_task(), now() - HOUR_MS)
    front.update(task_record.claim_call("t-1", "token", now()))
    front.update(task_record.cancel_call("t-1", now() - HOUR_MS))
    assert sweep.invoke({})["cancel"] == 0
    assert front.row("t-1").status == "running"


def test_a_sweep_without_time_leaves_the_rest(front: Front, sweep: Worker) -> None:
    put(front, make_task(), now() - HOUR_MS, published=False)
    done = sweep.invoke({}, remaining_ms=5_000)
    assert (done["publish"], done["unread_pages"]) == (0, 3)
    assert sweep.invoke({})["publish"] == 1


def test_a_message_that_reaches_no_runtime_is_kept(front: Front) -> None:
    queue = front.sqs.create_queue(QueueName=f"unrouted-{front.unique}")["QueueUrl"]
    unrouted = front.worker("sdctl_unrouted", UNROUTED_QUEUE_URL=queue)
    routed = [
        letter(make_task(), attribute=("runtime", "SdWeb")),
        letter(make_task(), attribute=("sd_model_checkpoint", CHECKPOINT.upper())),
    ]
    lost = [
        letter(make_task("a"), attribute=("runtime", "gone")),
        letter(make_task("b"), attribute=("sd_model_checkpoint", "other")),
        letter(make_task("c"), attribute=("", "")),
        letter(None, body="rubbish", raw=True),
    ]
    assert failures(unrouted.invoke({"Records": routed + lost})) == []
    kept = front.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert sorted(message["Body"] for message in kept) == sorted(record["body"] for record in lost)
    assert failures(unrouted.invoke({"Records": lost[:1]}, {"sqs.send_message": "refused"})) == ["m-a"]


def test_a_task_that_the_api_took_is_ended_by_its_dead_letter(front: Front, dead_letters: Worker) -> None:
    body = {
        "task": {
            "metadata": {"id": "real", "runtime": "sdweb", "tasktype": "text-to-image"},
            "content": {"prompt": "x"},
        }
    }
    call(front.worker("sdctl_api"), event("POST", "/v1alpha2", body))
    [message] = front.sqs.receive_message(QueueUrl=front.input_queue, AttributeNames=["All"])["Messages"]
    record = {"messageId": message["MessageId"], "body": message["Body"], "attributes": message["Attributes"]}
    assert failures(dead_letters.invoke({"Records": [record]})) == []
    assert front.row("real").status == "failed"
