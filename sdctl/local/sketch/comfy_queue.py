"""ComfyUI's queue and history: what waits, what runs, what has run, and the task that works it off."""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import OrderedDict
from typing import Any

from sdctl.local.sketch.comfy_run import Prompt, Runner
from sdctl.local.sketch.comfy_sockets import Sockets

log = logging.getLogger(__name__)
# The real server keeps 10,000; each holds its whole workflow.
MAX_HISTORY = 1000
_MEDIA = ("images", "gifs", "video", "audio")


class Queue:
    """Prompts by number, lowest first; one runs at a time."""

    def __init__(self, runner: Runner, sockets: Sockets) -> None:
        self._runner, self._sockets = runner, sockets
        self._heap: list[tuple[float, int, Prompt]] = []
        self._serial = 0
        self._arrived = asyncio.Event()
        self.running: Prompt | None = None
        self.history: OrderedDict[str, Prompt] = OrderedDict()

    @property
    def remaining(self) -> int:
        """Return how many wait or run."""
        return len(self._heap) + (self.running is not None)

    def put(self, prompt: Prompt) -> None:
        """Queue a prompt."""
        self._serial += 1
        heapq.heappush(self._heap, (prompt.number, self._serial, prompt))
        self.tell()
        self._arrived.set()

    def tell(self) -> None:
        """Tell every socket how many remain."""
        status = {"status": {"exec_info": {"queue_remaining": self.remaining}}}
        self._sockets.send("status", status, None)

    def pending(self) -> list[Prompt]:
        """Return what waits, in order."""
        return [prompt for _, _, prompt in sorted(self._heap)]

    def clear(self) -> None:
        """Drop all that waits; nothing of it reaches the history."""
        self._heap = []
        self.tell()

    def delete(self, prompt_id: str) -> bool:
        """Drop one that waits; say whether it did."""
        left = [item for item in self._heap if item[2].id != prompt_id]
        if len(left) == len(self._heap):
            return False
        self._heap = left
        heapq.heapify(self._heap)
        self.tell()
        return True

    def interrupt(self, prompt_id: str | None = None) -> bool:
        """Stop what runs, if it is this one; an idle server forgets the call at once."""
        if self.running is None or (prompt_id is not None and self.running.id != prompt_id):
            return False
        self.running.stop.set()
        return True

    async def work(self) -> None:
        """Run prompts for ever."""
        while True:
            while not self._heap:
                self._arrived.clear()
                await self._arrived.wait()
            self.running = heapq.heappop(self._heap)[2]
            self.tell()
            prompt = self.running
            try:
                await self._runner.run(prompt)
            except Exception as error:  # the boundary of one prompt: the next one runs
                log.exception("a run failed", extra={"action": "run_failed", "prompt_id": prompt.id})
                prompt.status = "error"
                facts = {"prompt_id": prompt.id, "exception_message": str(error), "timestamp": milliseconds()}
                prompt.messages.append(("execution_error", facts))
            self.running = None
            self.history.pop(prompt.id, None)
            self.history[prompt.id] = prompt
            while len(self.history) > MAX_HISTORY:
                self.history.popitem(last=False)
            self.tell()
            if prompt.client_id is not None:
                self._sockets.send("executing", {"node": None, "prompt_id": prompt.id}, prompt.client_id)


def history_entry(prompt: Prompt) -> dict[str, Any]:
    """Return what history shows of a prompt that has run."""
    status = {
        "status_str": prompt.status,
        "completed": prompt.status == "success",
        "messages": prompt.messages,
    }
    return {"prompt": prompt.listed(), "outputs": prompt.results, "status": status, "meta": prompt.meta}


def job_object(prompt: Prompt, state: str = "", *, whole: bool = False) -> dict[str, Any]:
    """Return what /api/jobs shows of a prompt; `state` if it has not ended, `whole` with its outputs."""
    messages = dict(prompt.messages)
    ended = not state
    if ended:
        state = "completed" if prompt.status == "success" else "failed"
        state = "cancelled" if "execution_interrupted" in messages else state
    files = _output_files(prompt) if ended else []
    job: dict[str, Any] = {
        "id": prompt.id, "status": state, "priority": prompt.number,
        "create_time": prompt.extra_data["create_time"],
    }  # fmt: skip
    if ended:
        job["execution_start_time"] = prompt.messages[0][1]["timestamp"]
        job["execution_end_time"] = prompt.messages[-1][1]["timestamp"]
        if "execution_error" in messages:
            job["execution_error"] = messages["execution_error"]
    job |= {"outputs_count": len(files), "previewable_outputs_count": len(files)}
    if files:
        job["preview_output"] = next((row for row in files if row["type"] == "output"), files[0])
    if whole and ended:
        job["outputs"] = prompt.results
        job["execution_status"] = history_entry(prompt)["status"]
        job["workflow"] = {"prompt": prompt.graph, "extra_data": prompt.extra_data}
    return job


def _output_files(prompt: Prompt) -> list[dict[str, Any]]:
    return [
        {**row, "nodeId": node, "mediaType": kind}
        for node, ui in prompt.results.items()
        for kind, rows in ui.items()
        if kind in _MEDIA
        for row in rows
        if isinstance(row, dict)
    ]


def milliseconds() -> int:
    """Return the time of day as ComfyUI writes it."""
    return int(time.time() * 1000)
