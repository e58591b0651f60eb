"""The SD WebUI's jobs: one at a time behind a lock, with the progress, interrupt and skip of the real one."""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sdctl.local.sketch import webui_lists
from sdctl.local.sketch.models import Checkpoint
from sdctl.local.sketch.notice import RUNTIME
from sdctl.local.sketch.webui_fields import MAX_SIDE, failure, http_exception

if TYPE_CHECKING:
    from PIL import Image

    from sdctl.local.sketch.drawing import Wish
    from sdctl.local.sketch.fields import Bytes

# A1111 would run out of GPU memory far below this.
MAX_JOB_PIXELS = 4 * MAX_SIDE * MAX_SIDE
_VERSION = "1.10.1"


@dataclass
class State:
    """What GET progress shows; names as A1111's `shared.state`."""

    skipped: bool = False
    interrupted: bool = False
    job: str = ""
    job_count: int = 0
    job_timestamp: str = "0"
    job_no: int = 0
    sampling_step: int = 0
    sampling_steps: int = 0
    time_start: float = 0.0
    preview: Callable[[], bytes] | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)

    def begin(self, job: str, job_count: int) -> None:
        """Start a job: what the last one left behind is forgotten."""
        self.skipped = self.interrupted = False
        self.stop.clear()
        self.job, self.job_count, self.job_no = job, job_count, 0
        self.sampling_step = 0
        self.job_timestamp = time.strftime("%Y%m%d%H%M%S")
        self.time_start = time.time()
        self.preview = None

    def end(self) -> None:
        """End the job. `interrupted` stays as it is until the next one, as in the real server."""
        self.job, self.job_count, self.sampling_step = "", 0, 0
        self.preview = None

    def interrupt(self) -> None:
        """Stop the running job after this step."""
        self.interrupted = True
        self.stop.set()

    def skip(self) -> None:
        """Stop the running batch after this step."""
        self.skipped = True
        self.stop.set()

    def shown(self) -> dict[str, Any]:
        """Return the `state` of GET progress."""
        return {
            "skipped": self.skipped, "interrupted": self.interrupted, "stopping_generation": False,
            "job": self.job, "job_count": self.job_count, "job_timestamp": self.job_timestamp,
            "job_no": self.job_no, "sampling_step": self.sampling_step, "sampling_steps": self.sampling_steps,
        }  # fmt: skip

    def progress(self) -> tuple[float, float]:
        """Return the part that is done and the seconds that are left, by A1111's own formula."""
        if self.job_count == 0:
            return 0.0, 0.0
        done = 0.01 + self.job_no / self.job_count
        if self.sampling_steps > 0:
            done += self.sampling_step / self.sampling_steps / self.job_count
        elapsed = time.time() - self.time_start
        return min(done, 1.0), elapsed / done - elapsed


@dataclass(frozen=True, slots=True)
class Source:
    """What an img2img starts from: pictures, the mask and how strongly they change."""

    images: tuple[Image.Image, ...]
    mask: Image.Image | None
    strength: float


