"""The Lambda zips: the same sources give the same bytes, in a checkout and in a wheel, on every machine.

Stored, not compressed: what a compressor makes of the same bytes differs between its versions, and the
content-addressed key of a zip would change without a change of code. A zip is below 150 KB.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdctl.assets import asset_dir

# Each function's package has its handler at `<package>.handler.handle`.
FUNCTIONS: Final = ("sdctl_api", "sdctl_dead_letters", "sdctl_sweep", "sdctl_unrouted")
SHARED_FOLDER: Final = "_shared"
CONTRACT_FILES: Final = ("__init__.py", "contract.py", "task_record.py")
# The earliest time that a zip can say.
_TIMESTAMP: Final = (1980, 1, 1, 0, 0, 0)
_MODE: Final = 0o100644


@dataclass(frozen=True, slots=True)
class Bundle:
    """One function's zip: `handler` as Lambda wants it, `sha256` in hex."""

    function: str
    handler: str
    zip_bytes: bytes
    sha256: str


def build_bundles() -> dict[str, Bundle]:
    """Build the zip of every function, keyed by its package's name."""
    sources = asset_dir("lambda")
    return {function: _bundle(function, sources) for function in FUNCTIONS}


def _bundle(function: str, sources: Path) -> Bundle:
    files = dict(_package_files(sources / function, sources))
    files |= _package_files(sources / SHARED_FOLDER, sources / SHARED_FOLDER)
    contract_folder = Path(__file__).resolve().parent.parent
    files |= {f"sdctl/{name}": (contract_folder / name).read_bytes() for name in CONTRACT_FILES}
    zip_bytes = _zip(files)
    return Bundle(function, f"{function}.handler.handle", zip_bytes, hashlib.sha256(zip_bytes).hexdigest())


def _package_files(folder: Path, root: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the Python sources below `folder`, and service models, by their path from `root`."""
    for pattern in ("*.py", "*.json"):
        for path in folder.rglob(pattern):
            yield path.relative_to(root).as_posix(), path.read_bytes()


def _zip(files: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _TIMESTAMP)
            entry.create_system = 3  # Unix, whose modes `external_attr` holds
            entry.external_attr = _MODE << 16
            # A checkout on Windows may have other line ends.
            archive.writestr(entry, files[name].replace(b"\r\n", b"\n"))
    return buffer.getvalue()
