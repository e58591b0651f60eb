"""Running sdctl's command line in a test: inside this process, or as a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from sdctl.cli import app

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ran:
    """What a command line came to."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.stdout)

    @property
    def error(self) -> dict[str, str]:
        """The error object on stderr."""
        return json.loads(self.stderr)["error"]


def last_line(ran: Ran) -> Any:
    """Return the last of the JSON lines on stdout."""
    return json.loads(ran.stdout.splitlines()[-1])


def run(*words: str, stdin: str = "") -> Ran:
    """Run a command line through Typer's runner."""
    result = CliRunner().invoke(app, list(words), input=stdin, prog_name="sdctl")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


def command(*words: str) -> list[str]:
    """Return the arguments that start sdctl as a process."""
    return [sys.executable, "-m", "sdctl", *words]


def process_env(env: Mapping[str, str]) -> dict[str, str]:
    """Return a nearly empty environment for a child, with `env`."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "SDCTL_HOME", "SYSTEMROOT") if name in os.environ
    }
    return {**kept, "PYTHONPATH": str(ROOT), **env}


def run_process(
    *words: str, cwd: Path, env: Mapping[str, str] | None = None, stdin: str = "", timeout_seconds: int = 60
) -> Ran:
    """Run a command line as a process of its own, without a terminal."""
    done = subprocess.run(
        command(*words), cwd=cwd, env=process_env(env or {}), input=stdin, capture_output=True, text=True,
        timeout=timeout_seconds, check=False,
    )  # fmt: skip
    return Ran(done.returncode, done.stdout, done.stderr)
