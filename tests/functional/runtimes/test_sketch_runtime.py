"""Both adapters against the built-in runtime, as the local target runs it."""
# ruff: noqa: E501 - tables are read line by line

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.agent_runtime import png
from sdctl_agent.errors import InterruptedRunError, PermanentError
from sdctl_agent.media import sniff
from sdctl_agent.runtimes import create_runtime
from sdctl_agent.runtimes.base import Runtime, RuntimeOptions
from support.runtimes import Fetcher, contents, run_task, task, wait_until

URL = "https://example.com/in.png"


def sketch(kind: str, *options: str) -> Iterator[Runtime]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "sdctl.local.sketch", "--type", kind, "--port", str(port), *options]
    root = Path(__file__).parents[3]
    with subprocess.Popen(command, cwd=root, stderr=subprocess.DEVNULL) as process:
        runtime = create_runtime(kind, RuntimeOptions(f"http://127.0.0.1:{port}", dynamic_checkpoint=True))
        try:
            wait_until(lambda: runtime.is_ready(1), 20)
            yield runtime
        finally:
            runtime.close()
            process.terminate()
            process.wait(10)


@pytest.fixture(scope="module")
def webui() -> Iterator[Runtime]:
    yield from sketch("sdwebui", "--checkpoint", "one.safetensors", "--checkpoint", "two.safetensors")


@pytest.fixture(scope="module")
def slow_webui() -> Iterator[Runtime]:
    yield from sketch("sdwebui", "--seconds-per-image", "20")


@pytest.fixture(scope="module")
def comfy() -> Iterator[Runtime]:
    yield from sketch("comfyui", "--checkpoint", "one.safetensors")


@pytest.fixture(scope="module")
def slow_comfy() -> Iterator[Runtime]:
    yield from sketch("comfyui", "--checkpoint", "one.safetensors", "--seconds-per-image", "20")


SIZE = {"width": 64, "height": 64, "seed": 1, "steps": 2}


@pytest.mark.parametrize(
    ("tasktype", "content", "count"),
    [
        ("text-to-image", {"prompt": "a dog", **SIZE, "batch_size": 2}, 2),
        ("image-to-image", {"prompt": "a dog", **SIZE, "init_images": [URL]}, 1),
        ("extra-single-image", {"image": URL, "upscaling_resize": 2, "upscaler_1": "Lanczos"}, 1),
        ("extra-batch-images", {"imageList": [{"data": URL, "name": "a.png"}, {"data": URL, "name": "b.png"}]}, 2),
    ],
)  # fmt: skip
def test_every_task_type_of_the_webui_gives_pictures(
    webui: Runtime, tasktype: str, content: dict[str, object], count: int
) -> None:
    result = run_task(webui, task(tasktype, content), Fetcher({URL: png(32, 32)}))
    assert [sniff(data).extension for data in contents(result.outputs)] == ["png"] * count


def test_the_webui_switches_models(webui: Runtime) -> None:
    for name in ("two", "one.safetensors"):
        run_task(
            webui,
            task(
                "text-to-image", {"prompt": "x", **SIZE, "override_settings": {"sd_model_checkpoint": name}}
            ),
        )
        assert webui.loaded_checkpoint() == f"{name.removesuffix('.safetensors')}.safetensors"
    with pytest.raises(PermanentError, match="unknown checkpoint"):
        webui.prepare(
            task("text-to-image", {"override_settings": {"sd_model_checkpoint": "three"}}), Fetcher()
        )


def test_the_webui_can_be_interrupted(slow_webui: Runtime) -> None:
    run = slow_webui.start(slow_webui.prepare(task("text-to-image", {"prompt": "x", **SIZE}), Fetcher()))
    wait_until(lambda: run.progress().value is not None)
    run.interrupt()
    assert run.done.wait(5)
    with pytest.raises(InterruptedRunError):
        run.result()


def workflow(seed: int) -> dict[str, object]:
    return {
        "3": {"class_type": "KSampler", "inputs": {
            "seed": seed, "steps": 4, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
            "model": ["4", 0], "positive": ["6", 0], "negative": ["7", 0], "latent_image": ["5", 0]}},
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "one.safetensors"}},
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a dog", "clip": ["4", 1]}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "bad", "clip": ["4", 1]}},
        "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
        "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": "sub/dog", "images": ["8", 0]}},
    }  # fmt: skip


def test_a_workflow_of_comfyui_gives_its_picture(comfy: Runtime) -> None:
    for seed in (1, 2, 2):
        result = run_task(comfy, task("pipeline", workflow(seed)))
        assert [sniff(data).extension for data in contents(result.outputs)] == ["png"]


def test_an_input_of_comfyui_is_uploaded(comfy: Runtime) -> None:
    content = {
        "1": {"class_type": "LoadImage", "inputs": {"image": URL}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["1", 0]}},
    }
    assert len(run_task(comfy, task("pipeline", content), Fetcher({URL: png(64, 64)})).outputs) == 1


def test_a_missing_model_of_comfyui_is_named(comfy: Runtime) -> None:
    content = workflow(1) | {
        "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "gone.safetensors"}}
    }
    with pytest.raises(PermanentError, match=r"gone\.safetensors"):
        run_task(comfy, task("pipeline", content))


def test_prompts_of_comfyui_can_be_interrupted_and_taken_back(slow_comfy: Runtime) -> None:
    runs = [
        slow_comfy.start(slow_comfy.prepare(task("pipeline", workflow(seed)), Fetcher())) for seed in (1, 2)
    ]
    for run in reversed(runs):
        run.interrupt()
        assert run.done.wait(5)
        with pytest.raises(InterruptedRunError):
            run.result()
