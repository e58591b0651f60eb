"""Runs the nodes of a workflow, one function a class; what is not here hands its inputs on as a bundle."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdctl.local.sketch.comfy_values import (
    Bundle,
    Latent,
    Mask,
    Model,
    NodeError,
    Pictures,
    Result,
    Words,
    checked_size,
    decoded,
    find,
    find_number,
    find_pictures,
    find_text,
)
from sdctl.local.sketch.files import FileStore, OutsideFolderError, file_ref

if TYPE_CHECKING:
    from sdctl.local.sketch.drawing import Wish
    from sdctl.local.sketch.fields import Bytes

Inputs = dict[str, Any]
_SEED_NAMES = ("noise_seed", "seed", "seed_num", "value", "int", "number")
_MODEL_NAMES = ("ckpt_name", "unet_name", "base_ckpt_name", "model_name", "checkpoint")
# A latent of a video model is drawn as at most this many frames.
_MAX_FRAMES = 24


@dataclass(frozen=True, slots=True)
class Sampling:
    """What a sampler node is asked for: the wishes it draws and what it starts from."""

    wishes: tuple[Wish, ...]
    steps: int
    denoise: float
    latent: Latent

    def paint(self, index: int) -> Bytes:
        """Draw one picture of the batch."""
        from sdctl.local.sketch import images
        from sdctl.local.sketch.drawing import draw

        wish = self.wishes[index]
        if not self.latent.frames:
            return draw(wish)
        before = self.latent.frames[index % len(self.latent.frames)]
        after = images.repaint(before, wish, self.denoise)
        return after if self.latent.mask is None else images.masked(after, before, self.latent.mask, 6)


def read_sampling(class_type: str, inputs: Inputs) -> Sampling | None:
    """Return what a node samples, or None where it is no sampler: one takes a latent and knows a seed."""
    from sdctl.local.sketch.drawing import Wish

    if "sampler" not in class_type.lower():
        return None
    given = next((inputs[name] for name in ("latent_image", "latent", "samples") if name in inputs), None)
    latent = find(given, Latent) if given is not None else None
    everything = Bundle(class_type, inputs)
    if latent is None:
        width, height = (
            find_number(everything, (f"empty_latent_{side}", side)) for side in ("width", "height")
        )
        if given is None or width is None or height is None:
            return None
        latent = Latent(*checked_size(width, height, multiple=8))
    seeds = (
        find_number(inputs[name], _SEED_NAMES) for name in ("noise_seed", "seed", "noise") if name in inputs
    )
    seed = next((int(one) for one in seeds if one is not None), 0)
    steps = find_number(inputs.get("steps"), ("steps", "value")) or find_number(everything, ("steps",)) or 20
    denoise = find_number(inputs.get("denoise"), ("denoise", "value"))
    if denoise is None:
        denoise = find_number(inputs.get("sigmas"), ("denoise",))
    texts = _texts(inputs, everything)
    checked_size(latent.width, latent.height, latent.batch)
    wishes = tuple(
        Wish(*texts, seed + index, latent.width, latent.height, _model_name(everything))
        for index in range(latent.batch)
    )
    return Sampling(wishes, min(10_000, max(1, int(steps))), 1.0 if denoise is None else denoise, latent)


def _texts(inputs: Inputs, everything: Bundle) -> tuple[str, str]:
    """Return prompt and negative prompt; a guider or a pipe holds both."""
    source = inputs.get("positive", inputs.get("guider", inputs.get("conditioning", everything)))
    positive = find_text(source, ("positive", "text", "prompt", "string", "value"))
    # Without an input of its own a negative is only what a guider carries under that name.
    given = inputs.get("negative")
    if given is None and isinstance(source, Bundle):
        given = source.inputs.get("negative")
    return positive or "", find_text(given, ("negative", "text", "prompt", "string", "value")) or ""


def _model_name(value: Any) -> str:
    model = find(value, Model)
    if model is not None:
        return model.name
    named = find_text(value, _MODEL_NAMES)
    return named if named is not None and named.endswith((".safetensors", ".ckpt", ".gguf")) else ""


def sampled(sampling: Sampling, frames: tuple[Bytes, ...], inputs: Inputs, class_type: str) -> Result:
    """Return what a sampler hands on: its latent; custom ones return all that they were given too."""
    latent = Latent(sampling.latent.width, sampling.latent.height, len(frames), frames)
    return Result((), latent if class_type in _SAMPLERS else Bundle(class_type, {"latent": latent, **inputs}))


_SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")


def evaluate(class_type: str, inputs: Inputs, files: FileStore) -> Result:
    """Run one node that is neither a sampler nor an output.

    Raises:
        NodeError: the node cannot do what it is asked for.
    """
    handler = _HANDLERS.get(class_type)
    if handler is not None:
        return handler(inputs)
    if class_type in ("LoadImage", "LoadImageMask", "LoadImageOutput"):
        return _load(class_type, inputs, files)
    return _any_node(class_type, inputs)


def _any_node(class_type: str, inputs: Inputs) -> Result:
    """Guess what an unknown node is from its inputs; else hand them on."""
    bundle = Bundle(class_type, inputs)
    lowered = class_type.lower()
    name = next((inputs[key] for key in _MODEL_NAMES if isinstance(inputs.get(key), str)), None)
    if name is not None and "loader" in lowered and len(inputs) <= 3:
        return Result(rest=Model(name))
    if "textencode" in lowered.replace(" ", ""):
        texts = [
            find_text(inputs[key])
            for key in ("text", "text_g", "prompt", "clip_l", "t5xxl", "text_l")
            if key in inputs
        ]
        return Result(rest=Words(next((text for text in texts if text), "")))
    size = tuple(find_number(inputs.get(side), (side, "value", "int")) for side in ("width", "height"))
    if "latent" in lowered and None not in size and find_pictures(bundle) is None:
        return Result(rest=_empty_latent(inputs).slots[0])
    if "positive" in inputs and "negative" in inputs:
        turned = Bundle(
            class_type,
            {"negative": inputs["negative"], **{k: v for k, v in inputs.items() if k != "positive"}},
        )
        return Result(
            (Bundle(class_type, {k: v for k, v in inputs.items() if k != "negative"}), turned), bundle
        )
    return Result(rest=bundle)


def _empty_latent(inputs: Inputs) -> Result:
    width, height = (
        find_number(inputs.get(side), (side, "value", "int")) or 512 for side in ("width", "height")
    )
    batch = int(find_number(inputs.get("batch_size"), ("batch_size", "value", "int")) or 1)
    length = int(find_number(inputs.get("length"), ("length", "value", "int")) or 1)
    count = max(1, batch) * min(_MAX_FRAMES, max(1, length))
    return Result((Latent(*checked_size(width, height, count, multiple=8), count),))


def _load(class_type: str, inputs: Inputs, files: FileStore) -> Result:
    import numpy as np
    from PIL import Image, ImageOps

    from sdctl.local.sketch import images

    name = str(inputs.get("image", ""))
    try:
        data = files.get(file_ref(name, "output" if class_type == "LoadImageOutput" else "input"))
    except OutsideFolderError:
        data = None
    if data is None:
        raise NodeError("FileNotFoundError", f"[Errno 2] No such file or directory: '{name}'")
    try:
        image = images.decode_image(data)
    except images.BadImageError as error:
        raise NodeError("PIL.UnidentifiedImageError", f"cannot identify image file '{name}'") from error
    checked_size(image.width, image.height)
    alpha = (
        image.convert("RGBA").getchannel("A") if "A" in image.getbands() else Image.new("L", image.size, 255)
    )
    mask = Mask(ImageOps.invert(alpha))
    if class_type == "LoadImageMask":
        channel = str(inputs.get("channel", "alpha"))
        band = {"red": 0, "green": 1, "blue": 2}.get(channel)
        return Result(rest=mask if band is None else Mask(image.convert("RGB").getchannel(band)))
    return Result((Pictures((np.asarray(image.convert("RGB")),)), mask))


def _encode(inputs: Inputs) -> Result:
    from PIL import Image

    pictures = find_pictures(inputs.get("pixels", inputs.get("image")))
    if pictures is None:
        raise NodeError("ValueError", "there is no image to encode")
    height, width = pictures.frames[0].shape[:2]
    wide, high = checked_size(width, height, multiple=8)
    frames = pictures.frames
    if (wide, high) != (width, height):
        left, top = (width - wide) // 2, (height - high) // 2
        frames = tuple(frame[top : top + high, left : left + wide] for frame in frames)
    mask = find(inputs.get("mask"), Mask)
    resized = mask.image.resize((wide, high), Image.Resampling.BILINEAR) if mask else None
    return Result((Latent(wide, high, len(frames), frames, resized),))


def _set_mask(inputs: Inputs) -> Result:
    latent, mask = find(inputs.get("samples"), Latent), find(inputs.get("mask"), Mask)
    if latent is None or mask is None:
        raise NodeError("ValueError", "a latent and a mask are needed")
    return Result((Latent(latent.width, latent.height, latent.batch, latent.frames, mask.image),))


def _decode(inputs: Inputs) -> Result:
    latent = find(inputs.get("samples"), Latent)
    return Result((decoded(latent) if latent else Bundle("VAEDecode", inputs),))


def _resized(
    frames: tuple[Bytes, ...], width: float, height: float, method: str, crop: bool = False
) -> tuple[Bytes, ...]:
    import numpy as np
    from PIL import Image, ImageOps

    from sdctl.local.sketch import images

    wide, high = checked_size(width, height, len(frames))
    scaled = []
    for frame in frames:
        image = Image.fromarray(frame)
        if crop:
            result = ImageOps.fit(image, (wide, high), images.sampling(method))
        else:
            result = images.upscale(image, wide, high, "lanczos" if method == "lanczos" else method)
        scaled.append(np.asarray(result))
    return tuple(scaled)


def _target(width: float, height: float, inputs: Inputs) -> tuple[float, float]:
    """Return the size that a scaling node asks for; 0 keeps the proportions."""
    factor = find_number(inputs.get("scale_by"), ("scale_by", "value", "float"))
    if factor is not None:
        return max(1, round(width * factor)), max(1, round(height * factor))
    megapixels = find_number(inputs.get("megapixels"), ("megapixels", "value", "float"))
    if megapixels is not None:
        factor = (max(0.0, megapixels) * 1024 * 1024 / (width * height)) ** 0.5
        return round(width * factor), round(height * factor)
    wide, high = (find_number(inputs.get(side), (side, "value", "int")) or 0 for side in ("width", "height"))
    if wide == 0 and high == 0:
        return width, height
    return wide or max(1, round(width * high / height)), high or max(1, round(height * wide / width))


def _scale_image(inputs: Inputs) -> Result:
    pictures = find_pictures(inputs.get("image", inputs.get("images")))
    if pictures is None:
        raise NodeError("ValueError", "there is no image to scale")
    height, width = pictures.frames[0].shape[:2]
    size = _target(width, height, inputs)
    method, crop = str(inputs.get("upscale_method", "lanczos")), inputs.get("crop") == "center"
    return Result((Pictures(_resized(pictures.frames, *size, method, crop)),))


def _upscale_with_model(inputs: Inputs) -> Result:
    pictures = find_pictures(inputs.get("image"))
    if pictures is None:
        raise NodeError("ValueError", "there is no image to upscale")
    model = find(inputs.get("upscale_model"), Model)
    name = model.name if model else find_text(inputs.get("upscale_model"), ("model_name",)) or ""
    match = re.search(r"(?<!\d)([2348])x|x([2348])(?!\d)", name.lower())
    factor = int(match[1] or match[2]) if match else 4
    height, width = pictures.frames[0].shape[:2]
    return Result((Pictures(_resized(pictures.frames, width * factor, height * factor, "model")),))


def _scale_latent(inputs: Inputs) -> Result:
    latent = find(inputs.get("samples"), Latent)
    if latent is None:
        raise NodeError("ValueError", "there is no latent to scale")
    wide, high = checked_size(*_target(latent.width, latent.height, inputs), latent.batch, multiple=8)
    method, crop = str(inputs.get("upscale_method", "bilinear")), inputs.get("crop") == "center"
    frames = _resized(latent.frames, wide, high, method, crop) if latent.frames else ()
    return Result((Latent(wide, high, latent.batch, frames, latent.mask),))


def _repeat(inputs: Inputs) -> Result:
    amount = max(1, int(find_number(inputs.get("amount"), ("amount", "value", "int")) or 1))
    latent = find(inputs.get("samples"), Latent)
    if latent is not None:
        checked_size(latent.width, latent.height, latent.batch * amount)
        count = latent.batch * amount
        return Result((Latent(latent.width, latent.height, count, latent.frames * amount, latent.mask),))
    pictures = find_pictures(inputs.get("image"))
    if pictures is None:
        raise NodeError("ValueError", "there is nothing to repeat")
    height, width = pictures.frames[0].shape[:2]
    checked_size(width, height, len(pictures.frames) * amount)
    return Result((Pictures(pictures.frames * amount),))


def _batch(inputs: Inputs) -> Result:
    found = [pictures for value in inputs.values() if (pictures := find_pictures(value)) is not None]
    if not found:
        raise NodeError("ValueError", "there are no images to batch")
    height, width = found[0].frames[0].shape[:2]
    checked_size(width, height, sum(len(pictures.frames) for pictures in found))
    frames = (_resized(pictures.frames, width, height, "bilinear") for pictures in found)
    return Result((Pictures(tuple(frame for group in frames for frame in group)),))


def _empty_image(inputs: Inputs) -> Result:
    import numpy as np

    batch = max(1, int(find_number(inputs.get("batch_size"), ("value",)) or 1))
    wide, high = (find_number(inputs.get(side), ("value",)) or 512 for side in ("width", "height"))
    width, height = checked_size(wide, high, batch)
    colour = int(find_number(inputs.get("color"), ("value",)) or 0)
    plain = np.empty((height, width, 3), np.uint8)
    plain[:] = (colour >> 16 & 255, colour >> 8 & 255, colour & 255)
    return Result((Pictures((plain,) * batch),))


def _invert(inputs: Inputs) -> Result:
    pictures = find_pictures(inputs.get("image"))
    if pictures is None:
        raise NodeError("ValueError", "there is no image to invert")
    return Result((Pictures(tuple(255 - frame for frame in pictures.frames)),))


_HANDLERS: dict[str, Callable[[Inputs], Result]] = {
    "CheckpointLoaderSimple": lambda inputs: Result(rest=Model(str(inputs.get("ckpt_name", "")))),
    "CLIPTextEncode": lambda inputs: Result(rest=Words(find_text(inputs.get("text")) or "")),
    "EmptyLatentImage": _empty_latent, "EmptySD3LatentImage": _empty_latent,
    "VAEEncode": _encode, "VAEEncodeTiled": _encode, "VAEEncodeForInpaint": _encode,
    "SetLatentNoiseMask": _set_mask, "VAEDecode": _decode, "VAEDecodeTiled": _decode,
    "ImageScale": _scale_image, "ImageScaleBy": _scale_image, "ImageScaleToTotalPixels": _scale_image,
    "ImageUpscaleWithModel": _upscale_with_model, "LatentUpscale": _scale_latent,
    "LatentUpscaleBy": _scale_latent,
    "RepeatLatentBatch": _repeat, "RepeatImageBatch": _repeat, "ImageBatch": _batch,
    "EmptyImage": _empty_image,
    "ImageInvert": _invert,
}  # fmt: skip


def picture_for(class_type: str, inputs: Inputs) -> Pictures:
    """Return what an output node is to save; if nothing leads to a picture, one drawn for it."""
    from sdctl.local.sketch.drawing import Wish, draw

    everything = Bundle(class_type, inputs)
    pictures = find_pictures(everything)
    if pictures is not None:
        return pictures
    width, height = (find_number(everything, (side,)) or 512 for side in ("width", "height"))
    seed = int(find_number(everything, ("noise_seed", "seed")) or 0)
    prompt = find_text(everything, ("positive", "prompt", "text")) or ""
    return Pictures(
        (draw(Wish(prompt, "", seed, *checked_size(width, height, multiple=8), _model_name(everything))),)
    )


def animation(
    pictures: Pictures, kind: str, *, fps: float, lossless: bool, quality: int, facts: dict[str, str]
) -> bytes:
    """Encode frames as an animated WEBP, PNG or GIF; `facts` go into its metadata as far as it has any."""
    from PIL import Image, PngImagePlugin

    frames = [Image.fromarray(frame) for frame in pictures.frames]
    duration = int(1000 / min(1000.0, max(0.01, fps)))
    options: dict[str, Any] = {}
    if kind == "WEBP":
        exif = frames[0].getexif()
        # Model and Make carry the workflow, as ComfyUI writes it; ImageDescription says what drew it.
        exif[0x0110] = "prompt:" + facts.get("prompt", "")
        exif[0x010F] = "workflow:" + facts.get("workflow", "")
        exif[0x010E] = facts["Comment"]
        options = {"lossless": lossless, "quality": quality, "method": 0, "exif": exif}
    elif kind == "PNG":
        info = PngImagePlugin.PngInfo()
        for key, value in facts.items():
            info.add_text(key, value)
        options = {"pnginfo": info, "compress_level": 1}
    else:
        options = {"comment": facts["Comment"].encode()}
    buffer = io.BytesIO()
    frames[0].save(
        buffer, kind, save_all=True, append_images=frames[1:], duration=duration, loop=0, **options
    )
    return buffer.getvalue()
