"""The local target as `deploy` and the other commands drive it: up, run the runtimes, look, down."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, TypeVar

from sdctl.clients.aws import AwsAccess
from sdctl.errors import ConfigError, ConflictError, DeployFailedError, NotFoundError, WaitTimeoutError
from sdctl.local import processes
from sdctl.local.children import (
    EMULATOR,
    RUNTIME,
    ChildSpec,
    RuntimeSpec,
    base_environment,
    in_start_order,
    runtime_children,
)
from sdctl.local.logfiles import tail
from sdctl.local.state import (
    EmulatorSettings,
    StateFolder,
    folder_of,
    free_port,
    new_settings,
    read_json,
    write_json,
    write_settings,
)
from sdctl.polling import Pace, poll

T = TypeVar("T")

DEFAULT_REGION: Final = "us-east-1"
START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 45.0
# A child that failed this often while one waits for it will not come.
MAX_START_FAILURES: Final = 3
_PACE: Final = Pace(interval_seconds=0.02, factor=1.2, ceiling_seconds=0.2)
_NEEDED_MODULES: Final = ("ministack", "hypercorn", "PIL", "numpy", "aiohttp")
_STOPPED: Final = "stopped"


@dataclass(frozen=True, slots=True)
class ChildStatus:
    """One child: `since` is ISO 8601.

    `state` is starting, ready, unresponsive, restarting, stopping or stopped.
    """

    name: str
    kind: str
    state: str
    pid: int | None
    port: int | None
    restarts: int
    last_exit: int | None
    since: str


@dataclass(frozen=True, slots=True)
class LocalStatus:
    """What runs: the supervisor's process id (None: it does not) and its children."""

    supervisor: int | None
    children: tuple[ChildStatus, ...]

    @property
    def is_healthy(self) -> bool:
        """Tell whether everything that should run is ready."""
        return self.supervisor is not None and all(child.state == "ready" for child in self.children)


