"""Signing in to private registries of images and charts, without any program and without a password typed."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError

# Account and region of an ECR registry; https://docs.aws.amazon.com/general/latest/gr/ecr.html
_ECR_HOST: Final = re.compile(r"(\d{12})\.dkr\.ecr\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?")


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """How to sign in to one registry; for ECR the user is `AWS`."""

    host: str
    user: str
    password: str = field(repr=False)


def is_ecr(host: str) -> bool:
    """Tell whether a host is a private ECR registry."""
    return _ECR_HOST.fullmatch(host) is not None


def is_loopback(host: str) -> bool:
    """Tell whether a registry is on this machine: it is spoken to in plain HTTP, as docker does.

    Args:
        host: a name or an address, with or without a port; empty is none.
    """
    name = host.rpartition(":")[0] or host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def ecr_login(aws: Aws, host: str) -> RegistryLogin:
    """Get a password for a private ECR registry, good for twelve hours.

    Args:
        aws: a session; its region need not be the registry's.
        host: as `123456789012.dkr.ecr.us-west-2.amazonaws.com`.

    Raises:
        AwsError: the host is no ECR registry, or ECR refuses.
    """
    match = _ECR_HOST.fullmatch(host)
    if match is None:
        raise AwsError(f"{host} is not an ECR registry")
    session = aws if aws.region == match[2] else Aws(replace(aws.access, region=match[2]))
    with aws_errors(f"sign in to {host}"):
        answer: dict[str, Any] = session.client("ecr").get_authorization_token()
    try:
        encoded = str(answer["authorizationData"][0]["authorizationToken"])
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (LookupError, binascii.Error, UnicodeError) as error:
        raise AwsError(f"could not sign in to {host}: the answer of ECR cannot be read") from error
    return RegistryLogin(host, user, password)


def registry_config(logins: Iterable[RegistryLogin]) -> dict[str, Any]:
    """Build the file that `helm registry login` or `docker login` would write: `{"auths": {host: …}}`."""
    auths = {
        login.host: {"auth": base64.b64encode(f"{login.user}:{login.password}".encode()).decode()}
        for login in logins
    }
    return {"auths": auths}
