"""The ComfyUI adapter against a server that behaves like versions 0.3.64 and 0.33, failures included."""
# ruff: noqa: E501 - workflows are read line by line

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from fakes.agent_runtime import png
from fakes.comfy_server import FILES, ComfyScript, FakeComfy
from sdctl_agent.errors import InterruptedRunError, PermanentError, RuntimeDownError, TransientError
from sdctl_agent.runtimes import create_runtime
from sdctl_agent.runtimes.base import RuntimeOptions
from sdctl_agent.runtimes.comfyui import ComfyUiRuntime
from support.runtimes import Fetcher, contents, run_task, task, wait_until

Started = Callable[..., tuple[FakeComfy, ComfyUiRuntime]]


@pytest.fixture
def start() -> Iterator[Started]:
    """Start a server and an adapter; keywords are the script's, `stall` the adapter's."""
    made: list[tuple[FakeComfy, ComfyUiRuntime]] = []

    def make(
        *, stall: float = 900, connected: bool = True, **script: Any
    ) -> tuple[FakeComfy, ComfyUiRuntime]:
        server = FakeComfy(ComfyScript(**script))
        runtime = create_runtime("comfyui", RuntimeOptions(server.url, stall_timeout_seconds=stall))
        assert isinstance(runtime, ComfyUiRuntime)
        made.append((server, runtime))
        assert runtime.is_ready(5)
        if connected and server.script.socket in ("well", "silent", "drops"):
            runtime.socket.start()
            wait_until(lambda: runtime.socket.is_open)
        return made[-1]

    yield make
    for server, runtime in made:
        runtime.close()
        server.stop()


