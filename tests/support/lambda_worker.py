"""Runs a function's unzipped bundle in a process of its own, as Lambda does: events in, answers out.

A line is `{"event", "faults", "environment"}`. Where the environment is another one than before, the function
forgets what it kept, as a new sandbox would. A fault is keyed by call, as `sns.publish`, or `sns.publish#2`
for the second one of this event, and says what befalls it: `refused` or `throttled` (AWS answers an error),
`condition` (its condition fails), `silent` (done, but the answer is lost), `die_before`, `die_after` (the
process ends there). Log lines go to stderr. The answer's `used` names every call, presigned ones included,
with the arguments that say what it touches.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any

# The arguments that name what a call touches; the others hold the task.
TOUCHED = ("TableName", "IndexName", "TopicArn", "Bucket", "Key", "CopySource", "QueueUrl", "Path")


class FaultyClient:
    """A client whose calls fail as told."""

    def __init__(self, service: str, client: Any, faults: Faults) -> None:
        self._service, self._client, self._faults = service, client, faults

    def __getattr__(self, name: str) -> Any:
        operation = getattr(self._client, name)
        if name == "generate_presigned_url":
            return lambda signed, **more: self._faults.sign(self._service, operation, signed, more)
        return lambda **arguments: self._faults.run(f"{self._service}.{name}", operation, arguments)


class Faults:
    """The faults of one event."""

    def __init__(self) -> None:
        self.planned: dict[str, str] = {}
        self.calls: list[str] = []
        self.used: list[tuple[str, dict[str, Any]]] = []

    def sign(self, service: str, operation: Any, signed: str, more: dict[str, Any]) -> Any:
        self._record(f"{service}.{signed}", more["Params"])
        return operation(signed, **more)

    def _record(self, name: str, arguments: dict[str, Any]) -> None:
        self.used.append((name, {key: value for key, value in arguments.items() if key in TOUCHED}))

    def run(self, name: str, operation: Any, arguments: dict[str, Any]) -> Any:
        from botocore.exceptions import ClientError, ReadTimeoutError

        self.calls.append(name)
        self._record(name, arguments)
        fault = self.planned.get(f"{name}#{self.calls.count(name)}") or self.planned.get(name)
        if fault == "die_before":
            os._exit(9)
        codes = {
            "refused": "AccessDeniedException",
            "throttled": "ThrottlingException",
            "condition": "ConditionalCheckFailedException",
        }
        if fault in codes:
            code = codes[fault]
            raise ClientError({"Error": {"Code": code, "Message": "secret detail"}}, name)
        answer = operation(**arguments)
        if fault == "die_after":
            os._exit(9)
        if fault == "silent":
            raise ReadTimeoutError(endpoint_url="https://secret.example")
        return answer


class Context:
    """What Lambda passes beside the event."""

    aws_request_id = "test"

    def __init__(self, remaining_ms: int) -> None:
        self._remaining_ms = remaining_ms

    def get_remaining_time_in_millis(self) -> int:
        return self._remaining_ms


def main(code_dir: str, handler: str) -> None:
    real_stdout, sys.stdout = sys.stdout, sys.stderr
    sys.path.insert(0, code_dir)
    module_name, _, function = handler.rpartition(".")
    module = importlib.import_module(module_name)
    contract = importlib.import_module("sdctl.contract")
    if not str(contract.__file__).startswith(code_dir):
        raise SystemExit("the bundle does not carry its own contract")
    faults = Faults()
    aws = importlib.import_module("sdctl_lambda.aws")
    make_client = aws.Aws.client
    aws.Aws.client = lambda self, service: FaultyClient(service, make_client(self, service), faults)
    for line in sys.stdin:
        message = json.loads(line)
        faults.planned, faults.calls, faults.used = message.get("faults") or {}, [], []
        if message["environment"] != os.environ:
            os.environ.clear()
            os.environ.update(message["environment"])
            for kept in vars(module).values():
                if hasattr(kept, "cache_clear"):
                    kept.cache_clear()
        context = Context(message.get("remaining_ms", 30_000))
        answer = getattr(module, function)(message["event"], context)
        real_stdout.write(json.dumps({"answer": answer, "calls": faults.calls, "used": faults.used}) + "\n")
        real_stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
