"""The SD WebUI adapter against servers that behave like AUTOMATIC1111, Forge and sd-server."""

# ruff: noqa: E501 - a table of answers is read line by line
from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fakes.agent_runtime import png
from fakes.webui_server import FakeWebui, WebuiScript, model
from sdctl_agent.errors import InterruptedRunError, PermanentError, RuntimeDownError, TransientError
from sdctl_agent.runtimes import create_runtime
from sdctl_agent.runtimes.base import RuntimeOptions
from sdctl_agent.runtimes.sdwebui import SdWebuiRuntime
from support.runtimes import Fetcher, contents, run_task, task, wait_until

Started = Callable[..., tuple[FakeWebui, SdWebuiRuntime]]


@pytest.fixture
def start() -> Iterator[Started]:
    """Start a server and an adapter; keywords are the script's, `dynamic` and `stall` the adapter's."""
    made: list[tuple[FakeWebui, SdWebuiRuntime]] = []

    def make(*, dynamic: bool = False, stall: float = 900, **script: Any) -> tuple[FakeWebui, SdWebuiRuntime]:
        server = FakeWebui(WebuiScript(**script))
        options = RuntimeOptions(server.url, dynamic_checkpoint=dynamic, stall_timeout_seconds=stall)
        runtime = create_runtime("sdwebui", options)
        assert isinstance(runtime, SdWebuiRuntime)
        made.append((server, runtime))
        return made[-1]

    yield make
    for server, runtime in made:
        runtime.close()
        server.stop()


@pytest.mark.parametrize(
    ("tasktype", "path", "content"),
    [
        ("text-to-image", "txt2img", {"prompt": "a dog", "steps": 20.0, "seed": 2**64 - 1, "x": None}),
        ("image-to-image", "img2img", {"prompt": "猫 http://x/y.png", "init_images": ["aGk="]}),
        ("extra-single-image", "extra-single-image", {"image": "aGk=", "upscaler_1": "Lanczos"}),
        ("extra-batch-images", "extra-batch-images", {"imageList": [{"data": "aGk=", "name": "a"}]}),
    ],
)
def test_content_reaches_its_endpoint_unchanged(
    start: Started, tasktype: str, path: str, content: dict[str, Any]
) -> None:
    server, runtime = start()
    result = run_task(runtime, task(tasktype, content))
    assert server.posts(path) == [content]
    assert contents(result.outputs) == [png()]


def test_urls_are_replaced_in_the_places_of_the_contract_and_nowhere_else(start: Started) -> None:
    server, runtime = start()
    url = "https://example.com/a.png"
    text = base64.b64encode(png()).decode()

    def content(value: str) -> dict[str, Any]:
        return {
            "prompt": url,
            "init_images": [value, "aGk="],
            "mask": value,
            "image": value,
            "imageList": [{"data": value, "name": url}],
            "other": {"image": url},
            "alwayson_scripts": {
                "controlnet": {
                    "args": [{"image": value, "mask": value, "model": url}, {"input_image": value}, url]
                },
                "reference": {"args": [{"image": {"image": value, "mask": value, "note": url}}]},
                "plain": {"image": url},
            },
        }

    fetch = Fetcher({url: png()})
    run_task(runtime, task("image-to-image", content(url)), fetch)
    assert server.posts("img2img") == [content(text)]
    assert fetch.asked == [url], "one URL is fetched once, however often it is named"


def test_the_task_keeps_its_own_content(start: Started) -> None:
    _, runtime = start()
    url = "https://example.com/a.png"
    what = task("image-to-image", {"init_images": [url], "alwayson_scripts": {"task": "image-to-image"}})
    before = json.dumps(what.content)
    run_task(runtime, what, Fetcher({url: png()}))
    assert json.dumps(what.content) == before


