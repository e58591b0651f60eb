"""A bounded pool of daemon threads: made when first needed, never joined at exit.

`concurrent.futures` joins its threads when the interpreter ends, so that one stuck call would keep a
drained agent alive. An exception that a piece of work lets out is a bug, and is given to `on_crash`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

T = TypeVar("T")
Crash = Callable[[BaseException], None]


def guarded(work: Callable[[], None], on_crash: Crash) -> Callable[[], None]:
    """Wrap a thread's work so that its crash is reported instead of lost."""

    def run() -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - whatever ends a thread has to end the agent
            on_crash(error)

    return run


class Pool:
    """At most `size` threads that work off what is submitted, in order."""

    def __init__(self, name: str, size: int, on_crash: Crash) -> None:
        self._name = name
        self._size = size
        self._on_crash = on_crash
        self._work: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._open = 0  # submitted and not yet done

    def submit(self, work: Callable[[], None]) -> None:
        """Have `work` done by one of the threads."""
        with self._lock:
            self._open += 1
            grows = self._threads < min(self._open, self._size)
            self._threads += grows
            number = self._threads
        self._work.put(work)
        if grows:
            threading.Thread(target=self._loop, name=f"{self._name}-{number}", daemon=True).start()

    def _loop(self) -> None:
        while True:
            guarded(self._work.get(), self._on_crash)()
            with self._lock:
                self._open -= 1

    def map(self, calls: Iterable[Callable[[], T]]) -> list[T]:
        """Do all calls, the last one on the caller's own thread, and return their results in order.

        Raises:
            Exception: the first one that a call raised, after all have ended.
        """
        todo = list(calls)
        results: list[T | None] = [None] * len(todo)
        errors: list[Exception] = []
        left = threading.Semaphore(0)

        def run(number: int) -> None:
            try:
                results[number] = todo[number]()
            except Exception as error:  # noqa: BLE001 - raised again below, on the caller's thread
                errors.append(error)
            finally:
                left.release()

        for number in range(len(todo) - 1):
            self.submit(partial(run, number))
        if todo:
            run(len(todo) - 1)
        for _ in todo:
            left.acquire()
        if errors:
            raise errors[0]
        return results  # type: ignore[return-value]
