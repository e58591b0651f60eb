"""The task API's client: each call of CONTRACT section 1, its errors in our words.

A call is tried again after a lost connection, 429 or 5xx only where doing it twice is the same as once;
a submit is, because it always carries an id.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode

from sdctl import __version__, contract
from sdctl.errors import ApiError, ConflictError, NotFoundError, SdctlError
from sdctl.polling import REAL_CLOCK, Clock
from sdctl.tasks.transport import Reply, Transport, UnreachableError, split_url

TIMEOUT_SECONDS: Final = 30.0
# A page of 100 tasks with their contexts of 16 KiB and presigned links is well below this.
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
ATTEMPTS: Final = 4
PAGE_TASKS: Final = 100
FIRST_DELAY_SECONDS: Final = 0.2
MAX_DELAY_SECONDS: Final = 5.0
TRANSIENT_STATUSES: Final = (429, 500, 502, 503, 504)
V1ALPHA2: Final = "v1alpha2"
V1ALPHA1: Final = "v1alpha1"


@dataclass(frozen=True, slots=True)
class ApiAccess:
    """Where the task API is (`FrontApiEndpoint`) and the key that opens it."""

    endpoint: str
    api_key: str = field(repr=False)

    @property
    def base_url(self) -> str:
        """The endpoint with its trailing slash."""
        return self.endpoint.rstrip("/") + "/"


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


class TaskApi:
    """The calls of one deployment's task API."""

    def __init__(self, access: ApiAccess, transport: Transport, *, clock: Clock = REAL_CLOCK) -> None:
        """Check the endpoint's form; nothing is connected yet."""
        split_url(access.base_url)
        self._access = access
        self.transport = transport
        self._clock = clock

    def submit(self, body: Mapping[str, Any], version: str = V1ALPHA2) -> Submitted:
        """Submit a task that carries its id.

        Args:
            body: the whole body of `POST v1alpha2` or `POST v1alpha1`.
            version: which of the two.
        """
        document = self._call("POST", version, body=body, idempotent=True)
        return Submitted(
            id=_text(document, "id" if version == V1ALPHA2 else "id_task"),
            runtime=_text(document, "runtime") if version == V1ALPHA2 else "",
            status=_status(document) if version == V1ALPHA2 else contract.QUEUED,
            output_location=_text(document, "output_location"),
            replayed=document.get("replayed") is True,
        )

    def get(self, task_id: str) -> RemoteTask:
        """Return one task, with fresh links."""
        return parse_task(self._call("GET", _task_path(task_id), idempotent=True))

    def list(
        self, *, runtime: str | None = None, status: str | None = None, limit: int, cursor: str | None = None
    ) -> Page:
        """Return one page of at most `limit` tasks, newest first."""
        given = {"runtime": runtime, "status": status, "limit": str(limit), "cursor": cursor}
        query = urlencode({name: value for name, value in given.items() if value is not None})
        document = self._call("GET", f"{V1ALPHA2}/tasks?{query}", idempotent=True)
        rows, next_cursor = document.get("tasks"), document.get("cursor")
        if not isinstance(rows, list) or not isinstance(next_cursor, str | None):
            raise _bad_answer("no list of tasks")
        return Page(tuple(parse_task(row) for row in rows), next_cursor)

    def collect(
        self, *, runtime: str | None, status: str | None, limit: int, cursor: str | None = None
    ) -> Page:
        """Return up to `limit` tasks, newest first, from as many pages as that takes."""
        tasks: list[RemoteTask] = []
        while True:
            wanted = min(limit - len(tasks), PAGE_TASKS)
            page = self.list(runtime=runtime, status=status, limit=wanted, cursor=cursor)
            tasks += page.tasks[:wanted]
            if page.cursor is None or page.cursor == cursor or len(tasks) >= limit:
                return Page(tuple(tasks), page.cursor)
            cursor = page.cursor

    def cancel(self, task_id: str) -> RemoteTask:
        """Ask for a task to be cancelled.

        Raises:
            ConflictError: it has ended.
        """
        return parse_task(self._call("POST", f"{_task_path(task_id)}/cancel", body={}))

    def retry(self, task_id: str) -> RemoteTask:
        """Start an ended task again.

        Raises:
            ConflictError: its status is not one that can be retried.
        """
        return parse_task(self._call("POST", f"{_task_path(task_id)}/retry", body={}))

    def create_upload(self, filename: str, content_type: str, size_bytes: int) -> UploadTicket:
        """Ask for an address to PUT an input at."""
        body = {"filename": filename, "content_type": content_type, "bytes": size_bytes}
        document = self._call("POST", f"{V1ALPHA2}/uploads", body=body, idempotent=True)
        return UploadTicket(_text(document, "upload_url"), _text(document, "input_url"))

    def _call(
        self, method: str, path: str, *, body: Mapping[str, Any] | None = None, idempotent: bool = False
    ) -> dict[str, Any]:
        headers = {
            "x-api-key": self._access.api_key, "Accept": "application/json",
            "User-Agent": f"sdctl/{__version__}",
        }  # fmt: skip
        data = None
        if body is not None:
            data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        return _document(self._exchange(method, path, headers, data, ATTEMPTS if idempotent else 1))

    def _exchange(
        self, method: str, path: str, headers: Mapping[str, str], data: bytes | None, attempts: int
    ) -> Reply:
        delay = FIRST_DELAY_SECONDS
        for left in range(attempts - 1, -1, -1):
            try:
                reply = self.transport.exchange(
                    method, self._access.base_url + path, headers=headers, body=data,
                    timeout_seconds=TIMEOUT_SECONDS, max_bytes=MAX_ANSWER_BYTES,
                )  # fmt: skip
                if reply.status not in TRANSIENT_STATUSES or not left:
                    return reply
                wanted = reply.headers.get("retry-after", "")
                pause = float(wanted) if wanted.isascii() and wanted.isdigit() else delay
            except UnreachableError as error:
                if not left:
                    error.hint = (
                        error.hint or "sdctl status shows what runs; check SDCTL_ENDPOINT if it is set"
                    )
                    raise
                pause = delay
            self._clock.sleep(min(pause, MAX_DELAY_SECONDS) * self._clock.uniform(0.8, 1.2))
            delay *= 2
        raise AssertionError("the last attempt returns or raises")


