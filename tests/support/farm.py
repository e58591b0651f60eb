"""A whole farm on this machine for tests: deployed by the real command, spoken to over real HTTP."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3

BIN = Path(sys.executable).parent


def command_environment(home: Path) -> dict[str, str]:
    """Return the nearly empty environment that commands are run in."""
    return {
        "HOME": str(home.parent),
        "PATH": f"{BIN}:/usr/bin:/bin",
        "SDCTL_HOME": str(home),
        "LANG": "C.UTF-8",
    }


@dataclass
class Answer:
    """One HTTP answer of the task API."""

    status: int
    body: Any
    headers: Mapping[str, str]

    def fields(self) -> dict[str, str]:
        """Return the problems of an error answer by path."""
        return {item["path"]: item["message"] for item in self.body["error"]["fields"]}


@dataclass
class Farm:
    """A deployment in `folder`, its state in `home`."""

    folder: Path
    home: Path
    outputs: dict[str, str] = field(default_factory=dict)
    key: str = ""
    _clients: dict[str, Any] = field(default_factory=dict)

    def run(self, *arguments: str, check: bool = True, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run `sdctl` in the farm's folder, as a user's shell would."""
        done = subprocess.run(
            [str(BIN / "sdctl"), *arguments],
            cwd=self.folder,
            env=command_environment(self.home) | options.pop("extra_env", {}),
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=options.pop("timeout", 90),
            check=False,
            **options,
        )
        if check and done.returncode:
            raise AssertionError(
                f"sdctl {' '.join(arguments)} → {done.returncode}\n{done.stdout}\n{done.stderr}"
            )
        return done

    def deploy(self, *arguments: str) -> dict[str, Any]:
        """Deploy to this machine and remember endpoint and key."""
        done = self.run("deploy", "--target", "local", "--yes", "-o", "json", *arguments)
        document: dict[str, Any] = json.loads(done.stdout)
        self.outputs = document["outputs"]
        self.key = self.run("apikey").stdout.strip()
        self._clients.clear()
        return document

    def destroy(self) -> None:
        """Take the deployment away."""
        self.run("destroy", "--yes")

    def call(
        self, method: str, path: str, body: Any = None, *, key: str | None = "", raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:  # fmt: skip
        """Send one request to the task API; `key=None` sends none."""
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {"content-type": "application/json"} if data is not None else {}
        if key is not None:
            sent["x-api-key"] = key or self.key
        request = urllib.request.Request(
            self.outputs["FrontApiEndpoint"] + path,
            data=data,
            method=method,
            headers=sent | dict(headers or {}),
        )
        try:
            with urllib.request.urlopen(request, timeout=40) as response:
                return Answer(response.status, json.loads(response.read()), dict(response.headers))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, json.loads(error.read()), dict(error.headers))

    def submit(self, task: Mapping[str, Any]) -> Answer:
        """Submit `{"metadata": …, "content": …}` as v1alpha2."""
        return self.call("POST", "v1alpha2", {"task": task})

    def ended(self, task_id: str, timeout_seconds: float = 60) -> dict[str, Any]:
        """Wait for a task's end state and return the task object."""
        task: dict[str, Any] = {}

        def is_ended() -> bool:
            nonlocal task
            answer = self.call("GET", f"v1alpha2/tasks/{task_id}")
            task = answer.body
            return answer.status == 200 and task["status"] in ("completed", "failed", "cancelled", "expired")

        wait_until(is_ended, timeout_seconds, lambda: f"task {task_id} to end: {task}")
        return task

    def status(self) -> dict[str, Any]:
        """Return what `sdctl status` says."""
        document: dict[str, Any] = json.loads(self.run("status", "-o", "json").stdout)
        return document

    def client(self, service: str) -> Any:
        """Return a client of the emulated AWS account."""
        if service not in self._clients:
            from sdctl.local.target import LocalTarget

            access = LocalTarget(self.home, "sdoneks", self.folder).up()
            self._clients[service] = boto3.client(
                service, region_name=access.region, endpoint_url=access.endpoint_url,
                aws_access_key_id=access.access_key, aws_secret_access_key=access.secret_key,
            )  # fmt: skip
        return self._clients[service]

    def subscribe(self) -> Results:
        """Subscribe a new queue to the output topic."""
        sqs, sns = self.client("sqs"), self.client("sns")
        url = sqs.create_queue(QueueName=f"results-{time.monotonic_ns()}")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        sns.subscribe(TopicArn=self.outputs["sdNotificationOutputARN"], Protocol="sqs", Endpoint=arn)
        return Results(sqs, url)


@dataclass
class Results:
    """The result notifications that a subscriber has received: raw text by task id."""

    sqs: Any
    url: str
    received: dict[str, list[str]] = field(default_factory=dict)

    def drain(self, wait_seconds: int = 1) -> None:
        """Receive what is there."""
        while True:
            answer = self.sqs.receive_message(
                QueueUrl=self.url, MaxNumberOfMessages=10, WaitTimeSeconds=wait_seconds
            )
            messages = answer.get("Messages", [])
            for message in messages:
                text = json.loads(message["Body"])["Message"]
                self.received.setdefault(json.loads(text)["id"], []).append(text)
                self.sqs.delete_message(QueueUrl=self.url, ReceiptHandle=message["ReceiptHandle"])
            if not messages:
                return

    def of(self, task_id: str, timeout_seconds: float = 20) -> dict[str, Any]:
        """Wait for the first notification of a task."""

        def is_there() -> bool:
            if task_id not in self.received:
                self.drain()
            return task_id in self.received

        wait_until(is_there, timeout_seconds, lambda: f"a notification of {task_id}")
        message: dict[str, Any] = json.loads(self.received[task_id][0])
        return message


def wait_until(
    probe: Callable[[], bool],
    timeout_seconds: float,
    awaited: Callable[[], str],
    interval_seconds: float = 0.1,
) -> None:
    """Wait until `probe` holds, or fail naming what was awaited."""
    deadline = time.monotonic() + timeout_seconds
    while not probe():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout_seconds} s for {awaited()}")
        time.sleep(interval_seconds)


def is_alive(pid: int) -> bool:
    """Tell whether a process exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
