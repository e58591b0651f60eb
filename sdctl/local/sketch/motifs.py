"""Silhouettes in front of a scene: animals, trees, houses, people; drawn with Pillow on one mask.

Every motif is drawn in a box of its own, x to the right and y down, both 0 to 1; the ground is y = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from PIL import Image, ImageDraw

from sdctl.local.sketch.fields import Dice

Point = tuple[float, float]


class Pen:
    """Draws in the unit square of one box of a mask."""

    def __init__(self, draw: ImageDraw.ImageDraw, box: tuple[float, float, float], mirrored: bool) -> None:
        self._draw = draw
        self._left, self._top, self._size = box
        self._mirrored = mirrored

    def _at(self, point: Point) -> Point:
        x = 1 - point[0] if self._mirrored else point[0]
        return self._left + x * self._size, self._top + point[1] * self._size

    def blob(self, x: float, y: float, rx: float, ry: float, fill: int = 255) -> None:
        """Draw an ellipse about (x, y)."""
        (ax, ay), (bx, by) = self._at((x - rx, y - ry)), self._at((x + rx, y + ry))
        self._draw.ellipse((min(ax, bx), ay, max(ax, bx), by), fill=fill)

    def shape(self, *points: Point, fill: int = 255) -> None:
        """Draw a polygon."""
        self._draw.polygon([self._at(point) for point in points], fill=fill)

    def curve(self, points: Sequence[Point], start: float, end: float, fill: int = 255) -> None:
        """Draw a limb along a smooth curve through the points, its width going from `start` to `end`."""
        reach = sum(math.dist(a, b) for a, b in pairwise(points))
        steps = min(200, max(12, int(reach * 5 / max(0.006, min(start, end)))))
        for step in range(steps + 1):
            part = step / steps
            x, y = _along(points, part)
            radius = (start + (end - start) * part) / 2
            self.blob(x, y, radius, radius, fill)


def _along(points: Sequence[Point], part: float) -> Point:
    """Return the point of a Bézier curve (de Casteljau) at 0 <= part <= 1."""
    level = list(points)
    while len(level) > 1:
        level = [(ax + (bx - ax) * part, ay + (by - ay) * part) for (ax, ay), (bx, by) in pairwise(level)]
    return level[0]


def _dog(pen: Pen, _dice: Dice) -> None:
    pen.curve([(0.24, 0.78), (0.30, 0.52), (0.52, 0.40), (0.60, 0.36)], 0.34, 0.22)  # back
    pen.blob(0.30, 0.82, 0.19, 0.17)  # haunch
    pen.curve([(0.60, 0.40), (0.64, 0.62), (0.60, 0.80), (0.60, 0.97)], 0.22, 0.075)  # chest and foreleg
    pen.curve([(0.52, 0.52), (0.52, 0.75), (0.51, 0.97)], 0.14, 0.07)
    pen.shape((0.44, 0.72), (0.60, 0.72), (0.60, 0.98), (0.50, 0.98))
    pen.shape((0.56, 0.99), (0.57, 0.94), (0.66, 0.945), (0.685, 0.99))
    pen.shape((0.40, 0.99), (0.44, 0.88), (0.56, 0.945), (0.58, 0.99))
    pen.shape((0.24, 0.99), (0.26, 0.92), (0.40, 0.935), (0.45, 0.99))
    pen.curve([(0.55, 0.42), (0.60, 0.30), (0.63, 0.22)], 0.23, 0.19)  # neck
    pen.blob(0.64, 0.20, 0.125, 0.105)  # head
    pen.curve([(0.68, 0.20), (0.78, 0.215), (0.85, 0.235)], 0.15, 0.085)  # muzzle
    pen.blob(0.885, 0.212, 0.024, 0.022)  # nose
    pen.curve([(0.58, 0.14), (0.50, 0.20), (0.50, 0.30), (0.535, 0.345)], 0.10, 0.06)  # ear
    pen.curve([(0.17, 0.86), (0.02, 0.84), (0.01, 0.66), (0.10, 0.56)], 0.075, 0.03)  # tail


def _cat(pen: Pen, _dice: Dice) -> None:
    pen.curve([(0.48, 0.84), (0.44, 0.62), (0.54, 0.46), (0.55, 0.34)], 0.40, 0.20)  # body
    pen.blob(0.46, 0.85, 0.22, 0.145)
    pen.curve([(0.58, 0.46), (0.62, 0.70), (0.61, 0.95)], 0.16, 0.075)
    pen.curve([(0.52, 0.55), (0.53, 0.78), (0.53, 0.95)], 0.14, 0.075)
    pen.blob(0.62, 0.965, 0.06, 0.034)
    pen.blob(0.54, 0.970, 0.06, 0.030)
    pen.blob(0.57, 0.245, 0.135, 0.118)  # head
    pen.shape((0.445, 0.235), (0.445, 0.055), (0.555, 0.150))
    pen.shape((0.590, 0.150), (0.700, 0.055), (0.698, 0.240))
    pen.curve([(0.30, 0.93), (0.06, 1.00), (0.00, 0.74), (0.12, 0.58), (0.20, 0.55)], 0.085, 0.05)  # tail


def _horse(pen: Pen, _dice: Dice) -> None:
    pen.blob(0.45, 0.50, 0.24, 0.125)
    pen.blob(0.27, 0.47, 0.12, 0.125)
    for hip, knee, hoof in ((0.24, 0.20, 0.23), (0.32, 0.34, 0.31), (0.58, 0.56, 0.59), (0.64, 0.70, 0.68)):
        pen.curve([(hip, 0.52), (knee, 0.74), (hoof, 0.98)], 0.12, 0.035)
    pen.curve([(0.60, 0.47), (0.70, 0.32), (0.74, 0.15)], 0.22, 0.10)
    pen.curve([(0.74, 0.14), (0.84, 0.20), (0.90, 0.28)], 0.12, 0.062)
    pen.shape((0.725, 0.12), (0.735, 0.03), (0.775, 0.105))
    pen.curve([(0.71, 0.10), (0.60, 0.20), (0.58, 0.38)], 0.05, 0.09)
    pen.curve([(0.17, 0.42), (0.04, 0.46), (0.08, 0.78)], 0.07, 0.04)


def _bird(pen: Pen, dice: Dice) -> None:
    for index in range(7):
        x, y, size = (dice.between(f"bird {axis}{index}", 0, 1) for axis in "xys")
        span = 0.05 + 0.09 * size
        y = 0.05 + 0.6 * y
        dip = 0.5 + 0.5 * x
        pen.curve([(x - span, y - span * dip), (x - span * 0.4, y - span * 0.7), (x, y)], 0.006, 0.022)
        pen.curve([(x + span, y - span * dip), (x + span * 0.4, y - span * 0.7), (x, y)], 0.006, 0.022)


def _tree(pen: Pen, dice: Dice) -> None:
    def branch(
        x: float, y: float, angle: float, *, length: float, width: float, depth: int, name: str
    ) -> None:
        bend = dice.between(f"bend{name}", -0.25, 0.25)
        end = (x + length * math.sin(angle), y - length * math.cos(angle))
        middle = (x + length * 0.5 * math.sin(angle + bend), y - length * 0.5 * math.cos(angle + bend))
        pen.curve([(x, y), middle, end], width, width * 0.62)
        if depth == 0:
            for leaf in range(5):
                turn = dice.between(f"leaf{name}{leaf}", 0, 2 * math.pi)
                radius = dice.between(f"size{name}{leaf}", 0.025, 0.06)
                pen.blob(
                    end[0] + 0.055 * math.cos(turn), end[1] + 0.045 * math.sin(turn), radius, radius * 0.8
                )
            return
        for side in (-1, 1):
            spread = dice.between(f"spread{name}{side}", 0.28, 0.62)
            turn = angle + side * spread
            branch(
                *end, turn, length=length * 0.72, width=width * 0.62, depth=depth - 1, name=f"{name}{side}"
            )

    branch(0.5, 1.0, 0.0, length=0.30, width=0.075, depth=4, name="")


def _house(pen: Pen, _dice: Dice) -> None:
    pen.shape((0.14, 1.0), (0.14, 0.58), (0.86, 0.58), (0.86, 1.0))
    pen.shape((0.04, 0.60), (0.28, 0.30), (0.72, 0.30), (0.96, 0.60))
    pen.shape((0.66, 0.42), (0.66, 0.16), (0.76, 0.16), (0.76, 0.50))
    for x in (0.26, 0.62):
        pen.shape((x, 0.82), (x, 0.68), (x + 0.13, 0.68), (x + 0.13, 0.82), fill=90)
    pen.shape((0.44, 1.0), (0.44, 0.72), (0.56, 0.72), (0.56, 1.0), fill=130)


def _boat(pen: Pen, _dice: Dice) -> None:
    pen.shape((0.10, 0.80), (0.90, 0.78), (0.78, 0.97), (0.22, 0.97))
    pen.shape((0.49, 0.80), (0.49, 0.06), (0.51, 0.06), (0.51, 0.80))
    pen.shape((0.53, 0.10), (0.53, 0.72), (0.88, 0.70), fill=225)
    pen.shape((0.47, 0.16), (0.47, 0.72), (0.18, 0.71), fill=200)


def _flower(pen: Pen, dice: Dice) -> None:
    for index in range(9):
        x = 0.06 + 0.88 * (index + dice.between(f"x{index}", 0.1, 0.9)) / 9
        top = dice.between(f"top{index}", 0.18, 0.62)
        pen.curve([(x, 1.0), (x + dice.between(f"lean{index}", -0.08, 0.08), 0.8), (x, top)], 0.016, 0.010)
        pen.curve([(x, 0.92), (x + 0.05, 0.84), (x + 0.07, 0.74)], 0.03, 0.004)
        size = dice.between(f"size{index}", 0.045, 0.075)
        petals = 5 + dice.below(f"petals{index}", 4)
        for petal in range(petals):
            turn = 2 * math.pi * petal / petals + index
            pen.blob(x + size * math.cos(turn), top + size * math.sin(turn), size * 0.62, size * 0.62, 238)
        pen.blob(x, top, size * 0.5, size * 0.5, 120)


def _portrait(pen: Pen, dice: Dice) -> None:
    pen.curve([(0.5, 0.90), (0.5, 0.56)], 0.20, 0.155)  # neck
    pen.curve([(0.16, 1.06), (0.16, 0.80), (0.40, 0.76), (0.50, 0.72)], 0.30, 0.16)  # shoulders
    pen.curve([(0.84, 1.06), (0.84, 0.80), (0.60, 0.76), (0.50, 0.72)], 0.30, 0.16)
    pen.shape((0.04, 1.1), (0.18, 0.88), (0.36, 0.80), (0.64, 0.80), (0.82, 0.88), (0.96, 1.1))
    pen.blob(0.49, 0.36, 0.140, 0.185)
    pen.curve([(0.36, 0.34), (0.345, 0.42), (0.37, 0.50), (0.45, 0.545)], 0.05, 0.09)  # jaw
    pen.shape((0.362, 0.345), (0.318, 0.435), (0.372, 0.450))  # nose
    pen.shape((0.360, 0.455), (0.335, 0.480), (0.345, 0.520), (0.390, 0.530))  # mouth
    if dice.below("hair", 2):
        pen.curve([(0.42, 0.20), (0.66, 0.12), (0.76, 0.38), (0.66, 0.66), (0.74, 0.84)], 0.16, 0.12)
        pen.blob(0.53, 0.27, 0.175, 0.155)
    else:
        pen.blob(0.54, 0.27, 0.165, 0.150)
        pen.blob(0.70, 0.22, 0.085, 0.080)  # a knot of hair


def _balloon(pen: Pen, dice: Dice) -> None:
    for index in range(3):
        x, y = 0.2 + 0.3 * index, dice.between(f"y{index}", 0.12, 0.5)
        size = dice.between(f"size{index}", 0.07, 0.13)
        pen.blob(x, y, size, size * 1.1)
        pen.shape((x - size * 0.8, y + size * 0.6), (x + size * 0.8, y + size * 0.6), (x, y + size * 1.7))
        pen.shape((x - size * 0.2, y + size * 1.7), (x + size * 0.2, y + size * 1.7), (x, y + size * 2.05))


# By name: how to draw it, its size as a part of the picture's shorter side, and whether it stands in the sky.
MOTIFS: dict[str, tuple[Callable[[Pen, Dice], None], float, bool]] = {
    "dog": (_dog, 0.52, False), "cat": (_cat, 0.50, False), "horse": (_horse, 0.56, False),
    "bird": (_bird, 0.60, True), "tree": (_tree, 0.72, False), "house": (_house, 0.34, False),
    "boat": (_boat, 0.34, False), "flower": (_flower, 0.62, False),
    "portrait": (_portrait, 0.86, False), "balloon": (_balloon, 0.62, True),
}  # fmt: skip


def motif_mask(name: str, dice: Dice, side: int) -> Image.Image:
    """Draw one motif as a mask of side×side pixels, smooth at its edges."""
    scale = 3 if side <= 400 else 2
    big = Image.new("L", (side * scale, side * scale), 0)
    MOTIFS[name][0](Pen(ImageDraw.Draw(big), (0, 0, side * scale), dice.below("mirror", 2) == 1), dice)
    return big.reduce(scale)
