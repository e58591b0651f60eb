"""One content into one object in parts, from several threads.

What has been hashed before, as a local file, is read and sent by each thread alone. What passes by once is
read ahead and hashed in order on its way. Only so many parts are in memory at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from functools import partial
from typing import Final

from sdctl.clients.objects import MAX_PARTS, Objects, composite, encoded
from sdctl.models.contents import Sending, Sent, check_hashes, check_seen
from sdctl.models.crc import combined_crc32, crc32
from sdctl.models.digest import Digest, restored
from sdctl.models.head import BadModelError
from sdctl.models.resume import Journal, Unfinished
from sdctl.models.threads import Workers

# Parts of a stream in memory, being read or sent, and the threads that read and send them.
_WINDOW: Final = 5
_SENDERS: Final = 5
READERS: Final = 3
_SAVE_SECONDS: Final = 1.0


def part_size(size_bytes: int, part_bytes: int) -> int:
    """Choose the size of parts: `part_bytes`, or as much more as S3's limit on their number needs."""
    while part_bytes * MAX_PARTS < size_bytes:
        part_bytes *= 2
    return part_bytes


class Upload:
    """One upload in parts, from its beginning or from where an earlier run left it."""

    def __init__(
        self,
        objects: Objects,
        journal: Journal,
        wanted: Sending,
        part_bytes: int,
        *,
        on_bytes: Callable[[str, int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin it, or find what an earlier run left; `on_bytes` is told of what is stored."""
        self._objects, self._journal = objects, journal
        self._wanted, self._part_bytes = wanted, part_bytes
        self._on_bytes, self._clock = on_bytes, clock
        self._place = f"{self._objects.bucket}/{wanted.key}"
        self._slots = threading.Semaphore(_WINDOW)
        self._lock = threading.Lock()
        self._failed = threading.Event()
        self._senders = Workers(_SENDERS, "send")
        self._sent: list[Future[None]] = []
        self._digest = Digest()
        self._saved_at = self._clock()
        self._state = self._resumed() or self._begun()

    def run(self) -> Sent:
        """Send what is missing, check the whole, and make the object.

        Raises:
            BadModelError: the content is not what it should be; nothing is left of it.
            RemoteError: it cannot be read or stored; its parts are left for the next run.
        """
        try:
            self._transfer()
            check_hashes(self._wanted, self._sha256, self._crc32)
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

    @property
    def _crc32(self) -> int:
        parts = self._state.parts
        return combined_crc32((parts[number].crc32, parts[number].size_bytes) for number in sorted(parts))

    @property
    def _sha256(self) -> str:
        return self._wanted.sha256 if self._wanted.is_hashed else self._digest.sha256

    def _todo(self) -> list[int]:
        count = -(-self._wanted.content.size_bytes // self._part_bytes)
        return [number for number in range(1, count + 1) if number not in self._state.parts]

    def _resumed(self) -> Unfinished | None:
        """Take up what an earlier run left, where it is of this very content and still there."""
        found = self._journal.read(self._place)
        if found is None:
            return None
        digest = Digest() if self._wanted.is_hashed else restored(found.digest)
        is_same = found.identity == self._wanted.identity and found.part_bytes == self._part_bytes
        stored = self._objects.parts(self._wanted.key, found.upload_id) if is_same and digest else None
        if stored is None or digest is None:
            self._objects.abort(self._wanted.key, found.upload_id)
            self._journal.forget(self._place)
            return None
        found.parts = {
            number: part
            for number, part in found.parts.items()
            if stored.get(number) == (part.size_bytes, part.etag)
            and (self._wanted.is_hashed or number <= found.hashed_parts)
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
        try:
            if self._wanted.is_hashed:
                self._send_known()
            else:
                self._pass_on()
            for one in self._sent:
                one.result()
        except Exception:
            self._failed.set()
            wait_for(self._sent)  # what is on its way must have arrived before it can be dropped
            raise
        finally:
            self._failed.set()
            self._senders.close()

    def _send_known(self) -> None:
        """Read and send in parallel; no part waits for another."""
        for number in self._todo():
            self._sent.append(self._senders.submit(partial(self._read_and_send, number)))

    def _read_and_send(self, number: int) -> None:
        if not self._failed.is_set():
            data = self._read_part(number)
            check_seen(self._wanted.seen, (number - 1) * self._part_bytes, data)
            self._send_part(number, data, crc32(data))

    def _pass_on(self) -> None:
        """Read ahead in parallel, hash in order, send in parallel."""
        readers, hasher = Workers(self._wanted.readers, "read"), Workers(1, "hash")
        todo = self._todo()
        ahead = iter(todo)
        read: dict[int, Future[bytes]] = {}
        try:
            for number in todo:
                self._read_ahead(readers, ahead, read, needed=number)
                data = read.pop(number).result()
                # Not in this thread: Ctrl-C may come between any two steps of it.
                checksum = hasher.submit(partial(self._take, number, data)).result()
                self._sent.append(self._senders.submit(partial(self._send_taken, number, data, checksum)))
                del data
                if self._failed.is_set():
                    return
        finally:
            readers.close()
            hasher.close()

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

    def _take(self, number: int, data: bytes) -> int:
        """Check and hash the next part; one that an earlier run has hashed must be the same again.

        Returns:
            The part's CRC-32.
        """
        check_seen(self._wanted.seen, (number - 1) * self._part_bytes, data)
        checksum = crc32(data)
        with self._lock:
            if number <= self._state.hashed_parts:
                if checksum != self._state.crc32s[number - 1]:
                    raise BadModelError("the source changed since the upload was interrupted; it begins anew")
            else:
                self._digest.update(data)
                self._state.hashed_parts = number
                self._state.crc32s.append(checksum)
        return checksum

    def _send_taken(self, number: int, data: bytes, checksum: int) -> None:
        try:
            self._send_part(number, data, checksum)
        finally:
            self._slots.release()

    def _send_part(self, number: int, data: bytes, checksum: int) -> None:
        if self._failed.is_set():
            return
        try:
            part = self._objects.put_part(self._wanted.key, self._state.upload_id, number, data, checksum)
        except BaseException:
            self._failed.set()
            raise
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
        full = self._crc32
        is_full = self._state.is_full_object
        etag = self._objects.finish(self._wanted.key, self._state.upload_id, parts, full if is_full else None)
        checksum = encoded(full) if is_full else composite(parts)
        return Sent(self._sha256, encoded(full), checksum, etag)
