"""Steps the wall clock of an agent under test: the offset in seconds stands in the file CHAOS_CLOCK."""

import os
import time

_path = os.environ.get("CHAOS_CLOCK")
if _path:
    _real = time.time
    _state = {"checked": 0.0, "offset": 0.0}

    def _stepped() -> float:
        now = _real()
        if now - _state["checked"] > 0.2:
            _state["checked"] = now
            try:
                with open(_path) as file:  # noqa: PTH123 - as little as possible is imported here
                    _state["offset"] = float(file.read() or 0)
            except (OSError, ValueError):
                pass
        return now + _state["offset"]

    time.time = _stepped
