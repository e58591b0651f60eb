"""Draws a picture from a prompt: sky, sun, ridges, water, towers and a silhouette in front.

The composition is laid out in parts of the picture's sides, so a larger size shows the same place. Fast
by doing what is smooth at half size and what is many-coloured through colour tables.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from sdctl.local.sketch.fields import Bytes, Dice, Floats, noise, profile, ramp, smoothstep
from sdctl.local.sketch.motifs import MOTIFS, motif_mask
from sdctl.local.sketch.palette import Colour, Scene, read_scene

_SHADES = 64


@dataclass(frozen=True, slots=True)
class Wish:
    """What a picture is made from; equal wishes give equal pixels."""

    prompt: str
    negative_prompt: str
    seed: int
    width: int
    height: int
    model: str

    @property
    def dice(self) -> Dice:
        """Return the randomness that belongs to this wish, whatever its size."""
        key = json.dumps([self.prompt, self.negative_prompt, self.seed, self.model])
        return Dice(hashlib.sha256(key.encode()).digest())


def draw(wish: Wish) -> Bytes:
    """Draw a picture: RGB pixels of shape (height, width, 3)."""
    dice = wish.dice
    scene = read_scene(wish.prompt, wish.negative_prompt, dice)
    canvas = _Canvas(wish.width, wish.height, scene, dice)
    if scene.place == "abstract":
        canvas.flow()
    elif scene.place == "space":
        canvas.nebula()
    else:
        canvas.landscape()
    for index, name in enumerate(scene.motifs):
        canvas.motif(name, index)
    return canvas.finish()


class _Canvas:
    """One picture in the making."""

    def __init__(self, width: int, height: int, scene: Scene, dice: Dice) -> None:
        self.width, self.height = width, height
        self.scene, self.light, self.dice = scene, scene.light, dice
        self.horizon = dice.between("horizon", 0.56, 0.68)
        self.sun = (dice.between("sun x", 0.2, 0.8), self.horizon * dice.between("sun y", 0.3, 0.82))
        self.pixels: Bytes = np.zeros((height, width, 3), np.uint8)

    def landscape(self) -> None:
        """Paint sky, far ridges and what the place has in front of them."""
        place = self.scene.place
        self._sky()
        if place != "city":
            self._ridges(
                "far", *{"sea": (2, 0.10), "desert": (2, 0.10), "meadow": (3, 0.14)}.get(place, (4, 0.30))
            )
        if place == "city":
            self._skyline()
        if place in ("sea", "city") or (place == "mountain" and self.dice.below("lake", 2)):
            self._water()
        if place in ("meadow", "mountain", "desert", "forest"):
            self._ridges("near", 2, 0.10, lowest=0.80 if place != "meadow" else 0.74)
        if place == "forest":
            self._trees()

    def flow(self) -> None:
        """Paint bands of colour that flow about each other, parted by fine lines."""
        dice = self.dice
        field = noise(dice, "flow", self.width, self.height, cells=(2, 2), octaves=4)
        bend = noise(dice, "bend", self.width, self.height, cells=(3, 3), octaves=2)
        field = field + np.float32(0.22) * np.sin(bend * np.float32(dice.between("twist", 9, 16)))
        table = ramp([*self.light.sky, self.light.sun, self.light.far, self.light.near], 1024)
        table = table[_shuffled_bands(dice, 1024)]
        phase = np.arange(1024) * (dice.between("bands", 9, 15) / 1024) % 1
        table *= (0.72 + 0.34 * phase)[:, None]
        table[phase < 0.05] = np.array(self.light.near, np.float32) * 0.6
        index = np.clip((field * np.float32(0.8) + np.float32(0.1)) * 1023, 0, 1023).astype(np.int16)
        self.pixels = np.clip(table, 0, 255).astype(np.uint8)[index]

    def nebula(self) -> None:
        """Paint clouds of stars and a planet with a ring."""
        dice = self.dice
        half = self._half()
        first, second = (
            noise(dice, "gas", *half, cells=(3, 3), octaves=5),
            noise(dice, "dust", *half, cells=(4, 4), octaves=5),
        )
        hues = ((236, 72, 153), (56, 189, 248), (168, 85, 247), (251, 146, 60), (52, 211, 153))
        one = dice.below("hue", 5)
        warm, cold = (
            np.array(hues[(one + shift) % 5], np.float32) for shift in (0, 1 + dice.below("other", 4))
        )
        body = (
            smoothstep(0.42, 0.78, first)[..., None] * warm + smoothstep(0.46, 0.80, second)[..., None] * cold
        )
        body *= (0.35 + 0.9 * smoothstep(0.3, 0.7, noise(dice, "veil", *half, cells=(5, 5), octaves=4)))[
            ..., None
        ]
        body += np.array((8, 8, 22), np.float32)
        self.pixels = self._enlarged(body)
        self._stars(700, self.height)
        self._planet(warm, cold)

    def _half(self) -> tuple[int, int]:
        return max(32, (self.width + 1) // 2), max(32, (self.height + 1) // 2)

    def _enlarged(self, colours: Floats) -> Bytes:
        small = Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8))
        return np.array(small.resize((self.width, self.height), Image.Resampling.BILINEAR))

    def _sky(self) -> None:
        dice, light = self.dice, self.light
        width, height = self._half()
        rows = np.minimum(np.arange(height) / (height * self.horizon), 1) ** 1.15
        gradient = ramp(list(light.sky), 512)[(rows * 511).astype(np.int16)]
        sky = np.repeat(gradient[:, None, :], width, axis=1)
        x = (np.arange(width, dtype=np.float32) + 0.5)[None, :] / width - np.float32(self.sun[0])
        y = (np.arange(height, dtype=np.float32) + 0.5)[:, None] / height - np.float32(self.sun[1])
        distance = np.sqrt(x * x * np.float32((self.width / self.height) ** 2) + y * y)
        clouds = smoothstep(0.50, 0.74, noise(dice, "clouds", width, height, cells=(3, 7), octaves=5))
        lit = np.exp(distance * np.float32(-2.6))
        cover = clouds * np.float32(0.34 if light.dark else 0.62)
        sun = np.array(light.sun, np.float32)
        cloud = np.array(light.sky[-1], np.float32) * 0.86 + (sun * 0.42) * lit[..., None]
        glow = np.float32(0.30 if light.dark else 0.66) * np.exp(distance * np.float32(-4.8))
        sky += (sun - sky) * glow[..., None]
        sky += (cloud - sky) * cover[..., None]
        radius = dice.between("radius", 0.045, 0.085)
        disc = smoothstep(radius + 0.006, radius - 0.002, distance) * (1 - cover * np.float32(0.55))
        if light.dark and dice.below("crescent", 3) == 0:
            away = np.sqrt((x - radius * 0.5) ** 2 + (y + radius * 0.3) ** 2)
            disc = disc * smoothstep(radius * 0.86, radius * 0.9, away)
        sky += (sun - sky) * disc[..., None]
        self.pixels = self._enlarged(sky)
        if light.dark:
            self._stars(260, int(self.height * self.horizon))

    def _stars(self, count: int, lowest: int) -> None:
        place = self.dice.floats("stars", count * 3).reshape(3, count)
        x, y = (place[0] * (self.width - 1)).astype(int), (place[1] * max(1, lowest - 1)).astype(int)
        shine = (place[2] ** 3 * 215 + 40).astype(np.float32)[:, None]
        for dx, dy, part in ((0, 0, 1.0), (1, 0, 0.42), (0, 1, 0.42)):
            at = np.minimum(y + dy, self.height - 1), np.minimum(x + dx, self.width - 1)
            self.pixels[at] = np.clip(self.pixels[at] + shine * part, 0, 255).astype(np.uint8)

    def _ridges(self, name: str, layers: int, spread: float, lowest: float | None = None) -> None:
        """Paint ridges from far to near: each a colour table from its lit edge down to its misty foot."""
        dice, width, height = self.dice, self.width, self.height
        base = self.horizon if lowest is None else lowest
        smooth = self.scene.place in ("desert", "meadow") or name == "near"
        shape = {"octaves": 3, "roughness": 0.34} if smooth else {"octaves": 7, "roughness": 0.52}
        lines = [
            profile(dice, f"{name}{layer}", width, cells=2 + layer, octaves=int(shape["octaves"]),
                    roughness=shape["roughness"])
            for layer in range(layers)
        ]  # fmt: skip
        tops = [
            ((base - spread * (1 - layer / layers) * 0.55 + layer * 0.02 + line * spread * 0.62) * height)
            for layer, line in enumerate(lines)
        ]
        # Nothing is painted above the highest ridge, so no work is done there.
        first = min(height - 1, max(0, int(min(top.min() for top in tops))))
        half = self._half()
        grain = (
            noise(dice, f"{name} rock", *half, cells=(14, 18), octaves=3) - np.float32(0.5)
        ) * np.float32(34)
        rock = np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BILINEAR))[first:]
        index = np.zeros((height - first, width), np.int16)
        y = np.arange(first, height, dtype=np.float32)[:, None]
        tables = [np.zeros((_SHADES, 3), np.uint8)]
        for layer, (line, top) in enumerate(zip(lines, tops, strict=True)):
            lit = np.clip(0.5 - _slope(line) * (0.10 if self.sun[0] > 0.5 else -0.10), 0, 1)
            below = y - top[None, :].astype(np.float32)
            shade = np.minimum(below * np.float32(69 / height), np.float32(30))
            shade += rock
            shade += ((1 - lit) * 22).astype(np.float32)[None, :]
            np.clip(shade, 0, _SHADES - 1, out=shade)
            shade += (layer + 1) * _SHADES
            np.copyto(index, shade, where=below >= 0, casting="unsafe")
            far_part = (layer + 1) / (layers + 1)
            tables.append(self._ridge_table(far_part if name == "far" else 0.78 + 0.22 * layer))
        colours = np.take(np.concatenate(tables), index, axis=0)
        np.copyto(self.pixels[first:], colours, where=(index >= _SHADES)[..., None])

    def _ridge_table(self, part: float) -> Bytes:
        far, near = np.array(self.light.far, np.float32), np.array(self.light.near, np.float32)
        body = far + (near - far) * part
        edge = body + (np.array(self.light.sun, np.float32) - body) * (0.30 - 0.16 * part)
        foot = body + (np.array(self.light.sky[-1], np.float32) - body) * 0.34 * (1 - part) - 14 * part
        stops = [tuple(int(value) for value in np.clip(stop, 0, 255)) for stop in (edge, body, foot)]
        return ramp([(r, g, b) for r, g, b in stops], _SHADES).astype(np.uint8)

    def _skyline(self) -> None:
        """Paint rows of towers with lit windows, the farther the paler."""
        dice, width, height = self.dice, self.width, self.height
        y = np.arange(height)[:, None]
        for row in range(3):
            count = 16 + 5 * row
            edges = np.sort(dice.floats(f"edges{row}", count - 1))
            tower = np.searchsorted(edges, np.arange(width) / width)
            tall = dice.floats(f"tall{row}", count) ** 1.6 * (0.46 - 0.10 * row) + 0.06
            top = ((self.horizon + 0.02 * row - tall[tower]) * height).astype(int)
            part = 0.25 + 0.36 * row
            far, near = np.array(self.light.far, np.float32), np.array(self.light.near, np.float32)
            mask = (y >= top[None, :]) & (y < int((self.horizon + 0.03) * height))
            self.pixels[mask] = (far + (near - far) * part).astype(np.uint8)
            cell = max(3, min(width, height) // (110 - 18 * row))
            across, down = np.arange(width) // cell, np.arange(height) // cell
            code = dice.octets(f"windows{row}", 4096)
            glow = code[(across[None, :] * 37 + down[:, None] * 101 + tower[None, :] * 17) % 4096] > 178
            inside = (np.arange(width) % cell > 0)[None, :] & (y % cell > cell // 3)
            lamp = np.array((255, 214, 140) if row != 1 else self.light.sun, np.float32)
            level = min(0.95, 0.30 + 0.26 * row + (0.24 if self.light.dark else 0.0))
            lit = mask & glow & inside & (y > top[None, :] + cell)
            self.pixels[lit] = (self.pixels[lit] * (1 - level) + lamp * level).astype(np.uint8)

    def _water(self) -> None:
        """Mirror what stands above the shore in rippled water."""
        dice, width, height = self.dice, self.width, self.height
        shore = int((self.horizon + 0.03) * height)
        count = height - shore
        if count < 2:
            return
        down = np.arange(count, dtype=np.float32)
        deep = down / count
        waves = noise(dice, "waves", width, count, cells=(5, 26), octaves=3) - np.float32(0.5)
        lift = (waves * (deep[:, None] * np.float32(0.16 * height) + 2)).astype(np.int32)
        source = np.clip(shore - 1 - (down * 1.25).astype(np.int32)[:, None] + lift, 0, shore - 1)
        mirror = self.pixels[source, np.arange(width)[None, :]].astype(np.float32)
        tint = np.array(self.light.sky[0], np.float32) * 0.55 + np.array(self.light.near, np.float32) * 0.45
        mirror += (tint - mirror) * (0.24 + 0.36 * deep)[:, None, None]
        track = np.exp(-np.abs(np.arange(width) / width - self.sun[0]) * np.float32(7))[None, :]
        glint = smoothstep(0.08, 0.24, waves) * track * np.float32(0.75)
        mirror += (np.array(self.light.sun, np.float32) - mirror) * glint[..., None]
        self.pixels[shore:] = np.clip(mirror, 0, 255).astype(np.uint8)

    def _trees(self) -> None:
        """Stand rows of firs on the ground, smaller and paler with distance."""
        dice, width, height = self.dice, self.width, self.height
        y = np.arange(height, dtype=np.float32)[:, None] / height
        columns = np.arange(width, dtype=np.float32) / width
        for row, (foot, tall, count) in enumerate(((0.72, 0.20, 30), (0.84, 0.30, 17), (1.02, 0.52, 9))):
            at = (np.arange(count) + dice.floats(f"fir{row}", count)) / count
            size = tall * (0.55 + 0.6 * dice.floats(f"fir size{row}", count))
            nearest = np.abs(columns[None, :] - at[:, None]) * np.float32(width / height)
            rise = np.float32(foot) - y
            mask = np.zeros((height, width), bool)
            for tree in range(count):
                reach = size[tree] * 0.26
                low, high = np.searchsorted(columns, (at[tree] - reach, at[tree] + reach))
                level = rise / size[tree]
                jag = (level * 9) % 1
                edge = size[tree] * 0.24 * (1.02 - level) * (0.62 + 0.38 * (1 - jag))
                mask[:, low:high] |= (nearest[tree, low:high][None, :] < edge) & (level < 1)
            part = 0.45 + 0.27 * row
            far, near = np.array(self.light.far, np.float32), np.array(self.light.near, np.float32)
            self.pixels[mask] = ((far + (near - far) * part) * (0.96 - 0.1 * row)).astype(np.uint8)

    def _planet(self, warm: Floats, cold: Floats) -> None:
        dice, width, height = self.dice, self.width, self.height
        side = min(width, height)
        radius = side * dice.between("planet", 0.13, 0.24)
        cx, cy = width * dice.between("planet x", 0.3, 0.7), height * dice.between("planet y", 0.32, 0.68)
        reach = int(radius * 2.3)
        left, top = max(0, int(cx) - reach), max(0, int(cy) - reach)
        area = self.pixels[top : int(cy) + reach, left : int(cx) + reach]
        y, x = np.mgrid[0 : area.shape[0], 0 : area.shape[1]].astype(np.float32)
        x, y = (
            (x + np.float32(left - cx)) / np.float32(radius),
            (y + np.float32(top - cy)) / np.float32(radius),
        )
        distance = np.sqrt(x * x + y * y)
        bands = 0.5 + 0.5 * np.sin((y + 0.22 * x) * np.float32(dice.between("planet bands", 7, 16)))
        colour = warm * bands[..., None] + cold * (1 - bands[..., None])
        colour = colour * np.clip(0.28 + 0.95 * (-0.62 * x - 0.5 * y + 0.35), 0.07, 1.15)[..., None]
        ball = smoothstep(1.02, 0.98, distance)
        tilt = y * 3.4 + x * 0.9
        ring = np.sqrt(x * x * 0.85 + tilt * tilt)
        band = smoothstep(1.32, 1.36, ring) * smoothstep(2.06, 2.0, ring) * (0.42 + 0.3 * np.sin(ring * 34))
        band *= np.where((tilt < 0) & (distance < 1.0), np.float32(0), np.float32(1))
        mixed = area + (colour - area) * ball[..., None]
        mixed += (np.array((255, 238, 214), np.float32) - mixed) * band[..., None]
        area[:] = np.clip(mixed, 0, 255).astype(np.uint8)

    def motif(self, name: str, index: int) -> None:
        """Set a silhouette into the scene, its edge lit by the sun."""
        _, share, flies = MOTIFS[name]
        side = max(24, int(min(self.width, self.height) * share * (1.0 if index == 0 else 0.72)))
        mask = motif_mask(name, self.dice, side)
        slots = ((0.18, 0.62), (0.02, 0.34), (0.5, 0.78))
        low, high = slots[0] if len(self.scene.motifs) == 1 else slots[1 + index % 2]
        left = int(self.dice.between(f"at{index}", low, high) * max(1, self.width - side))
        foot = {"boat": self.horizon + 0.16, "portrait": 1.04}.get(name, 0.95)
        top = int(self.height * 0.06) if flies else int(self.height * foot) - side
        image = Image.fromarray(self.pixels)
        body: Colour = _mixed(self.light.near, (0, 0, 0), 0.45)
        rim = _mixed(self.light.sun, self.light.sky[-1], 0.25)
        if self.scene.place in ("abstract", "space"):
            body = _mixed(self.light.near, (0, 0, 0), 0.6)
        toward = 1 if self.sun[0] * self.width > left + side / 2 else -1
        width = max(1, side // 90)
        image.paste(rim, (left + toward * width, top - width), mask)
        image.paste(body, (left, top), mask)
        glow = mask.filter(ImageFilter.BoxBlur(side / 60)).point([int(value * 0.10) for value in range(256)])
        image.paste(self.light.sun, (left - toward * width, top + width), glow)
        self.pixels = np.array(image)

    def finish(self) -> Bytes:
        """Darken the corners and lay fine grain over everything, which also hides the steps of gradients."""
        width, height = self.width, self.height
        x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
        y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
        # 255 * 250 and the strongest grain together stay within 16 bits.
        fade = (250 - (x * x + y * y) * np.float32(27)).astype(np.uint16)
        grain = (self.dice.octets("grain", width * height).reshape(height, width) & 7).astype(np.uint16)
        dimmed = self.pixels * fade[..., None]
        dimmed += (grain * np.uint16(160))[..., None]
        return (dimmed >> 8).astype(np.uint8)


def _slope(line: Floats) -> Floats:
    """Return how steeply a ridge falls, smoothed over a twentieth of the picture."""
    reach = max(2, line.size // 20)
    padded = np.pad(line, reach, mode="edge")
    return np.asarray((padded[2 * reach :] - padded[: -2 * reach]) * np.float32(10), np.float32)


def _shuffled_bands(dice: Dice, count: int) -> NDArray[np.int16]:
    """Return indices that walk a colour table up and down in a few waves."""
    at = np.linspace(0, 1, count)
    wave = 0.5 + 0.5 * np.sin(at * dice.between("waves", 7, 14) + dice.between("start", 0, 6))
    return (wave * (count - 1)).astype(np.int16)


def _mixed(one: Colour, other: Colour, part: float) -> Colour:
    red, green, blue = (int(a + (b - a) * part) for a, b in zip(one, other, strict=True))
    return red, green, blue
