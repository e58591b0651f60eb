"""Fetching inputs over real HTTP, from servers that are slow, hostile, or somewhere they must not be."""
# ruff: noqa: E501 - tables are read line by line

from __future__ import annotations

import contextlib
import gzip
import ipaddress
import resource
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes.agent_runtime import png
from sdctl_agent.addresses import Allowlist, parse_allowlist
from sdctl_agent.errors import AgentError, PermanentError, SettingsError, TransientError
from sdctl_agent.input_urls import parse_target, resolve_host
from sdctl_agent.inputs import InputLimits, Inputs, make_fetcher

Handler = Callable[[socket.socket, str], None]


def reply(status: str = "200 OK", body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    if "content_length" not in headers and "transfer_encoding" not in headers:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class RawServer:
    """Answers each connection as told; `requests` holds the head of each."""

    def __init__(self, handler: Handler, context: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self._handler = handler
        self._context = context
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError), client:
            if self._context is not None:
                client = self._context.wrap_socket(client, server_side=True)
            head = b""
            while b"\r\n\r\n" not in head:
                data = client.recv(4096)
                if not data:
                    return
                head += data
            self.requests.append(head.decode())
            self._handler(client, head.decode().split(" ")[1])
            client.close()

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., RawServer]]:
    servers: list[RawServer] = []

    def make(answer: bytes | Handler, context: ssl.SSLContext | None = None) -> RawServer:
        handler: Handler = (
            (lambda client, path: client.sendall(answer)) if isinstance(answer, bytes) else answer
        )
        servers.append(RawServer(handler, context))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


@contextmanager
def no_objects(bucket: str, key: str) -> Iterator[Iterator[bytes]]:
    raise AssertionError(f"s3://{bucket}/{key} was opened")
    yield iter(())


def inputs(*allowed: str, **options: Any) -> Inputs:
    """Make a fetcher for which `allowed` holds entries of the allowlist."""
    return Inputs(parse_allowlist(allowed), "own-bucket", options.pop("open_object", no_objects), **options)


def local(server: RawServer, path: str = "/in.png") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


Serve = Callable[..., RawServer]


def test_an_image_comes_with_its_type_and_name(serve: Serve) -> None:
    server = serve(reply(body=png(), Content_Type="text/html"))
    file = inputs("127.0.0.1")(local(server, "/a/%E7%8C%AB.jpg?X-Sig=1"))
    assert (file.data, file.content_type, file.name) == (png(), "image/png", "猫.jpg")
    assert "X-Sig=1 HTTP/1.1" in server.requests[0]


def test_nothing_of_ours_is_sent_along(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    server = serve(reply(body=png(), Set_Cookie="a=b"))
    fetch = inputs("127.0.0.1")
    fetch(local(server))
    fetch(local(server))
    for request in server.requests:
        names = {line.split(":")[0].lower() for line in request.split("\r\n")[1:] if line}
        assert names == {"host", "accept", "accept-encoding", "user-agent"}


@pytest.mark.parametrize("length", ["known", "chunked", "until close"])
def test_bodies_of_every_framing_arrive(serve: Serve, length: str) -> None:
    body = png(padding_bytes=300_000)
    answers = {
        "known": reply(body=body),
        "chunked": reply(body=b"%x\r\n" % len(body) + body + b"\r\n0\r\n\r\n", transfer_encoding="chunked"),
        "until close": b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body,
    }
    assert inputs("127.0.0.1")(local(serve(answers[length]))).data == body


# -- where inputs may not come from --------------------------------------------------------------------------


def refused(fetch: Callable[[], Any]) -> PermanentError:
    with pytest.raises(PermanentError) as caught:
        fetch()
    assert caught.value.code == "input_refused"
    return caught.value


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f.1", "0177.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0",
     "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254", "10.0.0.1", "[fd00:ec2::254]", "100.64.0.1"],
)  # fmt: skip
def test_no_form_of_an_inner_address_is_connected_to(serve: Serve, host: str) -> None:
    server = serve(reply(body=png()))
    refused(lambda: inputs()(f"http://{host}:{server.port}/x.png"))
    assert server.requests == []


