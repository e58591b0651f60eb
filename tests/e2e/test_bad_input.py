"""Bad input through the real front door: a clear error or a failed result, nothing lost, no secret logged."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.farm import Farm


def t2i(**changes: Any) -> dict[str, Any]:
    metadata = {"id": "bad", "runtime": "sdruntime", "tasktype": "text-to-image", **changes}
    return {"metadata": metadata, "content": {"prompt": "x", "steps": 1}}


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"hello", ""), (b"", ""), (b"[1]", ""), (b'{"a": NaN}', ""), (b"\xff\xfe", ""), (b"[" * 5000, ""),
        (b'{"task": null}', "task"), (b'{"task": {"metadata": {}}}', "task/metadata/runtime"),
    ],
)  # fmt: skip
def test_what_is_no_task_is_refused(farm: Farm, raw: bytes, path: str) -> None:
    answer = farm.call("POST", "v1alpha2", raw=raw)
    assert (answer.status, answer.body["error"]["code"]) == (400, "invalid_task")
    assert path in answer.fields()


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"id": "x" * 65}, "task/metadata/id"), ({"prefix": "../a"}, "task/metadata/prefix"),
        ({"runtime": "nobody"}, "task/metadata/runtime"),
        ({"tasktype": "text-to-video"}, "task/metadata/tasktype"),
        ({"tasktype": "pipeline"}, "task/metadata/tasktype"), ({"prefix": ""}, "task/metadata/prefix"),
        ({"runtime": "comfy"}, "task/metadata/tasktype"),
    ],
)  # fmt: skip
def test_a_bad_field_is_named(farm: Farm, changes: dict[str, Any], path: str) -> None:
    answer = farm.submit(t2i(**changes))
    assert answer.status == 400
    assert list(answer.fields()) == [path]


def test_an_unknown_checkpoint_is_refused_with_the_known_ones(farm: Farm) -> None:
    for runtime in ("sdruntime", "dynamic"):
        task = t2i(runtime=runtime)
        task["content"]["override_settings"] = {"sd_model_checkpoint": "nowhere.safetensors"}
        answer = farm.submit(task)
        assert answer.status == 400
        (message,) = answer.fields().values()
        assert "nowhere.safetensors" in message
        assert ".safetensors" in message.split("known:")[1]


def test_a_body_of_seven_megabytes_is_too_large(farm: Farm) -> None:
    task = t2i()
    task["content"]["comment"] = "x" * 7_000_000
    answer = farm.submit(task)
    assert (answer.status, answer.body["error"]["code"]) == (413, "too_large")


def test_an_id_used_again_is_a_replay_with_the_same_content_and_a_conflict_with_other(farm: Farm) -> None:
    task = t2i(id="again")
    assert farm.submit(task).body["replayed"] is False
    assert farm.submit(task).body["replayed"] is True
    task["content"]["prompt"] = "other"
    answer = farm.submit(task)
    assert (answer.status, answer.body["error"]["code"]) == (409, "id_conflict")


@pytest.mark.parametrize("key", [None, "wrong-key-wrong-key-wrong"])
@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "v1alpha2"), ("POST", "v1alpha1"), ("GET", "v1alpha2/tasks/x"), ("GET", "v1alpha2/tasks")],
)
def test_no_key_or_a_wrong_one_is_unauthorized(farm: Farm, key: str | None, method: str, path: str) -> None:
    answer = farm.call(method, path, t2i() if method == "POST" else None, key=key)
    assert (answer.status, answer.body["error"]["code"]) == (401, "unauthorized")
    assert answer.body["error"]["fields"] == []


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "v1alpha2/tasks/unknown", 404, "not_found"), ("GET", "nowhere", 404, "not_found"),
        ("GET", "", 404, "not_found"), ("DELETE", "v1alpha2", 405, "method_not_allowed"),
        ("GET", "v1alpha1", 405, "method_not_allowed"),
        ("PUT", "v1alpha2/tasks/x/cancel", 405, "method_not_allowed"),
    ],
)  # fmt: skip
def test_unknown_paths_and_methods_are_told_apart(
    farm: Farm, method: str, path: str, status: int, code: str
) -> None:
    answer = farm.call(method, path)
    assert (answer.status, answer.body["error"]["code"]) == (status, code)


def test_another_media_type_is_refused(farm: Farm) -> None:
    answer = farm.call("POST", "v1alpha2", t2i(), headers={"content-type": "text/plain"})
    assert (answer.status, answer.body["error"]["code"]) == (415, "unsupported_media_type")


def test_a_prompt_that_starts_with_http_is_only_a_prompt(farm: Farm, web: Web) -> None:
    task = t2i(id="http-prompt")
    task["content"]["prompt"] = f"{web.url}/prompt"
    assert farm.submit(task).status == 200
    assert farm.ended("http-prompt")["status"] == "completed"
    assert web.paths == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:{port}/cat.png", "http://localhost:{port}/cat.png", "http://169.254.169.254/latest/meta-data/",
        "http://10.0.0.1/cat.png", "http://[::1]:{port}/cat.png", "http://0x7f000001:{port}/cat.png",
        "s3://somebody-elses-bucket/cat.png", "https://images.invalid/cat.png",
    ],
)  # fmt: skip
def test_an_input_from_where_none_may_come_ends_failed_with_the_reason(
    farm: Farm, web: Web, url: str
) -> None:
    task = t2i(tasktype="image-to-image")
    del task["metadata"]["id"]
    task["content"]["init_images"] = [url.format(port=web.port)]
    task_id = farm.submit(task).body["id"]
    ended = farm.ended(task_id, timeout_seconds=90)
    assert ended["status"] == "failed"
    assert ended["error"]["code"].startswith("input_")
    assert ended["error"]["message"]
    assert web.paths == []


def test_an_input_that_is_missing_ends_failed_at_once(farm: Farm) -> None:
    task = t2i(id="missing-input", tasktype="image-to-image")
    task["content"]["init_images"] = [f"s3://{farm.outputs['OutputS3Bucket']}/.sdctl/uploads/none.png"]
    assert farm.submit(task).status == 200
    ended = farm.ended("missing-input")
    assert (ended["status"], ended["attempts"]) == ("failed", 1)


@pytest.mark.parametrize(
    ("name", "code"),
    [("none.png", "input_unreachable"), ("huge.png", "input_too_large"), ("endless.png", "input_too_large")],
)
def test_an_allowed_input_that_is_missing_or_without_end_ends_failed(
    farm: Farm, images_url: str, name: str, code: str
) -> None:
    task = t2i(id=f"allowed-{name.partition('.')[0]}", tasktype="image-to-image")
    task["content"]["init_images"] = [f"{images_url}/{name}"]
    assert farm.submit(task).status == 200
    ended = farm.ended(task["metadata"]["id"])
    assert (ended["status"], ended["error"]["code"], ended["attempts"]) == ("failed", code, 1)
    (agent,) = [child for child in farm.status()["children"] if child["name"] == "agent-sdruntime"]
    assert peak_memory_mb(agent["pid"]) < 300


def peak_memory_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no peak memory")


class Web:
    """A web server on loopback, which no input may be fetched from; notes what was asked."""

    def __init__(self) -> None:
        paths = self.paths = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                paths.append(self.path)
                self.send_error(404)

            def log_message(self, *arguments: object) -> None:
                """Stay quiet."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def web() -> Iterator[Web]:
    web = Web()
    yield web
    web.server.shutdown()
    web.server.server_close()


def test_nothing_secret_is_logged(farm: Farm) -> None:
    """Runs last in this file: the key and a prompt were sent many times by now."""
    marker = "prompt-that-must-not-be-logged"
    task = t2i(id="quiet")
    task["content"]["prompt"] = marker
    assert farm.submit(task).status == 200
    farm.ended("quiet")
    logs = [path for path in farm.home.rglob("*") if path.is_file() and path.suffix in (".log", ".jsonl")]
    assert logs
    for path in logs:
        text = path.read_text(errors="replace")
        assert farm.key not in text, path
        assert marker not in text, path
    groups = farm.client("logs").describe_log_groups()["logGroups"]
    events = [
        event["message"]
        for group in groups
        for event in farm.client("logs").filter_log_events(logGroupName=group["logGroupName"])["events"]
    ]
    assert farm.key not in json.dumps(events)
    assert marker not in json.dumps(events)
