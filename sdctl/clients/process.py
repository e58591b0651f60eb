"""The one place that runs programs: a list of arguments in; exit code, output and the end of stderr out.

A program gets a small environment, no terminal and no input. It is ended politely: SIGTERM first, so that
helm can mark its release and roll back, and SIGKILL to its whole group only after a grace. Secrets travel
in files or in the environment, never as an argument, which every user of the machine can read.

`sh` does not import on Windows, and neither does this module's `Programs` run there.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock, Timer
from typing import Any, Final

from sdctl.errors import ToolError

MAX_STDOUT_BYTES: Final = 32 * 1024 * 1024
STDERR_TAIL_BYTES: Final = 8 * 1024
GRACE_SECONDS: Final = 10.0
_CHUNK_BYTES: Final = 64 * 1024

# What a program may know of our environment: where things are, which language, how to reach the network
# and as whom to speak to AWS (helm asks `sdctl token`, which inherits helm's environment).
_PASSED_NAMES: Final = frozenset({
    "HOME", "LANG", "LANGUAGE", "LOGNAME", "PATH", "TMPDIR", "TZ", "USER", "SDCTL_HOME", "SSL_CERT_DIR",
    "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY", "http_proxy",
    "https_proxy", "no_proxy", "all_proxy", "PYTHONPATH",
})  # fmt: skip
_PASSED_PREFIXES: Final = ("AWS_", "LC_")


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: `exit_code` is negative for a signal, as `-15`; `stderr_tail` its last lines."""

    exit_code: int
    stdout: str
    stderr_tail: str
    is_timed_out: bool = False


def child_environment(
    environment: Mapping[str, str], extra: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Choose what a program may see of an environment, and add what it needs besides."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in _PASSED_NAMES or name.startswith(_PASSED_PREFIXES)
    }
    return kept | dict(extra or {})


class Programs:
    """Runs programs from any thread, and can end all that run at the moment."""

    def __init__(self) -> None:
        self._running: set[_Child] = set()
        self._is_cancelled = False
        self._lock = Lock()

    def run(
        self,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str],
        timeout_seconds: float,
        grace_seconds: float = GRACE_SECONDS,
        folder: Path | None = None,
        max_stdout_bytes: int = MAX_STDOUT_BYTES,
    ) -> Finished:
        """Run one program to its end.

        Args:
            arguments: the program, by name or path, and what it is told.
            environment: all that it sees.
            timeout_seconds: then it gets SIGTERM.
            grace_seconds: so long after SIGTERM its group gets SIGKILL.
            folder: where it runs; here, unless given.
            max_stdout_bytes: more output is an error.

        Raises:
            ToolError: it could not be started, said too much, or everything was cancelled.
            KeyboardInterrupt: as it came, after the program has ended; a second one kills it at once.
        """
        output, errors = _Head(max_stdout_bytes), _Tail(STDERR_TAIL_BYTES)
        with self._child(arguments, environment, folder, output, errors) as child:
            timer = Timer(timeout_seconds, child.time_out, [grace_seconds])
            timer.daemon = True
            timer.start()
            try:
                exit_code = child.wait()
            except BaseException:
                child.end(grace_seconds)
                raise
            finally:
                timer.cancel()
        if output.is_over:
            name = Path(arguments[0]).name
            raise ToolError(f"{name} printed more than {max_stdout_bytes} bytes", stderr_tail=errors.text())
        return Finished(exit_code, output.text(), errors.text(), child.is_timed_out)

    def cancel(self, grace_seconds: float = GRACE_SECONDS) -> None:
        """End what runs, from any thread, and start nothing any more; each `run` returns as usual."""
        with self._lock:
            self._is_cancelled = True
            running = list(self._running)
        for child in running:
            child.ask_to_end(grace_seconds)

    @contextmanager
    def _child(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        folder: Path | None,
        output: _Head,
        errors: _Tail,
    ) -> Iterator[_Child]:
        with self._lock:
            if self._is_cancelled:
                raise ToolError(f"{Path(arguments[0]).name} was not started: cancelled")
            child = _Child(_started(arguments, environment, folder, output, errors))
            self._running.add(child)
        try:
            yield child
        finally:
            child.forget()
            with self._lock:
                self._running.discard(child)