def test_our_routing_keys_never_reach_the_server(start: Started) -> None:
    server, runtime = start()
    scripts = {
        "task": "text-to-image",
        "id_task": "1",
        "save_dir": "o",
        "sd_model_checkpoint": "anime",
        "Refiner": {"args": [True]},
    }
    run_task(runtime, task("text-to-image", {"prompt": "x", "alwayson_scripts": scripts}))
    assert server.posts("txt2img") == [{"prompt": "x", "alwayson_scripts": {"Refiner": {"args": [True]}}}]


def test_an_input_that_is_a_video_is_refused(start: Started) -> None:
    _, runtime = start()
    url = "https://example.com/a.mp4"
    with pytest.raises(PermanentError, match=r"init_images\[0\].*video/mp4") as caught:
        runtime.prepare(
            task("image-to-image", {"init_images": [url]}), Fetcher({url: b"\0\0\0\x18ftypisom" + b"\0" * 16})
        )
    assert caught.value.code == "input_not_image"


@pytest.mark.parametrize("data_url", [False, True])
def test_every_image_comes_out_with_or_without_data_url(start: Started, data_url: bool) -> None:
    images = [png(padding_bytes=size) for size in (0, 3000, 700_001, 5_000_002)]
    _, runtime = start(images=images, data_url=data_url)
    result = run_task(runtime, task("text-to-image", {"prompt": "x", "batch_size": 2, "n_iter": 2}))
    assert contents(result.outputs) == images
    assert [output.size for output in result.outputs] == [len(image) for image in images]


def test_the_answer_is_complete_but_for_the_image_bytes(start: Started) -> None:
    init = base64.b64encode(png(padding_bytes=4000)).decode()
    _, runtime = start()
    result = run_task(runtime, task("image-to-image", {"prompt": "x", "init_images": [init]}))
    assert set(result.answer) == {"parameters", "info"}
    assert result.answer["parameters"] == {
        "prompt": "x",
        "init_images": [f"<{len(png(padding_bytes=4000))} bytes>"],
    }
    assert json.loads(result.answer["info"])["seed"] == 1


def test_no_image_is_a_failure(start: Started) -> None:
    _, runtime = start(images=[])
    with pytest.raises(PermanentError, match="no image") as caught:
        run_task(runtime, task("text-to-image", {"prompt": "x"}))
    assert caught.value.code == "no_output"


def test_send_images_false_is_refused_before_the_gpu_is_used(start: Started) -> None:
    server, runtime = start()
    with pytest.raises(PermanentError, match="send_images"):
        runtime.prepare(task("text-to-image", {"prompt": "x", "send_images": False}), Fetcher())
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "content_type", "body", "code", "words"),
    [
        (422, "application/json", {"detail": [{"loc": ["body", "steps"], "msg": "value is not a valid integer"}]},
         "validation_error", "body/steps: value is not a valid integer"),
        (422, "application/json", {"error": "HTTPException", "detail": "Script 'nosuch' not found", "body": "", "errors": ""},
         "validation_error", "Script 'nosuch' not found"),
        (422, "application/json", {"detail": "Script 'nosuch' not found"}, "validation_error", "Script 'nosuch'"),
        (404, "application/json", {"error": "HTTPException", "detail": "Init image not found", "errors": ""},
         "runtime_error", "Init image not found"),
        (404, "application/json", {"detail": "Not Found"}, "runtime_error", "Not Found"),
        (404, "text/plain", "", "runtime_error", "status 404"),
        (500, "application/json", {"error": "ZeroDivisionError", "detail": "", "errors": "integer modulo by zero"},
         "runtime_error", "ZeroDivisionError: integer modulo by zero"),
        (500, "application/json", {"error": "IndexError", "detail": "", "message": "list index out of range"},
         "runtime_error", "IndexError: list index out of range"),
        (500, "application/json", {"error": "server_error", "message": "type must be number"},
         "runtime_error", "type must be number"),
        (400, "application/json", {"error": "prompt required"}, "validation_error", "prompt required"),
        (500, "application/json", {"error": "OutOfMemoryError", "detail": "", "errors": "CUDA out of memory. Tried to allocate 2 GiB"},
         "out_of_memory", "CUDA out of memory"),
        (401, "application/json", {"detail": "Not authenticated"}, "runtime_unauthorized", "Not authenticated"),
        (500, "text/html", "<html><style>b{}</style><body><h1>Oops &amp; sorry</h1></body></html>", "runtime_error", "Oops & sorry"),
        (500, "text/plain", "Internal Server Error", "runtime_error", "Internal Server Error"),
        (500, "application/json", {"error": "E", "errors": "no file /srv/secret/place/model.ckpt"}, "runtime_error", "no file model.ckpt"),
    ],
)  # fmt: skip
def test_a_refusal_fails_the_task_with_the_servers_own_words(
    start: Started, status: int, content_type: str, body: Any, code: str, words: str
) -> None:
    data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
    server, runtime = start(answers={"txt2img": (status, content_type, data)})
    with pytest.raises(PermanentError) as caught:
        run_task(runtime, task("text-to-image", {"prompt": "x"}))
    assert words in caught.value.message
    assert caught.value.code == code
    assert "/srv" not in caught.value.message
    assert len(server.posts("txt2img")) == 1


