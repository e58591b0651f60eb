"""Pickles and zips that are made to show one thing to whoever examines them and another to torch."""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import zipfile
import zlib

import pytest

from sdctl.models import pickles, zips
from sdctl.models.head import BadModelError, UnsafeModelError, read_head
from sdctl.models.identify import identify
from support.model_files import KINDS, Held, torch_legacy, torch_pickle, torch_zip, torch_zip64

MAGIC = b"\x8a\x0a" + (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
CALL = b"cposix\nsystem\n(X\x04\x00\x00\x00truetR0"
GOOD = torch_pickle(KINDS["sd1"])
EVIL = torch_pickle(KINDS["sd1"], CALL)


def kind_of(data: bytes) -> tuple[str, str]:
    head = read_head(Held(data))
    assert head is not None
    what = identify(head)
    return what.type, what.base


def refused(data: bytes, reason: str) -> None:
    with pytest.raises((BadModelError, UnsafeModelError), match=reason):
        read_head(Held(data))


def test_the_zip_that_torch_itself_writes_is_read() -> None:
    assert kind_of(torch_zip64(GOOD)) == ("checkpoint", "SD1")


@pytest.mark.parametrize("number", range(5))
def test_each_of_the_five_pickles_of_the_older_format_is_examined(number: int) -> None:
    whole = torch_legacy(GOOD)
    file, ends = io.BytesIO(whole), [0]
    for _ in range(5):
        assert list(pickletools.genops(file))
        ends.append(file.tell())
    at = ends[number] + 2  # behind the protocol
    refused(whole[:at] + CALL + whole[at:], r"posix\.system: GLOBAL")


class Counted(Held):
    """Content that knows how far it was read."""

    furthest = 0

    def read(self, start: int, length: int) -> bytes:
        self.furthest = max(self.furthest, start + length)
        return super().read(start, length)


@pytest.mark.parametrize("filled_bytes", [0, 3 * 1024**2])
def test_of_the_older_format_no_more_is_read_than_is_needed(filled_bytes: int) -> None:
    filled = b"X" + struct.pack("<I", filled_bytes) + b"x" * filled_bytes + b"0"
    content = Counted(torch_legacy(torch_pickle(KINDS["sd1"], filled)) + bytes(40 * 1024**2))
    head = read_head(content)
    assert head is not None
    assert identify(head).base == "SD1"
    assert content.furthest == (32 if filled_bytes else 2) * 1024**2


def test_a_magic_number_with_anything_beside_it_is_not_torchs() -> None:
    refused(b"\x80\x02N0" + MAGIC + b"." + torch_legacy(GOOD)[15:], "none that torch saved")


def test_weights_that_are_no_tensors_of_torch_are_known_by_their_names() -> None:
    text = pickle.dumps({"state_dict": {name: [0.5] for name in KINDS["sd1"]}}, protocol=2)
    assert kind_of(torch_zip(text)) == ("checkpoint", "SD1")


def test_the_first_pickle_of_protocol_0_is_no_model_at_all() -> None:
    assert read_head(Held(CALL + MAGIC + b".")) is None


@pytest.mark.parametrize("start", [b"PK", b"PK\x05\x06", b"PKx\n" + CALL])
def test_what_only_ends_as_a_zip_is_no_zip(start: bytes) -> None:
    """torch goes by the first four bytes, and would unpickle such a file from its beginning."""
    assert read_head(Held(start + torch_zip(GOOD))) is None


@pytest.mark.parametrize("name", ["archive/DATA.PKL", "ARCHIVE/data.pkl"])
def test_names_that_differ_in_case_alone_are_one_name(name: str) -> None:
    """torch's reader of zips finds either."""
    refused(two_entries("archive/data.pkl", GOOD, name, EVIL), "two entries")


def test_a_pickle_under_capitals_is_examined() -> None:
    refused(torch_zip(EVIL, names=("archive/DATA.PKL",)), r"posix\.system")


def test_a_name_that_only_an_extra_field_tells_hides_nothing() -> None:
    """Newer Pythons read the Info-ZIP Unicode path, which torch does not know."""
    raw = b"archive/data.pkl"
    other = b"archive/harmless"
    field = struct.pack("<BI", 1, zlib.crc32(raw)) + other
    entry = zipfile.ZipInfo(raw.decode())
    entry.extra = struct.pack("<HH", 0x7075, len(field)) + field
    refused(written((entry, EVIL)), r"posix\.system")


def test_a_directory_at_another_place_than_it_says_is_refused() -> None:
    """Python adds up sizes from the end, torch believes the offset: each would see its own directory."""
    harmless = torch_pickle(
        KINDS["sd1"], b"X" + struct.pack("<I", len(CALL) - 6) + b"x" * (len(CALL) - 6) + b"0"
    )
    crafted = torch_zip(EVIL)[:-22] + torch_zip(harmless)
    assert zipfile.ZipFile(io.BytesIO(crafted)).read("archive/data.pkl") == harmless
    refused(crafted, "not where it says")


def test_a_zip64_end_at_another_place_than_it_says_is_refused() -> None:
    data = bytearray(torch_zip64(GOOD))
    data[-22 - 20 + 8 : -22 - 20 + 16] = struct.pack("<Q", 0)
    refused(bytes(data), "not where it says")


@pytest.mark.parametrize(
    "spoil", [lambda data: data + b"x", lambda data: data[:-1], lambda data: data[:-2] + b"\x01\x00c"]
)
def test_a_zip_with_more_or_less_behind_it_is_refused(spoil: object) -> None:
    refused(spoil(torch_zip(GOOD)), "does not end as torch ends one")  # type: ignore[operator]


def test_a_zip_over_several_disks_is_refused() -> None:
    data = bytearray(torch_zip(GOOD))
    data[-18:-16] = b"\x01\x00"
    refused(bytes(data), "not where it says")


def test_a_directory_without_end_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zips, "MAX_DIRECTORY_BYTES", 100)
    refused(torch_zip(GOOD), "directory of the zip has")


