"""What a source names: files of this machine, an address, a file of Hugging Face or a version of Civitai.

Resolving asks publishers for names, sizes and hashes; nothing of a model is read yet.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdctl.clients.downloads import Downloads, SourceError, check_url, shown
from sdctl.clients.remote_files import Remote
from sdctl.errors import NotFoundError, UsageError
from sdctl.models import civitai, huggingface
from sdctl.models.crc import crc32
from sdctl.models.head import BadModelError, Content, is_model
from sdctl.models.identify import FOLDERS
from sdctl.models.names import DESCRIPTION_SUFFIXES, MODEL_SUFFIXES, OTHER_SUFFIXES
from sdctl.models.published import Published

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# Windows has no reading at a place.
_READ_AT: Final = getattr(os, "pread", None)
_CHUNK_BYTES: Final = 1024**2
_SUFFIX: Final = re.compile(r"\.[a-z][a-z0-9]{0,7}")
_REMOTE: Final = ("https://", "http://", "hf:", "civitai:")


@dataclass(frozen=True, slots=True)
class Origin:
    """One model to bring.

    `source` names it for good (a commit, not a branch), `folder` is the part of the guide's tree that it was
    found in, `sha256` what its publisher says, empty where nobody does; `path` is set for a local file.
    """

    source: str
    name: str
    open: Callable[[], Content]
    folder: str = ""
    sha256: str = ""
    size_bytes: int | None = None
    path: Path | None = None


def checked_sha256(text: str) -> str:
    """Check a SHA-256 in hex.

    Raises:
        UsageError: it is none.
    """
    value = text.strip().lower().removeprefix("sha256:")
    if _SHA256.fullmatch(value) is None:
        raise UsageError(f"{text[:80]!r} is no SHA-256: 64 hexadecimal digits")
    return value


def is_remote(source: str) -> bool:
    """Tell a source that comes over the network from a path."""
    return source.startswith(_REMOTE)


class Resolver:
    """Finds what sources name."""

    def __init__(self, downloads: Downloads, env: Mapping[str, str]) -> None:
        """Use the one way to other people's servers; `env` has endpoints and tokens."""
        self._downloads = downloads
        self._env = env

    def resolve(self, source: str, folder: Path) -> list[Origin]:
        """Find the models that a source names.

        Args:
            source: as the user wrote it.
            folder: what relative paths start from.

        Raises:
            UsageError: it names nothing, or too much.
            NotFoundError: there is no such file.
            SourceError: the publisher refuses, or does not answer.
        """
        if not source.strip():
            raise UsageError("a source is empty: it would mean the whole folder", hint="name it: .")
        if not is_remote(source):
            return list(local_origins(folder / Path(source).expanduser()))
        rewritten = huggingface.source_of(source) or civitai.source_of(source) or source
        if rewritten.startswith("hf:"):
            return [self._remote(huggingface.find(rewritten, self._downloads, self._env))]
        if rewritten.startswith("civitai:"):
            return [self._remote(civitai.find(rewritten, self._downloads, self._env))]
        check_url(source)
        return [self._remote(Published(shown(source), "", source))]

    def _remote(self, found: Published) -> Origin:
        def open_it() -> Remote:
            try:
                remote = Remote(self._downloads, found.url, found.token)
            except SourceError as error:
                raise found.explain(error) from error
            if found.size_bytes is not None and remote.size_bytes != found.size_bytes:
                remote.close()
                raise SourceError(
                    f"{found.source} should have {found.size_bytes} bytes, {remote.size_bytes} are offered"
                )
            return remote

        return Origin(found.source, found.name, open_it, "", found.sha256, found.size_bytes)


class LocalFile:
    """A file of this machine as `Content`; safe to read from several threads."""

    def __init__(self, path: Path) -> None:
        """Open it."""
        self.path = path
        self._file = path.open("rb", buffering=0)
        self.size_bytes, self.identity = self._look()
        self._lock = threading.Lock()

    def _look(self) -> tuple[int, str]:
        status = os.fstat(self._file.fileno())
        seen = f"{self.path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}\0{status.st_ino}"
        return status.st_size, seen

    def still_same(self) -> None:
        """Look whether somebody has written into it since it was opened.

        Raises:
            BadModelError: somebody has.
        """
        if self._look()[1] != self.identity:
            raise BadModelError(f"{self.path} changed while it was read; nothing was stored")

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes.

        Raises:
            BadModelError: the file has become shorter.
        """
        data = self._piece(start, length)
        while 0 < len(data) < length and (more := self._piece(start + len(data), length - len(data))):
            data += more
        if len(data) != length:
            raise BadModelError(f"{self.path} became shorter while it was read")
        return data

    def hashes(self) -> tuple[str, int]:
        """Read it all; return its SHA-256 in hex, and its CRC-32.

        Raises:
            BadModelError: somebody wrote into it meanwhile.
        """
        digest, checksum = hashlib.sha256(), 0
        buffer = memoryview(bytearray(_CHUNK_BYTES))
        with self._lock:
            self._file.seek(0)
            while count := self._file.readinto(buffer):
                digest.update(buffer[:count])
                checksum = crc32(buffer[:count], checksum)
        self.still_same()
        return digest.hexdigest(), checksum

    def _piece(self, start: int, length: int) -> bytes:
        if _READ_AT is not None:
            data: bytes = _READ_AT(self._file.fileno(), length, start)
            return data
        with self._lock:
            self._file.seek(start)
            return self._file.read(length) or b""

    def close(self) -> None:
        """Close it."""
        self._file.close()


def local_origins(path: Path) -> Iterator[Origin]:
    """Yield the models of a file or a folder; a folder's place in the guide's tree is kept.

    Raises:
        NotFoundError: there is nothing.
        UsageError: a folder holds no model.
    """
    if path.is_file():
        yield _local(path, "")
        return
    if not path.is_dir():
        raise NotFoundError(f"there is no file {path}")
    # A folder of the tree itself, as ./Lora, and the root of a tree are both meant.
    base = path.parent if path.name in FOLDERS else path
    count = 0
    for root, folders, names in os.walk(path):
        folders[:] = sorted(one for one in folders if not one.startswith("."))
        for name in sorted(names):
            found = Path(root, name)
            if name.startswith(".") or not found.is_file():
                continue  # or a link that leads nowhere, or a pipe
            place = found.parent.relative_to(base).as_posix()
            folder = place if place.split("/")[0] in FOLDERS else ""
            if _is_meant(found, is_in_tree=bool(folder)):
                count += 1
                yield _local(found, folder)
    if not count:
        raise UsageError(f"the folder {path} holds no model: {', '.join(MODEL_SUFFIXES)}")


def _is_meant(path: Path, *, is_in_tree: bool) -> bool:
    """Tell what of a folder is to be brought: models, and what lies beside them in the guide's tree."""
    suffix = path.suffix.lower()
    if suffix in MODEL_SUFFIXES:
        return True
    if suffix in OTHER_SUFFIXES:
        return is_in_tree or suffix not in DESCRIPTION_SUFFIXES
    if _SUFFIX.fullmatch(suffix):
        return False
    # No suffix, as publishers leave it out now and then, or a version as in "v1.5": the content tells.
    with path.open("rb") as file:
        return is_model(file.read(16))


def _local(path: Path, folder: str) -> Origin:
    size_bytes = path.stat().st_size
    return Origin(f"file:{path.name}", path.name, lambda: LocalFile(path), folder, "", size_bytes, path)