def test_a_refusal_of_megabytes_is_cut(start: Started) -> None:
    data = json.dumps({"detail": "x" * 3_000_000}).encode()
    _, runtime = start(answers={"txt2img": (500, "application/json", data)})
    with pytest.raises(PermanentError) as caught:
        run_task(runtime, task("text-to-image", {"prompt": "x"}))
    assert len(caught.value.message) < 1200


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_gateways_error_means_that_the_runtime_is_down(start: Started, status: int) -> None:
    _, runtime = start(answers={"txt2img": (status, "text/html", b"<h1>Bad Gateway</h1>")})
    with pytest.raises(RuntimeDownError):
        run_task(runtime, task("text-to-image", {"prompt": "x"}))


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'{"images": ["' + b"A" * 5000, b'{"images": ["%%%%"]}', b"NaN of the day"]
)
def test_an_answer_that_is_no_answer_fails_the_task(start: Started, body: bytes) -> None:
    _, runtime = start(answers={"txt2img": (200, "application/json", body)})
    with pytest.raises(PermanentError):
        run_task(runtime, task("text-to-image", {"prompt": "x"}))


def test_a_long_string_that_stops_being_base64_fails_the_task(start: Started) -> None:
    _, runtime = start(
        answers={"txt2img": (200, "application/json", b'{"images": ["' + b"A" * 5000 + b'!!"]}')}
    )
    with pytest.raises(PermanentError) as caught:
        run_task(runtime, task("text-to-image", {"prompt": "x"}))
    assert caught.value.code == "output_unreadable"


def test_a_dropped_connection_means_that_the_runtime_is_down(start: Started) -> None:
    _, runtime = start(drop_connection=True)
    with pytest.raises(RuntimeDownError):
        run_task(runtime, task("text-to-image", {"prompt": "x"}))


def test_a_server_that_is_gone_is_not_ready_and_down(start: Started) -> None:
    server, runtime = start()
    assert runtime.is_ready(2)
    server.stop()
    server.stop = lambda: None  # type: ignore[method-assign]
    assert not runtime.is_ready(1)
    with pytest.raises(RuntimeDownError):
        run_task(runtime, task("text-to-image", {"prompt": "x"}))


# -- models ---------------------------------------------------------------------------------------------

HASH = "0123456789abcdef" * 4
MODELS = [model("anime.safetensors"), model("style/real.safetensors", HASH), model("Real.safetensors")]