def test_a_zip_in_a_zip_is_not_taken_for_a_model() -> None:
    refused(torch_zip(torch_zip(EVIL), names=("archive/model.zip",)), "not one data.pkl")


def test_many_pickles_in_one_zip_are_refused() -> None:
    names = ("archive/data.pkl", *(f"archive/{number}.pkl" for number in range(20)))
    refused(torch_zip(GOOD, names=names), "21 pickles")


def test_pickles_together_may_not_be_larger_than_one_may() -> None:
    names = ("archive/data.pkl", "archive/a.pkl", "archive/b.pkl")
    filled = b"\x80\x02" + b"X" + struct.pack("<I", 14 * 1024**2) + bytes(14 * 1024**2) + b"."
    refused(torch_zip(filled, names=names, compressed=True), "larger than")


@pytest.mark.parametrize("wrap", [torch_zip, torch_legacy])
def test_operations_without_end_are_refused(monkeypatch: pytest.MonkeyPatch, wrap: object) -> None:
    monkeypatch.setattr(pickles, "MAX_OPERATIONS", 10_000)
    refused(wrap(torch_pickle(KINDS["sd1"], b"N0" * 10_000)), "over 10000 operations")  # type: ignore[operator]
    assert kind_of(torch_zip(torch_pickle(KINDS["sd1"], b"N0" * 1_000))) == ("checkpoint", "SD1")


def test_a_memo_of_any_number_costs_nothing() -> None:
    extra = b"X\x01\x00\x00\x00ar\xff\xff\xff\xff0j\xff\xff\xff\xff0"
    assert kind_of(torch_zip(torch_pickle(KINDS["sd1"], extra))) == ("checkpoint", "SD1")


STACKED = {
    "plain texts": b"\x8c\x05posix\x8c\x06system\x93",
    "texts from the memo": b"\x8c\x05posix\x94\x8c\x06system\x94000h\x00h\x01\x93",
    "a memo that was overwritten": b"\x8c\x05torchq\x07\x8c\x05posixq\x0700h\x07\x8c\x04Size\x93",
    "a safe pair below another": b"\x8c\x05torch\x8c\x04Size\x8c\x05posix\x8c\x06system\x93",
    "a name that was taken off again": b"\x8c\x05torch\x8c\x04Size\x8c\x01x0\x93",
    "a name out of a list": b"]\x8c\x05torcha\x8c\x04Size\x93",
    "a duplicate": b"\x8c\x04Size2\x93",
    "a byte string": b"\x8c\x05torchU\x04Size\x93",
}


@pytest.mark.parametrize("name", sorted(STACKED))
def test_a_class_from_the_stack_must_be_spelled_out_and_known(name: str) -> None:
    pickled = torch_pickle(KINDS["sd1"])[:-1] + STACKED[name] + b"."
    with pytest.raises(UnsafeModelError):
        read_head(Held(torch_zip(pickled)))


@pytest.mark.parametrize(
    "name",
    [
        "torch.load",
        "torch.storage._load_from_bytes",
        "torch._utils._rebuild_tensor_v2.__globals__",
        "torch.hub.load",
        "numpy.load",
        "numpy.testing._private.utils.runstring",
        "builtins.getattr",
        "builtins.__import__",
        "collections.OrderedDict.fromkeys",
        "torch.serialization.load",
        "functools.partial",
        "operator.attrgetter",
        "pip._internal.main",
        "torch.nn.modules.container.Sequential",
        "_codecs.decode",
        "_pickle.loads",
    ],
)
def test_names_that_look_like_torchs_own_are_refused(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    call = f"c{module}\n{attribute}\n(tR0".encode()
    refused(torch_zip(torch_pickle(KINDS["sd1"], call)), "would call")


def test_safe_classes_of_newer_protocols_pass() -> None:
    """They come from the stack, their module's name a second time from the memo."""
    extra = b"\x8c\x05torchq\x20\x8c\x0cFloatStorage\x930h\x20\x8c\x0bHalfStorageq\x21\x930"
    assert kind_of(torch_zip(torch_pickle(KINDS["sd1"], extra))) == ("checkpoint", "SD1")


def test_a_textual_inversion_is_told_by_names_that_the_memo_holds() -> None:
    star = b"X\x01\x00\x00\x00*q\x64"
    tensor = torch_pickle({"x": (3, 768)})
    rebuilt = tensor[tensor.index(b"ctorch._utils") : -2]
    token = b"X\x0f\x00\x00\x00string_to_token}" + star + b"M\x09\x01s"
    param = b"X\x0f\x00\x00\x00string_to_param}h\x64" + rebuilt + b"s"
    assert kind_of(torch_zip(b"\x80\x02}(" + token + param + b"u.")) == ("embedding", "SD1")


def written(*entries: tuple[zipfile.ZipInfo | str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry, data in entries:
            archive.writestr(entry, data)
    return file.getvalue()


def two_entries(first: str, one: bytes, second: str, other: bytes) -> bytes:
    return written((first, one), (second, other))
