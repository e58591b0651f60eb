"""Submits through the real zip against the emulator: accepted once, whatever breaks in between."""

from __future__ import annotations

from support.lambda_front import Front, Worker, call, event

V2 = "/v1alpha2"


def t2i(task_id: str | None = "dog-1", prompt: str = "A dog", **metadata: object) -> dict[str, object]:
    named = {} if task_id is None else {"id": task_id}
    return {
        "task": {
            "metadata": {"runtime": "sdweb", "tasktype": "text-to-image", **named, **metadata},
            "content": {"prompt": prompt, "steps": 1},
        }
    }


def test_a_submit_is_answered_and_reaches_the_row_and_the_input_topic(front: Front, api: Worker) -> None:
    answer = call(api, event("POST", V2, t2i(prefix="a/b/", context={"k": ["v"]})))
    assert (answer.status, answer.body) == (
        200,
        {
            "id_task": "dog-1",
            "id": "dog-1",
            "runtime": "sdweb",
            "status": "queued",
            "output_location": f"s3://{front.bucket}/a/b/dog-1",
            "replayed": False,
        },
    )
    [envelope] = front.messages(front.input_queue)
    assert envelope["MessageAttributes"] == {"runtime": {"Type": "String", "Value": "sdweb"}}
    item = front.item("dog-1")
    assert item is not None
    assert item["published"] == {"BOOL": True}
    read = call(api, event("GET", "/v1alpha2/tasks/{id}", parameters={"id": "dog-1"}))
    assert (read.status, read.body["status"], read.body["image_links"]) == (200, "queued", [])
