"""A Kubernetes API server for tests: HTTPS on a free port, in a thread, good enough for helm and kubectl.

Speaks discovery, OpenAPI v3 (so that clients believe in server-side field validation), objects in JSON and,
where Go clients insist, protobuf; server-side apply, patches, scale, watches and CRDs. What it keeps is in
`kubernetes_store`.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import copy
import functools
import ipaddress
import json
import ssl
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml
from aiohttp import web

from support import kubernetes_protobuf as protobuf
from support.kubernetes_store import NEVER_READY, Kind, Object, StatusError, Store, matches

__all__ = ["NEVER_READY", "KubernetesApi", "Request"]
_VERSION = {
    "major": "1", "minor": "36", "gitVersion": "v1.36.0-test", "gitCommit": "x", "gitTreeState": "clean",
    "buildDate": "2026-01-01T00:00:00Z", "goVersion": "go1.25", "compiler": "gc", "platform": "linux/amd64",
}  # fmt: skip
_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came; `token` is the bearer's."""

    method: str
    path: str
    query: dict[str, str]
    content_type: str
    token: str


@functools.cache
def certificate() -> tuple[str, str]:
    """Return the key and the certificate of all servers of this process, as PEM."""
    return make_certificate()


def make_certificate() -> tuple[str, str]:
    """Make a key and a certificate for 127.0.0.1; returns both as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private.decode(), built.public_bytes(serialization.Encoding.PEM).decode()


class KubernetesApi:
    """The server, as a context manager.

    Args:
        authenticate: says for a bearer token whether it is let in; everyone is, unless given.
        ready_seconds: how long controllers take.
        has_operators: Karpenter's and KEDA's kinds are there from the beginning, not only with their CRDs.
    """

    def __init__(
        self,
        *,
        authenticate: Callable[[str], bool] = lambda token: True,
        ready_seconds: float = 0.05,
        has_operators: bool = True,
    ) -> None:
        self.authenticate = authenticate
        self.ready_seconds = ready_seconds
        self._has_operators = has_operators
        self.requests: list[Request] = []
        self.failures: list[tuple[int, dict[str, str]]] = []  # (status, headers) of the next answers
        self.raw_answer: bytes | None = None
        self.intercept: Callable[[Request], None] = lambda request: None  # may raise StatusError
        self.url = ""
        self._watchers: list[tuple[asyncio.Queue[Object], Kind, str, str, str]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self.store: Store = None  # type: ignore[assignment] # made on entry

    @property
    def authority(self) -> str:
        """The certificate authority as EKS gives it: base64 of PEM."""
        return base64.b64encode(certificate()[1].encode()).decode()

    def __enter__(self) -> Self:
        self._thread.start()
        self._call(self._start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call(self._stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def wipe(self) -> None:
        """Begin anew, as the API of another cluster."""
        if threading.get_ident() == self._thread.ident:  # called from `authenticate` or `intercept`
            self._begin()
            return

        async def begin() -> None:
            self._begin()

        self._call(begin())

    def _begin(self) -> None:
        self.store = Store(self._changed, has_operators=self._has_operators)

    def objects(self, kind: str, namespace: str = "") -> list[Object]:
        """Return copies of all objects of a kind; none where there is no such kind."""

        async def read() -> list[Object]:
            if not self.store.has_kind(kind):
                return []
            return copy.deepcopy(self.store.select(self.store.kind(kind), namespace))

        return self._call(read())

    def put(self, kind: str, name: str, namespace: str = "", **body: Any) -> None:
        """Create an object behind the clients' back; `metadata` may hold more than the name."""

        async def write() -> None:
            metadata = {**body.pop("metadata", {}), "name": name}
            self.store.create(
                self.store.kind(kind), namespace, {**body, "metadata": metadata}, manager="test"
            )

        self._call(write())

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object behind the clients' back, whatever holds it."""

        async def delete() -> None:
            key = (self.store.kind(kind), namespace, name)
            self.store.get(key)["metadata"].pop("finalizers", None)
            self.store.delete(key)

        self._call(delete())

    def edit(self, kind: str, name: str, namespace: str, patch: Object, manager: str = "test") -> None:
        """Merge a patch into an object behind the clients' back, as another field manager."""

        async def write() -> None:
            key = (self.store.kind(kind), namespace, name)
            self.store.patch(key, "application/merge-patch+json", patch, manager=manager)

        self._call(write())

    def _call(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    async def _start(self) -> None:
        self._begin()
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=_server_context())
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        self.url = f"https://127.0.0.1:{port}"

    async def _stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for queue, *_ in self._watchers:
            queue.put_nowait({})
        if self._runner is not None:
            await self._runner.cleanup()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _changed(self, event: str, kind: Kind, found: Object) -> None:
        metadata = found["metadata"]
        for queue, of, namespace, labels, fields in self._watchers:
            is_inside = not namespace or metadata.get("namespace") == namespace
            if of == kind and is_inside and matches(found, labels, fields):
                queue.put_nowait({"type": event, "object": copy.deepcopy(found)})
        observed = found.get("status", {}).get("observedGeneration")
        is_behind = kind.kind == "Deployment" and observed != metadata["generation"]
        if event == "ADDED" or (event == "MODIFIED" and is_behind):
            key = (kind, metadata.get("namespace", ""), metadata["name"])
            task = self._loop.create_task(self._settle(key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _settle(self, key: Any) -> None:
        await asyncio.sleep(self.ready_seconds)
        self.store.settle(key)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        content_type = request.headers.get("Content-Type", "").partition(";")[0]
        seen = Request(request.method, request.path, dict(request.query), content_type, token)
        self.requests.append(seen)
        if self.failures:
            code, headers = self.failures.pop(0)
            document = StatusError(code, "Injected", "injected by the test").document
            return web.json_response(document, status=code, headers=headers)
        if self.raw_answer is not None:
            raw = web.Response(body=self.raw_answer, content_type="application/json")
            raw.enable_chunked_encoding()  # as the real server does with whatever is large
            return raw
        try:
            self.intercept(seen)
            if not self.authenticate(token):
                raise StatusError(401, "Unauthorized", "Unauthorized")
            return await self._answer(request, content_type)
        except StatusError as error:
            return web.json_response(error.document, status=error.code)

    async def _answer(self, request: web.Request, content_type: str) -> web.StreamResponse:
        path = request.path.strip("/")
        found = self._discovery(path)
        if found is not None:
            return web.json_response(found)
        kind, namespace, name, sub = self._route(path)
        query = request.query
        if request.method == "GET" and not name:
            if query.get("watch") in ("true", "1"):
                return await self._watch(request, kind, namespace)
            return web.json_response(self._list(kind, namespace, query))
        raw = await request.read()
        body = protobuf.decode(raw) if raw.startswith(protobuf.MAGIC) else yaml.safe_load(raw) if raw else {}
        agent = request.headers.get("User-Agent", "").partition("/")[0]
        manager, dry = query.get("fieldManager") or agent, "dryRun" in query
        if request.method == "POST":
            created = self.store.create(kind, namespace, body, manager=manager, dry=dry)
            return web.json_response(created, status=201)
        key = (kind, namespace, name)
        if sub == "scale":
            return web.json_response(self._scale(request.method, key, body, manager))
        match request.method:
            case "GET":
                return web.json_response(self.store.get(key))
            case "PUT":
                return web.json_response(self.store.replace(key, body, manager=manager, dry=dry))
            case "PATCH" if content_type == "application/apply-patch+yaml":
                is_new = key not in self.store.objects
                force = query.get("force") == "true"
                applied = self.store.apply(key, body, manager=manager, force=force, dry=dry)
                return web.json_response(applied, status=201 if is_new else 200)
            case "PATCH":
                patched = self.store.patch(key, content_type, body, manager=manager, dry=dry)
                return web.json_response(patched)
            case "DELETE":
                policy = body.get("propagationPolicy") or query.get("propagationPolicy") or "Background"
                return web.json_response(self.store.delete(key, policy))
        raise StatusError(405, "MethodNotAllowed", f"{request.method} is not supported")

    def _discovery(self, path: str) -> Object | None:
        groups: dict[str, list[Kind]] = {}
        for kind in self.store.kinds:
            groups.setdefault(kind.path, []).append(kind)
        if path == "version":
            return _VERSION
        if path == "api":
            return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}
        if path == "apis":
            versions: dict[str, list[Object]] = {}
            for kinds in groups.values():
                one = {"groupVersion": kinds[0].group_version, "version": kinds[0].version}
                versions.setdefault(kinds[0].group, []).append(one)
            listed = [
                {"name": group, "versions": ones, "preferredVersion": ones[0]}
                for group, ones in versions.items()
                if group
            ]
            return {"kind": "APIGroupList", "apiVersion": "v1", "groups": listed}
        if path == "openapi/v3":
            return {"paths": {one: {"serverRelativeURL": f"/openapi/v3/{one}?hash=1"} for one in groups}}
        if path.startswith("openapi/v3/") and path.removeprefix("openapi/v3/") in groups:
            return _open_api(groups[path.removeprefix("openapi/v3/")])
        if path in groups:
            resources = [
                {"name": kind.plural, "singularName": kind.kind.lower(), "namespaced": kind.is_namespaced,
                 "kind": kind.kind, "verbs": _VERBS}
                for kind in groups[path]
            ]  # fmt: skip
            version = groups[path][0].group_version
            return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version,
                    "resources": resources}  # fmt: skip
        return None

    def _route(self, path: str) -> tuple[Kind, str, str, str]:
        for kind in self.store.kinds:
            if not path.startswith(f"{kind.path}/"):
                continue
            rest = path.removeprefix(f"{kind.path}/").split("/")
            namespace = ""
            if kind.is_namespaced and rest[0] == "namespaces" and len(rest) > 2:
                namespace, rest = rest[1], rest[2:]
            name, sub = [*rest[1:], "", ""][:2]
            if rest[0] == kind.plural and len(rest) <= 3 and sub in ("", "scale", "status"):
                return kind, namespace, name, sub
        raise StatusError(404, "NotFound", "the server could not find the requested resource")

    def _list(self, kind: Kind, namespace: str, query: Any) -> Object:
        found = self.store.select(
            kind, namespace, query.get("labelSelector", ""), query.get("fieldSelector", "")
        )
        at, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        page = found[at : at + limit] if limit else found
        more = {"continue": str(at + limit)} if limit and at + limit < len(found) else {}
        return {
            "kind": f"{kind.kind}List", "apiVersion": kind.group_version, "items": page,
            "metadata": {"resourceVersion": str(self.store.resource_version)} | more,
        }  # fmt: skip

    def _scale(self, method: str, key: Any, body: Object, manager: str) -> Object:
        if method in ("PATCH", "PUT"):
            wanted = {"spec": {"replicas": body["spec"]["replicas"]}}
            self.store.patch(key, "application/merge-patch+json", wanted, manager=manager)
        found = self.store.get(key)
        replicas = found["spec"].get("replicas", 1)
        return {
            "kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": found["metadata"],
            "spec": {"replicas": replicas}, "status": {"replicas": replicas},
        }  # fmt: skip

    async def _watch(self, request: web.Request, kind: Kind, namespace: str) -> web.StreamResponse:
        query = request.query
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        queue: asyncio.Queue[Object] = asyncio.Queue()
        watcher = (queue, kind, namespace, labels, fields)
        wants_all = query.get("sendInitialEvents") == "true"
        if wants_all or query.get("resourceVersion") in (None, "", "0"):
            for found in self.store.select(kind, namespace, labels, fields):
                queue.put_nowait({"type": "ADDED", "object": copy.deepcopy(found)})
        if wants_all:
            metadata = {
                "resourceVersion": str(self.store.resource_version),
                "annotations": {"k8s.io/initial-events-end": "true"},
            }
            mark = {"kind": kind.kind, "apiVersion": kind.group_version, "metadata": metadata}
            queue.put_nowait({"type": "BOOKMARK", "object": mark})
        self._watchers.append(watcher)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        try:
            await response.prepare(request)
            with contextlib.suppress(TimeoutError, ConnectionResetError):
                async with asyncio.timeout(float(query.get("timeoutSeconds") or 300)):
                    while event := await queue.get():
                        await response.write(json.dumps(event).encode() + b"\n")
        finally:
            self._watchers.remove(watcher)
        return response


def _open_api(kinds: list[Kind]) -> Object:
    parameters = [
        {"name": name, "in": "query", "schema": {"type": "string"}} for name in ("fieldValidation", "dryRun")
    ]
    paths = {}
    for kind in kinds:
        of = {"group": kind.group, "version": kind.version, "kind": kind.kind}
        inside = "namespaces/{namespace}/" if kind.is_namespaced else ""
        operation = {"x-kubernetes-group-version-kind": of, "responses": {}}
        paths[f"/{kind.path}/{inside}{kind.plural}/{{name}}"] = {
            "get": operation,
            "patch": operation | {"parameters": parameters, "x-kubernetes-action": "patch"},
        }
    return {"openapi": "3.0.0", "info": {"title": "test", "version": "v1"}, "paths": paths,
            "components": {"schemas": {}}}  # fmt: skip


def _server_context() -> ssl.SSLContext:
    key, public = certificate()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pem"
        path.write_text(key + public)
        context.load_cert_chain(path)
    return context
