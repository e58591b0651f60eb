"""What is sent before its time and read after it: the bytes of requests and answers around a run."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from fakes.agent_runtime import png
from sdctl_agent.errors import RuntimeDownError
from sdctl_agent.runtimes.base import Prepared, RuntimeOptions
from sdctl_agent.runtimes.sdwebui import SdWebuiRuntime
from support.runtimes import Fetcher, contents, task, wait_until

PICTURE = png(padding_bytes=300_000)
URL = "https://pictures.example/1.png"


class SlowServer:
    """Keeps how many bytes of each body have arrived; sends header and body of an answer when told to."""

    def __init__(self) -> None:
        self.arrived: list[int] = []
        self.whole: list[dict[str, Any]] = []
        self.broken = 0
        self.header = threading.Event()
        self.body = threading.Event()
        self.cut = False
        self.close_unfinished = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                self.send_error(404)

            def do_POST(self) -> None:
                length = int(self.headers["content-length"])
                number = len(owner.arrived)
                owner.arrived.append(0)
                data = b""
                while len(data) < length:
                    chunk = self.connection.recv(min(65536, length - len(data)))
                    data += chunk
                    owner.arrived[number] = len(data)
                    if not chunk:
                        owner.broken += 1
                        self.close_connection = True
                        return
                    if len(data) == length - 1 and owner.close_unfinished.is_set():
                        owner.close_unfinished.clear()
                        self.close_connection = True
                        return
                owner.whole.append(json.loads(data))
                owner.header.wait(10)
                answer = json.dumps({"images": [base64.b64encode(PICTURE).decode()]}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer[:1000])
                owner.body.wait(10)
                if owner.cut:
                    self.close_connection = True
                else:
                    self.wfile.write(answer[1000:])

            # What is received is counted as it comes, so nothing may be read ahead of that.
            rbufsize = 0

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.header.set()
        self.body.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[SlowServer]:
    started = SlowServer()
    yield started
    started.close()


@pytest.fixture
def runtime(server: SlowServer) -> Iterator[SdWebuiRuntime]:
    made = SdWebuiRuntime(RuntimeOptions(server.url))
    yield made
    made.close()


def prepared(runtime: SdWebuiRuntime) -> Prepared:
    content = {"prompt": "x", "init_images": [URL]}
    return runtime.prepare(task("image-to-image", content), Fetcher({URL: PICTURE}))


def wait_for_all_but_the_last_byte(server: SlowServer, made: Prepared) -> None:
    wait_until(lambda: server.arrived == [made.held_bytes - 1])


def test_a_run_is_done_with_the_header_and_gives_its_images_when_they_are_read(
    server: SlowServer, runtime: SdWebuiRuntime
) -> None:
    run = runtime.start(prepared(runtime))
    server.header.set()
    assert run.done.wait(5)
    assert run.error() is None
    server.body.set()
    assert contents(run.result().outputs) == [PICTURE]


def test_the_next_task_is_begun_while_the_last_ones_images_are_still_coming(
    server: SlowServer, runtime: SdWebuiRuntime
) -> None:
    server.header.set()
    first = runtime.start(prepared(runtime))
    assert first.done.wait(5)
    second = runtime.start(prepared(runtime))
    wait_until(lambda: len(server.whole) == 2)
    assert second.done.wait(5)
    server.body.set()
    assert first.result().outputs
    assert second.result().outputs


def test_an_answer_that_breaks_off_is_a_runtime_that_went_away(
    server: SlowServer, runtime: SdWebuiRuntime
) -> None:
    run = runtime.start(prepared(runtime))
    server.cut = True
    server.header.set()
    assert run.done.wait(5)
    server.body.set()
    with pytest.raises(RuntimeDownError):
        run.result()


def test_closing_a_run_wakes_whoever_waits_for_its_images(
    server: SlowServer, runtime: SdWebuiRuntime
) -> None:
    run = runtime.start(prepared(runtime))
    server.header.set()
    assert run.done.wait(5)
    timer = threading.Timer(0.1, run.close)
    timer.start()
    with pytest.raises(RuntimeDownError):
        run.result()
    timer.join()


def test_a_large_body_is_sent_ahead_but_for_its_last_byte(
    server: SlowServer, runtime: SdWebuiRuntime
) -> None:
    made = prepared(runtime)
    wait_for_all_but_the_last_byte(server, made)
    assert server.whole == []
    run = runtime.start(made)
    server.header.set()
    server.body.set()
    assert run.done.wait(5)
    assert contents(run.result().outputs) == [PICTURE]
    assert [base64.b64decode(body["init_images"][0]) for body in server.whole] == [PICTURE]


def test_a_small_body_is_not_sent_ahead(server: SlowServer, runtime: SdWebuiRuntime) -> None:
    runtime.prepare(task("text-to-image", {"prompt": "x"}), Fetcher())
    made = prepared(runtime)
    wait_for_all_but_the_last_byte(server, made)
    made.drop()


def test_a_task_that_is_dropped_never_reaches_the_server(server: SlowServer, runtime: SdWebuiRuntime) -> None:
    made = prepared(runtime)
    wait_for_all_but_the_last_byte(server, made)
    made.drop()
    made.drop()
    wait_until(lambda: server.broken == 1)
    assert server.whole == []


def test_a_server_that_gives_up_waiting_for_the_end_gets_the_request_again_and_does_it_once(
    server: SlowServer, runtime: SdWebuiRuntime
) -> None:
    server.close_unfinished.set()
    made = prepared(runtime)
    wait_for_all_but_the_last_byte(server, made)
    wait_until(made.request._call.is_disturbed)  # the close has arrived
    run = runtime.start(made)
    server.header.set()
    server.body.set()
    assert run.done.wait(5)
    assert contents(run.result().outputs) == [PICTURE]
    assert len(server.whole) == 1
    assert len(server.arrived) == 2


def test_a_task_interrupted_while_it_waits_is_never_begun(
    server: SlowServer, runtime: SdWebuiRuntime
) -> None:
    made = prepared(runtime)
    wait_for_all_but_the_last_byte(server, made)
    made.request.interrupt()
    run = runtime.start(made)
    assert run.done.wait(5)
    assert run.error() is not None
    assert server.whole == []