def graph(*nodes: str | tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Make a workflow of nodes numbered from 1, each linked to the one before."""
    made: dict[str, Any] = {}
    for number, node in enumerate(nodes, 1):
        kind, inputs = (node, {}) if isinstance(node, str) else node
        link = {"link": [str(number - 1), 0]} if number > 1 else {}
        made[str(number)] = {"class_type": kind, "inputs": inputs | link}
    return made


def pipeline(*nodes: str | tuple[str, dict[str, Any]]) -> Any:
    return task("pipeline", graph(*nodes))


SLEEP = ("Sleep", {"seconds": 60})
VERSIONS = pytest.mark.parametrize("version", ["0.33", "0.3.64"])
SOCKETS = pytest.mark.parametrize("socket", ["well", "silent", "refused", "drops"])


@VERSIONS
@SOCKETS
def test_a_workflow_gives_its_images_whatever_the_socket_does(
    start: Started, version: str, socket: str
) -> None:
    server, runtime = start(version=version, socket=socket, history_lag_seconds=0.007)
    for seed in range(3):
        result = run_task(runtime, pipeline(("Draw", {"seed": seed}), ("SaveImage", {"count": 2})))
        assert contents(result.outputs) == [png(), png()]
    assert [body["prompt"]["1"]["inputs"] for body in server.prompts] == [
        {"seed": 0},
        {"seed": 1},
        {"seed": 2},
    ]


def test_a_workflow_reaches_the_server_unchanged(start: Started) -> None:
    server, runtime = start()
    content = graph(
        ("Draw", {"text": "猫 https://example.com/a.png", "cfg": 7.0, "seed": 2**63}), "SaveImage"
    )
    content["1"]["_meta"] = {"title": "My drawing"}
    run_task(runtime, task("pipeline", content))
    body = server.prompts[0]
    assert body["prompt"] == content
    assert body["extra_data"] == {"preview_method": "none"}


def test_each_prompt_has_an_id_of_its_own(start: Started) -> None:
    server, runtime = start()
    what = pipeline("Draw", "SaveImage")
    assert [len(run_task(runtime, what).outputs) for _ in range(3)] == [1, 1, 1]
    assert len({body["prompt_id"] for body in server.prompts}) == 3


def test_a_server_that_gives_ids_of_its_own_is_followed(start: Started) -> None:
    _, runtime = start(own_ids=True)
    assert run_task(runtime, pipeline("Draw", "SaveImage")).outputs


@pytest.mark.parametrize(
    ("node", "ending"),
    [("SaveAnimatedWEBP", "webp"), ("SaveVideo", "mp4"), ("VHS_VideoCombine", "mp4"), ("SaveAudio", "flac"), ("SaveLatent", "latent")],
)  # fmt: skip
def test_every_kind_of_file_is_an_output(start: Started, node: str, ending: str) -> None:
    _, runtime = start()
    result = run_task(runtime, pipeline("Draw", (node, {"subfolder": "a b/ü"})))
    assert contents(result.outputs) == [FILES[ending]]
    assert result.outputs[0].name.endswith(ending)


def test_previews_count_only_where_nothing_is_saved(start: Started) -> None:
    server, runtime = start()
    both = run_task(runtime, pipeline("Draw", "PreviewImage", "SaveVideo", "EchoInput"))
    assert contents(both.outputs) == [FILES["mp4"]]
    only = run_task(runtime, pipeline("Draw", "PreviewImage", "EchoInput"))
    assert contents(only.outputs) == [png()]
    assert len(server.views) == 2, "each file is fetched once, a preview beside an output never"


def test_outputs_come_in_the_order_of_the_node_numbers(start: Started) -> None:
    _, runtime = start()
    nodes = [("SaveImage", {"prefix": str(number)}) for number in range(1, 12)]
    result = run_task(runtime, pipeline(*nodes))
    assert [output.name.split("_")[0] for output in result.outputs] == [
        str(number) for number in range(1, 12)
    ]


def test_texts_are_part_of_the_answer_and_no_files(start: Started) -> None:
    _, runtime = start()
    result = run_task(runtime, pipeline(("PreviewAny", {"text": "hello"})))
    assert result.outputs == ()
    assert result.answer["outputs"] == {"1": {"text": ["hello"]}}


def test_a_run_without_any_output_fails(start: Started) -> None:
    _, runtime = start()
    with pytest.raises(PermanentError, match="no output") as caught:
        run_task(runtime, pipeline("Silent"))
    assert caught.value.code == "no_output"


def test_a_run_answered_from_the_cache_still_gives_its_files(start: Started) -> None:
    server, runtime = start()
    what = pipeline("Draw", "SaveImage")
    first, second = run_task(runtime, what), run_task(runtime, what)
    assert [output.name for output in first.outputs] == [output.name for output in second.outputs]
    assert contents(second.outputs) == [png()]
    assert server.waiting == 0


def test_a_cached_file_that_was_deleted_fails_the_task(start: Started) -> None:
    server, runtime = start()
    run_task(runtime, pipeline("Draw", "SaveImage"))
    server.files.clear()
    result = run_task(runtime, pipeline("Draw", "SaveImage"))
    with pytest.raises(PermanentError, match="answered from its cache") as caught:
        contents(result.outputs)
    assert caught.value.code == "output_unreadable"


def test_an_output_can_be_opened_again(start: Started) -> None:
    _, runtime = start()
    result = run_task(runtime, pipeline("SaveImage"))
    assert contents(result.outputs) == contents(result.outputs) == [png()]


@VERSIONS
def test_images_of_the_socket_are_outputs(start: Started, version: str) -> None:
    _, runtime = start(version=version)
    result = run_task(runtime, pipeline("Draw", ("SaveImageWebsocket", {"count": 3})))
    assert contents(result.outputs) == [png()] * 3


@pytest.mark.parametrize("socket", ["silent", "refused", "drops"])
def test_images_of_a_lost_socket_are_asked_for_again(start: Started, socket: str) -> None:
    _, runtime = start(socket=socket)
    with pytest.raises(TransientError) as caught:
        run_task(runtime, pipeline("Draw", "SaveImageWebsocket"))
    assert caught.value.code == "output_lost"


def test_previews_of_megabytes_are_dropped(start: Started) -> None:
    server, runtime = start(preview_bytes=8 * 1024 * 1024)
    server.script.version = "0.3.64"
    result = run_task(runtime, pipeline("Draw", "Draw", "SaveImage"))
    assert contents(result.outputs) == [png()]


# -- refusals and failures --------------------------------------------------------------------------------


def test_a_refused_workflow_fails_with_each_nodes_reason(start: Started) -> None:
    _, runtime = start()
    content = {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "gone.safetensors"}},
        "5": {"class_type": "LoadImage", "inputs": {"image": "nosuch.png"}},
        "9": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "mask": ["5", 0]}},
    }
    with pytest.raises(PermanentError) as caught:
        run_task(runtime, task("pipeline", content))
    assert caught.value.code == "validation_error"
    assert caught.value.node == "4"
    assert (
        "node 4 (CheckpointLoaderSimple): Value not in list: ckpt_name: 'gone.safetensors'"
        in caught.value.message
    )
    assert (
        "node 5 (LoadImage): Custom validation failed for node: image - Invalid image file"
        in caught.value.message
    )
    assert "/srv" not in caught.value.message


@pytest.mark.parametrize(
    ("content", "words", "node"),
    [
        (graph("NoSuchNode"), "custom node may not be installed", "1"),
        (graph("Draw"), "Prompt has no outputs", ""),
    ],
)
def test_a_refusal_without_node_errors_tells_its_own_reason(
    start: Started, content: Any, words: str, node: str
) -> None:
    server, runtime = start()
    with pytest.raises(PermanentError, match=words) as caught:
        run_task(runtime, task("pipeline", content))
    assert caught.value.node == node
    assert len(server.prompts) == 1, "a refused workflow is posted once"


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"500 Internal Server Error\n\nServer got itself in trouble"), (413, b"too big"), (400, b"?")]
)  # fmt: skip
def test_a_refusal_in_plain_text_fails_with_it(start: Started, status: int, body: bytes) -> None:
    _, runtime = start(answers={"/prompt": (status, "text/plain", body)})
    with pytest.raises(PermanentError) as caught:
        run_task(runtime, pipeline("SaveImage"))
    assert body.split(b"\n")[0].decode() in caught.value.message


def test_outputs_that_were_dropped_are_named_in_the_answer(start: Started) -> None:
    _, runtime = start()
    content = {
        "2": {"class_type": "SaveImage", "inputs": {}},
        "20": {"class_type": "LoadImage", "inputs": {"image": "nosuch.png"}},
        "21": {"class_type": "PreviewImage", "inputs": {"images": ["20", 0]}},
    }
    result = run_task(runtime, task("pipeline", content))
    assert len(result.outputs) == 1
    assert "Invalid image file: nosuch.png" in result.answer["node_errors"]["20"]


@VERSIONS
@SOCKETS
def test_a_node_that_fails_fails_the_task_with_its_reason(start: Started, version: str, socket: str) -> None:
    _, runtime = start(version=version, socket=socket)
    inputs = {"type": "ValueError", "message": "no such file: /srv/secret/models/x.safetensors\n"}
    with pytest.raises(PermanentError) as caught:
        run_task(runtime, pipeline("SaveImage", ("Raise", inputs), "SaveImage"))
    error = caught.value.as_error()
    assert error == {
        "code": "execution_error",
        "message": "Raise failed: ValueError: no such file: x.safetensors",
        "node": "2",
    }


def test_out_of_memory_has_a_code_of_its_own(start: Started) -> None:
    _, runtime = start()
    inputs = {"type": "torch.OutOfMemoryError", "message": "CUDA out of memory. Tried to allocate 20.00 GiB."}
    with pytest.raises(PermanentError, match=r"20\.00 GiB") as caught:
        run_task(runtime, pipeline(("Raise", inputs), "SaveImage"))
    assert caught.value.code == "out_of_memory"


def test_a_workflow_in_ui_format_never_reaches_the_server(start: Started) -> None:
    server, runtime = start()
    with pytest.raises(PermanentError, match="UI format"):
        runtime.prepare(task("pipeline", {"nodes": [], "links": []}), Fetcher())
    assert server.prompts == []


# -- a queue of its own, interrupts -------------------------------------------------------------------------


def begin(runtime: ComfyUiRuntime, *nodes: Any) -> Any:
    return runtime.start(runtime.prepare(pipeline(*nodes), Fetcher()))


@SOCKETS
def test_the_next_prompt_waits_in_the_servers_own_queue(start: Started, socket: str) -> None:
    server, runtime = start(socket=socket)
    first = begin(runtime, ("Sleep", {"seconds": 0.5}), "SaveImage")
    second = begin(runtime, "SaveImage")
    assert not first.done.is_set()
    assert first.done.wait(10)
    assert second.done.wait(10)
    assert len(first.result().outputs) == len(second.result().outputs) == 1
    assert server.executed == [first.prompt_id, second.prompt_id]


@VERSIONS
@SOCKETS
def test_an_interrupt_stops_the_running_prompt(start: Started, version: str, socket: str) -> None:
    server, runtime = start(version=version, socket=socket)
    run = begin(runtime, SLEEP, "SaveImage")
    wait_until(lambda: server.is_running)
    run.interrupt()
    run.interrupt()
    assert run.done.wait(10)
    with pytest.raises(InterruptedRunError):
        run.result()


@SOCKETS
def test_an_interrupt_takes_a_waiting_prompt_out_and_leaves_the_running_one_alone(
    start: Started, socket: str
) -> None:
    server, runtime = start(socket=socket)
    first = begin(runtime, ("Sleep", {"seconds": 1.5}), "SaveImage")
    second = begin(runtime, "SaveImage")
    wait_until(lambda: server.is_running)
    second.interrupt()
    assert second.done.wait(10)
    with pytest.raises(InterruptedRunError):
        second.result()
    assert first.done.wait(10)
    assert first.result().outputs
    assert [kind for kind, _ in server.calls] == ["queue"]
    assert server.executed == [first.prompt_id]


def test_an_interrupt_right_after_the_start_is_not_lost(start: Started) -> None:
    _, runtime = start()
    for _ in range(5):
        run = begin(runtime, SLEEP, "SaveImage")
        run.interrupt()
        assert run.done.wait(10)
        with pytest.raises(InterruptedRunError):
            run.result()


def test_a_run_that_ended_before_its_interrupt_keeps_its_result(start: Started) -> None:
    server, runtime = start()
    run = begin(runtime, "SaveImage")
    assert run.done.wait(10)
    run.interrupt()
    assert run.result().outputs
    assert server.calls == []


def test_someone_elses_interrupt_is_no_fault_of_the_task(start: Started) -> None:
    server, runtime = start()
    run = begin(runtime, SLEEP, "SaveImage")
    wait_until(lambda: server.is_running)
    server.served.loop.call_soon_threadsafe(server._interrupt.set)
    assert run.done.wait(10)
    with pytest.raises(TransientError):
        run.result()


def test_progress_tells_share_and_node(start: Started) -> None:
    _, runtime = start()
    content = graph("Draw", ("Sleep", {"seconds": 60}), "SaveImage", "SaveImage")
    content["2"]["_meta"] = {"title": "A long sleep"}
    run = runtime.start(runtime.prepare(task("pipeline", content), Fetcher()))
    wait_until(lambda: run.progress().node == "A long sleep")
    assert run.progress().value == 0.25
    run.interrupt()
    assert run.done.wait(10)


# -- a server that goes away ------------------------------------------------------------------------------


@SOCKETS
def test_a_prompt_lost_by_a_restart_is_handed_back(start: Started, socket: str) -> None:
    server, runtime = start(socket=socket)
    runs = [begin(runtime, SLEEP, "SaveImage"), begin(runtime, "SaveImage")]
    wait_until(lambda: server.is_running)
    server.restart()
    for run in runs:
        assert run.done.wait(15)
        with pytest.raises(RuntimeDownError, match="restarted"):
            run.result()
    wait_until(lambda: runtime.is_ready(2))
    assert contents(run_task(runtime, pipeline("Draw", "SaveImage")).outputs) == [png()]


def test_a_server_that_dies_hands_its_prompts_back_at_once(start: Started) -> None:
    server, runtime = start()
    run = begin(runtime, SLEEP, "SaveImage")
    wait_until(lambda: run.is_heard)
    server.stop()
    server.stop = lambda: None  # type: ignore[method-assign]
    assert run.done.wait(5)
    with pytest.raises(RuntimeDownError):
        run.result()
    assert not runtime.is_ready(1)
    with pytest.raises(RuntimeDownError):
        begin(runtime, "SaveImage")


def test_outputs_are_never_mistaken_for_those_of_the_task_before(start: Started) -> None:
    server, runtime = start()
    first = run_task(runtime, pipeline(("SaveImage", {"prefix": "first"})))
    server.restart()
    second = run_task(runtime, pipeline(("SaveImage", {"prefix": "second"})))
    assert [output.name[:5] for output in (*first.outputs, *second.outputs)] == ["first", "secon"]


def test_an_output_of_a_server_that_died_is_handed_back(start: Started) -> None:
    server, runtime = start()
    result = run_task(runtime, pipeline("SaveImage"))
    server.stop()
    server.stop = lambda: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeDownError):
        contents(result.outputs)


def test_a_dead_worker_is_noticed_and_the_server_is_not_ready_until_it_is_restarted(start: Started) -> None:
    server, runtime = start(stall=1.0)
    runs = [begin(runtime, "Die", "SaveImage"), begin(runtime, "SaveImage")]
    for run in runs:
        assert run.done.wait(20)
        with pytest.raises(RuntimeDownError, match="no progress"):
            run.result()
    assert not runtime.is_ready(2)
    server.restart()
    wait_until(lambda: runtime.is_ready(2))


def test_a_prompt_behind_someone_elses_endless_one_is_handed_back(start: Started) -> None:
    server, runtime = start(stall=1.0, extra_queue=["11111111-1111-4111-8111-111111111111"])
    run = begin(runtime, "SaveImage")
    assert run.done.wait(20)
    with pytest.raises(RuntimeDownError, match="no progress"):
        run.result()
    assert server.waiting == 0, "it is taken out of the queue, so that it does not run later"
    assert not runtime.is_ready(2)
    server.finish_foreign()
    wait_until(lambda: runtime.is_ready(2))


def test_a_long_run_on_a_silent_socket_is_not_taken_for_stuck(start: Started) -> None:
    _, runtime = start(stall=0.5, socket="silent")
    assert run_task(runtime, pipeline(("Sleep", {"seconds": 3}), "SaveImage")).outputs


# -- inputs ----------------------------------------------------------------------------------------------

URL = "https://example.com/in/%E7%8C%AB.png?sig=1"


def test_inputs_are_uploaded_under_a_plain_name_and_the_workflow_says_that_name(start: Started) -> None:
    server, runtime = start()
    content = graph(
        ("LoadImage", {"image": URL, "text": URL}), "SaveImage", ("LoadImage", {"image": URL}), "SaveImage"
    )
    fetch = Fetcher({URL: png()})
    run_task(runtime, task("pipeline", content), fetch)
    assert fetch.asked == [URL]
    ((name, data),) = server.uploads.items()
    assert data == png()
    assert name.isascii()
    assert name.endswith(".png")
    sent = server.prompts[0]["prompt"]
    assert sent["1"]["inputs"] == {"image": name, "text": URL}
    assert sent["3"]["inputs"]["image"] == name
    assert content["1"]["inputs"]["image"] == URL, "the task's own content is left alone"


def test_a_name_that_the_server_chose_is_the_one_used(start: Started) -> None:
    answer = json.dumps({"name": "in (1).png", "subfolder": "a/b", "type": "input"}).encode()
    server, runtime = start(answers={"/upload/image": (200, "application/json", answer)})
    server.uploads["a/b/in (1).png"] = png()
    run_task(runtime, pipeline(("LoadImage", {"image": URL}), "SaveImage"), Fetcher({URL: png()}))
    assert server.prompts[0]["prompt"]["1"]["inputs"]["image"] == "a/b/in (1).png"


@pytest.mark.parametrize(
    ("node", "key", "ending"), [("LoadVideo", "file", "mp4"), ("LoadAudio", "audio", "flac"), ("LoadVideo", "video", "webp")]
)  # fmt: skip
def test_videos_and_sounds_are_uploaded_with_their_extension(
    start: Started, node: str, key: str, ending: str
) -> None:
    server, runtime = start()
    run_task(runtime, pipeline((node, {key: URL}), "SaveImage"), Fetcher({URL: FILES[ending]}))
    assert server.prompts[0]["prompt"]["1"]["inputs"][key].endswith(f".{ending}")


def test_a_file_that_does_not_fit_its_node_is_refused(start: Started) -> None:
    server, runtime = start()
    with pytest.raises(PermanentError, match="audio/flac, LoadImage takes image") as caught:
        runtime.prepare(pipeline(("LoadImage", {"image": URL}), "SaveImage"), Fetcher({URL: FILES["flac"]}))
    assert (caught.value.code, caught.value.node) == ("input_not_image", "1")
    assert server.uploads == {}


def test_urls_of_other_nodes_are_text(start: Started) -> None:
    server, runtime = start()
    run_task(runtime, pipeline(("Draw", {"image": URL, "video": URL}), "SaveImage"))
    assert server.prompts[0]["prompt"]["1"]["inputs"] == {"image": URL, "video": URL}


def test_an_upload_that_is_too_large_for_the_server_fails_the_task(start: Started) -> None:
    _, runtime = start(
        answers={"/upload/image": (413, "text/plain", b"Maximum request body size 104857600 exceeded.")}
    )
    with pytest.raises(PermanentError) as caught:
        runtime.prepare(pipeline(("LoadImage", {"image": URL}), "SaveImage"), Fetcher({URL: png()}))
    assert caught.value.code == "input_too_large"
