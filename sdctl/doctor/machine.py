"""Reads this machine: the helm that a deploy would use, and what the local target needs. Changes nothing."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from sdctl.clients.helm_binary import can_install, find_helm, helm_version, platform_name
from sdctl.doctor.facts import LocalFacts, ToolFacts
from sdctl.errors import SdctlError
from sdctl.reads import Read, Unknown

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*([^;]*)")


def observe_tools(home: Path, environment: Mapping[str, str]) -> ToolFacts:
    """Find helm and ask for its version.

    Args:
        home: the state folder, where an installed one lies.
        environment: for the PATH.
    """
    runs = sys.platform != "win32"
    name = platform_name()
    path = find_helm(home, environment) if runs else None
    version: Read[str] = Unknown("there is no helm")
    if path is not None:
        try:
            version = helm_version(path, environment)
        except SdctlError as error:
            version = Unknown(error.message)
    return ToolFacts(path, version, name, can_install(name), runs)


def observe_local(home: Path, stack_name: str, folder: Path, environment: Mapping[str, str]) -> LocalFacts:
    """Look at this machine as the local target sees it.

    Args:
        home: the state folder; it exists.
        stack_name: of the deployment that is wanted.
        folder: where it is deployed from.
        environment: the caller's.
    """
    if sys.platform == "win32":  # the local target does not even import there
        return LocalFacts(platform.system(), {}, home, True, shutil.disk_usage(home).free, True)
    from sdctl.local.state import LOOPBACK, is_free
    from sdctl.local.target import LocalTarget

    target = LocalTarget(home, stack_name, folder, env=environment)
    port = target.state.read_settings().port if target.state.settings.exists() else None
    return LocalFacts(
        system=platform.system(),
        packages=extra_packages("local"),
        home=home,
        is_home_writable=os.access(home, os.W_OK | os.X_OK),
        free_bytes=shutil.disk_usage(home).free,
        can_listen=is_free(0),
        port=port,
        is_port_free=port is None or is_free(port),
        is_running=target.exists() and target.status().supervisor is not None,
        open_files=_open_files(),
        loopback=LOOPBACK,
    )


def extra_packages(extra: str) -> Read[dict[str, tuple[str, str]]]:
    """Return what an extra of sdctl requires: {name: (wanted, installed)}, installed empty if missing."""
    try:
        requirements = metadata.requires("sdctl") or []
    except metadata.PackageNotFoundError:
        return Unknown("sdctl runs from a folder, not from an installed package")
    found = {}
    for requirement in requirements:
        text, _, marker = requirement.partition(";")
        match = _REQUIREMENT.match(text.strip())
        if match and re.search(rf"extra\s*==\s*['\"]{extra}['\"]", marker):
            found[match[1].lower()] = (match[2].strip(), _installed(match[1]))
    return found


def _installed(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _open_files() -> int | None:
    """Return how many files a process may open, or None where the system has no such limit."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
