"""Everything of ministack that we touch by its private names, in one place; a contract test pins them.

Imports ministack, which reads its settings from the environment at that moment: only the emulator's
process imports this module, after it has set them.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from ministack import app as ministack_app
from ministack.core import lambda_runtime, persistence
from ministack.services import cloudwatch_logs, sqs

log = logging.getLogger(__name__)

# ministack waits this long (seconds) for a Lambda's log lines after each answer: until the first line,
# until a line is the last one, at most. Its own values, 50, 5 and 250 ms, delay every call; a line that
# comes later is collected with the next call.
_LOG_WAITS_SECONDS: Final = (0.001, 0.001, 0.05)

# Events that a log stream keeps: the state of all streams is written whole, again and again.
KEPT_LOG_EVENTS: Final = 2_000

application = ministack_app.app


class Pulse:
    """A sleep that ends early when something changed, for the loop of a parked long poll."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[None]] = set()

    async def sleep(self, seconds: float) -> None:
        """Sleep until the next `ring`, at most this long."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            await asyncio.wait((future,), timeout=seconds)
        finally:
            self._waiting.discard(future)

    def ring(self) -> None:
        """Wake all sleepers."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)


class _AsyncioOfSqs:
    """`asyncio` as the SQS service sees it: `sleep` ends early."""

    def __init__(self, sleep: Callable[[float], Any]) -> None:
        self.sleep = sleep

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


def wake_long_polls(pulse: Pulse) -> None:
    """Let a parked ReceiveMessage look again at each `ring`, not after up to 100 ms."""
    vars(sqs)["asyncio"] = _AsyncioOfSqs(pulse.sleep)


def shorten_lambda_log_waits() -> None:
    """Answer a Lambda call without waiting for log lines that mostly do not come."""
    drain = lambda_runtime.Worker._drain_stderr_bounded
    if len(drain.__defaults__ or ()) != len(_LOG_WAITS_SECONDS):
        raise RuntimeError("this ministack waits for log lines in another way; use the pinned version")
    drain.__defaults__ = _LOG_WAITS_SECONDS


def bound_log_streams() -> None:
    """Let each log stream forget its oldest events, which ministack keeps for ever."""
    append = cloudwatch_logs._append_log_events

    def append_and_forget(stream: dict[str, Any], events: list[dict[str, Any]]) -> None:
        append(stream, events)  # type: ignore[no-untyped-call]
        with cloudwatch_logs._log_events_lock:
            if len(stream["events"]) > 2 * KEPT_LOG_EVENTS:
                stream["events"] = stream["events"][-KEPT_LOG_EVENTS:]

    vars(cloudwatch_logs)["_append_log_events"] = append_and_forget


def snapshot() -> dict[str, Any]:
    """Copy the state of every service in use, by the name of its file; to be called on the event loop."""
    readers: dict[str, Callable[[], Any]] = ministack_app._build_persistence_save_dict()  # type: ignore[no-untyped-call]
    states = {name: read() for name, read in readers.items()}
    return {name: state for name, state in states.items() if state is not None}


class StateFiles:
    """ministack's state files: written whole, only where the content changed, as it reads them at start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._digests: dict[str, bytes] = {}
        self._writing = threading.Lock()
        self._is_closed = False

    def write(self, states: Mapping[str, Any], *, is_last: bool = False) -> None:
        """Write a snapshot; a reader never sees half a file. After the last one, older ones are ignored."""
        with self._writing:
            if not self._is_closed:
                self._is_closed = is_last
                self._write(states)

    def _write(self, states: Mapping[str, Any]) -> None:
        for name, state in states.items():
            wrapped = {"__ministack_format__": persistence._state_format_version(name), "payload": state}
            content = json.dumps(wrapped, default=persistence._json_default).encode()
            digest = hashlib.blake2b(content).digest()
            if self._digests.get(name) == digest:
                continue
            partial = self._folder / f"{name}.partial"
            partial.write_bytes(content)
            partial.replace(self._folder / f"{name}.json")
            self._digests[name] = digest
