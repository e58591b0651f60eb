"""The Kubernetes API, as far as we need it: read, list, apply, patch, delete and wait; no kubectl.

Answers are bounded, every request has a deadline, a refused token is renewed once, and what is safe to
repeat is repeated when the server is busy or the connection breaks. Objects stay JSON here; the typed
readings of them are in `kubernetes_objects`.
"""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

import urllib3

from sdctl.clients.aws import Aws
from sdctl.clients.cluster_access import ClusterAccess, TokenSource, make_token
from sdctl.errors import ConflictError, NotFoundError, RemoteError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll

FIELD_MANAGER: Final = "sdctl"
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024
CONNECT_TIMEOUT_SECONDS: Final = 10.0
REQUEST_TIMEOUT_SECONDS: Final = 60.0
PAGE_SIZE: Final = 500
_CHUNK_BYTES: Final = 256 * 1024
_ATTEMPTS: Final = 4
_RETRY_SECONDS: Final = 0.5
_MAX_RETRY_SECONDS: Final = 5.0
# Busy, or between two servers; the API server says "too many requests" to everyone when it restarts.
_PASSING_STATUSES: Final = frozenset({429, 500, 502, 503, 504})
_WAIT_PACE: Final = Pace(interval_seconds=1.0, factor=1.3, ceiling_seconds=5.0)

MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the API: where it is, and whether it lies in a namespace."""

    group: str
    version: str
    plural: str
    kind: str
    is_namespaced: bool = True

    @property
    def group_version(self) -> str:
        """What objects have as their `apiVersion`."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "") -> str:
        """Return the path of the collection, or of one object; an empty namespace means all."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if namespace and self.is_namespaced:
            parts += ["namespaces", namespace]
        parts += [self.plural] + ([name] if name else [])
        return "/" + "/".join(quote(part, safe="") for part in parts)


NAMESPACES: Final = Kind("", "v1", "namespaces", "Namespace", is_namespaced=False)
NODES: Final = Kind("", "v1", "nodes", "Node", is_namespaced=False)
PODS: Final = Kind("", "v1", "pods", "Pod")
DEPLOYMENTS: Final = Kind("apps", "v1", "deployments", "Deployment")
NODE_POOLS: Final = Kind("karpenter.sh", "v1", "nodepools", "NodePool", is_namespaced=False)
NODE_CLAIMS: Final = Kind("karpenter.sh", "v1", "nodeclaims", "NodeClaim", is_namespaced=False)
NODE_CLASSES: Final = Kind("karpenter.k8s.aws", "v1", "ec2nodeclasses", "EC2NodeClass", is_namespaced=False)
SCALED_OBJECTS: Final = Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")
KINDS: Final = {
    (one.group_version, one.kind): one
    for one in (
        NAMESPACES, NODES, PODS, DEPLOYMENTS, NODE_POOLS, NODE_CLAIMS, NODE_CLASSES, SCALED_OBJECTS,
    )
}  # fmt: skip


class KubernetesError(RemoteError):
    """The Kubernetes API refused a request, or did not answer."""

    code = "kubernetes"

    def __init__(self, message: str = "", *, status: int = 0, reason: str = "", hint: str = "") -> None:
        """Keep the HTTP status (0: no answer) and Kubernetes' own reason beside the message."""
        super().__init__(message, hint=hint)
        self.status = status
        self.reason = reason


def connect(
    aws: Aws,
    access: ClusterAccess,
    *,
    environment: Mapping[str, str] | None = None,
    clock: Clock = REAL_CLOCK,
) -> Kubernetes:
    """Return a client that signs in with a session's credentials; nothing is sent yet."""
    tokens = TokenSource(lambda: make_token(aws, access.stack_name))
    return Kubernetes(access, tokens, environment=environment, clock=clock)


