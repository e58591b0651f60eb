"""What ComfyUI's answers mean: its history, its refusals, its progress messages. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdctl_agent.errors import AgentError, PermanentError
from sdctl_agent.runtimes.reasons import bounded, is_out_of_memory, refusal
from sdctl_agent.runtimes.server import Answer

MAX_NODES_IN_MESSAGE: Final = 20
# A node that sends its images over the socket and leaves nothing in the history.
SOCKET_IMAGE_NODE: Final = "SaveImageWebsocket"


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that a node reported; `type` is `output`, `temp` or `input`."""

    filename: str
    subfolder: str
    type: str

    @property
    def query(self) -> dict[str, str]:
        """The query of `/view` that gives the file."""
        return {"filename": self.filename, "subfolder": self.subfolder, "type": self.type}


def output_files(entry: Mapping[str, Any]) -> list[OutputFile]:
    """List the files of a history entry that are the task's outputs, each once, in the graph's order.

    Every list of a node's report is looked at (`images`, `gifs`, `audio`, `video`, `latents` and what
    custom nodes invent): an entry with a `filename` is a file, anything else (`text`, `animated`) is not.
    Previews (`temp`) count only where a workflow saves nothing; echoed inputs never do.
    """
    files = list(dict.fromkeys(_reported_files(entry)))
    saved = [file for file in files if file.type == "output"]
    return saved or [file for file in files if file.type == "temp"]


def _reported_files(entry: Mapping[str, Any]) -> Iterator[OutputFile]:
    outputs = entry.get("outputs")
    reports = outputs if isinstance(outputs, dict) else {}
    for node in sorted(reports, key=_node_order):
        report = reports[node]
        for values in report.values() if isinstance(report, dict) else ():
            for item in values if isinstance(values, list) else ():
                if isinstance(item, dict) and isinstance(item.get("filename"), str) and item["filename"]:
                    subfolder = item.get("subfolder")
                    kind = item.get("type")
                    yield OutputFile(
                        item["filename"],
                        subfolder if isinstance(subfolder, str) else "",
                        kind if isinstance(kind, str) else "output",
                    )


def _node_order(node: str) -> tuple[tuple[int, int | str], ...]:
    """Order node ids as people read them: 2 before 10, and 57:8 after 57:3."""
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in node.split(":"))


def has_report(entry: Mapping[str, Any]) -> bool:
    """Tell whether any node reported anything, a text for instance."""
    outputs = entry.get("outputs")
    return isinstance(outputs, dict) and any(outputs.values())


def history_messages(entry: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the history's messages by name; the last of each name counts."""
    status = entry.get("status")
    messages = status.get("messages") if isinstance(status, dict) else None
    found = {}
    for message in messages if isinstance(messages, list) else ():
        if isinstance(message, list) and len(message) == 2 and isinstance(message[1], dict):
            found[str(message[0])] = message[1]
    return found


def has_failed(entry: Mapping[str, Any]) -> bool:
    """Tell whether a history entry's status is `error`, as after an interrupt too."""
    status = entry.get("status")
    return isinstance(status, dict) and status.get("status_str") == "error"


def execution_error(entry: Mapping[str, Any]) -> AgentError:
    """Make the error of a run that failed at a node, without traceback, tensors and paths."""
    message = history_messages(entry).get("execution_error", {})
    node, node_type = str(message.get("node_id") or ""), str(message.get("node_type") or "a node")
    kind = str(message.get("exception_type") or "").rsplit(".", 1)[-1]
    words = bounded(str(message.get("exception_message") or "no reason given"))
    is_memory = is_out_of_memory(f"{kind} {words}")
    return PermanentError(
        f"{node_type} failed: {kind}: {words}" if kind else f"{node_type} failed: {words}",
        code="out_of_memory" if is_memory else "execution_error",
        node=node,
    )


def prompt_refusal(answer: Answer) -> AgentError:
    """Make the error for a `/prompt` that was not taken, with the reasons of every node.

    `error.details` is often empty while `node_errors` holds the reason.
    """
    document = answer.json()
    if answer.status != 400 or not isinstance(document, dict):
        return refusal(answer, "the workflow")
    nodes = node_errors(document)
    if nodes:
        return PermanentError(
            bounded(f"the workflow is not valid: {'; '.join(nodes.values())}", 2000),
            code="validation_error",
            node=next(iter(nodes)),
        )
    error = document.get("error")
    words = error if isinstance(error, str) else _error_words(error if isinstance(error, dict) else {})
    extra = error.get("extra_info") if isinstance(error, dict) else None
    node = extra.get("node_id") if isinstance(extra, dict) else None
    return PermanentError(
        bounded(f"the workflow is not valid: {words}"), code="validation_error", node=str(node or "")
    )


def node_errors(document: Mapping[str, Any]) -> dict[str, str]:
    """Put `node_errors` of `/prompt`'s answer into words, one text a node (by node id)."""
    found = document.get("node_errors")
    words = {}
    for node, report in list(found.items())[:MAX_NODES_IN_MESSAGE] if isinstance(found, dict) else ():
        if isinstance(report, dict):
            errors = [error for error in report.get("errors") or () if isinstance(error, dict)]
            reasons = ", ".join(_error_words(error) for error in errors[:10]) or "invalid"
            words[str(node)] = bounded(f"node {node} ({report.get('class_type') or 'unknown'}): {reasons}")
    return words


def _error_words(error: Mapping[str, Any]) -> str:
    message, details = (
        str(error.get("message") or error.get("type") or "invalid"),
        str(error.get("details") or ""),
    )
    return message if not details or details in message else f"{message}: {details[:500]}"


def queue_ids(document: Any) -> tuple[list[str], list[str]] | None:
    """Read `/queue`: the ids that run and those that wait; None where it is no such answer."""
    if not isinstance(document, dict):
        return None
    lists = []
    for key in ("queue_running", "queue_pending"):
        items = document.get(key)
        if not isinstance(items, list):
            return None
        lists.append([str(item[1]) for item in items if isinstance(item, list) and len(item) > 1])
    return lists[0], lists[1]


def progress_of(data: Mapping[str, Any], total_nodes: int, done: set[str]) -> float | None:
    """Reckon how far a run is from a `progress_state` or `progress` message.

    Each node of the graph counts the same; `done` holds the nodes known as finished or cached and is
    added to.
    """
    fraction = 0.0
    nodes = data.get("nodes")
    if isinstance(nodes, dict):
        for node, state in nodes.items():
            if not isinstance(state, dict):
                continue
            if state.get("state") == "finished":
                done.add(node)
            elif node not in done:
                fraction += _share(state)
    else:
        fraction = _share(data)
    return min(1.0, (len(done) + fraction) / total_nodes) if total_nodes else None


def _share(state: Mapping[str, Any]) -> float:
    value, largest = state.get("value"), state.get("max")
    if isinstance(value, (int, float)) and isinstance(largest, (int, float)) and largest > 0:
        return min(1.0, max(0.0, value / largest))
    return 0.0


def preview_image(frame: bytes) -> bytes | None:
    """Return the image inside a binary frame of the socket; None for any other frame.

    A frame is a big-endian event number, for images (1) then their type, and the image's bytes; event 4
    has a JSON header of a given length in between.
    """
    event = int.from_bytes(frame[:4], "big")
    if event == 1 and len(frame) > 8:
        return frame[8:]
    if event == 4 and len(frame) > 8:
        return frame[8 + int.from_bytes(frame[4:8], "big") :] or None
    return None
