"""The adapter for ComfyUI.

ComfyUI has a queue of its own, so the next prompt is posted while one runs. What became of a prompt is
polled (`comfy_watch`); the websocket (`comfy_socket`) only makes that quick, and gives progress.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

from sdctl.contract import COMFYUI, TASK_TYPES, Task, workflow_problems
from sdctl_agent.errors import AgentError, PermanentError, RuntimeDownError
from sdctl_agent.media import SNIFF_BYTES, sniff
from sdctl_agent.runtimes.base import InputFetcher, InputFile, Prepared, RuntimeOptions
from sdctl_agent.runtimes.comfy_answers import node_errors, prompt_refusal
from sdctl_agent.runtimes.comfy_run import ComfyUiRun, Graph, describe_graph
from sdctl_agent.runtimes.comfy_socket import ComfySocket
from sdctl_agent.runtimes.comfy_watch import Watcher
from sdctl_agent.runtimes.content import is_url
from sdctl_agent.runtimes.memory import Memory, comfy_free, comfy_memory
from sdctl_agent.runtimes.reasons import refusal
from sdctl_agent.runtimes.server import Server, ServerSilentError

# The worker waits for this answer; a server validates large workflows in a second or two.
PROMPT_TIMEOUT_SECONDS: Final = 30.0
_IMAGE: Final = frozenset({"image"})
_MOVING: Final = frozenset({"image", "video"})
_SOUND: Final = frozenset({"audio", "video"})
# Nodes whose inputs may be URLs, and what kinds of file each takes.
_INPUT_NODES: Final[Mapping[str, frozenset[str]]] = {
    "LoadImage": _IMAGE,
    "LoadImageMask": _IMAGE,
    "LoadImageOutput": _IMAGE,
    "LoadVideo": _MOVING,
    "VHS_LoadVideo": _MOVING,
    "LoadAudio": _SOUND,
}
_INPUT_KEYS: Final = ("image", "file", "video", "audio")


def create(options: RuntimeOptions) -> ComfyUiRuntime:
    """Make the adapter; nothing is connected to yet."""
    return ComfyUiRuntime(options)


class ComfyUiRuntime:
    """Drives one ComfyUI server."""

    task_types = frozenset(TASK_TYPES[COMFYUI])
    queue_ahead = 1

    def __init__(self, options: RuntimeOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.server = Server(options.base_url)
        self.watcher = Watcher(
            self.server,
            stall_timeout_seconds=options.stall_timeout_seconds,
            is_socket_of=self._is_socket_of,
            clock=clock,
        )
        self.socket = ComfySocket(
            self.server.base_url, self.watcher.hear, self.watcher.take_frame, self.watcher.wake_all
        )

    def is_ready(self, timeout_seconds: float) -> bool:
        """Tell whether the server answers and is not stuck at a prompt that was given up."""
        try:
            answer = self.server.request("GET", "/system_stats", timeout_seconds=timeout_seconds)
            return answer.status == 200 and not self.watcher.is_stuck(timeout_seconds)
        except AgentError:
            return False

    def prepare(self, task: Task, fetch: InputFetcher) -> Prepared:
        """Upload the inputs that are URLs, and encode the workflow."""
        if task.tasktype not in self.task_types:
            raise PermanentError(f'task type "{task.tasktype}" is not one of {", ".join(self.task_types)}')
        problems = workflow_problems(task.content)
        if problems:
            raise PermanentError(f"content: {'; '.join(problems)}", code="validation_error")
        # Not before the first task, so that the first receive does not wait for it.
        self.socket.start()
        uploaded: dict[tuple[str, frozenset[str]], str] = {}
        content = {}
        for node_id, node in task.content.items():
            content[node_id] = self._with_uploads(node_id, node, fetch, uploaded)
        body = json.dumps(content, ensure_ascii=False).encode()
        return Prepared(task, describe_graph(content, (body,)), held_bytes=len(body))

    def start(self, prepared: Prepared) -> ComfyUiRun:
        """Post the prompt; the server queues it behind the one that runs."""
        graph: Graph = prepared.request
        # Fresh each time: the same id twice runs twice, and the later one hides the former. The form is
        # the only one that newer servers take; the oldest ones answer with an id of their own.
        run = ComfyUiRun(self.server, graph, str(uuid.uuid4()), self.socket.client_id, self.watcher.wake)
        self.watcher.add(run)
        try:
            prompt_id = self._post(run)
        except BaseException:
            self.watcher.remove(run)
            raise
        self.watcher.posted(run, prompt_id)
        return run

    def loaded_checkpoint(self) -> str:
        """Return nothing: a workflow names its own models."""
        return ""

    def memory(self) -> Memory | None:
        """Read the machine's and the GPU's memory."""
        return comfy_memory(self.server)

    def free_memory(self) -> bool:
        """Have models unloaded and caches emptied before the next prompt."""
        return comfy_free(self.server)

    def close(self) -> None:
        """End the threads and close the connections."""
        self.watcher.end()
        self.socket.close()
        self.server.close()

    def _is_socket_of(self, client_id: str) -> bool:
        return self.socket.is_open and self.socket.client_id == client_id

    def _post(self, run: ComfyUiRun) -> str:
        """Post a run's prompt, and return the id that the server knows it by."""
        envelope = {
            "client_id": run.client_id,
            "prompt_id": run.prompt_id,
            "extra_data": {"preview_method": "none"},
        }
        head = json.dumps(envelope)[:-1].encode() + b', "prompt": '
        try:
            answer = self.server.request(
                "POST",
                "/prompt",
                body=[head, *run.graph.parts, b"}"],
                timeout_seconds=PROMPT_TIMEOUT_SECONDS,
            )
        except ServerSilentError:
            # It may have been queued all the same; its id is known, so it can be taken out again.
            self.server.post_json("/queue", {"delete": [run.prompt_id]})
            raise
        if answer.status != 200:
            raise prompt_refusal(answer)
        document = answer.json()
        if not isinstance(document, dict) or not isinstance(document.get("prompt_id"), str):
            raise RuntimeDownError("the runtime's answer to a prompt has no prompt id")
        run.dropped = node_errors(document)
        return str(document["prompt_id"])

    def _with_uploads(
        self,
        node_id: str,
        node: dict[str, Any],
        fetch: InputFetcher,
        uploaded: dict[tuple[str, frozenset[str]], str],
    ) -> dict[str, Any]:
        """Return a node with the URLs of its inputs replaced by the names of uploaded files."""
        kinds = _INPUT_NODES.get(node["class_type"])
        inputs = node.get("inputs") or {}
        urls = {key: inputs[key] for key in _INPUT_KEYS if is_url(inputs.get(key))}
        if kinds is None or not urls:
            return node
        names = {}
        for key, url in urls.items():
            if (url, kinds) not in uploaded:
                file = fetch(url)
                if file.content_type.partition("/")[0] not in kinds:
                    raise PermanentError(
                        f"content/{node_id}/inputs/{key}: the input is {file.content_type}, "
                        f"{node['class_type']} takes {' or '.join(sorted(kinds))}",
                        code="input_not_image",
                        node=node_id,
                    )
                uploaded[url, kinds] = self._upload(file)
            names[key] = uploaded[url, kinds]
        return node | {"inputs": inputs | names}

    def _upload(self, file: InputFile) -> str:
        """Upload a file under a name made from its content, and return the name that the server gave.

        The extension comes from the bytes, the name is plain ASCII, since ComfyUI keeps the percent
        signs of an encoded one; the same file again gets the same name and takes no more room.
        """
        extension = sniff(file.data[:SNIFF_BYTES]).extension
        name = f"{hashlib.sha256(file.data).hexdigest()[:32]}.{extension}"
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            f"Content-Type: {file.content_type}\r\n\r\n"
        )
        tail = (
            f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="type"\r\n\r\n'
            f"input\r\n--{boundary}--\r\n"
        )
        answer = self.server.request(
            "POST",
            "/upload/image",
            body=[head.encode(), file.data, tail.encode()],
            content_type=f"multipart/form-data; boundary={boundary}",
        )
        if answer.status == 413:
            raise PermanentError(
                f"the runtime takes no file of {len(file.data)} bytes", code="input_too_large"
            )
        if answer.status != 200:
            raise refusal(answer, "uploading an input")
        document = answer.json()
        if not isinstance(document, dict) or not isinstance(document.get("name"), str):
            raise RuntimeDownError("the runtime's answer to an upload has no name")
        subfolder = document.get("subfolder")
        return f"{subfolder}/{document['name']}" if subfolder else str(document["name"])
