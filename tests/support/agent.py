"""One agent process between an emulated account and a runtime, with everything that a test looks at."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from sdctl import contract, task_record
from sdctl.contract import Task
from sdctl.task_record import Row

ACCOUNT = "123456789012"
REGION = "us-east-1"
# What the next connection sets for itself; the length, too, since a body may be rewritten.
PER_HOP = ("connection", "expect", "content-length")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def until(what: str, probe: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Probe until there is something, and return it."""
    deadline = time.monotonic() + seconds
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:g} s for {what}")
        time.sleep(0.03)


class Account:
    """Queue, dead-letter queue, topic, bucket and table of one runtime."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.name = f"r{uuid.uuid4().hex[:8]}"
        self.sqs, self.sns, self.s3, self.dynamodb = map(self._client, ("sqs", "sns", "s3", "dynamodb"))
        self.queue = self.sqs.create_queue(QueueName=self.name)["QueueUrl"]
        self.dead_letters = self.sqs.create_queue(QueueName=f"{self.name}-dead")["QueueUrl"]
        self.results_queue = self.sqs.create_queue(QueueName=f"{self.name}-results")["QueueUrl"]
        self.topic = self.sns.create_topic(Name=self.name)["TopicArn"]
        arn = f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.name}-results"
        self.sns.subscribe(
            TopicArn=self.topic, Protocol="sqs", Endpoint=arn, Attributes={"RawMessageDelivery": "true"}
        )
        self.bucket = f"{self.name}-bucket"
        self.s3.create_bucket(Bucket=self.bucket)
        self.dynamodb.create_table(
            TableName=self.name,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        self._results: list[dict[str, Any]] = []
        self._lock = threading.Lock()

    def _client(self, service: str) -> Any:
        return boto3.client(
            service, region_name=REGION, endpoint_url=self.endpoint, aws_access_key_id=ACCOUNT,
            aws_secret_access_key="test", config=Config(retries={"total_max_attempts": 2}),
        )  # fmt: skip

    # -- tasks --------------------------------------------------------------------------------------

    def task(self, task_id: str, **changes: Any) -> Task:
        values: dict[str, Any] = {
            "id": task_id, "runtime": "main", "tasktype": "text-to-image", "content": {"prompt": task_id},
            "route": (contract.ROUTE_RUNTIME, "main"),
        }  # fmt: skip
        return Task(**(values | changes))

    def submit(self, task_id: str, **changes: Any) -> Task:
        """Do what the submit function does: the row, then the message."""
        task = self.task(task_id, **changes)
        call = task_record.submit_call(task, now_ms(), task_record.pack_body(task.content))
        self.dynamodb.put_item(TableName=self.name, **call)
        self.send(contract.message_body(task, inline=task.pointer is None))
        return task

    def send(self, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def write(self, call: dict[str, Any]) -> None:
        self.dynamodb.update_item(TableName=self.name, **call)

    # -- what came of them --------------------------------------------------------------------------

    def row(self, task_id: str) -> Row | None:
        item = self.dynamodb.get_item(
            TableName=self.name, Key=task_record.key_of(task_id), ConsistentRead=True
        ).get("Item")
        return task_record.row_from_item(item) if item else None

    def ended(self, task_id: str, seconds: float = 20.0) -> Row:
        """Wait until a task has ended and that was recorded as told."""

        def probe() -> Row | None:
            row = self.row(task_id)
            return row if row is not None and row.is_ended and row.notified else None

        row: Row = until(f"{task_id} to end", probe, seconds)
        return row

    def results(self) -> list[dict[str, Any]]:
        """Return every notification so far, in order."""
        while True:
            got = self.sqs.receive_message(QueueUrl=self.results_queue, MaxNumberOfMessages=10)
            messages = got.get("Messages", [])
            if not messages:
                return list(self._results)
            for message in messages:
                self._results.append(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.results_queue, ReceiptHandle=message["ReceiptHandle"])

    def result_of(self, task_id: str, seconds: float = 20.0) -> dict[str, Any]:
        """Wait for the notification of a task's end."""

        def probe() -> dict[str, Any] | None:
            found = [r for r in self.results() if r["id"] == task_id and r["status"] != "running"]
            return found[0] if found else None

        result: dict[str, Any] = until(f"the result of {task_id}", probe, seconds)
        return result

    def depth(self, queue: str = "") -> tuple[int, int]:
        """Return (visible, in flight) messages of a queue."""
        attributes = self.sqs.get_queue_attributes(
            QueueUrl=queue or self.queue,
            AttributeNames=["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"],
        )["Attributes"]
        return (
            int(attributes["ApproximateNumberOfMessages"]),
            int(attributes["ApproximateNumberOfMessagesNotVisible"]),
        )

    def is_drained(self) -> bool:
        return self.depth() == (0, 0)

    def keys(self) -> list[str]:
        listing = self.s3.list_objects_v2(Bucket=self.bucket)
        return sorted(item["Key"] for item in listing.get("Contents", ()))

    def read(self, url: str) -> bytes:
        key = url.removeprefix(f"s3://{self.bucket}/")
        data: bytes = self.s3.get_object(Bucket=self.bucket, Key=key)["Body"].read()
        return data


