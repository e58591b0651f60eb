"""One file of another server as content: read by ranges from several threads, or in order as one stream.

It is taken up where a connection broke; a file that has become another one meanwhile is an error.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from sdctl.clients.downloads import (
    BrokenError,
    Downloads,
    SourceError,
    Token,
    check_url,
    gave_up,
    said,
    shown,
)

if TYPE_CHECKING:
    import urllib3

# A server that sends less than this in that time has stalled.
STALL_SECONDS: Final = 60.0
STALL_BYTES: Final = 64 * 1024
# How far into a file that comes in one stream one may look before it is sent on.
LOOK_BYTES: Final = 17 * 1024**2
_FIRST_BYTES: Final = 64 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Remote:
    """A file at an address, as `Content`: `name` and `etag` are what the server says, maybe empty."""

    def __init__(self, downloads: Downloads, url: str, token: Token) -> None:
        """Ask for its beginning."""
        self._downloads = downloads
        self._url, self._at, self._token = url, url, token
        self._stream: _Stream | None = None
        self._lock = threading.Lock()
        check_url(url)
        downloads.patiently(self._begin, url)

    size_bytes: int
    name: str
    etag: str

    @property
    def has_ranges(self) -> bool:
        """Tell whether it can be read from anywhere, by several threads at once."""
        return self._stream is None

    def _begin(self) -> None:
        headers = {"Range": f"bytes=0-{_FIRST_BYTES - 1}"}
        response, self._at = self._downloads.get(self._url, self._token, headers)
        if "text/html" in response.headers.get("content-type", ""):
            response.close()
            raise SourceError(
                f"{shown(self._url)} answers with a web page, not a file",
                reason="page",
                hint="it may want you to sign in or to accept something first",
            )
        self.etag = _strong(response.headers.get("etag", ""))
        self.name = _name_of(response.headers.get("content-disposition", ""), self._url)
        if response.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            response.close()
            if match is None:
                raise SourceError(f"{shown(self._url)} answers a range without saying which")
            self.size_bytes = int(match[3])
            return
        length = response.headers.get("content-length", "")
        if response.status != 200 or not length.isdecimal():
            response.close()
            raise SourceError(f"{shown(self._url)} does not tell how long the file is")
        self.size_bytes = int(length)
        self._stream = _Stream(self._reopen, response, self.size_bytes)

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes, over several connections where one breaks.

        Raises:
            SourceError: they do not come, or the file has become another one.
        """
        if start + length > self.size_bytes:
            raise SourceError(f"{shown(self._url)} ends before byte {start + length}")
        if self._stream is not None:
            with self._lock:
                return self._from_stream(self._stream, start, length)
        data = bytearray()
        attempt = 0
        while len(data) < length:
            before = len(data)
            try:
                self._read_range(data, start, length)
            except BrokenError as error:
                attempt = 1 if len(data) > before else attempt + 1
                if attempt >= error.attempts:
                    raise gave_up(self._url, error) from error
                self._downloads.wait(attempt, error)
        return bytes(data)

    def close(self) -> None:
        """Drop the connection of a file that comes in one stream."""
        if self._stream is not None:
            self._stream.close()

    def _read_range(self, data: bytearray, start: int, length: int) -> None:
        first, last = start + len(data), start + length - 1
        headers = {"Range": f"bytes={first}-{last}"}
        try:
            response, self._at = self._downloads.get(self._at, self._token, headers)
        except SourceError as error:
            # A signed address runs out; the publisher's own makes a new one.
            if self._at == self._url or error.status not in (401, 403, 404, 410):
                raise
            response, self._at = self._downloads.get(self._url, self._token, headers)
        try:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
            if response.status != 206 or match is None:
                raise SourceError(f"{shown(self._url)} no longer answers with the range it is asked for")
            given = (int(match[1]), int(match[2]), int(match[3]), _strong(response.headers.get("etag", "")))
            if given != (first, last, self.size_bytes, self.etag):
                raise SourceError(f"{shown(self._url)} became another file while it was read")
            _receive(response, data, length)
        except BaseException:
            response.close()
            raise
        response.release_conn()

    def _from_stream(self, stream: _Stream, start: int, length: int) -> bytes:
        return stream.read(start, length, lambda again: self._downloads.patiently(again, self._url))

    def _reopen(self) -> urllib3.BaseHTTPResponse:
        response, _ = self._downloads.get(self._url, self._token, {})
        same = response.headers.get("content-length") == str(self.size_bytes)
        if not same or _strong(response.headers.get("etag", "")) != self.etag:
            response.close()
            raise SourceError(f"{shown(self._url)} became another file while it was read")
        return response


