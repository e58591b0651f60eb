"""Request bodies from what a user says: pure functions, no I/O. Fields are SD WebUI's own."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sdctl import contract
from sdctl.errors import ConfigError, NotFoundError, UsageError

DEFAULT_UPSCALER: Final = "R-ESRGAN 4x+"
_SEGMENT: Final = re.compile(r"((?:[^.\[\]\\]|\\.)+)|\[(\d+)\]")
_MAX_INDEX: Final = 10_000


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the contract knows of a task, beside its content; None where the user gave nothing."""

    id: str | None = None
    runtime: str | None = None
    prefix: str | None = None
    context: Any = None
    deadline_seconds: float | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that were given, by their names in the contract."""
        fields = {
            "id": self.id, "runtime": self.runtime, "prefix": self.prefix, "context": self.context,
            "deadline_seconds": self.deadline_seconds,
        }  # fmt: skip
        return {name: value for name, value in fields.items() if value is not None}


def body(metadata: Metadata, tasktype: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a body of v1alpha2; it gets an id here, so that sending it twice is the same as once."""
    values = {"id": contract.new_task_id(), **metadata.given(), "tasktype": tasktype}
    return _as_utf8({"task": {"metadata": values, "content": dict(content)}})


def _as_utf8(document: dict[str, Any]) -> dict[str, Any]:
    """Mend text from the command line that was UTF-8 while the locale says otherwise.

    Raises:
        UsageError: it is not UTF-8.
    """
    text = json.dumps(document, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        try:
            # https://peps.python.org/pep-0383/: undecodable bytes of an argument are lone surrogates
            mended: dict[str, Any] = json.loads(text.encode("utf-8", "surrogateescape").decode())
        except UnicodeError as error:
            raise UsageError("the task holds text that is not UTF-8") from error
        return mended
    return document


def image_content(fields: Mapping[str, Any], checkpoint: str | None) -> dict[str, Any]:
    """Return the content of text-to-image or image-to-image.

    Args:
        fields: SD WebUI's fields; those that are None are left to its defaults.
        checkpoint: the model to switch to.
    """
    scripts = {contract.ROUTE_CHECKPOINT: checkpoint} if checkpoint else {}
    return {
        "alwayson_scripts": scripts,
        **{name: value for name, value in fields.items() if value is not None},
    }


def upscale_content(
    image: str, *, upscaler: str | None, scale: float | None, size: tuple[int, int] | None
) -> dict[str, Any]:
    """Return the content of extra-single-image: by a factor, or to a size in pixels.

    The defaults are those of the guide's sample.
    """
    content: dict[str, Any] = {"image": image, "upscaler_1": upscaler or DEFAULT_UPSCALER}
    if size is None:
        return content | {"resize_mode": 0, "upscaling_resize": 4 if scale is None else scale}
    return content | {
        "resize_mode": 1, "upscaling_resize_w": size[0], "upscaling_resize_h": size[1],
        "upscaling_crop": False,
    }  # fmt: skip


def parse_size(text: str) -> tuple[int, int]:
    """Read `WIDTHxHEIGHT` in pixels."""
    match = re.fullmatch(r"([1-9]\d{0,4})[xX×]([1-9]\d{0,4})", text)
    if match is None:
        raise UsageError(f"{text!r} is not a size: write it as 512x768")
    return int(match[1]), int(match[2])


def parse_json_object(text: str, name: str) -> dict[str, Any]:
    """Read a file's text as one JSON object.

    Raises:
        ConfigError: it is none.
    """
    try:
        document = contract.decode_json(text)
    except ValueError as error:
        raise ConfigError(f"{name} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{name} is {contract.found(document)}, not a JSON object")
    return document


def workflow(document: dict[str, Any], name: str) -> dict[str, Any]:
    """Check that a document is a ComfyUI workflow in API format.

    Raises:
        ConfigError: it is not; the hint says how to export one.
    """
    problems = contract.workflow_problems(document)
    if problems:
        raise ConfigError(
            f"{name} {'; '.join(problems)}",
            hint="in ComfyUI: Workflow menu, Export (API); in older versions Settings, Enable Dev mode "
            "Options, then Save (API Format)",
        )
    return document


def node_of(document: Mapping[str, Any], name: str) -> str:
    """Find a workflow's node by its id or by its title.

    Raises:
        NotFoundError: there is none of that name.
        UsageError: several nodes have this title.
    """
    if name in document:
        return name
    titled = [
        key
        for key, node in document.items()
        if isinstance(node, dict)
        and isinstance(node.get("_meta"), dict)
        and node["_meta"].get("title") == name
    ]
    if len(titled) == 1:
        return titled[0]
    if titled:
        raise UsageError(
            f"several nodes have the title {name!r}: {', '.join(titled)}", hint="name it by its id"
        )
    known = ", ".join(
        f"{key} ({node.get('class_type')})" for key, node in document.items() if isinstance(node, dict)
    )
    raise NotFoundError(f"the workflow has no node {name!r}; it has {known}")


# The input of a node that names its file, by class; others take `image`.
FILE_INPUTS: Final[Mapping[str, str]] = {
    "LoadVideo": "file", "VHS_LoadVideo": "video", "LoadAudio": "audio",
}  # fmt: skip


def raw_body(document: dict[str, Any], metadata: Metadata) -> tuple[dict[str, Any], str]:
    """Complete a whole body that the user wrote, of v1alpha2 or v1alpha1.

    Returns:
        The body with what `metadata` gives put in and an id made where it has none, and its version.

    Raises:
        UsageError: `metadata` gives what v1alpha1 does not know.
        ConfigError: it is a body of neither version.
    """
    task, scripts = document.get("task"), document.get("alwayson_scripts")
    if isinstance(task, dict) and isinstance(task.get("metadata"), dict):
        fields = {"id": contract.new_task_id(), **task["metadata"], **metadata.given()}
        return _as_utf8({**document, "task": {**task, "metadata": fields}}), "v1alpha2"
    if isinstance(scripts, dict) and "task" in scripts:
        given = metadata.given()
        names = {"id": "id_task", "prefix": "save_dir"}
        unknown = sorted(set(given) - set(names))
        if unknown:
            raise UsageError(f"a body of v1alpha1 has no {', '.join(unknown)}")
        routing = {names[name]: value for name, value in given.items()}
        made = {"id_task": contract.new_task_id()}
        return _as_utf8({**document, "alwayson_scripts": {**made, **scripts, **routing}}), "v1alpha1"
    raise ConfigError(
        "this is a body of neither version: it has no task/metadata and no alwayson_scripts/task",
        hint='v1alpha2: {"task": {"metadata": {"runtime": …, "tasktype": …}, "content": {…}}}',
    )


def apply_settings(document: dict[str, Any], settings: Sequence[str]) -> None:
    r"""Set values in a document, each given as `path=value`.

    The value is JSON where it parses as such, else a string. The path is `a.b[0].c`: a dot leads into
    an object (or, with a number, into an array), brackets into an array, one past its end appends; what
    is missing on the way is made. A dot within a name is written `\.`.

    Raises:
        UsageError: a path does not fit the document.
    """
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path:
            raise UsageError(f"--set {setting!r} is not key=value")
        _set(document, _segments(path), _value(text), path)


def _value(text: str) -> Any:
    try:
        return contract.decode_json(text)
    except ValueError:
        return text


def _segments(path: str) -> list[str | int]:
    segments: list[str | int] = []
    position = 0
    while position < len(path):
        match = _SEGMENT.match(path, position)
        if match is None:
            raise UsageError(f"--set path {path!r} is malformed at {path[position:]!r}: write it as a.b[0].c")
        name, index = match.groups()
        segments.append(int(index) if index is not None else re.sub(r"\\(.)", r"\1", name))
        position = match.end()
        if position < len(path) and path[position] == ".":
            position += 1
            if position == len(path):
                raise UsageError(f"--set path {path!r} ends with a dot")
    return segments


def _set(document: dict[str, Any], segments: list[str | int], value: Any, path: str) -> None:
    at: Any = document
    for segment, following in zip(segments, [*segments[1:], None], strict=True):
        new: Any = value if following is None else ([] if isinstance(following, int) else {})
        if isinstance(at, list):
            index = _index(segment, len(at), path)
            if index == len(at):
                at.append(new)
            elif following is None:
                at[index] = new
            at = at[index]
        elif isinstance(at, dict) and isinstance(segment, str):
            if following is None or at.get(segment) is None:
                at[segment] = new
            at = at[segment]
        else:
            raise UsageError(f"--set {path}: {contract.found(at)} has no {json.dumps(segment)}")


def _index(segment: str | int, length: int, path: str) -> int:
    index = int(segment) if isinstance(segment, int) or segment.isdecimal() else -1
    if not 0 <= index <= min(length, _MAX_INDEX):
        raise UsageError(f"--set {path}: {segment} is not an index from 0 to {length}")
    return index
