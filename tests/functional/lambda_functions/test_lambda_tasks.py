"""Status, list, cancel, retry and uploads through the real zip against the emulator."""

from __future__ import annotations

import hashlib
import json
import random
import time
import urllib.error
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import pytest

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Ending, Row
from support.lambda_front import Answer, Front, Worker, call, event

TASKS, ONE = "/v1alpha2/tasks", "/v1alpha2/tasks/{id}"
ENDS = contract.END_STATUSES


def noise(size: int) -> str:
    """Make text that compresses to half at best, the same in every run."""
    return random.Random(7).randbytes(size // 2 + 1).hex()[:size]


def now() -> int:
    return time.time_ns() // 1_000_000


def get(api: Worker, task_id: str) -> Answer:
    return call(api, event("GET", ONE, parameters={"id": task_id}))


def change(api: Worker, task_id: str, what: str, faults: dict[str, str] | None = None) -> Answer:
    return call(api, event("POST", f"{ONE}/{what}", parameters={"id": task_id}), faults)


def submitted(
    front: Front, api: Worker, task_id: str = "t-1", prompt: str = "A dog", **metadata: object
) -> Row:
    body = {
        "task": {
            "metadata": {"id": task_id, "runtime": "sdweb", "tasktype": "text-to-image", **metadata},
            "content": {"prompt": prompt},
        }
    }
    assert call(api, event("POST", "/v1alpha2", body)).status == 200
    return front.row(task_id)


def ended(
    front: Front, api: Worker, status: str, task_id: str = "t-1", *, notified: bool = True, **more: Any
) -> Row:
    """Let an agent take a submitted task and end it."""
    submitted(front, api, task_id, **more)
    front.update(task_record.claim_call(task_id, "token", now()))
    urls = [f"s3://{front.bucket}/output/{task_id}/{task_id}-0000-1.png", "s3://elsewhere/x.png"]
    is_completed = status == contract.COMPLETED
    ending = Ending(
        status, now(), image_url=urls if is_completed else (),
        output_url=f"s3://{front.bucket}/output/{task_id}/{task_id}-0000.out" if is_completed else "",
        error=None if is_completed else {"code": "why", "message": "because"},
    )  # fmt: skip
    front.update(task_record.end_call(front.row(task_id), ending))
    if notified:
        front.update(task_record.notified_call(front.row(task_id)))
    front.tasks_sent()
    return front.row(task_id)


def test_a_queued_task_shows_no_links(front: Front, api: Worker) -> None:
    row = submitted(front, api, context={"k": 1})
    answer = get(api, "t-1")
    assert answer.status == 200
    assert answer.body == task_record.task_object(row) | {"image_links": [], "output_link": None}
    assert api.calls == ["dynamodb.get_item"]


def test_the_links_of_a_completed_task_read_its_outputs(front: Front, api: Worker) -> None:
    row = ended(front, api, contract.COMPLETED)
    for url, body in ((row.image_url[0], b"picture"), (row.output_url, b"answer")):
        bucket, _, key = url.removeprefix("s3://").partition("/")
        front.s3.put_object(Bucket=bucket, Key=key, Body=body)
    answer = get(api, "t-1")
    assert answer.body["image_url"] == list(row.image_url)
    first, foreign = answer.body["image_links"]
    with urllib.request.urlopen(first) as response:
        assert response.read() == b"picture"
    with urllib.request.urlopen(answer.body["output_link"]) as response:
        assert response.read() == b"answer"
    assert foreign is None
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(first).query)
    assert query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"]
    assert int(query["X-Amz-Expires"][0]) <= 3600


def test_links_of_aws_itself_are_regional_and_name_the_bucket_as_host(front: Front, api: Worker) -> None:
    row = ended(front, api, contract.COMPLETED)
    far = front.worker(
        "sdctl_api", AWS_ENDPOINT_URL="", AWS_ENDPOINT_URL_DYNAMODB=f"http://127.0.0.1:{front.port}"
    )
    link = urllib.parse.urlsplit(get(far, row.id).body["output_link"])
    assert (link.scheme, link.hostname) == ("https", f"{front.bucket}.s3.eu-west-1.amazonaws.com")


