"""A folder that holds what was rendered and nothing else: written beside it, then put in its place at once.

The folder's own index says what it holds. Without that index, or with a file that the index does not
list, the folder is somebody else's and stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sdctl.errors import ConflictError, MachineError, UsageError

INDEX_FILE: Final = "sdctl-render.json"
_MADE_BY: Final = "sdctl render"
_MAX_INDEX_BYTES: Final = 16 * 1024 * 1024
_SHOWN_STRANGERS: Final = 5
# What a path may not hold, on whatever file system it ends up.
_FORBIDDEN: Final = frozenset('\\:*?"<>|')


@dataclass(frozen=True, slots=True)
class Written:
    """One file: `path` from the folder, with `/`; SHA-256 in hex."""

    path: str
    sha256: str
    bytes: int


def write_folder(folder: Path, files: Mapping[str, bytes]) -> tuple[Written, ...]:
    """Make a folder hold exactly these files and their index, or leave it as it was.

    Args:
        folder: does not exist, is empty, or was written by this function.
        files: contents by path from the folder, with `/`.

    Returns:
        What was written, by path, the index included.

    Raises:
        UsageError: the folder is the current one, or around it.
        ConflictError: it is not empty and not ours, or holds something that is not ours.
        MachineError: the file system refuses.
        ValueError: a path leads out of the folder.
    """
    for path in files:
        check_path(path)
    with _refusals(folder):
        target = Path(os.path.realpath(folder))
        if Path.cwd().is_relative_to(target):
            raise UsageError(f"{folder} is the current folder or around it", hint="name a folder of its own")
        _check_ours(target, folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = _rows(files)
        index = _index(rows)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".sdctl-render-") as scratch:
            new = Path(scratch) / "new"
            for path, content in {**files, INDEX_FILE: index}.items():
                _write(new / path, content)
            _put_in_place(new, target, Path(scratch) / "old")
    return tuple(sorted((*rows, _row(INDEX_FILE, index)), key=lambda row: row.path))


def check_path(path: str) -> None:
    """Refuse a path that is not plainly below the folder.

    Raises:
        ValueError: it is absolute, climbs, or has characters that some file system takes for something else.
    """
    parts = path.split("/")
    is_plain = path.isprintable() and _FORBIDDEN.isdisjoint(path)
    if not is_plain or any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{path!r} is no path inside the folder")


def _rows(files: Mapping[str, bytes]) -> tuple[Written, ...]:
    return tuple(_row(path, files[path]) for path in sorted(files))


def _row(path: str, content: bytes) -> Written:
    return Written(path, hashlib.sha256(content).hexdigest(), len(content))


def _index(rows: tuple[Written, ...]) -> bytes:
    entries = [{"path": row.path, "sha256": row.sha256, "bytes": row.bytes} for row in rows]
    return (json.dumps({"made_by": _MADE_BY, "files": entries}, indent=1) + "\n").encode()


def _put_in_place(new: Path, target: Path, aside: Path) -> None:
    """Rename a folder to another's name; whatever comes in between, one of the two is there afterwards."""
    if not target.exists():
        new.rename(target)
        return
    target.rename(aside)
    try:
        new.rename(target)
    finally:
        if not target.exists():
            aside.rename(target)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _check_ours(target: Path, shown: Path) -> None:
    """Raise unless the folder may be replaced."""
    if not target.exists():
        return
    if not target.is_dir():
        raise ConflictError(f"{shown} is a file", hint="name a folder that does not exist yet")
    found = set(_entries(target))
    if not found:
        return
    listed = _listed(target / INDEX_FILE)
    if listed is None:
        raise ConflictError(
            f"{shown} is not empty, and was not written by {_MADE_BY}",
            hint="name a folder that does not exist yet",
        )
    strangers = sorted(found - listed - {INDEX_FILE})
    if strangers:
        more = f" and {len(strangers) - _SHOWN_STRANGERS} more" if len(strangers) > _SHOWN_STRANGERS else ""
        raise ConflictError(
            f"{shown} holds what {_MADE_BY} did not write: {', '.join(strangers[:_SHOWN_STRANGERS])}{more}",
            hint="move it away, or name another folder",
        )


def _entries(folder: Path) -> Iterator[str]:
    """Yield the path of every file below a folder, of links, which are not followed, and empty folders."""
    for place, folders, names in os.walk(folder, onerror=_raise):
        here = Path(place)
        links = [name for name in folders if (here / name).is_symlink()]
        for name in (*names, *links):
            yield PurePosixPath((here / name).relative_to(folder)).as_posix()
        if not folders and not names and here != folder:
            yield here.relative_to(folder).as_posix()


def _raise(error: OSError) -> None:
    raise error


def _listed(index: Path) -> set[str] | None:
    """Read which files an index lists; None where it is none of ours."""
    if index.is_symlink() or not index.is_file() or index.stat().st_size > _MAX_INDEX_BYTES:
        return None
    try:
        document: Any = json.loads(index.read_bytes())
        if document["made_by"] != _MADE_BY:
            return None
        return {str(entry["path"]) for entry in document["files"]}
    except (ValueError, LookupError, TypeError, RecursionError):
        return None


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """Tell what the file system refuses."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{folder} cannot be written: {error.strerror or error}",
            hint="name another folder, which is no mount point",
        ) from error
