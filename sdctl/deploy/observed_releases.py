"""The Helm releases of a cluster, from the Secrets that helm keeps them in; no helm is needed.

A Secret of type `helm.sh/release.v1` holds one revision as base64 of gzip of JSON, in base64 once more:
https://github.com/helm/helm/blob/v4.0.0/pkg/storage/driver/util.go
"""

from __future__ import annotations

import json
import zlib
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdctl.clients.aws import Aws
from sdctl.clients.cluster_access import find_cluster
from sdctl.clients.helm import digest_of
from sdctl.clients.helm_commands import description_of
from sdctl.errors import ToolError
from sdctl.releases import Release

# The last revision of a release is never superseded; what is, is history.
_SELECTOR: Final = "owner=helm,status!=superseded"
_GZIP: Final = 16 + zlib.MAX_WBITS
MAX_RELEASE_BYTES: Final = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReleaseView:
    """The last revision of a release: `description` says what it holds where we installed it.

    `image_digest` is the one of a runtime's image, where its values pin it.
    """

    name: str
    namespace: str
    revision: int
    status: str
    chart: str = ""
    chart_version: str = ""
    description: str = ""
    image_digest: str = ""

    def holds(self, release: Release) -> bool:
        """Tell whether it runs exactly what is wanted; every value must be known."""
        is_ours = self.description == description_of(digest_of(release))
        return is_ours and self.status == "deployed" and self.namespace == release.namespace


def read_releases(aws: Aws, stack_name: str, environment: Mapping[str, str]) -> tuple[ReleaseView, ...]:
    """Read the releases of a deployment's cluster, all namespaces.

    Raises:
        SdctlError: there is no cluster, it cannot be reached, or does not let us in.
    """
    from sdctl.clients.kubernetes import SECRETS, connect  # heavy, and what only plans needs none of it

    with connect(aws, find_cluster(aws, stack_name), environment=environment) as kubernetes:
        secrets = kubernetes.list(SECRETS, labels=_SELECTOR)
    last: dict[tuple[str, str], ReleaseView] = {}
    for secret in secrets:
        view = _view(secret)
        known = last.get((view.namespace, view.name))
        if known is None or known.revision < view.revision:
            last[view.namespace, view.name] = view
    return tuple(last.values())


def _view(secret: Mapping[str, Any]) -> ReleaseView:
    metadata = secret["metadata"]
    labels = metadata.get("labels") or {}
    document = _decoded(str((secret.get("data") or {}).get("release", "")), metadata["name"])
    chart = (document.get("chart") or {}).get("metadata") or {}
    return ReleaseView(
        name=str(labels.get("name", "")),
        namespace=str(metadata["namespace"]),
        revision=int(labels.get("version", 0)),
        status=str(labels.get("status", "")),
        chart=str(chart.get("name", "")),
        chart_version=str(chart.get("version", "")),
        description=str((document.get("info") or {}).get("description", "")),
        image_digest=_image_digest(document.get("config") or {}),
    )


def _image_digest(values: Mapping[str, Any]) -> str:
    found: Any = values
    for key in ("runtime", "inferenceApi", "image", "digest"):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, str) else ""


def _decoded(text: str, name: str) -> dict[str, Any]:
    try:
        packed = b64decode(b64decode(text, validate=True), validate=True)
        unpacker = zlib.decompressobj(_GZIP)
        body = unpacker.decompress(packed, MAX_RELEASE_BYTES)
        document = json.loads(body)
    except (Base64Error, zlib.error, ValueError) as error:
        raise ToolError(f"the release in the Secret {name} cannot be read") from error
    if not isinstance(document, dict):
        raise ToolError(f"the release in the Secret {name} cannot be read")
    return document
