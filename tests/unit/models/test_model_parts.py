"""The small parts: a digest that goes on elsewhere, the journal, names, and threads."""

from __future__ import annotations

import hashlib
import threading
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl.clients.objects import MAX_PARTS, Part, composite, encoded
from sdctl.errors import UsageError
from sdctl.models import digest as digests
from sdctl.models.contents import check_seen
from sdctl.models.crc import combined_crc32
from sdctl.models.digest import Digest, restored
from sdctl.models.head import PICKLE, SAFETENSORS, BadModelError
from sdctl.models.names import file_name, folder_name, with_suffix
from sdctl.models.resume import Journal, Unfinished
from sdctl.models.sending import PART_BYTES
from sdctl.models.threads import Workers
from sdctl.models.uploads import part_size


@given(st.lists(st.binary(max_size=300), max_size=6), st.integers(0, 6))
def test_a_digest_goes_on_from_where_another_was_saved(pieces: list[bytes], cut: int) -> None:
    first = Digest()
    for piece in pieces[:cut]:
        first.update(piece)
    saved = first.save()
    assert saved is not None
    second = restored(saved)
    assert second is not None
    for piece in pieces[cut:]:
        second.update(piece)
    whole = b"".join(pieces)
    assert second.sha256 == hashlib.sha256(whole).hexdigest()


def test_without_openssl_the_digest_is_right_and_cannot_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "_openssl", lambda: None)
    digest = Digest()
    digest.update(b"abc")
    assert (digest.sha256, digest.save()) == (hashlib.sha256(b"abc").hexdigest(), None)
    assert restored("0" * 224) is None


def test_the_journal_keeps_what_is_unfinished_and_takes_damage_for_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "uploads")
    assert journal.read("bucket/key") is None
    state = Unfinished("identity", "upload", 8, True, "ab", 2, [1, 2], {1: Part(1, 8, '"e"', 1)})
    journal.write("bucket/key", state)
    assert journal.read("bucket/key") == state
    (file,) = (tmp_path / "uploads").iterdir()
    halfway = file.read_text().replace('"hashed_parts": 2', '"hashed_parts": 3')
    for damage in ("", "[]", '{"parts": 1}', '{"parts": [], "unknown": 1}', halfway):
        file.write_text(damage)
        assert journal.read("bucket/key") is None
    journal.forget("bucket/key")
    journal.forget("bucket/key")
    assert list((tmp_path / "uploads").iterdir()) == []


@given(st.integers(1, 48 * 1024**4))
def test_no_size_needs_more_parts_than_s3_takes(size_bytes: int) -> None:
    part_bytes = part_size(size_bytes, PART_BYTES)
    assert part_bytes >= PART_BYTES
    assert -(-size_bytes // part_bytes) <= MAX_PARTS


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_the_crc_32_of_a_whole_follows_from_its_pieces(pieces: list[bytes]) -> None:
    assert combined_crc32((zlib.crc32(one), len(one)) for one in pieces) == zlib.crc32(b"".join(pieces))


def test_the_checksum_of_checksums_is_s3s() -> None:
    parts = [Part(number, 1, "", zlib.crc32(bytes([number]))) for number in (1, 2)]
    digests_ = b"".join(zlib.crc32(bytes([number])).to_bytes(4, "big") for number in (1, 2))
    assert composite(parts[::-1]) == f"{encoded(zlib.crc32(digests_))}-2"


@pytest.mark.parametrize(
    "name", ["", " ", ".", "..", "a/b", "a\\b", ".hidden", "a\nb", "x" * 201, "\x1b[2J", "a\u202eb"]
)
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(UsageError):
        file_name(name)


def test_the_guides_folders_are_spelled_the_guides_way() -> None:
    assert folder_name("stable-diffusion/My Models/") == "Stable-diffusion/My Models"
    assert folder_name("diffusion_models") == "diffusion_models"


@pytest.mark.parametrize(
    ("name", "format_", "result"),
    [
        ("a", SAFETENSORS, "a.safetensors"), ("a", PICKLE, "a.ckpt"), ("v1.5", PICKLE, "v1.5.ckpt"),
        ("a.pt", PICKLE, "a.pt"), ("a.ckpt", SAFETENSORS, "a.safetensors"), ("A.CKPT", PICKLE, "A.CKPT"),
    ],
)  # fmt: skip
def test_a_suffix_follows_the_content(name: str, format_: str, result: str) -> None:
    assert with_suffix(name, format_) == result


def test_a_pickle_that_calls_itself_safetensors_is_refused() -> None:
    with pytest.raises(BadModelError):
        with_suffix("a.safetensors", PICKLE)


@pytest.mark.parametrize(("at", "is_same"), [(0, False), (8, False), (12, True)])
def test_what_was_seen_is_compared_wherever_a_piece_touches_it(at: int, is_same: bool) -> None:
    data = bytes(20)
    seen = {10: b"\x00\x01"} if not is_same else {at: bytes(4)}
    if is_same:
        check_seen(seen, 5, data)
    else:
        with pytest.raises(BadModelError):
            check_seen(seen, at, data)
    check_seen(seen, 100, b"elsewhere")


def test_workers_that_are_closed_begin_nothing_more_and_are_not_waited_for() -> None:
    begun, hold = threading.Event(), threading.Event()
    workers = Workers(1, "test")
    try:
        stuck = workers.submit(lambda: (begun.set(), hold.wait(30)))
        queued = workers.submit(lambda: 1)
        assert begun.wait(10)
        workers.close()
        assert queued.cancelled()
        assert not stuck.done()
    finally:
        hold.set()


def test_a_workers_error_is_raised_where_the_result_is_asked_for() -> None:
    workers = Workers(2, "test")
    failed = workers.submit(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failed.result(10)
    workers.close()
