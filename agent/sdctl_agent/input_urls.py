"""Takes the URLs of inputs apart, strictly, and resolves their hosts."""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from sdctl_agent.errors import PermanentError, TransientError

REFUSED: Final = "input_refused"
UNREACHABLE: Final = "input_unreachable"

_PORTS: Final = {"http": 80, "https": 443}
_PORT_FORM: Final = range(1, 65536)
_HOST: Final = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")


def resolve_host(host: str, port: int) -> Sequence[str]:
    """Return the addresses of a name, as the system resolves it.

    Raises:
        PermanentError: there is no such name.
        TransientError: the resolver could not tell.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        message = f"{host} cannot be resolved: {error.strerror}"
        if error.errno in (socket.EAI_NONAME, getattr(socket, "EAI_NODATA", None)):
            raise PermanentError(message, code=UNREACHABLE) from error
        raise TransientError(message, code=UNREACHABLE) from error
    except (OSError, UnicodeError) as error:
        raise PermanentError(f"{host} is not a host name", code=REFUSED) from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@dataclass(frozen=True, slots=True)
class Target:
    """One URL taken apart; `host` is in lower case and ASCII, without brackets."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def shown(self) -> str:
        """The URL without its query, which may hold a signature."""
        return f"{self.scheme}://{self.host_header}{self.path.partition('?')[0]}"

    @property
    def host_header(self) -> str:
        """The host as the `Host` header says it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def name(self) -> str:
        """The last part of the path."""
        return unquote(self.path.partition("?")[0].rsplit("/", 1)[-1])[:255]


def parse_target(url: str) -> Target:
    """Take an http or https URL apart.

    Raises:
        PermanentError: it is none, or carries a user name, a zone, or characters that parsers disagree on.
    """
    if any(ord(char) <= 32 or ord(char) == 127 or char == "\\" for char in url):
        raise PermanentError("an input URL has a space, backslash or control character", code=REFUSED)
    try:
        parts = urlsplit(url)
        port = parts.port
        host = (parts.hostname or "").rstrip(".")
    except ValueError as error:
        raise PermanentError(f"an input URL is not valid: {error}", code=REFUSED) from error
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise PermanentError(f'inputs come by http, https or s3, not "{scheme}"', code=REFUSED)
    if "@" in parts.netloc or "%" in host or not host:
        raise PermanentError("an input URL has no host, or a user name or zone in it", code=REFUSED)
    host = _ascii_host(host)
    if port is not None and port not in _PORT_FORM:
        raise PermanentError("an input URL's port is not valid", code=REFUSED)
    path = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    query = quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    return Target(scheme, host, port or _PORTS[scheme], f"{path}?{query}" if query else path)


def _ascii_host(host: str) -> str:
    """Return a host as it goes on the wire: a name in ASCII, or an address."""
    try:
        if ":" in host:
            return str(ipaddress.IPv6Address(host))
        name = (host if host.isascii() else host.encode("idna").decode("ascii")).lower()
    except ValueError as error:
        raise PermanentError("an input URL's host is not a valid name", code=REFUSED) from error
    # Checked after the conversion, which turns some characters into spaces, slashes or dots.
    if not _HOST.fullmatch(name):
        raise PermanentError("an input URL's host is not a valid name", code=REFUSED)
    return name
