"""The zip that torch saves, read so that what is examined is what torch will load.

torch's reader and Python's find a zip's directory in different ways, and may be shown different files by one
that is crafted for it. So only the plain layout that torch writes is taken: the directory ends where its end
record begins, the record ends where the file ends.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Iterator
from typing import Final

from sdctl.models.head import BadModelError, Content, ContentFile, UnsafeModelError

LOCAL_HEADER: Final = b"PK\x03\x04"
MAX_ENTRIES: Final = 50_000
MAX_DIRECTORY_BYTES: Final = 8 * 1024**2
# A model has one; its older kind of program has a second.
MAX_PICKLES: Final = 8

# Chapters 4.3.14 to 4.3.16 of https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
_END: Final = struct.Struct("<4sHHHHIIH")
_LOCATOR: Final = struct.Struct("<4sIQI")
_END64: Final = struct.Struct("<4sQHHIIQQQQ")


def pickles_of(content: Content, limit_bytes: int) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of each pickle in a zip that torch saved; tensors are not read.

    Args:
        content: the zip.
        limit_bytes: how much all of them may have, unpacked.

    Raises:
        BadModelError: it is no sound zip of torch.
        UnsafeModelError: it holds a program, or shows other files to other readers.
    """
    _check_layout(content)
    left = limit_bytes
    try:
        with zipfile.ZipFile(ContentFile(content, limit_bytes)) as archive:
            entries = archive.infolist()
            pickles = _checked(entries)
            for entry in pickles:
                with archive.open(entry) as data:
                    text = data.read(left + 1)
                left -= len(text)
                if left < 0:
                    raise BadModelError(f"{entry.orig_filename} in the zip is larger than any sound one")
                yield entry.orig_filename, text
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise BadModelError(f"the file begins as a zip and is none that can be read: {error}") from error


def _check_layout(content: Content) -> None:
    """Refuse a directory that is anywhere else than right before the end of the file."""
    at = content.size_bytes - _END.size
    end = _END.unpack(content.read(at, _END.size)) if at > 0 else (b"",)
    if end[0] != b"PK\x05\x06" or end[7]:
        raise BadModelError(
            "the file begins as a zip and does not end as torch ends one: it is cut short, or longer"
        )
    size, offset, disks = end[5], end[6], {end[1], end[2]}
    locator_at = at - _LOCATOR.size
    locator = _LOCATOR.unpack(content.read(locator_at, _LOCATOR.size)) if locator_at > 0 else (b"",)
    if locator[0] == b"PK\x06\x07":
        at = locator_at - _END64.size
        end64 = _END64.unpack(content.read(at, _END64.size)) if at > 0 else (b"",)
        if end64[0] != b"PK\x06\x06" or locator[2] != at or end64[1] != _END64.size - 12:
            raise BadModelError("the end of the zip is not where it says that it is")
        size, offset, disks = end64[8], end64[9], {end64[4], end64[5], locator[1]}
    if disks != {0} or offset + size != at:
        raise UnsafeModelError(
            "the directory of the zip is not where it says that it is: "
            "what is examined may not be what is loaded"
        )
    if size > MAX_DIRECTORY_BYTES:
        raise BadModelError(
            f"the directory of the zip has {size} bytes; no model's has over {MAX_DIRECTORY_BYTES}"
        )


def _checked(entries: list[zipfile.ZipInfo]) -> list[zipfile.ZipInfo]:
    """Return the pickles among the entries; torch looks for names in any case of letters."""
    # As the directory has them: an extra field may tell Python another name, which torch does not read.
    names = [entry.orig_filename for entry in entries]
    folded = [name.lower() for name in names]
    if len(names) > MAX_ENTRIES:
        raise BadModelError(f"the zip has {len(names)} entries; {MAX_ENTRIES} is the most")
    if len(set(folded)) != len(names):
        raise UnsafeModelError(
            "the zip has two entries of one name: what is examined may not be what is loaded"
        )
    for name, low in zip(names, folded, strict=True):
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name:
            raise UnsafeModelError(f"the zip has an entry that leads out of its folder: {name[:80]!r}")
        if "code" in low.split("/")[:-1]:
            raise UnsafeModelError(f"the zip is a TorchScript program, not a set of weights: {name[:80]!r}")
    if sum(f"/{name}".endswith("/data.pkl") for name in folded) != 1:
        raise BadModelError("the zip is no file that torch saved: it has not one data.pkl")
    pickles = [entry for entry, low in zip(entries, folded, strict=True) if low.endswith(".pkl")]
    if len(pickles) > MAX_PICKLES:
        raise BadModelError(f"the zip has {len(pickles)} pickles; {MAX_PICKLES} is the most")
    return pickles
