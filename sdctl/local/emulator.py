"""The emulator's process: ministack on one loopback port behind our door, its state saved while it runs.

Started by the supervisor as `sdctl.local.emulator STATE_DIR`; the key pair, the port and the region come
from the state folder's settings file, never from the command line.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdctl.local.state import EmulatorSettings, StateFolder

if TYPE_CHECKING:
    from sdctl.local.ministack_hooks import StateFiles

log = logging.getLogger(__name__)

# What the front's template, the agent and the commands need; the rest is never imported.
SERVICES: Final = (
    "cloudformation", "s3", "sqs", "sns", "dynamodb", "lambda", "apigateway", "iam", "sts", "logs",
    "events", "monitoring", "ssm",
)  # fmt: skip
SAVE_INTERVAL_SECONDS: Final = 1.0
# A state of many tasks takes longer to copy: saving never takes more than about a tenth of the time.
SAVE_SHARE: Final = 0.1
# Requests that are being answered when the end comes have this long.
LAST_REQUESTS_SECONDS: Final = 0.1


def environment(settings: EmulatorSettings, folder: StateFolder) -> dict[str, str]:
    """Return ministack's settings, which it reads from its process's environment at import."""
    return {
        "BIND_HOST": "127.0.0.1",
        "MINISTACK_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(settings.port),
        "MINISTACK_ACCOUNT_ID": settings.account_id,
        "MINISTACK_REGION": settings.region,
        "AWS_ACCESS_KEY_ID": settings.account_id,
        "AWS_SECRET_ACCESS_KEY": settings.secret_key,
        "AWS_DEFAULT_REGION": settings.region,
        "AWS_ENDPOINT_URL": settings.endpoint_url,
        "AWS_EC2_METADATA_DISABLED": "true",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(folder.emulator_state),
        "S3_PERSIST": "1",
        "S3_DATA_DIR": str(folder.objects),
        "TMPDIR": str(folder.temporary),
        "SERVICES": ",".join(SERVICES),
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "LAMBDA_EXECUTOR": "local",
        "LOG_LEVEL": "WARNING",
        # Without a Docker address that exists, ministack never looks for containers.
        "DOCKER_HOST": f"unix://{folder.temporary}/no-docker",
    }


async def save_repeatedly(
    changed: asyncio.Event,
    snapshot: Callable[[], Mapping[str, Any]],
    write: Callable[[Mapping[str, Any]], None],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Save the state about every second while it changes, until cancelled.

    The copy is taken on the event loop, so that no request sees or makes half a change; what a Lambda's
    thread changes at that very moment makes the copy fail, and the next round takes it.
    """
    while True:
        await changed.wait()
        changed.clear()
        started = clock()
        try:
            states = snapshot()
        except RuntimeError as error:
            log.warning("the state changed while it was copied: %s", error, extra={"action": "save_retry"})
            changed.set()
        else:
            await asyncio.to_thread(write, states)
        await sleep(max(SAVE_INTERVAL_SECONDS, (clock() - started) / SAVE_SHARE))


async def serve(settings: EmulatorSettings, folder: StateFolder) -> None:
    """Serve until SIGTERM or SIGINT, then save and return; the caller must end the process at once.

    ministack's own shutdown is left out: it loads services that nothing used, which takes seconds.
    """
    from hypercorn.asyncio import serve as hypercorn_serve
    from hypercorn.config import Config

    from sdctl.local import ministack_hooks as hooks
    from sdctl.local.gateway import Gateway

    loop, stop, changed, pulse = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event(), hooks.Pulse()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    hooks.wake_long_polls(pulse)
    hooks.shorten_lambda_log_waits()
    hooks.bound_log_streams()

    def on_change() -> None:
        pulse.ring()
        changed.set()

    gateway = Gateway(
        hooks.application,
        port=settings.port,
        access_key=settings.account_id,
        secret_key=settings.secret_key,
        on_change=on_change,
    )
    config = Config()
    config.bind = [f"127.0.0.1:{settings.port}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    files: StateFiles = hooks.StateFiles(folder.emulator_state)
    never = asyncio.Event()
    parts = {
        asyncio.create_task(hypercorn_serve(gateway, config, shutdown_trigger=never.wait)),  # type: ignore[arg-type]
        asyncio.create_task(save_repeatedly(changed, hooks.snapshot, files.write)),
        asyncio.create_task(stop.wait()),
    }
    done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
    for part in done:
        part.result()  # a server or a saver that failed ends the process, loudly
    await asyncio.sleep(LAST_REQUESTS_SECONDS)
    files.write(hooks.snapshot(), is_last=True)


def main(arguments: list[str]) -> None:
    """Run the emulator of one state folder."""
    os.umask(0o077)
    folder = StateFolder(Path(arguments[0]))
    settings = folder.read_settings()
    os.environ.update(environment(settings, folder))
    for path in (folder.emulator_state, folder.objects, folder.temporary):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    asyncio.new_event_loop().run_until_complete(serve(settings, folder))
    logging.shutdown()
    os._exit(0)  # no waiting for threads; the Lambda workers end with their standard input


if __name__ == "__main__":
    main(sys.argv[1:])
