"""`python -m sdctl.local.sketch`: the command line of the built-in runtime; logs JSON lines to stderr."""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and what the event carries in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one event."""
        event = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S"), "level": record.levelname,
            "logger": record.name, "message": record.getMessage(),
        }  # fmt: skip
        event |= {key: value for key, value in vars(record).items() if key not in _PLAIN}
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value) or value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m sdctl.local.sketch", description=__doc__)
    parser.add_argument("--type", required=True, choices=("sdwebui", "comfyui"), help="the protocol to speak")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True, help="0 takes a free one and logs it")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NAME", help="list this one too")
    parser.add_argument("--models-dir", type=Path, help="list what is in its folder Stable-diffusion as well")
    parser.add_argument("--seconds-per-image", type=_seconds, default=0.0, help="take as long as a GPU would")
    return parser.parse_args(arguments)


def main() -> None:
    """Serve until told to stop, then leave with 0."""
    options = parse_arguments(sys.argv[1:])
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    import asyncio

    from sdctl.local.sketch.server import Settings, serve

    settings = Settings(
        type=options.type, host=options.host, port=options.port, checkpoints=tuple(options.checkpoint),
        models_dir=options.models_dir, seconds_per_image=options.seconds_per_image,
    )  # fmt: skip
    try:
        asyncio.run(serve(settings))
    except OSError as error:
        logging.getLogger(__name__).error("cannot listen: %s", error, extra={"action": "listen_failed"})
        sys.exit(1)
    logging.shutdown()
    # A picture of 4096x4096 may still be in the making; waiting for its thread would outlast the second
    # that a supervisor grants.
    os._exit(0)


if __name__ == "__main__":
    main()