@pytest.mark.parametrize(
    "url",
    ["ftp://example.com/x", "file:///etc/passwd", "http:///x", "http://user:pw@example.com/x", "http://user@example.com/x",
     "http://exa mple.com/", "http://example.com\\@127.0.0.1/", "http://[fe80::1%25eth0]/", "http://example.com:0/",
     "http://example.com:99999/", "http://example.com:x/", "http://[::1", "gopher://x", "http://\u2100.example\ud800/", "s3://other/key", "s3://own-bucket/", "s3://own-bucket"],
)  # fmt: skip
def test_what_is_no_plain_url_is_refused(url: str) -> None:
    refused(lambda: inputs()(url))


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data/", "http://127.0.0.1:{port}/y", "http://localhost:{port}/y", "//127.0.0.1:{port}/y",
     "file:///etc/passwd", "s3://own-bucket/secret", "http://u:p@1.1.1.1/"],
)  # fmt: skip
def test_a_redirect_to_where_inputs_may_not_come_from_is_refused(serve: Serve, target: str) -> None:
    inner = serve(reply(body=png()))
    server = serve(reply("302 Found", Location=target.format(port=inner.port)))
    refused(lambda: inputs(f"127.0.0.1:{server.port}")(local(server)))
    assert inner.requests == []


def test_a_redirect_is_followed_where_it_may_lead(serve: Serve) -> None:
    def answer(client: socket.socket, path: str) -> None:
        client.sendall(
            reply("307 Temporary Redirect", Location="../b.png?x=1")
            if path == "/a/a.png"
            else reply(body=png())
        )

    server = serve(answer)
    assert inputs("127.0.0.1")(local(server, "/a/a.png")).name == "b.png"


def test_redirects_are_counted(serve: Serve) -> None:
    server = serve(reply("302 Found", Location="/again"))
    assert "redirects" in refused(lambda: inputs("127.0.0.1")(local(server))).message
    assert len(server.requests) == 6


def test_a_name_is_resolved_once_and_that_address_is_used(serve: Serve) -> None:
    """A name that answers with a public address first and an inner one later gains nothing."""
    server = serve(reply(body=png()))
    answers = iter([["127.0.0.1"], ["169.254.169.254"]])
    asked = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return next(answers)

    fetch = inputs("127.0.0.0/8", resolve=rebinding)
    url = f"http://rebind.example:{server.port}/x.png"
    assert fetch(url).data == png()
    assert asked == ["rebind.example"]
    assert f"Host: rebind.example:{server.port}" in server.requests[0]
    refused(lambda: fetch(url))
    assert len(server.requests) == 1


def test_one_inner_address_among_public_ones_refuses_the_name() -> None:
    refused(lambda: inputs(resolve=lambda host, port: ["1.1.1.1", "10.0.0.1"])("http://mixed.example/"))


def test_the_next_address_is_tried_when_one_does_not_connect(serve: Serve) -> None:
    server = serve(reply(body=png()))
    fetch = inputs("127.0.0.0/8", resolve=lambda host, port: ["127.0.0.2", "127.0.0.1"])
    assert fetch(f"http://two.example:{server.port}/x.png").data == png()


public_texts = st.text(st.characters(codec="utf-8"), max_size=40)


@given(
    user=st.sampled_from(["", "", "", "u@", "u:p@"]),
    host=st.one_of(
        st.ip_addresses().map(lambda address: f"[{address}]" if address.version == 6 else str(address)),
        st.sampled_from(["localhost", "LOCALHOST.", "127.1", "2130706433", "0x7f000001", "a.example", "ⓛocalhost", "１２７.0.0.1"]),
    ),
    port=st.one_of(st.just(""), st.integers(-1, 70000).map(lambda port: f":{port}")),
    rest=public_texts,
)  # fmt: skip
def test_no_url_whatever_leads_to_an_inner_address(user: str, host: str, port: str, rest: str) -> None:
    """Whatever the URL, an address that is connected to is a public one, and the one that was resolved."""
    connected: list[str] = []

    class Watched(Inputs):
        def _fetch_from(self, target: Any, address: str, deadline: float) -> Any:
            connected.append(address)
            raise PermanentError("stop here")

    def resolve(host: str, port: int) -> Sequence[str]:
        if host == "a.example":
            return ["1.1.1.1"]
        with contextlib.suppress(ValueError):
            return [str(ipaddress.ip_address(host))]
        return (
            resolve_host(host, port)
            if host in ("localhost", "127.1", "2130706433", "0x7f000001")
            else ["127.0.0.1"]
        )

    fetch = Watched(Allowlist(), "own", no_objects, resolve=resolve)
    with pytest.raises(AgentError):
        fetch(f"http://{user}{host}{port}/{rest}")
    for address in connected:
        assert ipaddress.ip_address(address).is_global
        assert not user