class Kubernetes:
    """A client of one cluster; a context manager that closes its connections. Safe between threads."""

    def __init__(
        self,
        access: ClusterAccess,
        tokens: TokenSource,
        *,
        environment: Mapping[str, str] | None = None,
        request_timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
        clock: Clock = REAL_CLOCK,
    ) -> None:
        """Prepare the connections; nothing is sent yet.

        Args:
            access: where the API is.
            tokens: as whom to speak to it.
            environment: for the proxy variables.
            request_timeout_seconds: for each request with its whole answer.
            clock: time to use between attempts and in waits.
        """
        self._access = access
        self._tokens = tokens
        self._timeout_seconds = request_timeout_seconds
        self._clock = clock
        self._pool = _pool(access, environment or {})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._pool.clear()

    def server_version(self) -> str:
        """Return the server's version, as `1.36`."""
        found = self._exchange("GET", "/version", action="read the version of Kubernetes")
        return f"{found.get('major', '')}.{str(found.get('minor', '')).rstrip('+')}"

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Read one object.

        Raises:
            NotFoundError: there is none; the same for a kind whose CRD is not installed.
            KubernetesError: the API refused, or did not answer.
        """
        return self._exchange(
            "GET", kind.path(namespace, name), action=f"read {_named(kind, name, namespace)}"
        )

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """Read one object, or return None where there is none."""
        try:
            return self.get(kind, name, namespace)
        except NotFoundError:
            return None

    def list(self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "") -> list[Object]:
        """Read all objects of a kind, page by page; none where the kind's CRD is not installed.

        Args:
            kind: what.
            namespace: where; everywhere, unless given.
            labels: a label selector, as `karpenter.sh/nodepool=gpu`.
            fields: a field selector, as `status.phase=Running`.
        """
        query = {"limit": str(PAGE_SIZE), "labelSelector": labels, "fieldSelector": fields, "continue": ""}
        found: list[Object] = []
        while True:
            try:
                page = self._exchange("GET", kind.path(namespace), query=query, action=f"list {kind.plural}")
            except NotFoundError:
                return []
            # A list's items leave out what its head says.
            head = {"apiVersion": kind.group_version, "kind": kind.kind}
            found += [head | item for item in page.get("items") or []]
            query["continue"] = str((page.get("metadata") or {}).get("continue") or "")
            if not query["continue"]:
                return found

    def apply(self, kind: Kind, manifest: Object, *, force: bool = True) -> Object:
        """Make an object what the manifest says, by server-side apply; what we no longer say is removed.

        Args:
            kind: of what.
            manifest: the object, with `metadata.name` and, where it has one, `metadata.namespace`.
            force: take over fields that others own; without it they are a ConflictError.
        """
        metadata = manifest["metadata"]
        name, namespace = metadata["name"], metadata.get("namespace", "")
        query = {"fieldManager": FIELD_MANAGER, "force": "true" if force else "false"}
        body = {"apiVersion": kind.group_version, "kind": kind.kind} | manifest
        return self._exchange(
            "PATCH", kind.path(namespace, name), query=query, body=body, content_type=APPLY_PATCH,
            action=f"apply {_named(kind, name, namespace)}",
        )  # fmt: skip

    def patch(self, kind: Kind, name: str, changes: Object, namespace: str = "") -> Object:
        """Merge changes into an object; None removes a field, and lists are replaced whole."""
        return self._exchange(
            "PATCH", kind.path(namespace, name), query={"fieldManager": FIELD_MANAGER}, body=changes,
            content_type=MERGE_PATCH, action=f"change {_named(kind, name, namespace)}",
        )  # fmt: skip

    def annotate(
        self, kind: Kind, name: str, annotations: Mapping[str, str | None], namespace: str = ""
    ) -> Object:
        """Set annotations of an object; None removes one."""
        return self.patch(kind, name, {"metadata": {"annotations": dict(annotations)}}, namespace)

    def delete(self, kind: Kind, name: str, namespace: str = "") -> bool:
        """Delete an object and, in the background, what it owns; tell whether it was there."""
        try:
            self._exchange(
                "DELETE", kind.path(namespace, name), body={"propagationPolicy": "Background"},
                action=f"delete {_named(kind, name, namespace)}",
            )  # fmt: skip
        except NotFoundError:
            return False
        return True

    def wait(
        self,
        kind: Kind,
        name: str,
        is_reached: Callable[[Object], bool],
        *,
        awaited: str,
        timeout_seconds: float,
        namespace: str = "",
        describe: Callable[[Object], str] = lambda _: "",
    ) -> Object:
        """Wait until an object is as wanted; it may not exist yet.

        Args:
            kind: of what.
            name: which.
            is_reached: tells whether it is.
            awaited: what is waited for, for the error.
            timeout_seconds: from now.
            namespace: where.
            describe: says what was last seen, for the error.

        Raises:
            WaitTimeoutError: it is not, in time.
        """
        last: list[str] = ["nothing of that name"]

        def probe() -> Object | None:
            found = self.find(kind, name, namespace)
            last[0] = describe(found) if found else "nothing of that name"
            return found if found and is_reached(found) else None

        return poll(
            probe, awaited=awaited, timeout_seconds=timeout_seconds, pace=_WAIT_PACE, state=lambda: last[0],
            clock=self._clock,
        )  # fmt: skip

    def wait_gone(
        self, kind: Kind, *, timeout_seconds: float, namespace: str = "", labels: str = "", fields: str = ""
    ) -> None:
        """Wait until no object of a kind fits the selectors any more.

        Raises:
            WaitTimeoutError: some are left; names them.
        """
        left: list[str] = []

        def probe() -> bool | None:
            left[:] = [
                str(one["metadata"]["name"])
                for one in self.list(kind, namespace, labels=labels, fields=fields)
            ]
            return None if left else True

        poll(
            probe, awaited=f"the end of {kind.plural}", timeout_seconds=timeout_seconds, pace=_WAIT_PACE,
            state=lambda: f"{len(left)} left: {', '.join(left[:5])}", clock=self._clock,
        )  # fmt: skip

    def _exchange(
        self,
        method: str,
        path: str,
        *,
        action: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        """Send one request, again where that can help, and read its answer."""
        url = self._access.endpoint.rstrip("/") + path
        pairs = {name: value for name, value in (query or {}).items() if value}
        url += f"?{urlencode(pairs)}" if pairs else ""
        headers = {"Accept": "application/json", "User-Agent": FIELD_MANAGER}
        if body is not None:
            headers["Content-Type"] = content_type
        data = json.dumps(body).encode() if body is not None else None
        is_renewed = False
        for attempt in range(1, _ATTEMPTS + 1):
            token = self._tokens.current()
            sent = headers | {"Authorization": f"Bearer {token}"}
            try:
                status, answer = self._send(method, url, sent, data, action)
            except KubernetesError:
                if attempt == _ATTEMPTS:
                    raise
            else:
                if status == 401 and not is_renewed:
                    is_renewed = True
                    self._tokens.discard(token)
                    continue
                if status not in _PASSING_STATUSES or attempt == _ATTEMPTS:
                    return _read(status, answer, action)
            self._clock.sleep(self._pause_seconds(attempt))
        raise KubernetesError(f"could not {action}: the credentials are not accepted", status=401)

    def _pause_seconds(self, attempt: int) -> float:
        longest = min(_MAX_RETRY_SECONDS, _RETRY_SECONDS * 2 ** (attempt - 1))
        return self._clock.uniform(longest / 2, longest)

    def _send(
        self, method: str, url: str, headers: Mapping[str, str], data: bytes | None, action: str
    ) -> tuple[int, bytes]:
        deadline = time.monotonic() + self._timeout_seconds
        timeout = urllib3.Timeout(
            connect=min(CONNECT_TIMEOUT_SECONDS, self._timeout_seconds), read=self._timeout_seconds
        )
        with _connection_errors(action, self._access.endpoint):
            response = self._pool.request(
                method, url, body=data, headers=dict(headers), timeout=timeout, retries=False, redirect=False,
                preload_content=False,
            )  # fmt: skip
            try:
                answer = _whole(response, deadline, action)
            except BaseException:
                response.close()
                raise
            response.release_conn()
            return response.status, answer


def _whole(response: urllib3.BaseHTTPResponse, deadline: float, action: str) -> bytes:
    pieces: list[bytes] = []
    size = 0
    while True:
        # A single read, so that a server which sends a byte now and then meets the deadline too.
        piece = response.read1(_CHUNK_BYTES)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
        size += len(piece)
        if size > MAX_ANSWER_BYTES:
            raise KubernetesError(f"could not {action}: the answer is larger than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise KubernetesError(f"could not {action}: the answer did not end in time")


def _pool(access: ClusterAccess, environment: Mapping[str, str]) -> urllib3.PoolManager:
    context = ssl.create_default_context(cadata=access.authority_pem)
    options: dict[str, Any] = {"ssl_context": context, "maxsize": 4, "block": False}
    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    if proxy and not _is_direct(access.endpoint, environment):
        return urllib3.ProxyManager(proxy if "://" in proxy else f"http://{proxy}", **options)
    return urllib3.PoolManager(**options)


def _is_direct(endpoint: str, environment: Mapping[str, str]) -> bool:
    """Tell whether NO_PROXY names the server: a host, or a domain and all below it."""
    host = urllib3.util.parse_url(endpoint).host or ""
    named = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    domains = [word.strip().lstrip(".").lower() for word in named.split(",") if word.strip()]
    return any(one == "*" or f".{host}".endswith(f".{one}") for one in domains)


@contextmanager
def _connection_errors(action: str, endpoint: str) -> Iterator[None]:
    try:
        yield
    except (urllib3.exceptions.HTTPError, ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error
        text = str(reason).rpartition(": ")[2] or type(error).__name__
        hint = "is this machine in publicAccessCidrs, or behind a proxy? sdctl doctor"
        raise KubernetesError(f"could not {action}: no answer from {endpoint}: {text}", hint=hint) from error


def _read(status: int, answer: bytes, action: str) -> Object:
    try:
        document = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise KubernetesError(
            f"could not {action}: the answer ({status}) is no JSON", status=status
        ) from error
    if not isinstance(document, dict):
        raise KubernetesError(f"could not {action}: the answer ({status}) is no object", status=status)
    if 200 <= status < 300:
        return document
    reason, text = str(document.get("reason") or ""), str(document.get("message") or "no reason given")
    message = f"could not {action}: {text} ({reason or status})"
    if status == 404:
        raise NotFoundError(message)
    if status == 409:
        raise ConflictError(message)
    hint = _HINTS.get(status, "")
    raise KubernetesError(message, status=status, reason=reason, hint=hint)


_HINTS: Final = {
    401: "these credentials have no access entry in the cluster: use those that deployed it",
    403: "these credentials have too few rights in the cluster: use those that deployed it",
}


def _named(kind: Kind, name: str, namespace: str) -> str:
    return f"{kind.kind} {namespace}/{name}" if namespace and kind.is_namespaced else f"{kind.kind} {name}"
