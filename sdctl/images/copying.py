"""Copies images and charts from registry to registry, byte for byte with all their platforms.

What the target has already is not sent again, so that an interrupted run goes on with the same command. First
all manifests are read, then each blob is sent once, mounted where another repository needs it too, and last
the manifests are written, from the leaves to the tag: whatever has a tag is whole.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Event as Flag
from threading import Lock
from typing import Final, Protocol, TypeVar

from sdctl.clients.oci import MAX_MANIFEST_BYTES, Descriptor, Manifest, Repository
from sdctl.clients.oci_http import ATTEMPTS, OciError
from sdctl.errors import SdctlError
from sdctl.polling import REAL_CLOCK, Clock

WORKERS: Final = 6
# An index of an index of an index is nobody's image.
_MAX_DEPTH: Final = 3
_MAX_MANIFESTS: Final = 200
_RETRY_SECONDS: Final = 1.0

T = TypeVar("T")
R = TypeVar("R")


class StoppedError(Exception):
    """Everything stops: another copy failed, or the user interrupted."""


class Readable(Protocol):
    """The rest of a blob."""

    def read(self, limit_bytes: int) -> bytes:
        """Return the next bytes, none at the end."""

    def close(self) -> None:
        """Drop what it is read from."""


class Source(Protocol):
    """Where manifests and blobs come from."""

    def manifest(self, asked: str) -> Manifest:
        """Read a manifest by tag or digest."""

    def open_blob(self, digest: str, start: int = 0) -> Readable:
        """Begin to read a blob, from a byte on."""


@dataclass(frozen=True, slots=True)
class Copy:
    """One thing to copy: what the source is asked for, and the tag it gets; empty for its digest alone."""

    source: Source
    asked: str
    target: Repository
    tag: str


@dataclass(frozen=True, slots=True)
class Copied:
    """What became of a copy: its digest, and whether anything had to be written."""

    target: Repository
    tag: str
    digest: str
    is_new: bool


@dataclass(slots=True)
class Progress:
    """How far it is, for whoever shows it: blobs and bytes, those that were there already counted apart."""

    blobs: int = 0
    blobs_done: int = 0
    blobs_present: int = 0
    bytes: int = 0
    bytes_sent: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False)

    def add(self, **counts: int) -> None:
        """Add to the counters."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)


@dataclass(frozen=True, slots=True)
class _Tree:
    """A copy whose manifests are read: leaves first, the tagged one last."""

    copy: Copy
    manifests: tuple[Manifest, ...]

    @property
    def top(self) -> Manifest:
        return self.manifests[-1]


@dataclass(slots=True)
class _Blob:
    """A blob, one place to have it from, and the repositories that need it."""

    descriptor: Descriptor
    source: Source
    targets: list[Repository] = field(default_factory=list)


def copy_all(
    copies: Sequence[Copy],
    *,
    tell: Callable[[Progress], None] = lambda _: None,
    workers: int = WORKERS,
    clock: Clock = REAL_CLOCK,
) -> list[Copied]:
    """Copy everything; each worker holds one piece of a few hundred kB at a time.

    Args:
        copies: what and where to.
        tell: gets the counters whenever one has changed, from any thread.
        workers: how many blobs travel at once.
        clock: for the pauses before a blob is sent again.

    Raises:
        SdctlError: the first error; what was sent so far stays, and is not sent again.
    """
    progress, stop = Progress(), Flag()

    def changed(**counts: int) -> None:
        progress.add(**counts)
        tell(progress)

    trees = _in_parallel(lambda one: _read_tree(one, stop), copies, workers, stop)
    wanted = [tree for tree in trees if _is_missing(tree)]
    blobs = _blobs(wanted)
    changed(
        blobs=sum(len(one.targets) for one in blobs), bytes=sum(one.descriptor.size_bytes for one in blobs)
    )
    sender = _Sender(changed, stop, clock)
    _in_parallel(sender.bring, blobs, workers, stop)
    _in_parallel(_write_tree, wanted, workers, stop)
    new = {id(tree) for tree in wanted}
    return [Copied(one.copy.target, one.copy.tag, one.top.digest, id(one) in new) for one in trees]


def _in_parallel(work: Callable[[T], R], items: Sequence[T], workers: int, stop: Flag) -> list[R]:
    """Do all, in parallel, and return the results in order; the first error ends the others soon."""
    with ThreadPoolExecutor(max_workers=max(1, min(workers, len(items)))) as pool:
        futures = [pool.submit(work, item) for item in items]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            _raise_first(done)
            return [future.result() for future in futures]
        except BaseException:
            stop.set()
            for future in futures:
                future.cancel()
            raise


def _raise_first(done: Iterable[Future[R]]) -> None:
    """Raise the error that ended the others, and not that they were stopped."""
    for future in done:
        error = future.exception()
        if error is not None and not isinstance(error, StoppedError):
            raise error


