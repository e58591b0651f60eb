"""SHA-256 of a content that passes by once, kept so that another process can go on.

Python's hash objects cannot be stored. OpenSSL, which they are made of, keeps the state in a plain structure;
where it cannot be reached, an interrupted upload begins anew.
"""

from __future__ import annotations

import ctypes
import hashlib
from functools import cache
from typing import Any, Final

# SHA256_CTX: eight words of state, two of length, sixteen of data, and two counters.
# https://docs.openssl.org/3.0/man3/SHA256_Init/
_STATE_BYTES: Final = 112


class Digest:
    """What has been read so far, as a hash."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._library = _openssl()
        self._state = ctypes.create_string_buffer(_STATE_BYTES)
        self._plain: Any = None
        if self._library is None:
            self._plain = hashlib.sha256()
        else:
            self._library.SHA256_Init(self._state)

    def update(self, data: bytes) -> None:
        """Take the next bytes."""
        if self._library is None:
            self._plain.update(data)
        else:
            self._library.SHA256_Update(self._state, data, ctypes.c_size_t(len(data)))

    @property
    def sha256(self) -> str:
        """The hash of everything taken, in hex."""
        if self._library is None:
            return str(self._plain.hexdigest())
        return _final(self._library, self._state.raw)

    def save(self) -> str | None:
        """Return what `restored` goes on from; None where that cannot be told."""
        return None if self._library is None else self._state.raw.hex()


def restored(saved: str) -> Digest | None:
    """Go on from what `save` returned; None where this Python cannot."""
    digest = Digest()
    if digest._library is None or len(saved) != 2 * _STATE_BYTES:
        return None
    digest._state = ctypes.create_string_buffer(bytes.fromhex(saved), _STATE_BYTES)
    return digest


def _final(library: Any, state: bytes) -> str:
    copy = ctypes.create_string_buffer(state, _STATE_BYTES)
    result = ctypes.create_string_buffer(32)
    library.SHA256_Final(result, copy)
    return result.raw.hex()


@cache
def _openssl() -> Any:
    """Return the OpenSSL that Python itself has loaded, tried out; None where it cannot be reached."""
    try:
        import _hashlib

        library = ctypes.CDLL(_hashlib.__file__)
        state = ctypes.create_string_buffer(_STATE_BYTES)
        library.SHA256_Init(state)
        library.SHA256_Update(state, b"abc", ctypes.c_size_t(3))
        is_right = _final(library, state.raw) == hashlib.sha256(b"abc").hexdigest()
    except (ImportError, OSError, AttributeError, TypeError):
        return None
    return library if is_right else None
