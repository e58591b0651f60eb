"""Processes as the supervisor and its caller see them: identity, groups, and the supervisor's lock."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sdctl.errors import ConflictError
from sdctl.local.state import StateFolder

_POLL_SECONDS: Final = 0.02
# How long a process that has the lock may take to write who it is.
_OWNER_SECONDS: Final = 2.0


def start_mark(pid: int) -> str:
    """Return what tells a process from a later one of the same id: when it started; empty if it is gone.

    A process that has ended and is not yet collected counts as gone.
    """
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        # https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html: field 3 is the state, 22 the start
        return "" if fields[0] in "ZX" else fields[19]
    # macOS has no /proc
    listed = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
    ).stdout.strip()
    return "" if not listed or listed.startswith("Z") else listed.partition(" ")[2].strip()


def is_same(pid: int, mark: str) -> bool:
    """Tell whether the process that once had this mark still runs."""
    return bool(mark) and start_mark(pid) == mark


def kill_group(pid: int) -> None:
    """Kill a child's process group: it leads its own, which holds all that it started."""
    try:
        os.killpg(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # all gone; macOS says "permission" of a group of ended processes


def end_leftovers(processes: list[tuple[int, str]], grace_seconds: float) -> None:
    """Wait until processes of a dead supervisor are gone, and kill those that are not.

    Args:
        processes: process id and start mark of each; a recycled id is left alone.
        grace_seconds: they end by themselves when they notice; after this long they are killed.
    """
    deadline = time.monotonic() + grace_seconds
    while alive := [(pid, mark) for pid, mark in processes if is_same(pid, mark)]:
        if time.monotonic() > deadline:
            for pid, _ in alive:
                kill_group(pid)
        time.sleep(_POLL_SECONDS)


def take_lock(folder: StateFolder) -> int | None:
    """Become the folder's only supervisor; returns the handle to keep, or None where there is one.

    Who only looks at the lock holds it for a moment, too: it is tried for a while.
    """
    handle = os.open(folder.lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _OWNER_SECONDS
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(handle)
                return None
        time.sleep(_POLL_SECONDS / 4)
    os.ftruncate(handle, 0)
    os.write(handle, f"{os.getpid()} {start_mark(os.getpid())}".encode())
    return handle


@contextmanager
def operation(path: Path) -> Iterator[None]:
    """Hold a deployment for one deploy or destroy; the lock file is gone afterwards.

    Raises:
        ConflictError: another one holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(path, handle):  # else its last holder has just removed it
                break
        except BlockingIOError as error:
            os.close(handle)
            raise ConflictError(
                "another deploy or destroy of this deployment is in progress", hint="wait for its end"
            ) from error
        os.close(handle)
    try:
        yield
    finally:
        path.unlink()
        os.close(handle)


def _is_file(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def supervisor_pid(folder: StateFolder) -> int | None:
    """Return the running supervisor's process id, or None; the lock decides, never a number alone.

    Raises:
        ConflictError: something else holds the lock.
    """
    deadline = time.monotonic() + _OWNER_SECONDS
    while time.monotonic() < deadline:
        try:
            handle = os.open(folder.lock, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            pid, _, mark = os.read(handle, 100).decode("ascii", "replace").partition(" ")
        else:
            return None
        finally:
            os.close(handle)
        if pid.isdecimal() and is_same(int(pid), mark):
            return int(pid)
        time.sleep(_POLL_SECONDS)  # it has the lock and has not yet written who it is
    raise ConflictError(f"{folder.lock} is held by an unknown process", hint="try again")
