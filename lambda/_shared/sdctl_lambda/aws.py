"""The one door to AWS: one botocore session, and each client made when it is first needed.

botocore without boto3 on top is what keeps a cold start short; a client costs 20 to 80 ms.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

# The last is no BotoCoreError: what a gateway in between answers need not be what the service speaks.
AWS_ERRORS: Final = (ClientError, BotoCoreError, ResponseParserError)

# https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html and S3's SlowDown
_THROTTLE_CODES: Final = frozenset(
    {
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
# What is read again while an older answer would do must not keep a request waiting.
READ_TIMEOUT_SECONDS: Final = {"ssm": 2}


class Aws:
    """Makes clients on demand and keeps them: one instance lives as long as the function's sandbox."""

    def __init__(self) -> None:
        self._session = botocore.session.get_session()
        # botocore's own model of SSM has hundreds of operations and takes longer to read than all else here;
        # beside this module is one with the single operation that is used.
        models = Path(__file__).with_name("service_models")
        self._session.set_config_variable("data_path", str(models))
        self._clients: dict[str, Any] = {}

    def client(self, service: str) -> Any:
        """Return the client of `dynamodb`, `sns`, `sqs`, `ssm` or `s3`."""
        if service not in self._clients:
            self._clients[service] = self._session.create_client(service, config=_config(service))
        return self._clients[service]


def _config(service: str) -> Config:
    # All tries together stay below the 29 s after which API Gateway gives up:
    # https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html
    config = Config(
        connect_timeout=2,
        read_timeout=READ_TIMEOUT_SECONDS.get(service, 6),
        retries={"mode": "standard", "total_max_attempts": 3},
        tcp_keepalive=True,
        # A signed URL must not demand a checksum that its user cannot know.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    if service != "s3":
        return config
    # Signed URLs are used by others: regional host names and version 4, which every region takes. An
    # emulator has no host name for each bucket.
    own_endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    s3 = Config(
        signature_version="s3v4",
        s3={
            "addressing_style": "path" if own_endpoint else "virtual",
            "us_east_1_regional_endpoint": "regional",
        },
    )
    return config.merge(s3)


def error_code(error: Exception) -> str:
    """Return AWS's own code of a failed call, or the error's type where no answer came."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", ""))
    return type(error).__name__


def is_throttled(error: Exception) -> bool:
    """Tell whether AWS refused a call because there were too many."""
    return error_code(error) in _THROTTLE_CODES
