"""A registry of images in memory that takes pushes, and can be told to fail: real HTTP on loopback.

As much of https://github.com/opencontainers/distribution-spec as copying takes, with ECR's two habits:
a repository must exist before, and a tag may be immutable.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def sha256(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass
class Fault:
    """What happens to the next requests that fit: an answer, or a line that breaks after so many bytes."""

    method: str
    path: str
    times: int = 1
    status: int = 0
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_after_bytes: int | None = None
    content: bytes | None = None


@dataclass
class OciRegistry:
    """What the registry holds, and what it was asked."""

    host: str = ""
    blobs: dict[tuple[str, str], bytes] = field(default_factory=dict)  # by repository and digest
    manifests: dict[tuple[str, str], tuple[str, bytes]] = field(default_factory=dict)  # and tag or digest
    repositories: set[str] | None = None  # None: each comes into being when it is written to
    is_immutable: bool = False
    mounts: bool = True
    token: str = ""  # asked for by the bearer protocol, where set
    login: str = ""  # what the token's server, or Basic, wants
    redirects_to: str = ""  # where blobs lie
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str]] = field(default_factory=list)
    authorizations: list[tuple[str, str]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, method: str, piece: str) -> int:
        return sum(1 for one, path in self.requests if one == method and piece in path)

    def uploads(self) -> Counter[str]:
        """Count by digest how often a blob was begun to be sent."""
        found: Counter[str] = Counter()
        for method, path in self.requests:
            if method == "PUT" and "digest=" in path:
                found[parse_qs(urlsplit(path).query)["digest"][0]] += 1
        return found

    # ---- Contents ------------------------------------------------------------------------------
    def put_blob(self, repository: str, content: bytes) -> dict[str, Any]:
        self.blobs[repository, sha256(content)] = content
        return {"digest": sha256(content), "size": len(content)}

    def put_manifest(self, repository: str, document: Mapping[str, Any], *tags: str) -> dict[str, Any]:
        content = json.dumps(document).encode()
        for asked in (sha256(content), *tags):
            self.manifests[repository, asked] = (document["mediaType"], content)
        return {"mediaType": document["mediaType"], "digest": sha256(content), "size": len(content)}

    def put_image(self, repository: str, tag: str, *layers: bytes, platforms: int = 2) -> str:
        """Store an image for several platforms whose layers are the same; returns the index's digest."""
        children = []
        for number in range(platforms):
            config = self.put_blob(repository, json.dumps({"architecture": f"a{number}"}).encode())
            document = {
                "schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": CONFIG, **config},
                "layers": [{"mediaType": LAYER, **self.put_blob(repository, layer)} for layer in layers],
            }  # fmt: skip
            platform = {"os": "linux", "architecture": f"a{number}"}
            children.append({**self.put_manifest(repository, document), "platform": platform})
        index = {"schemaVersion": 2, "mediaType": INDEX, "manifests": children}
        return str(self.put_manifest(repository, index, tag)["digest"])

    def is_whole(self, repository: str, asked: str) -> bool:
        """Tell whether everything that a manifest or index names is in the repository, with its digest."""
        if (repository, asked) not in self.manifests:
            return False
        document = json.loads(self.manifests[repository, asked][1])
        children = all(self.is_whole(repository, one["digest"]) for one in document.get("manifests", ()))
        named = [document["config"]] if "config" in document else []
        named += document.get("layers", [])
        return children and all(
            sha256(self.blobs.get((repository, one["digest"]), b"")) == one["digest"] for one in named
        )


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: OciRegistry

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def _serve(self) -> None:
        registry = self.registry
        with registry.lock:
            registry.requests.append((self.command, self.path))
            registry.authorizations.append((self.path, self.headers.get("Authorization", "")))
        if self.path.startswith("/token"):
            return self._token()
        fault = self._fault()
        if fault is not None and fault.status:
            self._drain()
            return self._send(fault.status, fault.content or b"{}", dict(fault.headers))
        if not self._is_let_in():
            self._drain()
            challenge = (
                f'Bearer realm="http://{registry.host}/token",service="test"' if registry.token else "Basic"
            )
            return self._send(401, b"{}", {"WWW-Authenticate": challenge})
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/(.+)", urlsplit(self.path).path)
        if match is None:
            return self._send(404, b"{}")
        if match[2] == "manifests":
            return self._manifest(match[1], match[3])
        return self._blob(match[1], match[3], fault)

    do_GET = do_HEAD = do_POST = do_PUT = _serve

    def _fault(self) -> Fault | None:
        with self.registry.lock:
            for fault in self.registry.faults:
                if fault.times > 0 and fault.method == self.command and fault.path in self.path:
                    fault.times -= 1
                    return fault
        return None

    def _is_let_in(self) -> bool:
        given = self.headers.get("Authorization", "")
        if self.registry.token:
            return given == f"Bearer {self.registry.token}"
        return not self.registry.login or given == f"Basic {self.registry.login}"

    def _token(self) -> None:
        if self.registry.login and self.headers.get("Authorization", "") != f"Basic {self.registry.login}":
            return self._send(401, b"{}")
        return self._send(200, json.dumps({"token": self.registry.token}).encode())

    def _manifest(self, repository: str, asked: str) -> None:
        registry = self.registry
        if self.command == "PUT":
            content = self._body()
            media_type = self.headers["Content-Type"]
            old = registry.manifests.get((repository, asked))
            if old is not None and old[1] != content and registry.is_immutable and ":" not in asked:
                return self._error(400, "TAG_INVALID", "the tag is immutable")
            document = json.loads(content)
            named = [one["digest"] for one in document.get("manifests", ())]
            if any((repository, one) not in registry.manifests for one in named):
                return self._error(404, "MANIFEST_UNKNOWN", "a manifest is missing")
            blobs = [document["config"], *document["layers"]] if "config" in document else []
            if any((repository, one["digest"]) not in registry.blobs for one in blobs):
                return self._error(404, "BLOB_UNKNOWN", "a blob is missing")
            for key in (asked, sha256(content)):
                registry.manifests[repository, key] = (media_type, content)
            return self._send(201, b"")
        found = registry.manifests.get((repository, asked))
        if found is None:
            return self._error(404, "MANIFEST_UNKNOWN", "no such manifest")
        return self._send(
            200, found[1], {"Content-Type": found[0], "Docker-Content-Digest": sha256(found[1])}
        )

    def _blob(self, repository: str, rest: str, fault: Fault | None) -> None:
        registry, query = self.registry, parse_qs(urlsplit(self.path).query)
        if rest.startswith("uploads/"):
            if registry.repositories is not None and repository not in registry.repositories:
                self._drain()
                return self._error(404, "NAME_UNKNOWN", "the repository does not exist")
            if self.command == "POST":
                return self._begin(repository, query)
            return self._finish(repository, query["digest"][0], fault)
        content = registry.blobs.get((repository, rest))
        if content is None:
            return self._error(404, "BLOB_UNKNOWN", "no such blob")
        if registry.redirects_to and self.command == "GET":
            return self._send(307, b"", {"Location": f"{registry.redirects_to}/v2/{repository}/blobs/{rest}"})
        start = int(re.sub(r"\D", "", self.headers.get("Range", "") or "0"))
        if fault is not None and fault.content is not None:
            content = fault.content
        cut = fault.cut_after_bytes if fault is not None else None
        return self._send(206 if start else 200, content[start:], cut=cut)

    def _begin(self, repository: str, query: dict[str, list[str]]) -> None:
        registry = self.registry
        self._drain()
        if "mount" in query and registry.mounts:
            content = registry.blobs.get((query["from"][0], query["mount"][0]))
            if content is not None:
                registry.put_blob(repository, content)
                return self._send(201, b"")
        return self._send(202, b"", {"Location": f"/v2/{repository}/blobs/uploads/1?state=x"})

    def _finish(self, repository: str, digest: str, fault: Fault | None) -> None:
        if fault is not None and fault.cut_after_bytes is not None:
            self.rfile.read(min(fault.cut_after_bytes, int(self.headers["Content-Length"])))
            self.close_connection = True
            # Nothing is said any more, not even that it ends.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            for one in (self.rfile, self.wfile, self.connection):
                one.close()
            return None
        content = self._body()
        if sha256(content) != digest:
            return self._error(400, "DIGEST_INVALID", "another content")
        self.registry.put_blob(repository, content)
        return self._send(201, b"")

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", "0")))

    def _drain(self) -> None:
        self._body()

    def _error(self, status: int, code: str, message: str) -> None:
        self._send(status, json.dumps({"errors": [{"code": code, "message": message}]}).encode())

    def _send(
        self, status: int, content: bytes, headers: Mapping[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content if cut is None else content[:cut])
        if cut is not None:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def oci_registry(**settings: Any) -> Iterator[OciRegistry]:
    """Run a registry for as long as the context lasts."""
    registry = OciRegistry(**settings)
    handler = type("Handler", (_Handler,), {"registry": registry})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    registry.host = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
