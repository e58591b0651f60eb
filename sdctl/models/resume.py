"""What an interrupted upload leaves in the state folder, so that the same command goes on from there."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sdctl.clients.objects import Part


@dataclass(slots=True)
class Unfinished:
    """An upload in parts under way.

    `identity` says of which content it is: a file that has changed is another one. The first `hashed_parts`
    parts have gone into `digest`; `crc32s` has their checksums, `parts` those that S3 has.
    """

    identity: str
    upload_id: str
    part_bytes: int
    is_full_object: bool
    digest: str = ""
    hashed_parts: int = 0
    crc32s: list[int] = field(default_factory=list)
    parts: dict[int, Part] = field(default_factory=dict)


class Journal:
    """Keeps one `Unfinished` per bucket and key, as a JSON file that is replaced whole."""

    def __init__(self, folder: Path) -> None:
        """Keep the files below a folder, which is made when it is needed."""
        self._folder = folder

    def _path(self, place: str) -> Path:
        return self._folder / f"{hashlib.sha256(place.encode()).hexdigest()[:32]}.json"

    def read(self, place: str) -> Unfinished | None:
        """Return what was under way for `place`; a file that is damaged is none."""
        try:
            document = json.loads(self._path(place).read_text(encoding="utf-8"))
            parts = {one["number"]: Part(**one) for one in document.pop("parts")}
            found = Unfinished(**document, parts=parts)
            return found if len(found.crc32s) == found.hashed_parts else None
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            return None

    def write(self, place: str, unfinished: Unfinished) -> None:
        """Keep where an upload stands."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        document = asdict(unfinished) | {"parts": [asdict(one) for one in unfinished.parts.values()]}
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".new-")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(document, file)
            Path(name).replace(self._path(place))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def forget(self, place: str) -> None:
        """Drop it: the upload is finished or given up."""
        self._path(place).unlink(missing_ok=True)
