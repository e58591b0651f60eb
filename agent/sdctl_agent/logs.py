"""JSON log lines on standard error, each with the task that its thread works on.

Configured once, by the entry point. Never logs headers, payloads, credentials or message bodies: callers
pass names and numbers in `extra`, and only those fields that are listed here come out.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_task_id: ContextVar[str] = ContextVar("task_id", default="")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def task_context(task_id: str) -> Iterator[None]:
    """Name the task in every line logged by this thread inside the `with`."""
    token = _task_id.set(task_id)
    try:
        yield
    finally:
        _task_id.reset(token)


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON: time, level, logger, message, task_id and `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{seconds}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        task_id = _task_id.get()
        if task_id:
            line["task_id"] = task_id
        line.update({key: value for key, value in vars(record).items() if key not in _STANDARD})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def configure_logging(level: str) -> None:
    """Send every record of `level` and above to standard error; other packages' from WARNING up."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("sdctl_agent").setLevel(level)
    # urllib3 and botocore at DEBUG would print headers and bodies, whatever LOGLEVEL says.
    for name in ("botocore", "urllib3", "websockets"):
        logging.getLogger(name).setLevel(logging.WARNING)
