"""What the bucket holds: every model with its kind, whoever brought it; checked again; removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, Literal

from sdctl.clients.objects import Listed, Objects, Stored
from sdctl.errors import AwsError, ConflictError, NotFoundError, SdctlError, UsageError
from sdctl.models.head import read_head
from sdctl.models.identify import CHECKPOINT_FOLDER, UNKNOWN, identify
from sdctl.models.index import OWN_FOLDER, Entry, Index, entry_of
from sdctl.models.names import MODEL_SUFFIXES

_TOGETHER: Final = 8

Verdict = Literal["ok", "unchecked", "changed", "missing"]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of one model came to: `how` says what was compared, or what is wrong."""

    key: str
    verdict: Verdict
    how: str


class _StoredContent:
    """An object as `Content`, of which only the head is read."""

    def __init__(self, objects: Objects, listed: Listed) -> None:
        self._objects, self._listed = objects, listed

    @property
    def size_bytes(self) -> int:
        return self._listed.size_bytes

    def read(self, start: int, length: int) -> bytes:
        return self._objects.read(self._listed.key, start, length)


class Library:
    """The models of one bucket."""

    def __init__(self, objects: Objects) -> None:
        """Use a bucket; nothing is read yet."""
        self._objects = objects
        self._index = Index(objects)

    def models(self) -> list[Entry]:
        """Return every model by key; what the index does not know is looked at once, and then known.

        Raises:
            NotFoundError: there is no such bucket.
        """
        listed = {
            one.key: one
            for one in self._objects.listed()
            if not one.key.startswith(OWN_FOLDER) and not one.key.endswith("/")
        }
        known = self._index.read()
        unknown = [one for key, one in listed.items() if key not in known or not known[key].fits(one)]
        with ThreadPoolExecutor(_TOGETHER) as pool:
            learned = {entry.key: entry for entry in pool.map(self._learn, unknown)}
        self._keep({**learned, **dict.fromkeys(known.keys() - listed.keys())})
        return [learned.get(key) or known[key] for key in sorted(listed)]

    def _keep(self, changes: Mapping[str, Entry | None]) -> None:
        try:
            self._index.update(changes)
        except AwsError as error:
            if error.aws_code not in ("AccessDenied", "403"):
                raise  # who may only read learns it anew each time

    def _learn(self, listed: Listed) -> Entry:
        """Find out about one object: by its metadata, else by its head."""
        stored = self._objects.look(listed.key)
        if stored is not None and (said := entry_of(stored)) is not None:
            return said
        kind, base, format_ = "other", "", ""
        if listed.key.lower().endswith(MODEL_SUFFIXES) and listed.size_bytes:
            kind = UNKNOWN
            try:
                head = read_head(_StoredContent(self._objects, listed))
            except SdctlError as error:
                kind = f"unsound: {error.message}"
            else:
                if head is not None:
                    found = identify(head)
                    kind, base, format_ = found.type, found.base, found.format
        checksum = stored.crc32 if stored else ""
        return Entry(
            listed.key, kind, base, format_, listed.size_bytes, "", "", checksum, listed.etag, "",
            listed.modified_at,
        )  # fmt: skip

    def verify(self, keys: Sequence[str] = ()) -> list[Verified]:
        """Compare each model's checksum, as S3 has it, with the one that was computed when it was sent.

        Args:
            keys: of which models; all, where there are none.

        Raises:
            NotFoundError: there is no such model.
        """
        known = self._index.read()
        if keys:
            names = [self.find(one, known) for one in keys]
        else:
            listed = (one.key for one in self._objects.listed() if not one.key.startswith(OWN_FOLDER))
            names = sorted({*known, *listed})
        with ThreadPoolExecutor(_TOGETHER) as pool:
            return list(pool.map(lambda key: _compared(key, known.get(key), self._objects.look(key)), names))

    def find(self, text: str, known: Mapping[str, object]) -> str:
        """Return the key that a user means: itself, or the end of it.

        Raises:
            NotFoundError: there is none.
            UsageError: there are several.
        """
        if not text:
            raise UsageError("a model's name is needed", hint="sdctl models list")
        if text in known or self._objects.look(text) is not None:
            return text
        fitting = sorted(key for key in known if key.endswith(f"/{text}"))
        if not fitting:
            raise NotFoundError(
                f"the bucket {self._objects.bucket} has no model {text}", hint="sdctl models list"
            )
        if len(fitting) > 1:
            raise UsageError(f"{text!r} may be any of {', '.join(fitting)}", hint="name it with its folder")
        return fitting[0]

    def removable(self, texts: Sequence[str], used: Mapping[str, Sequence[str]]) -> list[str]:
        """Find the models that a user wants deleted.

        Args:
            texts: keys, or the ends of them.
            used: the file names of the checkpoints that each runtime names.

        Raises:
            NotFoundError, UsageError: a text means none, or several.
            ConflictError: a runtime names one of them.
        """
        known = {entry.key: entry for entry in self.models()}
        keys = list(dict.fromkeys(self.find(one, known) for one in texts))
        for key in keys:
            if key.startswith(OWN_FOLDER):
                raise UsageError(f"{key} is no model")
            names = users_of(key, used)
            if names:
                raise ConflictError(
                    f"{key} is the model of {', '.join(names)}",
                    hint="name another model in sdctl.yaml and deploy, then remove this one",
                )
        return keys

    def remove(self, keys: Sequence[str]) -> None:
        """Delete models by their keys."""
        for key in keys:
            self._objects.delete(key)
        self._index.update(dict.fromkeys(keys))


def users_of(key: str, used: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the runtimes that name a checkpoint."""
    folder, _, name = key.partition("/")
    if folder != CHECKPOINT_FOLDER:
        return []
    return sorted(runtime for runtime, names in used.items() if name in names)


def missing_checkpoints(entries: Sequence[Entry], used: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the checkpoints that runtimes name and the bucket has not, by file name, with the runtimes."""
    there = {
        entry.key.partition("/")[2] for entry in entries if entry.key.startswith(f"{CHECKPOINT_FOLDER}/")
    }
    missing: dict[str, list[str]] = {}
    for runtime, names in used.items():
        for name in names:
            if name not in there:
                missing.setdefault(name, []).append(runtime)
    return missing


def _compared(key: str, entry: Entry | None, stored: Stored | None) -> Verified:
    if stored is None:
        return Verified(key, "missing", "it is in the index, and not in the bucket")
    if entry is None or not entry.checksum:
        entry = entry_of(stored) or entry
    if entry is None or not (entry.sha256 or entry.checksum):
        return Verified(key, "unchecked", "it was not brought by sdctl: nothing is known to compare with")
    said = stored.metadata.get("sha256", entry.sha256)
    if stored.size_bytes != entry.size_bytes:
        return Verified(key, "changed", f"it has {stored.size_bytes} bytes, and had {entry.size_bytes}")
    if said != entry.sha256:
        return Verified(key, "changed", f"its SHA-256 was {entry.sha256}, and is said to be {said}")
    if stored.crc32 and stored.crc32 in (entry.checksum, entry.crc32):
        return Verified(key, "ok", f"CRC-32 {stored.crc32}")
    if stored.crc32 and (entry.checksum or entry.crc32):
        return Verified(
            key, "changed", f"its CRC-32 was {entry.checksum or entry.crc32}, and is {stored.crc32}"
        )
    if stored.etag == entry.etag:
        return Verified(key, "ok", f"ETag {stored.etag}")
    return Verified(key, "changed", f"its ETag was {entry.etag}, and is {stored.etag}")
