"""Answers that a task API would never give, broken connections, and links that lie."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdctl.errors import ApiError, UsageError
from sdctl.tasks import api as task_api
from sdctl.tasks.transport import Transport, UnreachableError, split_url
from support.cli import run
from support.task_api_server import Handler, TaskApiServer, failure, free_port, running_server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[TaskApiServer]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(task_api, "FIRST_DELAY_SECONDS", 0.01)
    with running_server() as running:
        for name, value in running.env.items():
            monkeypatch.setenv(name, value)
        yield running


def html(handler: Handler) -> None:
    handler.reply(502, b"<html>\x1b[2Jbad gateway</html>", "text/html")


def huge(handler: Handler) -> None:
    handler.reply(200, b"[" + b" " * (task_api.MAX_ANSWER_BYTES + 10), "application/json")


def endless_chunks(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"100000\r\n" + b" " * 0x100000 + b"\r\n")
    except OSError:
        handler.close_connection = True


def cut_short(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"id":')
    handler.close_connection = True


def redirect(handler: Handler) -> None:
    handler.reply(302, b"", Location="http://127.0.0.1:1/steal")


def says(status: int, body: object) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(status, body)


@pytest.mark.parametrize(
    ("answer", "code", "word"),
    [
        (html, 5, "not an answer of a task API"),
        (huge, 5, "more than"),
        (endless_chunks, 5, "more than"),
        (cut_short, 5, "cut short"),
        (redirect, 5, "redirects"),
        (says(200, []), 5, "not an answer"),
        (says(200, {"id": 7, "status": "queued"}), 5, "id is missing"),
        (says(200, {"id": "x", "status": "sleeping"}), 5, "sleeping"),
        (says(200, {"id": "x", "status": "queued", "progress": "half"}), 5, "progress"),
        (says(200, {"id": "x", "status": "queued", "image_url": [1]}), 5, "image_url"),
        (says(200, {"id": "x", "status": "queued", "error": "oops"}), 5, "malformed"),
        (says(200, b'{"id": NaN}'), 5, "not an answer"),
        (says(200, b"[" * 100_000), 5, "not an answer"),
        (says(403, {"message": "Forbidden"}), 5, "HTTP 403"),
        (says(429, failure("throttled", "too many requests")), 5, "too many requests"),
        (says(404, b"<html>"), 4, "HTTP 404"),
        (says(409, failure("task_ended", "it has ended")), 8, "it has ended"),
        (says(400, {"error": {"code": 1, "message": None, "fields": [{"path": "a"}, 2]}}), 5, "no reason"),
    ],
)
def test_a_bad_answer_is_an_error_with_its_exit_code(
    answer: Callable[[Handler], None], code: int, word: str, server: TaskApiServer
) -> None:
    server.answers = [answer] * 8
    ran = run("tasks", "get", "x", "-o", "json")
    assert (ran.code, ran.stdout) == (code, "")
    assert word in ran.error["message"]


def test_control_characters_of_an_answer_do_not_reach_the_terminal(server: TaskApiServer) -> None:
    server.answers = [html] * 8
    assert "\x1b" not in run("tasks", "get", "x").stderr


def test_a_passing_failure_is_tried_again_where_that_is_harmless(server: TaskApiServer) -> None:
    server.answers = [html, says(429, failure("throttled", "slow down")), cut_short]
    assert run("submit", "t2i", "x", "--id", "one").code == 0
    assert len(server.requests) == 4
    server.answers = [html]
    assert run("tasks", "cancel", "one").code == 5
    assert len(server.requests) == 5


def test_the_key_is_not_sent_where_a_redirect_leads(server: TaskApiServer) -> None:
    server.answers = [redirect]
    assert run("tasks", "list").code == 5
    assert len(server.requests) == 1


def test_a_watch_outlives_an_outage_but_not_a_wrong_address(server: TaskApiServer) -> None:
    server.add("a")
    server.script = [{"status": "running"}, {"status": "completed"}]
    good = Handler.route
    seen: list[str] = []

    def flaky(self: Handler, path: list[str], query: dict[str, list[str]]) -> None:
        seen.append(self.path)
        if 1 < len(seen) <= 2 + task_api.ATTEMPTS:
            return html(self)
        return good(self, path, query)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Handler, "route", flaky)
        assert run("watch", "a").code == 0
    assert len(seen) > 2 + task_api.ATTEMPTS
    server.answers = [html] * 20
    assert run("watch", "a").code == 5


def test_a_port_where_nothing_listens_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_api, "FIRST_DELAY_SECONDS", 0.01)
    monkeypatch.setenv("SDCTL_ENDPOINT", f"http://127.0.0.1:{free_port()}/")
    monkeypatch.setenv("SDCTL_API_KEY", "secret-key")
    ran = run("tasks", "list", "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "unreachable")
    assert "secret-key" not in ran.stderr


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ftp://x/",
        "http://",
        "x.example.com",
        "http://u:p@h/",
        "http://h:0/",
        "http://h:99999/",
        "http://h/a b",
        "http://h/\n",
    ],
)
def test_an_endpoint_that_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(UsageError):
        split_url(address)


def test_an_address_in_an_error_is_shown_without_its_signature() -> None:
    with pytest.raises(UsageError) as caught:
        split_url("ftp://host/path?X-Amz-Signature=secret")
    assert "secret" not in caught.value.message


def trickle(stop: threading.Event) -> tuple[socket.socket, threading.Thread]:
    """Serve one client a byte at a time, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            try:
                peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
                while not stop.wait(0.02):
                    peer.sendall(b" ")
            except OSError:
                return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return listener, thread


