"""The Kubernetes API, as far as we need it: read, list, apply, patch, delete and wait; no kubectl.

Objects stay JSON here; the typed readings of them are in `kubernetes_objects`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import quote

from sdctl.clients.aws import Aws
from sdctl.clients.cluster_access import ClusterAccess, TokenSource, make_token
from sdctl.clients.kubernetes_http import JSON, ApiConnection, Object
from sdctl.errors import NotFoundError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll

FIELD_MANAGER: Final = "sdctl"
REQUEST_TIMEOUT_SECONDS: Final = 60.0
PAGE_SIZE: Final = 500
_WAIT_PACE: Final = Pace(interval_seconds=1.0, factor=1.3, ceiling_seconds=5.0)

# https://kubernetes.io/docs/reference/using-api/api-concepts/#receiving-resources-as-tables
_METADATA: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY_PATCH: Final = "application/apply-patch+yaml"


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
SECRETS: Final = Kind("", "v1", "secrets", "Secret")
DEPLOYMENTS: Final = Kind("apps", "v1", "deployments", "Deployment")
NODE_POOLS: Final = Kind("karpenter.sh", "v1", "nodepools", "NodePool", is_namespaced=False)
NODE_CLAIMS: Final = Kind("karpenter.sh", "v1", "nodeclaims", "NodeClaim", is_namespaced=False)
NODE_CLASSES: Final = Kind("karpenter.k8s.aws", "v1", "ec2nodeclasses", "EC2NodeClass", is_namespaced=False)
SCALED_OBJECTS: Final = Kind("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject")


def connect(
    aws: Aws,
    access: ClusterAccess,
    *,
    environment: Mapping[str, str] | None = None,
    request_timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
    clock: Clock = REAL_CLOCK,
) -> Kubernetes:
    """Return a client that signs in with a session's credentials; nothing is sent yet."""
    tokens = TokenSource(lambda: make_token(aws, access.stack_name))
    return Kubernetes(
        access, tokens, environment=environment, request_timeout_seconds=request_timeout_seconds, clock=clock
    )


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
        self._clock = clock
        self._api = ApiConnection(
            access, tokens, environment=environment or {}, request_timeout_seconds=request_timeout_seconds,
            clock=clock,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection."""
        self._api.close()

    def server_version(self) -> str:
        """Return the server's version, as `1.36`."""
        found = self._api.exchange("GET", "/version", action="read the version of Kubernetes")
        return f"{found.get('major', '')}.{str(found.get('minor', '')).rstrip('+')}"

    def get(self, kind: Kind, name: str, namespace: str = "") -> Object:
        """Read one object.

        Raises:
            NotFoundError: there is none; the same for a kind whose CRD is not installed.
            KubernetesError: the API refused, or did not answer.
        """
        return self._api.exchange(
            "GET", kind.path(namespace, name), action=f"read {_named(kind, name, namespace)}"
        )

    def find(self, kind: Kind, name: str, namespace: str = "") -> Object | None:
        """Read one object, or return None where there is none."""
        try:
            return self.get(kind, name, namespace)
        except NotFoundError:
            return None

    def list(
        self, kind: Kind, namespace: str = "", *, labels: str = "", fields: str = "",
        only_metadata: bool = False,
    ) -> list[Object]:  # fmt: skip
        """Read all objects of a kind, page by page; none where the kind's CRD is not installed.

        Args:
            kind: what.
            namespace: where; everywhere, unless given.
            labels: a label selector, as `karpenter.sh/nodepool=gpu`.
            fields: a field selector, as `status.phase=Running`.
            only_metadata: ask for nothing else of each object.
        """
        query = {"limit": str(PAGE_SIZE), "labelSelector": labels, "fieldSelector": fields, "continue": ""}
        found: list[Object] = []
        while True:
            try:
                page = self._api.exchange(
                    "GET", kind.path(namespace), query=query, action=f"list {kind.plural}",
                    accept=_METADATA if only_metadata else JSON,
                )  # fmt: skip
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
        return self._api.exchange(
            "PATCH", kind.path(namespace, name), query=query, body=body, content_type=APPLY_PATCH,
            action=f"apply {_named(kind, name, namespace)}",
        )  # fmt: skip

    def patch(self, kind: Kind, name: str, changes: Object, namespace: str = "") -> Object:
        """Merge changes into an object; None removes a field, and lists are replaced whole."""
        return self._api.exchange(
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
            self._api.exchange(
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


def _named(kind: Kind, name: str, namespace: str) -> str:
    return f"{kind.kind} {namespace}/{name}" if namespace and kind.is_namespaced else f"{kind.kind} {name}"
