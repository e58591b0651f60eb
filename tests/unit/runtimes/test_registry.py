"""Runtimes by name: built-in ones, plug-ins, and the worked example of the documentation."""

from __future__ import annotations

import json
import sys
import textwrap
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import sdctl_agent.runtimes
from sdctl_agent.errors import PermanentError, SettingsError
from sdctl_agent.runtimes import create_runtime, runtime_types
from sdctl_agent.runtimes.base import RuntimeOptions
from support.runtimes import contents, run_task, task

OPTIONS = RuntimeOptions("http://127.0.0.1:1")


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, entry_points: str, **modules: str) -> None:
    """Put a distribution with entry points, and its modules, on the import path."""
    info = folder / "speech_runtime-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: speech-runtime\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(entry_points)
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(str(folder))


def documented_example() -> tuple[str, str]:
    """Take the entry point and the module out of the package's documentation."""
    text = sdctl_agent.runtimes.__doc__ or ""
    blocks: list[list[str]] = [[]]
    for line in text.splitlines():
        if line.startswith("    ") or (not line and blocks[-1]):
            blocks[-1].append(line)
        elif blocks[-1]:
            blocks.append([])
    entry, module = (textwrap.dedent("\n".join(block)) for block in blocks if block)
    lines = entry.replace('"', "").replace("[project.entry-points.", "[")
    return lines, module


class Speech(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.answer(200, b"ok")

    def do_POST(self) -> None:
        text = json.loads(self.rfile.read(int(self.headers["content-length"])))["text"]
        self.answer(200, b"RIFF" + text.encode()) if text else self.answer(422, b"there is nothing to say")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def speech_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Speech)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_the_built_in_runtimes_are_made_by_name() -> None:
    for name, types in (("sdwebui", 4), ("comfyui", 1)):
        runtime = create_runtime(name, OPTIONS)
        assert len(runtime.task_types) == types
        runtime.close()


def test_an_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(SettingsError, match='"comfy" is not one of sdwebui, comfyui'):
        create_runtime("comfy", OPTIONS)


def test_the_documented_plug_in_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, speech_url: str
) -> None:
    entry_points, module = documented_example()
    install(tmp_path, monkeypatch, entry_points, speech_runtime=module)
    assert "speech" in runtime_types()
    runtime = create_runtime("speech", RuntimeOptions(speech_url))
    assert runtime.is_ready(2)
    result = run_task(runtime, task("text-to-speech", {"text": "hello"}))
    assert contents(result.outputs) == [b"RIFFhello"]
    with pytest.raises(PermanentError, match="nothing to say"):
        run_task(runtime, task("text-to-speech", {"text": ""}))
    runtime.close()
    assert not create_runtime("speech", OPTIONS).is_ready(1)


def test_a_plug_in_is_found_without_importing_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = "[sdctl_agent.runtimes]\nbroken = broken_runtime:create\nfine = fine_runtime:create\n"
    install(
        tmp_path, monkeypatch, points, broken_runtime="import no_such_module", fine_runtime="create = repr"
    )
    assert str(create_runtime("fine", OPTIONS)) == repr(OPTIONS)
    assert "broken_runtime" not in sys.modules
    with pytest.raises(SettingsError, match=r"broken_runtime:create cannot be loaded"):
        create_runtime("broken", OPTIONS)


def test_no_plug_in_takes_a_built_in_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = "[sdctl_agent.runtimes]\ncomfyui = thief_runtime:create\n"
    install(tmp_path, monkeypatch, points, thief_runtime="raise AssertionError")
    create_runtime("comfyui", OPTIONS).close()
    assert runtime_types().count("comfyui") == 1
