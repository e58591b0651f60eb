"""One content into one object, whole or in parts.

The object appears when everything has been checked; what fails a check leaves nothing, what is merely
interrupted leaves its parts for the next run.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sdctl.clients.objects import Objects, encoded
from sdctl.models.contents import Sending, Sent, check_hashes, check_seen
from sdctl.models.crc import crc32
from sdctl.models.digest import Digest
from sdctl.models.head import BadModelError
from sdctl.models.resume import Journal
from sdctl.models.uploads import Upload, part_size

# A content up to this size goes out whole; a stream's parts have it.
PART_BYTES: Final = 8 * 1024**2
# What needs no hashing on its way costs least in larger parts: measured with 8, 16 and 32 MiB.
_KNOWN_FACTOR: Final = 2


class Sender:
    """Sends contents into one bucket."""

    def __init__(
        self,
        objects: Objects,
        journal: Journal,
        *,
        on_bytes: Callable[[str, int], None] = lambda _key, _count: None,
    ) -> None:
        """Use a bucket; `on_bytes` is told of each key's stored bytes, from several threads."""
        self._objects = objects
        self._journal = journal
        self._on_bytes = on_bytes

    def send(self, wanted: Sending) -> Sent:
        """Store a content; return what was stored.

        Raises:
            BadModelError: the content is not what it should be; nothing is left of it.
            RemoteError: it cannot be read or stored; its parts are left for the next run.
        """
        size_bytes = wanted.content.size_bytes
        if size_bytes <= PART_BYTES:
            return self._send_whole(wanted)
        part_bytes = part_size(size_bytes, PART_BYTES * (_KNOWN_FACTOR if wanted.is_hashed else 1))
        upload = Upload(self._objects, self._journal, wanted, part_bytes, on_bytes=self._on_bytes)
        return upload.run()

    def _send_whole(self, wanted: Sending) -> Sent:
        size_bytes = wanted.content.size_bytes
        if wanted.path is not None and wanted.crc32 is not None:
            etag = self._objects.put_file(wanted.key, wanted.path, size_bytes, wanted.crc32, wanted.metadata)
            if etag is not None:
                self._check_stored(wanted)
                return self._whole(wanted, wanted.sha256, wanted.crc32, etag)
        data = wanted.content.read(0, size_bytes)
        check_seen(wanted.seen, 0, data)
        digest = Digest()
        digest.update(data)
        sha256, checksum = digest.sha256, crc32(data)
        check_hashes(wanted, sha256, checksum)
        metadata = {**wanted.metadata, "sha256": sha256}
        return self._whole(wanted, sha256, checksum, self._objects.put(wanted.key, data, checksum, metadata))

    def _check_stored(self, wanted: Sending) -> None:
        """Look at a file once more: not every server compares what came with the checksum."""
        try:
            wanted.still_same()
        except BadModelError:
            self._objects.delete(wanted.key)
            raise

    def _whole(self, wanted: Sending, sha256: str, checksum: int, etag: str) -> Sent:
        self._on_bytes(wanted.key, wanted.content.size_bytes)
        return Sent(sha256, encoded(checksum), encoded(checksum), etag)
