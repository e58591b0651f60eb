"""The protocol between the agent and a runtime: what an adapter, or a plug-in, has to offer.

An adapter knows one server's HTTP interface and nothing of queues, tables or topics. Its work on a task
is split so that the GPU never waits: `prepare` may run while another task is on the GPU (it fetches
inputs, checks them, encodes the request), `start` hands the task to the server, and the `Run` that it
returns is waited for. Adapters are registered by name through the entry-point group
`sdctl_agent.runtimes`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sdctl.contract import Task
from sdctl_agent.errors import AgentError


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """What a factory is told: `Factory = Callable[[RuntimeOptions], Runtime]`.

    `base_url` is `http://host:port`, without the path of any API. With `dynamic_checkpoint` the adapter
    switches the server to the model that a task asks for; without, such a task must ask for the loaded
    one. A run without any sign of life for `stall_timeout_seconds` is given up as `RuntimeDownError`;
    `task_timeout_seconds` is how long the agent lets one task run at most.
    """

    base_url: str
    name: str = ""
    dynamic_checkpoint: bool = False
    task_timeout_seconds: float = 3600
    stall_timeout_seconds: float = 900


@dataclass(frozen=True, slots=True)
class InputFile:
    """One fetched input: its bytes, the MIME type found in them, and the last part of its URL's path.

    The type is an image's, a video's or an audio's; the adapter checks that it fits the place.
    """

    data: bytes
    content_type: str
    name: str


class InputFetcher(Protocol):
    """Fetches an input from where inputs may come from.

    Raises `PermanentError` (not allowed, 404, too large, not an image) or `TransientError`.
    """

    def __call__(self, url: str) -> InputFile:
        """Fetch `url`."""
        ...


@dataclass(frozen=True, slots=True)
class Output:
    """One output file of a run.

    `open` gives its bytes in chunks; it may be called again after an error. `size` is the length in
    bytes where known before reading. `name` is the runtime's own file name, or empty.
    """

    open: Callable[[], AbstractContextManager[Iterator[bytes]]]
    name: str = ""
    size: int | None = None


SLICE_BYTES: Final = 1024 * 1024


def memory_output(data: bytes, name: str = "") -> Output:
    """Make the output of a file that is in memory anyway."""

    @contextmanager
    def opened() -> Iterator[Iterator[bytes]]:
        # In slices, so that whoever stores it never copies the whole.
        yield (data[start : start + SLICE_BYTES] for start in range(0, len(data), SLICE_BYTES))

    return Output(opened, name, len(data))


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run gave: its files in order, and the runtime's complete answer without the image bytes."""

    outputs: tuple[Output, ...]
    answer: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is: `value` from 0 to 1 where known, and the node at work, or empty."""

    value: float | None = None
    node: str = ""


def _nothing() -> None:
    """Let go of nothing."""


@dataclass(slots=True)
class Prepared:
    """A task made ready; `request` is the adapter's own, `checkpoint` the model that it needs.

    `drop` is called, perhaps more than once and from any thread, when the task is not started after all.
    """

    task: Task
    request: Any
    checkpoint: str = ""
    held_bytes: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    drop: Callable[[], None] = _nothing


class Run(Protocol):
    """One task on the runtime."""

    # Set when the GPU is done with the task: the next one may be started.
    done: threading.Event

    def error(self) -> AgentError | None:
        """Return what is known by `done` to have gone wrong, which `result` would raise; never blocks."""
        ...

    def result(self) -> RunResult:
        """Return what the run gave, once it is done; may still have to read that from the server.

        Raises:
            PermanentError: the runtime refused the task or failed at it, with the runtime's reason.
            RuntimeDownError: the runtime went away, restarted, lost the task or is stuck.
            TransientError: it may succeed if tried again.
            InterruptedRunError: `interrupt` stopped it.
        """
        ...

    def progress(self) -> Progress:
        """Return the latest known progress; never blocks, never raises."""
        ...

    def interrupt(self) -> None:
        """Stop this task and no other, as far as the server can; `done` follows. Safe to call again.

        Without effect once the run is done.
        """
        ...

    def close(self) -> None:
        """Let go of connections and memory; the outputs of the result can no longer be opened.

        Whoever waits for the result is woken with an error.
        """
        ...


class Runtime(Protocol):
    """An adapter, made once by its factory with the settings and closed at the end."""

    task_types: frozenset[str]
    # How many started tasks the server itself queues behind the running one (0: `start` only when idle).
    queue_ahead: int

    def is_ready(self, timeout_seconds: float) -> bool:
        """Tell whether the server answers and could run a task now; never raises."""
        ...

    def prepare(self, task: Task, fetch: InputFetcher) -> Prepared:
        """Fetch inputs and build the request, without using the GPU. Raises as `Run.result`."""
        ...

    def start(self, prepared: Prepared) -> Run:
        """Hand the task to the server and return at once. Raises as `Run.result`."""
        ...

    def loaded_checkpoint(self) -> str:
        """Return the model that the server has loaded as far as known without asking, or empty."""
        ...

    def close(self) -> None:
        """Close connections."""
        ...
