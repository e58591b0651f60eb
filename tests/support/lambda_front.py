"""A front without CloudFormation: table, topics, queues and buckets in the emulator, and the real zips."""

from __future__ import annotations

import contextlib
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from sdctl.deploy.bundle import Bundle
from sdctl.render.stacks import LISTED_ATTRIBUTES
from sdctl.task_record import Row, row_from_item

ACCOUNT = "123456789012"
REGION = "eu-west-1"
CHECKPOINT = "v1-5.safetensors"
RUNTIMES = [
    {"name": "sdweb", "type": "sdwebui", "checkpoint": CHECKPOINT, "checkpoints": [CHECKPOINT]},
    {"name": "dyn", "type": "sdwebui", "checkpoint": "", "dynamic": True, "checkpoints": []},
    {"name": "comfy", "type": "comfyui"},
]  # fmt: skip
TABLE_INDEXES = (("by_runtime", "runtime", "listing"), ("open", "open_runtime", "open_until"))


def environment(port: int) -> dict[str, str]:
    """Return the environment of a process that knows nothing but the emulator."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "AWS_ACCESS_KEY_ID": ACCOUNT,
        "AWS_SECRET_ACCESS_KEY": "emulator",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextlib.contextmanager
def emulator(folder: Path, *, timeout_seconds: float = 60.0) -> Iterator[int]:
    """Run ministack on a free loopback port until the block ends; yields the port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = {
        "GATEWAY_PORT": str(port), "BIND_HOST": "127.0.0.1", "MINISTACK_ACCOUNT_ID": ACCOUNT,
        "MINISTACK_REGION": REGION, "LOG_LEVEL": "WARNING", "TMPDIR": str(folder), "HOME": str(folder),
    }  # fmt: skip
    with (folder / "emulator.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "ministack"],
            env=environment(port) | settings,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        _await_health(process, port, timeout_seconds)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_health(process: subprocess.Popen[bytes], port: int, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/_ministack/health", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def client(service: str, port: int) -> Any:
    """Make a client of the emulator."""
    make: Any = boto3.client  # its types know service names only as literals
    return make(
        service,
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name=REGION,
        aws_access_key_id=ACCOUNT,
        aws_secret_access_key="emulator",
        config=Config(retries={"total_max_attempts": 2}, s3={"addressing_style": "path"}),
    )


class Worker:
    """One function's zip, unzipped, in a process of its own."""

    def __init__(self, bundle: Bundle, folder: Path, variables: Mapping[str, str]) -> None:
        self.code_dir = folder / f"code-{uuid.uuid4().hex}"
        zipfile.ZipFile(io.BytesIO(bundle.zip_bytes)).extractall(self.code_dir)
        self._log_path = self.code_dir.with_suffix(".log")
        self._arguments = [
            sys.executable, str(Path(__file__).with_name("lambda_worker.py")),
            str(self.code_dir), bundle.handler,
        ]  # fmt: skip
        self._variables = dict(variables)
        self._process: subprocess.Popen[str] | None = None
        self._log_start = 0
        self.calls: list[str] = []
        self.used: list[tuple[str, dict[str, Any]]] = []

    def settle_into(self, variables: Mapping[str, str]) -> Worker:
        """Serve another front from now on, with a log of its own."""
        self._variables = dict(variables)
        self._log_start = len(self._whole_log)
        return self

    def send(self, event: Any, faults: Mapping[str, str] | None = None, **more: Any) -> None:
        """Pass an event on without waiting for the answer."""
        if self._process is None or self._process.poll() is not None:
            with self._log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self._arguments, env=self._variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=log, text=True,
                )  # fmt: skip
        assert self._process.stdin is not None
        message = {"event": event, "faults": faults, "environment": self._variables, **more}
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def receive(self) -> Any:
        """Return the answer of the last event; None where the process died instead."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.close()
            return None
        message = json.loads(line)
        self.calls = message["calls"]
        self.used += [(name, arguments) for name, arguments in message["used"]]
        return message["answer"]

    def invoke(self, event: Any, faults: Mapping[str, str] | None = None, **more: Any) -> Any:
        """Pass an event on and return its answer."""
        self.send(event, faults, **more)
        return self.receive()

    @property
    def log(self) -> str:
        """Everything that the function wrote for this front."""
        return self._whole_log[self._log_start :]

    @property
    def _whole_log(self) -> str:
        return self._log_path.read_text() if self._log_path.exists() else ""

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    with contextlib.suppress(BrokenPipeError):
                        stream.close()
            self._process.wait(10)
            self._process = None


@dataclass
class Answer:
    """One HTTP answer."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])

    @property
    def paths(self) -> list[str]:
        return [entry["path"] for entry in self.body["error"]["fields"]]


@dataclass
class Front:
    """Table, topics, queues and buckets of one test, and the functions that work on them."""

    port: int
    folder: Path
    bundles: Mapping[str, Bundle] = field(repr=False)
    unique: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def __post_init__(self) -> None:
        self.table, self.bucket = f"tasks-{self.unique}", f"outputs-{self.unique}"
        self.model_bucket = f"models-{self.unique}"
        self.dynamodb, self.s3 = client("dynamodb", self.port), client("s3", self.port)
        self.sns, self.sqs = client("sns", self.port), client("sqs", self.port)
        self.ssm, self.runtimes_path = client("ssm", self.port), f"/sdctl/{self.unique}/runtimes"
        self.register(*RUNTIMES)
        self._workers: list[Worker] = []
        keys = sorted({"id"} | {name for _, *names in TABLE_INDEXES for name in names})
        self.dynamodb.create_table(
            TableName=self.table,
            BillingMode="PAY_PER_REQUEST",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[
                {"AttributeName": name, "AttributeType": "N" if name == "open_until" else "S"}
                for name in keys
            ],
            GlobalSecondaryIndexes=[
                {
                    "IndexName": name,
                    "KeySchema": [
                        {"AttributeName": partition, "KeyType": "HASH"},
                        {"AttributeName": sort, "KeyType": "RANGE"},
                    ],
                    "Projection": {"ProjectionType": "KEYS_ONLY"}
                    if name == "open"
                    else {"ProjectionType": "INCLUDE", "NonKeyAttributes": list(LISTED_ATTRIBUTES)},
                }
                for name, partition, sort in TABLE_INDEXES
            ],
        )
        for bucket in (self.bucket, self.model_bucket):
            self.s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
        self.input_topic, self.input_queue = self._topic("input")
        self.output_topic, self.output_queue = self._topic("output")

    def _topic(self, name: str) -> tuple[str, str]:
        topic = self.sns.create_topic(Name=f"{name}-{self.unique}")["TopicArn"]
        queue = self.sqs.create_queue(QueueName=f"{name}-{self.unique}")["QueueUrl"]
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}-{self.unique}"
        self.sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        return topic, queue

    @property
    def variables(self) -> dict[str, str]:
        """The environment of a function."""
        return environment(self.port) | {
            "TASK_TABLE": self.table, "INPUT_TOPIC_ARN": self.input_topic,
            "OUTPUT_TOPIC_ARN": self.output_topic, "OUTPUT_BUCKET": self.bucket,
            "MODEL_BUCKET": self.model_bucket, "RUNTIMES_PATH": self.runtimes_path,
        }  # fmt: skip

    def register(self, *runtimes: Mapping[str, Any]) -> None:
        """List runtimes, as their stacks do."""
        for runtime in runtimes:
            name, value = f"{self.runtimes_path}/{runtime['name']}", json.dumps(runtime)
            self.ssm.put_parameter(Name=name, Value=value, Type="String")

    def deregister(self, *names: str) -> None:
        """Take runtimes off the list, as their stacks do when they go."""
        for name in names:
            self.ssm.delete_parameter(Name=f"{self.runtimes_path}/{name}")

    def worker(self, function: str, **variables: str) -> Worker:
        """Start a function in a sandbox of its own; it ends with the front."""
        worker = Worker(self.bundles[function], self.folder, self.variables | variables)
        self._workers.append(worker)
        return worker

    def close(self) -> None:
        """End every sandbox."""
        for worker in self._workers:
            worker.close()

    def messages(self, queue: str) -> list[dict[str, Any]]:
        """Take all messages out of a queue: each is its SNS envelope."""
        taken: list[dict[str, Any]] = []
        while True:
            answer = self.sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10, WaitTimeSeconds=0)
            messages = answer.get("Messages", [])
            if not messages:
                return taken
            for message in messages:
                taken.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])

    def tasks_sent(self) -> list[dict[str, Any]]:
        """Take what was published to the input topic, each decoded."""
        return [json.loads(envelope["Message"]) for envelope in self.messages(self.input_queue)]

    def results_sent(self) -> list[dict[str, Any]]:
        """Take what was published to the output topic, each decoded."""
        return [json.loads(envelope["Message"]) for envelope in self.messages(self.output_queue)]

    def item(self, task_id: str) -> dict[str, Any] | None:
        """Read a row as DynamoDB has it."""
        answer = self.dynamodb.get_item(TableName=self.table, Key={"id": {"S": task_id}}, ConsistentRead=True)
        item: dict[str, Any] | None = answer.get("Item")
        return item

    def row(self, task_id: str) -> Row:
        """Read a row that must be there."""
        item = self.item(task_id)
        assert item is not None, task_id
        return row_from_item(item)

    def update(self, call: Mapping[str, Any]) -> None:
        """Send one of `task_record`'s updates, as an agent would."""
        self.dynamodb.update_item(TableName=self.table, **call)


