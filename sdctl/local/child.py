"""Runs one module as a child that does not outlive its supervisor.

`python -m sdctl.local.child MODULE ARGUMENT…` is `python -m MODULE ARGUMENT…` whose standard input is a
pipe from the supervisor. When the pipe ends, the supervisor is gone, by kill -9 too: the child gets
SIGTERM, and after a grace period it ends for good. No signal of the kernel's own is needed, so macOS
behaves as Linux does.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

GRACE_SECONDS: Final = 10.0
# The shell's code for a program ended by SIGKILL.
ORPHANED_EXIT_CODE: Final = 137


def _watch(handle: int) -> None:
    while os.read(handle, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os._exit(ORPHANED_EXIT_CODE)


def main(arguments: list[str]) -> None:
    """Run `arguments[0]` as the main module, with the rest as its arguments."""
    handle = os.dup(0)  # not inheritable: programs that the child starts do not hold it
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    threading.Thread(target=_watch, args=(handle,), name="supervisor-watch", daemon=True).start()
    sys.argv = [arguments[0], *arguments[1:]]
    runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
