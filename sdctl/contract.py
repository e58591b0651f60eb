"""The task envelope: the one definition that the command line, the Lambda functions and the agent share.

Fields, limits, statuses, task types and validation. Pure and standard library only: this file also
travels inside every Lambda zip and the agent's image. A problem is a path and a message, and all
problems of a request are found at once. What is kept of a task is in `task_record`.
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Final

SDWEBUI: Final = "sdwebui"
COMFYUI: Final = "comfyui"

# Which task types each runtime type works off. A plug-in runtime of the agent brings its own.
TASK_TYPES: Final[Mapping[str, tuple[str, ...]]] = {
    SDWEBUI: ("text-to-image", "image-to-image", "extra-single-image", "extra-batch-images"),
    COMFYUI: ("pipeline",),
}
RUNTIME_TYPES: Final = tuple(TASK_TYPES)
ALL_TASK_TYPES: Final = tuple(name for names in TASK_TYPES.values() for name in names)

QUEUED: Final = "queued"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
CANCELLED: Final = "cancelled"
EXPIRED: Final = "expired"
END_STATUSES: Final = (COMPLETED, FAILED, CANCELLED, EXPIRED)
STATUSES: Final = (QUEUED, RUNNING, *END_STATUSES)
RETRYABLE_STATUSES: Final = (FAILED, EXPIRED, CANCELLED)

# Message attributes that route a task to its runtime's queue.
ROUTE_RUNTIME: Final = "runtime"
ROUTE_CHECKPOINT: Final = "sd_model_checkpoint"

ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# A DNS label, https://www.rfc-editor.org/rfc/rfc1123#section-2.1
NAME_PATTERN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# The model that the guide's configuration names, and that SD WebUI fetches by itself where it has none.
DEFAULT_CHECKPOINT: Final = "v1-5-pruned-emaonly.safetensors"
DEFAULT_PREFIX: Final = "output"
DEFAULT_PREFIX_V1ALPHA1: Final = "outputs"
# Our own objects of the output bucket live below this prefix; a task's outputs never do.
RESERVED_PREFIX: Final = ".sdctl"

MAX_BODY_BYTES: Final = 4 * 1024 * 1024
MAX_PREFIX_BYTES: Final = 256
MAX_CONTEXT_BYTES: Final = 16 * 1024
# Deeper JSON is refused, so that whatever one part could read no other part fails to write.
MAX_NESTING: Final = 100
# How many known names a message lists at most.
MAX_NAMES_SHOWN: Final = 20
# A message that is larger, attributes included, carries a pointer into S3 instead of its content.
# SNS takes 262,144 bytes: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html
MAX_INLINE_MESSAGE_BYTES: Final = 200 * 1024
# SQS keeps a message for at most 14 days:
# https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SetQueueAttributes.html
QUEUE_RETENTION_SECONDS: Final = 14 * 24 * 3600
MAX_ATTEMPTS_DEFAULT: Final = 3
VISIBILITY_SECONDS: Final = 30
HEARTBEAT_SECONDS: Final = 10

METADATA_FIELDS: Final = (
    "id", "runtime", "tasktype", "prefix", "context", "webhook_url", "deadline_seconds",
)  # fmt: skip
# Keys of `alwayson_scripts` that are ours and that no runtime knows.
ROUTING_KEYS: Final = ("task", "sd_model_checkpoint", "id_task", "save_dir", "image_link")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a request: where (`task/metadata/id`) and what."""

    path: str
    message: str

    def as_dict(self) -> dict[str, str]:
        """Return the JSON shape of the API's `fields`."""
        return {"path": self.path, "message": self.message}


