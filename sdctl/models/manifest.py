"""`models.yaml`, the list of a bucket's models, and the lock beside it that pins what they were.

models:
  - hf:owner/repo/file.safetensors
  - source: civitai:12345
    to: Lora
    name: style.safetensors
    sha256: 64 hexadecimal digits
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sdctl.errors import ConfigError, NotFoundError, UsageError
from sdctl.models import civitai, huggingface
from sdctl.models.names import file_name, folder_name
from sdctl.models.sources import checked_sha256

# What a map may have, and what its values must pass.
_CHECKS: Final[Mapping[str, Callable[[str], str]]] = {
    "source": str, "to": folder_name, "name": file_name, "sha256": checked_sha256,
}  # fmt: skip
_MAX_BYTES: Final = 4 * 1024**2
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Line:
    """One model of the list; empty where it says nothing."""

    source: str
    to: str = ""
    name: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Locked:
    """What a line came to: `pinned` names the source for good."""

    line: Line
    pinned: str
    key: str
    sha256: str
    size_bytes: int


def is_manifest(path: Path) -> bool:
    """Tell a list of models, `models.yaml`, from whatever lies beside models, by its name."""
    return path.name.lower() in ("models.yaml", "models.yml") and path.is_file()


def read_manifest(path: Path) -> list[Line]:
    """Read a list of models.

    Raises:
        NotFoundError: there is no such file.
        ConfigError: it is not what it should be; all that is wrong is said.
    """
    import yaml

    if not path.is_file():
        raise NotFoundError(f"there is no file {path}", hint="write the sources of your models into it")
    if path.stat().st_size > _MAX_BYTES:
        raise ConfigError(f"{path} is too long for a list of models")
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not YAML: {error}") from error
    if not isinstance(document, dict) or not isinstance(document.get("models"), list):
        is_named = isinstance(document, dict) and "models" in document
        found = f"models: {_shown(document['models'])}" if is_named else _shown(document)
        raise ConfigError(
            f"{path}: {found} is not one key, models, with a list", hint="see sdctl models sync --help"
        )
    problems = [f"{key!r} is not one of models" for key in document if key != "models"]
    lines = [_line(entry, f"models/{number}", problems) for number, entry in enumerate(document["models"])]
    if problems:
        raise ConfigError(f"{path} is not right:\n  " + "\n  ".join(problems))
    return lines


def _line(entry: Any, where: str, problems: list[str]) -> Line:
    """Read one model of the list; what is wrong with it is added to `problems`, each with its place."""
    if isinstance(entry, str):
        entry = {"source": entry}
    if not isinstance(entry, dict):
        problems.append(f"{where}: {_shown(entry)} is neither a source nor a map with one")
        return Line("")
    problems += [
        f"{where}: {key!r} is not one of {', '.join(_CHECKS)}" for key in entry if key not in _CHECKS
    ]
    if not entry.get("source"):
        problems.append(f"{where}/source: it is missing")
    found = {}
    for key, check in _CHECKS.items():
        value = entry.get(key) or ""
        try:
            found[key] = check(value) if value and isinstance(value, str) else ""
        except UsageError as error:
            problems.append(f"{where}/{key}: {error.message}")
        if not isinstance(value, str):
            problems.append(f"{where}/{key}: {_shown(value)} is not a text; put it in quotes")
    return Line(**found)


def _shown(value: Any) -> str:
    return "nothing" if value is None else repr(value)[:80]


def lock_path(manifest: Path) -> Path:
    """Return where the lock of a list lies: `models.lock` beside `models.yaml`."""
    return manifest.with_suffix(".lock")


def read_locks(path: Path) -> dict[Line, tuple[Locked, ...]]:
    """Read a lock, of which a line that names a folder has several entries; none is empty.

    Raises:
        ConfigError: it is damaged.
    """
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if document["version"] != _VERSION:
            raise ConfigError(f"{path} was written by a newer sdctl", hint="update sdctl")
        found = [_locked(one) for one in document["models"]]
    except (ValueError, TypeError, KeyError, AttributeError, UsageError) as error:
        raise ConfigError(f"{path} is damaged: {error}", hint=f"delete {path}") from error
    for one in found:
        if not _is_of_line(one):
            # Who reads the list alone would take it for what the list says.
            raise ConfigError(
                f"{path} has {one.pinned} for {one.line.source}, which is another source",
                hint=f"delete {path}, if you do not know why",
            )
    return {line: tuple(one for one in found if one.line == line) for line in {one.line for one in found}}


def _locked(entry: dict[str, Any]) -> Locked:
    found = Locked(Line(**entry.pop("line")), **entry)
    texts = (*asdict(found.line).values(), found.pinned, found.key)
    if not all(isinstance(one, str) for one in texts) or not isinstance(found.size_bytes, int):
        raise TypeError("a value is of another type")
    checked_sha256(found.sha256)
    return found


def _is_of_line(one: Locked) -> bool:
    """Tell whether a lock pins the source of its line, and no other publisher's or repository's file."""
    source = one.line.source
    source = huggingface.source_of(source) or civitai.source_of(source) or source
    base, pinned = source.partition("@")[0].rstrip("/"), one.pinned.partition("@")[0]
    if not source.startswith(("hf:", "civitai:")):
        return not one.pinned.startswith(("hf:", "civitai:"))
    return pinned == base or pinned.startswith(f"{base}/")


def write_locks(path: Path, locks: Mapping[Line, Sequence[Locked]]) -> None:
    """Replace a lock, in the order of the list."""
    document = {"version": _VERSION, "models": [asdict(one) for line in locks.values() for one in line]}
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(json.dumps(document, indent=2) + "\n")
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
