"""Submits through the real zip against the emulator: accepted once, whatever breaks in between."""

from __future__ import annotations

import json
import random

import pytest

from sdctl import contract, task_record
from support.lambda_front import CHECKPOINT, Front, Worker, call, event

V1, V2 = "/v1alpha1", "/v1alpha2"


def t2i(
    task_id: str | None = "dog-1", prompt: str = "A dog", runtime: str = "sdweb", **metadata: object
) -> dict[str, object]:
    named = {} if task_id is None else {"id": task_id}
    return {
        "task": {
            "metadata": {"runtime": runtime, "tasktype": "text-to-image", **named, **metadata},
            "content": {"prompt": prompt, "steps": 1},
        }
    }


def legacy(**scripts: object) -> dict[str, object]:
    known = {"task": "text-to-image", "sd_model_checkpoint": CHECKPOINT, "id_task": "old-1", **scripts}
    return {"alwayson_scripts": known, "prompt": "A dog"}


def submit(body: object) -> dict[str, object]:
    return event("POST", V2, body)


def noise(size: int) -> str:
    """Make text that compresses to half at best, the same in every run."""
    return random.Random(7).randbytes(size // 2 + 1).hex()[:size]


def test_a_submit_reaches_the_row_and_the_input_topic(front: Front, api: Worker) -> None:
    answer = call(api, submit(t2i(runtime="SDWeb", prefix="a/b/", context={"k": ["v"]})))
    assert answer.status == 200
    assert answer.body == {
        "id_task": "dog-1",
        "id": "dog-1",
        "runtime": "sdweb",
        "status": "queued",
        "output_location": f"s3://{front.bucket}/a/b/dog-1",
        "replayed": False,
    }
    assert answer.headers["Content-Type"] == "application/json"
    [envelope] = front.messages(front.input_queue)
    assert envelope["MessageAttributes"] == {"runtime": {"Type": "String", "Value": "sdweb"}}
    assert json.loads(envelope["Message"]) == {
        "metadata": {
            "id": "dog-1",
            "runtime": "sdweb",
            "tasktype": "text-to-image",
            "prefix": "a/b",
            "context": {"k": ["v"]},
        },
        "content": {"prompt": "A dog", "steps": 1},
    }
    row = front.row("dog-1")
    assert (row.status, row.published, row.attempts) == ("queued", True, 0)


def test_a_small_task_makes_neither_an_s3_client_nor_a_call_for_the_list_of_runtimes(api: Worker) -> None:
    call(api, submit(t2i("first")))
    call(api, submit(t2i("second")))
    assert api.calls == ["dynamodb.put_item", "sns.publish", "dynamodb.update_item"]


def test_a_legacy_submit_answers_in_its_own_shape_and_routes_by_checkpoint(front: Front, api: Worker) -> None:
    body = legacy(image_link="https://example.com/a.png")
    answer = call(api, event("POST", V1, body))
    assert (answer.status, answer.body) == (
        200,
        {
            "id_task": "old-1",
            "sd_model_checkpoint": CHECKPOINT,
            "output_location": f"s3://{front.bucket}/outputs/old-1",
        },
    )
    [envelope] = front.messages(front.input_queue)
    assert envelope["MessageAttributes"] == {"sd_model_checkpoint": {"Type": "String", "Value": CHECKPOINT}}
    assert json.loads(envelope["Message"])["content"] == {
        "alwayson_scripts": {"sd_model_checkpoint": CHECKPOINT},
        "prompt": "A dog",
        "init_images": ["https://example.com/a.png"],
    }


def test_an_id_is_made_where_none_is_given(front: Front, api: Worker) -> None:
    ids = {str(call(api, submit(t2i(None))).body["id"]) for _ in range(2)}
    assert len(ids) == 2
    assert all(contract.ID_PATTERN.fullmatch(task_id) for task_id in ids)
    assert {task["metadata"]["id"] for task in front.tasks_sent()} == ids


def test_unicode_reaches_the_message_untouched(front: Front, api: Worker) -> None:
    prompt = "一只狗 🐕 \u202e \x00 é"
    assert call(api, submit(t2i(prompt=prompt, context="ключ"))).status == 200
    [task] = front.tasks_sent()
    assert (task["content"]["prompt"], task["metadata"]["context"]) == (prompt, "ключ")


def test_the_same_submit_again_starts_nothing(front: Front, api: Worker) -> None:
    first = call(api, submit(t2i()))
    again = call(api, submit(t2i()))
    assert (again.status, again.body) == (200, first.body | {"replayed": True})
    assert len(front.tasks_sent()) == 1


def test_a_replay_says_what_became_of_the_task(front: Front, api: Worker) -> None:
    call(api, submit(t2i()))
    front.update(task_record.claim_call("dog-1", "token", front.row("dog-1").submitted_at + 5))
    assert call(api, submit(t2i())).body["status"] == "running"


@pytest.mark.parametrize(
    "other", [t2i(prompt="A cat"), t2i(prefix="elsewhere"), t2i(context=1), t2i(deadline_seconds=60)]
)
def test_the_same_id_with_another_content_is_a_conflict(
    front: Front, api: Worker, other: dict[str, object]
) -> None:
    call(api, submit(t2i()))
    answer = call(api, submit(other))
    assert (answer.status, answer.code) == (409, "id_conflict")
    assert len(front.tasks_sent()) == 1


@pytest.mark.parametrize("fault", ["refused", "throttled", "silent"])
def test_a_task_that_sns_does_not_take_is_kept_and_published_by_a_replay(
    front: Front, api: Worker, fault: str
) -> None:
    answer = call(api, submit(t2i()), {"sns.publish": fault})
    assert (answer.status, answer.code) == (502, "queue_unavailable")
    assert "dog-1" in answer.body["error"]["message"]
    assert front.row("dog-1").published is False
    front.tasks_sent()
    again = call(api, submit(t2i()))
    assert (again.status, again.body["replayed"]) == (200, True)
    assert len(front.tasks_sent()) == 1
    assert front.row("dog-1").published is True


POINTS = ("s3.put_object", "dynamodb.put_item", "sns.publish", "dynamodb.update_item")


@pytest.mark.parametrize("moment", ["die_before", "die_after"])
@pytest.mark.parametrize(
    ("point", "prompt"),
    [(point, "A dog") for point in POINTS[1:]] + [(point, noise(60_000)) for point in POINTS],
    ids=[f"{point}-small" for point in POINTS[1:]] + [f"{point}-large" for point in POINTS],
)
def test_a_crash_at_any_call_loses_nothing(
    front: Front, api: Worker, prompt: str, point: str, moment: str
) -> None:
    body = t2i(prompt=prompt)
    assert api.invoke(submit(body), {point: moment}) is None
    answer = call(api, submit(body))
    assert (answer.status, answer.body["status"]) == (200, "queued")
    sent = front.tasks_sent()
    # Twice only where the message was sent and its record was not: the agent's claim tells them apart.
    is_doubtful = (point, moment) in {("sns.publish", "die_after"), ("dynamodb.update_item", "die_before")}
    assert len(sent) == (2 if is_doubtful else 1)
    assert all(task == sent[0] for task in sent)
    row = front.row("dog-1")
    assert (row.status, row.published) == ("queued", True)


def test_two_submits_at_once_both_succeed_and_one_row_is_made(front: Front) -> None:
    workers = [front.worker("sdctl_api") for _ in range(2)]
    for worker in workers:
        call(worker, event("GET", "/v1alpha2/tasks"))  # both are warm
    for round_number in range(5):
        for worker in workers:
            worker.send(submit(t2i(f"twin-{round_number}")))
        answers = [worker.receive() for worker in workers]
        assert [answer["statusCode"] for answer in answers] == [200, 200]
        replayed = sorted(json.loads(answer["body"])["replayed"] for answer in answers)
        assert replayed == [False, True]
        sent = front.tasks_sent()
        assert len(sent) in (1, 2)
        assert all(task == sent[0] for task in sent)


def test_a_large_content_travels_by_pointer(front: Front, api: Worker) -> None:
    prompt = noise(1_000_000)
    assert call(api, submit(t2i(prompt=prompt, context={"a": 1}))).status == 200
    [task] = front.tasks_sent()
    assert "content" not in task
    assert task["metadata"]["context"] == {"a": 1}
    pointer = task["content_pointer"]
    assert (pointer["bucket"], pointer["key"].rsplit("/", 1)[0]) == (front.bucket, ".sdctl/tasks/dog-1")
    stored = front.s3.get_object(Bucket=pointer["bucket"], Key=pointer["key"])["Body"].read()
    assert json.loads(stored) == {"prompt": prompt, "steps": 1}


def test_a_content_that_compresses_well_still_travels_by_pointer(front: Front, api: Worker) -> None:
    call(api, submit(t2i(prompt="a" * 300_000)))
    assert "content_pointer" in front.tasks_sent()[0]


def test_a_middling_content_is_kept_in_s3_and_travels_in_the_message(front: Front, api: Worker) -> None:
    call(api, submit(t2i(prompt=noise(50_000))))
    [task] = front.tasks_sent()
    assert len(task["content"]["prompt"]) == 50_000
    row = front.row("dog-1")
    assert (row.body, bool(row.body_key)) == (b"", True)


def _body_of(size_bytes: int) -> str:
    text = json.dumps(t2i(prompt=""))
    return text.replace('"prompt": ""', f'"prompt": "{"a" * (size_bytes - len(text))}"')


def test_four_mebibytes_are_taken_and_one_byte_more_is_not(front: Front, api: Worker) -> None:
    body = _body_of(contract.MAX_BODY_BYTES)
    assert len(body) == contract.MAX_BODY_BYTES
    answer = call(api, submit(body + " "))
    assert (answer.status, answer.code) == (413, "too_large")
    assert api.calls == []
    assert call(api, submit(body)).status == 200


def test_a_seven_megabyte_body_is_too_large_before_it_is_read(api: Worker) -> None:
    answer = call(api, submit("{" * 7_000_000))
    assert (answer.status, answer.code) == (413, "too_large")


def test_multi_byte_text_is_measured_in_bytes(api: Worker) -> None:
    assert call(api, submit("狗" * (contract.MAX_BODY_BYTES // 3 + 1))).code == "too_large"


def test_a_dynamic_runtime_knows_what_the_model_bucket_holds(front: Front, api: Worker) -> None:
    front.s3.put_object(Bucket=front.model_bucket, Key="Stable-diffusion/xl/Turbo.safetensors", Body=b"x")
    front.s3.put_object(Bucket=front.model_bucket, Key="Lora/other.safetensors", Body=b"x")

    def asking(name: str, task_id: str) -> dict[str, object]:
        body = t2i(task_id, runtime="dyn")
        body["task"]["content"]["override_settings"] = {"sd_model_checkpoint": name}  # type: ignore[index]
        return submit(body)

    assert call(api, asking("turbo", "m-1")).status == 200
    assert api.calls[:2] == ["ssm.get_parameters_by_path", "s3.list_objects_v2"]
    assert call(api, asking("Turbo.safetensors [0123456789]", "m-2")).status == 200
    assert "s3.list_objects_v2" not in api.calls
    assert call(api, asking(contract.DEFAULT_CHECKPOINT, "m-3")).status == 200
    refused = call(api, asking("other.safetensors", "m-4"))
    assert (refused.status, refused.code) == (400, "invalid_task")
    assert refused.paths == ["task/content/override_settings/sd_model_checkpoint"]
    assert "xl/Turbo.safetensors" in refused.body["error"]["fields"][0]["message"]


def test_a_static_runtime_knows_its_own_checkpoint_only(api: Worker) -> None:
    body = t2i()
    body["task"]["content"]["alwayson_scripts"] = {"sd_model_checkpoint": "other"}  # type: ignore[index]
    refused = call(api, submit(body))
    assert (refused.code, api.calls) == ("invalid_task", ["ssm.get_parameters_by_path"])
    assert CHECKPOINT in refused.body["error"]["message"]


@pytest.mark.parametrize(
    ("fault", "status", "code"), [("throttled", 429, "throttled"), ("refused", 500, "internal")]
)
def test_no_task_is_refused_for_a_list_of_runtimes_that_could_not_be_read(
    api: Worker, fault: str, status: int, code: str
) -> None:
    for body in (t2i(runtime="nobody"), t2i()):
        failed = call(api, submit(body), {"ssm.get_parameters_by_path": fault})
        assert (failed.status, failed.code) == (status, code)
    assert call(api, submit(t2i())).status == 200
    # What is known goes on working without the list.
    assert call(api, submit(t2i("again")), {"ssm.get_parameters_by_path": fault}).status == 200
