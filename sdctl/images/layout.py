"""An image as builders save it, a tar of an OCI layout, read in place; and several of them as one index.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from sdctl.clients.oci import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    MAX_MANIFEST_BYTES,
    Manifest,
    as_manifest,
    digest_of,
)
from sdctl.errors import ToolError


class _Part:
    """The rest of a piece of the archive."""

    def __init__(self, file: IO[bytes], size_bytes: int) -> None:
        self._file, self._left = file, size_bytes

    def read(self, limit_bytes: int) -> bytes:
        piece = self._file.read(min(limit_bytes, self._left))
        self._left -= len(piece)
        return piece

    def close(self) -> None:
        self._file.close()


class Layout:
    """The archives of one image, one a platform, as the source of a copy of all of them."""

    def __init__(self, archives: Mapping[str, Path]) -> None:
        """Read what the archives hold.

        Args:
            archives: by platform, as `linux/amd64`.

        Raises:
            ToolError: one is no archive of an OCI layout with one image for its platform.
        """
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._manifests: dict[str, Manifest] = {}
        tops = [self._read(platform, path) for platform, path in archives.items()]
        index = as_manifest({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": tops})
        self._manifests[index.digest] = index
        self.digest = index.digest

    def manifest(self, asked: str) -> Manifest:
        """Return a manifest by its digest."""
        return self._manifests[asked]

    def open_blob(self, digest: str, start: int = 0) -> _Part:
        """Begin to read a blob, from a byte on.

        Raises:
            ToolError: it is in none of the archives.
        """
        if digest not in self._places:
            raise ToolError(f"the saved image lacks {digest}")
        path, offset, size = self._places[digest]
        file = path.open("rb")
        file.seek(offset + start)
        return _Part(file, size - start)

    def _read(self, platform: str, path: Path) -> dict[str, Any]:
        try:
            with tarfile.open(path, "r:") as archive:
                for entry in archive:
                    if entry.isfile() and entry.name.startswith("blobs/sha256/"):
                        digest = f"sha256:{entry.name.removeprefix('blobs/sha256/')}"
                        self._places.setdefault(digest, (path, entry.offset_data, entry.size))
                index = archive.extractfile("index.json")
                document = json.loads(index.read(MAX_MANIFEST_BYTES) if index else b"")
            return self._descend(platform, document["manifests"])
        except (tarfile.TarError, OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ToolError(
                f"the builder saved {platform} in another form than an OCI layout ({type(error).__name__})",
                hint="docker is needed in version 25 or newer",
            ) from error

    def _descend(self, platform: str, found: list[dict[str, Any]]) -> dict[str, Any]:
        """Find the platform's one manifest, which docker wraps in an index with attestations."""
        system, _, architecture = platform.partition("/")
        for entry in found:
            content = self._content(entry["digest"])
            if entry["mediaType"] in INDEX_TYPES:
                return self._descend(platform, json.loads(content)["manifests"])
            if entry["mediaType"] not in MANIFEST_TYPES:
                continue
            manifest = Manifest(content, entry["mediaType"])
            config = json.loads(self._content(manifest.blobs()[0].digest))
            if (config.get("os"), config.get("architecture")) == (system, architecture):
                self._manifests[manifest.digest] = manifest
                return {
                    "mediaType": manifest.media_type, "digest": manifest.digest, "size": len(content),
                    "platform": {"os": system, "architecture": architecture},
                }  # fmt: skip
        raise LookupError(platform)

    def _content(self, digest: str) -> bytes:
        part = self.open_blob(digest)
        try:
            content = part.read(MAX_MANIFEST_BYTES)
        finally:
            part.close()
        if digest_of(content) != digest:
            raise ValueError(f"{digest} is another content")
        return content
