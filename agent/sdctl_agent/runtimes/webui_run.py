"""One call of an SD WebUI server, from the post to its images."""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING, Any, Final

from sdctl_agent.errors import (
    AgentError,
    InterruptedRunError,
    PermanentError,
    RuntimeDownError,
    TransientError,
)
from sdctl_agent.runtimes.base import Output, Prepared, Progress, RunResult, memory_output
from sdctl_agent.runtimes.checkpoints import Checkpoint
from sdctl_agent.runtimes.image_json import ImageJson, decode_short, without_bytes
from sdctl_agent.runtimes.reasons import refusal
from sdctl_agent.runtimes.server import Call, Reply, ServerSilentError

if TYPE_CHECKING:
    from sdctl_agent.runtimes.sdwebui import SdWebuiRuntime

log = logging.getLogger(__name__)

INTERRUPT_PATH: Final = "/sdapi/v1/interrupt"
PROGRESS_SECONDS: Final = 1.0
INTERRUPT_RETRY_SECONDS: Final = 0.25


class SdWebuiRun:
    """One call, made by a thread of its own; a second thread watches it once it lasts."""

    def __init__(self, runtime: SdWebuiRuntime, prepared: Prepared) -> None:
        self.done = threading.Event()
        self._runtime = runtime
        self._prepared = prepared
        self._call = Call()
        self._outcome: RunResult | AgentError | None = None
        self._progress = Progress()
        self._posted = threading.Event()
        self._interrupt_wanted = threading.Event()
        self._woken = threading.Event()  # by the end or by a wanted interrupt
        self._interrupt_sent = False
        name = f"run-{prepared.task.id}"
        threading.Thread(target=self._work, name=name, daemon=True).start()
        threading.Thread(target=self._watch, name=f"watch-{prepared.task.id}", daemon=True).start()

    def result(self) -> RunResult:
        """Wait for the end; see `base.Run`."""
        self.done.wait()
        if isinstance(self._outcome, RunResult):
            return self._outcome
        raise self._outcome or RuntimeDownError("the run was closed")

    def progress(self) -> Progress:
        """Return what the server told last."""
        return self._progress

    def interrupt(self) -> None:
        """Have the watching thread stop the job as soon as it surely is this run's."""
        self._interrupt_wanted.set()
        self._woken.set()

    def close(self) -> None:
        """Break the call off if it still lasts, and let go of the images."""
        if not self.done.is_set():
            self._settle(RuntimeDownError("the run was closed"))
            self._call.abort()
        self._outcome = None

    def _settle(self, outcome: RunResult | AgentError) -> None:
        """Keep the first outcome."""
        if not self.done.is_set():
            self._outcome = outcome
            self.done.set()
            self._woken.set()

    def _work(self) -> None:
        try:
            self._settle(self._run())
        except AgentError as error:
            if self._interrupt_sent:
                self._settle(InterruptedRunError("the run was interrupted"))
            else:
                self._settle(error)
        except BaseException as error:
            self._settle(RuntimeDownError(f"the adapter failed: {type(error).__name__}"))
            raise

    def _run(self) -> RunResult:
        runtime = self._runtime
        model: Checkpoint | None = self._prepared.notes["checkpoint"]
        if model is not None and runtime.options.dynamic_checkpoint:
            runtime.load(model, self._call)
        if self._prepared.request is None:
            raise AssertionError("a prepared task is started once")
        path, body = self._prepared.request
        if self._interrupt_wanted.is_set():
            raise InterruptedRunError("the run was interrupted before it began")
        self._posted.set()
        with runtime.server.stream(
            "POST",
            path,
            body=body,
            timeout_seconds=runtime.options.task_timeout_seconds + 60,
            call=self._call,
        ) as reply:
            self._prepared.request = None  # it is sent; a large input need not be held any longer
            document = _read(reply, self._prepared.task.tasktype)
        if self._interrupt_sent:
            # The answer is 200 with the unfinished image, and nothing in it says so.
            raise InterruptedRunError("the run was interrupted")
        if model is not None:
            self._check_model(model, document)
        return RunResult(_outputs(document), _answer(document))

    def _check_model(self, model: Checkpoint, document: dict[str, Any]) -> None:
        """Refuse a picture that another model made, where `info` names it."""
        info = _info(document)
        name = info.get("sd_model_name") if isinstance(info, dict) else None
        if isinstance(name, str) and name and not model.is_named(name):
            self._runtime.forget_loaded()
            raise TransientError(
                f'the runtime used checkpoint "{name}" instead of "{model.title}"', code="wrong_checkpoint"
            )

    def _watch(self) -> None:
        """Poll the progress, send a wanted interrupt, notice a server that is stuck."""
        runtime = self._runtime
        last_sign, last_seen = runtime.clock(), None
        while not self.done.is_set():
            if self._wait_for_turn():
                return
            try:
                state = runtime.job_state()
                if state is None:
                    last_sign = runtime.clock()  # this server tells nothing, so silence says nothing
                    self._try_interrupt(None)
                    continue
                seen = (
                    state["state"].get("job_timestamp"),
                    state.get("progress"),
                    json.dumps(state["state"]),
                )
                if seen != last_seen:
                    last_sign, last_seen = runtime.clock(), seen
                self._note_progress(state)
                self._try_interrupt(state)
            except ServerSilentError:
                pass
            except AgentError as error:
                # The call itself tells what has happened; this is only another connection.
                log.debug("progress unknown: %s", error.message)
            if runtime.clock() - last_sign > runtime.options.stall_timeout_seconds:
                self._give_up(str(last_seen[0]) if last_seen else "")

    def _wait_for_turn(self) -> bool:
        """Wait until the server is to be asked again; true when the run has ended."""
        if self._interrupt_wanted.is_set():
            return self.done.wait(INTERRUPT_RETRY_SECONDS)
        self._woken.wait(PROGRESS_SECONDS)
        return self.done.is_set()

    def _note_progress(self, state: dict[str, Any]) -> None:
        value = state.get("progress")
        if state["state"].get("job") and isinstance(value, (int, float)) and not isinstance(value, bool):
            self._progress = Progress(min(1.0, max(0.0, float(value))))

    def _try_interrupt(self, state: dict[str, Any] | None) -> None:
        """Interrupt while the running job surely is ours: our call is open, a job runs, no call waits."""
        if not self._interrupt_wanted.is_set() or not self._posted.is_set() or state is None:
            return
        if not state["state"].get("job") or not self._runtime.nothing_waits() or self.done.is_set():
            return
        self._interrupt_sent = True
        self._runtime.server.request("POST", INTERRUPT_PATH, body=b"")

    def _give_up(self, job_timestamp: str) -> None:
        self._runtime.stuck_job = job_timestamp
        self._settle(RuntimeDownError("the runtime shows no progress any more", code="runtime_stalled"))
        self._call.abort()


