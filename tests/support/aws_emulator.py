"""ministack as AWS: run as `python -m support.aws_emulator`, strict, with what our templates need besides.

`POST /_test/faults` sets the faults of stacks' resources, a JSON list of `ResourceFault`s.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from support.aws_faults import FAULTS, ResourceFault, inject_faults

FAULTS_PATH = "/_test/faults"
CLUSTER_VARIABLE = "TEST_CLUSTER"  # JSON of a Cluster

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


def main() -> None:
    """Serve until killed."""
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app

    from fakes import ministack_answers, ministack_eks, ministack_types
    from fakes import ministack_strict as strict

    ministack_types.add_types(ministack_eks.HANDLERS)
    ministack_eks.give_clusters_an_address(ministack_eks.Cluster(**json.loads(os.environ[CLUSTER_VARIABLE])))
    strict.refuse_to_delete_what_is_used()
    strict.name_instance_profiles()
    strict.refuse_to_create_what_cannot_work()
    ministack_answers.answer_as_aws_does()
    inject_faults()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != FAULTS_PATH:
            await app(scope, receive, send)
            return
        body = b""
        while True:
            part = await receive()
            body += part.get("body", b"")
            if not part.get("more_body"):
                break
        FAULTS[:] = [ResourceFault(**one) for one in json.loads(body)]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    config = Config()
    config.bind = [f"127.0.0.1:{os.environ['GATEWAY_PORT']}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"
    never = asyncio.Event()
    asyncio.run(serve(application, config, shutdown_trigger=never.wait))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
