"""Put ComfyUI's custom nodes where the server finds them: what the manifest names, and nothing else.

usage: custom_nodes.py MANIFEST FOLDER. Standard library only. The manifest is a JSON list of `name`, `url`
and `sha256`. An archive whose hash is another is an error, and nothing of it is unpacked. What an archive
holds in one folder, as GitHub's do, is unpacked without that folder. Python packages that nodes need belong
into the image.
"""

import hashlib
import io
import json
import pathlib
import shutil
import sys
import tarfile
import tempfile
import time
import urllib.parse
import urllib.request
import zipfile
from typing import Any

TIMEOUT_SECONDS = 60
ATTEMPTS = 4
MAX_ARCHIVE_BYTES = 512 * 1024 * 1024
MAX_UNPACKED_BYTES = 2 * 1024 * 1024 * 1024


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows no redirect to anything but https."""

    def redirect_request(self, *about: Any) -> urllib.request.Request | None:
        """Let the last argument, the new address, be one of https only."""
        _require_https(about[-1])
        return super().redirect_request(*about)


def main() -> None:
    """Fetch, check and unpack each entry of the manifest."""
    manifest, folder = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    for node in json.loads(manifest.read_text(encoding="utf-8")):
        began = time.monotonic()
        content = fetch(node["url"])
        found = hashlib.sha256(content).hexdigest()
        if found != node["sha256"]:
            sys.exit(f"{node['name']}: {node['url']} has the SHA-256 {found}, not {node['sha256']}")
        unpack(content, folder / node["name"])
        event = {"action": "custom_node", "name": node["name"], "seconds": round(time.monotonic() - began, 1)}
        print(json.dumps(event), file=sys.stderr)


def fetch(url: str) -> bytes:
    """Return what an https address holds; a passing failure is tried again."""
    _require_https(url)
    opener = urllib.request.build_opener(_HttpsOnly)
    for attempt in range(ATTEMPTS):
        try:
            with opener.open(url, timeout=TIMEOUT_SECONDS) as answer:
                content = answer.read(MAX_ARCHIVE_BYTES + 1)
        except OSError as error:
            if attempt == ATTEMPTS - 1:
                sys.exit(f"{url}: {error}")
            time.sleep(2**attempt)
        else:
            if len(content) > MAX_ARCHIVE_BYTES:
                sys.exit(f"{url} is larger than {MAX_ARCHIVE_BYTES} bytes")
            return content
    raise AssertionError


def unpack(content: bytes, target: pathlib.Path) -> None:
    """Unpack a .tar.gz or .zip, without the one folder that holds everything; replaces the target."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        root = pathlib.Path(scratch) / "archive"
        root.mkdir()
        if zipfile.is_zipfile(io.BytesIO(content)):
            with zipfile.ZipFile(io.BytesIO(content)) as archive:
                _bounded(sum(one.file_size for one in archive.infolist()), target.name)
                archive.extractall(root)  # noqa: S202 - drops leading slashes and `..`
        else:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                _bounded(sum(one.size for one in archive), target.name)
                archive.extractall(root, filter="data")
        inside = list(root.iterdir())
        source = inside[0] if len(inside) == 1 and inside[0].is_dir() else root
        shutil.rmtree(target, ignore_errors=True)
        source.rename(target)
        target.chmod(0o755)


def _bounded(size: int, name: str) -> None:
    if size > MAX_UNPACKED_BYTES:
        sys.exit(f"{name}: holds more than {MAX_UNPACKED_BYTES} bytes")


def _require_https(url: str) -> None:
    if urllib.parse.urlsplit(url).scheme != "https":
        sys.exit(f"{url}: not https")


if __name__ == "__main__":
    main()