def _started(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: Path | None,
    output: Any,
    errors: Any,
) -> Any:
    import sh

    # It would log every chunk of output, release Secrets included.
    logging.getLogger("sh").setLevel(logging.WARNING)
    name, *rest = arguments
    program = shutil.which(name, path=environment.get("PATH", os.defpath))
    if program is None:
        raise ToolError(f"the program {name} is not installed", hint="sdctl doctor --fix")
    with Path(os.devnull).open("rb") as nothing:
        try:
            # In a session of its own: Ctrl-C reaches us alone, and its whole group can be killed.
            # `_bg` returns at once; without it no timeout could be told from an end.
            return sh.Command(str(Path(program).absolute()))(
                *rest, _bg=True, _bg_exc=False, _new_session=True, _in=nothing, _out=output, _err=errors,
                _tty_out=False, _no_out=True, _no_err=True, _no_pipe=True, _out_bufsize=_CHUNK_BYTES,
                _err_bufsize=_CHUNK_BYTES, _env=dict(environment), _cwd=str(folder) if folder else None,
                _log_msg=lambda *_: Path(program).name,
            ).process  # fmt: skip
        except sh.ForkException as error:
            reason = str(error).strip().splitlines()[-1]
            raise ToolError(f"{program} cannot be run: {reason}") from error


class _Child:
    """A program that runs: waits for it, and signals it only as long as its process id is its own."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self._killer: Timer | None = None
        self._lock = Lock()
        self._is_over = False
        self.is_timed_out = False

    def wait(self) -> int:
        return int(self._process.wait())

    def time_out(self, grace_seconds: float) -> None:
        self.is_timed_out = True
        self.ask_to_end(grace_seconds)

    def ask_to_end(self, grace_seconds: float) -> None:
        """Send SIGTERM to the program, and SIGKILL to its group when the grace is over."""
        self._signal(os.kill, signal.SIGTERM)
        with self._lock:
            if self._is_over or self._killer is not None:
                return
            self._killer = Timer(grace_seconds, self._signal, [os.killpg, signal.SIGKILL])
            self._killer.daemon = True
            self._killer.start()

    def end(self, grace_seconds: float) -> None:
        """End it and wait; another interrupt meanwhile kills it at once."""
        self.ask_to_end(grace_seconds)
        try:
            self.wait()
        except KeyboardInterrupt:
            self._signal(os.killpg, signal.SIGKILL)
            self.wait()

    def forget(self) -> None:
        """Signal nothing any more: the process id may be another's soon."""
        with self._lock:
            self._is_over = True
            if self._killer is not None:
                self._killer.cancel()

    def _signal(self, send: Any, number: signal.Signals) -> None:
        with self._lock:
            if not self._is_over and self._process.exit_code is None:
                try:
                    send(self._process.pid, number)
                except ProcessLookupError:
                    return  # it ended by itself a moment ago


class _Head:
    """Keeps the beginning of an output, up to a number of bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._pieces: list[bytes] = []
        self._left = max_bytes
        self.is_over = False

    def write(self, piece: bytes) -> None:
        self.is_over = self.is_over or len(piece) > self._left
        if not self.is_over:
            self._pieces.append(piece)
            self._left -= len(piece)

    def text(self) -> str:
        return b"".join(self._pieces).decode("utf-8", "replace")


class _Tail:
    """Keeps the end of an output, at least a number of bytes of it where there are so many."""

    def __init__(self, min_bytes: int) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._min = min_bytes

    def write(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._size += len(piece)
        while self._size - len(self._pieces[0]) >= self._min:
            self._size -= len(self._pieces.popleft())

    def text(self) -> str:
        return b"".join(self._pieces)[-self._min :].decode("utf-8", "replace").strip()
