"""A runtime's own words for a failure, made fit for a result: bounded, without tracebacks and paths."""

from __future__ import annotations

import html
import re
from typing import Any, Final

from sdctl_agent.errors import AgentError, PermanentError, RuntimeDownError, TransientError
from sdctl_agent.runtimes.server import Answer

MAX_REASON_CHARACTERS: Final = 1000
# Statuses that a gateway in front of a server, or a server that is going down, answers with.
_GATEWAY: Final = (502, 503, 504)
_UNFIT: Final = (400, 405, 406, 413, 415, 422)
# An absolute path of POSIX or Windows; its last part is kept, since that names the file.
_PATH = re.compile(
    r"(?<![\w:/.])(?:/[\w.@+-]+(?: [\w.@+-]+/)?)+/(?=[\w.@+-])|\b[A-Za-z]:\\(?:[^\\\s'\"]+\\)*"
)
_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|OutOfMemoryError|can't allocate memory|failed to allocate|not enough memory",
    re.IGNORECASE,
)


def bounded(text: str, limit: int = MAX_REASON_CHARACTERS) -> str:
    """Put a text on one line, take paths out and cut it at `limit` characters."""
    line = " ".join(_PATH.sub("", text[: 4 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def is_out_of_memory(text: str) -> bool:
    """Tell whether a failure's words say that the GPU's memory did not suffice."""
    return bool(_OUT_OF_MEMORY.search(text))


def refusal(answer: Answer, what: str) -> AgentError:
    """Make the error for an answer that is not a success; `what` names the request.

    Gateway statuses mean that the runtime is down, 429 that it may be tried again; everything else is
    the task's own fault or the server's opinion of it, and would be the same the next time.
    """
    words = _words(answer)
    message = f"{what}: {words}" if words else f"{what}: status {answer.status} without a reason"
    if answer.status in _GATEWAY:
        return RuntimeDownError(f"the runtime answers {answer.status}")
    if answer.status == 429:
        return TransientError(message, code="throttled")
    if is_out_of_memory(words):
        return PermanentError(message, code="out_of_memory")
    if answer.status in (401, 403):
        return PermanentError(message, code="runtime_unauthorized")
    return PermanentError(message, code="validation_error" if answer.status in _UNFIT else "runtime_error")


def _words(answer: Answer) -> str:
    """Find the reason in the bodies of AUTOMATIC1111, Forge, sd-server, a bare FastAPI, or plain text."""
    document = answer.json()
    if isinstance(document, dict):
        parts = [_detail(document.get(key)) for key in ("detail", "errors", "message")]
        error = document.get("error")
        kind = (
            _detail(error)
            if not isinstance(error, str) or error not in ("HTTPException", "server_error")
            else ""
        )
        return bounded(": ".join(part for part in (kind, *parts) if part))
    text = answer.body[: 16 * MAX_REASON_CHARACTERS].decode("utf-8", "replace")
    if answer.content_type == "text/html" or text.lstrip()[:1] == "<":
        text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>", " ", text)
        text = html.unescape(re.sub(r"<[^>]*>", " ", text))
    return bounded(text)


def _detail(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, map(_validation, value[:20])))
    if isinstance(value, dict):
        return "; ".join(filter(None, (_detail(value.get(key)) for key in ("type", "message", "details"))))
    return ""


def _validation(item: Any) -> str:
    """Put one entry of a validation error's list into words: `body/steps: value is not an integer`."""
    if not isinstance(item, dict):
        return str(item)[:200] if isinstance(item, str) else ""
    place = item.get("loc")
    where = "/".join(str(part) for part in place) if isinstance(place, (list, tuple)) else ""
    message = str(item.get("msg") or item.get("message") or "invalid")
    return f"{where}: {message}" if where else message
