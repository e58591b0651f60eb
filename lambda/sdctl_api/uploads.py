"""The request for an upload URL: what may be uploaded, and under which name it is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from sdctl import contract
from sdctl.contract import Problem
from sdctl_api.exchange import invalid

MAX_UPLOAD_BYTES: Final = 100 * 1024 * 1024
MAX_FILENAME_BYTES: Final = 255
_FIELDS: Final = ("filename", "content_type", "bytes", "sha256")
# https://www.rfc-editor.org/rfc/rfc6838#section-4.2
_CONTENT_TYPE: Final = re.compile(r"(image|video|audio)/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")
_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Upload:
    """A valid request for an upload URL; `sha256` is hexadecimal, or empty where none was given."""

    filename: str
    content_type: str
    size_bytes: int
    sha256: str = ""

    def key(self, unique: str) -> str:
        """Name the object: the same content under the same name has the same key, where its hash is given.

        So a task that names it is the same task when it is submitted again. Without a hash `unique` keeps
        equal names apart. Characters that URLs escape become `_`.
        """
        name = _UNSAFE.sub("_", self.filename)[-128:].lstrip(".") or "_"
        return f"{contract.RESERVED_PREFIX}/uploads/{self.sha256 or unique}/{name}"


def parse_upload(document: object) -> Upload:
    """Validate `{"filename", "content_type", "bytes"}` and the optional `"sha256"`.

    Raises:
        ApiError: `invalid_task` with every problem.
    """
    if not isinstance(document, dict):
        raise invalid([Problem("", f"the body is {contract.found(document)}, not a JSON object")])
    problems = [
        Problem(key, f"unknown field{contract.nearest(key, _FIELDS)}")
        for key in document
        if key not in _FIELDS
    ]
    checks = {"filename": _filename_problem, "content_type": _content_type_problem, "bytes": _size_problem}
    for name, check in checks.items():
        message = check(document[name]) if name in document else "is required"
        if message:
            problems.append(Problem(name, message))
    sha256 = document.get("sha256", "")
    if "sha256" in document and not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)):
        problems.append(
            Problem("sha256", f"{contract.found(sha256)} is not 64 lower-case hexadecimal digits")
        )
    if problems:
        raise invalid(problems)
    return Upload(document["filename"], document["content_type"].lower(), document["bytes"], sha256)


def _filename_problem(value: Any) -> str:
    if not isinstance(value, str):
        return f"{contract.found(value)} is not a string"
    if not value or value in (".", ".."):
        return f"{contract.found(value)} is not a file name"
    if "/" in value or "\\" in value:
        return "has a path: send the file's name alone"
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        return "has a control character"
    if len(value.encode()) > MAX_FILENAME_BYTES:
        return f"is longer than {MAX_FILENAME_BYTES} bytes"
    return ""


def _content_type_problem(value: Any) -> str:
    if isinstance(value, str) and _CONTENT_TYPE.fullmatch(value):
        return ""
    return f"{contract.found(value)} is not one of image/*, video/*, audio/*"


def _size_problem(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int):
        return f"{contract.found(value)} is not a whole number of bytes"
    if not 1 <= value <= MAX_UPLOAD_BYTES:
        return f"{value} is not between 1 and {MAX_UPLOAD_BYTES} bytes"
    return ""
