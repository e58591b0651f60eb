"""`submit`, `watch`, `tasks`, `verify` against a real server that behaves like the task API."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdctl.deployments import Deployment, Deployments
from support.cli import Ran, run
from support.task_api_server import KEY, TaskApiServer, failure, png, running_server

TASK_FIELDS = {
    "id", "runtime", "tasktype", "status", "progress", "attempts", "submitted_at", "started_at",
    "finished_at", "image_url", "output_url", "context", "error", "files",
}  # fmt: skip
WORKFLOW = {
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64}},
    "10": {"class_type": "LoadImage", "inputs": {"image": "a.png"}, "_meta": {"title": "Photo"}},
    "11": {"class_type": "LoadVideo", "inputs": {"file": "a.mp4"}},
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TaskApiServer]:
    monkeypatch.chdir(tmp_path)
    with running_server() as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


def sent(server: TaskApiServer) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return metadata and content of the last submit."""
    task = server.bodies[-1]["task"]
    return task["metadata"], task["content"]


def test_t2i_sends_every_field_by_sd_webuis_name(server: TaskApiServer) -> None:
    words = [
        "--negative-prompt",
        "cat",
        "--size",
        "256x320",
        "--steps",
        "16",
        "--seed",
        "7",
        "--cfg-scale",
        "6.5",
        "--sampler",
        "DDIM",
        "--scheduler",
        "Karras",
        "--batch-size",
        "2",
        "--batches",
        "3",
        "--checkpoint",
        "v.safetensors",
        "--id",
        "my-id",
        "--prefix",
        "a/b",
        "--deadline",
        "10m",
        "--context",
        '{"a":[1]}',
        "--set",
        "override_settings.CLIP_stop_at_last_layers=2",
        "--set",
        "styles[0]=anime",
    ]
    ran = run("submit", "t2i", "A dog", *words, "-o", "json")
    assert ran.document == {
        "id": "my-id", "runtime": "sdruntime", "status": "queued", "output_location": "s3://bucket/a/b/my-id",
    }  # fmt: skip
    metadata, content = sent(server)
    assert metadata == {
        "id": "my-id", "runtime": "sdruntime", "tasktype": "text-to-image", "prefix": "a/b",
        "context": {"a": [1]}, "deadline_seconds": 600,
    }  # fmt: skip
    assert content == {
        "alwayson_scripts": {"sd_model_checkpoint": "v.safetensors"}, "prompt": "A dog",
        "negative_prompt": "cat", "width": 256, "height": 320, "steps": 16, "seed": 7, "cfg_scale": 6.5,
        "sampler_name": "DDIM", "scheduler": "Karras", "batch_size": 2, "n_iter": 3,
        "override_settings": {"CLIP_stop_at_last_layers": 2}, "styles": ["anime"],
    }  # fmt: skip


def test_what_is_not_given_is_left_to_the_runtime(server: TaskApiServer) -> None:
    ran = run("submit", "t2i", "https://a.prompt/that/looks/like/a/url")
    metadata, content = sent(server)
    assert content == {"alwayson_scripts": {}, "prompt": "https://a.prompt/that/looks/like/a/url"}
    assert ran.stdout == f"{metadata['id']}\n"
    assert re.fullmatch("[0-9a-f]{32}", metadata["id"])
    assert f"sdctl watch {metadata['id']}" in ran.stderr


def test_the_key_goes_in_its_header_alone(server: TaskApiServer) -> None:
    ran = run("submit", "t2i", "x", "--verbose")
    method, path, headers = server.requests[0]
    assert (method, path, headers["x-api-key"]) == ("POST", "/prod/v1alpha2", KEY)
    assert KEY not in ran.stdout + ran.stderr


