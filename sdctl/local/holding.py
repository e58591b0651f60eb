"""Runtimes on this machine that take no tasks for a while: their agents are ended, and started again.

What is held stands in the desired-state file beside what is to run, so that a deploy, which writes the
file anew, lets everything run again.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Collection
from typing import Any, Final

from sdctl.errors import NotFoundError
from sdctl.local import processes
from sdctl.local.children import AGENT, RUNTIME
from sdctl.local.state import StateFolder, read_json, write_json
from sdctl.local.target import STOP_SECONDS, LocalTarget
from sdctl.polling import Pace, poll

_PACE: Final = Pace(interval_seconds=0.02, factor=1.2, ceiling_seconds=0.2)
_RUNNING, _HELD = "children", "held"


def pause(target: LocalTarget, runtime: str) -> None:
    """End a runtime's agent: its task is finished or handed back, and tasks wait in the queue.

    Raises:
        NotFoundError: there is no such runtime, or nothing runs.
        WaitTimeoutError: the agent does not end.
    """
    _hold(target, runtime, {f"{AGENT}-{runtime}"})


def resume(target: LocalTarget, runtime: str) -> None:
    """Start what is held of a runtime again, and wait until it is ready.

    Raises:
        NotFoundError: there is no such runtime, or nothing runs.
    """
    state = _state(target, runtime)
    names = _names(runtime)
    document = read_json(state.desired)
    held = [one for one in document.get(_HELD, []) if one["name"] in names]
    if held:
        document[_RUNNING] += held
        document[_HELD] = [one for one in document[_HELD] if one not in held]
        _write(state, document)
    target.wait_ready()


def restart(target: LocalTarget, runtime: str) -> None:
    """End a runtime's agent and server, and start both again; a server that was named by URL is not ours.

    Raises:
        NotFoundError: there is no such runtime, or nothing runs.
    """
    _hold(target, runtime, _names(runtime))
    resume(target, runtime)


def _names(runtime: str) -> set[str]:
    return {f"{AGENT}-{runtime}", f"{RUNTIME}-{runtime}"}


def _state(target: LocalTarget, runtime: str) -> StateFolder:
    if processes.supervisor_pid(target.state) is None or not target.state.desired.exists():
        raise NotFoundError("nothing runs on this machine", hint="sdctl deploy --target local")
    document = read_json(target.state.desired)
    known = {one["name"] for one in document[_RUNNING] + document.get(_HELD, [])}
    if f"{AGENT}-{runtime}" not in known:
        raise NotFoundError(f"there is no runtime {runtime} here", hint="sdctl status shows what there is")
    return target.state


def _hold(target: LocalTarget, runtime: str, names: Collection[str]) -> None:
    state = _state(target, runtime)
    document = read_json(state.desired)
    chosen = [one for one in document[_RUNNING] if one["name"] in names]
    document[_RUNNING] = [one for one in document[_RUNNING] if one not in chosen]
    document[_HELD] = [*document.get(_HELD, []), *chosen]
    _write(state, document)
    poll(
        lambda: None if {child.name for child in target.status().children} & set(names) else True,
        awaited=f"the agent of {runtime} to end", timeout_seconds=STOP_SECONDS, pace=_PACE,
    )  # fmt: skip


def _write(state: StateFolder, document: dict[str, Any]) -> None:
    write_json(state.desired, document)
    pid = processes.supervisor_pid(state)
    if pid:
        os.kill(pid, signal.SIGUSR1)
