"""What the head of a model file tells: its format, its tensors' names and shapes, its metadata.

Nothing is executed and no tensor is read. Every number in a file is hostile until it is compared with
the file's size.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from sdctl.errors import SdctlError, UsageError

SAFETENSORS: Final = "safetensors"
PICKLE: Final = "pickle"

# The format allows 100 MB, which would cost gigabytes once it is parsed; the largest in use, of merged models
# with their recipe, have under 5.
MAX_HEADER_BYTES: Final = 8 * 1024**2
MAX_TENSORS: Final = 100_000
# A tensor has an object and two lists; metadata may quote some more.
_MAX_BRACKETS: Final = 5 * MAX_TENSORS
# https://huggingface.co/docs/safetensors/index#format and the types of its reference implementation
_BITS: Final = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64,
    "U32": 32, "U16": 16, "U8": 8, "BOOL": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F6_E2M3": 6, "F6_E3M2": 6, "F4": 4, "C64": 64,
}  # fmt: skip

# https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_LFS_POINTER: Final = b"version https://git-lfs.github.com/spec/"


class BadModelError(UsageError):
    """The file is no sound model."""

    code = "bad_model"


class UnsafeModelError(SdctlError):
    """The file would run a program when it is loaded."""

    exit_code = UsageError.exit_code
    code = "unsafe_model"


class Content(Protocol):
    """The bytes of a model, wherever they are."""

    @property
    def size_bytes(self) -> int:
        """How many there are."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes."""


@dataclass(frozen=True, slots=True)
class Head:
    """What was learned: `shapes` by tensor name; a shape that a pickle does not tell is empty."""

    format: str
    shapes: Mapping[str, tuple[int, ...]]
    metadata: Mapping[str, str] = field(default_factory=dict)


def read_head(content: Content) -> Head | None:
    """Read the head of a model; None where the content is neither safetensors nor a pickle of torch.

    Raises:
        BadModelError: it says that it is one and is not sound.
        UnsafeModelError: it holds what torch would execute.
    """
    start = content.read(0, min(16, content.size_bytes))
    if is_page(start):
        raise BadModelError("what came is a web page, not a model")
    if start == _LFS_POINTER[: len(start)] and start:
        raise BadModelError(
            "it is only a pointer of Git LFS, not the model", hint="git lfs pull fetches the files themselves"
        )
    if start[8:9] == b"{":
        return _safetensors(content, int.from_bytes(start[:8], "little"))
    if is_model(start):
        from sdctl.models.pickles import read_pickle

        return Head(PICKLE, read_pickle(content))
    return None


def is_model(start: bytes) -> bool:
    """Tell by its first 16 bytes whether a file may be a safetensors file or what torch saved."""
    return start[8:9] == b"{" or start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"


def is_page(start: bytes) -> bool:
    """Tell a web page by how it begins."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml"))


def _safetensors(content: Content, header_bytes: int) -> Head:
    if header_bytes > content.size_bytes - 8:
        raise BadModelError(
            f"the safetensors header says that it has {header_bytes} bytes, the file has {content.size_bytes}"
        )
    if header_bytes > MAX_HEADER_BYTES:
        raise BadModelError(
            f"the safetensors header has {header_bytes} bytes; no model in use has over {MAX_HEADER_BYTES}"
        )
    text = content.read(8, header_bytes)
    if text.count(b"[") + text.count(b"{") > _MAX_BRACKETS:
        raise BadModelError(f"the safetensors header describes more than {MAX_TENSORS} tensors")
    header = _parsed(text)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise BadModelError("the safetensors metadata is no map of texts")
    if len(header) > MAX_TENSORS:
        raise BadModelError(f"the safetensors header names {len(header)} tensors; {MAX_TENSORS} is the most")
    shapes, spans = {}, []
    for name, entry in header.items():
        shapes[name], span = _tensor(name, entry)
        spans.append(span)
    _check_spans(spans, content.size_bytes - 8 - header_bytes)
    return Head(SAFETENSORS, shapes, metadata)


def _parsed(text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise BadModelError("the safetensors header names a tensor twice")
        return found

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise BadModelError("the safetensors header is not JSON") from error
    if not isinstance(header, dict):
        raise BadModelError("the safetensors header is no JSON object")
    return header


def _tensor(name: str, entry: Any) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Check one tensor of the header; return its shape, and where its data begins and ends."""
    bad = BadModelError(f"the safetensors header describes {name[:80]!r} wrongly")
    if not isinstance(entry, dict):
        raise bad
    bits, shape, span = (
        _BITS.get(str(entry.get("dtype"))), _counts(entry.get("shape")), _counts(entry.get("data_offsets")),
    )  # fmt: skip
    if bits is None or shape is None or span is None or len(span) != 2:
        raise bad
    # A product of hostile numbers stays small: whatever exceeds any file is wrong already.
    if len(shape) > 16 or max(shape, default=0) > 2**48 or math.prod(shape) * bits != (span[1] - span[0]) * 8:
        raise bad
    return shape, (span[0], span[1])


def _counts(value: Any) -> tuple[int, ...] | None:
    if isinstance(value, list) and all(type(one) is int and one >= 0 for one in value):
        return tuple(value)
    return None


def _check_spans(spans: list[tuple[int, int]], data_bytes: int) -> None:
    """The tensors must fill the rest of the file, one after the other, as the format demands."""
    at = 0
    for begin, end in sorted(spans):
        if begin != at:
            what = "overlap" if begin < at else "leave a gap"
            raise BadModelError(f"the tensors of the safetensors file {what} at byte {min(begin, at)}")
        at = end
    if at != data_bytes:
        raise BadModelError(
            f"the safetensors file has {data_bytes} bytes of tensors, its header describes {at}: "
            "it is cut short, or something was appended"
        )


class ContentFile(io.RawIOBase):
    """Content as a file that can be read and sought, for the standard library's readers."""

    def __init__(self, content: Content, limit_bytes: int) -> None:
        """Allow reads of up to `limit_bytes` at once."""
        self._content = content
        self._limit_bytes = limit_bytes
        self._at = 0

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that it can be sought."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._content.size_bytes}[whence]
        if base + offset < 0:
            raise OSError("before the start")
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        """Return where it is."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """Read up to `size` bytes."""
        left = max(0, self._content.size_bytes - self._at)
        wanted = left if size < 0 else min(size, left)
        if wanted > self._limit_bytes:
            raise BadModelError("the file asks for more than any sound one does to be examined")
        data = self._content.read(self._at, wanted) if wanted else b""
        self._at += len(data)
        return data