def test_i2i_uploads_a_local_file_and_passes_addresses_on(server: TaskApiServer, tmp_path: Path) -> None:
    (tmp_path / "my cat.png").write_bytes(png(8, 8))
    assert run("submit", "i2i", "my cat.png", "x", "--strength", "0.5", "--mask", "s3://b/mask.png").code == 0
    _, content = sent(server)
    (key,) = server.objects
    assert server.objects[key] == png(8, 8)
    assert content["init_images"] == [f"s3://bucket/{key}"]
    assert (content["mask"], content["denoising_strength"]) == ("s3://b/mask.png", 0.5)
    put = next(headers for method, _, headers in server.requests if method == "PUT")
    assert (put["content-type"], put["content-length"]) == ("image/png", str(len(png(8, 8))))
    assert "x-api-key" not in put
    run("submit", "i2i", "https://example.com/cat.png", "x")
    assert sent(server)[1]["init_images"] == ["https://example.com/cat.png"]


def test_the_same_file_under_the_same_id_is_the_same_task(server: TaskApiServer, tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(png(8, 8))
    assert run("submit", "i2i", "cat.png", "x", "--id", "a").code == 0
    again = run("submit", "i2i", "cat.png", "x", "--id", "a")
    assert (again.code, "submitted before" in again.stderr) == (0, True)
    first, second = (body for body in server.bodies if "task" in body)
    assert first == second
    (tmp_path / "cat.png").write_bytes(png(16, 16))
    run("submit", "i2i", "cat.png", "x", "--id", "a")
    assert server.bodies[-1] != first


def test_upscale_by_factor_and_to_a_size(server: TaskApiServer) -> None:
    run("submit", "upscale", "s3://b/a.png", "--scale", "3", "--upscaler", "Lanczos")
    assert sent(server)[1] == {
        "image": "s3://b/a.png", "upscaler_1": "Lanczos", "resize_mode": 0, "upscaling_resize": 3.0,
    }  # fmt: skip
    run("submit", "upscale", "s3://b/a.png", "--size", "100x200")
    assert sent(server)[1] == {
        "image": "s3://b/a.png", "upscaler_1": "R-ESRGAN 4x+", "resize_mode": 1, "upscaling_resize_w": 100,
        "upscaling_resize_h": 200, "upscaling_crop": False,
    }  # fmt: skip


def test_pipeline_takes_the_runtime_that_fits_and_inputs_by_id_or_title(
    server: TaskApiServer, tmp_path: Path
) -> None:
    (tmp_path / "sdctl.yaml").write_text(
        "modelsRuntime:\n- {name: sdruntime, namespace: a, type: sdwebui}\n"
        "- {name: comfy, namespace: b, type: comfyui}\n"
    )
    (tmp_path / "wf.json").write_text(json.dumps(WORKFLOW))
    (tmp_path / "in.png").write_bytes(png(4, 4))
    ran = run(
        "submit", "pipeline", "wf.json", "--image", "Photo=in.png", "--image", "11=https://e.com/v.mp4",
        "--set", "5.inputs.width=128",
    )  # fmt: skip
    assert (ran.code, ran.stderr.partition(";")[0]) == (0, "queued on comfy")
    metadata, content = sent(server)
    assert metadata["tasktype"] == "pipeline"
    assert content["10"]["inputs"]["image"].startswith("s3://bucket/.sdctl/uploads/")
    assert content["11"]["inputs"]["file"] == "https://e.com/v.mp4"
    assert content["5"]["inputs"]["width"] == 128


def test_a_workflow_in_ui_format_is_refused_with_the_way_to_export_it(
    tmp_path: Path, server: TaskApiServer
) -> None:
    (tmp_path / "ui.json").write_text(json.dumps({"nodes": [{"id": 1}], "links": []}))
    ran = run("submit", "pipeline", "ui.json")
    assert ran.code == 3
    assert "UI format" in ran.stderr
    assert "Export (API)" in ran.stderr
    assert server.bodies == []


def test_raw_takes_both_versions_and_stdin(server: TaskApiServer, tmp_path: Path) -> None:
    old = {
        "alwayson_scripts": {"task": "text-to-image", "sd_model_checkpoint": "v1-5.safetensors"},
        "prompt": "x",
    }
    ran = run("submit", "raw", "-", "--id", "old-1", "-o", "json", stdin=json.dumps(old))
    assert ran.document == {
        "id": "old-1", "runtime": "sdruntime", "status": "queued", "output_location": "s3://bucket/outputs/old-1",
    }  # fmt: skip
    new = {"task": {"metadata": {"id": "n", "runtime": "comfy", "tasktype": "pipeline"}, "content": WORKFLOW}}
    (tmp_path / "body.json").write_text(json.dumps(new), encoding="utf-8-sig")
    ran = run("submit", "raw", "body.json", "--prefix", "p", "-o", "json")
    assert ran.document["output_location"] == "s3://bucket/p/n"


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["t2i", "x", "--size", "big"], 2),
        (["t2i", "x", "--size", "1x1", "--width", "2"], 2),
        (["t2i", "x", "--set", "novalue"], 2),
        (["t2i", "x", "--set", "a[5]=1"], 2),
        (["t2i", "x", "--timeout", "soon"], 2),
        (["t2i", "x", "--via", "mail"], 2),
        (["t2i"], 2),
        (["i2i", "text.png", "x"], 2),
        (["i2i", ".", "x"], 2),
        (["i2i", "none.png", "x"], 4),
        (["pipeline", "none.json"], 4),
        (["pipeline", "text.png"], 3),
        (["pipeline", "wf.json", "--image", "Nobody=s3://b/a.png"], 4),
        (["raw", "wf.json"], 3),
        (["t2i", "x", "--context", "@text.png"], 3),
        (["t2i", "x", "--runtime", "nope", "--prefix", "../x"], 5),
    ],
)
def test_what_is_wrong_is_told_with_its_exit_code(
    words: list[str], code: int, server: TaskApiServer, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "wf.json").write_text(json.dumps(WORKFLOW))
    text, as_json = run("submit", *words), run("submit", *words, "-o", "json")
    assert (text.code, text.stdout, as_json.code, as_json.stdout) == (code, "", code, "")
    assert "Error: " in text.stderr
    assert set(as_json.error) == {"code", "message", "hint"}
    assert server.tasks == {}


