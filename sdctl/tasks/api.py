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
from sdctl.errors import NotFoundError
from sdctl.polling import REAL_CLOCK, Clock
from sdctl.tasks.answers import (
    Page,
    RemoteTask,
    Submitted,
    UploadTicket,
    bad_answer,
    object_of,
    parse_task,
    status_of,
    text_of,
)  # fmt: skip
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
            id=text_of(document, "id" if version == V1ALPHA2 else "id_task"),
            runtime=text_of(document, "runtime") if version == V1ALPHA2 else "",
            status=status_of(document) if version == V1ALPHA2 else contract.QUEUED,
            output_location=text_of(document, "output_location"),
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
            raise bad_answer("no list of tasks")
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

    def create_upload(self, filename: str, content_type: str, size_bytes: int, sha256: str) -> UploadTicket:
        """Ask for an address to PUT an input at; the same content and name get the same `input_url`.

        The PUT must carry the hash (`sha256`, hexadecimal, in base64) as `x-amz-checksum-sha256`.
        """
        body = {"filename": filename, "content_type": content_type, "bytes": size_bytes, "sha256": sha256}
        document = self._call("POST", f"{V1ALPHA2}/uploads", body=body, idempotent=True)
        return UploadTicket(text_of(document, "upload_url"), text_of(document, "input_url"))

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
        return object_of(self._exchange(method, path, headers, data, ATTEMPTS if idempotent else 1))

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