@pytest.fixture
def populated(front: Front) -> list[str]:
    """120 tasks of three runtimes, newest first."""
    ids = []
    for number in range(120):
        runtime = ("sdweb", "dyn", "comfy")[number % 3]
        task = Task(f"t-{number:03}", runtime, "text-to-image", {}, route=("runtime", runtime))
        put = task_record.submit_call(task, 1_700_000_000_000 + number, b"")
        if number % 10 == 0:
            put["Item"]["status"] = {"S": "failed"}
        front.dynamodb.put_item(TableName=front.table, **put)
        ids.append(task.id)
    return ids[::-1]


def listed(api: Worker, **query: str) -> list[str]:
    """Read all pages as one list."""
    return [task_id for page in pages(api, **query) for task_id in page]


def pages(api: Worker, **query: str) -> list[list[str]]:
    """Follow the cursor to the end."""
    read: list[list[str]] = []
    cursor = None
    while True:
        answer = call(api, event("GET", TASKS, query=query | ({"cursor": cursor} if cursor else {})))
        assert answer.status == 200, answer.body
        read.append([task["id"] for task in answer.body["tasks"]])
        cursor = answer.body["cursor"]
        if cursor is None:
            return read
        assert len(read) < 50


def test_the_list_is_newest_first_over_all_runtimes_in_pages(api: Worker, populated: list[str]) -> None:
    read = pages(api, limit="50")
    assert [len(page) for page in read] == [50, 50, 20]
    assert [task_id for page in read for task_id in page] == populated
    assert [len(page) for page in pages(api)] == [20] * 6


def test_the_list_filters_by_runtime_in_any_case(api: Worker, populated: list[str]) -> None:
    assert listed(api, runtime="COMFY", limit="7") == [i for i in populated if int(i[2:]) % 3 == 2]


def test_the_list_filters_by_status(api: Worker, populated: list[str]) -> None:
    failed = [i for i in populated if int(i[2:]) % 10 == 0]
    assert listed(api, status="failed", limit="5") == failed
    assert listed(api, status="failed", runtime="sdweb") == [i for i in failed if int(i[2:]) % 3 == 0]
    assert pages(api, status="running") == [[]]


def test_a_listed_task_is_the_task_object(front: Front, api: Worker) -> None:
    row = ended(front, api, contract.COMPLETED, context={"k": 1})
    answer = call(api, event("GET", TASKS))
    assert answer.body == {"tasks": [task_record.task_object(row)], "cursor": None}


@pytest.mark.parametrize(
    ("query", "paths"),
    [
        ({"limit": "0"}, ["limit"]),
        ({"limit": "101"}, ["limit"]),
        ({"limit": "ten"}, ["limit"]),
        ({"limit": "٣"}, ["limit"]),
        ({"status": "done"}, ["status"]),
        ({"runtime": "nope"}, ["runtime"]),
        ({"cursor": "!!"}, ["cursor"]),
        ({"cursor": "AAAA"}, ["cursor"]),
        ({"cursor": "狗"}, ["cursor"]),
        ({"state": "failed", "limit": "x"}, ["limit", "state"]),
    ],
)
def test_a_bad_parameter_of_the_list_is_named(api: Worker, query: dict[str, str], paths: list[str]) -> None:
    answer = call(api, event("GET", TASKS, query=query))
    assert (answer.status, answer.code, sorted(answer.paths)) == (400, "invalid_task", paths)