def test_all_problems_of_a_task_are_printed(server: TaskApiServer) -> None:
    message = run(
        "submit", "t2i", "x", "--runtime", "nope", "--prefix", "../x", "--id", "a b", "-o", "json"
    ).error
    assert message["code"] == "invalid_task"
    for path in ("metadata/runtime", "metadata/prefix", "metadata/id"):
        assert path in message["message"]


def test_a_model_that_is_not_there_is_answered_with_the_command_that_brings_it(server: TaskApiServer) -> None:
    refusal = 'task/content/override_settings/sd_model_checkpoint: unknown checkpoint "my xl.safetensors"'
    server.answers.append(lambda handler: handler.reply(400, failure("invalid_task", refusal)))
    ran = run("submit", "t2i", "A dog", "--checkpoint", "my xl.safetensors")
    assert ran.code == 5
    assert "Hint: sdctl models upload 'my xl.safetensors' --to Stable-diffusion; " in ran.stderr
    assert "dynamicModel: true" in ran.stderr


def test_the_same_id_again_is_a_replay_and_with_other_content_a_conflict(server: TaskApiServer) -> None:
    assert run("submit", "t2i", "x", "--id", "one").code == 0
    again = run("submit", "t2i", "x", "--id", "one")
    assert (again.code, "nothing new was started" in again.stderr) == (0, True)
    other = run("submit", "t2i", "y", "--id", "one", "-o", "json")
    assert (other.code, other.error["code"]) == (8, "id_conflict")


def test_waiting_ends_with_the_task_object_and_its_stored_files(
    server: TaskApiServer, tmp_path: Path
) -> None:
    ran = run("submit", "t2i", "x", "--size", "32x16", "--download", "out", "-o", "json")
    task = ran.document
    assert (ran.code, set(task), task["status"], task["progress"]) == (0, TASK_FIELDS, "completed", 1)
    assert task["files"] == [str(Path("out") / f"{task['id']}-0a1b-1.png")]
    assert Path(task["files"][0]).read_bytes() == png(32, 16)
    assert list((tmp_path / "out").iterdir()) == [tmp_path / task["files"][0]]


def test_waiting_as_text_says_where_the_picture_is(server: TaskApiServer) -> None:
    ran = run("submit", "t2i", "x", "--wait", "--id", "dog")
    assert ran.stdout == "dog  completed\n  s3://bucket/output/dog/dog-0a1b-1.png\n"
    assert ran.stderr == "dog  running\ndog  completed\n"


