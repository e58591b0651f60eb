"""What travels along the links of a workflow, and how a node finds what it needs in what it is given.

A class that sketch does not know hands on a `Bundle` of its inputs. Whoever needs a picture, a text or a
number looks for it in there, nearest first, so that chains of custom nodes still lead to a picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from PIL import Image

    from sdctl.local.sketch.fields import Bytes

MAX_SIDE = 4096
# What one value may hold: a batch of 16 at 2048x2048.
MAX_PIXELS = 16 * 2048 * 2048
# A search through bundles gives up here; no real workflow is that large.
_MAX_VISITS = 5000
_FIRST = ("images", "image", "pixels", "samples", "latent", "latent_image", "positive", "text", "value")
Kind = TypeVar("Kind")


class NodeError(Exception):
    """A node failed: `kind` is the class of the exception as the run reports it."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True, eq=False)
class Pictures:
    """An IMAGE: frames of RGB pixels, all of one size."""

    frames: tuple[Bytes, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Latent:
    """A LATENT: a size and a batch, and the pictures it holds once something was encoded or sampled."""

    width: int
    height: int
    batch: int = 1
    frames: tuple[Bytes, ...] = ()
    mask: Image.Image | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A MASK: white is where something is to change."""

    image: Image.Image


@dataclass(frozen=True, slots=True, eq=False)
class Words:
    """A CONDITIONING: the text that was encoded."""

    text: str


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A MODEL: the name of its file."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """What a node of an unknown class hands on: its inputs by name."""

    class_type: str
    inputs: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """What a node returns: a value for each slot; a slot that is not listed gets `rest`."""

    slots: tuple[Any, ...] = ()
    rest: Any = None
    ui: dict[str, list[Any]] | None = field(default=None)

    def slot(self, index: int) -> Any:
        """Return what a link to this slot carries."""
        return self.slots[index] if 0 <= index < len(self.slots) else self.rest


def walk(value: Any, first: Sequence[str] = _FIRST) -> Iterator[tuple[str, Any]]:
    """Yield a value and all that its bundles hold, nearest first, each with the name of its input."""
    level: list[tuple[str, Any]] = [("", value)]
    seen: set[int] = set()
    while level and len(seen) < _MAX_VISITS:
        following: list[tuple[str, Any]] = []
        for name, one in level:
            yield name, one
            if isinstance(one, Bundle) and id(one) not in seen:
                seen.add(id(one))
                known = [key for key in first if key in one.inputs]
                following += [(key, one.inputs[key]) for key in dict.fromkeys([*known, *one.inputs])]
        level = following


def find(value: Any, kind: type[Kind]) -> Kind | None:
    """Return the nearest value of a kind, or None."""
    return next((one for _, one in walk(value) if isinstance(one, kind)), None)


def find_text(value: Any, names: Sequence[str] = ()) -> str | None:
    """Return the nearest text: a conditioning's, else a string, those under the given names first."""
    if isinstance(value, str):
        return value
    words = next((one for _, one in walk(value, names or _FIRST) if isinstance(one, Words)), None)
    if words is not None:
        return words.text
    strings = [(name, one) for name, one in walk(value, names or _FIRST) if isinstance(one, str)]
    for wanted in names or ("text", "string", "value", "prompt", "positive"):
        named = next((one for name, one in strings if wanted in name.lower()), None)
        if named is not None:
            return named
    return None


def find_number(value: Any, names: Sequence[str]) -> float | None:
    """Return a number: the value itself, else the nearest one under one of the names."""
    if _is_number(value):
        return float(value) if isinstance(value, float) else int(value)
    numbers = [(name, one) for name, one in walk(value, names) if _is_number(one)]
    for wanted in names:
        named = next((one for name, one in numbers if name == wanted), None)
        if named is not None:
            return named  # type: ignore[no-any-return]
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def find_pictures(value: Any) -> Pictures | None:
    """Return the nearest pictures; a latent counts as what it decodes to."""
    for _, one in walk(value):
        if isinstance(one, Pictures):
            return one
        if isinstance(one, Latent):
            return decoded(one)
    return None


def decoded(latent: Latent) -> Pictures:
    """Return the pictures of a latent; one that nothing was sampled into is plain grey, as from the VAE."""
    if latent.frames:
        return Pictures(latent.frames)
    import numpy as np

    plain = np.full((latent.height, latent.width, 3), 127, np.uint8)
    return Pictures((plain,) * latent.batch)


def checked_size(width: float, height: float, count: int = 1, multiple: int = 1) -> tuple[int, int]:
    """Return a size in whole pixels.

    Raises:
        NodeError: it is not positive or larger than what sketch draws.
    """
    wide, high = (max(multiple, int(side) // multiple * multiple) for side in (width, height))
    if width < 1 or height < 1:
        raise NodeError("ValueError", f"height and width must be > 0, not {width:g}x{height:g}")
    if max(wide, high) > MAX_SIDE or wide * high * count > MAX_PIXELS:
        limits = f"up to {MAX_SIDE}x{MAX_SIDE} and {MAX_PIXELS} pixels a batch"
        raise NodeError("OutOfMemoryError", f"sketch draws {limits}, not {count} of {wide}x{high}")
    return wide, high
