"""Asking a registry what a tag means, over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import pytest

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.image_digests import image_digest
from sdctl.errors import ToolError

DIGEST = f"sha256:{'ab' * 32}"


class Registry(BaseHTTPRequestHandler):
    """Has one image, and one that wants a login over an address in the clear; notes what it is asked."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_HEAD(self) -> None:
        self.asked.append((self.path, self.headers.get("Accept", "")))
        if self.path == "/v2/some/image/manifests/latest":
            self.send_response(200)
            self.send_header("Docker-Content-Digest", DIGEST)
        elif self.path == "/v2/closed/image/manifests/latest":
            self.send_response(401)
            realm = f"http://{self.headers['Host']}/token"
            self.send_header("WWW-Authenticate", f'Bearer realm="{realm}",service="s",scope="x"')
        elif self.path == "/v2/odd/image/manifests/latest":
            self.send_response(200)
            self.send_header("Docker-Content-Digest", "sha256:../../etc/passwd")
        else:
            self.send_response(404)
        self.end_headers()

    def do_GET(self) -> None:
        self.asked.append((self.path, "token"))
        self.send_response(500)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def host() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Registry) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        Registry.asked.clear()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def ask(image: str) -> str:
    return image_digest(Aws(AwsAccess("us-west-2")), image, {"HTTPS_PROXY": "http://127.0.0.1:9"})


def test_a_tag_s_digest_is_that_of_the_whole_index(host: str) -> None:
    assert ask(f"{host}/some/image") == DIGEST
    assert "application/vnd.oci.image.index.v1+json" in Registry.asked[0][1]


@pytest.mark.parametrize("image", ["missing/image", "odd/image"])
def test_no_digest_is_an_error_that_names_the_image(host: str, image: str) -> None:
    with pytest.raises(ToolError, match=f"has no {host}/{image}:latest"):
        ask(f"{host}/{image}")


def test_no_token_is_asked_for_in_the_clear(host: str) -> None:
    with pytest.raises(ToolError, match="wants a login"):
        ask(f"{host}/closed/image")
    assert [path for path, _ in Registry.asked] == ["/v2/closed/image/manifests/latest"]


def test_a_registry_that_does_not_answer_is_an_error() -> None:
    with pytest.raises(ToolError, match="cannot be asked for 127"):
        ask("127.0.0.1:9/some/image")
