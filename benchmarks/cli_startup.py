"""How long the command line takes before it does anything, as ratios measured in one run.

Run: `python benchmarks/cli_startup.py`. Each pair is run in turns, so that a busy machine slows both:

- `sdctl --version` against a bare `python -c pass` (bound: 6)
- `sdctl --help` against the help of a two-command Typer app (bound: 1.3)
- `sdctl submit`, endpoint and key set, until its request is on the wire, against such an app's command
  until it has printed its line (bound: 2)
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROUNDS = 15
BOUNDS = {"version": 6.0, "help": 1.3, "submit": 2.0}
TWO_COMMANDS = """
import typer

app = typer.Typer()


@app.command()
def greet(name: str, times: int = 1) -> None:
    for _ in range(times):
        print(name)


@app.command()
def part(name: str) -> None:
    print(name)


app()
"""
ANSWER = json.dumps({
    "id_task": "x", "id": "x", "runtime": "sdruntime", "status": "queued",
    "output_location": "s3://bucket/output/x", "replayed": False,
}).encode()  # fmt: skip


class Wire:
    """A loopback server that notes when a request's first bytes arrive, and answers it."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.arrived = 0.0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}/prod/"

    def _serve(self) -> None:
        while True:
            peer, _ = self.socket.accept()
            with peer:
                peer.recv(65536)
                self.arrived = time.perf_counter()
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(ANSWER)}\r\nConnection: close\r\n\r\n"
                peer.sendall(head.encode() + ANSWER)
                peer.shutdown(socket.SHUT_WR)
                while peer.recv(65536):
                    pass


def run(command: list[str], folder: str, env: dict[str, str]) -> float:
    """Run a command to its end and return its seconds."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    return time.perf_counter() - started


def first_line(command: list[str], folder: str, env: dict[str, str]) -> float:
    """Run a command and return the seconds until its first line."""
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline()
        return time.perf_counter() - started


def on_the_wire(command: list[str], folder: str, env: dict[str, str], wire: Wire) -> float:
    """Run a command and return the seconds until its request arrives."""
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)
    assert wire.arrived > started
    return wire.arrived - started


def ratio(one: Callable[[], float], other: Callable[[], float]) -> tuple[float, float]:
    """Return the median seconds of both, measured in turns after one warm run each."""
    one(), other()
    pairs = [(one(), other()) for _ in range(ROUNDS)]
    return statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)


def main() -> int:
    """Print the three ratios; exit 1 where one is above its bound."""
    wire = Wire()
    with tempfile.TemporaryDirectory() as folder:
        peer = Path(folder) / "two_commands.py"
        peer.write_text(TWO_COMMANDS)
        env = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        env |= {"SDCTL_HOME": folder, "SDCTL_ENDPOINT": wire.endpoint, "SDCTL_API_KEY": "key"}
        env["PYTHONPATH"] = str(Path(__file__).resolve().parent.parent)
        python, sdctl = [sys.executable], [sys.executable, "-m", "sdctl"]
        submit = [*sdctl, "submit", "t2i", "A dog"]
        app = [*python, str(peer)]
        measured = {
            "version": ratio(
                lambda: run([*sdctl, "--version"], folder, env),
                lambda: run([*python, "-c", "pass"], folder, env),
            ),
            "help": ratio(
                lambda: run([*sdctl, "--help"], folder, env), lambda: run([*app, "--help"], folder, env)
            ),
            "submit": ratio(
                lambda: on_the_wire(submit, folder, env, wire),
                lambda: first_line([*app, "greet", "x"], folder, env),
            ),
        }
    is_good = True
    for name, (ours, theirs) in measured.items():
        is_good = is_good and ours / theirs <= BOUNDS[name]
        words = f"{ours * 1000:6.0f} ms against {theirs * 1000:6.0f} ms"
        print(f"{name:8} {words}  ratio {ours / theirs:.2f} (bound {BOUNDS[name]:g})")
    return 0 if is_good else 1


if __name__ == "__main__":
    sys.exit(main())
