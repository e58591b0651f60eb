"""Models into the bucket: examined, named, compared with what is there, and only then sent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from sdctl.clients.objects import Listed, Objects, encoded
from sdctl.clients.remote_files import Remote
from sdctl.errors import ConflictError, SdctlError, UsageError
from sdctl.models import sending
from sdctl.models.contents import Sending, read_sha256
from sdctl.models.hashes import Hashes
from sdctl.models.head import BadModelError, Content, read_head
from sdctl.models.identify import FOLDERS, UNKNOWN, Identity, identify
from sdctl.models.index import Entry, Index, metadata_of
from sdctl.models.names import OTHER_SUFFIXES, PICKLE_SUFFIXES, file_name, folder_name, key_of, with_suffix
from sdctl.models.resume import Journal
from sdctl.models.sending import Sender
from sdctl.models.sources import LocalFile, Origin
from sdctl.models.threads import Workers
from sdctl.models.uploads import READERS

OTHER: Final = "other"
# Small files go out so many at a time; a large one is sent in parallel parts by itself.
_TOGETHER: Final = 8
_MANY: Final = 8
# Threads that hash files before their turn.
_AHEAD: Final = 2
# At this many models the index is written, too, and not only at the end.
_INDEX_EVERY: Final = 200

Action = Literal["uploaded", "copied", "kept", "replaced"]


@dataclass(frozen=True, slots=True)
class Wish:
    """How a model is to be stored: empty values are found out."""

    folder: str = ""
    name: str = ""
    sha256: str = ""
    is_replaced: bool = False


@dataclass(frozen=True, slots=True)
class Brought:
    """What became of one model; `copied_from` is the key of the same content, `warning` may be empty."""

    origin: Origin
    entry: Entry
    action: Action
    copied_from: str = ""
    warning: str = ""


@dataclass(slots=True)
class Progress:
    """Who is told of what happens, from several threads."""

    started: Callable[[Origin, str, int], None] = field(default=lambda _origin, _key, _size: None)
    moved: Callable[[str, int], None] = field(default=lambda _key, _count: None)
    ended: Callable[[Brought], None] = field(default=lambda _brought: None)
    failed: Callable[[Origin, SdctlError], None] = field(default=lambda _origin, _error: None)


class Seen:
    """A content that remembers what was read of it, so that what is sent can be compared."""

    def __init__(self, content: Content) -> None:
        """Wrap a content."""
        self._content = content
        self.ranges: dict[int, bytes] = {}

    @property
    def size_bytes(self) -> int:
        """How long it is."""
        return self._content.size_bytes

    def read(self, start: int, length: int) -> bytes:
        """Read, and remember."""
        data = self._content.read(start, length)
        if len(data) > len(self.ranges.get(start, b"")):
            self.ranges[start] = data
        return data


@dataclass(frozen=True, slots=True)
class _Task:
    """One model under way: `seen` are the ranges that were examined, `crc32` that of a local file."""

    origin: Origin
    wish: Wish
    content: Content
    seen: Mapping[int, bytes]
    crc32: int | None


class Bringer:
    """Brings models into one bucket."""

    def __init__(
        self,
        objects: Objects,
        state: Path,
        *,
        progress: Progress | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Use a bucket; `state` is the folder for what is unfinished and for hashes."""
        self._objects = objects
        self._index = Index(objects)
        self._progress = progress or Progress()
        self._hashes = Hashes(state / "hashes.json")
        self._ahead = Workers(_AHEAD, "hash")
        self._sender = Sender(objects, Journal(state / "uploads"), on_bytes=self._progress.moved)
        self._now = now
        self._lock = threading.Lock()
        self._listed: dict[str, Listed] = {}
        self._known: dict[str, Entry] = {}
        self._changes: dict[str, Entry | None] = {}
        self._claimed: set[str] = set()

    def open(self) -> None:
        """Read what the bucket holds.

        Raises:
            NotFoundError: there is no such bucket.
        """
        self._listed = {one.key: one for one in self._objects.listed()}
        self._known = self._index.read()

    def prepare(self, origins: Iterable[Origin]) -> None:
        """Begin to hash what will be brought first, while the bucket is still being looked for.

        Files that cannot be read are met again, and said, when their turn comes.
        """
        small, large = _by_size(origins)
        for origin in (*small, *large[:1]):
            self._ahead.submit(partial(self._hash, origin))

    def _hash(self, origin: Origin) -> None:
        if origin.path is not None:
            file = LocalFile(origin.path)
            try:
                self._hashes.of(file)
            finally:
                file.close()

    def bring(self, wanted: Iterable[tuple[Origin, Wish]]) -> tuple[list[Brought], list[SdctlError]]:
        """Bring models, small ones together; one that fails does not keep the others.

        Returns:
            What was brought, and what failed.
        """
        brought: list[Brought] = []
        errors: list[SdctlError] = []
        wishes = list(wanted)
        small, large = _by_size(origin for origin, _ in wishes)
        wish_of = {id(origin): wish for origin, wish in wishes}
        try:
            for outcome in self._together([(one, wish_of[id(one)]) for one in small]):
                self._note(outcome, brought, errors)
            for origin, following in zip_longest(large, large[1:]):
                if following is not None:
                    self._ahead.submit(partial(self._hash, following))
                self._note(self._attempt(origin, wish_of[id(origin)]), brought, errors)
        finally:
            self._ahead.close()
            self._hashes.save()
            self._write_index()
        return brought, errors

    def _together(self, wanted: list[tuple[Origin, Wish]]) -> Iterator[Brought | SdctlError]:
        if not wanted:
            return
        if len(wanted) >= _MANY:
            self._objects.hurry()
        workers = Workers(_TOGETHER, "model")
        try:
            calls = [workers.submit(partial(self._attempt, origin, wish)) for origin, wish in wanted]
            for call in calls:
                yield call.result()
        finally:
            workers.close()

    def _note(self, outcome: Brought | SdctlError, brought: list[Brought], errors: list[SdctlError]) -> None:
        if isinstance(outcome, SdctlError):
            errors.append(outcome)
            return
        brought.append(outcome)
        if len(self._changes) >= _INDEX_EVERY:
            self._write_index()

    def _write_index(self) -> None:
        with self._lock:
            changes, self._changes = self._changes, {}
        self._index.update(changes)

    def _attempt(self, origin: Origin, wish: Wish) -> Brought | SdctlError:
        try:
            found = self.bring_one(origin, wish)
        except SdctlError as error:
            if origin.source not in error.message:
                error.message = f"{origin.source}: {error.message}"
            self._progress.failed(origin, error)
            return error
        self._progress.ended(found)
        return found

    def bring_one(self, origin: Origin, wish: Wish) -> Brought:
        """Bring one model.

        Raises:
            BadModelError, UnsafeModelError: it is no sound or safe model.
            ConflictError: another one has its key.
            RemoteError: it cannot be read or stored.
        """
        content = origin.open()
        try:
            return self._bring(origin, wish, content)
        finally:
            if isinstance(content, LocalFile | Remote):
                content.close()

    def _bring(self, origin: Origin, wish: Wish, content: Content) -> Brought:
        if not content.size_bytes:
            raise BadModelError("the file is empty")
        seen = Seen(content)
        what = self._examined(origin, wish, seen)
        offered = content.name if isinstance(content, Remote) else ""
        name = wish.name or file_name(origin.name or offered)
        if what.type != OTHER:
            name = with_suffix(name, what.format)
        folder = folder_name(wish.folder) if wish.folder else origin.folder or what.folder
        key = key_of(folder, name)
        self._claim(key)
        sha256, crc32 = wish.sha256 or origin.sha256, None
        if isinstance(content, LocalFile):
            actual, crc32 = self._hashes.of(content)
            if sha256 and actual != sha256:
                raise BadModelError(
                    f"the file's SHA-256 is {actual}, and should be {sha256}; nothing was stored"
                )
            sha256 = actual
        self._progress.started(origin, key, content.size_bytes)
        entry = Entry(
            key, what.type, what.base, what.format, content.size_bytes, sha256,
            "" if crc32 is None else encoded(crc32), "", "", origin.source,
            self._now().isoformat(timespec="seconds"),
        )  # fmt: skip
        warning = _misplaced(what, folder)
        return replace(self._store(_Task(origin, wish, content, seen.ranges, crc32), entry), warning=warning)

    def _examined(self, origin: Origin, wish: Wish, seen: Seen) -> Identity:
        """Tell what a content is; what cannot be told needs a folder and a fitting suffix."""
        head = read_head(seen)
        name = wish.name or origin.name
        folder = wish.folder or origin.folder
        if head is not None:
            what = identify(head)
            if what.type != UNKNOWN or folder:
                return what
            raise UsageError(
                "what kind of model it is cannot be told from its tensors",
                hint=f"name its folder with --to: {', '.join(FOLDERS)}",
            )
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in PICKLE_SUFFIXES:
            from sdctl.models.pickles import check_text_pickle

            check_text_pickle(seen)
        if suffix not in OTHER_SUFFIXES:
            raise BadModelError("it is neither safetensors nor a file that torch saved")
        if not folder:
            raise UsageError("it is no model, so its folder must be named", hint="name it with --to")
        return Identity(OTHER, "", folder, "")

    def _claim(self, key: str) -> None:
        """Two sources of one command must not want one key."""
        with self._lock:
            if key in self._claimed:
                raise ConflictError(
                    f"two of the sources would be stored as {key}", hint="give one another --name"
                )
            self._claimed.add(key)

    def _store(self, task: _Task, entry: Entry) -> Brought:
        before = self._listed.get(entry.key)
        if before is not None:
            may_be_same = before.size_bytes == entry.size_bytes and not task.wish.is_replaced
            if may_be_same and not entry.sha256:
                entry = replace(entry, sha256=read_sha256(task.content))
            kept = self._kept(entry, before)
            if kept is not None:
                return Brought(task.origin, kept, "kept")
            if not task.wish.is_replaced:
                raise ConflictError(
                    f"{entry.key} is in the bucket already, and another file",
                    hint="add --replace, or another --name",
                )
        twin = self._twin(entry)
        if twin is not None:
            etag = self._objects.copy(twin.key, entry.key, twin.size_bytes, metadata_of(entry))
            stored = replace(entry, crc32=twin.crc32, checksum=self._checksum(entry.key), etag=etag)
            self._remember(stored)
            return Brought(task.origin, stored, "copied", twin.key)
        stored = self._send(task, entry)
        self._remember(stored)
        return Brought(task.origin, stored, "uploaded" if before is None else "replaced")

    def _kept(self, entry: Entry, before: Listed) -> Entry | None:
        """Return the entry of what the bucket has under the same key, where it is the same content."""
        known = self._known.get(entry.key)
        if known is None or not known.fits(before):
            stored = self._objects.look(entry.key)
            if stored is None or stored.metadata.get("sha256") != entry.sha256:
                return None
            known = replace(
                entry,
                etag=stored.etag,
                checksum=stored.crc32,
                crc32=stored.metadata.get("crc32", entry.crc32),
            )
            self._remember(known)
        return known if entry.sha256 and known.sha256 == entry.sha256 else None

    def _twin(self, entry: Entry) -> Entry | None:
        """Find the same content under another key."""
        if not entry.sha256:
            return None
        with self._lock:
            for known in self._known.values():
                listed = self._listed.get(known.key)
                is_there = listed is not None and known.fits(listed)
                if is_there and known.sha256 == entry.sha256 and known.size_bytes == entry.size_bytes:
                    return known
        return None

    def _send(self, task: _Task, entry: Entry) -> Entry:
        content = task.content
        wanted = Sending(content, entry.key, entry.source, metadata_of(entry), entry.sha256, seen=task.seen)
        if isinstance(content, LocalFile):
            wanted = replace(
                wanted, identity=content.identity, crc32=task.crc32, path=content.path,
                still_same=content.still_same,
            )  # fmt: skip
        elif isinstance(content, Remote):
            wanted = replace(
                wanted,
                identity=f"{entry.source}\0{content.size_bytes}\0{content.etag}",
                readers=READERS if content.has_ranges else 1,
            )
        sent = self._sender.send(wanted)
        stored = replace(entry, sha256=sent.sha256, crc32=sent.crc32, checksum=sent.checksum, etag=sent.etag)
        if entry.sha256 or content.size_bytes <= sending.PART_BYTES:
            return stored
        # Nobody told the hash before; the object learns it without its bytes coming here again.
        etag = self._objects.copy(entry.key, entry.key, entry.size_bytes, metadata_of(stored))
        return replace(stored, etag=etag, checksum=self._checksum(entry.key))

    def _checksum(self, key: str) -> str:
        stored = self._objects.look(key)
        return stored.crc32 if stored else ""

    def _remember(self, entry: Entry) -> None:
        with self._lock:
            self._known[entry.key] = self._changes[entry.key] = entry
            self._listed[entry.key] = Listed(entry.key, entry.size_bytes, entry.etag, entry.uploaded_at)


def _by_size(origins: Iterable[Origin]) -> tuple[list[Origin], list[Origin]]:
    """Part the files that go out whole, many at a time, from those that go in parts, one by one."""
    small: list[Origin] = []
    large: list[Origin] = []
    for origin in origins:
        is_small = origin.path is not None and (origin.size_bytes or 0) <= sending.PART_BYTES
        (small if is_small else large).append(origin)
    return small, large


def _misplaced(what: Identity, folder: str) -> str:
    """Warn of a model in a folder where its loader does not look."""
    top = folder.split("/", maxsplit=1)[0]
    if what.type in (UNKNOWN, OTHER) or top not in FOLDERS or not what.folder or top == what.folder:
        return ""
    return f"it is a {what.type}, which belongs into {what.folder}, and lies in {top}"
