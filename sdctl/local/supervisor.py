"""Keeps the children of one local deployment running: starts, watches, restarts and ends them.

`python -m sdctl.local.supervisor STATE_DIR`, once per state folder. It runs the emulator and whatever
the desired-state file names; SIGUSR1 makes it read that file now, SIGTERM ends everything. It reports in
the status file. It never touches AWS and knows nothing of stacks or tasks.
"""

from __future__ import annotations

import http.client
import logging
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from sdctl.local import processes
from sdctl.local.children import EMULATOR, KINDS, STOP_SECONDS, ChildSpec, base_environment, emulator_child
from sdctl.local.state import (
    LOOPBACK,
    EmulatorSettings,
    StateFolder,
    free_port,
    is_free,
    read_json,
    write_json,
    write_settings,
)

log = logging.getLogger(__name__)

STARTING: Final = "starting"
READY: Final = "ready"
RESTARTING: Final = "restarting"
STOPPING: Final = "stopping"
UNRESPONSIVE: Final = "unresponsive"

# The first restart comes at once, so that a crash of the emulator is over within two seconds.
BACKOFF_SECONDS: Final = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS: Final = 30.0
MAX_LOG_BYTES: Final = 8 * 1024 * 1024
_STARTING_INTERVAL_SECONDS: Final = 0.02
_IDLE_INTERVAL_SECONDS: Final = 1.0
_LOG_INTERVAL_SECONDS: Final = 5.0
_PROBE_TIMEOUT_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a ready server is asked, and after how many misses in a row status tells and it is killed.

    Generous, a minute: a machine that swaps must not cost anyone their task.
    """

    probe_seconds: float = 5.0
    misses_to_tell: int = 3
    misses_to_kill: int = 12


_PATIENCE: Final = Patience()
# How long the children of a killed predecessor may take to end by themselves.
_LEFTOVER_SECONDS: Final = 5.0


@dataclass(slots=True)
class Child:
    """One child and what has become of it; times are of the monotonic clock."""

    spec: ChildSpec
    state: str = RESTARTING
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    pipe: int = -1  # our end of its standard input: while it is open, the child knows that we live
    mark: str = ""
    restarts: int = 0
    failures: int = 0
    last_exit: int | None = None
    since: str = ""
    started_at: float = 0.0
    due_at: float = 0.0
    kill_at: float = 0.0
    probe_at: float = 0.0
    misses: int = 0

    def report(self) -> dict[str, Any]:
        """Return the child's entry of the status file."""
        return {
            "name": self.spec.name, "kind": self.spec.kind, "state": self.state,
            "pid": self.process.pid if self.process else None, "mark": self.mark, "port": self.spec.port,
            "restarts": self.restarts, "last_exit": self.last_exit, "since": self.since,
        }  # fmt: skip


def backoff_seconds(failures: int) -> float:
    """Return how long to wait before the start that follows this many failures in a row."""
    return BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures else 0.0


