"""How to reach an EKS cluster's Kubernetes API: its address and authority, and tokens of our own making.

No AWS command line is needed. A token is a presigned `sts:GetCallerIdentity` request that names the
cluster in a signed header; EKS sends it to STS to learn who we are. The format is
https://github.com/kubernetes-sigs/aws-iam-authenticator#api-authorization-from-outside-a-cluster
"""

from __future__ import annotations

from base64 import b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, ConflictError

_PREFIX: Final = "k8s-aws-v1."
_CLUSTER_HEADER: Final = "x-k8s-aws-id"
_EVENT: Final = "sts.GetCallerIdentity"
_PRESIGNED_SECONDS: Final = 60
# EKS takes a token for 15 minutes, whatever its address says; one of them is for clocks that differ.
TOKEN_SECONDS: Final = 14 * 60
_RENEWED_BEFORE_SECONDS: Final = 120

Now = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the time of day, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class ClusterAccess:
    """Where a cluster's Kubernetes API is.

    `authority` is base64 of its certificate authority in PEM, as kubeconfig files have it.
    `stack_name`, `region` and `profile` are what `sdctl token` is asked with.
    """

    stack_name: str
    arn: str
    endpoint: str
    authority: str
    region: str
    profile: str | None = None

    @property
    def authority_pem(self) -> str:
        """The certificate authority in PEM.

        Raises:
            AwsError: it is no base64.
        """
        try:
            return b64decode(self.authority, validate=True).decode("ascii")
        except (Base64Error, ValueError) as error:
            raise AwsError(f"the certificate authority of {self.stack_name} cannot be read") from error


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token of the Kubernetes API, and until when it is good."""

    value: str = field(repr=False)
    expires_at: datetime


def find_cluster(aws: Aws, stack_name: str) -> ClusterAccess:
    """Ask EKS where the cluster of a stack is; the cluster is named as the stack.

    Raises:
        NotFoundError: there is no such cluster.
        ConflictError: it is still being created, or deleted.
        AwsError: EKS could not be asked.
    """
    with aws_errors(f"find the cluster {stack_name} in {aws.region}"):
        found: dict[str, Any] = aws.client("eks").describe_cluster(name=stack_name)["cluster"]
    status = str(found.get("status", ""))
    authority = str(found.get("certificateAuthority", {}).get("data", ""))
    endpoint = str(found.get("endpoint") or "")
    if not endpoint or not authority or status in ("CREATING", "DELETING"):
        raise ConflictError(
            f"the cluster {stack_name} cannot be reached yet: it is {status}", hint="sdctl status"
        )
    if not endpoint.startswith("https://"):
        raise AwsError(f"the cluster {stack_name} has no https address: {endpoint}")
    return ClusterAccess(stack_name, str(found["arn"]), endpoint, authority, aws.region, aws.access.profile)


def make_token(aws: Aws, stack_name: str, now: Now = utc_now) -> Token:
    """Make a token for the cluster of a stack; nothing is sent to anyone.

    Raises:
        AwsError: there are no credentials.
    """
    made_at = now()
    with aws_errors("sign a token for the cluster"):
        sts = aws.client("sts")
        # Registering the same handlers again changes nothing: they are known by their ids.
        sts.meta.events.register(f"provide-client-params.{_EVENT}", _keep_cluster, "sdctl-keep-cluster")
        sts.meta.events.register(f"before-sign.{_EVENT}", _name_cluster, "sdctl-name-cluster")
        url = sts.generate_presigned_url(
            "get_caller_identity",
            Params={_CLUSTER_HEADER: stack_name},
            ExpiresIn=_PRESIGNED_SECONDS,
            HttpMethod="GET",
        )
    encoded = urlsafe_b64encode(url.encode()).decode().rstrip("=")
    return Token(_PREFIX + encoded, made_at + timedelta(seconds=TOKEN_SECONDS))


def _keep_cluster(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
    """Take the cluster's name out of the parameters, where botocore would not know it."""
    if _CLUSTER_HEADER in params:
        context[_CLUSTER_HEADER] = params.pop(_CLUSTER_HEADER)


def _name_cluster(request: Any, **_: Any) -> None:
    if _CLUSTER_HEADER in request.context:
        request.headers[_CLUSTER_HEADER] = request.context[_CLUSTER_HEADER]


class TokenSource:
    """Gives tokens for one cluster, and a new one before the last is over; safe to share between threads."""

    def __init__(self, make: Callable[[], Token], now: Now = utc_now) -> None:
        self._make = make
        self._now = now
        self._last: Token | None = None
        self._lock = Lock()

    def current(self) -> str:
        """Return a token that is good for at least two minutes."""
        with self._lock:
            soon = self._now() + timedelta(seconds=_RENEWED_BEFORE_SECONDS)
            if self._last is None or self._last.expires_at <= soon:
                self._last = self._make()
            return self._last.value

    def discard(self, value: str) -> None:
        """Never give this token again: it was refused."""
        with self._lock:
            if self._last is not None and self._last.value == value:
                self._last = None
