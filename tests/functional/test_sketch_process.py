"""The built-in runtime as a process: quick to answer, quick to leave, modest, and quiet."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from support.sketch import ROOT, Sketch, memory_bytes, picture, sketch, text_to_image


@pytest.mark.parametrize(("kind", "path"), [("sdwebui", "/sdapi/v1/options"), ("comfyui", "/system_stats")])
def test_it_answers_at_once_after_the_start_and_leaves_with_0_on_sigterm(kind: str, path: str) -> None:
    with sketch(kind) as server:
        assert server.get(path).status == 200
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=5) == 0
        assert server.process.stderr is not None
        lines = [json.loads(line) for line in server.process.stderr.read().splitlines()]
    assert [line["action"] for line in lines] == ["stopping"]


@pytest.mark.parametrize("kind", ["sdwebui", "comfyui"])
def test_sigterm_is_obeyed_while_a_job_runs_and_a_client_listens(kind: str) -> None:
    with sketch(kind, "--seconds-per-image", "30") as server:
        if kind == "sdwebui":
            threading.Thread(target=ignore_the_end, args=(server,)).start()
            while not server.get("/sdapi/v1/progress").json["state"]["sampling_steps"]:
                time.sleep(0.01)
            stop(server)
        else:
            with server.socket("x"):
                assert server.post("/prompt", {"prompt": text_to_image(), "client_id": "x"}).status == 200
                while not server.get("/queue").json["queue_running"]:
                    time.sleep(0.01)
                stop(server)


def ignore_the_end(server: Sketch) -> None:
    try:
        server.draw(steps=100)
    except OSError:
        return


def stop(server: Sketch) -> None:
    start = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=10) == 0
    assert time.monotonic() - start < 3, "it does not wait for the job"


def test_twenty_pictures_of_512_stay_within_150_mib() -> None:
    with sketch("sdwebui") as server:
        for seed in range(20):
            answer = server.draw(width=512, height=512, seed=seed)
        assert picture(answer["images"][0]).size == (512, 512)
        assert memory_bytes(server.process) < 150 * 1024 * 1024


@pytest.mark.parametrize(
    "arguments",
    [[], ["--type", "midjourney", "--port", "0"], ["--type", "comfyui", "--port", "0",
     "--seconds-per-image", "-1"],
     ["--type", "comfyui", "--port", "0", "--seconds-per-image", "nan"]],
)  # fmt: skip
def test_wrong_usage_is_exit_2(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "sdctl.local.sketch", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")


def test_a_port_that_is_taken_is_told_in_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "sdctl.local.sketch", "--type", "comfyui", "--port", port]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["action"] == "listen_failed"
