"""Where a task's content may name inputs by URL, and how they get into an SD WebUI request. Pure.

The places are the contract's: `init_images[*]`, `mask`, `image`, `imageList[*].data`,
`alwayson_scripts.*.args[*].{image,input_image,mask}` and `alwayson_scripts.*.args[*].image.{image,mask}`.
A string anywhere else is text, whatever it looks like.
"""

from __future__ import annotations

import binascii
import json
import re
import uuid
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl.contract import ROUTING_KEYS

_URL = re.compile(r"(?:https?|s3)://\S+", re.IGNORECASE)
_UNIT_KEYS: Final = ("image", "input_image", "mask")
# Three bytes give four characters, so that only the last slice may end with padding.
_SLICE_BYTES: Final = 3 * 64 * 1024

# A place that holds a value: its container, key or index there, and its path for messages.
Place = tuple[MutableMapping[str, Any] | MutableSequence[Any], Any, str]


def is_url(value: object) -> bool:
    """Tell whether a value is a string that is wholly an http, https or s3 URL."""
    return isinstance(value, str) and _URL.fullmatch(value) is not None


def webui_content(content: Mapping[str, Any]) -> tuple[dict[str, Any], list[Place]]:
    """Copy a task's content for an SD WebUI, without our routing keys.

    Returns:
        The copy, in which every container on the way to a place is the copy's own, and the places
        that hold a URL.
    """
    copy = {key: _copied(key, value) for key, value in content.items()}
    return copy, [place for place in _places(copy) if is_url(place[0][place[1]])]


def _copied(key: str, value: Any) -> Any:
    if key == "init_images" and isinstance(value, list):
        return list(value)
    if key == "imageList" and isinstance(value, list):
        return [dict(item) if isinstance(item, dict) else item for item in value]
    if key == "alwayson_scripts" and isinstance(value, dict):
        return {name: _copied_script(script) for name, script in value.items() if name not in ROUTING_KEYS}
    return value


def _copied_script(script: Any) -> Any:
    if not isinstance(script, dict) or not isinstance(script.get("args"), list):
        return script
    return script | {"args": [_copied_unit(unit) for unit in script["args"]]}


def _copied_unit(unit: Any) -> Any:
    if not isinstance(unit, dict):
        return unit
    return {
        key: dict(value) if key == "image" and isinstance(value, dict) else value
        for key, value in unit.items()
    }


def _places(copy: dict[str, Any]) -> Iterator[Place]:
    images = copy.get("init_images")
    if isinstance(images, list):
        yield from ((images, index, f"init_images[{index}]") for index in range(len(images)))
    yield from ((copy, key, key) for key in ("mask", "image") if key in copy)
    batch = copy.get("imageList")
    if isinstance(batch, list):
        for index, item in enumerate(batch):
            if isinstance(item, dict) and "data" in item:
                yield item, "data", f"imageList[{index}].data"
    scripts = copy.get("alwayson_scripts")
    if isinstance(scripts, dict):
        for name, script in scripts.items():
            yield from _script_places(name, script)


def _script_places(name: str, script: Any) -> Iterator[Place]:
    units = script.get("args") if isinstance(script, dict) else None
    for index, unit in enumerate(units if isinstance(units, list) else []):
        if not isinstance(unit, dict):
            continue
        path = f"alwayson_scripts.{name}.args[{index}]"
        yield from ((unit, key, f"{path}.{key}") for key in _UNIT_KEYS if key in unit)
        pair = unit.get("image")
        if isinstance(pair, dict):
            yield from ((pair, key, f"{path}.image.{key}") for key in ("image", "mask") if key in pair)


@dataclass(frozen=True, slots=True)
class Base64Text:
    """A file as base64 that is encoded a slice at a time, as often as it is read."""

    data: bytes = field(repr=False)

    def __len__(self) -> int:
        return (len(self.data) + 2) // 3 * 4

    def __iter__(self) -> Iterator[bytes]:
        view = memoryview(self.data)
        for start in range(0, len(view), _SLICE_BYTES):
            yield binascii.b2a_base64(view[start : start + _SLICE_BYTES], newline=False)


def encoded_body(
    copy: dict[str, Any], places: list[Place], fetch: Callable[[str, str], bytes]
) -> list[bytes | Base64Text]:
    """Encode the request as parts to be sent one after the other, each URL replaced by base64.

    An input is held as the bytes that were fetched, and becomes base64 only while it is sent.

    Args:
        copy: what `webui_content` returns first; it is used up.
        places: what `webui_content` returns second.
        fetch: gives the bytes for (URL, path of the place); what it raises passes through.
    """
    token = uuid.uuid4().hex
    fetched: dict[str, Base64Text] = {}
    order = []
    for index, (container, key, path) in enumerate(places):
        url = container[key]
        if url not in fetched:
            fetched[url] = Base64Text(fetch(url, path))
        order.append(fetched[url])
        container[key] = f"{token}{index}."
    pieces = re.split(rf"{token}(\d+)\.", json.dumps(copy, ensure_ascii=False))
    parts: list[bytes | Base64Text] = []
    for index, piece in enumerate(pieces):
        parts.append(order[int(piece)] if index % 2 else piece.encode())
    return parts
