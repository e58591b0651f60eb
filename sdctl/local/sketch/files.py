"""ComfyUI's folders input, output and temp, kept in memory: nothing to clean up or to escape from."""

from __future__ import annotations

import posixpath
import re
import time
from collections import OrderedDict
from dataclasses import dataclass

FOLDERS = ("input", "output", "temp")
# Enough for two hundred pictures of 512x512; older ones are dropped first.
MAX_OUTPUT_BYTES = 64 * 1024 * 1024
MAX_INPUT_BYTES = 128 * 1024 * 1024
_ANNOTATION = re.compile(r"^(.*) \[(input|output|temp)\]$", re.DOTALL)


class OutsideFolderError(ValueError):
    """A name points out of its folder."""


@dataclass(frozen=True, slots=True)
class FileRef:
    """Where a file lies: its folder's type, its subfolder ('' or 'a/b') and its name."""

    type: str
    subfolder: str
    filename: str


def split_annotation(name: str, default: str) -> tuple[str, str]:
    """Split `cat.png [temp]` into name and folder type."""
    match = _ANNOTATION.match(name)
    return (match[1], match[2]) if match else (name, default)


def file_ref(name: str, default: str = "input") -> FileRef:
    """Return where a name of a workflow, such as `a/cat.png [output]`, points.

    Raises:
        OutsideFolderError: out of the folder.
    """
    path, folder = split_annotation(name, default)
    clean = inside(path)
    return FileRef(folder, posixpath.dirname(clean), posixpath.basename(clean))


def inside(path: str) -> str:
    """Normalise a relative path.

    Raises:
        OutsideFolderError: it is absolute or climbs out.
    """
    clean = posixpath.normpath(path) if path else ""
    if clean.startswith(("/", "../")) or clean == ".." or "\0" in clean:
        raise OutsideFolderError(path)
    return "" if clean == "." else clean


class FileStore:
    """The files, oldest first; each folder has its own bound in bytes."""

    def __init__(self, output_bytes: int = MAX_OUTPUT_BYTES, input_bytes: int = MAX_INPUT_BYTES) -> None:
        self._files: OrderedDict[FileRef, bytes] = OrderedDict()
        self._limits = {"input": input_bytes, "output": output_bytes, "temp": output_bytes}
        self._used = dict.fromkeys(FOLDERS, 0)
        self._counters: dict[tuple[str, str], int] = {}

    def put(self, ref: FileRef, data: bytes) -> None:
        """Store a file, dropping the oldest of its folder beyond the bound; the newest always stays."""
        self.remove(ref)
        self._files[ref] = data
        self._used[ref.type] += len(data)
        for old in [one for one in self._files if one.type == ref.type and one != ref]:
            if self._used[ref.type] <= self._limits[ref.type]:
                break
            self.remove(old)

    def get(self, ref: FileRef) -> bytes | None:
        """Return a file's bytes, or None where there is none."""
        return self._files.get(ref)

    def remove(self, ref: FileRef) -> None:
        """Forget a file, where there is one."""
        data = self._files.pop(ref, None)
        if data is not None:
            self._used[ref.type] -= len(data)

    def names(self, folder: str) -> list[str]:
        """List the files directly in a folder, sorted."""
        return sorted(ref.filename for ref in self._files if ref.type == folder and not ref.subfolder)

    def next_number(self, folder: str, prefix: str) -> int:
        """Return the counter for the next file of a prefix, from 1."""
        if len(self._counters) > 100_000:
            self._counters.clear()
        number = self._counters.get((folder, prefix), 0) + 1
        self._counters[folder, prefix] = number
        return number


def expand_prefix(prefix: str, width: int, height: int) -> str:
    """Replace what ComfyUI replaces in a `filename_prefix`: date, time, width and height."""
    now = time.localtime()
    values = {
        "width": str(width), "height": str(height), "year": str(now.tm_year), "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}", "hour": f"{now.tm_hour:02}", "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }  # fmt: skip
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix
