"""One content into one object: read once, hashed in order, sent in parts from several threads.

Only so many parts are in memory at a time. The object appears when everything has been checked; what fails
a check leaves nothing, what is merely interrupted leaves its parts for the next run.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from sdctl.clients.objects import MAX_PARTS, Objects, composite, encoded
from sdctl.models.digest import Digest, restored
from sdctl.models.head import BadModelError, Content
from sdctl.models.resume import Journal, Unfinished
from sdctl.models.threads import Workers

PART_BYTES: Final = 8 * 1024**2
# Parts in memory, being read or sent.
WINDOW: Final = 6
_SAVE_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Sending:
    """What to send where.

    `identity` names this very content for a later run; `sha256` is what it must have, empty where nobody
    says; `crc32` is that of an earlier reading, which must not have changed. `seen` are the ranges that were
    examined: what is sent must have the same bytes there. `readers` is how many threads read: one is enough
    for a disk, and all that a stream allows.
    """

    content: Content
    key: str
    identity: str
    metadata: Mapping[str, str]
    sha256: str = ""
    crc32: int | None = None
    readers: int = WINDOW
    seen: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def is_hashed(self) -> bool:
        """Tell whether it was hashed a moment ago: its CRC-32 then tells that it is still the same."""
        return bool(self.sha256) and self.crc32 is not None


@dataclass(frozen=True, slots=True)
class Sent:
    """What was stored: `checksum` is what S3 answers for it, `crc32` that of the whole content, in base64."""

    sha256: str
    crc32: str
    checksum: str
    etag: str


def part_size(size_bytes: int) -> int:
    """Choose the size of parts: small enough for memory, large enough for S3's limit on their number."""
    part_bytes = PART_BYTES
    while part_bytes * MAX_PARTS < size_bytes:
        part_bytes *= 2
    return part_bytes


class Sender:
    """Sends contents into one bucket."""

    def __init__(
        self,
        objects: Objects,
        journal: Journal,
        *,
        on_bytes: Callable[[str, int], None] = lambda _key, _count: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use a bucket; `on_bytes` is told of each key's stored bytes, from several threads."""
        self._objects = objects
        self._journal = journal
        self._on_bytes = on_bytes
        self._clock = clock

    def send(self, wanted: Sending) -> Sent:
        """Store a content; return what was stored.

        Raises:
            BadModelError: the content is not what it should be; nothing is left of it.
            RemoteError: it cannot be read or stored; its parts are left for the next run.
        """
        size_bytes = wanted.content.size_bytes
        if size_bytes <= PART_BYTES:
            return self._send_whole(wanted)
        return _Upload(self, wanted, part_size(size_bytes)).run()

    def _send_whole(self, wanted: Sending) -> Sent:
        data = wanted.content.read(0, wanted.content.size_bytes)
        check_seen(wanted.seen, 0, data)
        sha256, crc32 = wanted.sha256, zlib.crc32(data)
        if not sha256 or crc32 != wanted.crc32:  # else it has been hashed a moment ago
            digest = Digest()
            digest.update(data)
            check_digest(wanted, digest)
            sha256 = digest.sha256
        metadata = {**wanted.metadata, "sha256": sha256}
        etag = self._objects.put(wanted.key, data, crc32, metadata)
        self._on_bytes(wanted.key, len(data))
        checksum = encoded(crc32)
        return Sent(sha256, checksum, checksum, etag)


class _Upload:
    """One upload in parts, from its beginning or from where an earlier run left it."""

    def __init__(self, sender: Sender, wanted: Sending, part_bytes: int) -> None:
        self._wanted, self._part_bytes = wanted, part_bytes
        self._objects, self._journal = sender._objects, sender._journal
        self._on_bytes, self._clock = sender._on_bytes, sender._clock
        self._place = f"{self._objects.bucket}/{wanted.key}"
        self._slots = threading.Semaphore(WINDOW)
        self._lock = threading.Lock()
        self._failed = threading.Event()
        self._digest = Digest()
        self._saved_at = self._clock()
        self._state = self._resumed() or self._begun()

    def run(self) -> Sent:
        try:
            self._transfer()
            check_digest(self._wanted, self._digest)
        except BadModelError:
            self._objects.abort(self._wanted.key, self._state.upload_id)
            self._journal.forget(self._place)
            raise
        except BaseException:
            self._save()
            raise
        sent = self._finish()
        self._journal.forget(self._place)
        return sent

    def _resumed(self) -> Unfinished | None:
        """Take up what an earlier run left, where it is of this very content and still there."""
        found = self._journal.read(self._place)
        if found is None:
            return None
        digest = restored(found.digest)
        is_same = found.identity == self._wanted.identity and found.part_bytes == self._part_bytes
        stored = self._objects.parts(self._wanted.key, found.upload_id) if is_same and digest else None
        if stored is None or digest is None:
            self._objects.abort(self._wanted.key, found.upload_id)
            self._journal.forget(self._place)
            return None
        found.parts = {
            number: part
            for number, part in found.parts.items()
            if stored.get(number) == (part.size_bytes, part.etag) and number <= found.hashed_parts
        }
        self._digest = digest
        for part in found.parts.values():
            self._on_bytes(self._wanted.key, part.size_bytes)
        return found

    def _begun(self) -> Unfinished:
        upload_id, is_full = self._objects.start(self._wanted.key, self._wanted.metadata)
        state = Unfinished(self._wanted.identity, upload_id, self._part_bytes, is_full)
        state.digest = self._digest.save() or ""
        self._journal.write(self._place, state)
        return state

    def _transfer(self) -> None:
        """Read ahead in parallel, hash in order, send in parallel."""
        wanted, part_bytes = self._wanted, self._part_bytes
        size_bytes = wanted.content.size_bytes
        todo = [
            number for number in range(1, -(-size_bytes // part_bytes) + 1) if number not in self._state.parts
        ]
        readers = Workers(wanted.readers, "read")
        senders = Workers(WINDOW, "send")
        read: dict[int, Future[bytes]] = {}
        sent: list[Future[None]] = []
        ahead = iter(todo)
        try:
            for number in todo:
                self._read_ahead(readers, ahead, read, needed=number)
                data = read.pop(number).result()
                self._take(number, data)
                sent.append(senders.submit(partial(self._send_part, number, data)))
                del data
                if self._failed.is_set():
                    break
            for one in sent:
                one.result()
        except Exception:
            self._failed.set()
            wait_for(sent)  # what is on its way must have arrived before it can be dropped
            raise
        finally:
            self._failed.set()
            readers.close()
            senders.close()

    def _read_ahead(self, readers: Workers, ahead: Iterator[int], read: dict[int, Future[bytes]],
                    needed: int) -> None:  # fmt: skip
        """Begin to read what there is room for; at least the part that is needed next."""
        while self._slots.acquire(blocking=needed not in read):
            number = next(ahead, None)
            if number is None:
                self._slots.release()
                return
            read[number] = readers.submit(partial(self._read_part, number))

    def _read_part(self, number: int) -> bytes:
        start = (number - 1) * self._part_bytes
        length = min(self._part_bytes, self._wanted.content.size_bytes - start)
        return self._wanted.content.read(start, length)

    def _take(self, number: int, data: bytes) -> None:
        """Check and hash the next part; one that an earlier run has hashed must be the same again."""
        check_seen(self._wanted.seen, (number - 1) * self._part_bytes, data)
        with self._lock:
            if number <= self._state.hashed_parts:
                if zlib.crc32(data) != self._state.crc32s[number - 1]:
                    raise BadModelError("the source changed since the upload was interrupted; it begins anew")
                return
            if self._wanted.is_hashed:
                self._digest.crc32 = zlib.crc32(data, self._digest.crc32)
            else:
                self._digest.update(data)
            self._state.hashed_parts = number
            self._state.crc32s.append(zlib.crc32(data))

    def _send_part(self, number: int, data: bytes) -> None:
        try:
            if self._failed.is_set():
                return
            part = self._objects.put_part(self._wanted.key, self._state.upload_id, number, data)
        except BaseException:
            self._failed.set()
            raise
        finally:
            self._slots.release()
        with self._lock:
            self._state.parts[number] = part
            is_due = self._clock() - self._saved_at > _SAVE_SECONDS
        self._on_bytes(self._wanted.key, len(data))
        if is_due:
            self._save()

    def _save(self) -> None:
        with self._lock:
            self._saved_at = self._clock()
            self._state.digest = self._digest.save() or ""
            self._journal.write(self._place, self._state)

    def _finish(self) -> Sent:
        parts = [self._state.parts[number] for number in sorted(self._state.parts)]
        full = self._digest.crc32
        is_full = self._state.is_full_object
        etag = self._objects.finish(self._wanted.key, self._state.upload_id, parts, full if is_full else None)
        checksum = encoded(full) if is_full else composite(parts)
        sha256 = self._wanted.sha256 if self._wanted.is_hashed else self._digest.sha256
        return Sent(sha256, encoded(full), checksum, etag)


def check_digest(wanted: Sending, digest: Digest) -> None:
    """Compare what was read with what it must be.

    Raises:
        BadModelError: it is something else.
    """
    if wanted.crc32 is not None and digest.crc32 != wanted.crc32:
        raise BadModelError("the file changed while it was uploaded; nothing was stored")
    if wanted.sha256 and not wanted.is_hashed and digest.sha256 != wanted.sha256:
        raise BadModelError(
            f"the content's SHA-256 is {digest.sha256}, and should be {wanted.sha256}; nothing was stored"
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
