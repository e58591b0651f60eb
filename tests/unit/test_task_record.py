"""The state machine of a task, each change sent as the real conditional write to DynamoDB (moto's)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from moto import mock_aws

from sdctl import task_record as record
from sdctl.contract import Task

NOW = 1_800_000_000_000


class Table:
    """A task table: sends the calls of `task_record`, tells the row or why a condition failed."""

    def __init__(self, client: Any) -> None:
        self.client = client

    def update(self, call: record.Call) -> record.Row:
        return record.row_from_item(self.client.update_item(TableName="tasks", **call)["Attributes"])

    def refused(self, call: record.Call) -> record.Row | None:
        with pytest.raises(self.client.exceptions.ConditionalCheckFailedException) as caught:
            self.client.update_item(TableName="tasks", **call)
        item = caught.value.response.get("Item")
        return record.row_from_item(item) if item else None

    def submit(self, task: Task, now_ms: int = NOW) -> record.Row:
        call = record.submit_call(task, now_ms, record.pack_body(task.content))
        self.client.put_item(TableName="tasks", **call)
        return self.get(task.id)

    def get(self, task_id: str) -> record.Row:
        return record.row_from_item(
            self.client.get_item(TableName="tasks", Key=record.key_of(task_id), ConsistentRead=True)["Item"]
        )


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    with mock_aws():
        client = boto3.client("dynamodb", region_name="us-east-1")
        client.create_table(
            TableName="tasks",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            BillingMode="PAY_PER_REQUEST",
        )
        yield Table(client)


def make_task(**changes: Any) -> Task:
    values: dict[str, Any] = {
        "id": "dog-1", "runtime": "sdruntime", "tasktype": "text-to-image",
        "content": {"prompt": "A dog", "scale": 7.5}, "context": {"abc": [1, None]},
        "route": ("runtime", "sdruntime"),
    }  # fmt: skip
    return Task(**{**values, **changes})


def test_a_submitted_row_is_queued_and_carries_the_whole_task(table: Table) -> None:
    task = make_task(deadline_seconds=60)
    row = table.submit(task)
    assert (row.status, row.attempts, row.published) == ("queued", 0, False)
    assert row.context == {"abc": [1, None]}
    assert row.deadline_at == NOW + 60_000
    assert record.unpack_body(row.body) == task.content
    again = record.republished_task(row, record.unpack_body(row.body))
    assert again == task
    assert again.content_hash == row.hash


def test_the_same_id_is_refused_and_the_present_row_comes_back(table: Table) -> None:
    table.submit(make_task())
    call = record.submit_call(make_task(content={"prompt": "A cat"}), NOW, b"")
    with pytest.raises(table.client.exceptions.ConditionalCheckFailedException) as caught:
        table.client.put_item(TableName="tasks", **call)
    assert record.row_from_item(caught.value.response["Item"]).hash == make_task().content_hash


def test_a_run_goes_from_queued_to_completed_and_is_notified_once(table: Table) -> None:
    table.update(record.published_call(table.submit(make_task()), NOW))
    row = table.update(record.claim_call("dog-1", "token-a", NOW + 2_000))
    assert (row.status, row.attempts, row.claim_until) == ("running", 1, NOW + 32_000)
    held = table.update(record.hold_call("dog-1", "token-a", NOW + 4_000, progress=0.25, node="KSampler"))
    assert (held.progress, held.node, held.claim_until) == (0.25, "KSampler", NOW + 34_000)
    ending = record.Ending("completed", NOW + 5_500, ("s3://b/k.png",), "s3://b/k.out")
    ended = table.update(record.end_call(row, ending))
    assert table.refused(record.end_call(row, ending)) is not None
    told = table.update(record.notified_call(ended))
    assert told.notified
    assert record.result_notification(told) == record.result_notification(ended)
    message = json.loads(record.result_notification(told))
    assert message == {
        "id": "dog-1", "result": True, "status": "completed", "runtime": "sdruntime",
        "image_url": ["s3://b/k.png"], "output_url": "s3://b/k.out", "context": {"abc": [1, None]},
        "error": None, "attempts": 1,
        "timings": {"queued_seconds": 2.0, "run_seconds": 3.5, "total_seconds": 5.5},
    }  # fmt: skip
    assert record.task_object(told)["progress"] == 1
    item = table.client.get_item(TableName="tasks", Key=record.key_of("dog-1"))["Item"]
    assert not {"open_runtime", "open_until", "claim", "claim_until"} & set(item)


def test_what_the_agent_knows_of_the_run_goes_before_what_the_claim_knew(table: Table) -> None:
    table.submit(make_task())
    row = table.update(record.claim_call("dog-1", "a", NOW + 1_000))
    held = table.update(record.hold_call("dog-1", "a", NOW + 3_000, started_at=NOW + 2_000))
    assert held.started_at == NOW + 2_000
    ending = record.Ending("failed", NOW + 9_000, started_at=NOW + 2_500, run_ms=4_000, attempts=3)
    ended = table.update(record.end_call(row, ending))
    message = json.loads(record.result_notification(ended))
    assert message["timings"] == {"queued_seconds": 2.5, "run_seconds": 4.0, "total_seconds": 9.0}
    assert message["attempts"] == 3
    again = table.update(record.retry_call(ended, NOW + 10_000))
    assert (again.started_at, again.run_ms) == (None, None)


def test_a_claim_that_was_given_back_before_the_run_began_has_not_started_the_task(table: Table) -> None:
    table.submit(make_task())
    table.update(record.claim_call("dog-1", "a", NOW))
    back = table.update(record.release_call("dog-1", "a", 1, counted=False, has_started=False))
    assert (back.status, back.started_at) == ("queued", None)


def test_a_running_task_is_not_claimed_again_until_its_lease_ran_out(table: Table) -> None:
    table.submit(make_task())
    table.update(record.claim_call("dog-1", "a", NOW))
    seen = table.refused(record.claim_call("dog-1", "b", NOW + 29_000))
    assert seen is not None
    assert seen.claim == "a"
    taken = table.update(record.claim_call("dog-1", "b", NOW + 30_001))
    assert (taken.claim, taken.attempts) == ("b", 2)
    assert table.refused(record.hold_call("dog-1", "a", NOW + 31_000)) is not None
    assert (
        table.refused(record.end_call(make_row(seen, claim="a"), record.Ending("completed", NOW))) is not None
    )


def make_row(row: record.Row, **changes: Any) -> record.Row:
    from dataclasses import replace

    return replace(row, **changes)


def test_a_hand_back_costs_no_attempt_and_a_counted_release_costs_one(table: Table) -> None:
    table.submit(make_task())
    row = table.update(record.claim_call("dog-1", "a", NOW))
    back = table.update(record.release_call("dog-1", "a", row.attempts, counted=False))
    assert (back.status, back.attempts) == ("queued", 1)
    again = table.update(record.claim_call("dog-1", "b", NOW + 1))
    assert again.attempts == 1
    back = table.update(record.release_call("dog-1", "b", again.attempts, counted=True))
    assert (back.status, back.attempts) == ("queued", 2)
    assert table.update(record.claim_call("dog-1", "c", NOW + 2)).attempts == 2


def test_an_unstarted_task_past_its_deadline_is_not_claimed_but_a_started_one_is(table: Table) -> None:
    table.submit(make_task(deadline_seconds=10))
    assert table.refused(record.claim_call("dog-1", "a", NOW + 10_001)) is not None
    table.update(record.claim_call("dog-1", "a", NOW + 9_000))
    table.update(record.release_call("dog-1", "a", 1, counted=False))
    assert table.update(record.claim_call("dog-1", "b", NOW + 20_000)).status == "running"


def test_a_task_asked_to_stop_is_seen_by_its_run_and_never_claimed_again(table: Table) -> None:
    table.submit(make_task())
    row = table.update(record.claim_call("dog-1", "a", NOW))
    assert table.update(record.cancel_call("dog-1", NOW)).cancel_requested
    assert table.update(record.hold_call("dog-1", "a", NOW + 1)).cancel_requested
    seen = table.refused(record.claim_call("dog-1", "b", NOW + 40_000))
    assert seen is not None
    assert seen.cancel_requested
    ended = table.update(record.end_call(row, record.Ending("cancelled", NOW + 2)))
    assert (ended.status, ended.cancel_requested) == ("cancelled", False)


def test_an_ended_task_is_not_claimed_and_can_be_retried_with_attempts_raised(table: Table) -> None:
    table.submit(make_task(deadline_seconds=60))
    row = table.update(record.claim_call("dog-1", "a", NOW))
    error = {"code": "x", "message": "broken"}
    ended = table.update(record.end_call(row, record.Ending("failed", NOW + 5, error=error)))
    assert ended.error == error
    seen = table.refused(record.claim_call("dog-1", "b", NOW + 60_000))
    assert seen is not None
    assert seen.is_ended
    retried = table.update(record.retry_call(ended, NOW + 100_000))
    assert (retried.status, retried.attempts, retried.error, retried.notified) == ("queued", 2, None, False)
    assert retried.deadline_at == NOW + 160_000
    assert table.refused(record.retry_call(ended, NOW + 100_001)) is not None
    assert table.refused(record.notified_call(ended)) is not None, "the old end is no longer to be told"
    assert table.update(record.claim_call("dog-1", "b", NOW + 110_000)).attempts == 2


def test_a_direct_publish_gets_its_row_with_its_claim_and_only_once(table: Table) -> None:
    task = make_task()
    assert table.refused(record.claim_call("dog-1", "a", NOW)) is None
    call = record.claim_unseen_call(task, "a", NOW + 500, record.pack_body(task.content), submitted_ms=NOW)
    row = table.update(call)
    assert (row.status, row.attempts, row.submitted_at, row.runtime) == ("running", 1, NOW, "sdruntime")
    assert record.unpack_body(row.body) == task.content
    assert table.refused(call) is not None


def test_a_direct_publish_that_cannot_run_ends_without_ever_being_claimed(table: Table) -> None:
    ending = record.Ending("failed", NOW + 1, error={"code": "invalid_task", "message": "no"})
    row = table.update(record.end_unseen_call(make_task(), ending, submitted_ms=NOW))
    assert (row.status, row.attempts, row.error) == ("failed", 0, {"code": "invalid_task", "message": "no"})


def test_publishing_is_recorded_only_while_the_task_waits(table: Table) -> None:
    row = table.submit(make_task())
    published = table.update(record.published_call(row, NOW))
    assert published.published
    table.update(record.claim_call("dog-1", "a", NOW))
    assert table.refused(record.published_call(row, NOW)) is not None


def test_a_publish_that_is_recorded_late_does_not_count_for_the_retry_after_it(table: Table) -> None:
    first = table.submit(make_task())
    ended = table.update(record.end_call(first, record.Ending("cancelled", NOW + 5)))
    retried = table.update(record.retry_call(ended, NOW + 10))
    seen = table.refused(record.published_call(first, NOW + 11))
    assert seen is not None
    assert not seen.published
    assert table.update(record.published_call(retried, NOW + 12)).published


def test_a_message_from_before_a_retry_and_the_retrys_own_make_one_run(table: Table) -> None:
    ended = table.update(record.end_call(table.submit(make_task()), record.Ending("cancelled", NOW + 5)))
    table.update(record.retry_call(ended, NOW + 10))
    old = table.update(record.claim_call("dog-1", "old", NOW + 20))
    assert (old.status, old.attempts) == ("running", 1)
    seen = table.refused(record.claim_call("dog-1", "new", NOW + 21))
    assert seen is not None
    assert seen.claim == "old"


def test_a_run_from_before_a_retry_can_neither_hold_nor_end_the_task(table: Table) -> None:
    table.submit(make_task())
    zombie = table.update(record.claim_call("dog-1", "zombie", NOW))
    failed = table.update(record.end_call(zombie, record.Ending("failed", NOW + 5)))
    retried = table.update(record.retry_call(failed, NOW + 10))
    assert retried.queued_at == (NOW + 10) // 1000 * 1000
    for call in (
        record.hold_call("dog-1", "zombie", NOW + 11),
        record.release_call("dog-1", "zombie", 1, counted=False),
        record.end_call(zombie, record.Ending("completed", NOW + 12)),
    ):
        seen = table.refused(call)
        assert seen is not None
        assert seen.status == "queued"


def test_a_large_body_is_kept_as_a_pointer(table: Table) -> None:
    task = make_task(pointer=("bucket", "key.json"))
    row = table.submit(task)
    assert (row.body, row.body_bucket, row.body_key) == (b"", "bucket", "key.json")


def test_times_are_rendered_in_utc_to_the_millisecond() -> None:
    assert record.iso_time(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert record.iso_time(None) is None


def test_an_end_that_was_meant_for_a_task_before_its_retry_does_not_end_the_retried_one(table: Table) -> None:
    seen = table.submit(make_task())
    ended = table.update(record.end_call(seen, record.Ending("cancelled", NOW + 1)))
    table.update(record.retry_call(ended, NOW + 2))

    late = table.refused(record.end_call(seen, record.Ending("expired", NOW + 3)))

    assert late is not None
    assert (late.status, late.attempts) == ("queued", seen.attempts + 1)
