"""The nodes that end a workflow: what they store and what history lists of it."""

from __future__ import annotations

import json
import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sdctl.local.sketch.comfy_values import (
    Bundle,
    Mask,
    NodeError,
    Pictures,
    find_number,
    find_pictures,
    find_text,
    walk,
)
from sdctl.local.sketch.files import FileRef, FileStore, OutsideFolderError, expand_prefix, inside
from sdctl.local.sketch.notice import notice
from sdctl.local.sketch.workflow import animation, picture_for

if TYPE_CHECKING:
    from sdctl.local.sketch.fields import Bytes

_TEXT_ONLY = ("PreviewAny", "ShowText|pysssh", "DisplayAny", "Display Any (rgthree)", "easy showAnything")
_VIDEO = ("SaveVideo", "SaveWEBM", "VHS_VideoCombine")
_IMPOSSIBLE = ("audio", "latent", "glb", "3d", "gaussian", "pointcloud")


@dataclass(frozen=True, slots=True)
class Saving:
    """One output node at work: where it stores, and what its files say about themselves."""

    files: FileStore
    class_type: str
    inputs: dict[str, Any]
    facts: dict[str, str]
    temp_tag: str

    def run(self) -> tuple[dict[str, list[Any]] | None, list[bytes]]:
        """Store what the node saves.

        Returns:
            What history lists for the node (None: nothing), and PNG files that go over the socket instead.

        Raises:
            NodeError: it is something that sketch cannot make, or the prefix leads out of the folder.
        """
        name = self.class_type
        lowered = name.lower()
        if name in _TEXT_ONLY or self._only_text():
            return {"text": [self._text()]}, []
        if name == "SaveImageWebsocket":
            return None, [self._png(frame) for frame in picture_for(name, self.inputs).frames]
        if name in _VIDEO or name.startswith("SaveAnimated"):
            return self._animated(), []
        if any(word in lowered for word in _IMPOSSIBLE):
            raise NodeError("NotImplementedError", f"sketch draws pictures; {name} needs a real ComfyUI")
        frames = self._mask_frames() if "mask" in lowered else picture_for(name, self.inputs).frames
        folder = "temp" if "preview" in lowered or "show" in lowered else "output"
        refs = [self._store(folder, ".png", frame, self._png(frame)) for frame in frames]
        return {"images": [_listed(ref) for ref in refs]}, []

    def _only_text(self) -> bool:
        """Say whether all that reaches a node of an unknown class is text or numbers."""
        if (
            find_pictures(Bundle(self.class_type, self.inputs)) is not None
            or "image" in self.class_type.lower()
        ):
            return False
        kinds = [one for _, one in walk(Bundle("", self.inputs)) if not isinstance(one, Bundle)]
        linked = any(isinstance(value, Bundle) for value in self.inputs.values())
        return not linked and bool(kinds) and all(isinstance(one, (str, int, float, bool)) for one in kinds)

    def _text(self) -> str:
        value = self.inputs.get("source", next(iter(self.inputs.values()), ""))
        text = find_text(value)
        if text is not None:
            return text
        number = find_number(value, ("value", "int", "float", "number"))
        return "" if number is None else str(number)

    def _mask_frames(self) -> tuple[Bytes, ...]:
        from sdctl.local.sketch import images

        mask = next((one for _, one in walk(Bundle("", self.inputs)) if isinstance(one, Mask)), None)
        if mask is None:
            return picture_for(self.class_type, self.inputs).frames
        return (images.pixels(mask.image),)

    def _png(self, frame: Bytes) -> bytes:
        from sdctl.local.sketch.png import encode_png

        return encode_png(frame, self.facts)

    def _animated(self) -> dict[str, list[Any]]:
        """Store frames as one animation; what would be a video is listed as the GIF or WEBP it becomes."""
        pictures = picture_for(self.class_type, self.inputs)
        number = find_number(
            self.inputs.get("fps", self.inputs.get("frame_rate")), ("fps", "frame_rate", "value")
        )
        fps = 8.0 if number is None else float(number)
        is_combine = self.class_type == "VHS_VideoCombine"
        asked = str(self.inputs.get("format", ""))
        if is_combine and self.inputs.get("pingpong"):
            pictures = Pictures((*pictures.frames, *pictures.frames[-2:0:-1]))
        kind = "PNG" if self.class_type == "SaveAnimatedPNG" else "WEBP"
        if is_combine and asked != "image/webp":
            kind = "GIF"
        lossless = self.inputs.get("lossless") is True
        quality = int(find_number(self.inputs.get("quality"), ("value",)) or 80)
        data = animation(
            pictures, kind, fps=fps, lossless=lossless, quality=min(100, quality), facts=self.facts
        )
        folder = "temp" if is_combine and self.inputs.get("save_output") is False else "output"
        ref = self._store(
            folder, f".{kind.lower()}", pictures.frames[0], data, counter_tail="" if is_combine else "_"
        )
        if not is_combine:
            return {"images": [_listed(ref)], "animated": [True]}
        first = FileRef(ref.type, ref.subfolder, posixpath.splitext(ref.filename)[0] + ".png")
        self.files.put(first, self._png(pictures.frames[0]))
        row = {
            **_listed(ref), "format": f"image/{kind.lower()}", "frame_rate": fps, "workflow": first.filename,
            "fullpath": posixpath.join("/sketch", ref.type, ref.subfolder, ref.filename),
        }  # fmt: skip
        return {"gifs": [row]}

    def _store(self, folder: str, suffix: str, frame: Bytes, data: bytes, counter_tail: str = "_") -> FileRef:
        default = f"ComfyUI_temp_{self.temp_tag}" if folder == "temp" else "ComfyUI"
        prefix = find_text(self.inputs.get("filename_prefix")) or default
        height, width = frame.shape[:2]
        try:
            path = inside(expand_prefix(prefix, width, height))
        except OutsideFolderError as error:
            message = "**** ERROR: Saving image outside the output folder is not allowed."
            raise NodeError("Exception", f"{message}\n filename_prefix: {prefix}") from error
        subfolder, base = posixpath.dirname(path), posixpath.basename(path)
        number = self.files.next_number(folder, path)
        ref = FileRef(folder, subfolder, f"{base}_{number:05}{counter_tail}{suffix}")
        self.files.put(ref, data)
        return ref


def _listed(ref: FileRef) -> dict[str, Any]:
    return {"filename": ref.filename, "subfolder": ref.subfolder, "type": ref.type}


def picture_facts(graph: dict[str, Any], extra_data: dict[str, Any]) -> dict[str, str]:
    """Return the text chunks of every file of a run: the workflow, as ComfyUI writes it, and our notice."""
    facts = {"prompt": json.dumps(graph)}
    extra = extra_data.get("extra_pnginfo")
    if isinstance(extra, dict):
        facts |= {key: json.dumps(value) for key, value in extra.items() if _is_keyword(key)}
    return {**facts, **notice()}


def _is_keyword(key: object) -> bool:
    """Say whether a text is a PNG keyword: 1 to 79 Latin-1 characters, https://www.w3.org/TR/png-3/#11keywords."""
    return isinstance(key, str) and 0 < len(key) < 80 and key.isascii() and key.isprintable()
