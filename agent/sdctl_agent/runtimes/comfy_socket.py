"""ComfyUI's websocket: tells early what polling would find out later, and how far a run is.

Nothing depends on it. It may be silent, deaf, or gone; each connection takes a fresh client id, since a
server forgets an id as soon as any of its connections closes, the newer one then being deaf.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

log = logging.getLogger(__name__)

OPEN_TIMEOUT_SECONDS: Final = 10.0
# One frame is held at a time. SaveImageWebsocket sends whole images, 3 MB for 1024 x 1024.
MAX_FRAME_BYTES: Final = 128 * 1024 * 1024
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0

OnEvent = Callable[[str, dict[str, Any]], None]
OnFrame = Callable[[bytes], None]


class ComfySocket:
    """Keeps one connection open from a thread of its own, and hands on what arrives.

    `client_id` is what a prompt has to be posted with so that its events come here.
    """

    def __init__(
        self, base_url: str, on_event: OnEvent, on_frame: OnFrame, on_close: Callable[[], None]
    ) -> None:
        self.client_id = uuid.uuid4().hex
        self.is_open = False
        self._url = "ws" + base_url.removeprefix("http") + "/ws"
        self._on_event = on_event
        self._on_frame = on_frame
        self._on_close = on_close
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._connection: ClientConnection | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start connecting, once."""
        with self._lock:
            if self._thread is None and not self._ended.is_set():
                self._thread = threading.Thread(target=self._keep_open, name="comfyui-socket", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Close the connection and end the thread."""
        self._ended.set()
        with self._lock:
            connection = self._connection
        if connection is not None:
            connection.close()

    def _keep_open(self) -> None:
        from websockets.exceptions import WebSocketException

        pause = FIRST_PAUSE_SECONDS
        while not self._ended.is_set():
            try:
                if self._listen():
                    pause = FIRST_PAUSE_SECONDS
            except (WebSocketException, OSError, EOFError) as error:
                log.debug("the socket of the runtime is closed: %s", type(error).__name__)
            if self.is_open:
                self.is_open = False
                self.client_id = uuid.uuid4().hex
                self._on_close()
            self._ended.wait(pause)
            pause = min(LONGEST_PAUSE_SECONDS, pause * 2)

    def _listen(self) -> bool:
        """Connect and hand messages on until the connection closes; true if any arrived."""
        from websockets.sync.client import connect

        arrived = False
        with connect(
            f"{self._url}?clientId={self.client_id}",
            open_timeout=OPEN_TIMEOUT_SECONDS,
            close_timeout=1,
            max_size=MAX_FRAME_BYTES,
            max_queue=2,
            compression=None,
            proxy=None,
            ping_timeout=60,
        ) as connection:
            with self._lock:
                self._connection = connection
            # `close` may have come before there was a connection to close.
            self.is_open = not self._ended.is_set()
            try:
                if self._ended.is_set():
                    return False
                for message in connection:
                    arrived = True
                    self._hand_on(message)
                    if self._ended.is_set():
                        break
            finally:
                with self._lock:
                    self._connection = None
        return arrived

    def _hand_on(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self._on_frame(message)
            return
        document: Any = None
        with suppress(ValueError, RecursionError):
            document = json.loads(message)
        if isinstance(document, dict) and isinstance(document.get("data"), dict):
            self._on_event(str(document.get("type")), document["data"])