def _task_path(task_id: str) -> str:
    if not contract.ID_PATTERN.fullmatch(task_id):
        raise NotFoundError(f"{contract.found(task_id)} is not a task id", hint="sdctl tasks list")
    return f"{V1ALPHA2}/tasks/{quote(task_id, safe='')}"


def parse_task(document: Any) -> RemoteTask:
    """Read the API's task object.

    Raises:
        ApiError: it is not one.
    """
    if not isinstance(document, dict):
        raise _bad_answer("no task object")
    progress, attempts, error = (document.get(name) for name in ("progress", "attempts", "error"))
    if isinstance(progress, bool) or not isinstance(progress, int | float | None):
        raise _bad_answer("a task's progress is not a number")
    if not isinstance(error, dict | None) or not isinstance(attempts, int | None):
        raise _bad_answer("a task's error or attempts is malformed")
    return RemoteTask(
        id=_text(document, "id"),
        status=_status(document),
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


def _bad_answer(what: str) -> ApiError:
    return ApiError(
        f"the task API's answer is not understood: {what}",
        api_code="bad_answer",
        hint="check that the endpoint is a task API of this version of sdctl",
    )


def _text(document: Mapping[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise _bad_answer(f"{name} is missing or not a string")
    return value


def _optional(document: Mapping[str, Any], name: str) -> str | None:
    return None if document.get(name) is None else _text(document, name)


def _texts(document: Mapping[str, Any], name: str) -> tuple[str, ...]:
    values = document.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _bad_answer(f"{name} is not a list of strings")
    return tuple(values)


def _links(document: Mapping[str, Any]) -> tuple[str | None, ...]:
    values = document.get("image_links") or []
    if not isinstance(values, list) or not all(isinstance(value, str | None) for value in values):
        raise _bad_answer("image_links is not a list of strings")
    return tuple(values)


def _status(document: Mapping[str, Any]) -> str:
    status = _text(document, "status")
    if status not in contract.STATUSES:
        raise _bad_answer(f"unknown status {contract.found(status)}")
    return status


def _document(reply: Reply) -> dict[str, Any]:
    """Return the JSON object of a good answer, or raise what the answer means."""
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