class _Stream:
    """A file that comes in one piece: read in order, with a look at its beginning before."""

    def __init__(
        self,
        reopen: Callable[[], urllib3.BaseHTTPResponse],
        response: urllib3.BaseHTTPResponse,
        size_bytes: int,
    ) -> None:
        self._reopen = reopen
        self._response: urllib3.BaseHTTPResponse | None = response
        self._size_bytes = size_bytes
        self._at = 0  # in the response
        self._kept, self._kept_from = bytearray(), 0

    def read(self, start: int, length: int, patiently: Callable[[Callable[[], None]], None]) -> bytes:
        end = start + length
        kept_to = self._kept_from + len(self._kept)
        if start < self._kept_from or end - kept_to > LOOK_BYTES:
            raise SourceError(
                "the server gives this file in one stream only, and it has to be examined at several places",
                hint="download it, and upload the file",
            )
        wanted = end - self._kept_from
        if len(self._kept) < wanted:
            patiently(lambda: self._fill(wanted))
        at = start - self._kept_from
        data = bytes(self._kept[at : at + length])
        if end > LOOK_BYTES:
            del self._kept[: end - self._kept_from]
            self._kept_from = end
        return data

    def _fill(self, wanted: int) -> None:
        position = self._kept_from + len(self._kept)
        if self._response is None:
            self._response, self._at = self._reopen(), 0
        try:
            while self._at < position:  # a new connection begins at the start
                skipped = bytearray()
                _receive(self._response, skipped, min(position - self._at, _CHUNK_BYTES))
                self._at += len(skipped)
            before = len(self._kept)
            try:
                _receive(self._response, self._kept, wanted)
            finally:
                self._at += len(self._kept) - before
        except BrokenError:
            self.close()
            raise

    def close(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None


def _receive(response: urllib3.BaseHTTPResponse, data: bytearray, length: int) -> None:
    """Read into `data` until it has `length` bytes.

    Raises:
        BrokenError: the line broke or stalled before.
    """
    import urllib3

    since, got = time.monotonic(), 0
    while len(data) < length:
        try:
            chunk = response.read1(min(_CHUNK_BYTES, length - len(data)))
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise BrokenError(f"the connection broke: {said(error)}") from error
        if not chunk:
            raise BrokenError("the connection was closed before the end")
        data += chunk
        got += len(chunk)
        now = time.monotonic()
        if now - since > STALL_SECONDS:
            if got < STALL_BYTES:
                raise BrokenError(f"only {got} bytes came in {STALL_SECONDS:.0f} s")
            since, got = now, 0


def _strong(etag: str) -> str:
    return "" if etag.startswith("W/") else etag


def _name_of(disposition: str, url: str) -> str:
    """Take the file's name from the header, else from the address; it is hostile until it is checked."""
    encoded = re.search(r"filename\*=(?:UTF-8|utf-8)''([^;]+)", disposition)
    if encoded:
        return unquote(encoded[1])
    plain = re.search(r'filename="?([^";]+)"?', disposition)
    return plain[1].strip() if plain else unquote(urlsplit(url).path.rsplit("/", 1)[-1])