def test_cancelling_a_queued_task_ends_it_and_tells_of_it(front: Front, api: Worker) -> None:
    submitted(front, api, context="mine")
    answer = change(api, "t-1", "cancel")
    assert (answer.status, answer.body["status"]) == (202, "cancelled")
    row = front.row("t-1")
    assert row.notified
    [envelope] = front.messages(front.output_queue)
    assert envelope["Message"] == task_record.result_notification(row)
    assert {name: value["Value"] for name, value in envelope["MessageAttributes"].items()} == {
        "runtime": "sdweb",
        "status": "cancelled",
    }
    assert "open_until" not in (front.item("t-1") or {})


def test_cancelling_a_running_task_asks_its_agent(front: Front, api: Worker) -> None:
    submitted(front, api)
    front.update(task_record.claim_call("t-1", "token", now()))
    for _ in range(2):
        answer = change(api, "t-1", "cancel")
        assert (answer.status, answer.body["status"]) == (202, "running")
    assert front.row("t-1").cancel_requested
    assert front.results_sent() == []


@pytest.mark.parametrize("status", ENDS)
def test_an_ended_task_cannot_be_cancelled(front: Front, api: Worker, status: str) -> None:
    ended(front, api, status)
    answer = change(api, "t-1", "cancel")
    assert (answer.status, answer.code) == (409, "task_ended")
    assert front.results_sent() == []


@pytest.mark.parametrize(
    "fault",
    [{"sns.publish": "refused"}, {"sns.publish": "die_before"}, {"dynamodb.update_item#2": "die_before"}],
)
def test_a_cancel_that_was_cut_off_is_completed_by_the_next(
    front: Front, api: Worker, fault: dict[str, str]
) -> None:
    submitted(front, api)
    request = event("POST", f"{ONE}/cancel", parameters={"id": "t-1"})
    answer = api.invoke(request, fault)
    assert answer is None or answer["statusCode"] == 502
    assert front.row("t-1").status == "cancelled"
    earlier = front.results_sent()
    assert change(api, "t-1", "cancel").status == 202
    [again] = front.results_sent()
    assert earlier in ([], [again])
    assert change(api, "t-1", "cancel").code == "task_ended"


@pytest.mark.parametrize("status", contract.RETRYABLE_STATUSES)
@pytest.mark.parametrize("size", [1, 60_000, 400_000])
def test_an_ended_task_starts_again_with_its_content(
    front: Front, api: Worker, status: str, size: int
) -> None:
    prompt = noise(size)
    before = ended(front, api, status, prompt=prompt, context=["c"], deadline_seconds=50)
    front.results_sent()
    answer = change(api, "t-1", "retry")
    assert (answer.status, answer.body["status"], answer.body["attempts"]) == (
        202,
        "queued",
        before.attempts + 1,
    )
    [task] = front.tasks_sent()
    assert task["metadata"]["context"] == ["c"]
    if "content_pointer" in task:
        pointer = task["content_pointer"]
        stored = front.s3.get_object(Bucket=pointer["bucket"], Key=pointer["key"])["Body"].read()
        assert json.loads(stored) == {"prompt": prompt}
    else:
        assert task["content"] == {"prompt": prompt}
    row = front.row("t-1")
    assert (row.published, row.finished_at, row.error) == (True, None, None)
    assert change(api, "t-1", "retry").code == "id_conflict"


def test_a_retry_goes_by_the_name_of_the_runtime_whatever_the_task_came_by(front: Front, api: Worker) -> None:
    scripts = {"task": "text-to-image", "sd_model_checkpoint": "V1-5.safetensors", "id_task": "old"}
    call(api, event("POST", "/v1alpha1", {"alwayson_scripts": scripts, "prompt": "x"}))
    change(api, "old", "cancel")
    [first] = front.messages(front.input_queue)
    assert change(api, "old", "retry").status == 202
    [second] = front.messages(front.input_queue)
    assert second["Message"] == first["Message"]
    assert second["MessageAttributes"] == {"runtime": {"Type": "String", "Value": "sdweb"}}


