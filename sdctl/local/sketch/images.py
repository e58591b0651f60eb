"""What happens to pictures that come in: decoding with limits, scaling, repainting, half-finished states."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from sdctl.local.sketch.drawing import Wish, draw
from sdctl.local.sketch.fields import Bytes, Dice, Floats, noise, ramp
from sdctl.local.sketch.palette import read_scene

# A few kilobytes of PNG can claim gigapixels; sketch itself draws at most a quarter of this.
MAX_INPUT_PIXELS = 64_000_000
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
_DECODE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, TypeError, struct.error, zlib.error,
OverflowError,
                  MemoryError, IndexError, Image.DecompressionBombError,
                  Image.DecompressionBombWarning)  # fmt: skip


class BadImageError(ValueError):
    """These bytes are no picture that can be read."""


def decode_image(data: bytes) -> Image.Image:
    """Decode the first frame of a picture, turned as its EXIF orientation says.

    Raises:
        BadImageError: not a picture, a broken one, or one of more than `MAX_INPUT_PIXELS`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
        if image.width * image.height > MAX_INPUT_PIXELS:
            raise BadImageError(f"{image.width}x{image.height} is more than {MAX_INPUT_PIXELS} pixels")
        image.load()
        return ImageOps.exif_transpose(image)
    except BadImageError:
        raise
    except _DECODE_ERRORS as error:
        raise BadImageError(str(error) or type(error).__name__) from error


def rgb(image: Image.Image) -> Image.Image:
    """Return a picture as RGB, what is transparent in it laid over white."""
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        over = Image.new("RGBA", image.size, (255, 255, 255, 255))
        over.alpha_composite(image.convert("RGBA"))
        return over.convert("RGB")
    return image.convert("RGB")


def pixels(image: Image.Image) -> Bytes:
    """Return RGB pixels of shape (height, width, 3)."""
    return np.asarray(rgb(image))


def sampling(name: str) -> Image.Resampling:
    """Return the filter that an upscaler's or a method's name asks for; Lanczos where it names none."""
    known = {
        "nearest": Image.Resampling.NEAREST, "nearest-exact": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC,
        "bislerp": Image.Resampling.BICUBIC, "area": Image.Resampling.BOX,
    }  # fmt: skip
    return known.get(name.lower(), Image.Resampling.LANCZOS)


def upscale(image: Image.Image, width: int, height: int, upscaler: str) -> Image.Image:
    """Scale a picture; upscalers that are networks in the real server get Lanczos and some sharpening."""
    method = sampling(upscaler)
    scaled = rgb(image).resize((width, height), method)
    if method is Image.Resampling.LANCZOS and upscaler.lower() not in ("lanczos", ""):
        return scaled.filter(ImageFilter.UnsharpMask(radius=2, percent=80, threshold=2))
    return scaled


def fit(image: Image.Image, width: int, height: int, mode: int) -> Image.Image:
    """Bring a picture to a size: 0 stretches, 1 crops what is over, 2 fills what is missing."""
    if image.size == (width, height):
        return image
    if mode == 1:
        return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)
    if mode == 2:
        back = image.resize((width, height), Image.Resampling.BILINEAR).filter(ImageFilter.BoxBlur(24))
        inner = ImageOps.contain(image, (width, height), Image.Resampling.LANCZOS)
        back.paste(inner, ((width - inner.width) // 2, (height - inner.height) // 2))
        return back
    return image.resize((width, height), Image.Resampling.LANCZOS)


def repaint(source: Bytes, wish: Wish, strength: float) -> Bytes:
    """Change a picture towards a wish, as img2img does.

    Args:
        source: RGB pixels of the wish's size.
        wish: what to move towards.
        strength: 0 leaves the source as it is, 1 leaves next to nothing of it.
    """
    strength = min(1.0, max(0.0, strength))
    if strength == 0:
        return source
    light = read_scene(wish.prompt, wish.negative_prompt, wish.dice).light
    stops = sorted([*light.sky, light.sun, light.far, light.near], key=sum)
    table = ramp(stops, 256)
    base = source.astype(np.float32)
    bright = base @ np.array((0.299, 0.587, 0.114), np.float32)
    stroke = noise(wish.dice, "strokes", wish.width, wish.height, cells=(24, 24), octaves=3) - np.float32(0.5)
    tone = np.clip(bright + stroke * np.float32(150 * strength), 0, 255).astype(np.uint8)
    target = table[tone]
    target += (draw(wish).astype(np.float32) - target) * np.float32(strength**3)
    base += (target - base) * np.float32(strength)
    return np.clip(base, 0, 255).astype(np.uint8)


def masked(inside: Bytes, outside: Bytes, mask: Image.Image, blur: float) -> Bytes:
    """Take `inside` where the mask is white and `outside` where it is black, with a soft border."""
    height, width = outside.shape[:2]
    grey = mask.convert("L").resize((width, height), Image.Resampling.LANCZOS)
    if blur > 0:
        grey = grey.filter(ImageFilter.GaussianBlur(blur))
    part = np.asarray(grey, np.float32)[..., None] / np.float32(255)
    return (outside + (inside.astype(np.float32) - outside) * part + np.float32(0.5)).astype(np.uint8)


def unfinished(final: Bytes, done: float) -> Bytes:
    """Return how a picture looks when only a part `done` (0 to 1) of its steps has run."""
    if done >= 1:
        return final
    height, width = final.shape[:2]
    blur = int((1 - done) * max(width, height) / 24)
    soft = np.asarray(Image.fromarray(final).filter(ImageFilter.BoxBlur(blur)), np.float32)
    key = f"{width}x{height}".encode()
    speckle: Floats = (
        Dice(key).octets("speckle", width * height * 3).reshape(height, width, 3).astype(np.float32)
    )
    part = np.float32((1 - done) ** 1.4 * 0.85)
    return (soft + (speckle - soft) * part).astype(np.uint8)


def jpeg_preview(final: Bytes, done: float, longest: int = 512) -> bytes:
    """Return a small JPEG of a half-finished picture, its longer side at most `longest` pixels."""
    small = Image.fromarray(final)
    small.thumbnail((longest, longest), Image.Resampling.BOX)
    buffer = io.BytesIO()
    Image.fromarray(unfinished(np.asarray(small), done)).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