@pytest.mark.parametrize("status", ["failed", "cancelled", "expired"])
def test_an_end_other_than_completed_leaves_with_9_and_the_reason(status: str, server: TaskApiServer) -> None:
    server.script = [{"status": status, "error": {"code": "oom", "message": "out of memory", "node": "3"}}]
    ran = run("submit", "t2i", "x", "--wait", "-o", "json")
    assert (ran.code, ran.document["status"]) == (9, status)
    assert (ran.error["code"], ran.error["message"].endswith("out of memory (node 3)")) == (
        "task_failed",
        True,
    )
    watched = run("watch", ran.document["id"])
    assert (watched.code, "out of memory" in watched.stdout) == (9, True)


def test_a_wait_that_is_over_leaves_with_7_and_says_how_to_go_on(server: TaskApiServer) -> None:
    server.script = []
    ran = run("submit", "t2i", "x", "--id", "slow", "--wait", "--timeout", "0.3", "-o", "json")
    assert (ran.code, ran.stdout, ran.error["code"]) == (7, "", "wait_timeout")
    assert "slow queued" in ran.error["message"]
    assert "sdctl watch slow" in ran.error["hint"]


def test_watch_streams_one_object_a_change(server: TaskApiServer) -> None:
    server.script = [{"status": "running", "progress": 0.25}, {}, {"progress": 0.75}, {"status": "completed"}]
    server.add("a")
    ran = run("watch", "a", "-o", "json", "--download", "out")
    tasks = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(task["status"], task["progress"]) for task in tasks] == [
        ("running", 0.25), ("running", 0.75), ("completed", 1),
    ]  # fmt: skip
    assert all(set(task) == TASK_FIELDS for task in tasks)
    assert [len(task["files"]) for task in tasks] == [0, 0, 1]


def test_watch_follows_several_tasks_and_names_the_failed_one(server: TaskApiServer) -> None:
    server.add("a")
    server.add("b", status="failed", error={"code": "x", "message": "boom"})
    ran = run("watch", "a", "b", "a")
    assert ran.code == 9
    assert "a  completed" in ran.stdout
    assert "b is failed: boom" in ran.stderr
    assert "is completed" not in ran.stderr


def test_watch_of_an_unknown_task_leaves_with_4(server: TaskApiServer) -> None:
    assert run("watch", "none").code == 4
    assert run("watch", "../../../secrets").code == 4
    assert [path for _, path, _ in server.requests] == ["/prod/v1alpha2/tasks/none"]


def test_tasks_list_filters_and_pages(server: TaskApiServer) -> None:
    for number in range(5):
        server.add(f"t{number}", status="failed" if number % 2 else "completed")
    assert [task["id"] for task in run("tasks", "list", "-o", "json").document["tasks"]] == [
        "t4", "t3", "t2", "t1", "t0",
    ]  # fmt: skip
    ran = run("tasks", "list", "--status", "completed", "--limit", "2", "-o", "json").document
    assert [task["id"] for task in ran["tasks"]] == ["t4", "t2"]
    more = run("tasks", "list", "--status", "completed", "--cursor", ran["cursor"], "-o", "json").document
    assert ([task["id"] for task in more["tasks"]], more["cursor"]) == (["t0"], None)
    text = run("tasks", "list").stdout.splitlines()
    assert text[0].split()[:2] == ["ID", "STATUS"]
    assert len(text) == 6
    assert run("tasks", "list", "--runtime", "none").stdout == "no tasks\n"


def test_tasks_get_cancel_retry_and_download(server: TaskApiServer, tmp_path: Path) -> None:
    server.script = []
    server.add("q", context={"who": "me"})
    assert run("tasks", "get", "q", "-o", "json").document["context"] == {"who": "me"}
    assert '{"who":"me"}' in run("tasks", "get", "q").stdout
    assert run("tasks", "cancel", "q", "-o", "json").document["status"] == "cancelled"
    assert run("tasks", "cancel", "q").code == 8
    assert run("tasks", "retry", "q", "-o", "json").document["status"] == "queued"
    server.complete(server.add("d", status="completed"))
    assert run("tasks", "download", "d", "--to", "x", "-o", "json").document["files"] == ["x/d-0a1b-1.png"]


