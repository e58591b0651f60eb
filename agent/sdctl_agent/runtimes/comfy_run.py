"""One prompt on a ComfyUI server: what is known of it, and what it gave in the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl_agent.errors import (
    AgentError,
    InterruptedRunError,
    PermanentError,
    RuntimeDownError,
    TransientError,
)
from sdctl_agent.runtimes.base import Output, Progress, RunResult, memory_output
from sdctl_agent.runtimes.comfy_answers import (
    SOCKET_IMAGE_NODE,
    OutputFile,
    execution_error,
    has_failed,
    has_report,
    history_messages,
    output_files,
    preview_image,
    progress_of,
)
from sdctl_agent.runtimes.reasons import refusal
from sdctl_agent.runtimes.server import Server

# How long the last frames of the socket may come after the history has the run.
FRAMES_GRACE_SECONDS: Final = 5.0
MAX_FRAMES_BYTES: Final = 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Graph:
    """A workflow made ready: its JSON in parts, and what progress and outputs need to know of it."""

    parts: tuple[bytes, ...]
    titles: Mapping[str, str]
    socket_nodes: frozenset[str]


def describe_graph(content: Mapping[str, Any], parts: tuple[bytes, ...]) -> Graph:
    """Note a workflow's node titles, and the nodes that send their images over the socket."""
    titles, socket_nodes = {}, set()
    for node_id, node in content.items():
        meta = node.get("_meta")
        title = meta.get("title") if isinstance(meta, dict) else None
        titles[node_id] = str(title or node.get("class_type"))[:100]
        if node.get("class_type") == SOCKET_IMAGE_NODE:
            socket_nodes.add(node_id)
    return Graph(parts, titles, frozenset(socket_nodes))


@dataclass(slots=True)
class Sight:
    """What the watcher keeps of a run; times are of its clock."""

    posted_at: float
    next_look: float
    next_queue_look: float
    last_sign: float
    times_missing: int = 0
    finished_at: float | None = None


@dataclass(slots=True)
class _Heard:
    """What the socket told of a run."""

    anything: bool = False
    end: bool = False
    node: str = ""
    done_nodes: set[str] = field(default_factory=set)
    images: list[bytes] = field(default_factory=list)
    images_bytes: int = 0


