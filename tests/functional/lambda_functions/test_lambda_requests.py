"""What the API refuses, and how: one shape, all problems at once, nothing secret in a log."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from support.lambda_front import CHECKPOINT, Front, Worker, call, event

V2 = "/v1alpha2"
JSON = {"content-type": "application/json"}


def task(metadata: object = None, content: object = None) -> dict[str, object]:
    known = {"id": "t-1", "runtime": "sdweb", "tasktype": "text-to-image"}
    return {
        "task": {
            "metadata": known | metadata if isinstance(metadata, dict) else known,
            "content": {"prompt": "A dog"} if content is None else content,
        }
    }


BAD_BODIES: dict[str, tuple[object, list[str]]] = {
    "not JSON": ("{", [""]),
    "empty": ("", [""]),
    "no body": (None, [""]),
    "a list": ("[]", [""]),
    "NaN": ('{"task": NaN}', [""]),
    "a number without end": ('{"task": 1e999}', [""]),
    "nested without end": ("[" * 100_000, [""]),
    "half a surrogate pair": ('"\\ud800"', [""]),
    "no task": ({}, ["task"]),
    "task is text": ({"task": "x"}, ["task"]),
    "no metadata, no content": ({"task": {}}, ["task/metadata", "task/content"]),
    "id too long": (task({"id": "x" * 65}), ["task/metadata/id"]),
    "id with a path": (task({"id": "../x"}), ["task/metadata/id"]),
    "id with a line end": (task({"id": "x\n"}), ["task/metadata/id"]),
    "prefix upwards": (task({"prefix": "../x"}), ["task/metadata/prefix"]),
    "prefix empty": (task({"prefix": ""}), ["task/metadata/prefix"]),
    "prefix absolute": (task({"prefix": "/x"}), ["task/metadata/prefix"]),
    "our own prefix": (task({"prefix": ".sdctl/tasks"}), ["task/metadata/prefix"]),
    "runtime unknown": (task({"runtime": "nope"}), ["task/metadata/runtime"]),
    "task type unknown": (task({"tasktype": "nope"}), ["task/metadata/tasktype"]),
    "task type of the other runtime": (task({"tasktype": "pipeline"}), ["task/metadata/tasktype"]),
    "webhook": (task({"webhook_url": "https://x"}), ["task/metadata/webhook_url"]),
    "deadline": (task({"deadline_seconds": 0}), ["task/metadata/deadline_seconds"]),
    "context too large": (task({"context": "x" * 17_000}), ["task/metadata/context"]),
    "several": (
        task({"id": "!", "prefix": "a//b", "extra": 1}),
        ["task/metadata/id", "task/metadata/prefix", "task/metadata/extra"],
    ),
}


@pytest.fixture(scope="module")
def shared(lambda_emulator: int, bundles: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One front for what changes nothing."""
    made = Front(lambda_emulator, tmp_path_factory.mktemp("shared"), bundles)
    api = made.worker("sdctl_api")
    call(api, event("GET", "/v1alpha2/tasks"))  # the runtimes are read
    yield made, api
    made.close()


@pytest.fixture
def api(shared: tuple[Front, Worker]) -> Worker:
    return shared[1]


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_task_is_refused_with_every_problem_and_no_call(api: Worker, name: str) -> None:
    body, paths = BAD_BODIES[name]
    answer = call(api, event("POST", V2, body))
    assert (answer.status, answer.code, api.calls) == (400, "invalid_task", [])
    assert sorted(answer.paths) == sorted(paths)
    assert set(answer.body) == {"error"}
    assert set(answer.body["error"]) == {"code", "message", "fields"}
    assert all(entry["message"] for entry in answer.body["error"]["fields"])


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"prompt": "x"}, "alwayson_scripts"),
        (
            {"alwayson_scripts": {"task": "text-to-image", "id_task": "a"}},
            "alwayson_scripts/sd_model_checkpoint",
        ),
        (
            {"alwayson_scripts": {"task": "text-to-image", "id_task": "a", "sd_model_checkpoint": "nope"}},
            "alwayson_scripts/sd_model_checkpoint",
        ),
        (
            {"alwayson_scripts": {"task": "pipeline", "id_task": "a", "sd_model_checkpoint": CHECKPOINT}},
            "alwayson_scripts/task",
        ),
    ],
)
def test_a_bad_legacy_task_is_refused(api: Worker, body: object, path: str) -> None:
    answer = call(api, event("POST", "/v1alpha1", body))
    assert (answer.status, answer.code, answer.paths) == (400, "invalid_task", [path])


def test_a_hundred_thousand_problems_make_an_answer_that_fits(api: Worker) -> None:
    answer = call(api, event("POST", V2, task({f"{'k' * 300}{number}": 1 for number in range(5_000)})))
    assert answer.status == 400
    fields = answer.body["error"]["fields"]
    assert len(fields) == 101
    assert fields[-1]["message"] == "and 4900 more"
    assert all(len(entry["path"]) <= 200 for entry in fields)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]
)
def test_another_media_type_is_not_taken(api: Worker, content_type: str) -> None:
    answer = call(api, event("POST", V2, task(), headers={"Content-Type": content_type}))
    assert (answer.status, answer.code) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "headers", [{}, {"CONTENT-TYPE": "Application/JSON; charset=UTF-8"}, {"content-type": "application/json"}]
)
def test_json_is_taken_whatever_the_case_and_without_a_type(api: Worker, headers: dict[str, str]) -> None:
    assert call(api, event("POST", V2, "{", headers=headers)).code == "invalid_task"