def test_tasks_by_filter_ask_first_and_go_on_after_an_error(server: TaskApiServer) -> None:
    server.script = []
    for name in ("a", "b", "c"):
        server.add(name, status="failed")
    assert run("tasks", "retry", "--status", "failed").code == 2
    assert {task["status"] for task in server.tasks.values()} == {"failed"}
    ran = run("tasks", "retry", "--status", "failed", "--yes", "-o", "json")
    assert [task["status"] for task in ran.document["tasks"]] == ["queued"] * 3
    mixed = run("tasks", "cancel", "a", "none", "b")
    assert (mixed.code, server.tasks["b"]["status"]) == (4, "cancelled")
    assert run("tasks", "cancel").code == 2
    assert run("tasks", "cancel", "a", "--status", "queued").code == 2


def test_verify_runs_each_kind_of_task_and_checks_the_stored_picture(server: TaskApiServer) -> None:
    ran = run("verify", "-o", "json")
    checks = ran.document["checks"]
    assert (ran.code, ran.document["passed"]) == (0, True)
    assert [(one["check"], one["result"]) for one in checks] == [
        ("t2i", "pass"),
        ("i2i", "pass"),
        ("upscale", "pass"),
    ]
    assert checks[2]["detail"].startswith("1024x1024")
    assert (
        run("verify", "--runtime", "comfy", "--type", "comfyui").stdout.splitlines()[1].startswith("pipeline")
    )


def test_verify_fails_when_a_picture_has_the_wrong_size(server: TaskApiServer) -> None:
    server.link = lambda base, key: f"{base}/objects/wrong.png"
    server.objects["wrong.png"] = png(16, 16)
    ran = run("verify")
    assert ran.code == 9
    assert "16x16" in ran.stdout
    assert "skip" in ran.stdout


def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDCTL_ENDPOINT")
    monkeypatch.delenv("SDCTL_API_KEY")


def record(server: TaskApiServer, folder: Path, home: Path, **fields: Any) -> None:
    outputs = {"FrontApiEndpoint": f"{server.base}/prod"}
    kept = {"stack_name": "sdoneks", "region": "us-east-1", "target": "local", "api_key": KEY, **fields}
    Deployments(home).record(Deployment(folder=str(folder), outputs=outputs, **kept))


def test_the_folders_last_deployment_is_used_without_any_flag(
    server: TaskApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_environment(monkeypatch)
    nothing = run("submit", "t2i", "x", "-o", "json")
    assert (nothing.code, nothing.error["hint"]) == (4, "sdctl deploy --target local")
    record(server, tmp_path, tmp_path / "sdctl-home", runtimes={"comfy": "comfyui", "sdruntime": "sdwebui"})
    assert run("submit", "t2i", "x", "-o", "json").document["runtime"] == "sdruntime"
    assert run("-n", "other", "submit", "t2i", "x").code == 4


def test_several_deployments_elsewhere_must_be_told_apart(
    server: TaskApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_environment(monkeypatch)
    record(server, tmp_path / "a", tmp_path / "sdctl-home", stack_name="one")
    assert run("tasks", "list").code == 0
    record(server, tmp_path / "b", tmp_path / "sdctl-home", stack_name="two")
    ran = run("tasks", "list")
    assert (ran.code, "one" in ran.stderr, "two" in ran.stderr) == (4, True, True)
    assert run("tasks", "list", "-n", "two").code == 0


@pytest.mark.parametrize("name", ["SDCTL_ENDPOINT", "SDCTL_API_KEY"])
def test_one_of_the_two_variables_alone_is_a_configuration_error(
    name: str, server: TaskApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(name)
    ran = run("tasks", "list")
    assert (ran.code, name in ran.stderr) == (3, True)


def test_a_wrong_key_leaves_with_5(server: TaskApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDCTL_API_KEY", "wrong-key")
    ran: Ran = run("tasks", "list", "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "unauthorized")
    assert "wrong-key" not in ran.stderr
