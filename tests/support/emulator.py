"""The bare AWS emulator as a process of its own, for tests and benchmarks that need no whole farm."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path


def free_port() -> int:
    """Return a port on loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running_emulator(
    folder: Path, *, account: str = "123456789012", environment: Mapping[str, str] | None = None,
    module: str = "ministack",
) -> Iterator[str]:  # fmt: skip
    """Run ministack on loopback for as long as the context lasts.

    Args:
        folder: where its log is written.
        account: the account that it plays; use it as the access key too.
        environment: settings of ministack's own besides.
        module: what is run.

    Yields:
        The endpoint URL for all services.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    settings = {
        "PATH": os.environ["PATH"], "HOME": str(folder), "TMPDIR": str(folder), "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port), "MINISTACK_ACCOUNT_ID": account, "LOG_LEVEL": "WARNING",
        "AWS_EC2_METADATA_DISABLED": "true", **(environment or {}),
    }  # fmt: skip
    with (folder / "emulator.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module],
            env=settings,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    endpoint = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while not _answers(endpoint):
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError((folder / "emulator.log").read_text()[-2000:])
            time.sleep(0.05)
        yield endpoint
    finally:
        process.kill()
        process.wait(10)


def _answers(endpoint: str) -> bool:
    try:
        with urllib.request.urlopen(f"{endpoint}/_ministack/health", timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
