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
    PermanentError,
)
from sdctl_agent.pool import Pool
from sdctl_agent.runtimes.base import (
    InputFetcher,
    Prepared,
    RuntimeOptions,
)
from sdctl_agent.runtimes.checkpoints import (
    Checkpoint,
    bare_title,
    find_checkpoint,
    read_checkpoints,
    unknown_checkpoint,
)
from sdctl_agent.runtimes.content import encoded_body, webui_content
from sdctl_agent.runtimes.memory import Memory, webui_memory
from sdctl_agent.runtimes.reasons import refusal
from sdctl_agent.runtimes.server import Call, Server
from sdctl_agent.runtimes.webui_run import AHEAD_BYTES, SdWebuiRun

log = logging.getLogger(__name__)

_API: Final = "/sdapi/v1"
_PATHS: Final[Mapping[str, str]] = {
    "text-to-image": f"{_API}/txt2img",
    "image-to-image": f"{_API}/img2img",
    "extra-single-image": f"{_API}/extra-single-image",
    "extra-batch-images": f"{_API}/extra-batch-images",
}
# A model of several GiB from a slow disk; AUTOMATIC1111 answers only when it is loaded.
SWITCH_TIMEOUT_SECONDS: Final = 600.0


def create(options: RuntimeOptions) -> SdWebuiRuntime:
    """Make the adapter; nothing is connected to yet."""
    return SdWebuiRuntime(options)


def _report_bug(error: BaseException) -> None:
    log.error("unexpected error", exc_info=error, extra={"action": "bug"})


class SdWebuiRuntime:
    """Drives one SD WebUI server."""

    task_types = frozenset(TASK_TYPES[SDWEBUI])
    queue_ahead = 0

    def __init__(self, options: RuntimeOptions, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.options = options
        self.server = Server(options.base_url)
        self.clock = clock
        # Kept from run to run: two for each task that is held at the same time.
        self.threads = Pool("sdwebui", 32, _report_bug)
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
        body_bytes = sum(map(len, body))
        run = SdWebuiRun(self, task.tasktype, path, body, checkpoint)
        needs_switch = checkpoint is not None and checkpoint.bare_title != self.loaded_checkpoint()
        if body_bytes >= AHEAD_BYTES and not needs_switch:
            run.send_ahead()
        return Prepared(
            task,
            run,
            checkpoint=checkpoint.bare_title if checkpoint else "",
            held_bytes=body_bytes,
            drop=run.close,
        )

    def start(self, prepared: Prepared) -> SdWebuiRun:
        """Post the task from a thread of its own, after switching the model where it must be."""
        run: SdWebuiRun = prepared.request
        run.begin()
        return run

    def loaded_checkpoint(self) -> str:
        """Return the title, without its hash, of the model that was loaded last, as far as known."""
        with self._lock:
            return self._loaded

    def memory(self) -> Memory | None:
        """Read the process's and the GPU's memory, where the server tells it."""
        return webui_memory(self.server)

    def free_memory(self) -> bool:
        """Free nothing: unloading the model gives its RAM back to the process, not to the machine."""
        return False

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
