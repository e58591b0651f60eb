"""What the task API answers: its JSON as dataclasses, its errors in our words. Makes no call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl import contract
from sdctl.errors import ApiError, ConflictError, NotFoundError, SdctlError
from sdctl.tasks.transport import Reply


@dataclass(frozen=True, slots=True)
class Submitted:
    """The answer to a submit; `runtime` is empty from v1alpha1."""

    id: str
    runtime: str
    status: str
    output_location: str
    replayed: bool = False

    def document(self) -> dict[str, Any]:
        """Return the JSON shape of `submit -o json`."""
        return {
            "id": self.id,
            "runtime": self.runtime,
            "status": self.status,
            "output_location": self.output_location,
        }


@dataclass(frozen=True, slots=True)
class RemoteTask:
    """A task as the API tells it; times are ISO 8601 in UTC.

    `links` are presigned, one per `image_url`; None for an output that the API may not read.
    """

    id: str
    status: str
    runtime: str = ""
    tasktype: str = ""
    progress: float | None = None
    attempts: int = 0
    submitted_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    image_url: tuple[str, ...] = ()
    output_url: str | None = None
    context: Any = None
    error: dict[str, Any] | None = None
    links: tuple[str | None, ...] = ()
    output_link: str | None = None

    @property
    def is_ended(self) -> bool:
        """Tell whether the task has an end status."""
        return self.status in contract.END_STATUSES

    @property
    def reason(self) -> str:
        """Say in one line why a task failed, as far as it is known."""
        error = self.error or {}
        node = f" (node {error['node']})" if error.get("node") else ""
        return f"{error.get('message') or error.get('code') or 'no reason given'}{node}"

    def document(self, files: tuple[str, ...] = ()) -> dict[str, Any]:
        """Return the task object of CONTRACT section 4; `files` are local paths."""
        return {
            "id": self.id, "runtime": self.runtime, "tasktype": self.tasktype, "status": self.status,
            "progress": self.progress, "attempts": self.attempts, "submitted_at": self.submitted_at,
            "started_at": self.started_at, "finished_at": self.finished_at,
            "image_url": list(self.image_url), "output_url": self.output_url, "context": self.context,
            "error": self.error, "files": list(files),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """Tasks, newest first; `cursor` leads to the next page, or is None."""

    tasks: tuple[RemoteTask, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class UploadTicket:
    """Where to PUT an input, and the `s3://` address that a task then names."""

    upload_url: str = field(repr=False)
    input_url: str


def parse_task(document: Any) -> RemoteTask:
    """Read the API's task object.

    Raises:
        ApiError: it is not one.
    """
    if not isinstance(document, dict):
        raise bad_answer("no task object")
    progress, attempts, error = (document.get(name) for name in ("progress", "attempts", "error"))
    if isinstance(progress, bool) or not isinstance(progress, int | float | None):
        raise bad_answer("a task's progress is not a number")
    if not isinstance(error, dict | None) or not isinstance(attempts, int | None):
        raise bad_answer("a task's error or attempts is malformed")
    return RemoteTask(
        id=text_of(document, "id"),
        status=status_of(document),
        runtime=_optional(document, "runtime") or "",
        tasktype=_optional(document, "tasktype") or "",
        progress=progress,
        attempts=attempts or 0,
        submitted_at=_optional(document, "submitted_at"),
        started_at=_optional(document, "started_at"),
        finished_at=_optional(document, "finished_at"),
        image_url=_texts(document, "image_url"),
        output_url=_optional(document, "output_url"),
        context=document.get("context"),
        error=error,
        links=_links(document),
        output_link=_optional(document, "output_link"),
    )


def bad_answer(what: str) -> ApiError:
    """Word the error of an answer that is not what CONTRACT says."""
    return ApiError(
        f"the task API's answer is not understood: {what}",
        api_code="bad_answer",
        hint="check that the endpoint is a task API of this version of sdctl",
    )


def text_of(document: Mapping[str, Any], name: str) -> str:
    """Return a field that must be a string."""
    value = document.get(name)
    if not isinstance(value, str):
        raise bad_answer(f"{name} is missing or not a string")
    return value


def _optional(document: Mapping[str, Any], name: str) -> str | None:
    return None if document.get(name) is None else text_of(document, name)


def _texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = document.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise bad_answer(f"{name} is not a list of strings")
    return tuple(values)


def _links(document: Mapping[str, Any]) -> tuple[str | None, ...]:
    values = document.get("image_links") or []
    if not isinstance(values, list) or not all(isinstance(value, str | None) for value in values):
        raise bad_answer("image_links is not a list of strings")
    return tuple(values)


def status_of(document: Mapping[str, Any]) -> str:
    """Return the status, which must be one of the contract's."""
    status = text_of(document, "status")
    if status not in contract.STATUSES:
        raise bad_answer(f"unknown status {contract.found(status)}")
    return status


def object_of(reply: Reply) -> dict[str, Any]:
    """Return the JSON object of a good answer, or raise what the answer means.

    Raises:
        NotFoundError: 404.
        ConflictError: 409.
        ApiError: any other status that is not a success, a redirect, or an answer that is no JSON object.
    """
    try:
        document = contract.decode_json(reply.body)
    except ValueError:
        document = None
    if reply.status in (200, 201, 202) and isinstance(document, dict):
        return document
    if 300 <= reply.status < 400:
        raise ApiError(
            "the endpoint redirects elsewhere; the API key is not sent there",
            status=reply.status,
            api_code="redirected",
            hint="set SDCTL_ENDPOINT to the final address",
        )
    error = document.get("error") if isinstance(document, dict) else None
    if not isinstance(error, dict):
        start = " ".join(reply.body[:200].decode("utf-8", "replace").split())
        raise _by_status(reply.status, "", f"HTTP {reply.status}, not an answer of a task API: {start}")
    raise _by_status(reply.status, str(error.get("code") or ""), _message(error))


def _message(error: Mapping[str, Any]) -> str:
    lines = [str(error.get("message") or "no reason given")]
    fields = error.get("fields")
    for one in fields if isinstance(fields, list) else []:
        if isinstance(one, dict):
            line = (
                f"{one['path']}: {one.get('message', '')}" if one.get("path") else f"{one.get('message', '')}"
            )
            if line not in lines[0]:  # a single problem may be the message already
                lines.append(f"  {line}")
    return "\n".join(lines)


_HINTS: Final[Mapping[str, str]] = {
    "unauthorized": "sdctl apikey prints the key; check SDCTL_API_KEY if it is set",
    "id_conflict": "give the task another --id, or none",
    "throttled": "wait a little; APIGW in sdctl.yaml sets the limits",
    "queue_unavailable": "submit again with the same --id: nothing is done twice",
}


def _by_status(status: int, code: str, message: str) -> SdctlError:
    hint = _HINTS.get(code, "")
    if status == 404:
        problem: SdctlError = NotFoundError(message, hint=hint or "sdctl tasks list shows the tasks")
    elif status == 409:
        problem = ConflictError(message, hint=hint)
    else:
        return ApiError(message, status=status, api_code=code or "api", hint=hint)
    if code:
        problem.code = code
    return problem
