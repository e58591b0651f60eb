"""How long the API's function takes to start beside bare boto3, and what it adds to its AWS calls.

Cold: processes of two kinds take turns. One imports boto3 and makes an sns and a dynamodb client; the other
imports the function's handler from its real zip and makes the clients that its first submit needs, that of
the list of runtimes among them. Goal: at most 1.2 times.

Warm: submits whose AWS calls are answered at once, so that what is left is the function's own time for
parsing, checking, hashing and building the calls. Goal: below 3 ms.

Run: `python benchmarks/lambda_cold_start.py [--rounds 15]`.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sdctl.deploy.bundle import build_bundles

COLD_GOAL = 1.2
WARM_GOAL_MS = 3.0

BARE = """
import time
started = time.perf_counter()
import boto3
boto3.client("sns")
boto3.client("dynamodb")
print(time.perf_counter() - started)
"""

FUNCTION = """
import time
started = time.perf_counter()
from sdctl_api import handler
handler._api()._registry._aws.client("ssm")
print(time.perf_counter() - started)
"""

# Clients that answer at once stand in for AWS: what is left is the function's own time.
WARM = """
import contextlib, io, json, os, statistics, sys, time
from sdctl_api import handler

event = json.loads(sys.argv[1])
calls = []
class Instant:
    def get_parameters_by_path(self, **arguments):
        calls.append("runtimes")
        return {"Parameters": [{"Value": '{"name":"sdweb","type":"sdwebui"}'}]}

    def __getattr__(self, name):
        return lambda **arguments: {"Attributes": arguments.get("Key", {}) | {"status": {"S": "queued"}}}

class Aws(handler.Aws):
    def client(self, service):
        return Instant()

api = handler.Api(handler.read_settings(os.environ), Aws())
times = []
with contextlib.redirect_stdout(io.StringIO()):
    for number in range(300):
        started = time.perf_counter()
        answer = handler.respond(event, lambda: api)
        times.append(time.perf_counter() - started)
assert answer["statusCode"] == 200, answer
assert calls == ["runtimes"], calls
print(statistics.median(times[100:]))
"""

TASK = {
    "task": {
        "metadata": {"id": "bench", "runtime": "sdweb", "tasktype": "text-to-image", "context": {"user": 7}},
        "content": {
            "prompt": "A dog in the rain, " * 20,
            "negative_prompt": "blurry, " * 10,
            "steps": 20,
            "width": 512,
            "height": 512,
            "alwayson_scripts": {"controlnet": {"args": [{"enabled": True, "weight": 0.5}] * 3}},
        },
    }
}


def environment(folder: Path) -> dict[str, str]:
    """Return what a function's sandbox has; no call leaves the machine."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(folder),
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "TASK_TABLE": "t",
        "INPUT_TOPIC_ARN": "arn:aws:sns:eu-west-1:123456789012:in",
        "OUTPUT_TOPIC_ARN": "arn:aws:sns:eu-west-1:123456789012:out",
        "OUTPUT_BUCKET": "outputs",
        "RUNTIMES_PATH": "/sdctl/bench/runtimes",
    }


def run(script: str, variables: dict[str, str], *arguments: str) -> float:
    """Run a script in a process of its own and return the seconds that it prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], env=variables, capture_output=True, text=True, check=True
    )
    return float(done.stdout)


def main() -> None:
    """Measure and print; exit 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds: int = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zipfile.ZipFile(io.BytesIO(build_bundles()["sdctl_api"].zip_bytes)).extractall(folder)
        variables = environment(folder)
        event = {
            "resource": "/v1alpha2", "path": "/v1alpha2", "httpMethod": "POST",
            "headers": {"content-type": "application/json"}, "body": json.dumps(TASK),
        }  # fmt: skip
        for script in (BARE, FUNCTION):
            run(script, variables)  # byte code is compiled and files are in memory
        pairs = [(run(BARE, variables), run(FUNCTION, variables)) for _ in range(rounds)]
        warm_ms = run(WARM, variables, json.dumps(event)) * 1000
    bare, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(own / base for base, own in pairs)
    result = {
        "bare_boto3_ms": round(bare * 1000, 1),
        "sdctl_api_ms": round(ours * 1000, 1),
        "cold_ratio": round(ratio, 3),
        "cold_goal": COLD_GOAL,
        "warm_overhead_ms": round(warm_ms, 3),
        "warm_goal_ms": WARM_GOAL_MS,
    }
    print(json.dumps(result))
    raise SystemExit(0 if ratio <= COLD_GOAL and warm_ms < WARM_GOAL_MS else 1)


if __name__ == "__main__":
    main()