class Agent:
    """One agent process; its log lines are read as they come."""

    def __init__(self, account: Account, api_base_url: str, folder: Path, **settings: str) -> None:
        environment = {
            "PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "RUNTIME_TYPE": "sdwebui", "RUNTIME_NAME": "main", "API_BASE_URL": api_base_url,
            "SQS_QUEUE_URL": account.queue, "SNS_TOPIC_ARN": account.topic, "S3_BUCKET": account.bucket,
            "AWS_DEFAULT_REGION": REGION, "TASK_TABLE": account.name, "AWS_ENDPOINT_URL": account.endpoint,
            "AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": "test",
        } | settings  # fmt: skip
        environment = {name: value for name, value in environment.items() if value}
        self._log = folder / f"agent-{uuid.uuid4().hex[:6]}.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sdctl_agent"],
                env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
            )  # fmt: skip

    @property
    def text(self) -> str:
        return self._log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines() if line.startswith("{")]

    def logged(self, action: str) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line.get("action") == action]

    def wait_ready(self) -> Agent:
        until("the agent to be ready", lambda: self.logged("runtime_ready"))
        return self

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, seconds: float) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


class FaultyProxy:
    """Forwards to the emulator, but fails or delays what `fault` says.

    `fault` is asked with the method and the path, or the operation where the protocol names one in a
    header (`AmazonSQS.DeleteMessage`); `lose` is asked the same when the call has taken effect, and
    `rewrite` may change the body of a request on its way.
    """

    def __init__(self, target: str) -> None:
        self.fault: Callable[[str, str], int | None] = lambda method, path: None
        self.lose: Callable[[str, str], int | None] = lambda method, path: None
        self.error_body = b"<Error><Code>InternalError</Code></Error>"
        self.rewrite: Callable[[str, bytes], bytes] = lambda operation, body: body
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                operation = self.headers.get("x-amz-target") or self.path
                status = owner.fault(self.command, operation)
                body = owner.rewrite(operation, body)
                if status is not None:
                    self.answer(status, {}, owner.error_body)
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() not in PER_HOP}
                request = urllib.request.Request(
                    target + self.path, data=body or None, method=self.command, headers=headers
                )
                try:
                    with urllib.request.urlopen(request, timeout=40) as reply:
                        lost = owner.lose(self.command, operation)
                        self.answer(lost or reply.status, dict(reply.headers), b"" if lost else reply.read())
                except urllib.error.HTTPError as error:
                    with error:
                        self.answer(error.code, dict(error.headers), error.read())

            def answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    if name.lower() not in (
                        "content-length",
                        "transfer-encoding",
                        "connection",
                        "date",
                        "server",
                    ):
                        self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = forward

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    @contextlib.contextmanager
    def serve(self) -> Iterator[FaultyProxy]:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield self
        finally:
            self._server.shutdown()
            self._server.server_close()