@pytest.mark.parametrize("place", ["alwayson_scripts", "override_settings"])
@pytest.mark.parametrize(
    "name", ["style/real.safetensors [0123456789]", "style/real.safetensors", "real.safetensors", "style_real", "real", HASH[:10], HASH]
)  # fmt: skip
def test_a_model_is_loaded_by_title_file_stem_or_hash(start: Started, place: str, name: str) -> None:
    server, runtime = start(dynamic=True, models=list(MODELS))
    run_task(runtime, task("text-to-image", {"prompt": "x", place: {"sd_model_checkpoint": name}}))
    assert server.posts("options") == [{"sd_model_checkpoint": "style/real.safetensors [0123456789]"}]
    assert runtime.loaded_checkpoint() == "style/real.safetensors"
    assert runtime.switches == 1


def test_what_differs_in_case_only_is_found_when_nothing_fits_exactly(start: Started) -> None:
    server, runtime = start(dynamic=True)
    run_task(
        runtime, task("text-to-image", {"override_settings": {"sd_model_checkpoint": "REAL.SafeTensors"}})
    )
    assert server.posts("options") == [{"sd_model_checkpoint": "real.safetensors"}]


def test_the_loaded_model_is_not_loaded_again(start: Started) -> None:
    server, runtime = start(dynamic=True)
    for name in ("anime", "anime.safetensors", "real", "real", "anime"):
        run_task(runtime, task("text-to-image", {"override_settings": {"sd_model_checkpoint": name}}))
    titles = [body["sd_model_checkpoint"] for body in server.posts("options")]
    assert titles == ["real.safetensors", "anime.safetensors"]
    assert runtime.switches == 2


def test_a_new_model_is_found_after_one_refresh(start: Started) -> None:
    server, runtime = start(dynamic=True, appears_on_refresh=model("new.safetensors"))
    result = run_task(runtime, task("text-to-image", {"override_settings": {"sd_model_checkpoint": "new"}}))
    assert result.outputs
    assert len(server.posts("refresh-checkpoints")) == 1


def test_an_unknown_model_is_refused_with_the_list_of_known_ones(start: Started) -> None:
    server, runtime = start(dynamic=True)
    with pytest.raises(PermanentError, match=r"known: anime\.safetensors, real\.safetensors") as caught:
        runtime.prepare(
            task("text-to-image", {"override_settings": {"sd_model_checkpoint": "anine.safetensors"}}),
            Fetcher(),
        )
    assert caught.value.code == "unknown_checkpoint"
    assert 'did you mean "anime.safetensors"?' in caught.value.message
    assert len(server.posts("refresh-checkpoints")) == 1
    assert server.posts("txt2img") == []


def test_a_static_runtime_takes_the_loaded_model_and_refuses_another(start: Started) -> None:
    server, runtime = start()
    run_task(
        runtime, task("text-to-image", {"alwayson_scripts": {"sd_model_checkpoint": "anime.safetensors"}})
    )
    with pytest.raises(PermanentError, match=r'loaded: "anime\.safetensors"') as caught:
        runtime.prepare(
            task("text-to-image", {"alwayson_scripts": {"sd_model_checkpoint": "real.safetensors"}}),
            Fetcher(),
        )
    assert caught.value.code == "checkpoint_not_loaded"
    assert server.posts("options") == []


def test_a_server_that_cannot_switch_says_so(start: Started) -> None:
    _, runtime = start(dynamic=True, flavour="sdcpp")
    with pytest.raises(PermanentError, match="cannot load another checkpoint"):
        run_task(runtime, task("text-to-image", {"override_settings": {"sd_model_checkpoint": "real"}}))


def test_two_different_models_in_one_task_are_refused(start: Started) -> None:
    _, runtime = start(dynamic=True)
    content = {
        "alwayson_scripts": {"sd_model_checkpoint": "real"},
        "override_settings": {"sd_model_checkpoint": "anime"},
    }
    with pytest.raises(PermanentError, match="different checkpoints"):
        runtime.prepare(task("text-to-image", content), Fetcher())


def test_a_picture_of_another_model_is_tried_again(start: Started) -> None:
    _, runtime = start(dynamic=True, info_model="real")
    with pytest.raises(TransientError) as caught:
        run_task(runtime, task("text-to-image", {"override_settings": {"sd_model_checkpoint": "anime"}}))
    assert caught.value.code == "wrong_checkpoint"
    assert runtime.loaded_checkpoint() == ""


