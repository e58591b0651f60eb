"""What is to be sent, what was, and whether it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sdctl.models.head import BadModelError, Content

_PIECE_BYTES: Final = 8 * 1024**2


@dataclass(frozen=True, slots=True)
class Sending:
    """What to send where.

    `identity` names this very content for a later run; `sha256` is what it must have, empty where nobody
    says. `crc32` is that of a content which was read and hashed a moment ago; `still_same` then raises
    BadModelError where it has changed since, and `path` is where it lies. `seen` are the ranges that were
    examined: what is sent must have the same bytes there. `readers` is how many threads may read a content
    that is not hashed: one, of a stream.
    """

    content: Content
    key: str
    identity: str
    metadata: Mapping[str, str]
    sha256: str = ""
    crc32: int | None = None
    path: Path | None = None
    still_same: Callable[[], None] = lambda: None
    readers: int = 1
    seen: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def is_hashed(self) -> bool:
        """Tell whether SHA-256 and CRC-32 are known, and need not be computed on the way."""
        return self.crc32 is not None


@dataclass(frozen=True, slots=True)
class Sent:
    """What was stored: `checksum` is what S3 answers for it, `crc32` that of the whole content, in base64."""

    sha256: str
    crc32: str
    checksum: str
    etag: str


def check_hashes(wanted: Sending, sha256: str, checksum: int) -> None:
    """Compare what was read with what it must be.

    Raises:
        BadModelError: it is something else, or has changed meanwhile.
    """
    wanted.still_same()
    if wanted.crc32 is not None and checksum != wanted.crc32:
        raise BadModelError("the file changed while it was uploaded; nothing was stored")
    if wanted.sha256 and sha256 != wanted.sha256:
        raise BadModelError(
            f"the content's SHA-256 is {sha256}, and should be {wanted.sha256}; nothing was stored"
        )


def check_seen(seen: Mapping[int, bytes], start: int, data: bytes) -> None:
    """Compare a piece with what was seen of it when it was examined.

    Raises:
        BadModelError: another content was shown than is given.
    """
    for at, expected in seen.items():
        first, last = max(at, start), min(at + len(expected), start + len(data))
        if first < last and data[first - start : last - start] != expected[first - at : last - at]:
            raise BadModelError("the source gives another content than it showed when it was examined")


def read_sha256(content: Content) -> str:
    """Read a content that nobody tells the hash of; return its SHA-256 in hex."""
    digest = hashlib.sha256()
    for start in range(0, content.size_bytes, _PIECE_BYTES):
        digest.update(content.read(start, min(_PIECE_BYTES, content.size_bytes - start)))
    return digest.hexdigest()
