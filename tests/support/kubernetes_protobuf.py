"""Reads the few objects that Go clients post as protobuf: Secrets, ConfigMaps, Namespaces, DeleteOptions.

Field numbers are those of k8s.io/api/core/v1/generated.proto and apimachinery's meta/v1/generated.proto.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\0"
_META = {1: "name", 2: "generateName", 3: "namespace", 5: "uid", 6: "resourceVersion"}
_LABELS, _ANNOTATIONS = 11, 12


class UnreadableError(Exception):
    """A protobuf message of a kind that this reader does not know."""


def decode(raw: bytes) -> dict[str, Any]:
    """Decode one object in its `k8s\\0` envelope."""
    envelope = dict(_fields(raw[len(MAGIC) :]))
    type_meta = dict(_fields(envelope[1]))
    kind = type_meta[2].decode()
    found: dict[str, Any] = {"apiVersion": type_meta[1].decode(), "kind": kind}
    if kind == "DeleteOptions":
        policies = [value.decode() for number, value in _fields(envelope[2]) if number == 4]
        return found | ({"propagationPolicy": policies[0]} if policies else {})
    if kind not in ("Secret", "ConfigMap", "Namespace"):
        raise UnreadableError(kind)
    found["metadata"] = {}
    for number, value in _fields(envelope[2]):
        if number == 1:
            found["metadata"] = _metadata(value)
        elif number == 2 and kind != "Namespace":
            name, data = _pair(value)
            text = b64encode(data).decode() if kind == "Secret" else data.decode()
            found.setdefault("data", {})[name] = text
        elif number == 3 and kind == "Secret":
            found["type"] = value.decode()
    return found


def _metadata(raw: bytes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for number, value in _fields(raw):
        if number in _META and value:
            found[_META[number]] = value.decode()
        elif number in (_LABELS, _ANNOTATIONS):
            name, text = _pair(value)
            found.setdefault("labels" if number == _LABELS else "annotations", {})[name] = text.decode()
    return found


def _pair(raw: bytes) -> tuple[str, bytes]:
    entry = dict(_fields(raw))
    return entry.get(1, b"").decode(), entry.get(2, b"")


def _fields(raw: bytes) -> Iterator[tuple[int, Any]]:
    """Yield (field number, value) of a message: bytes for a length-delimited field, else an integer."""
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        if wire == 0:
            value, at = _varint(raw, at)
            yield number, value
        elif wire == 2:
            size, at = _varint(raw, at)
            yield number, raw[at : at + size]
            at += size
        elif wire in (1, 5):
            width = 8 if wire == 1 else 4
            yield number, int.from_bytes(raw[at : at + width], "little")
            at += width
        else:
            raise UnreadableError(f"wire type {wire}")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
