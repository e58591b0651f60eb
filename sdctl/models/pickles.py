"""What a `.ckpt` would do when torch loads it, read from its opcodes; nothing is ever unpickled.

Only what checkpoints of torch are made of may be named: https://docs.python.org/3/library/pickletools.html.
A name that the opcodes do not spell out, or any that is not listed, is refused.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from typing import Final

from sdctl.models.head import BadModelError, Content, ContentFile, UnsafeModelError

MAX_PICKLE_BYTES: Final = 32 * 1024**2
MAX_ENTRIES: Final = 50_000
# torch's format before it was a zip: five pickles, then the tensors.
# https://github.com/pytorch/pytorch/blob/main/torch/serialization.py
_LEGACY_MAGIC: Final = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES: Final = 5

_STORAGES: Final = (
    "FloatStorage", "HalfStorage", "DoubleStorage", "IntStorage", "LongStorage", "ShortStorage",
    "CharStorage", "ByteStorage", "BoolStorage", "BFloat16Storage",
)  # fmt: skip
_SAFE: Final = frozenset({
    ("collections", "OrderedDict"), ("builtins", "set"), ("__builtin__", "set"), ("_codecs", "encode"),
    ("torch._utils", "_rebuild_tensor_v2"), ("torch._utils", "_rebuild_parameter"),
    ("torch._utils", "_rebuild_tensor"), ("torch", "Size"), ("torch", "device"),
    ("torch.nn.modules.container", "ParameterDict"), ("torch.nn.parameter", "Parameter"),
    ("numpy", "dtype"), ("numpy", "ndarray"),
    ("numpy.core.multiarray", "scalar"), ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"), ("numpy._core.multiarray", "_reconstruct"),
    ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
    ("pytorch_lightning.callbacks", "ModelCheckpoint"),
    *(("torch", name) for name in _STORAGES),
    *(("torch.storage", name) for name in ("TypedStorage", "UntypedStorage")),
    *(("torch", name) for name in (
        "float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool",
    )),
})  # fmt: skip
_TEXTS: Final = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINUNICODE8"})
_INTEGERS: Final = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"})
_TUPLES: Final = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"})
_MEMO: Final = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"})
# What torch never writes, and what names a class without spelling it out.
_REFUSED: Final = frozenset({"EXT1", "EXT2", "EXT4", "PERSID", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER"})

Shapes = dict[str, tuple[int, ...]]


def read_pickle(content: Content) -> Shapes:
    """Examine a file that torch saved, a zip or one of the older kind; return its tensors' shapes by name.

    Raises:
        BadModelError: it is no sound file of that kind.
        UnsafeModelError: loading it would execute something.
    """
    file = ContentFile(content, MAX_PICKLE_BYTES)
    if content.read(0, min(2, content.size_bytes)) == b"PK":
        return _zip(file)
    return _legacy(content)


def _zip(file: ContentFile) -> Shapes:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries)
            shapes: Shapes = {}
            for entry in entries:
                if entry.filename.endswith(".pkl"):
                    with archive.open(entry) as data:
                        text = data.read(MAX_PICKLE_BYTES + 1)
                    if len(text) > MAX_PICKLE_BYTES:
                        raise BadModelError(f"{entry.filename} in the zip is larger than any sound one")
                    shapes |= _scan(io.BytesIO(text), entry.filename)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise BadModelError(f"the file begins as a zip and is none that can be read: {error}") from error
    return shapes


def _check_entries(entries: list[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if len(names) > MAX_ENTRIES:
        raise BadModelError(f"the zip has {len(names)} entries; {MAX_ENTRIES} is the most")
    if len(set(names)) != len(names):
        raise UnsafeModelError(
            "the zip has two entries of one name: what is examined may not be what is loaded"
        )
    for name in names:
        if name.startswith("/") or "\\" in name or ".." in name.split("/") or "\0" in name:
            raise UnsafeModelError(f"the zip has an entry that leads out of its folder: {name[:80]!r}")
        if "code" in name.split("/")[:-1]:
            raise UnsafeModelError(f"the zip is a TorchScript program, not a set of weights: {name[:80]!r}")
    if sum(name.endswith("/data.pkl") or name == "data.pkl" for name in names) != 1:
        raise BadModelError("the zip is no file that torch saved: it has not one data.pkl")


def _legacy(content: Content) -> Shapes:
    data = io.BytesIO(content.read(0, min(content.size_bytes, MAX_PICKLE_BYTES)))
    magic = [argument for name, argument, _ in _operations(data, "the file") if name == "LONG1"]
    if magic != [_LEGACY_MAGIC]:
        data.seek(0)
        _scan(data, "the file")  # what is unsafe is said first
        raise BadModelError("the file is a pickle, but none that torch saved")
    shapes: Shapes = {}
    for _ in range(_LEGACY_PICKLES - 1):
        shapes |= _scan(data, "the file")
    return shapes


def _operations(data: io.BytesIO, where: str) -> Iterator[tuple[str, object, int]]:
    """Yield name, argument and place of each operation of one pickle."""
    try:
        for operation, argument, at in pickletools.genops(data):
            yield operation.name, argument, at or 0
    except (ValueError, IndexError, UnicodeDecodeError, OverflowError, MemoryError) as error:
        raise BadModelError(f"the pickle of {where} cannot be read: {str(error)[:120]}") from error


def _scan(data: io.BytesIO, where: str) -> Shapes:
    """Refuse what is unsafe in one pickle; return the tensors that it names.

    A tensor is written as its name, then a persistent id, then its offset and its shape.
    """
    shapes: Shapes = {}
    texts: list[str] = []  # since the last tensor
    direct: list[str] = []  # texts that nothing but memo operations followed
    numbers: list[int] | None = None  # since a persistent id
    for name, argument, at in _operations(data, where):
        if name in _TEXTS:
            texts.append(str(argument))
            direct.append(str(argument))
            continue
        if name in _MEMO:
            continue
        if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
            _check_name(name, argument, direct, f"{where}, byte {at}")
        elif name in _REFUSED:
            raise UnsafeModelError(
                f"the pickle has the opcode {name}, which torch never writes ({where}, byte {at})"
            )
        direct = []
        if name == "BINPERSID":
            numbers = []
        elif numbers is not None and name in _INTEGERS and isinstance(argument, int):
            numbers.append(argument)
        elif numbers is not None and name in _TUPLES:
            if name_of_tensor := _tensor_name(texts):
                shapes[name_of_tensor] = tuple(numbers[1:])
            texts, numbers = [], None
    return shapes


def _tensor_name(texts: list[str]) -> str:
    """Pick a tensor's name from the texts before it; its storage's kind, number and place follow."""
    if "storage" in texts:
        return texts[max(0, texts.index("storage") - 1)]
    return texts[0] if texts else ""  # the word and the place are taken from the memo


def _check_name(opcode: str, argument: object, direct: list[str], where: str) -> None:
    if opcode == "STACK_GLOBAL":
        if len(direct) < 2:
            raise UnsafeModelError(
                f"the pickle hides what it calls: STACK_GLOBAL without a plain name ({where})"
            )
        module, name = direct[-2], direct[-1]
    else:
        module, _, name = str(argument).partition(" ")
    if (module, name) not in _SAFE:
        raise UnsafeModelError(
            f"loading it would call {module}.{name}: {opcode} ({where})"[:300],
            hint="take the .safetensors file of the same model",
        )