def is_answering(port: int, path: str) -> bool:
    """Tell whether a server on this machine answers 200."""
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=_PROBE_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class Supervisor:
    """The children of one state folder."""

    def __init__(
        self,
        folder: StateFolder,
        env: Mapping[str, str],
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        patience: Patience = _PATIENCE,
    ) -> None:
        self._folder = folder
        self._patience = patience
        self._env = base_environment(env, folder)
        self._clock = clock
        self._now = now
        self._children: dict[str, Child] = {}
        self._desired: dict[str, ChildSpec] = {}
        self._seen: tuple[int, int] | None = None
        self._reported: list[dict[str, Any]] | None = None
        self._logs_due_at = 0.0
        self._stopping = False

    def run(self) -> None:
        """Supervise until SIGTERM; returns when every child is gone."""
        wake = self._listen_for_signals()
        self._recover()
        while True:
            self._read_desired()
            for child in list(self._children.values()):
                self._look_at(child)
            self._reconcile()
            self._trim_logs()
            self._report()
            if self._stopping and not self._children:
                return
            self._wait(wake)

    def _listen_for_signals(self) -> socket.socket:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._wake_writer = writer  # kept open as long as signals may come

        def stop(_number: int, _frame: object) -> None:
            self._stopping = True

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        for number in (signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)
        return reader

    def _recover(self) -> None:
        """End what a killed predecessor left, and see that the emulator can have its port."""
        if self._folder.status.exists():
            left = [
                (entry["pid"], entry["mark"])
                for entry in read_json(self._folder.status)["children"]
                if entry["pid"]
            ]
            processes.end_leftovers(left, _LEFTOVER_SECONDS)
            self._folder.status.unlink()
        shutil.rmtree(self._folder.temporary, ignore_errors=True)
        for path in (self._folder.temporary, self._folder.logs):
            path.mkdir(mode=0o700, exist_ok=True)
        self._settings: EmulatorSettings = self._folder.read_settings()
        if not is_free(self._settings.port):
            log.warning("port %d is taken, taking another", self._settings.port, extra={"action": "port"})
            self._settings = replace(self._settings, port=free_port())
            write_settings(self._folder, self._settings)

    def _read_desired(self) -> None:
        """Read the desired-state file where it changed."""
        try:
            found = self._folder.desired.stat()
            mark = (found.st_mtime_ns, found.st_ino)
        except FileNotFoundError:
            mark = (0, 0)
        if mark == self._seen:
            return
        self._seen = mark
        entries = read_json(self._folder.desired)["children"] if mark != (0, 0) else []
        specs = [emulator_child(self._settings, self._folder), *map(ChildSpec.from_dict, entries)]
        self._desired = {spec.name: spec for spec in specs}

    def _reconcile(self) -> None:
        """Stop what is not wanted as it is, start what is due, each kind after the one before."""
        for name in [name for name, child in self._children.items() if self._is_over(child)]:
            del self._children[name]
        if self._stopping:
            kinds = {child.spec.kind for child in self._children.values()}
            last = next((kind for kind in reversed(KINDS) if kind in kinds), None)
            for child in self._children.values():
                if child.spec.kind == last:
                    self._stop(child)
        else:
            for name, child in self._children.items():
                if self._desired.get(name) != child.spec:
                    self._stop(child)
            for name, spec in self._desired.items():
                self._children.setdefault(name, Child(spec))
        if self._stopping:
            return
        emulator = self._children.get(EMULATOR)
        for child in sorted(self._children.values(), key=lambda one: KINDS.index(one.spec.kind)):
            has_emulator = child.spec.kind == EMULATOR or (emulator is not None and emulator.state == READY)
            if child.state == RESTARTING and has_emulator and self._clock() >= child.due_at:
                self._start(child)

    @staticmethod
    def _is_over(child: Child) -> bool:
        return child.state == STOPPING and child.process is None

    def _start(self, child: Child) -> None:
        log_path = self._folder.logs / f"{child.spec.name}.log"
        reader, writer = os.pipe()
        handle = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            child.process = subprocess.Popen(
                child.spec.command(),
                stdin=reader,
                stdout=handle,
                stderr=handle,
                cwd=self._folder.root,
                env={**self._env, **child.spec.environment},
                start_new_session=True,
            )
        finally:
            os.close(handle)
            os.close(reader)
        child.pipe = writer
        child.mark = processes.start_mark(child.process.pid)
        child.started_at, child.misses = self._clock(), 0
        self._set_state(child, STARTING if child.spec.ready_path else READY)
        log.info("started %s", child.spec.name, extra={"action": "child_start"})

    def _set_state(self, child: Child, state: str) -> None:
        child.state = state
        child.since = self._now().isoformat(timespec="seconds")

    def _look_at(self, child: Child) -> None:
        """Notice that a child ended, became ready, or does not stop."""
        if child.process is None:
            return
        code = child.process.poll()
        if code is not None:
            self._collect(child, code)
        elif child.state == STOPPING and self._clock() >= child.kill_at:
            log.warning("killing %s", child.spec.name, extra={"action": "child_kill"})
            processes.kill_group(child.process.pid)
        elif child.spec.port is not None and child.state in (STARTING, READY, UNRESPONSIVE):
            self._ask(child, child.spec.port)

    def _ask(self, child: Child, port: int) -> None:
        """See whether a server answers: at once while it starts, later to notice one that hangs."""
        if child.state != STARTING and self._clock() < child.probe_at:
            return
        child.probe_at = self._clock() + self._patience.probe_seconds
        if is_answering(port, child.spec.ready_path):
            child.misses = 0
            if child.state != READY:
                self._set_state(child, READY)
        elif child.state != STARTING and child.process is not None:
            child.misses += 1
            if child.misses >= self._patience.misses_to_kill:
                log.error("%s hangs, killing it", child.spec.name, extra={"action": "child_hangs"})
                processes.kill_group(child.process.pid)
            elif child.misses == self._patience.misses_to_tell:
                self._set_state(child, UNRESPONSIVE)

    def _collect(self, child: Child, code: int) -> None:
        if child.process is None:
            return
        processes.kill_group(child.process.pid)
        os.close(child.pipe)
        child.process, child.mark, child.last_exit = None, "", code
        if child.state == STOPPING:
            return
        stable = self._clock() - child.started_at >= STABLE_SECONDS
        child.failures = 1 if stable else child.failures + 1
        child.restarts += 1
        child.due_at = self._clock() + backoff_seconds(child.failures)
        self._set_state(child, RESTARTING)
        log.warning("%s ended with %d", child.spec.name, code, extra={"action": "child_exit"})

    def _stop(self, child: Child) -> None:
        if child.state == STOPPING:
            return
        self._set_state(child, STOPPING)
        child.kill_at = self._clock() + STOP_SECONDS[child.spec.kind]
        if child.process is not None:
            child.process.terminate()

    def _trim_logs(self) -> None:
        """Move a long log aside; children append, so that truncating under them is safe."""
        if self._clock() < self._logs_due_at:
            return
        self._logs_due_at = self._clock() + _LOG_INTERVAL_SECONDS
        for path in self._folder.logs.glob("*.log"):
            if path.stat().st_size > MAX_LOG_BYTES:
                shutil.copyfile(path, path.with_suffix(".log.1"))
                os.truncate(path, 0)

    def _report(self) -> None:
        found = [child.report() for child in self._children.values()]
        if found != self._reported:
            self._reported = found
            write_json(self._folder.status, {"supervisor": os.getpid(), "children": found})

    def _wait(self, wake: socket.socket) -> None:
        now = self._clock()
        delay = _IDLE_INTERVAL_SECONDS
        for child in self._children.values():
            if child.state == STARTING:
                delay = min(delay, _STARTING_INTERVAL_SECONDS)
            elif self._is_over(child):
                delay = 0.0
            elif child.state == STOPPING:
                delay = min(delay, max(child.kill_at - now, _STARTING_INTERVAL_SECONDS))
            elif child.state == RESTARTING:
                delay = min(delay, max(child.due_at - now, _STARTING_INTERVAL_SECONDS))
        if select.select([wake], [], [], delay)[0]:
            wake.recv(4096)


def main(arguments: list[str]) -> None:
    """Supervise one state folder, detached from whoever started it."""
    if os.fork():
        os._exit(0)  # the caller collects this process; the supervisor is nobody's child
    os.umask(0o077)
    folder = StateFolder(Path(arguments[0]))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    lock = processes.take_lock(folder)
    if lock is None:
        return
    Supervisor(folder, os.environ).run()


if __name__ == "__main__":
    main(sys.argv[1:])
