"""Answers with images inside, read in pieces."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl_agent.errors import PermanentError
from sdctl_agent.runtimes.image_json import LONG_STRING_BYTES, ImageJson, decode_short, without_bytes


def read(text: bytes, *cuts: int) -> Any:
    parser = ImageJson()
    edges = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    for start, end in itertools.pairwise(edges):
        parser.feed(text[start:end])
    return parser.finish()


def plain(value: Any) -> Any:
    """Undo what the parser does, so that its result can be compared with that of `json`."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


def picture(data: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + data


long_images = st.binary(min_size=LONG_STRING_BYTES, max_size=LONG_STRING_BYTES + 50).map(
    lambda data: base64.b64encode(data).decode()
)
texts = st.one_of(
    st.text(max_size=20),
    long_images,
    st.sampled_from(['"', "\\", '\\"', "x\\\\" * 600, "A" * 1023, "é" * 700, "A" * 1500 + "!"]),
)
documents = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), texts),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(document=documents, cuts=st.lists(st.integers(0, 10**6), max_size=6), is_ascii=st.booleans())
def test_a_document_is_read_as_json_reads_it_however_it_is_cut(
    document: Any, cuts: list[int], is_ascii: bool
) -> None:
    text = json.dumps(document, ensure_ascii=is_ascii).encode()
    assert plain(read(text, *cuts)) == document


@pytest.mark.parametrize(
    "text",
    [
        "A" * 1500 + "!",
        "A" * 1500,
        "A" * 1501,
        "A" * 1502,
        "A" * 1503,
        "data:text/plain;base64," + "QUJD" * 500,
    ],
)
@given(cut=st.integers(0, 2000))
def test_a_long_word_that_is_no_picture_stays_as_it_was(text: str, cut: int) -> None:
    assert read(json.dumps({"prompt": text}).encode(), cut) == {"prompt": text}


@given(
    data=st.binary(min_size=1000, max_size=5000),
    cut=st.integers(0, 8000),
    prefix=st.sampled_from(["", "data:image/png;base64,"]),
)
def test_images_come_out_whole(data: bytes, cut: int, prefix: str) -> None:
    data = picture(data)
    text = json.dumps({"images": [prefix + base64.b64encode(data).decode()]}).encode()
    (image,) = read(text, cut)["images"]
    assert (image if isinstance(image, bytes) else decode_short(image)) == data


def test_escaped_slashes_and_missing_padding_are_understood() -> None:
    data = picture(b"\xff\xef\xbe" * 1000 + b"\x01")
    text = base64.b64encode(data).decode().rstrip("=")
    assert "/" in text
    assert read(f'["{text}"]'.encode()) == [data]
    (escaped,) = read(f'["{text}"]'.replace("/", "\\/").encode())
    assert decode_short(escaped) == data
    assert decode_short("AQ") == b"\x01"


def test_no_answer_can_forge_a_taken_string() -> None:
    first, second = ImageJson(), ImageJson()
    assert first._mark != second._mark


def test_taken_strings_are_shown_by_their_length() -> None:
    assert without_bytes({"a": [b"123", "x"], "b": 1}) == {"a": ["<3 bytes>", "x"], "b": 1}


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": "', b"[" * 100_000, b"\xff", b'["' + b"A" * 3000])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(PermanentError):
        read(text)
