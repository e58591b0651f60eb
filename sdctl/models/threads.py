"""Threads that an interrupted command does not wait for: a stalled connection must not hold Ctrl-C."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import copy_context
from functools import partial
from typing import Any, TypeVar

T = TypeVar("T")


class Workers:
    """A few daemon threads that work off calls in order."""

    def __init__(self, count: int, name: str) -> None:
        """Start them."""
        self._calls: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._count = count
        for number in range(count):
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True).start()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have something called, in the caller's context; its result or error is the future's."""
        future: Future[T] = Future()
        self._calls.put((future, partial(copy_context().run, call)))
        return future

    def close(self) -> None:
        """Begin no further call and let the threads end; what is being done is not waited for."""
        while True:
            try:
                entry = self._calls.get_nowait()
            except queue.Empty:
                break
            if entry is not None:
                entry[0].cancel()
        for _ in range(self._count):
            self._calls.put(None)

    def _work(self) -> None:
        while (entry := self._calls.get()) is not None:
            future, call = entry
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is asked for
                future.set_exception(error)
            else:
                future.set_result(result)
            del entry, future, call  # they hold megabytes while the next is waited for
