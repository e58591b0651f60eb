"""Files to and from a task: inputs by presigned PUT, outputs by presigned links into one folder.

The API key is never sent here. Names come from outside and are cut down to what is safe anywhere; a
file appears under its name only when it is whole.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Final
from urllib.parse import unquote, urlsplit

from sdctl.errors import ApiError, NotFoundError, SdctlError, UsageError
from sdctl.polling import REAL_CLOCK, Clock
from sdctl.tasks.answers import RemoteTask
from sdctl.tasks.api import TaskApi
from sdctl.tasks.transport import Transport, UnreachableError, split_url

STALL_SECONDS: Final = 60.0
DOWNLOAD_ATTEMPTS: Final = 3
# The API signs uploads of up to 100 MiB; a video may be longer than that, an answer without end is not.
MAX_UPLOAD_BYTES: Final = 100 * 1024 * 1024
MAX_DOWNLOAD_BYTES: Final = 4 * 1024**3
_URL: Final = re.compile(r"(https?|s3)://", re.IGNORECASE)
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._+=@-]")
_MAX_NAME_CHARS: Final = 180
# https://learn.microsoft.com/en-us/windows/win32/fileio/naming-a-file
_DEVICES: Final = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)

# First bytes of the formats that the runtimes read, and their types.
_MAGIC: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF8", "image/gif"),
    (b"BM", "image/bmp"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\x1aE\xdf\xa3", "video/webm"),
    (b"OggS", "audio/ogg"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
    (b"\xff\xfb", "audio/mpeg"),
)
_RIFF: Final = {b"WEBP": "image/webp", b"WAVE": "audio/wav", b"AVI ": "video/x-msvideo"}


def is_url(text: str) -> bool:
    """Tell an `http(s)://` or `s3://` address, which the agent fetches, from a local file."""
    return _URL.match(text) is not None


def media_type(start: bytes) -> str:
    """Name the media type of a file from its first 16 bytes; empty where it is none that is known."""
    for magic, name in _MAGIC:
        if start.startswith(magic):
            return name
    if start[:4] == b"RIFF":
        return _RIFF.get(start[8:12], "")
    if start[4:8] == b"ftyp":
        return "image/avif" if start[8:12] in (b"avif", b"avis") else "video/mp4"
    return ""


def input_url(api: TaskApi, source: str, *, images_only: bool = True) -> str:
    """Return the address of an input: `source` itself where it is one, else that of the uploaded file.

    Args:
        api: signs the upload.
        source: an `http(s)://` or `s3://` address, or the path of a local file.
        images_only: refuse sound and video.

    Raises:
        NotFoundError: no such file.
        UsageError: not a file of a known media type, empty, or too large.
        ApiError: the upload was refused.
    """
    if is_url(source):
        return source
    path = Path(source).expanduser()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content_type = _checked_type(path, file.read(16), size, images_only=images_only)
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256")
            file.seek(0)
            ticket = api.create_upload(_safe_name(path.name, "input"), content_type, size, digest.hexdigest())
            reply = api.transport.upload(
                _checked_link(ticket.upload_url),
                file,
                size,
                {"Content-Type": content_type, "x-amz-checksum-sha256": b64encode(digest.digest()).decode()},
                stall_seconds=STALL_SECONDS,
            )
    except FileNotFoundError as error:
        raise NotFoundError(
            f"there is no file {source}", hint="give a file, or an http(s):// or s3:// URL"
        ) from error
    except OSError as error:
        raise UsageError(f"{source} cannot be read: {error.strerror or error}") from error
    if not 200 <= reply.status < 300:
        raise ApiError(
            f"the upload of {source} was refused: HTTP {reply.status}", status=reply.status, api_code="upload"
        )
    return ticket.input_url


def _checked_link(link: str) -> str:
    """Return a link that the API gave, if it leads to a web server."""
    try:
        split_url(link)
    except UsageError as error:
        raise ApiError(f"the API gave a bad link: {error.message}", api_code="bad_answer") from error
    return link


def _checked_type(path: Path, start: bytes, size_bytes: int, *, images_only: bool) -> str:
    name = media_type(start)
    if not name or (images_only and not name.startswith("image/")):
        raise UsageError(f"{path} is not an image" if images_only else f"{path} is no image, sound or video")
    if size_bytes > MAX_UPLOAD_BYTES:
        raise UsageError(f"{path} has {size_bytes} bytes; at most {MAX_UPLOAD_BYTES} can be uploaded")
    return name


def download_outputs(
    task: RemoteTask,
    folder: Path,
    transport: Transport,
    *,
    with_answer: bool = False,
    clock: Clock = REAL_CLOCK,
    report: Callable[[str], None] = lambda _: None,
) -> tuple[str, ...]:
    """Store a task's outputs in `folder`, which is made where it is missing.

    Args:
        task: as just got from the API, since its links expire.
        folder: where to.
        transport: sends the requests.
        with_answer: the runtime's complete answer (`.out`) as well.
        clock: time, for the pauses between attempts.
        report: is told of each file.

    Returns:
        The paths, in the order of `image_url`.

    Raises:
        ApiError: an output has no link, or its link does not answer with the whole file.
        UsageError: the folder cannot be written.
    """
    wanted = list(zip(task.image_url, task.links, strict=False))
    if len(wanted) < len(task.image_url):
        wanted += [(url, None) for url in task.image_url[len(wanted) :]]
    if with_answer and task.output_url:
        wanted.append((task.output_url, task.output_link))
    paths: list[str] = []
    taken: set[str] = set()
    for number, (url, link) in enumerate(wanted, start=1):
        if link is None:
            raise ApiError(f"the API gives no link to {url}", hint="fetch it with your own S3 access")
        name = _free_name(
            _safe_name(PurePosixPath(unquote(urlsplit(url).path)).name, f"{task.id}-{number}"), taken
        )
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _fetch(link, path, transport, clock)
        except SdctlError:
            raise
        except OSError as error:
            raise UsageError(f"{path} cannot be written: {error.strerror or error}") from error
        report(f"saved {path}")
        paths.append(str(path))
    return tuple(paths)


def _safe_name(name: str, fallback: str) -> str:
    """Reduce a name from outside to one that is a plain file name on every system."""
    safe = _UNSAFE.sub("_", name).lstrip(".").rstrip(". ")[-_MAX_NAME_CHARS:]
    return f"_{safe}" if _DEVICES.match(safe) else safe or fallback


def _free_name(name: str, taken: set[str]) -> str:
    """Keep two outputs of one task apart on file systems that ignore case."""
    stem, dot, suffix = name.rpartition(".")
    candidate, count = name, 1
    while candidate.lower() in taken:
        count += 1
        candidate = f"{stem}-{count}{dot}{suffix}" if dot else f"{name}-{count}"
    taken.add(candidate.lower())
    return candidate


def _fetch(link: str, path: Path, transport: Transport, clock: Clock) -> None:
    for left in range(DOWNLOAD_ATTEMPTS - 1, -1, -1):
        try:
            _write_whole(path, _body(link, transport))
        except UnreachableError:
            if not left:
                raise
            clock.sleep(clock.uniform(0.3, 0.8))
        else:
            return


def _body(link: str, transport: Transport) -> Iterator[bytes]:
    download = transport.download(_checked_link(link), stall_seconds=STALL_SECONDS)
    try:
        if download.status != 200:
            raise ApiError(
                f"the link of an output answers HTTP {download.status}",
                status=download.status,
                api_code="download",
                hint="links expire: run the command again",
            )
        if download.size_bytes is None:
            raise ApiError("the link of an output does not announce its size", api_code="download")
        if download.size_bytes > MAX_DOWNLOAD_BYTES:
            raise ApiError(f"an output has {download.size_bytes} bytes, too many", api_code="download")
        yield from download.chunks()
    finally:
        download.close()


def _write_whole(path: Path, pieces: Iterator[bytes]) -> None:
    """Write a file under another name and rename it, so that no reader sees half of it."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".sdctl-", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            for piece in pieces:
                file.write(piece)
        if os.name == "posix":
            mask = os.umask(0)
            os.umask(mask)
            Path(name).chmod(0o666 & ~mask)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