def test_a_base64_body_is_read(api: Worker) -> None:
    request = event("POST", V2, base64.b64encode(json.dumps(task({"id": "狗"})).encode()).decode())
    request["isBase64Encoded"] = True
    assert call(api, request).paths == ["task/metadata/id"]
    request["body"] = "not base64!"
    assert call(api, request).code == "invalid_task"
    request["body"] = base64.b64encode(b"\xff\xfe{}").decode()
    assert "Unicode" in call(api, request).body["error"]["message"]
    request["body"] = base64.b64encode(b" " * (4 * 1024 * 1024 + 1)).decode()
    assert call(api, request).code == "too_large"


@pytest.mark.parametrize(
    ("method", "resource", "path", "allow"),
    [
        ("GET", "/v1alpha2", "/v1alpha2", "POST"),
        ("DELETE", "/v1alpha2/tasks", "/v1alpha2/tasks", "GET"),
        ("PUT", "/v1alpha2/tasks/{id}", "/v1alpha2/tasks/x", "GET"),
        ("GET", "/v1alpha2/tasks/{id}/cancel", "/v1alpha2/tasks/x/cancel", "POST"),
        ("HEAD", "/{proxy+}", "/v1alpha2/uploads/", "POST"),
    ],
)
def test_the_wrong_method_is_told_the_right_one(
    api: Worker, method: str, resource: str, path: str, allow: str
) -> None:
    answer = call(api, event(method, resource, path=path))
    assert (answer.status, answer.code, answer.headers["Allow"]) == (405, "method_not_allowed", allow)


@pytest.mark.parametrize("path", ["/", "/v2", "/v1alpha2/tasks/a/b", "/v1alpha2/tasks/a/cancel/x", "//"])
def test_an_unknown_path_is_not_found(api: Worker, path: str) -> None:
    answer = call(api, event("GET", "/{proxy+}", path=path))
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("path", ["/v1alpha2", "/v1alpha2/"])
def test_the_keyless_catch_all_never_serves_an_operation(api: Worker, path: str) -> None:
    answer = call(api, event("POST", "/{proxy+}", task(), path=path))
    assert (answer.status, answer.code, api.calls) == (404, "not_found", [])


@pytest.mark.parametrize("task_id", ["nope", "../../etc", "a" * 65, "x\ny", "狗", "", "%2e%2e"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("POST", "/cancel"), ("POST", "/retry")])
def test_an_id_that_is_not_there_is_not_found(api: Worker, task_id: str, method: str, suffix: str) -> None:
    answer = call(api, event(method, "/v1alpha2/tasks/{id}" + suffix, parameters={"id": task_id}))
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [("refused", 500, "internal"), ("throttled", 429, "throttled"), ("silent", 500, "internal")],
)
def test_a_failing_table_is_answered_without_its_text(
    api: Worker, fault: str, status: int, code: str
) -> None:
    answer = call(
        api, event("GET", "/v1alpha2/tasks/{id}", parameters={"id": "x"}), {"dynamodb.get_item": fault}
    )
    assert (answer.status, answer.code) == (status, code)
    assert "secret" not in json.dumps(answer.body)


def test_an_event_that_is_none_is_answered_500(api: Worker) -> None:
    answer = api.invoke(["not", "an", "event"])
    assert answer["statusCode"] == 500
    assert json.loads(answer["body"])["error"]["code"] == "internal"


def test_logs_hold_one_line_a_request_and_no_header_key_body_or_error_text(front: Front) -> None:
    api = front.worker("sdctl_api")
    secret = {"x-api-key": "top-secret-key", "content-type": "application/json", "x-note": "secret-header"}
    call(api, event("POST", V2, task(content={"prompt": "secret-prompt"}), headers=secret))
    call(api, event("POST", V2, '{"secret-body', headers=secret))
    call(api, event("POST", V2, task({"id": "secret id"}), headers=secret))
    call(api, event("GET", "/v1alpha2/tasks", query={"cursor": "secret-cursor"}))
    for fault in ("refused", "silent"):
        call(api, event("POST", V2, task({"id": f"t-{fault}"}), headers=secret), {"dynamodb.put_item": fault})
        call(api, event("POST", V2, task({"id": "t-2"}), headers=secret), {"sns.publish": fault})
    api.close()
    assert "secret" not in api.log
    lines = [json.loads(line) for line in api.log.splitlines()]
    assert [line["status"] for line in lines] == [200, 400, 400, 400, 500, 502, 500, 502]
    assert lines[0].items() >= {"action": "request", "route": "POST /v1alpha2", "id": "t-1"}.items()
    assert all(isinstance(line["ms"], float) for line in lines)
    assert [line["id"] for line in lines[1:3]] == ["", ""]
