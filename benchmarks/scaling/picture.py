"""Draws outcomes over time, one panel below the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from .farm import Outcome, Sample

WIDTH, PANEL, TOP, LEFT, RIGHT, BOTTOM, GAP = 1640, 290, 132, 120, 40, 84, 98
COLOURS = ("#0b5fbf", "#d9600a", "#3b8a3e", "#8b3fa8")
INK, FAINT = "#222222", "#d8d8d8"
PANELS: tuple[tuple[str, Callable[[Sample], int]], ...] = (
    ("tasks in the queue, waiting and running", lambda one: one.waiting + one.in_flight),
    ("pods that are ready", lambda one: one.ready_pods),
    ("GPU nodes that are paid for", lambda one: one.nodes),
)


def draw(outcomes: Sequence[Outcome], path: Path) -> None:
    """Write a PNG with a line for each outcome in each panel."""
    image = Image.new("RGB", (WIDTH, TOP + len(PANELS) * (PANEL + GAP) - GAP + BOTTOM), "white")
    pen = ImageDraw.Draw(image)
    _legend(pen, outcomes)
    minutes = max(one.samples[-1].at for one in outcomes) / 60
    for number, (title, value) in enumerate(PANELS):
        top = TOP + number * (PANEL + GAP)
        most = max(value(one) for outcome in outcomes for one in outcome.samples)
        _frame(pen, top, (title, most), minutes)
        for index, outcome in enumerate(outcomes):
            points = [
                (_x(one.at / 60, minutes), top + PANEL - PANEL * value(one) / (most * 1.08 or 1))
                for one in outcome.samples
            ]
            pen.line(points, fill=COLOURS[index % len(COLOURS)], width=5, joint="curve")
    bottom = TOP + len(PANELS) * (PANEL + GAP) - GAP
    pen.text((WIDTH - RIGHT, bottom + 42), "minutes", INK, _font(26), anchor="ra")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.quantize(64).save(path, optimize=True)


def _legend(pen: ImageDraw.ImageDraw, outcomes: Sequence[Outcome]) -> None:
    left = float(LEFT)
    for index, outcome in enumerate(outcomes):
        pen.line([(left, 30), (left + 60, 30)], fill=COLOURS[index % len(COLOURS)], width=9)
        first, idle = outcome.first_image_seconds, outcome.idle_gpu_hours
        text = f"{outcome.name}: first image {first:.0f} s, GPUs idle {idle:.1f} h"
        pen.text((left + 74, 30), text, INK, _font(28), anchor="lm")
        left += 74 + pen.textlength(text, _font(28)) + 60


def _frame(pen: ImageDraw.ImageDraw, top: int, panel: tuple[str, int], minutes: float) -> None:
    title, most = panel
    every = _step(minutes, 10)
    pen.text((LEFT, top - 10), title, INK, _font(28), anchor="ld")
    step = _step(most, 4)
    for number in range(int(most // step) + 1):
        y = top + PANEL - PANEL * number * step / (most * 1.08 or 1)
        pen.line([(LEFT, y), (WIDTH - RIGHT, y)], fill=FAINT, width=2)
        pen.text((LEFT - 14, y), f"{number * step:,.0f}", INK, _font(26), anchor="rm")
    for number in range(int(minutes // every) + 1):
        x = _x(number * every, minutes)
        pen.line([(x, top), (x, top + PANEL)], fill=FAINT, width=1)
        pen.text((x, top + PANEL + 8), f"{number * every:g}", INK, _font(24), anchor="ma")


def _x(minute: float, minutes: float) -> float:
    return float(LEFT + (WIDTH - LEFT - RIGHT) * minute / minutes)


def _step(most: float, parts: int) -> float:
    """Return a round step of about so many parts of a range."""
    rough = max(most, 1) / parts
    power = 10.0 ** math.floor(math.log10(rough))
    return max(1.0, next(power * one for one in (1, 2, 5, 10) if power * one >= rough))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
