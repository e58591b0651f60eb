"""One call of an SD WebUI server, from the post to its images."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from sdctl_agent.errors import (
    AgentError,
    InterruptedRunError,
    PermanentError,
    RuntimeDownError,
    TransientError,
)
from sdctl_agent.runtimes.base import Output, Progress, RunResult, memory_output
from sdctl_agent.runtimes.checkpoints import Checkpoint
from sdctl_agent.runtimes.image_json import ImageJson, decode_short, without_bytes
from sdctl_agent.runtimes.reasons import refusal
from sdctl_agent.runtimes.server import Body, Call, Reply, ServerSilentError

if TYPE_CHECKING:
    from sdctl_agent.runtimes.sdwebui import SdWebuiRuntime

log = logging.getLogger(__name__)

INTERRUPT_PATH: Final = "/sdapi/v1/interrupt"
PROGRESS_SECONDS: Final = 1.0
INTERRUPT_RETRY_SECONDS: Final = 0.25
INTERRUPT_TIMEOUT_SECONDS: Final = 10.0
# How long whoever begins a run waits until its request is sent: less than a model takes to load.
HAND_OVER_SECONDS: Final = 0.1
# An answer whose header is here has to be read within this time.
ANSWER_SECONDS: Final = 300.0
# A shorter body is sent so quickly that sending it ahead gains nothing.
AHEAD_BYTES: Final = 64 * 1024


class _UnsentError(Exception):
    """What was sent ahead is of no use; the task has not reached the server."""


class SdWebuiRun:
    """One call, made by a thread of its own; a second thread watches it once it lasts.

    A large body is sent while the task before is still running, but for its last byte: a server begins
    with a request only when it has the whole. The run is done with the header of the answer, since the
    server then has finished; the images are read while the next task is at work.
    """

    def __init__(
        self, runtime: SdWebuiRuntime, what: str, path: str, body: Body, checkpoint: Checkpoint | None
    ) -> None:
        self.done = threading.Event()
        self._runtime = runtime
        self._what = what
        self._path = path
        self._body: Body = body
        self._checkpoint = checkpoint
        self._call = Call()
        self._turn = threading.Lock()  # held while the call ends, and while it is interrupted
        self._settled = threading.Event()
        self._wanted = threading.Event()  # the result is asked for: the next task has been started
        self._outcome: RunResult | AgentError | None = None
        self._progress = Progress()
        self._go = threading.Event()
        self._handed_over = threading.Event()  # the request is sent
        self._is_ahead = False
        self._posted = threading.Event()
        self._interrupt_wanted = threading.Event()
        self._woken = threading.Event()  # by the end or by a wanted interrupt
        self._interrupt_sent = False

    def send_ahead(self) -> None:
        """Send the body now, but for its last byte."""
        self._is_ahead = True
        self._runtime.threads.submit(self._work)

    def begin(self) -> None:
        """Have the server do the task, after it has loaded the model where it must."""
        self._go.set()
        if not self._is_ahead:
            self._runtime.threads.submit(self._work)
        # What the caller does next would only be in the way until the request is off.
        self._handed_over.wait(HAND_OVER_SECONDS)
        self._runtime.threads.submit(self._watch)

    def result(self) -> RunResult:
        """Wait for the end; see `base.Run`."""
        self._wanted.set()
        self._settled.wait()
        if isinstance(self._outcome, RunResult):
            return self._outcome
        raise self._outcome or RuntimeDownError("the run was closed")

    def error(self) -> AgentError | None:
        """Return what went wrong, as far as known."""
        return self._outcome if isinstance(self._outcome, AgentError) else None

    def progress(self) -> Progress:
        """Return what the server told last."""
        return self._progress

    def interrupt(self) -> None:
        """Have the watching thread stop the job as soon as it surely is this run's."""
        self._interrupt_wanted.set()
        self._woken.set()

    def close(self) -> None:
        """Break the call off if it still lasts, and let go of the images."""
        if not self._settled.is_set():
            self._settle(RuntimeDownError("the run was closed"))
            self._call.abort()
        self._outcome = None
        self._body = b""
        self._go.set()
        self._wanted.set()

    def _settle(self, outcome: RunResult | AgentError) -> None:
        """Keep the first outcome."""
        with self._turn:
            if not self._settled.is_set():
                self._outcome = outcome
                self._settled.set()
            self.done.set()
        self._woken.set()
        self._handed_over.set()

    def _work(self) -> None:
        try:
            self._settle(self._run())
        except AgentError as error:
            self._settle(InterruptedRunError("the run was interrupted") if self._interrupt_sent else error)
        except BaseException as error:
            self._settle(RuntimeDownError(f"the adapter failed: {type(error).__name__}"))
            raise

    def _run(self) -> RunResult:
        if self._is_ahead:
            try:
                return self._post(self._pass_if_first)
            except (_UnsentError, AgentError) as error:
                if self._posted.is_set():
                    raise
                log.debug("the request is sent again: %s", error)
            self._go.wait()
        self._refuse_if_over()
        model = self._checkpoint
        if model is not None and self._runtime.options.dynamic_checkpoint:
            self._runtime.load(model, self._call)
        self._pass()
        return self._post()

    def _post(self, gate: Callable[[], None] | None = None) -> RunResult:
        """Send the request, its end when `gate` allows it, and read the answer."""
        with self._runtime.server.stream(
            "POST",
            self._path,
            body=self._body,
            timeout_seconds=self._runtime.options.task_timeout_seconds + 60,
            call=self._call,
            gate=gate,
            sent=self._handed_over,
        ) as reply:
            if not self._posted.is_set():
                raise _UnsentError("the server answered before it had the request")
            self._body = b""  # it is sent; a large input need not be held any longer
            if reply.status == 200:
                self._leave_gpu()
                self._wanted.wait()
            document = _read(reply, self._what, self._runtime.clock)
        if self._checkpoint is not None:
            self._check_model(self._checkpoint, document)
        return RunResult(_outputs(document), _answer(document))

    def _pass_if_first(self) -> None:
        """Wait until the task may start; refuse if what was sent ahead is of no use then."""
        self._go.wait()
        model = self._checkpoint
        if model is not None and self._runtime.loaded_checkpoint() != model.bare_title:
            raise _UnsentError("another model has to be loaded first")
        if self._call.is_disturbed():
            raise _UnsentError("the server did not wait for the end of the request")
        self._pass()

    def _pass(self) -> None:
        self._refuse_if_over()
        self._posted.set()

    def _refuse_if_over(self) -> None:
        if self._settled.is_set():
            raise RuntimeDownError("the run was closed")
        if self._interrupt_wanted.is_set():
            raise InterruptedRunError("the run was interrupted before it began")

    def _leave_gpu(self) -> None:
        """Note that the server has finished, so that the next task is started."""
        with self._turn:
            if self._interrupt_sent:
                # The answer is 200 with the unfinished image, and nothing in it says so.
                raise InterruptedRunError("the run was interrupted")
            self.done.set()
        self._woken.set()

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
        if not state["state"].get("job") or not self._runtime.nothing_waits():
            return
        # The run is not done before the server has taken the interrupt, or it would meet the next task.
        with self._turn:
            if not self.done.is_set():
                self._interrupt_sent = True
                self._runtime.server.request(
                    "POST", INTERRUPT_PATH, body=b"", timeout_seconds=INTERRUPT_TIMEOUT_SECONDS
                )

    def _give_up(self, job_timestamp: str) -> None:
        self._runtime.stuck_job = job_timestamp
        self._settle(RuntimeDownError("the runtime shows no progress any more", code="runtime_stalled"))
        self._call.abort()


def _read(reply: Reply, what: str, clock: Callable[[], float]) -> dict[str, Any]:
    """Read the answer of a task, each large image of it as bytes.

    Raises:
        PermanentError, RuntimeDownError, TransientError: as `reasons.refusal` tells, or it is no object.
    """
    if reply.status != 200:
        raise refusal(reply.whole(), what)
    parser = ImageJson()
    deadline = clock() + ANSWER_SECONDS
    for chunk in reply.chunks():
        parser.feed(chunk)
        if clock() > deadline:
            raise ServerSilentError("the runtime's answer does not arrive in time")
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
