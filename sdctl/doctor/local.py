"""Rules about this machine, for the local target: packages, ports, disk, file limits."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sdctl.doctor.check import Check, Topic
from sdctl.doctor.facts import LocalFacts
from sdctl.reads import Unknown
from sdctl.versions import numbers

SYSTEM: Final = Topic("system", "the local target's processes are driven by POSIX signals")
PACKAGES: Final = Topic(
    "packages", "the emulator, the agent and the built-in runtime come with the extra `local`"
)
STATE_FOLDER: Final = Topic("state-folder", "the local target keeps its state, objects and logs there")
DISK: Final = Topic("disk", "pictures, models and the emulator's state are kept on disk")
PORTS: Final = Topic("ports", "emulator, API and runtimes listen on the loopback address")
FILES: Final = Topic("file-limit", "the emulator keeps many connections open at once")
WINDOWS: Final = "Windows"
_GIB: Final = 1024**3
MIN_FREE_BYTES: Final = _GIB // 4
COMFORTABLE_FREE_BYTES: Final = 2 * _GIB
MIN_OPEN_FILES: Final = 512
_SPECIFIER: Final = re.compile(r"(==|>=)\s*([\w.]+)")
_INSTALL: Final = "pip install 'sdctl[local]'"


def local_checks(facts: LocalFacts) -> Iterator[Check]:
    """Judge whether `deploy --target local` can work here."""
    yield _system(facts)
    if facts.system == WINDOWS:
        return
    yield _packages(facts)
    yield _state_folder(facts)
    yield _disk(facts)
    yield _ports(facts)
    yield _files(facts)


def _system(facts: LocalFacts) -> Check:
    if facts.system == WINDOWS:
        return SYSTEM.fail(WINDOWS, "run sdctl in WSL, or use a deployment on AWS from here")
    return SYSTEM.ok(facts.system)


def _packages(facts: LocalFacts) -> Check:
    if isinstance(facts.packages, Unknown):
        return PACKAGES.unknown(facts.packages)
    missing = [name for name, (_, installed) in facts.packages.items() if not installed]
    if missing:
        return PACKAGES.fail(f"not installed: {', '.join(missing)}", _INSTALL)
    wrong = [
        f"{name} {installed} ({wanted} is wanted)"
        for name, (wanted, installed) in facts.packages.items()
        if not satisfies(installed, wanted)
    ]
    if wrong:
        return PACKAGES.fail(", ".join(wrong), f"{_INSTALL} --upgrade")
    _, emulator = facts.packages.get("ministack", ("", "missing"))
    return PACKAGES.ok(f"{len(facts.packages)} packages, the emulator ministack {emulator}")


def satisfies(installed: str, wanted: str) -> bool:
    """Tell whether a version meets the `==` and `>=` of a requirement; other comparisons are not judged."""
    for operator, version in _SPECIFIER.findall(wanted):
        is_met = (
            numbers(installed) == numbers(version)
            if operator == "=="
            else numbers(installed) >= numbers(version)
        )
        if not is_met:
            return False
    return True


def _state_folder(facts: LocalFacts) -> Check:
    if not facts.is_home_writable:
        return STATE_FOLDER.fail(
            f"{facts.home} cannot be written", "set SDCTL_HOME to a folder that can be written"
        )
    return STATE_FOLDER.ok(str(facts.home))


def _disk(facts: LocalFacts) -> Check:
    said = f"{facts.free_bytes / _GIB:.1f} GiB free in {facts.home}"
    fix = "free some space, or set SDCTL_HOME to a larger disk"
    if facts.free_bytes < MIN_FREE_BYTES:
        return DISK.fail(said, fix)
    if facts.free_bytes < COMFORTABLE_FREE_BYTES:
        return DISK.warn(said, fix)
    return DISK.ok(said)


def _ports(facts: LocalFacts) -> Check:
    if not facts.can_listen:
        return PORTS.fail(
            f"no port of {facts.loopback} can be listened on", "look at firewall and sandbox settings"
        )
    if facts.port is not None and facts.is_running:
        return PORTS.ok(f"port {facts.port} is the running deployment's")
    if facts.port is not None and not facts.is_port_free:
        return PORTS.warn(
            f"port {facts.port} of the last deployment is taken",
            "deploy again: another port is chosen, URLs change",
        )
    return PORTS.ok("free" if facts.port is None else f"port {facts.port} is free")


def _files(facts: LocalFacts) -> Check:
    if facts.open_files is None:
        return FILES.ok("no limit")
    if facts.open_files < MIN_OPEN_FILES:
        return FILES.warn(f"{facts.open_files} open files", "ulimit -n 4096, in the shell that deploys")
    return FILES.ok(f"{facts.open_files} open files")