# -- progress, interrupt, stall ---------------------------------------------------------------------------


def test_progress_is_told_while_the_job_runs(start: Started) -> None:
    _, runtime = start(lasts_seconds=30)
    run = runtime.start(runtime.prepare(task("text-to-image", {"prompt": "x"}), Fetcher()))
    wait_until(lambda: (run.progress().value or 0) > 0)
    run.interrupt()
    assert run.done.wait(5)


def test_an_interrupted_job_is_interrupted_though_the_server_answers_200(start: Started) -> None:
    server, runtime = start(lasts_seconds=30)
    run = runtime.start(runtime.prepare(task("text-to-image", {"prompt": "x"}), Fetcher()))
    run.interrupt()
    run.interrupt()
    assert run.done.wait(5)
    with pytest.raises(InterruptedRunError):
        run.result()
    assert server.interrupted >= 1
    assert run_again(runtime)


def test_a_run_that_is_interrupted_before_it_begins_is_never_posted(start: Started) -> None:
    server, runtime = start(dynamic=True)
    prepared = runtime.prepare(
        task("text-to-image", {"override_settings": {"sd_model_checkpoint": "real"}}), Fetcher()
    )
    server.script.loading = threading.Event()
    run = runtime.start(prepared)
    wait_until(lambda: len(server.posts("options")) == 1)
    run.interrupt()
    server.script.loading.set()
    assert run.done.wait(5)
    with pytest.raises(InterruptedRunError):
        run.result()
    assert server.posts("txt2img") == []


def run_again(runtime: SdWebuiRuntime) -> bool:
    """Show that a run of before leaves nothing behind."""
    run = runtime.start(runtime.prepare(task("text-to-image", {"prompt": "y"}), Fetcher()))
    wait_until(lambda: (run.progress().value or 0) >= 0 and not run.done.is_set())
    run.interrupt()
    return run.done.wait(5)


def test_nothing_is_interrupted_while_the_running_job_may_be_someone_elses(start: Started) -> None:
    server, runtime = start(lasts_seconds=1.5, other_job_waits=True)
    run = runtime.start(runtime.prepare(task("text-to-image", {"prompt": "x"}), Fetcher()))
    run.interrupt()
    assert run.done.wait(10)
    assert server.interrupted == 0
    assert contents(run.result().outputs) == [png()]


def test_an_interrupt_after_the_end_reaches_no_one(start: Started) -> None:
    server, runtime = start()
    run = runtime.start(runtime.prepare(task("text-to-image", {"prompt": "x"}), Fetcher()))
    assert run.done.wait(5)
    run.interrupt()
    assert run.result().outputs
    assert server.interrupted == 0


def test_a_job_without_progress_is_given_up_and_the_server_is_not_ready_until_it_ends(start: Started) -> None:
    _, runtime = start(lasts_seconds=4, progress_moves=False, stall=0.5)
    run = runtime.start(runtime.prepare(task("text-to-image", {"prompt": "x"}), Fetcher()))
    assert run.done.wait(10)
    with pytest.raises(RuntimeDownError, match="no progress"):
        run.result()
    assert not runtime.is_ready(2)
    wait_until(lambda: runtime.is_ready(2))


def test_a_server_without_progress_is_never_taken_for_stuck(start: Started) -> None:
    _, runtime = start(flavour="sdcpp", lasts_seconds=2.5, stall=0.5)
    assert run_task(runtime, task("text-to-image", {"prompt": "x"})).outputs


def test_closing_a_run_breaks_its_call_off(start: Started) -> None:
    _, runtime = start(lasts_seconds=30)
    run = runtime.start(runtime.prepare(task("text-to-image", {"prompt": "x"}), Fetcher()))
    wait_until(lambda: run.progress().value is not None)
    run.close()
    assert run.done.is_set()
    with pytest.raises(RuntimeDownError):
        run.result()
