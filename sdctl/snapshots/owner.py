"""Who builds: written on a builder, read by the next run to judge whether that build is dead."""

from __future__ import annotations

import getpass
import hashlib
import os
import platform
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sdctl_snapshot.builder import MAX_SECONDS

_FORM: Final = re.compile(r"(?P<who>.*) machine (?P<machine>[0-9a-f]+) process (?P<pid>\d+) at (?P<at>\d+)")
# What a tag may hold: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions
_FORBIDDEN: Final = re.compile(r"[^A-Za-z0-9 +\-=._:/@]")


def _is_running(pid: int) -> bool:
    if os.name == "nt":
        return True  # where signal 0 would end it: not known, so it may be alive
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that builds; `at` is when it began, in seconds of the epoch."""

    who: str
    machine: str
    pid: int
    at: int

    @classmethod
    def this_process(cls, now: Callable[[], float] = time.time) -> Owner:
        """Describe this very process."""
        try:
            user = getpass.getuser()
        except (OSError, KeyError):  # a container's user may have no name
            user = "somebody"
        who = _FORBIDDEN.sub("_", f"{user} on {platform.node()}")[:128]
        # Both: containers on many hosts have the same address, and each another name.
        machine = hashlib.sha256(f"{uuid.getnode():x} {platform.node()}".encode()).hexdigest()[:12]
        return cls(who, machine, os.getpid(), int(now()))

    def __str__(self) -> str:
        return f"{self.who} machine {self.machine} process {self.pid} at {self.at}"

    def is_alive(
        self, mark: str, now: Callable[[], float] = time.time, is_running: Callable[[int], bool] = _is_running
    ) -> bool:
        """Judge whether the build of a mark may still be at work, as far as this machine can know.

        A mark that is none of ours counts as dead: what bears it is a builder of this deployment all the
        same. Another machine's build is taken for alive until no build can take that long.
        """
        found = _FORM.fullmatch(mark)
        if found is None or now() - int(found["at"]) > MAX_SECONDS:
            return False
        if found["machine"] != self.machine:
            return True
        return int(found["pid"]) != self.pid and is_running(int(found["pid"]))
