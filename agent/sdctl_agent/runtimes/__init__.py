"""Adapters for the runtimes, by name.

The agent drives `sdwebui` and `comfyui` itself. Any other server joins as a plug-in: an installed
package that offers a factory in the entry-point group `sdctl_agent.runtimes`. Its name is then what
`RUNTIME_TYPE` may say. A name is looked up without importing the others.

A worked example, a server that turns text into speech. In its `pyproject.toml`:

    [project.entry-points."sdctl_agent.runtimes"]
    speech = "speech_runtime:create"

and in `speech_runtime.py`:

    import io
    import threading
    from contextlib import nullcontext
    from urllib.parse import urljoin

    import urllib3

    from sdctl_agent.errors import PermanentError, RuntimeDownError
    from sdctl_agent.runtimes.base import Output, Prepared, Progress, RunResult


    class SpeechRun:
        def __init__(self, http, url, text):
            self.done = threading.Event()
            self._outcome = None
            threading.Thread(target=self._work, args=(http, url, text), daemon=True).start()

        def _work(self, http, url, text):
            try:
                answer = http.request("POST", url, json={"text": text}, retries=False)
                if answer.status == 200:
                    sound = answer.data
                    output = Output(lambda: nullcontext(iter([sound])), name="speech.wav", size=len(sound))
                    self._outcome = RunResult((output,), {"seconds": answer.headers.get("x-seconds")})
                else:
                    self._outcome = PermanentError(answer.data[:200].decode("utf-8", "replace"))
            except urllib3.exceptions.HTTPError as error:
                self._outcome = RuntimeDownError(str(error))
            finally:
                self.done.set()

        def error(self):
            return self._outcome if isinstance(self._outcome, Exception) else None

        def result(self):
            self.done.wait()
            if isinstance(self._outcome, Exception):
                raise self._outcome
            return self._outcome

        def progress(self):
            return Progress()

        def interrupt(self):
            pass  # this server cannot stop a run; the agent waits for its end

        def close(self):
            pass


    class SpeechRuntime:
        task_types = frozenset({"text-to-speech"})
        queue_ahead = 0

        def __init__(self, options):
            self._http = urllib3.PoolManager()
            self._url = options.base_url

        def is_ready(self, timeout_seconds):
            url = urljoin(self._url, "/health")
            try:
                answer = self._http.request("GET", url, timeout=timeout_seconds, retries=False)
            except urllib3.exceptions.HTTPError:
                return False
            return answer.status == 200

        def prepare(self, task, fetch):
            text = task.content.get("text")
            if not isinstance(text, str):
                raise PermanentError("content/text is not a string")
            return Prepared(task, text)

        def start(self, prepared):
            return SpeechRun(self._http, urljoin(self._url, "/speak"), prepared.request)

        def loaded_checkpoint(self):
            return ""

        def close(self):
            self._http.clear()


    def create(options):
        return SpeechRuntime(options)

What each method has to do, raise and never do is in `sdctl_agent.runtimes.base`. An adapter never
retries a run: only the queue may do that.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, Final

from sdctl.contract import COMFYUI, SDWEBUI
from sdctl_agent.errors import SettingsError
from sdctl_agent.runtimes.base import Runtime, RuntimeOptions

ENTRY_POINT_GROUP: Final = "sdctl_agent.runtimes"
Factory = Callable[[RuntimeOptions], Runtime]

# Module and function of each built-in factory, imported only when its runtime is made.
_BUILT_IN: Final = {
    SDWEBUI: ("sdctl_agent.runtimes.sdwebui", "create"),
    COMFYUI: ("sdctl_agent.runtimes.comfyui", "create"),
}


def runtime_types() -> tuple[str, ...]:
    """List what `RUNTIME_TYPE` may say: the built-in names, then those of installed plug-ins."""
    plugins = {point.name for point in entry_points(group=ENTRY_POINT_GROUP)} - set(_BUILT_IN)
    return (*_BUILT_IN, *sorted(plugins))


def create_runtime(runtime_type: str, options: RuntimeOptions) -> Runtime:
    """Make the adapter of a runtime type; nothing is connected to yet.

    Raises:
        SettingsError: no built-in adapter or plug-in has that name, or the plug-in cannot be imported.
    """
    return _factory(runtime_type)(options)


def _factory(runtime_type: str) -> Factory:
    if runtime_type in _BUILT_IN:
        module, function = _BUILT_IN[runtime_type]
        factory: Any = getattr(import_module(module), function)
        return factory  # type: ignore[no-any-return]
    # A built-in name is never looked up here, so that no package can take its place.
    found = entry_points(group=ENTRY_POINT_GROUP, name=runtime_type)
    if not found:
        raise SettingsError([f'RUNTIME_TYPE: "{runtime_type}" is not one of {", ".join(runtime_types())}'])
    point = next(iter(found))
    try:
        plugin: Factory = point.load()
    except (ImportError, AttributeError) as error:
        raise SettingsError([f"RUNTIME_TYPE: plug-in {point.value} cannot be loaded: {error}"]) from error
    return plugin
