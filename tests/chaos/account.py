"""What the proof runs on: one emulated account, and pods of a runtime and its agent."""

from __future__ import annotations

import collections
import functools
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

ACCOUNT = "123456789012"
REGION = "us-east-1"
TABLE = "tasks"
# `plain` is served by agents that have no task table.
TYPES = {"sd": "sdwebui", "comfy": "comfyui", "plain": "sdwebui"}
PODS = (("sd", 0), ("sd", 1), ("comfy", 0), ("comfy", 1), ("plain", 0), ("plain", 1))
# A task that was handed back by every other kill still is none that the redrive policy may have.
MAX_RECEIVES = 60


@dataclass
class Account:
    """The emulated account: clients that see no faults, and what was made in it."""

    endpoint: str
    input_topic: str = ""
    topic: str = ""
    bucket: str = "outputs"
    queues: dict[str, str] = field(default_factory=dict)
    dead_letters: dict[str, str] = field(default_factory=dict)
    results: str = ""

    @functools.cache  # noqa: B019 - one account lives as long as its run
    def client(self, service: str) -> Any:
        return boto3.session.Session().client(
            service, region_name=REGION, endpoint_url=self.endpoint, aws_access_key_id=ACCOUNT,
            aws_secret_access_key="secret", config=Config(max_pool_connections=32),
        )  # fmt: skip

    def __hash__(self) -> int:
        return hash(self.endpoint)

    def build(self) -> None:
        self.client("s3").create_bucket(Bucket=self.bucket)
        self.client("dynamodb").create_table(
            TableName=TABLE, BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )  # fmt: skip
        sns = self.client("sns")
        self.topic = sns.create_topic(Name="results")["TopicArn"]
        self.input_topic = sns.create_topic(Name="tasks")["TopicArn"]
        self.results, arn = self._queue("results")
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)
        for name in TYPES:
            self.dead_letters[name], dead_arn = self._queue(f"{name}-dead")
            redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": MAX_RECEIVES})
            self.queues[name], arn = self._queue(name, VisibilityTimeout="30", RedrivePolicy=redrive)
            attributes = {"FilterPolicy": json.dumps({"runtime": [name]})}
            sns.subscribe(TopicArn=self.input_topic, Protocol="sqs", Endpoint=arn, Attributes=attributes)

    def _queue(self, name: str, **attributes: str) -> tuple[str, str]:
        sqs = self.client("sqs")
        url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return url, found["Attributes"]["QueueArn"]


@dataclass
class Pod:
    """One runtime and its agent, as two processes that may be killed at any time."""

    runtime: str
    number: int
    folder: Path
    runtime_port: int
    proxy_port: int
    environment: dict[str, str]
    server: subprocess.Popen[bytes] | None = None
    agent: subprocess.Popen[bytes] | None = None
    exits: collections.Counter[int] = field(default_factory=collections.Counter)
    # From when to when something was done to it, in wall time.
    incidents: list[tuple[float, float]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.runtime}-{self.number}"

    @property
    def clock(self) -> Path:
        return self.folder / f"{self.name}.clock"

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}-agent.log"

    def note(self, action: str, seconds: float = 0.0) -> None:
        """Write into the agent's log, between its own lines, what was done to it, for how long."""
        self.incidents.append((time.time(), time.time() + seconds))
        with self.log.open("a") as log:
            log.write(json.dumps({"action": action}) + "\n")

    def start_server(self) -> None:
        with (self.folder / f"{self.name}-runtime.log").open("ab") as log:
            self.server = subprocess.Popen(
                [
                    sys.executable, "-m", "sdctl.local.sketch", "--type", TYPES[self.runtime], "--port",
                    str(self.runtime_port), "--host", "127.0.0.1",
                ],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def start_agent(self) -> None:
        with self.log.open("ab") as log:
            self.agent = subprocess.Popen(
                [sys.executable, "-m", "sdctl_agent"],
                env=self.environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def keep_up(self) -> None:
        """Restart what has ended, as kubelet would."""
        if self.server is None or self.server.poll() is not None:
            self.start_server()
        if self.agent is None or self.agent.poll() is not None:
            if self.agent is not None:
                self.exits[self.agent.returncode] += 1
                self.note("chaos_exit")
            self.start_agent()

    def drain(self, seconds: float) -> int | None:
        """End the agent as a scale-in does; return its exit code, None where it does not end in time."""
        if self.agent is None:
            return None
        self.agent.send_signal(signal.SIGTERM)
        try:
            return self.agent.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        for process in (self.agent, self.server):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(10)