@dataclass(frozen=True, slots=True)
class Order:
    """One validated txt2img or img2img: what every picture of it has in common."""

    values: dict[str, Any]
    checkpoint: Checkpoint
    seed: int
    subseed: int
    width: int
    height: int
    source: Source | None = None

    @property
    def count(self) -> int:
        """Return the number of pictures."""
        return int(self.values["batch_size"] * self.values["n_iter"])

    def wish(self, index: int) -> Wish:
        """Return what picture number `index` is made from."""
        from sdctl.local.sketch.drawing import Wish

        return Wish(self.values["prompt"], self.values["negative_prompt"], self.seed + index, self.width,
                    self.height, self.checkpoint.model_name)  # fmt: skip

    def paint(self, index: int) -> Bytes:
        """Draw picture number `index`."""
        from sdctl.local.sketch import images
        from sdctl.local.sketch.drawing import draw

        wish = self.wish(index)
        if self.source is None:
            return draw(wish)
        start = self.source.images[index % len(self.source.images)]
        before = images.pixels(images.fit(start, self.width, self.height, self.values["resize_mode"]))
        after = images.repaint(before, wish, self.source.strength)
        if self.source.mask is None:
            return after
        blur = self.values["mask_blur"]
        return images.masked(
            after, before, self.source.mask, max(0, self.values["mask_blur_x"] if blur is None else blur)
        )

    def sampler(self) -> tuple[str, str]:
        """Return the sampler and the schedule's label that stand in the info."""
        name, schedule = webui_lists.sampler(self.values["sampler_name"] or self.values["sampler_index"])
        asked = webui_lists.schedule_label(self.values["scheduler"])
        return name, asked or schedule

    def extras(self) -> dict[str, Any]:
        """Return what the info says beyond the usual: denoising, hires fix, mask."""
        values = self.values
        more: dict[str, Any] = {}
        if self.source is not None:
            more["Denoising strength"] = self.source.strength
            if self.source.mask is not None:
                blur = values["mask_blur"]
                more["Mask blur"] = values["mask_blur_x"] if blur is None else blur
        elif values["enable_hr"]:
            if values["denoising_strength"] is not None:
                more["Denoising strength"] = values["denoising_strength"]
            if values["hr_resize_x"] or values["hr_resize_y"]:
                more["Hires resize"] = f"{values['hr_resize_x']}x{values['hr_resize_y']}"
            else:
                more["Hires upscale"] = values["hr_scale"]
            if values["hr_second_pass_steps"]:
                more["Hires steps"] = values["hr_second_pass_steps"]
            more["Hires upscaler"] = values["hr_upscaler"] or "Latent"
        return more

    def infotext(self, index: int) -> str:
        """Return the `parameters` text of picture number `index`."""
        values = self.values
        sampler, schedule = self.sampler()
        facts = {
            "Steps": values["steps"], "Sampler": sampler, "Schedule type": schedule,
            "CFG scale": values["cfg_scale"], "Seed": self.seed + index,
            "Size": f"{values['width']}x{values['height']}", "Model hash": self.checkpoint.short_hash,
            "Model": self.checkpoint.model_name, **self.extras(), "Version": _VERSION, "Runtime": RUNTIME,
        }  # fmt: skip
        negative = values["negative_prompt"]
        lines = [values["prompt"], f"Negative prompt: {negative}" if negative else ""]
        lines.append(", ".join(f"{name}: {value}" for name, value in facts.items()))
        return "\n".join(line for line in lines if line)

    def info(self, made: int, job_timestamp: str) -> dict[str, Any]:
        """Return the `info` of an answer with `made` pictures."""
        values = self.values
        sampler, schedule = self.sampler()
        extras = self.extras()
        if schedule != "Automatic":
            extras = {"Schedule type": schedule, **extras}
        count = self.count
        return {
            "prompt": values["prompt"], "all_prompts": [values["prompt"]] * count,
            "negative_prompt": values["negative_prompt"],
            "all_negative_prompts": [values["negative_prompt"]] * count,
            "seed": self.seed, "all_seeds": [self.seed + index for index in range(count)],
            "subseed": self.subseed, "all_subseeds": [self.subseed + index for index in range(count)],
            "subseed_strength": values["subseed_strength"], "width": values["width"],
            "height": values["height"],
            "sampler_name": sampler, "cfg_scale": values["cfg_scale"], "steps": values["steps"],
            "batch_size": values["batch_size"], "restore_faces": bool(values["restore_faces"]),
            "face_restoration_model": None, "sd_model_name": self.checkpoint.model_name,
            "sd_model_hash": self.checkpoint.short_hash, "sd_vae_name": None, "sd_vae_hash": None,
            "seed_resize_from_w": -1, "seed_resize_from_h": -1,
            "denoising_strength": self.source.strength if self.source else values["denoising_strength"],
            "extra_generation_params": extras, "index_of_first_image": 0,
            "infotexts": [self.infotext(index) for index in range(made)], "styles": values["styles"] or [],
            "job_timestamp": job_timestamp, "clip_skip": 1, "is_using_inpainting_conditioning": False,
            "version": _VERSION, "runtime": RUNTIME,
        }  # fmt: skip


