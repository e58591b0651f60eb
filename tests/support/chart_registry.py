"""A registry of charts and images for tests: OCI at `/v2/`, and an index of the charts at `/charts/`.

As much of https://github.com/opencontainers/distribution-spec as pulling a chart takes.
"""

from __future__ import annotations

import hashlib
import io
import json
import ssl
import tarfile
import threading
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml

from support.kubernetes_api import certificate

USER, PASSWORD = "AWS", "a-long-token"
_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True, slots=True)
class Registry:
    """Where the registry is; `authority` is a PEM file to trust."""

    host: str
    authority: Path

    def oci(self, name: str) -> str:
        return f"oci://{self.host}/mirror/{name}"

    @property
    def repository(self) -> str:
        return f"https://{self.host}/charts"


@dataclass(frozen=True, slots=True)
class Served:
    """A chart to serve: the folder that holds it, and its version where that is not the chart's own."""

    chart: Path
    version: str = ""

    @property
    def about(self) -> dict[str, str]:
        """What `Chart.yaml` says."""
        own: dict[str, str] = yaml.safe_load((self.chart / "Chart.yaml").read_text())
        return own | ({"version": self.version} if self.version else {})

    def packed(self) -> bytes:
        """Return the archive that helm reads."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path in sorted(self.chart.rglob("*")):
                name = f"{self.chart.name}/{path.relative_to(self.chart)}"
                if path.name == "Chart.yaml":
                    content = yaml.safe_dump(self.about).encode()
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    archive.addfile(entry, io.BytesIO(content))
                elif path.is_file():
                    archive.add(path, arcname=name)
        return packed.getvalue()


Files = dict[str, tuple[str, bytes]]


def _files(served: Served, repository: str) -> tuple[Files, Files]:
    """Build what may need the password, and what does not: paths with their types and contents."""
    about = served.about
    name, version = about["name"], about["version"]
    config, layer = json.dumps(about).encode(), served.packed()
    private: Files = {}

    def blob(content: bytes, media_type: str) -> dict[str, object]:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        private[f"/v2/{repository}/blobs/{digest}"] = ("application/octet-stream", content)
        return {"mediaType": media_type, "digest": digest, "size": len(content)}

    manifest = json.dumps({
        "schemaVersion": 2, "mediaType": _MANIFEST,
        "config": blob(config, "application/vnd.cncf.helm.config.v1+json"),
        "layers": [blob(layer, "application/vnd.cncf.helm.chart.content.v1.tar+gzip")],
    }).encode()  # fmt: skip
    for tag in (version, f"sha256:{hashlib.sha256(manifest).hexdigest()}"):
        private[f"/v2/{repository}/manifests/{tag}"] = (_MANIFEST, manifest)
    private["/v2/"] = ("application/json", b"{}")
    entry: dict[str, object] = about | {
        "urls": [f"{name}-{version}.tgz"],
        "digest": hashlib.sha256(layer).hexdigest(),
    }
    index = yaml.safe_dump({"apiVersion": "v1", "entries": {name: [entry]}}).encode()
    public = {
        "/charts/index.yaml": ("text/yaml", index),
        f"/charts/{name}-{version}.tgz": ("application/gzip", layer),
    }
    return private, public


@contextmanager
def chart_registry(
    charts: Mapping[str, Served],
    folder: Path,
    *,
    images: Iterable[str] = (),
    is_tls: bool = False,
    needs_login: bool = True,
) -> Iterator[Registry]:
    """Serve charts for as long as the context lasts.

    Args:
        charts: by their paths in the registry.
        folder: keeps the authority's file.
        images: paths of images, of each of which `latest` is there and says its digest.
        is_tls: speak HTTPS; on loopback registries are plain HTTP, as docker takes them to be.
        needs_login: let only `USER` with `PASSWORD` read by OCI.
    """
    private: Files = {}
    public: Files = {}
    for repository, served in charts.items():
        by_oci, by_index = _files(served, repository)
        private |= by_oci
        public |= by_index
    for image in images:
        about = {"schemaVersion": 2, "mediaType": _INDEX, "manifests": [], "annotations": {"of": image}}
        private[f"/v2/{image}/manifests/latest"] = (_INDEX, json.dumps(about).encode())
    wanted = f"Basic {b64encode(f'{USER}:{PASSWORD}'.encode()).decode()}"

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path in public:
                self._send(200, *public[path])
            elif needs_login and self.headers.get("Authorization") != wanted:
                self._send(401, "application/json", b'{"errors":[{"code":"UNAUTHORIZED"}]}')
            elif path in private:
                self._send(200, *private[path])
            else:
                self._send(404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}')

        do_HEAD = do_GET

        def _send(self, status: int, media_type: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(content).hexdigest()}")
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="registry"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    key, public_key = certificate()
    pem, authority = folder / "registry-key.pem", folder / "registry-ca.pem"
    pem.write_text(key + public_key)
    authority.write_text(public_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if is_tls:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield Registry(f"127.0.0.1:{server.server_port}", authority)
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
