"""The deployed runtimes, as Parameter Store lists them: each runtime's stack adds and removes its own entry.

The list is kept for a while, so that a warm request makes no call for it; a runtime that is not on it is
looked for again at once. What cannot be read again is used as it was: an outage of the list stops no task
that it knows the runtime of, and none is refused for a list that could not be read.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from sdctl.contract import RuntimeInfo
from sdctl_lambda.aws import AWS_ERRORS, Aws
from sdctl_lambda.log_lines import log_line, where

Runtimes = Mapping[str, RuntimeInfo]
"""Deployed runtimes by lower-case name."""

MAX_AGE_SECONDS: Final = 30.0
# What is not on the list may just have come, but is not looked for more often than this.
UNKNOWN_AGE_SECONDS: Final = 2.0
# A list that could not be read is not asked for again before: every try may cost a request seconds.
FAILED_PAUSE_SECONDS: Final = 5.0
# https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParametersByPath.html
PAGE_ITEMS: Final = 10


class BadEntryError(ValueError):
    """An entry of the list is not what a runtime's stack writes."""


class Registry:
    """The list below one path of Parameter Store. The client is made by the first call."""

    def __init__(
        self,
        aws: Aws,
        path: str,
        *,
        max_age_seconds: float = MAX_AGE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Name the list; nothing is read yet.

        Args:
            aws: the session.
            path: as `/sdctl/sdoneks/runtimes`.
            max_age_seconds: for how long a list that was read is used.
            clock: monotonic seconds.
        """
        self._aws = aws
        self._path = path
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._runtimes: Runtimes | None = None
        self._read_at = self._failed_at = float("-inf")
        self._failure: Exception | None = None

    def runtimes(self, is_enough: Callable[[Runtimes], object] | None = None) -> Runtimes:
        """Return the deployed runtimes.

        Args:
            is_enough: tells whether a list has what is looked for; where it has not, the list is read
                again, unless it is new.

        Raises:
            ClientError, BotoCoreError, ResponseParserError, BadEntryError: the list could not be read, and
                there is none of before that would do.
        """
        kept, now = self._runtimes, self._clock()
        if kept is None:
            return self._read()
        lacks = is_enough is not None and not is_enough(kept)
        if now - self._read_at <= (UNKNOWN_AGE_SECONDS if lacks else self._max_age_seconds):
            return kept
        if now - self._failed_at > FAILED_PAUSE_SECONDS:
            try:
                return self._read()
            except (*AWS_ERRORS, BadEntryError) as error:
                self._failure, self._failed_at = error, self._clock()
                log_line("registry", **where(error))
        if lacks and self._failure is not None:
            raise self._failure
        return kept

    def _read(self) -> Runtimes:
        self._runtimes = {info.name.lower(): info for info in self._entries()}
        self._read_at, self._failed_at = self._clock(), float("-inf")
        return self._runtimes

    def _entries(self) -> Iterator[RuntimeInfo]:
        call: dict[str, Any] = {"Path": self._path, "MaxResults": PAGE_ITEMS}
        while True:
            page = self._aws.client("ssm").get_parameters_by_path(**call)
            for parameter in page.get("Parameters", ()):
                yield read_entry(parameter["Value"])
            if not page.get("NextToken"):
                return
            call["NextToken"] = page["NextToken"]


def read_entry(text: str) -> RuntimeInfo:
    """Decode one entry: `{"name", "type", "checkpoint", "dynamic", "checkpoints"}`, the last three optional.

    Raises:
        BadEntryError: it is something else.
    """
    try:
        entry = json.loads(text)
        name, kind = entry["name"], entry["type"]
        if not (isinstance(name, str) and isinstance(kind, str)):
            raise TypeError("a runtime's name and type are text")
        return RuntimeInfo(
            name=name,
            type=kind,
            checkpoint=entry.get("checkpoint") or "",
            dynamic=bool(entry.get("dynamic")),
            checkpoints=tuple(entry.get("checkpoints") or ()),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadEntryError("an entry in the list of runtimes cannot be read") from error