def read_image(text: Any) -> Image.Image:
    """Decode a picture of a request: base64, with or without `data:` before it. Nothing is ever fetched.

    Raises:
        RefusedError: 500 with A1111's text.
    """
    from sdctl.local.sketch.images import BadImageError, decode_image

    if not isinstance(text, str):
        raise http_exception(500, "Invalid encoded image")
    if text.startswith(("http://", "https://")):
        raise http_exception(500, "Requests not allowed")
    if text.startswith("data:image/"):
        text = text.partition(",")[2]
    try:
        return decode_image(base64.b64decode(text, validate=False))
    except (binascii.Error, ValueError, BadImageError) as error:
        raise http_exception(500, "Invalid encoded image") from error


def read_order(values: dict[str, Any], checkpoint: Checkpoint, draw_number: Callable[[], int]) -> Order:
    """Turn the fields of a request into an order.

    Args:
        values: the checked fields.
        checkpoint: what the pictures are to be drawn with.
        draw_number: makes a random seed of 32 bits.

    Raises:
        RefusedError: for what the real server fails on.
    """
    if values["steps"] <= 0:
        raise failure("ZeroDivisionError", "integer division or modulo by zero")
    if values["batch_size"] < 1 or values["n_iter"] < 1:
        raise failure("IndexError", "list index out of range")
    script = values["script_name"]
    if script:
        raise http_exception(422, f"Script '{script}' not found")
    for name, arguments in values["alwayson_scripts"].items():
        # Which extensions the user's own server has cannot be known: whatever has the form of one is taken.
        if not isinstance(arguments, dict):
            raise http_exception(422, f"Script '{name}' not found")
    width, height = final_size(values)
    if width * height * values["batch_size"] * values["n_iter"] > MAX_JOB_PIXELS:
        text = f"sketch draws at most {MAX_JOB_PIXELS} pixels a request; this one asks for more"
        raise failure("OutOfMemoryError", text)
    seed = values["seed"] if values["seed"] != -1 else draw_number()
    subseed = values["subseed"] if values["subseed"] != -1 else draw_number()
    return Order(values, checkpoint, seed, subseed, width, height)


def final_size(values: Mapping[str, Any]) -> tuple[int, int]:
    """Return the size of the pictures: multiples of 8, enlarged where the hires fix is on."""
    width, height = values["width"], values["height"]
    _require_drawable(width, height)
    if values.get("enable_hr"):
        across, down = values["hr_resize_x"], values["hr_resize_y"]
        if across or down:
            width, height = across or width * down // height, down or height * across // width
        else:
            width, height = (int(side * values["hr_scale"]) for side in (width, height))
    _require_drawable(width, height)
    return width // 8 * 8, height // 8 * 8


def _require_drawable(width: int, height: int) -> None:
    """Fail as a tensor without a pixel does; A1111 itself has no lower limit."""
    if not all(8 <= side <= MAX_SIDE for side in (width, height)):
        raise failure("RuntimeError", f"sketch draws 8x8 to {MAX_SIDE}x{MAX_SIDE}, not {width}x{height}")


def read_source(values: dict[str, Any]) -> Source:
    """Decode the pictures that an img2img starts from."""
    from PIL import ImageOps

    if values["init_images"] is None:
        raise http_exception(404, "Init image not found")
    if not values["init_images"]:
        text = "Expected 3D (unbatched) or 4D (batched) input to conv2d, but got input of size: [0]"
        raise failure("RuntimeError", text)
    mask = None
    if values["mask"]:
        mask = read_image(values["mask"]).convert("L")
        if values["inpainting_mask_invert"]:
            mask = ImageOps.invert(mask)
    strength = values["denoising_strength"]
    images = tuple(read_image(text) for text in values["init_images"][: values["batch_size"]])
    return Source(images, mask, 0.75 if strength is None else strength)
