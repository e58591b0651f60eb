"""The AWS session: where to connect, cached clients, and botocore's errors in our words.

Retries are botocore's own ("standard" mode); nothing above this layer retries an AWS call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Final

from sdctl.errors import AwsError, ConfigError, ConflictError, NotFoundError

CONNECT_TIMEOUT_SECONDS: Final = 10
READ_TIMEOUT_SECONDS: Final = 60
MAX_ATTEMPTS: Final = 5

# Error codes by their meaning. Most services end a missing thing's code with "NotFound" or
# "NotFoundException"; these do not.
_NOT_FOUND_CODES: Final = frozenset({
    "NoSuchBucket", "NoSuchKey", "NoSuchEntity", "404", "ChangeSetNotFound", "QueueDoesNotExist",
    "AWS.SimpleQueueService.NonExistentQueue", "NonExistentQueue",
})  # fmt: skip
_CONFLICT_CODES: Final = frozenset({
    "AlreadyExistsException", "ConflictException", "OperationInProgressException", "ResourceInUseException",
    "TokenAlreadyExistsException", "BucketAlreadyExists", "BucketAlreadyOwnedByYou",
    "OperationAborted", "BucketNotEmpty", "RepositoryAlreadyExistsException",
})  # fmt: skip
_CREDENTIAL_CODES: Final = frozenset({
    "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "UnrecognizedClientException",
    "SignatureDoesNotMatch", "InvalidAccessKeyId", "AuthFailure", "RequestExpired",
})  # fmt: skip
# What botocore calls credentials that cannot be had any more: a login that is over, a program that failed.
_SIGN_IN_ERRORS: Final = frozenset({
    "NoCredentials", "UnauthorizedSSOTokenError", "SSOTokenLoadError", "TokenRetrievalError",
    "CredentialRetrievalError",
})  # fmt: skip
# What another attempt may not meet again: no connection, an answer cut short, AWS's own trouble, haste.
_TRANSIENT: Final = frozenset({
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
    "ConnectionError", "HTTPClientError", "ProxyConnectionError", "ResponseStreamingError",
    "IncompleteReadError", "ResponseParserError", "InternalError", "InternalFailure",
    "InternalServerError", "ServiceUnavailable", "ServiceUnavailableException", "ServerException",
    "500", "502", "503", "504", "Throttling", "ThrottlingException", "ThrottledException",
    "RequestLimitExceeded", "TooManyRequestsException", "PriorRequestNotComplete", "SlowDown",
    "RequestThrottled", "RequestTimeout", "RequestTimeoutException",
})  # fmt: skip
# CloudFormation says a missing stack in a text alone, under the code ValidationError.
_MISSING_STACK_TEXT: Final = "does not exist"
_CREDENTIALS_HINT: Final = "sign in again, or name another profile with --profile"


@dataclass(frozen=True, slots=True)
class AwsAccess:
    """Where AWS is and as whom to speak to it.

    `endpoint_url` and the key pair are set on the local target only; on AWS the profile or botocore's
    default credential chain is used. The limits are of one call; whoever only looks may want tighter ones.
    """

    region: str
    profile: str | None = None
    endpoint_url: str | None = None
    access_key: str | None = None
    secret_key: str | None = field(default=None, repr=False)
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS
    read_timeout_seconds: float = READ_TIMEOUT_SECONDS
    max_attempts: int = MAX_ATTEMPTS


class Aws:
    """A session with its clients, made on first use and kept; safe to share between threads."""

    def __init__(self, access: AwsAccess) -> None:
        """Keep where to connect; nothing is imported and no call is made before the first client."""
        self.access = access
        self._session: Any = None
        self._clients: dict[str, Any] = {}
        self._account_id = ""
        self._lock = Lock()

    @property
    def region(self) -> str:
        """The region every client speaks to."""
        return self.access.region

    @property
    def partition(self) -> str:
        """The partition of the region: `aws`, or `aws-cn` in China."""
        with self._lock, aws_errors("read the credentials"):
            return str(self._open().get_partition_for_region(self.region))

    def regions(self, service: str) -> tuple[str, ...]:
        """List the regions of all partitions that are known to have a service, without asking AWS."""
        with self._lock, aws_errors("read the credentials"):
            session = self._open()
            partitions = session.get_available_partitions()
            found = (session.get_available_regions(service, partition_name=one) for one in partitions)
            return tuple(region for regions in found for region in regions)

    def client(self, service: str) -> Any:
        """Return the boto3 client of a service.

        Raises:
            ConfigError: the profile does not exist.
        """
        with self._lock:
            if service not in self._clients:
                with aws_errors("read the credentials"):
                    self._clients[service] = self._make(service)
            return self._clients[service]

    def renew(self) -> bool:
        """Look for credentials again, where they were found before; tell whether AWS takes them now.

        Clients that are in use stay as they are.
        """
        with self._lock:
            self._session, self._clients = None, {}
        try:
            with aws_errors("sign in again"):
                self.client("sts").get_caller_identity()
        except AwsError as error:
            if is_expired(error) or is_transient(error):
                return False
            raise
        return True

    def account_id(self) -> str:
        """Return the 12-digit account of the credentials."""
        if not self._account_id:
            with aws_errors("find out the account"):
                self._account_id = str(self.client("sts").get_caller_identity()["Account"])
        return self._account_id

    def session_credentials(self) -> Any:
        """Return botocore's credentials, for a client that is not botocore's; they renew themselves.

        Raises:
            AwsError: there are none.
        """
        from botocore.exceptions import NoCredentialsError

        with self._lock, aws_errors("read the credentials"):
            found = self._open().get_credentials()
            if found is None:
                raise NoCredentialsError
            return found

    def _open(self) -> Any:
        if self._session is None:
            import boto3

            self._session = boto3.session.Session(
                region_name=self.access.region,
                profile_name=self.access.profile,
                aws_access_key_id=self.access.access_key,
                aws_secret_access_key=self.access.secret_key,
            )
        return self._session

    def _make(self, service: str) -> Any:
        from botocore.config import Config

        config = Config(
            connect_timeout=self.access.connect_timeout_seconds,
            read_timeout=self.access.read_timeout_seconds,
            retries={"mode": "standard", "total_max_attempts": self.access.max_attempts},
            user_agent_extra="app/sdctl",
            # What is stored has a checksum of its own, and goes over TLS: hashing it for the signature, too,
            # costs as much time as all the rest.
            s3={
                "addressing_style": "path" if self.access.endpoint_url else "auto",
                "payload_signing_enabled": False,
            },
        )
        return self._open().client(service, endpoint_url=self.access.endpoint_url, config=config)


@contextmanager
def aws_errors(action: str) -> Iterator[None]:
    """Translate botocore's errors of the block, by error code; the original stays as the cause.

    Args:
        action: what was tried, as in `create the bucket x`: the message says `could not <action>: …`.

    Raises:
        NotFoundError: the thing does not exist.
        ConflictError: another operation holds it, or it exists already.
        AwsError: any other refusal, or no answer.
    """
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, ProfileNotFound
    from botocore.parsers import ResponseParserError

    try:
        yield
    except ClientError as error:
        raise _translated(error, action) from error
    except ProfileNotFound as error:
        raise ConfigError(f"could not {action}: {error}", hint="name another one with --profile") from error
    except NoCredentialsError as error:
        raise AwsError(
            f"could not {action}: no AWS credentials were found",
            aws_code="NoCredentials",
            hint="sign in, set --profile, or use --target local",
        ) from error
    except ResponseParserError as error:
        # A proxy's or portal's page, most likely: its text is long and says nothing.
        raise AwsError(
            f"could not {action}: what answered is not AWS",
            aws_code=type(error).__name__,
            hint="a proxy may stand between: check HTTPS_PROXY and NO_PROXY",
        ) from error
    except BotoCoreError as error:
        name = type(error).__name__
        hint = _CREDENTIALS_HINT if name in _SIGN_IN_ERRORS else ""
        raise AwsError(f"could not {action}: {error}", aws_code=name, hint=hint) from error


def is_expired(error: AwsError) -> bool:
    """Tell whether AWS no longer takes the credentials, or there are none any more."""
    return error.aws_code in _CREDENTIAL_CODES | _SIGN_IN_ERRORS


def is_transient(error: AwsError) -> bool:
    """Tell whether the same call may succeed a little later."""
    return error.aws_code in _TRANSIENT


def error_code(error: Exception) -> str:
    """Return AWS's own code of a botocore ClientError."""
    response: dict[str, Any] = getattr(error, "response", {})
    return str(response.get("Error", {}).get("Code", ""))


def _translated(error: Any, action: str) -> AwsError | NotFoundError | ConflictError:
    code, text = error_code(error), str(error.response.get("Error", {}).get("Message", "")).strip()
    if text[:9].lower().startswith(("<html", "<!doctype")):
        text = "what answered is not AWS, but a page"
    message = f"could not {action}: {text or 'no reason given'} ({code})"
    if code in _NOT_FOUND_CODES or code.removesuffix("Exception").endswith("NotFound"):
        return NotFoundError(message)
    if code == "ValidationError" and is_missing_stack(text):
        return NotFoundError(message)
    if code in _CONFLICT_CODES:
        return ConflictError(message)
    hint = _CREDENTIALS_HINT if code in _CREDENTIAL_CODES else ""
    return AwsError(message, operation=error.operation_name, aws_code=code, hint=hint)


def is_missing_stack(text: str) -> bool:
    """Tell CloudFormation's "Stack with id x does not exist" from its other validation errors."""
    return _MISSING_STACK_TEXT in text