class ComfyUiRun:
    """A posted prompt; `base.Run`."""

    def __init__(
        self, server: Server, graph: Graph, prompt_id: str, client_id: str, wake: Callable[[ComfyUiRun], None]
    ) -> None:
        self.done = threading.Event()
        self.prompt_id = prompt_id
        self.client_id = client_id
        self.graph = graph
        self.dropped: dict[str, str] = {}
        self.interrupt_wanted = threading.Event()
        self.sight = Sight(0, float("inf"), 0, 0)
        self._server = server
        self._wake = wake
        self._heard = _Heard()
        self._progress = Progress()
        self._outcome: RunResult | AgentError | None = None

    def result(self) -> RunResult:
        """Wait for the end; see `base.Run`."""
        self.done.wait()
        if isinstance(self._outcome, RunResult):
            return self._outcome
        raise self._outcome or RuntimeDownError("the run was closed")

    def error(self) -> AgentError | None:
        """Return what went wrong, as far as known."""
        return self._outcome if isinstance(self._outcome, AgentError) else None

    def progress(self) -> Progress:
        """Return what the socket told last."""
        return self._progress

    def interrupt(self) -> None:
        """Have the watcher take the prompt out of the queue, or stop it where it runs."""
        self.interrupt_wanted.set()
        self._wake(self)

    def close(self) -> None:
        """Forget the run; what it holds of images is let go."""
        self.fail(RuntimeDownError("the run was closed"))
        self._outcome = None
        self._heard = _Heard()
        self._wake(self)

    def fail(self, error: AgentError) -> None:
        """End with an error, unless there is an end already."""
        if not self.done.is_set():
            self._outcome = error
            self.done.set()

    @property
    def is_heard(self) -> bool:
        """Whether the socket has told anything of this run."""
        return self._heard.anything

    def hear(self, kind: str, data: Mapping[str, Any]) -> bool:
        """Take an event of this prompt; true when the history is worth a look."""
        heard = self._heard
        heard.anything = True
        if kind == "execution_cached" and isinstance(data.get("nodes"), list):
            heard.done_nodes.update(map(str, data["nodes"]))
        elif kind in ("progress_state", "progress"):
            value = progress_of(data, len(self.graph.titles), heard.done_nodes)
            self._progress = Progress(value, self._progress.node)
        elif kind == "executing" and data.get("node") is not None:
            heard.node = str(data["node"])
            shown = str(data.get("display_node") or heard.node)
            self._progress = Progress(self._progress.value, self.graph.titles.get(shown, shown))
        elif kind in ("execution_success", "execution_error", "execution_interrupted", "executing"):
            heard.end = True
            return True
        return False

    def take_frame(self, frame: bytes) -> bool:
        """Keep a frame that is an output of this run; true if it is one."""
        heard = self._heard
        image = preview_image(frame) if heard.node in self.graph.socket_nodes and not heard.end else None
        if image is None:
            return False
        heard.images_bytes += len(image)
        if heard.images_bytes > MAX_FRAMES_BYTES:
            self.fail(
                PermanentError("the images sent over the socket are too large", code="output_too_large")
            )
        else:
            heard.images.append(image)
        return True

    def awaits_frames(self, now: float) -> bool:
        """Tell whether images may still be on their way over the socket."""
        if not self.graph.socket_nodes or self._heard.end or not self._heard.anything:
            return False
        if self.sight.finished_at is None:
            self.sight.finished_at = now
        return now - self.sight.finished_at < FRAMES_GRACE_SECONDS

    def finish(self, entry: Mapping[str, Any]) -> None:
        """End with what the history tells."""
        try:
            outcome: RunResult | AgentError = self._read(entry)
        except AgentError as error:
            outcome = error
        if not self.done.is_set():
            self._outcome = outcome
            self.done.set()

    def _read(self, entry: Mapping[str, Any]) -> RunResult:
        if has_failed(entry):
            if "execution_interrupted" not in history_messages(entry):
                raise execution_error(entry)
            if self.interrupt_wanted.is_set():
                raise InterruptedRunError("the run was interrupted")
            raise TransientError("the run was interrupted by someone else", code="interrupted")
        if self.graph.socket_nodes and not (self._heard.end and self._heard.images):
            raise TransientError(
                f"the connection that carries the images of {SOCKET_IMAGE_NODE} broke", code="output_lost"
            )
        outputs = [
            *(file_output(self._server, file) for file in output_files(entry)),
            *(memory_output(image) for image in self._heard.images),
        ]
        if not outputs and not has_report(entry):
            dropped = "; ".join(self.dropped.values())
            raise PermanentError(
                f"the workflow gave no output{': ' + dropped if dropped else ''}", code="no_output"
            )
        answer = dict(entry)
        if self.dropped:
            answer["node_errors"] = dict(self.dropped)
        return RunResult(tuple(outputs), answer)


def file_output(server: Server, file: OutputFile) -> Output:
    """Make the output that reads a file through `/view`, each time that it is opened.

    Opening raises `PermanentError` where the file is gone (ComfyUI answers an unchanged workflow from
    its cache, with the names of the files of the run before) and `RuntimeDownError` where the server is.
    """

    @contextmanager
    def opened() -> Iterator[Iterator[bytes]]:
        with server.stream("GET", "/view", query=file.query) as reply:
            if reply.status != 200:
                raise _unreadable(refusal(reply.whole(), f"output {file.filename}"), reply.status, file)
            yield reply.chunks()

    return Output(opened, name=file.filename)


def _unreadable(error: AgentError, status: int, file: OutputFile) -> AgentError:
    if not isinstance(error, PermanentError):
        return error
    return PermanentError(
        f"output {file.filename} cannot be read from the runtime (status {status}); if the workflow ran "
        "before, the runtime answered from its cache and the file was deleted since",
        code="output_unreadable",
    )
