"""Writes down every call of botocore's into the file CALLS_FILE: one line of JSON each."""

import json
import os
import threading

_path = os.environ.get("CALLS_FILE")
if _path:
    import botocore

    _lock = threading.Lock()

    def _record(params, model, **_):
        call = [model.service_model.service_name, model.name, params]
        with _lock, open(_path, "a") as file:  # noqa: PTH123 - as little as possible is imported here
            file.write(json.dumps(call, default=lambda value: f"<{type(value).__name__}>") + "\n")

    botocore.register_initializer(lambda session: session.register("provide-client-params.*.*", _record))
