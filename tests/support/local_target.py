"""What the tests of the local target share: simple children, processes seen from outside, AWS clients."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from sdctl.clients.aws import AwsAccess
from sdctl.local.children import RUNTIME, ChildSpec
from sdctl.local.processes import start_mark
from sdctl.local.state import free_port, read_json, write_json
from sdctl.local.target import ChildStatus, LocalTarget


def web_server(name: str = "runtime-web") -> ChildSpec:
    """Describe a child that is a plain web server of the standard library."""
    port = free_port()
    arguments = (str(port), "--bind", "127.0.0.1")
    return ChildSpec(name, RUNTIME, "http.server", arguments, port=port, ready_path="/")


def want(target: LocalTarget, *children: ChildSpec) -> None:
    """Make these the wanted children, as `run_runtimes` does, and wait for them."""
    import os
    import signal

    write_json(target.state.desired, {"children": [child.as_dict() for child in children]})
    supervisor = target.status().supervisor
    assert supervisor
    os.kill(supervisor, signal.SIGUSR1)
    target.wait_ready(20)


def child(target: LocalTarget, name: str) -> ChildStatus:
    """Return one child's status."""
    return next(one for one in target.status().children if one.name == name)


def marks(target: LocalTarget) -> list[tuple[int, str]]:
    """Return process id and start mark of the supervisor and all children."""
    supervisor = target.status().supervisor
    assert supervisor
    entries = read_json(target.state.status)["children"]
    return [(supervisor, start_mark(supervisor))] + [
        (one["pid"], one["mark"]) for one in entries if one["pid"]
    ]


def client(access: AwsAccess, service: str, **overrides: Any) -> Any:
    """Return a boto3 client of an emulator."""
    config = Config(
        retries={"total_max_attempts": 1}, signature_version="s3v4" if service == "s3" else None,
        connect_timeout=5, read_timeout=25,
    )  # fmt: skip
    values = {"aws_access_key_id": access.access_key, "aws_secret_access_key": access.secret_key} | overrides
    return boto3.client(
        service, region_name=access.region, endpoint_url=access.endpoint_url, config=config, **values
    )


def eventually(probe: Callable[[], Any], awaited: str, timeout_seconds: float = 15) -> Any:
    """Return the first truthy result of `probe`."""
    deadline = time.monotonic() + timeout_seconds
    while not (found := probe()):
        assert time.monotonic() < deadline, f"waited {timeout_seconds} s for {awaited}"
        time.sleep(0.02)
    return found


def is_listening(port: int) -> bool:
    """Tell whether something accepts connections on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(folder: Path) -> list[int]:
    """List the processes, zombies aside, whose working folder or command line is in a folder (Linux)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            place, command = (entry / "cwd").readlink(), (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if place.is_relative_to(folder) or str(folder).encode() in command:
            found.append(int(entry.name))
    return found
