"""Finds out what became of the prompts on a ComfyUI server, by asking the history and the queue.

The socket's events only tell when to ask. A prompt that is in neither is lost: the server was
restarted, or someone cleared its queue. Asked in that order, queue then history, nothing can slip
through, since a server moves a prompt from the one into the other in one step.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from sdctl_agent.errors import AgentError, InterruptedRunError, RuntimeDownError
from sdctl_agent.runtimes.comfy_answers import queue_ids
from sdctl_agent.runtimes.comfy_run import ComfyUiRun
from sdctl_agent.runtimes.reasons import refusal
from sdctl_agent.runtimes.server import Answer, Server, ServerGoneError, ServerSilentError

log = logging.getLogger(__name__)

# A run whose end the socket will tell is looked at this often nonetheless.
HEARD_LOOK_SECONDS: Final = 2.0
SHORTEST_LOOK_SECONDS: Final = 0.05
LONGEST_LOOK_SECONDS: Final = 1.0
QUEUE_LOOK_SECONDS: Final = 2.0
INTERRUPT_LOOK_SECONDS: Final = 0.25
# The history has a run up to 7 ms after `execution_success`; `executing` without a node comes after it.
HISTORY_LAG_SECONDS: Final = 0.015
# A prompt is lost when it is missing this many times in a row.
TIMES_MISSING: Final = 2


class Watcher:
    """Looks after all runs of one server from a thread of its own."""

    def __init__(
        self,
        server: Server,
        *,
        stall_timeout_seconds: float,
        is_socket_of: Callable[[str], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._server = server
        self._stall_timeout_seconds = stall_timeout_seconds
        self._is_socket_of = is_socket_of
        self._clock = clock
        self._changed = threading.Condition()
        self._runs: dict[str, ComfyUiRun] = {}
        self._ended = False
        self._thread: threading.Thread | None = None
        self._running_ids: tuple[str, ...] = ()
        self._running_since = clock()
        # The prompt that a server was given up over; while it runs nothing else can.
        self.stuck_id = ""

    def add(self, run: ComfyUiRun) -> None:
        """Know a run before it is posted, so that its first event finds it."""
        with self._changed:
            self._runs[run.prompt_id] = run
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="comfyui-watch", daemon=True)
                self._thread.start()

    def posted(self, run: ComfyUiRun, prompt_id: str) -> None:
        """Start looking after a run; old servers give it an id of their own."""
        with self._changed:
            self._runs.pop(run.prompt_id, None)
            run.prompt_id = prompt_id
            self._runs[prompt_id] = run
            now = self._clock()
            sight = run.sight
            sight.posted_at = sight.last_sign = now
            sight.next_queue_look = now + LONGEST_LOOK_SECONDS
            # An event may have come before the reply.
            sight.next_look = min(sight.next_look, now + SHORTEST_LOOK_SECONDS)
            self._changed.notify()

    def remove(self, run: ComfyUiRun) -> None:
        """Forget a run."""
        with self._changed:
            self._runs.pop(run.prompt_id, None)

    def wake(self, run: ComfyUiRun) -> None:
        """Look at a run at once, or forget it if it is over."""
        with self._changed:
            if run.done.is_set():
                self._runs.pop(run.prompt_id, None)
            run.sight.next_look = min(run.sight.next_look, self._clock())
            self._changed.notify()

    def wake_all(self) -> None:
        """Look at every run at once, since the server may be gone."""
        with self._changed:
            for run in self._runs.values():
                run.sight.next_look = min(run.sight.next_look, self._clock())
                run.sight.next_queue_look = 0
            self._changed.notify()

    def hear(self, kind: str, data: dict[str, Any]) -> None:
        """Take an event of the socket; those of other people's prompts are none of ours."""
        run = self._runs.get(str(data.get("prompt_id")))
        if run is None or run.done.is_set():
            return
        run.sight.last_sign = self._clock()
        if run.hear(kind, data):
            pause = 0 if kind == "executing" else HISTORY_LAG_SECONDS
            with self._changed:
                run.sight.next_look = min(run.sight.next_look, self._clock() + pause)
                self._changed.notify()

    def take_frame(self, frame: bytes) -> None:
        """Take a binary frame of the socket: an output, or a preview, which is dropped."""
        for run in tuple(self._runs.values()):
            if run.take_frame(frame):
                run.sight.last_sign = self._clock()
                return

    def end(self) -> None:
        """End the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify()

    def _watch(self) -> None:
        while (runs := self._wait_for_due()) is not None:
            for run in runs:
                self._look_guarded(run)
                if run.done.is_set():
                    self.remove(run)

    def _wait_for_due(self) -> Sequence[ComfyUiRun] | None:
        """Wait until a run is to be looked at; None at the end."""
        with self._changed:
            while not self._ended:
                now = self._clock()
                due = [run for run in self._runs.values() if run.sight.next_look <= now]
                if due:
                    return due
                next_look = min((run.sight.next_look for run in self._runs.values()), default=float("inf"))
                self._changed.wait(None if next_look == float("inf") else next_look - now)
            return None

    def _look_guarded(self, run: ComfyUiRun) -> None:
        """Look at a run; a server that is gone ends it, one that is only slow does not."""
        run.sight.next_look = float("inf")  # an event from now on asks for another look
        try:
            try:
                self._look(run)
            except ServerGoneError:
                self._look(run)  # an idle connection may just have been closed by the server
        except ServerSilentError as error:
            if self._clock() - run.sight.last_sign > self._stall_timeout_seconds:
                run.fail(error)
        except AgentError as error:
            run.fail(error)
        except BaseException as error:
            run.fail(RuntimeDownError(f"the adapter failed: {type(error).__name__}"))
            raise
        now = self._clock()
        with self._changed:
            run.sight.next_look = min(run.sight.next_look, now + self._pause(run, now))

    def _pause(self, run: ComfyUiRun, now: float) -> float:
        if run.interrupt_wanted.is_set():
            return INTERRUPT_LOOK_SECONDS
        if run.sight.times_missing or run.sight.finished_at is not None:
            return SHORTEST_LOOK_SECONDS
        if run.is_heard and self._is_socket_of(run.client_id):
            return HEARD_LOOK_SECONDS
        return min(LONGEST_LOOK_SECONDS, max(SHORTEST_LOOK_SECONDS, (now - run.sight.posted_at) / 10))

    def _look(self, run: ComfyUiRun) -> None:
        if self._look_at_history(run):
            return
        now = self._clock()
        if run.interrupt_wanted.is_set() or run.sight.times_missing or now >= run.sight.next_queue_look:
            run.sight.next_queue_look = now + QUEUE_LOOK_SECONDS
            self._look_at_queue(run)

    def _look_at_history(self, run: ComfyUiRun) -> bool:
        """End the run if the history has it; true if it has."""
        answer = self._get(f"/history/{run.prompt_id}", "the history")
        document = answer.json()
        entry = document.get(run.prompt_id) if isinstance(document, dict) else None
        if not isinstance(entry, dict):
            return False
        if not (self._is_socket_of(run.client_id) and run.awaits_frames(self._clock())):
            run.finish(entry)
        return True

    def _look_at_queue(self, run: ComfyUiRun) -> None:
        ids = queue_ids(self._get("/queue", "the queue").json())
        if ids is None:
            raise RuntimeDownError("the runtime's queue cannot be read")
        running, pending = ids
        self._note_running(tuple(running))
        if run.prompt_id in running or run.prompt_id in pending:
            run.sight.times_missing = 0
            if run.interrupt_wanted.is_set():
                self._stop(run, is_running=run.prompt_id in running)
            elif self._is_stuck(run, is_running=run.prompt_id in running):
                self._give_up(run)
        elif not self._look_at_history(run):
            self._note_missing(run)

    def _note_missing(self, run: ComfyUiRun) -> None:
        run.sight.times_missing += 1
        if run.sight.times_missing < TIMES_MISSING:
            return
        if run.interrupt_wanted.is_set():
            # A prompt that is taken out of the queue leaves no trace.
            run.fail(InterruptedRunError("the prompt was taken out of the queue"))
        else:
            run.fail(RuntimeDownError("the runtime does not know the prompt any more: it was restarted"))

    def _note_running(self, running: tuple[str, ...]) -> None:
        if running != self._running_ids:
            self._running_ids, self._running_since = running, self._clock()

    def _stop(self, run: ComfyUiRun, *, is_running: bool) -> None:
        """Take a prompt out of the queue, or interrupt it where it surely runs.

        Old servers ignore the id and interrupt whatever runs, hence the look at the queue just before.
        """
        if is_running:
            self._server.post_json("/interrupt", {"prompt_id": run.prompt_id})
        else:
            self._server.post_json("/queue", {"delete": [run.prompt_id]})

    def _is_stuck(self, run: ComfyUiRun, *, is_running: bool) -> bool:
        """Tell whether a server has stopped working though it answers, as when its worker has died.

        For a running prompt only its events tell, so it must have had some, on a socket that is still
        open; without, the agent's own limit on a task's time is what remains. A waiting prompt is stuck
        when what runs before it has not changed, and is none of ours that shows signs of life.
        """
        now = self._clock()
        if is_running:
            if not (run.is_heard and self._is_socket_of(run.client_id)):
                return False
            return now - run.sight.last_sign > self._stall_timeout_seconds
        own = [other for other in tuple(self._runs.values()) if other.prompt_id in self._running_ids]
        last_sign = max((self._running_since, run.sight.posted_at, *(other.sight.last_sign for other in own)))
        return now - last_sign > self._stall_timeout_seconds

    def _give_up(self, run: ComfyUiRun) -> None:
        self.stuck_id = self._running_ids[0] if self._running_ids else run.prompt_id
        log.warning("the runtime is stuck", extra={"action": "runtime_stalled"})
        self._stop(run, is_running=run.prompt_id in self._running_ids)
        run.fail(RuntimeDownError("the runtime shows no progress any more", code="runtime_stalled"))

    def is_stuck(self, timeout_seconds: float) -> bool:
        """Tell whether the prompt that the server was given up over still runs."""
        if not self.stuck_id:
            return False
        ids = queue_ids(self._server.request("GET", "/queue", timeout_seconds=timeout_seconds).json())
        if ids is not None and self.stuck_id not in (*ids[0], *ids[1]):
            self.stuck_id = ""
        return bool(self.stuck_id)

    def _get(self, path: str, what: str) -> Answer:
        answer = self._server.request("GET", path)
        if answer.status != 200:
            error = refusal(answer, what)
            # Whatever a server says when asked for its own state, it is not the task's fault.
            raise error if isinstance(error, RuntimeDownError) else RuntimeDownError(error.message)
        return answer
