"""The folder that the queue agent's image is built in: its Dockerfile, the exact packages, and a wheel.

The wheel is put together from what is installed, checkout or not: without a build tool, the network, or
anything of the command line in it, and the same bytes each time.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from importlib.metadata import distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from sdctl import __version__
from sdctl.assets import asset_dir
from sdctl.errors import NotFoundError

# What the agent imports of sdctl: https://packaging.python.org/specifications/binary-distribution-format/
_OF_SDCTL: Final = ("__init__.py", "contract.py", "task_record.py")
_EXTRAS: Final = ("agent", "tracing")
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)


def make_context(folder: Path) -> Path:
    """Fill an empty folder with what the image is built from, and return it.

    Raises:
        NotFoundError: this installation lacks the agent.
    """
    for name in ("Dockerfile", "requirements.lock"):
        shutil.copyfile(asset_dir("agent") / name, folder / name)
    _write_wheel(folder / f"sdctl-{__version__}-py3-none-any.whl")
    return folder


def _write_wheel(path: Path) -> None:
    files = {name: file.read_bytes() for name, file in sorted(_sources())}
    info = f"sdctl-{__version__}.dist-info"
    requires = "".join(f"Requires-Dist: {one}\n" for one in requirements())
    files[f"{info}/METADATA"] = (
        f"Metadata-Version: 2.1\nName: sdctl\nVersion: {__version__}\n{requires}".encode()
    )
    files[f"{info}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: sdctl\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    files[f"{info}/entry_points.txt"] = b"[console_scripts]\nsd-queue-agent = sdctl_agent.__main__:main\n"
    files[f"{info}/RECORD"] = _record(files, f"{info}/RECORD")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, content in files.items():
            wheel.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)


def _sources() -> Iterator[tuple[str, Path]]:
    """Yield what the agent consists of, by the names in the wheel."""
    agent, own = find_spec("sdctl_agent"), Path(__file__).resolve().parents[1]
    if agent is None or agent.origin is None:
        raise NotFoundError("this installation of sdctl lacks its queue agent", hint="reinstall sdctl")
    root = Path(agent.origin).parent
    yield from ((f"sdctl/{name}", own / name) for name in _OF_SDCTL)
    for file in root.rglob("*"):
        if file.is_file() and "__pycache__" not in file.parts:
            yield f"sdctl_agent/{file.relative_to(root).as_posix()}", file


def requirements() -> list[str]:
    """List what the agent needs of others: its extras, of the checkout or of the installation.

    Raises:
        NotFoundError: neither tells them.
    """
    root = Path(__file__).resolve().parents[2]
    if (root / "agent" / "Dockerfile").is_file():
        # A checkout: what its editable installation says of itself may be older.
        project = root / "pyproject.toml"
        extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        return sorted({line for extra in _EXTRAS for line in extras[extra]})
    lines = [str(line).partition(";") for line in distribution("sdctl").requires or ()]
    found = {
        (line.strip(), extra)
        for line, _, marker in lines
        for extra in _EXTRAS
        if f"'{extra}'" in marker.replace('"', "'")
    }
    if {extra for _, extra in found} != set(_EXTRAS):
        raise NotFoundError(
            "this installation of sdctl does not say what its agent needs", hint="reinstall sdctl"
        )
    return sorted({line for line, _ in found})


def _record(files: Mapping[str, bytes], own_name: str) -> bytes:
    lines = []
    for name, content in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
        lines.append(f"{name},sha256={digest},{len(content)}\n")
    return "".join([*lines, f"{own_name},,\n"]).encode()