@given(text=st.text(max_size=60))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    target = None
    with contextlib.suppress(PermanentError):
        target = parse_target("http://" + text)
    if target is not None:
        assert target.host
        assert target.path.startswith("/")
        assert (target.path + target.host_header).isascii()
        assert not any(char in target.path + target.host_header for char in " \r\n\t\\")


# -- size and time --------------------------------------------------------------------------------------------

LIMITS = InputLimits(total_bytes=1_000_000, total_seconds=1.0, connect_seconds=0.5, read_seconds=0.5)


def endless(chunk: bytes, pause_seconds: float = 0) -> Handler:
    def answer(client: socket.socket, path: str) -> None:
        client.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + png())
        for _ in range(40_000):
            client.sendall(chunk)
            time.sleep(pause_seconds)

    return answer


def test_a_stream_without_end_is_cut_off_with_bounded_memory(serve: Serve) -> None:
    server = serve(endless(b"\0" * 65536))
    limits = InputLimits(total_bytes=20_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PermanentError) as caught:
        inputs("127.0.0.1", limits=limits)(local(server))
    assert caught.value.code == "input_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000, "KiB"


def test_an_announced_size_beyond_the_limit_is_not_even_read(serve: Serve) -> None:
    server = serve(reply(content_length=str(2 * 1024**3)))
    with pytest.raises(PermanentError) as caught:
        inputs("127.0.0.1")(local(server))
    assert caught.value.code == "input_too_large"


def test_a_compressed_bomb_is_cut_off(serve: Serve) -> None:
    bomb = gzip.compress(png() + b"\0" * 300_000_000, 6)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PermanentError) as caught:
        inputs("127.0.0.1", limits=LIMITS)(local(serve(reply(body=bomb, Content_Encoding="gzip"))))
    assert caught.value.code == "input_too_large"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000, "KiB"


def test_an_encoding_that_was_not_asked_for_is_undone_or_refused(serve: Serve) -> None:
    fetch = inputs("127.0.0.1")
    assert fetch(local(serve(reply(body=gzip.compress(png()), Content_Encoding="gzip")))).data == png()
    refused(lambda: fetch(local(serve(reply(body=b"x", Content_Encoding="br")))))


def drip_headers(client: socket.socket, path: str) -> None:
    client.sendall(b"HTTP/1.1 200 OK\r\n")
    for number in range(200):
        client.sendall(b"X-%d: y\r\n" % number)
        time.sleep(0.05)


def never(client: socket.socket, path: str) -> None:
    time.sleep(10)


@pytest.mark.parametrize(
    "handler", [endless(b"\0", 0.02), drip_headers, never], ids=["drip", "headers", "never"]
)
def test_an_input_that_comes_too_slowly_is_given_up_in_time(serve: Serve, handler: Handler) -> None:
    server = serve(handler)
    started = time.monotonic()
    with pytest.raises(TransientError) as caught:
        inputs("127.0.0.1", limits=LIMITS)(local(server))
    assert caught.value.code == "input_timeout"
    assert time.monotonic() - started < 3


def test_a_resolver_that_does_not_answer_is_given_up_in_time() -> None:
    def slow(host: str, port: int) -> Sequence[str]:
        time.sleep(3)
        return ["1.1.1.1"]

    started = time.monotonic()
    with pytest.raises(TransientError):
        inputs(resolve=slow, limits=LIMITS)("http://slow.example/")
    assert time.monotonic() - started < 2


