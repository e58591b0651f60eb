"""Reads at once, each in a thread of its own and with a deadline; what fails becomes an `Unknown`.

A thread that outlives its deadline is left behind as a daemon, so that neither a read nor the end of the
process waits for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from threading import Event, Thread
from time import monotonic
from typing import Any, Final, TypeVar, Union

from sdctl.errors import SdctlError

T = TypeVar("T")
READ_SECONDS: Final = 8.0
# Error codes by which services refuse: each has its own.
_DENIED_CODES: Final = frozenset({
    "AccessDenied", "AccessDeniedException", "UnauthorizedOperation", "AuthorizationError", "403",
})  # fmt: skip
# botocore's own errors where no answer came; `aws_errors` keeps their names as the code.
_UNREACHABLE_CODES: Final = frozenset({
    "EndpointConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ConnectionClosedError",
    "ProxyConnectionError", "SSLError", "ResponseParserError",
})  # fmt: skip
# What a region answers that the account has not enabled, and to keys that do not exist.
_UNKNOWN_KEY_CODES: Final = frozenset({
    "InvalidClientTokenId", "UnrecognizedClientException", "AuthFailure", "OptInRequired",
})  # fmt: skip
NO_ANSWER: Final = "NoAnswer"


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be read: why, and AWS's or botocore's code of the error, if there was one."""

    reason: str
    code: str = ""

    @property
    def is_denied(self) -> bool:
        """Tell whether permission was missing."""
        return self.code in _DENIED_CODES

    @property
    def is_unreachable(self) -> bool:
        """Tell whether no answer of AWS came."""
        return self.code in _UNREACHABLE_CODES or self.code == NO_ANSWER

    @property
    def is_unknown_key(self) -> bool:
        """Tell whether AWS does not know the key, at least not in this region."""
        return self.code in _UNKNOWN_KEY_CODES


Read = Union[T, Unknown]  # noqa: UP007 - a generic alias cannot be written with |


@dataclass(slots=True)
class _Slot:
    """One read and what came of it."""

    read: Callable[[], Any]
    done: Event = field(default_factory=Event)
    value: Any = None
    bug: Exception | None = None

    def run(self) -> None:
        try:
            self.value = self.read()
        except SdctlError as error:
            self.value = Unknown(error.message, getattr(error, "aws_code", ""))
        except Exception as bug:  # noqa: BLE001 - carried to the thread that waits, and raised there
            self.bug = bug
        self.done.set()


def read_all(
    reads: Mapping[str, Callable[[], Any]], *, timeout_seconds: float = READ_SECONDS
) -> dict[str, Any]:
    """Run reads at once and return what each came to: its value, or an `Unknown`.

    Args:
        reads: by name; one that raises an error of ours is unknown for that reason.
        timeout_seconds: each read's own deadline; they all start now.
    """
    slots = {name: _Slot(read) for name, read in reads.items()}
    deadline = monotonic() + timeout_seconds
    for name, slot in slots.items():
        Thread(target=slot.run, name=f"read-{name}", daemon=True).start()
    found: dict[str, Any] = {}
    for name, slot in slots.items():
        if not slot.done.wait(max(0.0, deadline - monotonic())):
            found[name] = Unknown(f"there was no answer within {timeout_seconds:g} s", NO_ANSWER)
        elif slot.bug is not None:
            raise slot.bug
        else:
            found[name] = slot.value
    return found
