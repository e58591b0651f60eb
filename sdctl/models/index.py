"""The bucket's small index: what is known of each model, so that nothing has to be read twice.

It is a convenience, and each object's own metadata the truth: an entry counts only while the object has the
size and ETag that it names. It is one object, replaced by a conditional write.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final
from urllib.parse import quote, unquote

from sdctl.clients.objects import Listed, LostRaceError, Objects, Stored
from sdctl.errors import ConflictError

OWN_FOLDER: Final = ".sdctl/"
INDEX_KEY: Final = f"{OWN_FOLDER}models.json"
MAX_INDEX_BYTES: Final = 32 * 1024**2
_VERSION: Final = 1
_ATTEMPTS: Final = 10


@dataclass(frozen=True, slots=True)
class Entry:
    """One model of the bucket.

    `checksum` is what S3 answers for the object, `crc32` that of its content, both in base64 and empty where
    unknown; `sha256` is in hex, empty for what was not brought by us. `type` is one of `identify`'s.
    """

    key: str
    type: str
    base: str
    format: str
    size_bytes: int
    sha256: str
    crc32: str
    checksum: str
    etag: str
    source: str
    uploaded_at: str

    def fits(self, found: Listed | Stored) -> bool:
        """Tell whether the object is still the one that this is about."""
        return (self.size_bytes, self.etag) == (found.size_bytes, found.etag)


def metadata_of(entry: Entry) -> dict[str, str]:
    """Return what an object itself says of its model; S3 takes ASCII only, 2 KB in all."""
    found = {
        "sha256": entry.sha256, "crc32": entry.crc32, "model-type": entry.type, "base-model": entry.base,
        "model-format": entry.format, "source": quote(entry.source, safe="/:@ ?=&+~,()")[:1024],
    }  # fmt: skip
    return {name: value for name, value in found.items() if value}


def entry_of(stored: Stored) -> Entry | None:
    """Read an object's metadata; None where the object was not brought by us."""
    said = stored.metadata
    if "model-type" not in said:
        return None
    return Entry(
        stored.key, said["model-type"], said.get("base-model", ""), said.get("model-format", ""),
        stored.size_bytes, said.get("sha256", ""), said.get("crc32", ""), stored.crc32, stored.etag,
        unquote(said.get("source", "")), stored.modified_at,
    )  # fmt: skip


class Index:
    """The index of one bucket."""

    def __init__(self, objects: Objects, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """Use a bucket; nothing is read yet."""
        self._objects = objects
        self._sleep = sleep

    def read(self) -> dict[str, Entry]:
        """Return the entries by key; an index that is damaged is read as none, and written anew."""
        return self._read()[0]

    def _read(self) -> tuple[dict[str, Entry], str | None]:
        found = self._objects.read_document(INDEX_KEY, MAX_INDEX_BYTES)
        if found is None:
            return {}, None
        body, etag = found
        return _parsed(body), etag

    def update(self, changes: Mapping[str, Entry | None]) -> None:
        """Set entries, or drop those that are None, beside what others change at the same time.

        Raises:
            ConflictError: others change it without end.
        """
        if not changes:
            return
        for attempt in range(_ATTEMPTS):
            entries, etag = self._read()
            wanted = {key: entry for key, entry in (entries | dict(changes)).items() if entry is not None}
            if wanted == entries and etag is not None:
                return
            document = {"version": _VERSION, "models": [asdict(wanted[key]) for key in sorted(wanted)]}
            try:
                self._objects.write_document(INDEX_KEY, json.dumps(document).encode(), etag)
            except LostRaceError:
                self._sleep(random.uniform(0.05, 0.2) * (attempt + 1))  # noqa: S311
            else:
                return
        raise ConflictError(
            f"the index of the bucket {self._objects.bucket} is changed by others without end"
        )


def _parsed(body: bytes) -> dict[str, Entry]:
    try:
        document: dict[str, Any] = json.loads(body)
        if document["version"] != _VERSION:
            raise ConflictError("the bucket's index was written by a newer sdctl", hint="update sdctl")
        names = {one.name for one in fields(Entry)}
        entries = [
            Entry(**{key: value for key, value in one.items() if key in names}) for one in document["models"]
        ]
        return {one.key: one for one in entries}
    except (ValueError, TypeError, KeyError, AttributeError):
        return {}