# -- what is answered -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "error"),
    [("404 Not Found", PermanentError), ("403 Forbidden", PermanentError), ("410 Gone", PermanentError), ("401 Unauthorized", PermanentError),
     ("204 No Content", PermanentError), ("302 Found", PermanentError), ("500 Oops", TransientError), ("503 Busy", TransientError), ("429 Slow Down", TransientError)],
)  # fmt: skip
def test_a_status_says_whether_it_is_worth_another_try(
    serve: Serve, status: str, error: type[AgentError]
) -> None:
    with pytest.raises(error) as caught:
        inputs("127.0.0.1")(local(serve(reply(status)), "/x?secret=1"))
    assert caught.value.code == "input_unreachable"
    assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "body", [b"", b"<html>not found</html>", b'{"a": 1}', b"\0" * 10_000, b"<svg/>", b"MZ\x90\0"]
)
def test_what_is_no_image_is_refused(serve: Serve, body: bytes) -> None:
    with pytest.raises(PermanentError) as caught:
        inputs("127.0.0.1")(local(serve(reply(body=body, Content_Type="image/png"))))
    assert caught.value.code == "input_not_image"


def test_a_body_that_breaks_off_is_not_taken_for_whole(serve: Serve) -> None:
    body = png(padding_bytes=200_000)
    with pytest.raises(TransientError):
        inputs("127.0.0.1")(local(serve(reply(body=body[:-1], content_length=str(len(body))))))


@pytest.mark.parametrize("answer", [b"", b"\0\0\0", b"HTTP/1.1 wrong\r\n\r\n"])
def test_what_is_no_http_is_tried_again(serve: Serve, answer: bytes) -> None:
    with pytest.raises(TransientError):
        inputs("127.0.0.1")(local(serve(answer)))


def test_nobody_listening_is_tried_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(TransientError):
        inputs("127.0.0.1")(f"http://127.0.0.1:{port}/x.png")


def test_a_certificate_for_another_name_is_not_accepted(serve: Serve, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "1",
        "-subj",
        "/CN=x.example",
    ]
    made = subprocess.run(
        [*command, "-keyout", str(key), "-out", str(certificate)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no openssl to make a certificate with")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = serve(reply(body=png()), context)
    with pytest.raises(PermanentError, match="certificate"):
        inputs("127.0.0.1")(f"https://127.0.0.1:{server.port}/x.png")
    assert server.requests == []


# -- S3 ---------------------------------------------------------------------------------------------------------


def objects(found: dict[tuple[str, str], bytes]) -> Any:
    @contextmanager
    def opened(bucket: str, key: str) -> Iterator[Iterator[bytes]]:
        data = found[bucket, key]
        yield (data[start : start + 1000] for start in range(0, len(data), 1000))

    return opened


def test_objects_come_from_the_own_and_the_listed_buckets_only() -> None:
    found = {("own-bucket", "a/b.png"): png(), ("listed", "c%20d.png"): png(padding_bytes=5000)}
    fetch = inputs("s3://listed", open_object=objects(found))
    assert fetch("s3://own-bucket/a/b.png").name == "b.png"
    assert fetch("s3://listed/c%20d.png").data == png(padding_bytes=5000)
    refused(lambda: fetch("s3://else/a/b.png"))


def test_an_object_has_the_same_limits() -> None:
    found = {("own-bucket", "big.png"): png(padding_bytes=2_000_000), ("own-bucket", "x.txt"): b"text"}
    fetch = inputs(open_object=objects(found), limits=LIMITS)
    with pytest.raises(PermanentError) as caught:
        fetch("s3://own-bucket/big.png")
    assert caught.value.code == "input_too_large"
    with pytest.raises(PermanentError) as caught:
        fetch("s3://own-bucket/x.txt")
    assert caught.value.code == "input_not_image"


def test_a_bad_allowlist_is_a_bad_setting() -> None:
    with pytest.raises(SettingsError, match="INPUT_ALLOWLIST"):
        make_fetcher(["http://x"], "b", lambda: None)