def _read(reply: Reply, tasktype: str) -> dict[str, Any]:
    """Read the answer of a task, each large image of it as bytes.

    Raises:
        PermanentError, RuntimeDownError, TransientError: as `reasons.refusal` tells, or it is no object.
    """
    if reply.status != 200:
        raise refusal(reply.whole(), tasktype)
    parser = ImageJson()
    for chunk in reply.chunks():
        parser.feed(chunk)
    document = parser.finish()
    if not isinstance(document, dict):
        raise PermanentError("the runtime's answer is not a JSON object", code="runtime_error")
    return document


def _outputs(document: dict[str, Any]) -> tuple[Output, ...]:
    """List the images of an answer, `images[*]` or `image`.

    Raises:
        PermanentError: there is none, or one is not base64.
    """
    images = document.get("images")
    found = images if isinstance(images, list) else [document.get("image")]
    files = [image if isinstance(image, bytes) else decode_short(image) for image in found if image]
    if not files or not all(files):
        raise PermanentError("the runtime returned no image", code="no_output")
    return tuple(memory_output(data) for data in files)


def _info(document: dict[str, Any]) -> Any:
    """Decode `info`, which is JSON inside a string."""
    info = document.get("info")
    try:
        return json.loads(info) if isinstance(info, str) else info
    except (ValueError, RecursionError):
        return info


def _answer(document: dict[str, Any]) -> dict[str, Any]:
    """Return the complete answer without the images."""
    return {key: without_bytes(value) for key, value in document.items() if key not in ("images", "image")}
