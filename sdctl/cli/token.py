"""`sdctl token`: what kubectl and helm ask for a token with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sdctl.cli import context, output
from sdctl.cli.cluster import cluster_session

if TYPE_CHECKING:
    from sdctl.clients.cluster_access import Token

# The two versions are alike in all that we say:
# https://kubernetes.io/docs/reference/config-api/client-authentication.v1/
_V1: Final = "client.authentication.k8s.io/v1"
_V1BETA1: Final = "client.authentication.k8s.io/v1beta1"


def token() -> None:
    """Print a token for the cluster, as the JSON that kubectl's exec plug-ins give.

    It is good for 14 minutes. Nothing is asked of AWS: the token is signed here.
    """
    from sdctl.clients.cluster_access import make_token

    aws, stack_name = cluster_session()
    document = credential(make_token(aws, stack_name), context.environment())
    output.result(document, lambda: output.to_json(document))


def credential(made: Token, environment: Mapping[str, str]) -> dict[str, Any]:
    """Build the ExecCredential, in the version that the caller asks for in KUBERNETES_EXEC_INFO."""
    expires_at = made.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "kind": "ExecCredential",
        "apiVersion": _wanted_version(environment.get("KUBERNETES_EXEC_INFO", "")),
        "spec": {},
        "status": {"expirationTimestamp": expires_at, "token": made.value},
    }


def _wanted_version(exec_info: str) -> str:
    try:
        wanted = json.loads(exec_info)["apiVersion"]
    except (ValueError, KeyError, TypeError):
        return _V1  # called by hand, or by something that does not say
    return _V1BETA1 if wanted == _V1BETA1 else _V1
