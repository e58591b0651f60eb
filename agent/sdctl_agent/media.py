"""What a file is, told by its first bytes and by nothing else. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

# As many bytes as `sniff` may look at.
SNIFF_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Media:
    """A kind of file: its MIME type and its usual extension, without the dot."""

    content_type: str
    extension: str

    @property
    def family(self) -> str:
        """The part before the slash: `image`, `video`, `audio`, `text` or `application`."""
        return self.content_type.partition("/")[0]


PNG: Final = Media("image/png", "png")
JPEG: Final = Media("image/jpeg", "jpg")
GIF: Final = Media("image/gif", "gif")
WEBP: Final = Media("image/webp", "webp")
AVIF: Final = Media("image/avif", "avif")
HEIC: Final = Media("image/heic", "heic")
BMP: Final = Media("image/bmp", "bmp")
TIFF: Final = Media("image/tiff", "tiff")
MP4: Final = Media("video/mp4", "mp4")
MOV: Final = Media("video/quicktime", "mov")
WEBM: Final = Media("video/webm", "webm")
MATROSKA: Final = Media("video/x-matroska", "mkv")
AVI: Final = Media("video/x-msvideo", "avi")
M4A: Final = Media("audio/mp4", "m4a")
MP3: Final = Media("audio/mpeg", "mp3")
FLAC: Final = Media("audio/flac", "flac")
OPUS: Final = Media("audio/ogg", "opus")
OGG: Final = Media("audio/ogg", "ogg")
OGV: Final = Media("video/ogg", "ogv")
WAV: Final = Media("audio/wav", "wav")
GLB: Final = Media("model/gltf-binary", "glb")
SAFETENSORS: Final = Media("application/octet-stream", "safetensors")
LATENT: Final = Media("application/octet-stream", "latent")
JSON: Final = Media("application/json", "json")
TEXT: Final = Media("text/plain", "txt")
BINARY: Final = Media("application/octet-stream", "bin")

_PREFIXES: Final[tuple[tuple[bytes, Media], ...]] = (
    (b"\x89PNG\r\n\x1a\n", PNG),
    (b"\xff\xd8\xff", JPEG),
    (b"GIF87a", GIF),
    (b"GIF89a", GIF),
    (b"II*\x00", TIFF),
    (b"MM\x00*", TIFF),
    (b"fLaC", FLAC),
    (b"ID3", MP3),
    (b"glTF", GLB),
)
_RIFF: Final = {b"WEBP": WEBP, b"WAVE": WAV, b"AVI ": AVI}
# Major brands of ISO base media files, https://mp4ra.org/registered-types/brands
_BRANDS: Final = {
    b"avif": AVIF, b"avis": AVIF, b"heic": HEIC, b"heix": HEIC, b"mif1": HEIC, b"qt  ": MOV, b"M4A ": M4A,
}  # fmt: skip


def sniff(head: bytes) -> Media:
    """Tell what a file is from its first bytes (up to `SNIFF_BYTES`); `BINARY` where nothing fits."""
    for prefix, media in _PREFIXES:
        if head.startswith(prefix):
            return media
    container = _container(head)
    if container is not None:
        return container
    if len(head) >= 2 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2 and head[1] & 0x18 != 0x08:
        return MP3  # a frame header of MPEG audio layer III, without a tag before it
    if len(head) > 9 and head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 100_000_000:
        return LATENT if b'"latent_' in head else SAFETENSORS
    return _text(head)


def _container(head: bytes) -> Media | None:
    """Look into RIFF, ISO base media, Matroska, Ogg and BMP headers."""
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] == b"ftyp" and len(head) >= 12:
        brand = head[8:12]
        if brand == b"mif1" and b"avif" in head[16:64]:
            return AVIF
        return _BRANDS.get(brand, MP4)
    if head[:4] == b"\x1aE\xdf\xa3":
        return WEBM if b"webm" in head[:64] else MATROSKA
    if head[:4] == b"OggS":
        if b"OpusHead" in head[:64]:
            return OPUS
        return OGV if b"theora" in head[:64] else OGG
    # BMP: "BM", then the file's length, four reserved zeros, and the length of a known header.
    if head[:2] == b"BM" and head[6:10] == b"\0\0\0\0" and head[14:18] in _BMP_HEADERS:
        return BMP
    return None


_BMP_HEADERS: Final = tuple(length.to_bytes(4, "little") for length in (12, 40, 52, 56, 64, 108, 124))
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")


def _text(head: bytes) -> Media:
    # The cut at SNIFF_BYTES may fall inside a character of up to four bytes.
    for cut in range(4):
        try:
            text = head[: len(head) - cut].decode() if cut else head.decode()
        except UnicodeDecodeError:
            if len(head) < SNIFF_BYTES:
                return BINARY
            continue
        if not text or _CONTROL.search(text):
            return BINARY
        return JSON if text.lstrip()[:1] in ("{", "[") else TEXT
    return BINARY


def is_playable(media: Media) -> bool:
    """Tell whether a file can be an input: an image, a video or a sound."""
    return media.family in ("image", "video", "audio")
