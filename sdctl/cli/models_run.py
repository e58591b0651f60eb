"""Bringing models, told on the command line: events with `-o json`, else a live line for each file."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

from sdctl.cli import context, output
from sdctl.cli.models_place import Place, human_bytes
from sdctl.deployments import home
from sdctl.errors import SdctlError

if TYPE_CHECKING:
    from sdctl.models.bringing import Brought, Wish
    from sdctl.models.sources import Origin, Resolver

_EVENT_SECONDS: Final = 1.0
_DRAW_SECONDS: Final = 0.1
# Shorter waits are not worth a line.
_TOLD_SECONDS: Final = 1.0
_CLEAR_LINE: Final = "\r\x1b[K"


@contextmanager
def open_sources() -> Iterator[Resolver]:
    """Give what finds sources, with its connections closed at the end."""
    from sdctl.clients.downloads import Downloads
    from sdctl.models.sources import Resolver

    downloads = Downloads(context.environment(), on_wait=_told_of_waiting)
    try:
        yield Resolver(downloads, context.environment())
    finally:
        downloads.close()


def _told_of_waiting(reason: str, seconds: float) -> None:
    if seconds >= _TOLD_SECONDS:
        output.note(f"{reason}; trying again in {seconds:.0f} s")


def bring(place: Place, wanted: list[tuple[Origin, Wish]]) -> tuple[list[Brought], list[SdctlError]]:
    """Bring models and show how it goes.

    Raises:
        NotFoundError: there is no such bucket.
    """
    from sdctl.errors import NotFoundError
    from sdctl.models.bringing import Bringer, Progress

    shown = Shown(sum(origin.size_bytes or 0 for origin, _ in wanted), len(wanted))
    progress = Progress(shown.started, shown.moved, shown.ended, shown.failed)
    endpoint = place.aws.access.endpoint_url or ""
    state = home(context.environment()) / "models" / (endpoint.rpartition(":")[2] or "aws")
    bringer = Bringer(place.objects, state, progress=progress)
    bringer.prepare(origin for origin, _ in wanted)
    try:
        bringer.open()
    except NotFoundError as error:
        raise NotFoundError(
            f"the model bucket {place.bucket} does not exist", hint=f"sdctl bucket create {place.bucket}"
        ) from error
    try:
        return bringer.bring(wanted)
    finally:
        shown.close()


@dataclass(slots=True)
class _File:
    size_bytes: int
    done_bytes: int = 0
    told_at: float = 0.0


@dataclass(slots=True)
class Shown:
    """Tells how models are brought; called from several threads."""

    total_bytes: int
    count: int
    files: dict[str, _File] = field(default_factory=dict)
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _began: float = field(default_factory=time.monotonic)
    _drawn_at: float = 0.0

    def started(self, origin: Origin, key: str, size_bytes: int) -> None:
        """A file's sending begins."""
        with self._lock:
            if origin.size_bytes is None:
                self.total_bytes += size_bytes
            self.files[key] = _File(size_bytes)
        self._event({"event": "start", "source": origin.source, "key": key, "size_bytes": size_bytes})

    def moved(self, key: str, count: int) -> None:
        """Some of it is stored."""
        with self._lock:
            file = self.files.setdefault(key, _File(count))
            file.done_bytes += count
            now = time.monotonic()
            is_due = now - file.told_at >= _EVENT_SECONDS
            if is_due:
                file.told_at = now
            rate, left = self._pace(now)
        if is_due:
            self._event({
                "event": "progress", "key": key, "done_bytes": file.done_bytes, "size_bytes": file.size_bytes,
                "total_done_bytes": self._done_bytes, "total_bytes": self.total_bytes,
                "bytes_per_second": round(rate), "seconds_left": round(left),
            })  # fmt: skip
        self._draw(key, file, rate, left)

    def ended(self, brought: Brought) -> None:
        """A model is in the bucket."""
        with self._lock:
            self.done += 1
            file = self.files.setdefault(brought.entry.key, _File(brought.entry.size_bytes))
            file.done_bytes = file.size_bytes
        self._event({"event": "done", **brought_row(brought)})
        self._clear()
        came = f" from {brought.copied_from}" if brought.copied_from else ""
        entry = brought.entry
        kind = " ".join(part for part in (entry.base, entry.type) if part)
        output.note(f"{brought.action}{came}: {entry.key} ({kind}, {human_bytes(entry.size_bytes)})")
        if brought.warning:
            output.warn(f"{entry.key}: {brought.warning}")

    def failed(self, origin: Origin, error: SdctlError) -> None:
        """A model could not be brought."""
        self._event({
            "event": "failed", "source": origin.source,
            "error": {"code": error.code, "message": error.message, "hint": error.hint},
        })  # fmt: skip
        self._clear()
        if self.count > 1:  # one alone is told at the end
            output.note(f"failed: {error.message}")

    def close(self) -> None:
        """Clear the live line."""
        self._clear()

    @property
    def _done_bytes(self) -> int:
        return sum(one.done_bytes for one in self.files.values())

    def _pace(self, now: float) -> tuple[float, float]:
        rate = self._done_bytes / max(now - self._began, 1e-3)
        return rate, max(0, self.total_bytes - self._done_bytes) / max(rate, 1.0)

    def _event(self, document: dict[str, Any]) -> None:
        if context.current().is_json:
            with self._lock:
                output.stream(document, "")

    @property
    def _is_live(self) -> bool:
        options = context.current()
        return sys.stderr.isatty() and not options.quiet and not (options.is_json and sys.stdout.isatty())

    def _draw(self, key: str, file: _File, rate: float, left: float) -> None:
        now = time.monotonic()
        if not self._is_live or now - self._drawn_at < _DRAW_SECONDS:
            return
        self._drawn_at = now
        share = file.done_bytes / max(file.size_bytes, 1)
        total = f", {self.done} of {self.count} files" if self.count > 1 else ""
        words = (
            f"{output.printable(key)[-60:]}  {share:.0%}  {human_bytes(self._done_bytes)} of "
            f"{human_bytes(self.total_bytes)}{total}  {human_bytes(rate)}/s  {left:.0f} s left"
        )
        output.draw(f"{_CLEAR_LINE}{words}")

    def _clear(self) -> None:
        if self._is_live:
            output.draw(_CLEAR_LINE)


def brought_row(brought: Brought) -> dict[str, Any]:
    """Lay out what became of a model."""
    entry = brought.entry
    return {
        "action": brought.action, **asdict(entry), "source": brought.origin.source,
        "warning": brought.warning,
    }  # fmt: skip
