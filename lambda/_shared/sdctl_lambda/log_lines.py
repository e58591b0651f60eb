"""Log lines: one JSON object each, and never a header, a key, a body or an error's own text."""

from __future__ import annotations

import json
import sys
import traceback

from sdctl_lambda.aws import error_code


def log_line(action: str, **values: object) -> None:
    """Write one event; `action` is its stable name."""
    sys.stdout.write(json.dumps({"action": action, **values}, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def where(error: BaseException) -> dict[str, object]:
    """Describe an unexpected error by type, AWS code and code lines: its text may quote the request."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
    kind = type(error).__name__
    code = error_code(error) if isinstance(error, Exception) else kind
    return {"error": kind, "code": code, "at": lines}