def test_a_task_of_a_removed_runtime_is_not_retried(front: Front, api: Worker) -> None:
    ended(front, api, contract.FAILED)
    front.deregister("sdweb")
    answer = change(front.worker("sdctl_api"), "t-1", "retry")
    assert (answer.status, answer.code) == (409, "task_ended")
    assert "sdweb" in answer.body["error"]["message"]
    assert front.tasks_sent() == []
    assert front.row("t-1").status == "failed"


def test_a_completed_task_is_not_retried(front: Front, api: Worker) -> None:
    ended(front, api, contract.COMPLETED)
    assert change(api, "t-1", "retry").code == "task_ended"


def test_a_task_that_has_not_ended_is_not_retried(front: Front, api: Worker) -> None:
    submitted(front, api)
    assert change(api, "t-1", "retry").code == "id_conflict"
    front.update(task_record.claim_call("t-1", "token", now()))
    answer = change(api, "t-1", "retry")
    assert (answer.status, answer.code) == (409, "id_conflict")
    assert len(front.tasks_sent()) == 1


def test_a_retry_tells_of_the_end_first_where_nobody_has(front: Front, api: Worker) -> None:
    row = ended(front, api, contract.FAILED, notified=False)
    assert change(api, "t-1", "retry").status == 202
    [envelope] = front.messages(front.output_queue)
    assert envelope["Message"] == task_record.result_notification(row)


@pytest.mark.parametrize(
    "fault",
    [{"sns.publish": "refused"}, {"sns.publish": "die_before"}, {"dynamodb.update_item#2": "die_before"}],
)
def test_a_retry_that_was_cut_off_is_completed_by_the_next(
    front: Front, api: Worker, fault: dict[str, str]
) -> None:
    ended(front, api, contract.FAILED)
    api.invoke(event("POST", f"{ONE}/retry", parameters={"id": "t-1"}), fault)
    assert (front.row("t-1").status, front.row("t-1").published) == ("queued", False)
    earlier = front.tasks_sent()
    answer = change(api, "t-1", "retry")
    assert (answer.status, answer.body["attempts"]) == (202, 2)
    [again] = front.tasks_sent()
    assert earlier in ([], [again])
    assert front.row("t-1").published


def test_a_task_whose_content_is_gone_is_not_retried(front: Front, api: Worker) -> None:
    row = ended(front, api, contract.FAILED, prompt=noise(60_000))
    front.s3.delete_object(Bucket=row.body_bucket, Key=row.body_key)
    assert change(api, "t-1", "retry").code == "task_ended"
    assert front.row("t-1").status == "failed"


@pytest.mark.parametrize(
    ("bucket", "key"), [("elsewhere", ".sdctl/tasks/t/x.json"), ("", "output/t/secret.png")]
)
def test_a_pointer_that_is_not_ours_is_not_followed(front: Front, api: Worker, bucket: str, key: str) -> None:
    task = Task(
        "t-1", "sdweb", "text-to-image", {}, route=("runtime", "sdweb"), pointer=(bucket or front.bucket, key)
    )
    ending = Ending("failed", now(), error={"code": "why", "message": "because"})
    front.update(task_record.end_unseen_call(task, ending, submitted_ms=now()))
    assert change(api, "t-1", "retry").code == "task_ended"
    assert "s3.copy_object" not in api.calls


@pytest.mark.parametrize("seen", ["queued", "running"])
def test_a_cancel_that_an_agent_outruns_acts_on_what_is_there(front: Front, api: Worker, seen: str) -> None:
    """The first write meets a state that changed after the read: it reads again."""
    submitted(front, api)
    if seen == "running":
        front.update(task_record.claim_call("t-1", "token", now()))
    refusals = {"dynamodb.update_item#1": "condition"}
    answer = change(api, "t-1", "cancel", refusals)
    assert answer.status == 202
    assert api.calls.count("dynamodb.get_item") == 2


