"""Deterministic randomness and the smooth noise that pictures are made of; pure numpy and Pillow.

Random numbers come from SHAKE-256, which no library release will ever change: the same key gives the
same picture in every process and on every version of Python.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]


class Dice:
    """Random numbers by label: asking for one more thing changes none of the others."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def octets(self, label: str, count: int) -> Bytes:
        """Return `count` uniform bytes."""
        digest = hashlib.shake_256(self._key + label.encode()).digest(count)
        return np.frombuffer(digest, np.uint8)

    def floats(self, label: str, count: int) -> Floats:
        """Return `count` numbers in [0, 1)."""
        digest = hashlib.shake_256(self._key + label.encode()).digest(2 * count)
        return (np.frombuffer(digest, "<u2").astype(np.float32)) / np.float32(65536)

    def between(self, label: str, low: float, high: float) -> float:
        """Return one number in [low, high)."""
        return low + (high - low) * float(self.floats(label, 1)[0])

    def below(self, label: str, count: int) -> int:
        """Return one whole number in [0, count)."""
        return int(self.floats(label, 1)[0] * count)


def noise(
    dice: Dice, label: str, width: int, height: int, *, cells: tuple[int, int], octaves: int = 4
) -> Floats:
    """Return fractal value noise of mean about 0.5, shape (height, width).

    Args:
        dice: where the random grids come from.
        label: names this field.
        width: of the result, in pixels.
        height: of the result, in pixels.
        cells: how many cells the coarsest grid has across and down.
        octaves: how many grids, each twice as fine and half as strong as the one before.
    """
    total = np.zeros((height, width), np.float32)
    weight_sum = 0.0
    for octave in range(octaves):
        columns, rows = (
            min(side, count * 2**octave + 3) for side, count in zip((width, height), cells, strict=True)
        )
        grid = dice.floats(f"{label}/{octave}", columns * rows).reshape(rows, columns)
        weight = 0.5**octave
        total += resize_field(grid, width, height) * np.float32(weight)
        weight_sum += weight
    total /= np.float32(weight_sum)
    return total


def resize_field(field: Floats, width: int, height: int) -> Floats:
    """Scale a field of numbers smoothly to another size."""
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC))


def profile(dice: Dice, label: str, width: int, *, cells: int, octaves: int, roughness: float) -> Floats:
    """Return a ridge line: `width` numbers about 0 of at most about 1 in size."""
    line = np.zeros(width, np.float32)
    weight_sum = 0.0
    for octave in range(octaves):
        count = cells * 2**octave + 1
        points = dice.floats(f"{label}/{octave}", count) * 2 - 1
        at = np.linspace(0, count - 1, width)
        left = np.minimum(at.astype(np.int32), count - 2)
        part = at - left
        if octave < 2:  # only the large shapes are round; rock stays rough
            part = part * part * (3 - 2 * part)
        weight = roughness**octave
        line += (points[left] * (1 - part) + points[left + 1] * part).astype(np.float32) * np.float32(weight)
        weight_sum += weight
    return line / np.float32(weight_sum)


def ramp(stops: list[tuple[int, int, int]], count: int) -> Floats:
    """Return `count` colours from the first stop to the last, shape (count, 3), 0 to 255."""
    places = np.linspace(0, len(stops) - 1, count)
    table = np.array(stops, np.float32)
    return np.stack(
        [np.interp(places, np.arange(len(stops)), table[:, channel]) for channel in range(3)], axis=-1
    ).astype(np.float32)


def smoothstep(low: float, high: float, values: Floats) -> Floats:
    """Return 0 below `low`, 1 above `high` and a smooth step between."""
    part = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1)
    return np.asarray(part * part * (3 - 2 * part), np.float32)