def event(
    method: str,
    resource: str,
    body: object = None,
    *,
    query: Mapping[str, str] | None = None,
    parameters: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
    path: str | None = None,
) -> dict[str, Any]:
    """Make API Gateway's proxy event; a body that is no text is sent as JSON."""
    text = body if body is None or isinstance(body, str) else json.dumps(body)
    sent = {"x-api-key": "top-secret-key", "content-type": "application/json"} if headers is None else headers
    filled = resource
    for name, value in (parameters or {}).items():
        filled = filled.replace("{" + name + "}", value)
    return {
        "version": "1.0",
        "resource": resource,
        "path": filled if path is None else path,
        "httpMethod": method,
        "headers": dict(sent),
        "multiValueHeaders": {name: [value] for name, value in sent.items()},
        "queryStringParameters": dict(query) if query else None,
        "multiValueQueryStringParameters": {key: [value] for key, value in query.items()} if query else None,
        "pathParameters": dict(parameters) if parameters else None,
        "requestContext": {"resourcePath": resource, "httpMethod": method},
        "body": text,
        "isBase64Encoded": False,
    }


def call(worker: Worker, request: Mapping[str, Any], faults: Mapping[str, str] | None = None) -> Answer:
    """Send a request to the API and decode its answer."""
    answer = worker.invoke(request, faults)
    assert answer is not None, "the function died"
    return Answer(answer["statusCode"], json.loads(answer["body"]), answer["headers"])