def _read_tree(copy: Copy, stop: Flag) -> _Tree:
    manifests: dict[str, Manifest] = {}

    def read(asked: str, depth: int) -> None:
        if stop.is_set():
            raise StoppedError
        found = copy.source.manifest(asked)
        if found.is_index:
            if depth >= _MAX_DEPTH:
                raise OciError(f"{copy.target}: indexes are nested too deep")
            for one in found.manifests():
                if one.digest not in manifests:
                    read(one.digest, depth + 1)
        if len(manifests) >= _MAX_MANIFESTS:
            raise OciError(f"{copy.target}: more than {_MAX_MANIFESTS} manifests")
        manifests.setdefault(found.digest, found)

    read(copy.asked, 0)
    return _Tree(copy, tuple(manifests.values()))


def _is_missing(tree: _Tree) -> bool:
    """Tell whether the target has another content under the tag, or none; a tagged one is whole."""
    return tree.copy.target.digest(tree.copy.tag or tree.top.digest) != tree.top.digest


def _blobs(trees: Iterable[_Tree]) -> list[_Blob]:
    """Collect what the manifests name, each digest once; large ones first, so that none is waited for."""
    found: dict[str, _Blob] = {}
    for tree in trees:
        for descriptor in (
            one for manifest in tree.manifests if not manifest.is_index for one in manifest.blobs()
        ):
            blob = found.setdefault(descriptor.digest, _Blob(descriptor, tree.copy.source))
            if all(str(one) != str(tree.copy.target) for one in blob.targets):
                blob.targets.append(tree.copy.target)
    return sorted(found.values(), key=lambda one: -one.descriptor.size_bytes)


class _Sender:
    """Brings blobs to where they are needed."""

    def __init__(self, changed: Callable[..., None], stop: Flag, clock: Clock) -> None:
        self._changed, self._stop, self._clock = changed, stop, clock

    def bring(self, blob: _Blob) -> None:
        """Send a blob to the repositories that lack it, from another one of them where that goes."""
        digest = blob.descriptor.digest
        there: Repository | None = None
        for target in blob.targets:
            if self._stop.is_set():
                raise StoppedError
            if target.has_blob(digest):
                self._changed(blobs_present=1)
            elif there is None or not target.mount(digest, there.name):
                self._send(blob, target)
            self._changed(blobs_done=1)
            there = target

    def _send(self, blob: _Blob, target: Repository) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            content = _Content(blob, self._changed, self._stop, self._clock)
            try:
                target.send_blob(blob.descriptor, content)
            except SdctlError as error:
                content.take_back()
                # 401: a token ran out between the beginning of an upload and the upload.
                is_passing = isinstance(error, OciError) and (
                    error.status in (0, 401, 429) or error.status >= 500
                )
                if attempt == ATTEMPTS or not is_passing or content.is_bad:
                    raise
                self._clock.sleep(_RETRY_SECONDS * 2 ** (attempt - 1))
            else:
                return
            finally:
                content.close()


class _Content(io.RawIOBase):
    """A blob as a file that is sent while it is read: taken up where the source broke, its digest checked."""

    def __init__(self, blob: _Blob, changed: Callable[..., None], stop: Flag, clock: Clock) -> None:
        super().__init__()
        self.is_bad = False
        self._blob, self._changed, self._stop, self._clock = blob, changed, stop, clock
        self._answer: Readable | None = None
        self._at = self._failures = 0
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes of the blob; none at its end, once they are the right ones."""
        left = self._blob.descriptor.size_bytes - self._at
        if left == 0:
            return b""
        if self._stop.is_set():
            raise StoppedError
        piece = self._next(min(left, size) if size > 0 else left)
        self._at += len(piece)
        self._hash.update(piece)
        self._changed(bytes_sent=len(piece))
        if len(piece) == left and f"sha256:{self._hash.hexdigest()}" != self._blob.descriptor.digest:
            self.is_bad = True
            raise OciError(f"{self._blob.descriptor.digest} came with another content")
        return piece

    def take_back(self) -> None:
        """Count what was sent in vain as not sent."""
        self._changed(bytes_sent=-self._at)

    def close(self) -> None:
        """Drop the source's connection."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None
        super().close()

    def _next(self, size: int) -> bytes:
        while True:
            try:
                if self._answer is None:
                    self._answer = self._blob.source.open_blob(self._blob.descriptor.digest, self._at)
                piece = self._answer.read(min(size, MAX_MANIFEST_BYTES))
                if piece:
                    self._failures = 0
                    return piece
                raise OciError(f"{self._blob.descriptor.digest} ends before its end")
            except OciError as error:
                if self._answer is not None:
                    self._answer.close()
                    self._answer = None
                self._failures += 1
                if self._at and error.status == 200:
                    raise OciError(f"{self._blob.descriptor.digest} comes from its beginning only") from error
                is_passing = error.status == 0 or error.status >= 500
                if self._failures >= ATTEMPTS or not is_passing:
                    self.is_bad = True  # the source's fault: sending again would not mend it
                    raise
                self._clock.sleep(_RETRY_SECONDS * 2 ** (self._failures - 1))


def _write_tree(tree: _Tree) -> None:
    for manifest in tree.manifests:
        is_top = manifest is tree.top
        tree.copy.target.put_manifest(
            manifest, tree.copy.tag if is_top and tree.copy.tag else manifest.digest
        )
