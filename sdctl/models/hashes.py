"""SHA-256 and CRC-32 of local files, kept in the state folder as long as a file is the same."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import Final

from sdctl.models.sources import LocalFile

_MAX_KEPT: Final = 5000


class Hashes:
    """The hashes that were computed on this machine; safe to share between threads."""

    def __init__(self, path: Path) -> None:
        """Keep them in one JSON file, which is read when it is needed."""
        self._path = path
        self._kept: dict[str, tuple[str, int]] | None = None
        self._under_way: dict[str, Future[tuple[str, int]]] = {}
        self._lock = threading.Lock()
        self._is_changed = False

    def of(self, file: LocalFile) -> tuple[str, int]:
        """Return SHA-256 in hex and CRC-32 of a file, which is read only where it is new or has changed.

        Raises:
            BadModelError: it became shorter, or changed while it was read.
        """
        with self._lock:
            if self._kept is None:
                self._kept = self._read()
            if file.identity in self._kept:
                return self._kept[file.identity]
            other = self._under_way.get(file.identity)
            if other is None:
                own = self._under_way[file.identity] = Future[tuple[str, int]]()
        if other is not None:
            return other.result()
        try:
            own.set_result(file.hashes())
        except BaseException as error:
            own.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._under_way[file.identity]
                if own.exception() is None:
                    self._kept[file.identity] = own.result()
                    self._is_changed = True
        return own.result()

    def save(self) -> None:
        """Keep what was computed; the oldest are dropped."""
        with self._lock:
            if not self._is_changed or self._kept is None:
                return
            kept = dict(list(self._kept.items())[-_MAX_KEPT:])
            self._is_changed = False
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=self._path.parent, prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(kept, file)
            Path(name).replace(self._path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _read(self) -> dict[str, tuple[str, int]]:
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(key): (str(sha256), int(crc32)) for key, (sha256, crc32) in document.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError, AttributeError):
            return {}  # it is rebuilt from the files
