"""What a `.ckpt` would do when torch loads it, read from its opcodes; nothing is ever unpickled.

Only what checkpoints of torch are made of may be named: https://docs.python.org/3/library/pickletools.html.
A name that the opcodes do not spell out, or any that is not listed, is refused.
"""

from __future__ import annotations

import io
import logging
import pickletools
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

from sdctl.models.head import BadModelError, Content, UnsafeModelError
from sdctl.models.zips import LOCAL_HEADER, pickles_of

log = logging.getLogger(__name__)

MAX_PICKLE_BYTES: Final = 32 * 1024**2
# What the pickles of the older format, which stand before the tensors, have at most in nearly every file.
_USUAL_PICKLE_BYTES: Final = 2 * 1024**2
# A checkpoint of ten thousand tensors has half a million; this many take a few seconds.
MAX_OPERATIONS: Final = 5_000_000
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
    ("torch._utils", "_rebuild_tensor"), ("torch._utils", "_rebuild_tensor_v3"),
    ("torch", "Size"), ("torch", "device"),
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
        "float8_e4m3fn", "float8_e5m2",
    )),
})  # fmt: skip
_TEXTS: Final = frozenset({"BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINUNICODE8"})
_INTEGERS: Final = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG"})
_TUPLES: Final = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "EMPTY_TUPLE"})
_PUTS: Final = frozenset({"MEMOIZE", "BINPUT", "LONG_BINPUT", "PUT"})
_GETS: Final = frozenset({"BINGET", "LONG_BINGET", "GET"})
# What torch never writes, and what names a class without spelling it out.
_REFUSED: Final = frozenset({"EXT1", "EXT2", "EXT4", "PERSID", "OBJ", "NEXT_BUFFER", "READONLY_BUFFER"})

Shapes = dict[str, tuple[int, ...]]


def read_pickle(content: Content) -> Shapes:
    """Examine a file that torch saved, a zip or one of the older kind; return its tensors' shapes by name.

    Raises:
        BadModelError: it is no sound file of that kind.
        UnsafeModelError: loading it would execute something.
    """
    if content.read(0, min(len(LOCAL_HEADER), content.size_bytes)) == LOCAL_HEADER:
        scanner = _Scanner()
        for name, text in pickles_of(content, MAX_PICKLE_BYTES):
            scanner.scan(io.BytesIO(text), name)
        return scanner.shapes
    most = min(content.size_bytes, MAX_PICKLE_BYTES)
    if most > _USUAL_PICKLE_BYTES:
        try:
            return _legacy(content.read(0, _USUAL_PICKLE_BYTES))
        except BadModelError as error:
            log.debug("more of the file is read: %s", error.message)
    return _legacy(content.read(0, most))


def check_text_pickle(content: Content) -> None:
    """Refuse what torch would run of a pickle in the oldest protocols, which no mark at the beginning tells.

    Raises:
        UnsafeModelError: loading it would execute something.
    """
    with suppress(BadModelError):  # it is no pickle, or none whose beginning is unsafe
        _Scanner().scan(io.BytesIO(content.read(0, min(content.size_bytes, _USUAL_PICKLE_BYTES))), "the file")


def _legacy(start: bytes) -> Shapes:
    """Examine the older format, of which the tensors are not needed."""
    scanner, data = _Scanner(), io.BytesIO(start)
    scanner.scan(data, "the file")  # what is unsafe is said first
    end = data.tell()
    data.seek(0)
    first = islice(scanner.operations(data, "the file"), 5)
    magic = [argument for name, argument, _ in first if name not in ("PROTO", "FRAME", "STOP")]
    if magic != [_LEGACY_MAGIC]:
        raise BadModelError("the file is a pickle, but none that torch saved")
    data.seek(end)
    for _ in range(_LEGACY_PICKLES - 1):
        scanner.scan(data, "the file")
    return scanner.shapes


class _Scanner:
    """Goes through the operations of a file's pickles, refuses what is unsafe, collects tensors' shapes."""

    def __init__(self) -> None:
        self._tensors: Shapes = {}
        self._texts: list[str] = []
        self._count = 0

    @property
    def shapes(self) -> Shapes:
        """What was found: where the weights are no tensors of torch, as arrays, their names alone."""
        return self._tensors or dict.fromkeys(self._texts, ())

    def operations(self, data: io.BytesIO, where: str) -> Iterator[tuple[str, object, int]]:
        """Yield name, argument and place of each operation of one pickle."""
        try:
            for operation, argument, at in pickletools.genops(data):
                self._count += 1
                if self._count > MAX_OPERATIONS:
                    raise BadModelError(f"the pickle has over {MAX_OPERATIONS} operations; no sound one has")
                yield operation.name, argument, at or 0
        except (ValueError, IndexError, OverflowError, MemoryError) as error:
            raise BadModelError(f"the pickle of {where} cannot be read: {str(error)[:120]}") from error

    def scan(self, data: io.BytesIO, where: str) -> None:
        """Refuse what is unsafe in one pickle, and take the tensors that it names.

        A tensor is written as its name, then a persistent id, then its offset and its shape.
        """
        texts: list[str] = []  # since the last tensor
        top: list[str] = []  # what is known to lie on top of the stack: texts that nothing came after
        memo: dict[int, str | None] = {}
        numbers: list[int] | None = None  # since a persistent id
        for name, argument, at in self.operations(data, where):
            text = str(argument) if name in _TEXTS else memo.get(_index(argument)) if name in _GETS else None
            if text is not None:
                texts.append(text)
                top.append(text)
                continue
            if name in _PUTS:
                memo[len(memo) if name == "MEMOIZE" else _index(argument)] = top[-1] if top else None
                continue
            if name in ("GLOBAL", "INST", "STACK_GLOBAL"):
                _check_name(name, argument, top, f"{where}, byte {at}")
            elif name in _REFUSED:
                raise UnsafeModelError(
                    f"the pickle has the opcode {name}, which torch never writes ({where}, byte {at})"
                )
            top = []
            if name == "BINPERSID":
                numbers = []
            elif numbers is not None and name in _INTEGERS and isinstance(argument, int):
                numbers.append(argument)
            elif numbers is not None and name in _TUPLES:
                if name_of_tensor := _tensor_name(texts):
                    self._tensors[name_of_tensor] = tuple(numbers[1:])
                texts, numbers = [], None
        self._texts += texts


def _index(argument: object) -> int:
    return argument if isinstance(argument, int) else -1


def _tensor_name(texts: list[str]) -> str:
    """Pick a tensor's name: the text before the storage's, of which kind, number and place follow."""
    for at in range(len(texts) - 1, 0, -1):
        if texts[at] == "storage":
            return texts[at - 1]
    return ""


def _check_name(opcode: str, argument: object, top: list[str], where: str) -> None:
    if opcode == "STACK_GLOBAL":
        if len(top) < 2:
            raise UnsafeModelError(
                f"the pickle hides what it calls: STACK_GLOBAL without a plain name ({where})"
            )
        module, name = top[-2], top[-1]
    else:
        module, _, name = str(argument).partition(" ")
    if (module, name) not in _SAFE:
        raise UnsafeModelError(
            f"loading it would call {module}.{name}: {opcode} ({where})"[:300],
            hint="take the .safetensors file of the same model",
        )
