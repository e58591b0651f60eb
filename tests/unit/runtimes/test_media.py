"""What a file is, told by its first bytes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl_agent.media import SNIFF_BYTES, is_playable, sniff

HEADS = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "gif": b"GIF89a\x01\0",
    "webp": b"RIFF\x24\0\0\0WEBPVP8 ",
    "avif": b"\0\0\0\x1cftypavif\0\0\0\0",
    "bmp": b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0",
    "tiff": b"II*\0\x08\0\0\0",
    "mp4": b"\0\0\0\x20ftypisom\0\0\x02\0",
    "mov": b"\0\0\0\x14ftypqt  \0\0\0\0",
    "webm": b"\x1aE\xdf\xa3\x9fB\x86\x81\x01B\xf7\x81\x01B\x82\x84webm",
    "mkv": b"\x1aE\xdf\xa3\xa3B\x82\x88matroska",
    "mp3": b"ID3\x04\0\0\0\0\0\0",
    "flac": b"fLaC\0\0\0\x22",
    "opus": b"OggS\0\x02" + b"\0" * 20 + b"\x01\x13OpusHead\x01",
    "ogg": b"OggS\0\x02" + b"\0" * 20 + b"\x01\x1e\x01vorbis",
    "wav": b"RIFF\x24\0\0\0WAVEfmt ",
    "avi": b"RIFF\x24\0\0\0AVI LIST",
    "m4a": b"\0\0\0\x20ftypM4A \0\0\0\0",
    "glb": b"glTF\x02\0\0\0",
    "safetensors": (200).to_bytes(8, "little") + b'{"model.weight":{"dtype":"F16"',
    "latent": (60).to_bytes(8, "little") + b'{"latent_tensor":{"dtype":"F32"',
    "json": b' {"a": 1}',
    "txt": "schöne Grüße, 猫\n".encode(),
    "bin": b"\0\x01\x02\x03",
}


@pytest.mark.parametrize("extension", HEADS)
def test_a_file_is_known_by_its_first_bytes(extension: str) -> None:
    assert sniff(HEADS[extension]).extension == extension
    assert (
        sniff(
            (HEADS[extension] + (b"\0" if extension not in ("json", "txt") else b" ") * 9000)[:SNIFF_BYTES]
        ).extension
        == extension
    )


def test_a_frame_of_mpeg_audio_without_a_tag_is_mp3() -> None:
    assert sniff(b"\xff\xfb\x90\x64" + b"\0" * 100).extension == "mp3"


@pytest.mark.parametrize("extension", ["json", "txt", "bin", "safetensors", "latent", "glb"])
def test_what_is_no_image_video_or_sound_is_no_input(extension: str) -> None:
    assert not is_playable(sniff(HEADS[extension]))


def test_markup_is_text_even_when_it_draws() -> None:
    assert (
        sniff(b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>").extension
        == "txt"
    )


def test_text_that_is_cut_inside_a_character_is_text() -> None:
    assert sniff(("猫" * 3000).encode()[:SNIFF_BYTES]).extension == "txt"


@given(head=st.binary(max_size=200))
def test_any_bytes_have_some_type(head: bytes) -> None:
    media = sniff(head)
    assert media.extension.isalnum()
    assert "/" in media.content_type


def test_nothing_at_all_is_binary() -> None:
    assert sniff(b"").extension == "bin"
