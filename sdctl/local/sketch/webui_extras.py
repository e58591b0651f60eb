"""The extras tab of the SD WebUI: upscaling by a factor or to a size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sdctl.local.sketch.notice import notice
from sdctl.local.sketch.webui_fields import failure

if TYPE_CHECKING:
    from PIL import Image

# The largest picture that extras returns, in pixels: 8192x8192.
MAX_PIXELS = 8192 * 8192


def upscaled_answer(image: Image.Image, values: dict[str, Any], upscalers: list[str]) -> tuple[str, bytes]:
    """Upscale one picture as a request's fields say.

    Returns:
        The `html_info` of the answer and the picture as PNG.

    Raises:
        RefusedError: the upscaler does not exist, or the result would be too large.
    """
    from sdctl.local.sketch import images
    from sdctl.local.sketch.png import encode_png

    name = values["upscaler_1"]
    if name not in upscalers:
        raise failure("AssertionError", f"could not find upscaler named {name}")
    facts: dict[str, str] = {}
    result = images.rgb(image)
    if name != "None":
        result, facts = _upscaled(result, values, name)
    text = ", ".join(f"{key}: {value}" for key, value in facts.items())
    return f"<p>{text}</p>", encode_png(images.pixels(result), {"postprocessing": text, **notice()})


def _upscaled(image: Image.Image, values: dict[str, Any], name: str) -> tuple[Image.Image, dict[str, str]]:
    from sdctl.local.sketch import images

    if values["resize_mode"] == 0:
        factor = values["upscaling_resize"]
        _check(image.width * factor, image.height * factor)
        size = max(1, int(image.width * factor)), max(1, int(image.height * factor))
        facts = {"Postprocess upscale by": str(factor), "Postprocess upscaler": name}
        return images.upscale(image, *size, name), facts
    width, height = values["upscaling_resize_w"], values["upscaling_resize_h"]
    _check(width, height)
    factor = max(width / image.width, height / image.height)
    _check(image.width * factor, image.height * factor)
    size = max(width, round(image.width * factor)), max(height, round(image.height * factor))
    result = images.upscale(image, *size, name)
    facts = {"Postprocess upscale to": f"{width}x{height}"}
    if values["upscaling_crop"]:
        left, top = (result.width - width) // 2, (result.height - height) // 2
        result = result.crop((left, top, left + width, top + height))
        facts["Postprocess crop to"] = f"{width}x{height}"
    return result, {**facts, "Postprocess upscaler": name}


def _check(width: float, height: float) -> None:
    if width <= 0 or height <= 0:
        raise failure("ValueError", "height and width must be > 0")
    if width * height > MAX_PIXELS:
        raise failure(
            "OutOfMemoryError", f"sketch makes at most {MAX_PIXELS} pixels, not {width:.0f}x{height:.0f}"
        )
