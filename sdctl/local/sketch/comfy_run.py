"""Runs one queued workflow: its nodes in order, what is cached, and the messages on the way."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sdctl.local.sketch.comfy_output import Saving, picture_facts
from sdctl.local.sketch.comfy_schema import is_output_class
from sdctl.local.sketch.comfy_sockets import Sockets
from sdctl.local.sketch.comfy_values import NodeError, Result
from sdctl.local.sketch.files import FileRef, FileStore, OutsideFolderError, file_ref
from sdctl.local.sketch.pace import Pace
from sdctl.local.sketch.workflow import Sampling, evaluate, read_sampling, sampled

log = logging.getLogger(__name__)
Graph = dict[str, dict[str, Any]]
# Making a preview takes about ten milliseconds, which a fast run must not pay at every step.
_PREVIEW_SECONDS = 0.1


class InterruptedRunError(Exception):
    """The run was asked to stop."""


@dataclass
class Prompt:
    """One queued workflow, and what its run leaves behind."""

    number: float
    id: str
    graph: Graph
    extra_data: dict[str, Any]
    outputs: list[str]
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    results: dict[str, dict[str, list[Any]]] = field(default_factory=dict)
    meta: dict[str, dict[str, Any]] = field(default_factory=dict)
    messages: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    status: str = ""

    @property
    def client_id(self) -> str | None:
        """Return whose socket hears of it."""
        client = self.extra_data.get("client_id")
        return client if isinstance(client, str) else None

    def listed(self) -> list[Any]:
        """Return the five fields that queue and history show."""
        return [self.number, self.id, self.graph, self.extra_data, self.outputs]


class Runner:
    """Runs prompts one after the other and keeps what the next one may reuse."""

    def __init__(self, pace: Pace, files: FileStore, sockets: Sockets, temp_tag: str) -> None:
        self._pace, self._files, self._sockets, self._temp_tag = pace, files, sockets, temp_tag
        self._cache: dict[str, Result] = {}

    def forget(self) -> None:
        """Drop the cache."""
        self._cache = {}

    async def run(self, prompt: Prompt) -> None:
        """Run a prompt to its end, whatever that is; its status and messages say how it went."""
        self._sockets.running_client, self._sockets.running_node = prompt.client_id, None
        run = _Run(prompt, self._cache, self._pace, self._files, self._sockets)
        run.temp_tag = self._temp_tag
        await run.run()
        # As in the real server only what the last prompt used stays: a picture is large.
        self._cache = {key: run.cache[key] for key in run.signatures.values() if key in run.cache}
        self._sockets.running_node = None


class _Run:
    def __init__(
        self, prompt: Prompt, cache: dict[str, Result], pace: Pace, files: FileStore, sockets: Sockets
    ) -> None:
        self._prompt, self._pace, self._files, self._sockets = prompt, pace, files, sockets
        self.temp_tag = ""
        self.cache = dict(cache)
        self._order = needed_nodes(prompt.graph, prompt.outputs)
        self.signatures: dict[str, str] = {}
        self._states: dict[str, dict[str, Any]] = {}
        self._executed: list[str] = []
        self._facts = picture_facts(prompt.graph, prompt.extra_data)
        self._cached: list[str] = []

    async def run(self) -> None:
        prompt = self._prompt
        self._message("execution_start", {})
        self._sign()
        self._cached = [node for node in self._order if self._is_cached(node)]
        self._message("execution_cached", {"nodes": self._cached})
        node = ""
        try:
            for node in self._order:
                if prompt.stop.is_set():
                    raise InterruptedRunError
                if node in self._cached:
                    self._from_cache(node)
                else:
                    await self._execute(node)
        except InterruptedRunError:
            prompt.status = "error"
            about = {
                "node_id": node,
                "node_type": prompt.graph[node]["class_type"],
                "executed": self._executed,
            }
            self._message("execution_interrupted", about, everyone=True)
        except NodeError as error:
            prompt.status = "error"
            self._message("execution_error", self._failure(node, error.kind, str(error)))
        except Exception as error:  # the boundary of one run: the queue goes on
            log.exception("a node failed", extra={"action": "node_failed", "node": node})
            prompt.status = "error"
            self._message("execution_error", self._failure(node, type(error).__name__, str(error)))
        else:
            prompt.status = "success"
            self._message("execution_success", {})

    def _sign(self) -> None:
        """Name each node's result by all it is made from: class, inputs, files, and the results before it."""
        for node in self._order:
            row = self._prompt.graph[node]
            parts: list[Any] = [row["class_type"]]
            for name, value in sorted(row["inputs"].items()):
                if is_link(value, self._prompt.graph):
                    parts.append([name, self.signatures.get(value[0], ""), value[1]])
                else:
                    parts.append([name, value])
                    if name == "image" and isinstance(value, str):
                        parts.append(self._file_hash(value))
            text = json.dumps(parts, sort_keys=True, default=str)
            self.signatures[node] = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()

    def _file_hash(self, name: str) -> str:
        try:
            data = self._files.get(file_ref(name))
        except OutsideFolderError:
            data = None
        return hashlib.sha256(data).hexdigest() if data is not None else ""

    def _is_cached(self, node: str) -> bool:
        """Say whether a node's result is there, its files included: dropped ones are made again."""
        result = self.cache.get(self.signatures[node])
        if result is None:
            return False
        rows = [row for rows in (result.ui or {}).values() for row in rows if isinstance(row, dict)]
        return all(self._files.get(FileRef(row["type"], row["subfolder"], row["filename"])) for row in rows)

    def _from_cache(self, node: str) -> None:
        result = self.cache[self.signatures[node]]
        if result.ui is not None and node in self._prompt.outputs:
            self._show(node, result.ui)
            self._state(node, 1, 1, "finished")

    async def _execute(self, node: str) -> None:
        row = self._prompt.graph[node]
        class_type = row["class_type"]
        inputs = {name: self._resolved(value) for name, value in row["inputs"].items()}
        self._sockets.running_node = node
        self._state(node, 0.0, 1.0, "running")
        self._send("executing", {"node": node, "display_node": node})
        if node in self._prompt.outputs and is_output_class(class_type):
            result = await self._save(node, class_type, inputs)
        else:
            sampling = await self._pace.run(lambda: read_sampling(class_type, inputs))
            if sampling is not None:
                result = await self._sample(node, class_type, inputs, sampling)
            else:
                result = await self._pace.run(lambda: evaluate(class_type, inputs, self._files))
        self.cache[self.signatures[node]] = result
        self._executed.insert(0, node)
        state = self._states[node]
        self._state(node, state["max"], state["max"], "finished")

    def _resolved(self, value: Any) -> Any:
        if not is_link(value, self._prompt.graph):
            return value
        return self.cache[self.signatures[value[0]]].slot(value[1])

    async def _sample(self, node: str, class_type: str, inputs: dict[str, Any], sampling: Sampling) -> Result:
        prompt = self._prompt
        frames = []
        for index in range(len(sampling.wishes)):
            if prompt.stop.is_set():
                raise InterruptedRunError
            frames.append(await self._pace.run(partial(sampling.paint, index)))
        jpegs = self._previews(node, frames[0], sampling.steps)

        def step_done(step: int) -> None:
            self._state(node, step, sampling.steps, "running")
            self._send("progress", {"value": step, "max": sampling.steps, "node": node}, everyone=True)
            jpegs(step)

        done = await self._pace.steps(sampling.steps, len(frames), prompt.stop, step_done)
        if done < sampling.steps:
            raise InterruptedRunError
        return sampled(sampling, tuple(frames), inputs, class_type)

    def _previews(self, node: str, frame: Any, steps: int) -> Any:
        """Return what sends a preview after a step; nobody would see one of a run that takes no time."""
        prompt = self._prompt
        sid = prompt.client_id
        if not self._pace.is_slow or prompt.extra_data.get("preview_method") == "none":
            return lambda _step: None
        facts = {"node_id": node, "prompt_id": prompt.id, "display_node_id": node, "parent_node_id": None,
                 "real_node_id": node}  # fmt: skip

        last = time.monotonic()

        def send(step: int) -> None:
            nonlocal last
            from sdctl.local.sketch.images import jpeg_preview

            if self._sockets.anyone(sid) and time.monotonic() - last > _PREVIEW_SECONDS:
                last = time.monotonic()
                self._sockets.send_preview(jpeg_preview(frame, step / steps), facts, sid)

        return send

    async def _save(self, node: str, class_type: str, inputs: dict[str, Any]) -> Result:
        saving = Saving(self._files, class_type, inputs, self._facts, self.temp_tag)
        ui, pngs = await self._pace.run(saving.run)
        for index, png in enumerate(pngs):
            self._state(node, index, len(pngs), "running")
            self._send("progress", {"value": index, "max": len(pngs), "node": node}, everyone=True)
            self._sockets.send_png(png, self._prompt.client_id)
        result = Result(rest=next(iter(inputs.values()), None), ui=ui)
        if ui is not None:
            self._show(node, ui)
        return result

    def _show(self, node: str, ui: dict[str, list[Any]]) -> None:
        self._prompt.results[node] = ui
        self._prompt.meta[node] = {
            "node_id": node,
            "display_node": node,
            "parent_node": None,
            "real_node_id": node,
        }
        self._send("executed", {"node": node, "display_node": node, "output": ui})

    def _state(self, node: str, value: float, most: float, state: str) -> None:
        """Tell the state of every node that was touched so far."""
        self._states[node] = {
            "value": value, "max": most, "state": state, "node_id": node, "prompt_id": self._prompt.id,
            "display_node_id": node, "parent_node_id": None, "real_node_id": node,
        }  # fmt: skip
        data = {"prompt_id": self._prompt.id, "nodes": self._states}
        self._sockets.send("progress_state", data, self._prompt.client_id)

    def _send(self, event: str, data: dict[str, Any], everyone: bool = False) -> None:
        """Send to the prompt's client; without one only what is for everyone is sent, and to all."""
        if self._prompt.client_id is not None or everyone:
            self._sockets.send(event, {**data, "prompt_id": self._prompt.id}, self._prompt.client_id)

    def _message(self, event: str, data: dict[str, Any], everyone: bool = False) -> None:
        """Send a message that history keeps."""
        data = {"prompt_id": self._prompt.id, **data, "timestamp": int(time.time() * 1000)}
        self._prompt.messages.append((event, data))
        if self._prompt.client_id is not None or everyone:
            self._sockets.send(event, data, self._prompt.client_id)

    def _failure(self, node: str, kind: str, text: str) -> dict[str, Any]:
        row = self._prompt.graph[node]
        plain = {
            name: [value] for name, value in row["inputs"].items() if not is_link(value, self._prompt.graph)
        }
        return {
            "node_id": node, "node_type": row["class_type"], "executed": self._executed,
            "exception_message": f"{text}\n", "exception_type": kind, "traceback": [],
            "current_inputs": plain,
            "current_outputs": [one for one in self._order if self.signatures.get(one) in self.cache],
        }  # fmt: skip


def is_link(value: Any, graph: Graph) -> bool:
    """Say whether an input's value is a link to another node."""
    return (
        isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in graph
        and type(value[1]) is int
    )  # fmt: skip


def needed_nodes(graph: Graph, outputs: list[str]) -> list[str]:
    """Return the nodes that the outputs depend on, each after those before it."""
    order: dict[str, None] = {}
    for output in outputs:
        waiting: list[tuple[str, bool]] = [(output, False)]
        entered: set[str] = set()
        while waiting:
            node, is_ready = waiting.pop()
            if node in order:
                continue
            if is_ready:
                order[node] = None
                continue
            if node in entered:
                continue
            entered.add(node)
            waiting.append((node, True))
            before = [value[0] for value in graph[node]["inputs"].values() if is_link(value, graph)]
            waiting += [(one, False) for one in reversed(before)]
    return list(order)
