"""The adapter for SD WebUI servers: AUTOMATIC1111, Forge, and sd-server of stable-diffusion.cpp.

One call is one task, and the call lasts as long as the task. `/sdapi/v1/txt2img` and its siblings wait
for one lock inside the server, so a second call would only wait there: `queue_ahead` is 0.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from sdctl.contract import SDWEBUI, TASK_TYPES, Task, checkpoint_fields, checkpoint_key
from sdctl_agent.errors import (
    AgentError,
    InterruptedRunError,
    PermanentError,
    RuntimeDownError,
    TransientError,
)
from sdctl_agent.runtimes.base import (
    InputFetcher,
    Output,
    Prepared,
    Progress,
    RunResult,
    RuntimeOptions,
    memory_output,
)
from sdctl_agent.runtimes.checkpoints import (
    Checkpoint,
    bare_title,
    find_checkpoint,
    read_checkpoints,
    unknown_checkpoint,
)
from sdctl_agent.runtimes.content import encoded_body, webui_content
from sdctl_agent.runtimes.image_json import ImageJson, decode_short, without_bytes
from sdctl_agent.runtimes.reasons import refusal
from sdctl_agent.runtimes.server import Call, Reply, Server, ServerSilentError

log = logging.getLogger(__name__)

_API: Final = "/sdapi/v1"
_PATHS: Final[Mapping[str, str]] = {
    "text-to-image": f"{_API}/txt2img",
    "image-to-image": f"{_API}/img2img",
    "extra-single-image": f"{_API}/extra-single-image",
    "extra-batch-images": f"{_API}/extra-batch-images",
}
PROGRESS_SECONDS: Final = 1.0
INTERRUPT_RETRY_SECONDS: Final = 0.25
# A model of several GiB from a slow disk; AUTOMATIC1111 answers only when it is loaded.
SWITCH_TIMEOUT_SECONDS: Final = 600.0


def create(options: RuntimeOptions) -> SdWebuiRuntime:
    """Make the adapter; nothing is connected to yet."""
    return SdWebuiRuntime(options)


class SdWebuiRuntime:
    """Drives one SD WebUI server."""

    task_types = frozenset(TASK_TYPES[SDWEBUI])
    queue_ahead = 0

    def __init__(self, options: RuntimeOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.server = Server(options.base_url)
        self.clock = clock
        # How often this adapter has made the server load another model.
        self.switches = 0
        self._lock = threading.Lock()
        self._known: tuple[Checkpoint, ...] = ()
        self._loaded = ""
        # `job_timestamp` of a job that was given up as stuck; while it lasts nothing else can run.
        self.stuck_job = ""

    def is_ready(self, timeout_seconds: float) -> bool:
        """Tell whether the server answers and its last job was not given up as stuck."""
        try:
            answer = self.server.request("GET", f"{_API}/options", timeout_seconds=timeout_seconds)
            if answer.status != 200:
                return False
            options = answer.json()
            self._note_loaded(options.get("sd_model_checkpoint") if isinstance(options, dict) else None)
            return not self.stuck_job or self._stuck_job_ended(timeout_seconds)
        except AgentError:
            return False

    def prepare(self, task: Task, fetch: InputFetcher) -> Prepared:
        """Fetch the inputs, find the model, and encode the request body."""
        path = _PATHS.get(task.tasktype)
        if path is None:
            raise PermanentError(f'task type "{task.tasktype}" is not one of {", ".join(_PATHS)}')
        if task.content.get("send_images") is False:
            raise PermanentError(
                "content/send_images is false, so the runtime would return no image", code="no_output"
            )
        checkpoint = self._wanted(task)

        def image(url: str, place: str) -> bytes:
            file = fetch(url)
            if not file.content_type.startswith("image/"):
                raise PermanentError(
                    f"content/{place}: the input is {file.content_type}, not an image", code="input_not_image"
                )
            return file.data

        copy, places = webui_content(task.content)
        body = encoded_body(copy, places, image)
        return Prepared(
            task,
            (path, body),
            checkpoint=checkpoint.bare_title if checkpoint else "",
            held_bytes=sum(map(len, body)),
            notes={"checkpoint": checkpoint},
        )

    def start(self, prepared: Prepared) -> SdWebuiRun:
        """Post the task from a thread of its own, after switching the model where it must be."""
        return SdWebuiRun(self, prepared)

    def loaded_checkpoint(self) -> str:
        """Return the title, without its hash, of the model that was loaded last, as far as known."""
        with self._lock:
            return self._loaded

    def close(self) -> None:
        """Close the idle connections."""
        self.server.close()

    def _note_loaded(self, name: Any) -> None:
        """Remember the loaded model, by its title where the list of models is known."""
        text = name if isinstance(name, str) else ""
        with self._lock:
            try:
                model = find_checkpoint(text, self._known) if text else None
            except PermanentError:
                model = None
            self._loaded = model.bare_title if model else bare_title(text)

    def _wanted(self, task: Task) -> Checkpoint | None:
        """Find the one model that a task asks for; None where it asks for none."""
        names = dict.fromkeys(
            name for _, name in checkpoint_fields(task.content) if isinstance(name, str) and name
        )
        models = dict.fromkeys(self._find(name) for name in names)
        if len(models) > 1:
            raise PermanentError(f"the content asks for different checkpoints: {', '.join(names)}")
        model = next(iter(models), None)
        if model is not None and not self.options.dynamic_checkpoint:
            loaded = self._ask_loaded()
            if loaded and checkpoint_key(loaded) != checkpoint_key(model.title):
                raise PermanentError(
                    f'checkpoint "{model.title}" is not loaded and this runtime switches no models; '
                    f'loaded: "{loaded}"',
                    code="checkpoint_not_loaded",
                )
        return model

    def _find(self, name: str) -> Checkpoint:
        """Look a model up in the server's list; read the list again, and let it be made again, once."""
        found = find_checkpoint(name, self._known)
        if found is None:
            found = find_checkpoint(name, self._read_known())
        if found is None and self.options.dynamic_checkpoint:
            # sd-server has no such request; its list is what it is.
            self.server.request("POST", f"{_API}/refresh-checkpoints", body=b"")
            found = find_checkpoint(name, self._read_known())
        if found is None:
            raise unknown_checkpoint(name, self._known)
        return found

    def _read_known(self) -> tuple[Checkpoint, ...]:
        answer = self.server.request("GET", f"{_API}/sd-models")
        if answer.status != 200:
            raise refusal(answer, "the list of checkpoints")
        known = read_checkpoints(answer.json())
        with self._lock:
            self._known = known
        return known

    def _ask_loaded(self) -> str:
        answer = self.server.request("GET", f"{_API}/options")
        if answer.status != 200:
            raise refusal(answer, "the runtime's options")
        options = answer.json()
        self._note_loaded(options.get("sd_model_checkpoint") if isinstance(options, dict) else None)
        return self.loaded_checkpoint()

    def load(self, model: Checkpoint, call: Call) -> None:
        """Make the server load a model, unless it is the one that it has.

        By POST options: `override_settings` would by default load the old model again after each task,
        and takes an unknown name silently. Forge answers at once and loads with the next task.

        Raises:
            PermanentError: the server cannot switch, or refuses this model.
        """
        loaded = self.loaded_checkpoint() or self._ask_loaded()
        if loaded == model.bare_title:
            return
        body = json.dumps({"sd_model_checkpoint": model.title}).encode()
        answer = self.server.request(
            "POST", f"{_API}/options", body=body, timeout_seconds=SWITCH_TIMEOUT_SECONDS, call=call
        )
        if answer.status == 404:
            raise PermanentError(
                f'this server cannot load another checkpoint than "{loaded}"', code="checkpoint_not_loaded"
            )
        if answer.status != 200:
            self.forget_loaded()
            raise refusal(answer, f'loading checkpoint "{model.title}"')
        self.switches += 1
        self._note_loaded(model.title)
        log.info("checkpoint loaded", extra={"action": "checkpoint_switched", "checkpoint": model.title})

    def forget_loaded(self) -> None:
        """Ask the server again before the next task which model it has."""
        with self._lock:
            self._loaded = ""

    def job_state(self, timeout_seconds: float = 10.0) -> dict[str, Any] | None:
        """Read `/progress`; None where the server has no such request."""
        answer = self.server.request(
            "GET",
            f"{_API}/progress",
            query={"skip_current_image": "true"},
            timeout_seconds=timeout_seconds,
        )
        document = answer.json() if answer.status == 200 else None
        return document if isinstance(document, dict) and isinstance(document.get("state"), dict) else None

    def nothing_waits(self) -> bool:
        """Tell whether no call waits for the server's lock, as far as it can be asked.

        AUTOMATIC1111 and Forge list the calls that wait at `/internal/pending-tasks`
        (https://github.com/AUTOMATIC1111/stable-diffusion-webui/blob/v1.10.1/modules/progress.py).
        Where that is not offered, no call but ours is taken to exist.
        """
        answer = self.server.request("GET", "/internal/pending-tasks")
        document = answer.json() if answer.status == 200 else None
        return not (isinstance(document, dict) and document.get("size"))

    def _stuck_job_ended(self, timeout_seconds: float) -> bool:
        state = self.job_state(timeout_seconds)
        if (
            state is not None
            and state["state"].get("job_timestamp") == self.stuck_job
            and state["state"].get("job")
        ):
            return False
        self.stuck_job = ""
        return True


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
        self._runtime.server.request("POST", f"{_API}/interrupt", body=b"")

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