def upload(api: Worker, **fields: object) -> Answer:
    body = {"filename": "cat.png", "content_type": "image/png", "bytes": 4} | fields
    return call(api, event("POST", "/v1alpha2/uploads", {k: v for k, v in body.items() if v is not None}))


def put(
    url: str, body: bytes, content_type: str = "image/png", headers: Mapping[str, str] | None = None
) -> int:
    sent = {"Content-Type": content_type, **(headers or {})}
    request = urllib.request.Request(url, body, sent, method="PUT")
    try:
        with urllib.request.urlopen(request) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_upload_url_takes_the_file(front: Front, api: Worker) -> None:
    answer = upload(api, filename="my cat 猫.png")
    assert (answer.status, set(answer.body)) == (200, {"upload_url", "input_url"})
    assert put(answer.body["upload_url"], b"\x89PNG") == 200
    bucket, _, key = answer.body["input_url"].removeprefix("s3://").partition("/")
    assert (bucket, key.split("/")[:2], key.split("/")[3]) == (
        front.bucket,
        [".sdctl", "uploads"],
        "my_cat_.png",
    )
    stored = front.s3.get_object(Bucket=bucket, Key=key)
    assert (stored["Body"].read(), stored["ContentType"]) == (b"\x89PNG", "image/png")


def test_type_and_size_are_part_of_an_upload_urls_signature(api: Worker) -> None:
    url = upload(api).body["upload_url"]
    signed = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)["X-Amz-SignedHeaders"][0].split(";")
    assert signed == ["content-length", "content-type", "host"]
    assert upload(api).body["input_url"] != upload(api).body["input_url"]


def test_the_same_content_goes_to_the_same_place_and_nothing_else_does(api: Worker) -> None:
    content = b"\x89PNG"
    digest = hashlib.sha256(content)
    first, second = (upload(api, sha256=digest.hexdigest()).body for _ in range(2))
    assert first["input_url"] == second["input_url"]
    checksum = {"x-amz-checksum-sha256": b64encode(digest.digest()).decode()}
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(first["upload_url"]).query)
    assert "x-amz-checksum-sha256" in query["X-Amz-SignedHeaders"][0].split(";")
    assert put(first["upload_url"], content, headers=checksum) == 200
    other = hashlib.sha256(b"other").hexdigest()
    assert upload(api, sha256=other).body["input_url"] != first["input_url"]


@pytest.mark.parametrize(
    ("fields", "paths"),
    [
        ({"sha256": "A" * 64}, ["sha256"]),
        ({"sha256": "../x"}, ["sha256"]),
        ({"sha256": ""}, ["sha256"]),
        ({"sha256": 7, "bytes": 0}, ["bytes", "sha256"]),
        ({"filename": "../x.png"}, ["filename"]),
        ({"filename": "a\\b.png"}, ["filename"]),
        ({"filename": ".."}, ["filename"]),
        ({"filename": ""}, ["filename"]),
        ({"filename": "a\n.png"}, ["filename"]),
        ({"filename": "a" * 256}, ["filename"]),
        ({"filename": 7}, ["filename"]),
        ({"filename": None}, ["filename"]),
        ({"content_type": "text/html"}, ["content_type"]),
        ({"content_type": "image/png\r\nx: y"}, ["content_type"]),
        ({"content_type": "image/*"}, ["content_type"]),
        ({"bytes": 0}, ["bytes"]),
        ({"bytes": 100 * 1024 * 1024 + 1}, ["bytes"]),
        ({"bytes": True}, ["bytes"]),
        ({"bytes": 1.5}, ["bytes"]),
        ({"acl": "public-read", "bytes": "4"}, ["acl", "bytes"]),
    ],
)
def test_a_bad_upload_is_refused(api: Worker, fields: dict[str, object], paths: list[str]) -> None:
    answer = upload(api, **fields)
    assert (answer.status, answer.code, sorted(answer.paths)) == (400, "invalid_task", paths)