def test_a_server_that_trickles_is_given_up_at_the_deadline() -> None:
    stop = threading.Event()
    listener, thread = trickle(stop)
    transport = Transport()
    started = time.monotonic()
    try:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(UnreachableError, match="in time"):
            transport.exchange("GET", url, headers={}, timeout_seconds=0.4, max_bytes=1000_000)
        assert 0.3 < time.monotonic() - started < 3
    finally:
        stop.set()
        transport.close()
        thread.join(5)
        listener.close()


def test_a_connection_is_used_again_and_replaced_when_it_was_closed(server: TaskApiServer) -> None:
    server.add("a")
    api = task_api.TaskApi(task_api.ApiAccess(f"{server.base}/prod", "the-key"), Transport())
    try:
        api.get("a")
        (connection,) = api.transport._open.values()
        port = connection.sock.getsockname()[1]
        api.get("a")
        assert connection.sock.getsockname()[1] == port
        connection.sock.shutdown(socket.SHUT_RDWR)
        assert api.get("a").id == "a"
    finally:
        api.transport.close()


def test_a_proxy_is_used_but_never_for_this_machine() -> None:
    transport = Transport({"https_proxy": "http://u:p%40@proxy:3128", "NO_PROXY": ".corp,example.org"})
    proxy = transport._proxy("https", "api.example.com")
    assert proxy is not None
    assert (proxy.hostname, proxy.port) == ("proxy", 3128)
    for host in ("127.0.0.1", "localhost", "x.corp", "example.org", "a.example.org"):
        assert transport._proxy("https", host) is None
    assert transport._proxy("http", "api.example.com") is None


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("s3://bucket/out/../../../../etc/passwd", "passwd"),
        ("s3://bucket/a/..", "evil-1"),
        ("s3://bucket/a/..%2F..%2Fpasswd", "passwd"),
        ("s3://bucket/a/c:evil.png", "c_evil.png"),
        ("s3://bucket/a/con.png", "_con.png"),
        ("s3://bucket/a/.bashrc", "bashrc"),
        ("s3://bucket/a/x\u202egnp.exe", "x_gnp.exe"),
        ("s3://bucket/a/" + "a" * 400 + ".png", "a" * 176 + ".png"),
    ],
)
def test_a_file_never_leaves_its_folder(url: str, name: str, server: TaskApiServer, tmp_path: Path) -> None:
    server.objects["x"] = b"data"
    server.link = lambda base, key: f"{base}/objects/x"
    server.add("evil", status="completed", image_url=[url])
    ran = run("tasks", "download", "evil", "--to", "out", "-o", "json")
    assert ran.document["files"] == [f"out/{name}"]
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_equal_names_are_kept_apart(server: TaskApiServer) -> None:
    server.objects["x"] = b"data"
    server.link = lambda base, key: f"{base}/objects/x"
    server.add("two", status="completed", image_url=["s3://b/1/a.png", "s3://b/2/A.png"])
    assert run("tasks", "download", "two", "-o", "json").document["files"] == ["a.png", "A-2.png"]


@pytest.mark.parametrize(
    "link", ["file:///etc/passwd", "ftp://h/x", "http://127.0.0.1:1/objects/x", "{base}/objects/none", None]
)
def test_a_link_that_gives_nothing_is_an_error_and_leaves_no_file(
    link: str | None, server: TaskApiServer, tmp_path: Path
) -> None:
    server.link = lambda base, key: link.format(base=base) if link else None
    server.add("t", status="completed", image_url=["s3://bucket/a/a.png"])
    ran = run("tasks", "download", "t", "--to", "out")
    assert ran.code == 5
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_file_that_is_cut_short_is_fetched_again_and_never_seen_half(
    server: TaskApiServer, tmp_path: Path
) -> None:
    server.objects["x"] = b"whole"
    tries: list[int] = []

    def link(base: str, key: str) -> str:
        return f"{base}/prod/half"

    def half(handler: Handler) -> None:
        tries.append(1)
        handler.reply(200, b"whole") if len(tries) > 1 else cut_short(handler)

    server.link = link
    server.add("t", status="completed", image_url=["s3://bucket/a/a.png"])
    good = server.shown(server.tasks["t"])
    server.answers = [says(200, good), half, half]
    assert run("tasks", "download", "t").code == 0
    assert (tmp_path / "a.png").read_bytes() == b"whole"
    server.answers = [says(200, good), cut_short, cut_short, cut_short]
    assert run("tasks", "download", "t").code == 5
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert (tmp_path / "a.png").read_bytes() == b"whole"


def test_a_refused_upload_is_an_error(server: TaskApiServer, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    urls = {"upload_url": f"{server.base}/prod/refuse", "input_url": "s3://b/x"}
    server.answers = [says(200, urls), says(403, b"<Error/>")]
    ran = run("submit", "i2i", "a.png", "x", "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "upload")
    server.answers = [says(200, urls | {"upload_url": "file:///etc/passwd"})]
    assert run("submit", "i2i", "a.png", "x").code == 5


def test_api_errors_keep_status_and_code(server: TaskApiServer) -> None:
    server.answers = [says(418, failure("teapot", "short and stout"))]
    api = task_api.TaskApi(task_api.ApiAccess(server.base, "k"), Transport())
    try:
        with pytest.raises(ApiError) as caught:
            api.get("x")
    finally:
        api.transport.close()
    assert (caught.value.status, caught.value.code, caught.value.message) == (
        418,
        "teapot",
        "short and stout",
    )


def test_the_key_does_not_show_in_a_repr() -> None:
    assert "secret" not in repr(task_api.ApiAccess("http://h/", "secret"))