class InvalidTaskError(ValueError):
    """A task breaks the contract; `problems` lists everything that is wrong with it."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{p.path}: {p.message}" if p.path else p.message for p in self.problems))


class UndecodableMessageError(ValueError):
    """A queue message holds no task: not JSON, or nothing that could be named or reported."""


@dataclass(frozen=True, slots=True)
class RuntimeInfo:
    """What the front knows of one deployed runtime.

    `checkpoints` are the model file names it may be asked for; an empty `checkpoint` means that it
    listens to no `sd_model_checkpoint`; `dynamic` runtimes may switch to any model of the bucket.
    """

    name: str
    type: str
    checkpoint: str = ""
    dynamic: bool = False
    checkpoints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A valid task, whichever API version it came through.

    `content` is passed to the runtime; `route` is the one message attribute (name, value).
    """

    id: str
    runtime: str
    tasktype: str
    content: dict[str, Any]
    prefix: str = DEFAULT_PREFIX
    context: Any = None
    deadline_seconds: float | None = None
    route: tuple[str, str] = ("", "")
    # (bucket, key) of the content in S3, where it is too large for the message or the row. A task that
    # `parse_message` returns with a pointer has an empty `content` until it is fetched.
    pointer: tuple[str, str] | None = None
    problems: tuple[Problem, ...] = field(default=(), compare=False)

    @property
    def content_hash(self) -> str:
        """Hash the canonical task without its id: the same hash means the same request again."""
        canonical = {
            "runtime": self.runtime.lower(), "tasktype": self.tasktype, "prefix": self.prefix,
            "context": self.context, "deadline_seconds": self.deadline_seconds, "content": self.content,
        }  # fmt: skip
        return hashlib.sha256(canonical_json(canonical).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """Render JSON in the one form that hashes and limits are measured on.

    Raises:
        ValueError: a number is infinite or not a number, which JSON cannot say.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True)


def new_task_id() -> str:
    """Make an id for a task that came without one."""
    return uuid.uuid4().hex


def decode_json(text: str | bytes) -> Any:
    """Parse strict JSON: no NaN, no infinite number, no lone surrogate, at most `MAX_NESTING` levels.

    Raises:
        ValueError: the text is not such JSON; the message says why.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not JSON")

    try:
        value = json.loads(text, parse_constant=refuse)
        if _is_nested_deeper(value, MAX_NESTING):
            raise ValueError(f"nested deeper than {MAX_NESTING} levels")
        canonical_json(value).encode()
    except RecursionError:
        raise ValueError(f"nested deeper than {MAX_NESTING} levels") from None
    except UnicodeError:
        raise ValueError("not valid Unicode") from None
    return value


def _is_nested_deeper(value: object, limit: int) -> bool:
    """Tell whether arrays and objects are nested in more than `limit` levels, level by level."""
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True


def found(value: object) -> str:
    """Show a value inside an error message, shortened."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "an array"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "…"


class _Checker:
    """Collects problems while the fields of one object are read."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def add(self, path: str, message: str) -> None:
        self.problems.append(Problem(path, message))

    def text(self, value: object, path: str) -> str | None:
        if isinstance(value, str):
            return value
        self.add(path, f"{found(value)} is not a string")
        return None

    def task_id(self, value: object, path: str) -> str | None:
        text = self.text(value, path)
        if text is not None and not ID_PATTERN.fullmatch(text):
            self.add(
                path,
                f"{found(text)} is not an id: 1 to 64 letters, digits, '-' or '_', a letter or digit first",
            )
            return None
        return text

    def prefix(self, value: object, path: str) -> str | None:
        text = self.text(value, path)
        if text is None:
            return None
        trimmed = text.removesuffix("/")
        problem = _prefix_problem(trimmed)
        if problem:
            self.add(path, f"{found(text)} {problem}")
            return None
        return trimmed

    def context(self, value: object, path: str) -> Any:
        size = len(canonical_json(value).encode())
        if size > MAX_CONTEXT_BYTES:
            self.add(path, f"{size} bytes of JSON, at most {MAX_CONTEXT_BYTES} are allowed")
        return value

    def deadline(self, value: object, path: str) -> float | None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.add(path, f"{found(value)} is not a number of seconds")
        elif not 0 < value <= QUEUE_RETENTION_SECONDS:
            self.add(path, f"{found(value)} is not between 0 and {QUEUE_RETENTION_SECONDS} seconds")
        else:
            return value
        return None

    def tasktype(self, value: object, path: str, allowed: Iterable[str]) -> str | None:
        text = self.text(value, path)
        names = tuple(allowed)
        if text is not None and text not in names:
            self.add(path, f"{found(text)} is not one of {', '.join(names)}{nearest(text, names)}")
            return None
        return text


def nearest(text: str, names: Iterable[str]) -> str:
    """Return `; did you mean "x"?` for the name nearest to `text`, or nothing."""
    match = get_close_matches(text, list(names), n=1)
    return f'; did you mean "{match[0]}"?' if match else ""


def some_names(names: Iterable[str]) -> str:
    """List names for a message: the first `MAX_NAMES_SHOWN` in full, the others counted."""
    known = list(names)
    more = len(known) - MAX_NAMES_SHOWN
    shown = ", ".join(known[:MAX_NAMES_SHOWN]) or "none"
    return f"{shown} and {more} more" if more > 0 else shown


def _prefix_problem(prefix: str) -> str:
    if not prefix:
        return "is empty"
    if len(prefix.encode()) > MAX_PREFIX_BYTES:
        return f"is longer than {MAX_PREFIX_BYTES} bytes"
    segments = prefix.split("/")
    if any(segment in ("", ".", "..") for segment in segments):
        return "has an empty, '.' or '..' segment: use a relative prefix as a/b"
    if any(ord(char) < 32 or ord(char) == 127 for char in prefix):
        return "has a control character"
    if segments[0] == RESERVED_PREFIX:
        return f"is below {RESERVED_PREFIX}/, which is reserved"
    return ""


def parse_v1alpha2(document: object, runtimes: Mapping[str, RuntimeInfo]) -> Task:
    """Validate a submit of v1alpha2, `{"task": {"metadata": {…}, "content": {…}}}`.

    Args:
        document: the decoded JSON body.
        runtimes: the deployed runtimes by lower-case name.

    Returns:
        The task, with an id made where the request has none.

    Raises:
        InvalidTaskError: with every problem of the request.
    """
    check = _Checker()
    metadata, content = _sections(check, document)
    known = _metadata(check, metadata)
    runtime = _deployed(check, metadata, runtimes)
    tasktype = None
    if metadata is not None:
        if "tasktype" in metadata:
            allowed = TASK_TYPES.get(runtime.type, ()) if runtime else ALL_TASK_TYPES
            tasktype = _tasktype(check, metadata["tasktype"], runtime, allowed)
        else:
            check.add("task/metadata/tasktype", "is required")
    if content is not None:
        _content(check, content, "task/content", tasktype, runtime)
    if check.problems or runtime is None or tasktype is None or content is None:
        raise InvalidTaskError(check.problems)
    return Task(
        id=known.get("id") or new_task_id(),
        runtime=runtime.name,
        tasktype=tasktype,
        content=content,
        prefix=known.get("prefix", DEFAULT_PREFIX),
        context=known.get("context"),
        deadline_seconds=known.get("deadline_seconds"),
        route=(ROUTE_RUNTIME, runtime.name),
    )


def _sections(check: _Checker, document: object) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """Find metadata and content of a v1alpha2 body."""
    if not isinstance(document, dict):
        check.add("", f"the body is {found(document)}, not a JSON object")
        return None, None
    for key in document:
        if key != "task":
            check.add(key, 'unknown field: the body is {"task": {"metadata": {…}, "content": {…}}}')
    task = document.get("task")
    if not isinstance(task, dict):
        check.add("task", "is required" if "task" not in document else f"{found(task)} is not an object")
        return None, None
    for key in task:
        if key not in ("metadata", "content"):
            check.add(f"task/{key}", f"unknown field{nearest(key, ('metadata', 'content'))}")
    sections: list[dict[str, Any] | None] = []
    for name in ("metadata", "content"):
        value = task.get(name)
        if isinstance(value, dict):
            sections.append(value)
            continue
        missing = "is required" if name not in task else f"{found(value)} is not an object"
        check.add(f"task/{name}", missing)
        sections.append(None)
    return sections[0], sections[1]


def _metadata(check: _Checker, metadata: dict[str, Any] | None) -> dict[str, Any]:
    """Read the fields of metadata that need no knowledge of the deployment."""
    known: dict[str, Any] = {}
    readers: dict[str, Callable[[object, str], Any]] = {
        "id": check.task_id, "prefix": check.prefix,
        "context": check.context, "deadline_seconds": check.deadline,
    }  # fmt: skip
    for key, value in (metadata or {}).items():
        path = f"task/metadata/{key}"
        if key in readers:
            known[key] = readers[key](value, path)
        elif key == "webhook_url":
            check.add(path, "not supported yet: subscribe to the output topic instead")
        elif key not in METADATA_FIELDS:
            check.add(path, f"unknown field{nearest(key, METADATA_FIELDS)}")
    return known


def _deployed(
    check: _Checker, metadata: dict[str, Any] | None, runtimes: Mapping[str, RuntimeInfo]
) -> RuntimeInfo | None:
    if metadata is None:
        return None
    path = "task/metadata/runtime"
    if "runtime" not in metadata:
        check.add(path, "is required")
        return None
    name = check.text(metadata["runtime"], path)
    if name is None:
        return None
    runtime = runtimes.get(name.lower())
    if runtime is None:
        names = sorted(info.name for info in runtimes.values())
        check.add(path, f"{found(name)} is not deployed; deployed: {', '.join(names)}{nearest(name, names)}")
    return runtime


def _tasktype(
    check: _Checker, value: object, runtime: RuntimeInfo | None, allowed: tuple[str, ...]
) -> str | None:
    path = "task/metadata/tasktype"
    if runtime is not None and isinstance(value, str) and value in ALL_TASK_TYPES and value not in allowed:
        check.add(
            path,
            f'"{value}" does not fit runtime "{runtime.name}" of type {runtime.type}, '
            f"which takes {', '.join(allowed)}",
        )
        return None
    return check.tasktype(value, path, allowed)


def _content(
    check: _Checker, content: dict[str, Any], path: str, tasktype: str | None, runtime: RuntimeInfo | None
) -> None:
    """Check what of the content is ours to check: the workflow's format and the model asked for."""
    if tasktype == "pipeline":
        for message in workflow_problems(content):
            check.add(path, message)
    _checkpoints(check, content, f"{path}/", runtime)


def _checkpoints(check: _Checker, content: Mapping[str, Any], path: str, runtime: RuntimeInfo | None) -> None:
    for place, name in checkpoint_fields(content):
        if not isinstance(name, str):
            check.add(f"{path}{place}", f"{found(name)} is not a string")
        elif runtime is not None and name and not checkpoint_allowed(name, runtime):
            check.add(
                f"{path}{place}",
                f'unknown checkpoint {found(name)} for runtime "{runtime.name}"; '
                f"known: {some_names(runtime.checkpoints)}{nearest(name, runtime.checkpoints)}",
            )


def workflow_problems(content: Mapping[str, Any]) -> list[str]:
    """Say why a ComfyUI workflow is not in API format, the only one its `/prompt` takes."""
    if isinstance(content.get("nodes"), list):
        return ["is a workflow in UI format; export it from ComfyUI with Save (API Format)"]
    if not content:
        return ["has no node"]
    bad = [
        key
        for key, node in content.items()
        if not isinstance(node, dict)
        or not isinstance(node.get("class_type"), str)
        or not isinstance(node.get("inputs", {}), dict)
    ]
    if bad:
        return [f"node {found(bad[0])} has no class_type and inputs: use ComfyUI's Save (API Format)"]
    return []


def checkpoint_fields(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """List the places of `content` that ask for a model, as (path, value)."""
    places = []
    for section in ("alwayson_scripts", "override_settings"):
        values = content.get(section)
        if isinstance(values, dict) and values.get(ROUTE_CHECKPOINT) is not None:
            places.append((f"{section}/{ROUTE_CHECKPOINT}", values[ROUTE_CHECKPOINT]))
    return places


def requested_checkpoint(content: Mapping[str, Any]) -> str:
    """Return the model that a task asks for, or an empty string."""
    return next((name for _, name in checkpoint_fields(content) if isinstance(name, str) and name), "")


# "title [hash]" is how SD WebUI shows a model; a bare hash names one too.
_TITLE_HASH = re.compile(r"\s*\[[0-9a-f]{8,64}\]$")
_BARE_HASH = re.compile(r"[0-9a-f]{10}|[0-9a-f]{64}")


def checkpoint_key(name: str) -> str:
    """Reduce a checkpoint's title, path or file name to what two spellings of it share."""
    base = _TITLE_HASH.sub("", name).replace("\\", "/").rsplit("/", 1)[-1].lower()
    return re.sub(r"\.(safetensors|ckpt)$", "", base)


def checkpoint_allowed(name: str, runtime: RuntimeInfo) -> bool:
    """Tell whether a runtime may be asked for a model, as far as the front can know."""
    if not runtime.checkpoints or _BARE_HASH.fullmatch(name):
        return True
    return checkpoint_key(name) in {checkpoint_key(known) for known in runtime.checkpoints}


def parse_v1alpha1(document: object, runtimes: Mapping[str, RuntimeInfo]) -> Task:
    """Validate a submit of v1alpha1: the runtime's body, routing keys inside `alwayson_scripts`.

    Args and errors as in `parse_v1alpha2`. The routing keys that no runtime knows are taken out of
    the content; `image_link` becomes `init_images[0]`.
    """
    check = _Checker()
    if not isinstance(document, dict):
        raise InvalidTaskError([Problem("", f"the body is {found(document)}, not a JSON object")])
    scripts = document.get("alwayson_scripts")
    if not isinstance(scripts, dict):
        reason = "is required" if scripts is None else f"{found(scripts)} is not an object"
        raise InvalidTaskError([Problem("alwayson_scripts", reason)])
    values: dict[str, Any] = {}
    readers: dict[str, Callable[[object, str], Any]] = {
        "task": lambda value, path: check.tasktype(value, path, TASK_TYPES[SDWEBUI]),
        "sd_model_checkpoint": check.text, "id_task": check.task_id,
        "save_dir": check.prefix, "image_link": check.text,
    }  # fmt: skip
    for key, reader in readers.items():
        path = f"alwayson_scripts/{key}"
        if key in scripts:
            values[key] = reader(scripts[key], path)
        elif key not in ("save_dir", "image_link"):
            check.add(path, "is required")
    runtime = _runtime_of_checkpoint(check, values.get("sd_model_checkpoint"), runtimes)
    if runtime is not None and not runtime.dynamic:  # else any model of the bucket may be meant
        _checkpoints(check, {"override_settings": document.get("override_settings")}, "", runtime)
    if check.problems or runtime is None:
        raise InvalidTaskError(check.problems)
    checkpoint = str(values["sd_model_checkpoint"])
    return Task(
        id=str(values["id_task"]),
        runtime=runtime.name,
        tasktype=str(values["task"]),
        content=_content_of_v1alpha1(document, scripts, values.get("image_link")),
        prefix=values.get("save_dir", DEFAULT_PREFIX_V1ALPHA1),
        route=(ROUTE_CHECKPOINT, checkpoint),
    )


def _runtime_of_checkpoint(
    check: _Checker, checkpoint: str | None, runtimes: Mapping[str, RuntimeInfo]
) -> RuntimeInfo | None:
    if checkpoint is None:
        return None
    takers = [info for info in runtimes.values() if info.checkpoint]
    for info in takers:
        if info.checkpoint.lower() == checkpoint.lower():
            return info
    names = sorted(info.checkpoint for info in takers)
    check.add(
        "alwayson_scripts/sd_model_checkpoint",
        f"unknown checkpoint {found(checkpoint)}; deployed: {', '.join(names) or 'none'}"
        f"{nearest(checkpoint, names)}",
    )
    return None


def _content_of_v1alpha1(
    document: dict[str, Any], scripts: dict[str, Any], image_link: str | None
) -> dict[str, Any]:
    kept = {key: value for key, value in scripts.items() if key not in ROUTING_KEYS}
    kept[ROUTE_CHECKPOINT] = scripts[ROUTE_CHECKPOINT]
    content = {**document, "alwayson_scripts": kept}
    if image_link:
        images = document.get("init_images")
        content["init_images"] = [image_link, *(images[1:] if isinstance(images, list) else [])]
    return content


def message_body(task: Task, *, inline: bool = True) -> str:
    """Render the message of the input topic: `{"metadata": {…}, "content": {…}}`.

    With `inline` false the content stays where the task's pointer says: `{…, "content_pointer": {…}}`.
    """
    metadata: dict[str, Any] = {
        "id": task.id, "runtime": task.runtime, "tasktype": task.tasktype, "prefix": task.prefix,
    }  # fmt: skip
    if task.context is not None:
        metadata["context"] = task.context
    if task.deadline_seconds is not None:
        metadata["deadline_seconds"] = task.deadline_seconds
    body: dict[str, Any] = {"metadata": metadata}
    if inline or task.pointer is None:
        body["content"] = task.content
    else:
        body["content_pointer"] = {"bucket": task.pointer[0], "key": task.pointer[1]}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"))


def message_bytes(body: str, route: tuple[str, str]) -> int:
    """Measure a message as SNS does: the body and its one String attribute."""
    return len(body.encode()) + len(route[0].encode()) + len(route[1].encode()) + len("String")


def pointer_key(task_id: str, content_hash: str) -> str:
    """Name the object that holds a task's content when it does not travel in the message."""
    return f"{RESERVED_PREFIX}/tasks/{task_id}/{content_hash[:32]}.json"


def parse_message(text: str, *, runtime: str, task_types: Iterable[str], message_id: str = "") -> Task:
    """Read one message of a runtime's queue, inside its SNS envelope or delivered raw.

    Args:
        text: the SQS body.
        runtime: name of the runtime whose queue this is; it replaces what the metadata says.
        task_types: what this runtime works off.
        message_id: the SQS message id, from which an id is derived where neither the task nor an
            envelope gives one.

    Returns:
        The task; `problems` is not empty where it breaks the contract, so that it can be reported as
        `failed` under its id. Unknown metadata is ignored: a direct publish may carry more.

    Raises:
        UndecodableMessageError: there is no task in it that could be reported to anyone.
    """
    try:
        document = decode_json(text)
        if isinstance(document, dict) and isinstance(document.get("Message"), str) and "TopicArn" in document:
            message_id = str(document.get("MessageId", message_id))
            document = decode_json(document["Message"])
    except ValueError as error:
        raise UndecodableMessageError(f"not JSON: {error}") from None
    if not isinstance(document, dict) or not ("metadata" in document or "content" in document):
        raise UndecodableMessageError("neither metadata nor content")
    metadata, content = document.get("metadata"), document.get("content")
    check = _Checker()
    if not isinstance(metadata, dict):
        check.add("metadata", "is required" if metadata is None else f"{found(metadata)} is not an object")
        metadata = {}
    pointer = _pointer(check, document)
    if pointer is None and not isinstance(content, dict):
        check.add("content", "is required" if content is None else f"{found(content)} is not an object")
    elif pointer is None and metadata.get("tasktype") == "pipeline":
        for message in workflow_problems(content or {}):
            check.add("content", message)
    task_id = check.task_id(metadata["id"], "metadata/id") if metadata.get("id") is not None else None
    tasktype = check.tasktype(metadata.get("tasktype"), "metadata/tasktype", task_types)
    prefix = check.prefix(metadata["prefix"], "metadata/prefix") if "prefix" in metadata else DEFAULT_PREFIX
    deadline = metadata.get("deadline_seconds")
    if not task_id and not message_id:
        raise UndecodableMessageError("no id, and none to derive one from")
    return Task(
        id=task_id or derived_id(message_id),
        runtime=runtime,
        tasktype=tasktype or str(metadata.get("tasktype", ""))[:64],
        content=content if isinstance(content, dict) else {},
        prefix=prefix or DEFAULT_PREFIX,
        context=check.context(metadata.get("context"), "metadata/context"),
        deadline_seconds=None if deadline is None else check.deadline(deadline, "metadata/deadline_seconds"),
        route=(ROUTE_RUNTIME, runtime),
        pointer=pointer,
        problems=tuple(check.problems),
    )


def _pointer(check: _Checker, document: dict[str, Any]) -> tuple[str, str] | None:
    pointer = document.get("content_pointer")
    if pointer is None:
        return None
    if isinstance(pointer, dict):
        bucket, key = pointer.get("bucket"), pointer.get("key")
        if isinstance(bucket, str) and isinstance(key, str) and bucket and key:
            return bucket, key
    check.add("content_pointer", "is not an object with bucket and key")
    return None


def derived_id(message_id: str) -> str:
    """Derive a task id from a message id, so that a redelivery is the same task."""
    return message_id if ID_PATTERN.fullmatch(message_id) else hashlib.sha256(message_id.encode()).hexdigest()


def output_suffix(task_id: str, prefix: str) -> str:
    """Return the four hex digits in a task's object names: derived, so that a redelivery overwrites."""
    return hashlib.sha256(f"{prefix}/{task_id}".encode()).hexdigest()[:4]


def image_key(task_id: str, prefix: str, number: int, extension: str) -> str:
    """Name the object of output `number`, counted from 1; `extension` comes without a dot."""
    return f"{prefix}/{task_id}/{task_id}-{output_suffix(task_id, prefix)}-{number}.{extension}"


def answer_key(task_id: str, prefix: str) -> str:
    """Name the object that holds the runtime's complete answer without the image bytes."""
    return f"{prefix}/{task_id}/{task_id}-{output_suffix(task_id, prefix)}.out"


def output_location(bucket: str, prefix: str, task_id: str) -> str:
    """Return where a task's outputs will be, as the submit answers it."""
    return f"s3://{bucket}/{prefix}/{task_id}"
