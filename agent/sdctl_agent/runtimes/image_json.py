"""Reads a JSON answer that carries images as base64, without ever holding the whole text.

An SD WebUI puts its images into the JSON as strings of megabytes. Here each long base64 string is
decoded while it arrives, and only what is left of the answer is parsed as JSON. So a file is in memory
once, as its own bytes. A string that turns out to be no base64, or no picture, is put back as it was.
"""

from __future__ import annotations

import binascii
import io
import json
import re
import uuid
from dataclasses import dataclass
from typing import Any, Final

from sdctl_agent.errors import PermanentError
from sdctl_agent.media import SNIFF_BYTES, is_playable, sniff

# A string shorter than this stays in the JSON; a picture is never so small, a prompt seldom so long.
LONG_STRING_BYTES: Final = 1024
MAX_REST_BYTES: Final = 32 * 1024 * 1024
MAX_IMAGES_BYTES: Final = 2 * 1024 * 1024 * 1024

_QUOTE: Final = ord('"')
_DATA_URL = re.compile(rb"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


class ImageJson:
    """A parser that is fed chunks of the text."""

    def __init__(self) -> None:
        # Stands for a taken string in the rest; made anew each time, so that no answer can hold it.
        self._mark = uuid.uuid4().hex
        self._rest = bytearray()
        self._blobs: list[_Blob] = []
        self._blob_bytes = 0
        # Functions, not bound methods: a cycle would keep the images until the next collection.
        self._state = ImageJson._outside
        self._head = bytearray()
        self._decoder: _Base64Decoder | None = None
        self._escaped = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer.

        Raises:
            PermanentError: it is too large.
        """
        position = 0
        while position < len(chunk):
            position = self._state(self, chunk, position)
        if len(self._rest) > MAX_REST_BYTES or self._blob_bytes > MAX_IMAGES_BYTES:
            raise PermanentError("the runtime's answer is too large", code="runtime_error")

    def finish(self) -> Any:
        """Return the decoded JSON, in which each image in base64 is the `bytes` of its file.

        Raises:
            PermanentError: the answer is not JSON.
        """
        try:
            return self._with_blobs(json.loads(bytes(self._rest)))
        except (ValueError, RecursionError) as error:
            raise PermanentError("the runtime's answer is not JSON", code="runtime_error") from error

    def _with_blobs(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._with_blobs(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self._with_blobs(item) for item in value]
        if isinstance(value, str) and value.startswith(self._mark):
            blob = self._blobs[int(value.removeprefix(self._mark))]
            return blob.data if is_playable(sniff(blob.data[:SNIFF_BYTES])) else blob.text()
        return value

    def _outside(self, chunk: bytes, position: int) -> int:
        quote = chunk.find(b'"', position)
        end = len(chunk) if quote < 0 else quote + 1
        self._rest += chunk[position:end]
        if quote >= 0:
            self._head.clear()
            self._state = ImageJson._beginning
        return end

    def _beginning(self, chunk: bytes, position: int) -> int:
        """Gather a string until it is known to be short, to be text, or to be base64."""
        mark = _next_mark(chunk, position)
        end = min(mark, position + LONG_STRING_BYTES - len(self._head))
        self._head += chunk[position:end]
        if len(self._head) >= LONG_STRING_BYTES:
            prefix = _DATA_URL.match(self._head)
            start = prefix.end() if prefix else 0
            if _BASE64.fullmatch(self._head, start):
                self._decoder = _Base64Decoder(bytes(self._head[:start]))
                self._decoder.feed(bytes(self._head[start:]))
                self._state = ImageJson._inside_base64
                return end
        elif mark == len(chunk):
            return end
        self._rest += self._head
        self._state = ImageJson._inside_text
        return end

    def _inside_text(self, chunk: bytes, position: int) -> int:
        if self._escaped:
            self._escaped = False
            self._rest += chunk[position : position + 1]
            return position + 1
        mark = _next_mark(chunk, position)
        self._rest += chunk[position : mark + 1]
        if mark < len(chunk):
            if chunk[mark] == _QUOTE:
                self._state = ImageJson._outside
            else:
                self._escaped = True
        return mark + 1

    def _inside_base64(self, chunk: bytes, position: int) -> int:
        decoder = self._decoder
        if decoder is None:
            raise AssertionError("no decoder while inside base64")
        end = _next_mark(chunk, position)
        try:
            self._blob_bytes += decoder.feed(chunk[position:end])
            if end == len(chunk):
                return end
            # A backslash, as some writers put before a slash: then the string is read as text.
            blob = decoder.finish() if chunk[end] == _QUOTE else None
        except binascii.Error:
            blob = None
        if blob is None:
            # Not what it seemed; what was taken goes back, and the string is read on as text.
            self._rest += decoder.taken_text()
            self._decoder = None
            self._state = ImageJson._inside_text
            return end
        self._rest += f"{self._mark}{len(self._blobs)}".encode() + b'"'
        self._blobs.append(blob)
        self._decoder = None
        self._state = ImageJson._outside
        return end + 1


def _next_mark(chunk: bytes, position: int) -> int:
    """Find the next quote or backslash; the chunk's length where there is none."""
    quote = chunk.find(b'"', position)
    end = len(chunk) if quote < 0 else quote
    backslash = chunk.find(b"\\", position, end)
    return end if backslash < 0 else backslash


@dataclass(frozen=True, slots=True)
class _Blob:
    """What a string stood for, and what it takes to write the string again."""

    prefix: bytes
    data: bytes
    length: int

    def text(self) -> str:
        encoded = self.prefix + binascii.b2a_base64(self.data, newline=False)
        return encoded[: self.length].decode("ascii")


class _Base64Decoder:
    """Decodes base64 in pieces; raises `binascii.Error` where it is none."""

    def __init__(self, prefix: bytes) -> None:
        self._prefix = prefix
        self._left = b""
        self._bytes = io.BytesIO()
        self._length = len(prefix)

    def feed(self, text: bytes) -> int:
        """Decode what is complete and return how many bytes that gave."""
        self._length += len(text)
        self._left += text
        # The last four characters may be the padded end, which only `finish` may decode.
        whole = max(0, len(self._left) // 4 * 4 - 4)
        decoded = _decoded(self._left[:whole])
        self._left = self._left[whole:]
        return self._bytes.write(decoded)

    def finish(self) -> _Blob:
        # The padding may be left out.
        self._bytes.write(_decoded(self._left + b"=" * (-len(self._left) % 4)))
        return _Blob(self._prefix, self._bytes.getvalue(), self._length)

    def taken_text(self) -> bytes:
        """Write again what was fed."""
        return self._prefix + binascii.b2a_base64(self._bytes.getbuffer(), newline=False) + self._left


def _decoded(text: bytes) -> bytes:
    return binascii.a2b_base64(text, strict_mode=True) if text else b""


def decode_short(text: str) -> bytes:
    """Decode a short base64 string, with or without its data-URL prefix.

    Raises:
        PermanentError: it is not base64.
    """
    data = text.encode("ascii", "replace")
    prefix = _DATA_URL.match(data)
    data = data[prefix.end() :] if prefix else data
    try:
        return _decoded(data + b"=" * (-len(data) % 4))
    except binascii.Error as error:
        raise PermanentError(
            f"an image of the runtime's answer is not base64: {error}", code="output_unreadable"
        ) from error


def without_bytes(value: Any) -> Any:
    """Copy the decoded JSON with each taken string replaced by `<N bytes>`."""
    if isinstance(value, dict):
        return {key: without_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_bytes(item) for item in value]
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value