class LocalTarget:
    """One stack on this machine, deployed from one folder."""

    def __init__(
        self,
        home: Path,
        stack_name: str,
        folder: Path,
        *,
        region: str | None = None,
        env: Mapping[str, str] = os.environ,
    ) -> None:
        """Name the target; nothing is made or started.

        Args:
            home: sdctl's state folder.
            stack_name: of the deployment.
            folder: where it was deployed from; two folders never share a target.
            region: what the emulator says it is in; None is what it was made with, else us-east-1.
            env: the caller's environment, of which the children get very little.
        """
        self.state = folder_of(home, stack_name, folder)
        self._region = region
        self._env = env

    def exists(self) -> bool:
        """Tell whether this target has a state folder."""
        return self.state.root.is_dir()

    def operation(self) -> AbstractContextManager[None]:
        """Hold the target for one deploy or destroy; ConflictError where another one is in progress."""
        # Beside the folder that goes with its last deployment, not in it.
        return processes.operation(self.state.root.parent.with_name(f".{self.state.root.name}.lock"))

    def access(self) -> AwsAccess:
        """Return how to speak to the emulator, whether it runs or not.

        Raises:
            NotFoundError: there is none.
        """
        if not self.state.settings.exists():
            raise NotFoundError("nothing is deployed on this machine", hint="sdctl deploy --target local")
        return _access(self.state.read_settings())

    def start(self) -> None:
        """Start the supervisor with the emulator, or find them; `up` waits for them.

        Raises:
            ConfigError: the packages of the `local` extra are missing.
            ConflictError: the target exists in another region.
        """
        missing = [name for name in _NEEDED_MODULES if find_spec(name) is None]
        if missing:
            raise ConfigError(
                f"the local target needs packages that are not installed: {', '.join(missing)}",
                hint="pip install 'sdctl[local]'",
            )
        self._prepare()
        if processes.supervisor_pid(self.state) is None:
            self._launch()

    def up(self) -> AwsAccess:
        """Start the supervisor with the emulator, or find them, and wait until the emulator answers.

        Raises:
            ConfigError, ConflictError: see `start`.
            DeployFailedError: the emulator does not start.
        """
        self.start()
        self._wait_for(lambda status: [child for child in status.children if child.name == EMULATOR])
        return self.access()

    def run_runtimes(self, specs: Sequence[RuntimeSpec]) -> None:
        """Run exactly these runtimes and their agents; what has not changed is not touched.

        Returns when the change is handed to the supervisor; `wait_ready` waits for it.
        """
        settings, ports = self.state.read_settings(), self._ports()
        children: list[ChildSpec] = []
        for spec in specs:
            port = None if spec.runtime_url else ports.get(f"{RUNTIME}-{spec.name}") or free_port()
            children += runtime_children(spec, settings, self.state, port)
        document = {"children": [child.as_dict() for child in in_start_order(children)]}
        if self.state.desired.exists() and read_json(self.state.desired) == _as_read(document):
            return
        write_json(self.state.desired, document)
        pid = processes.supervisor_pid(self.state)
        if pid:
            os.kill(pid, signal.SIGUSR1)

    def wait_ready(self, timeout_seconds: float = START_SECONDS) -> None:
        """Wait until every wanted child is ready.

        Raises:
            DeployFailedError: one keeps ending; the message holds the end of its log.
            WaitTimeoutError: the deadline passed.
        """
        wanted = {EMULATOR} | {str(child["name"]) for child in self._desired()}

        def all_wanted(status: LocalStatus) -> list[ChildStatus]:
            found = [child for child in status.children if child.name in wanted]
            return found if len(found) == len(status.children) == len(wanted) else []

        self._wait_for(all_wanted, timeout_seconds)

    def status(self) -> LocalStatus:
        """Return what runs now."""
        pid = processes.supervisor_pid(self.state)
        if not self.state.status.exists():
            return LocalStatus(pid, ())
        try:
            document = read_json(self.state.status)
        except FileNotFoundError:
            return LocalStatus(pid, ())  # a starting supervisor has just removed its predecessor's
        if pid is not None and document["supervisor"] != pid:
            return LocalStatus(pid, ())  # a starting supervisor has not yet removed its predecessor's
        entries = document["children"]
        return LocalStatus(
            pid, tuple(_child_status(entry, is_supervised=pid is not None) for entry in entries)
        )

    def log_path(self, name: str) -> Path:
        """Return where a child's log is."""
        return self.state.logs / f"{name}.log"

    def down(self) -> None:
        """End every process and remove the state folder; nothing is left. Does nothing twice."""
        if not self.exists():
            return
        pid = processes.supervisor_pid(self.state)
        if pid:
            os.kill(pid, signal.SIGTERM)
            try:
                self._poll(self._is_unsupervised, "the supervisor to end", STOP_SECONDS)
            except WaitTimeoutError:
                os.kill(pid, signal.SIGKILL)
        if self.state.status.exists():
            left = [(entry["pid"], entry["mark"]) for entry in read_json(self.state.status)["children"]]
            processes.end_leftovers([(pid, mark) for pid, mark in left if pid], grace_seconds=2.0)
        shutil.rmtree(self.state.root)
        with suppress(OSError):  # others have their state beside it
            self.state.root.parent.rmdir()

    def _is_unsupervised(self) -> bool | None:
        return True if processes.supervisor_pid(self.state) is None else None

    def _prepare(self) -> None:
        self.state.root.parent.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in (self.state.root.parent, self.state.root, self.state.logs, self.state.temporary):
            path.mkdir(mode=0o700, exist_ok=True)
        if not self.state.settings.exists():
            write_settings(self.state, new_settings(self._region or DEFAULT_REGION))
        region = self.state.read_settings().region
        if self._region not in (None, region):
            raise ConflictError(
                f"this folder's local deployment is in {region}, not in {self._region}",
                hint=f"pass -R {region}, or run sdctl destroy --target local first",
            )

    def _launch(self) -> None:
        with (self.state.logs / "supervisor.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-P", "-m", "sdctl.local.supervisor", str(self.state.root)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.state.root,
                env=base_environment(self._env, self.state),
                start_new_session=True,
                check=True,
                timeout=START_SECONDS,
            )

    def _ports(self) -> dict[str, int]:
        return {str(child["name"]): int(child["port"]) for child in self._desired() if child["port"]}

    def _desired(self) -> list[dict[str, Any]]:
        if not self.state.desired.exists():
            return []
        found: list[dict[str, Any]] = read_json(self.state.desired)["children"]
        return found

    def _wait_for(
        self,
        choose: Callable[[LocalStatus], list[ChildStatus]],
        timeout_seconds: float = START_SECONDS,
    ) -> None:
        """Wait until the chosen children are there and ready."""
        before = {child.name: child.restarts for child in self.status().children}

        def ready() -> bool | None:
            status = self.status()
            chosen = choose(status)
            for child in chosen:
                if child.restarts - before.get(child.name, 0) >= MAX_START_FAILURES:
                    self._raise_failed(child)
            is_ready = status.supervisor is not None and bool(chosen)
            return True if is_ready and all(child.state == "ready" for child in chosen) else None

        self._poll(ready, "the local processes to be ready", timeout_seconds, self._describe)

    def _raise_failed(self, child: ChildStatus) -> None:
        lines = tail(self.log_path(child.name), 15)
        raise DeployFailedError(
            f"{child.name} keeps ending, last with {child.last_exit}:\n" + "\n".join(lines),
            hint=f"sdctl logs {child.name}",
        )

    def _describe(self) -> str:
        status = self.status()
        states = ", ".join(f"{child.name} {child.state}" for child in status.children)
        return states or "nothing runs"

    @staticmethod
    def _poll(
        probe: Callable[[], T | None],
        awaited: str,
        timeout_seconds: float,
        state: Callable[[], str] | None = None,
    ) -> T:
        return poll(probe, awaited=awaited, timeout_seconds=timeout_seconds, pace=_PACE, state=state)


def _access(settings: EmulatorSettings) -> AwsAccess:
    return AwsAccess(
        region=settings.region, endpoint_url=settings.endpoint_url,
        access_key=settings.account_id, secret_key=settings.secret_key,
    )  # fmt: skip


def _child_status(entry: Mapping[str, Any], *, is_supervised: bool) -> ChildStatus:
    values = {name: entry[name] for name in ChildStatus.__dataclass_fields__}
    if not is_supervised:
        values |= {"state": _STOPPED, "pid": None}
    return ChildStatus(**values)


def _as_read(document: dict[str, Any]) -> Any:
    import json

    return json.loads(json.dumps(document))


__all__ = ["ChildStatus", "LocalStatus", "LocalTarget", "RuntimeSpec", "StateFolder"]
