"""Reads a JSON answer that carries images as base64, without ever holding the whole text.

An SD WebUI puts its images into the JSON as strings of megabytes. Here each long base64 string is
decoded while it arrives, and only what is left of the answer is parsed as JSON. So a file is in memory
once, as its own bytes.
"""

from __future__ import annotations

import binascii
import io
import json
import re
import uuid
from typing import Any, Final

from sdctl_agent.errors import PermanentError

# A string shorter than this stays in the JSON; a picture is never so small, a prompt seldom so long.
LONG_STRING_BYTES: Final = 1024
MAX_REST_BYTES: Final = 32 * 1024 * 1024
MAX_IMAGES_BYTES: Final = 2 * 1024 * 1024 * 1024

_MARK = re.compile(rb'["\\]')
_DATA_URL = re.compile(rb"data:[\w.+-]+/[\w.+-]+(?:;[\w=.+-]+)*;base64,", re.IGNORECASE)
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


class ImageJson:
    """A parser that is fed chunks of the text."""

    def __init__(self) -> None:
        # Stands for a taken string in the rest; made anew each time, so that no answer can hold it.
        self._mark = uuid.uuid4().hex
        self._rest = bytearray()
        self._blobs: list[bytes] = []
        self._blob_bytes = 0
        self._state = self._outside
        self._head = bytearray()
        self._decoder: _Base64Decoder | None = None
        self._escaped = False

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer.

        Raises:
            PermanentError: it is too large, or a string that began as base64 is none.
        """
        position = 0
        while position < len(chunk):
            position = self._state(chunk, position)
        if len(self._rest) > MAX_REST_BYTES or self._blob_bytes > MAX_IMAGES_BYTES:
            raise PermanentError("the runtime's answer is too large", code="runtime_error")

    def finish(self) -> Any:
        """Return the decoded JSON, in which each taken string is the `bytes` that it stood for.

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
            return self._blobs[int(value.removeprefix(self._mark))]
        return value

    def _outside(self, chunk: bytes, position: int) -> int:
        quote = chunk.find(b'"', position)
        end = len(chunk) if quote < 0 else quote + 1
        self._rest += chunk[position:end]
        if quote >= 0:
            self._head.clear()
            self._state = self._beginning
        return end

    def _beginning(self, chunk: bytes, position: int) -> int:
        """Gather a string until it is known to be short, to be text, or to be base64."""
        mark = _MARK.search(chunk, position)
        end = len(chunk) if mark is None else mark.start()
        end = min(end, position + LONG_STRING_BYTES - len(self._head))
        self._head += chunk[position:end]
        if len(self._head) >= LONG_STRING_BYTES:
            prefix = _DATA_URL.match(self._head)
            start = prefix.end() if prefix else 0
            if _BASE64.fullmatch(self._head, start):
                self._decoder = _Base64Decoder()
                self._decoder.feed(bytes(self._head[start:]))
                self._state = self._inside_base64
                return end
        elif mark is None or mark.start() > end:
            return end
        self._rest += self._head
        self._state = self._inside_text
        return end

    def _inside_text(self, chunk: bytes, position: int) -> int:
        if self._escaped:
            self._escaped = False
            self._rest += chunk[position : position + 1]
            return position + 1
        mark = _MARK.search(chunk, position)
        end = len(chunk) if mark is None else mark.end()
        self._rest += chunk[position:end]
        if mark is not None:
            if mark.group() == b'"':
                self._state = self._outside
            else:
                self._escaped = True
        return end

    def _inside_base64(self, chunk: bytes, position: int) -> int:
        decoder = self._decoder
        if decoder is None:
            raise AssertionError("no decoder while inside base64")
        mark = _MARK.search(chunk, position)
        end = len(chunk) if mark is None else mark.start()
        self._blob_bytes += decoder.feed(chunk[position:end])
        if mark is None:
            return end
        if mark.group() == b"\\":
            return mark.end()  # some writers escape the slash: \/
        self._rest += f"{self._mark}{len(self._blobs)}".encode() + b'"'
        self._blobs.append(decoder.finish())
        self._decoder = None
        self._state = self._outside
        return mark.end()


class _Base64Decoder:
    def __init__(self) -> None:
        self._left = b""
        self._bytes = io.BytesIO()

    def feed(self, text: bytes) -> int:
        """Decode what is complete and return how many bytes that gave."""
        text = self._left + text
        whole = len(text) // 4 * 4
        # The last four characters may be the padded end, which only `finish` may decode.
        whole = max(0, whole - 4)
        self._left = text[whole:]
        return self._bytes.write(_decoded(text[:whole]))

    def finish(self) -> bytes:
        # The padding may be left out.
        self._bytes.write(_decoded(self._left + b"=" * (-len(self._left) % 4)))
        return self._bytes.getvalue()


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True) if text else b""
    except binascii.Error as error:
        raise PermanentError(
            f"an image of the runtime's answer is not base64: {error}", code="output_unreadable"
        ) from error


def decode_short(text: str) -> bytes:
    """Decode a short base64 string, with or without its data-URL prefix.

    Raises:
        PermanentError: it is not base64.
    """
    data = text.encode("ascii", "replace")
    prefix = _DATA_URL.match(data)
    data = data[prefix.end() :] if prefix else data
    return _decoded(data + b"=" * (-len(data) % 4))


def without_bytes(value: Any) -> Any:
    """Copy the decoded JSON with each taken string replaced by `<N bytes>`."""
    if isinstance(value, dict):
        return {key: without_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_bytes(item) for item in value]
    return f"<{len(value)} bytes>" if isinstance(value, bytes) else value
