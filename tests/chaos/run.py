"""Thousands of tasks over several agents while everything around them fails at random.

`python -m chaos.run --tasks 10000` (or `make chaos`) from `tests/`. Prints the seed first and what was
injected last. Two runtimes of each type, each with its agent, share two queues; between them and the
emulated account stand the proxies of `chaos.proxies`. Checked at the end, for every task: one end
state, one set of files, at least one notification and never two that differ; nothing left in a queue
or open in the table.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from support.emulator import free_port, running_emulator

from sdctl import contract
from sdctl import task_record as record

ACCOUNT = "123456789012"
REGION = "us-east-1"
TESTS = Path(__file__).parent.parent
TYPES = {"sd": "sdwebui", "comfy": "comfyui"}
PODS = (("sd", 0), ("sd", 1), ("comfy", 0), ("comfy", 1))


@dataclass
class Account:
    """The emulated account: clients that see no faults, and what was made in it."""

    endpoint: str
    topic: str = ""
    bucket: str = "outputs"
    queues: dict[str, str] = field(default_factory=dict)
    dead_letters: dict[str, str] = field(default_factory=dict)
    results: str = ""

    def client(self, service: str) -> Any:
        return boto3.session.Session().client(
            service, region_name=REGION, endpoint_url=self.endpoint, aws_access_key_id=ACCOUNT,
            aws_secret_access_key="secret", config=Config(max_pool_connections=32),
        )  # fmt: skip

    def build(self) -> None:
        sqs, sns, s3, dynamodb = (self.client(name) for name in ("sqs", "sns", "s3", "dynamodb"))
        s3.create_bucket(Bucket=self.bucket)
        dynamodb.create_table(
            TableName="tasks", BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )  # fmt: skip
        self.topic = sns.create_topic(Name="results")["TopicArn"]

        def queue(name: str, **attributes: str) -> tuple[str, str]:
            url = sqs.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]
            found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
            return url, found["Attributes"]["QueueArn"]

        self.results, arn = queue("results")
        sns.subscribe(TopicArn=self.topic, Protocol="sqs", Endpoint=arn)
        for name in TYPES:
            self.dead_letters[name], dead_arn = queue(f"{name}-dead")
            redrive = json.dumps({"deadLetterTargetArn": dead_arn, "maxReceiveCount": 23})
            self.queues[name], _ = queue(name, VisibilityTimeout="30", RedrivePolicy=redrive)


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

    @property
    def name(self) -> str:
        return f"{self.runtime}-{self.number}"

    @property
    def clock(self) -> Path:
        return self.folder / f"{self.name}.clock"

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
        with (self.folder / f"{self.name}-agent.log").open("ab") as log:
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
            self.start_agent()

    def stop(self) -> None:
        for process in (self.agent, self.server):
            if process is not None and process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.kill()
                process.wait(10)


def workflow(task_id: str, seed: int) -> dict[str, Any]:
    """Return a small text-to-image graph."""
    return {
        "1": {
            "class_type": "CheckpointLoaderSimple",
            "inputs": {"ckpt_name": "v1-5-pruned-emaonly.safetensors"},
        },
        "2": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": task_id, "clip": ["1", 1]}},
        "4": {
            "class_type": "KSampler",
            "inputs": {
                "seed": seed, "steps": 2, "cfg": 7, "sampler_name": "euler", "scheduler": "normal",
                "denoise": 1, "model": ["1", 0], "positive": ["3", 0], "negative": ["3", 0],
                "latent_image": ["2", 0],
            },
        },
        "5": {"class_type": "VAEDecode", "inputs": {"samples": ["4", 0], "vae": ["1", 2]}},
        "6": {"class_type": "SaveImage", "inputs": {"filename_prefix": "t", "images": ["5", 0]}},
    }  # fmt: skip


@dataclass
class Wanted:
    """What was sent, and what may become of it."""

    task: contract.Task
    statuses: set[str]
    files: int


class Load:
    """Sends the tasks: through the table as the API does, published directly, twice, or broken."""

    def __init__(self, account: Account, rng: random.Random) -> None:
        self.account = account
        self.random = rng
        self.sqs, self.dynamodb = account.client("sqs"), account.client("dynamodb")
        self.wanted: dict[str, Wanted] = {}
        self.undecodable = 0
        self.counts: collections.Counter[str] = collections.Counter()

    def make(self, number: int) -> Wanted:
        name = self.random.choice(list(TYPES))
        task_id = f"task-{number:05d}"
        files = self.random.choice((1, 1, 1, 2)) if name == "sd" else 1
        if name == "sd":
            content: dict[str, Any] = {
                "prompt": task_id, "seed": number, "steps": 2, "width": 64, "height": 64, "batch_size": files,
            }  # fmt: skip
            tasktype = "text-to-image"
        else:
            content, tasktype = workflow(task_id, number), "pipeline"
        wanted = Wanted(
            contract.Task(
                task_id, name, tasktype, content, "out", {"n": number}, route=("runtime", name)
            ),
            {"completed"}, files,
        )  # fmt: skip
        if self.random.random() < 0.03:
            broken = {
                "tasktype": "image-to-image",
                "content": {"prompt": "x", "init_images": ["http://10.1.1.1/x"]},
            }
            if name == "comfy":
                broken = {"content": {"1": {"class_type": "SaveImage", "inputs": {}}}}
            from dataclasses import replace

            wanted = Wanted(replace(wanted.task, **broken), {"failed"}, 0)
            self.counts["broken"] += 1
        return wanted

    def send(self, wanted: Wanted, roll: float) -> None:
        task = wanted.task
        now = int(time.time() * 1000)
        if roll > 0.2:
            self.dynamodb.put_item(
                TableName="tasks", **record.submit_call(task, now, record.pack_body(task.content))
            )
        else:
            self.counts["direct"] += 1
        envelope = json.dumps(
            {
                "Type": "Notification",
                "MessageId": task.id,
                "TopicArn": "in",
                "Message": contract.message_body(task),
            }
        )
        copies = 2 if roll > 0.9 else 1
        for _ in range(copies):
            self.sqs.send_message(QueueUrl=self.account.queues[task.runtime], MessageBody=envelope)
        self.counts["duplicated"] += copies - 1

    def send_all(self, count: int) -> None:
        rolls = []
        for number in range(count):
            wanted = self.make(number)
            self.wanted[wanted.task.id] = wanted
            rolls.append((wanted, self.random.random()))
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda pair: self.send(*pair), rolls))
        for name, url in self.account.queues.items():
            self.sqs.send_message(QueueUrl=url, MessageBody=f"not JSON for {name}")
            self.undecodable += 1

    def cancel_some(self, count: int) -> None:
        """Ask for cancels of random tasks, as the API does; they may come too late."""
        for task_id in self.random.sample(sorted(self.wanted), count):
            wanted = self.wanted[task_id]
            with contextlib.suppress(self.dynamodb.exceptions.ConditionalCheckFailedException):
                self.dynamodb.update_item(TableName="tasks", **record.cancel_call(task_id, int(time.time() * 1000)))
                wanted.statuses.add("cancelled")
                self.counts["cancel"] += 1


class Chaos:
    """Does something bad to a random pod every now and then until it is told to stop."""

    def __init__(self, pods: list[Pod], rng: random.Random, *, long_pauses: bool) -> None:
        self.pods = pods
        self.random = rng
        self.counts: collections.Counter[str] = collections.Counter()
        self.stopped = threading.Event()
        self.actions: list[tuple[str, Callable[[Pod], None]]] = [
            ("kill agent", lambda pod: self.send(pod.agent, signal.SIGKILL)),
            ("terminate agent", lambda pod: self.send(pod.agent, signal.SIGTERM)),
            ("kill runtime", lambda pod: self.send(pod.server, signal.SIGKILL)),
            ("hang runtime", lambda pod: self.pause(pod.server, self.random.uniform(1, 4))),
            ("pause agent", lambda pod: self.pause(pod.agent, self.random.uniform(1, 4))),
            ("step clock", self.step_clock),
        ]
        if long_pauses:
            self.actions.append(("pause agent past its lease", lambda pod: self.pause(pod.agent, 34)))

    def send(self, process: subprocess.Popen[bytes] | None, number: signal.Signals) -> None:
        if process is not None and process.poll() is None:
            process.send_signal(number)

    def pause(self, process: subprocess.Popen[bytes] | None, seconds: float) -> None:
        self.send(process, signal.SIGSTOP)
        timer = threading.Timer(seconds, lambda: self.send(process, signal.SIGCONT))
        timer.daemon = True
        timer.start()

    def step_clock(self, pod: Pod) -> None:
        pod.clock.write_text(str(self.random.choice((-20.0, -5.0, 0.0, 5.0, 20.0))))

    def run(self, interval_seconds: float) -> None:
        while not self.stopped.wait(self.random.uniform(0.5, 1.5) * interval_seconds):
            name, action = self.random.choice(self.actions)
            self.counts[name] += 1
            action(self.random.choice(self.pods))

    def end(self) -> None:
        """Stop harming, and put the clocks right."""
        self.stopped.set()
        for pod in self.pods:
            pod.clock.write_text("0")


class Results:
    """What subscribers were told, raw, by task."""

    def __init__(self, account: Account) -> None:
        self.sqs = account.client("sqs")
        self.url = account.results
        self.texts: dict[str, list[str]] = collections.defaultdict(list)

    def drain(self) -> None:
        while messages := self.sqs.receive_message(QueueUrl=self.url, MaxNumberOfMessages=10).get("Messages"):
            entries = []
            for message in messages:
                text = json.loads(message["Body"])["Message"]
                self.texts[json.loads(text)["id"]].append(text)
                entries.append({"Id": str(len(entries)), "ReceiptHandle": message["ReceiptHandle"]})
            self.sqs.delete_message_batch(QueueUrl=self.url, Entries=entries)


def messages_in(sqs: Any, urls: Iterable[str]) -> int:
    """Count the messages in some queues, in flight or not."""
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    total = 0
    for url in urls:
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        total += sum(int(found[name]) for name in names)
    return total


def read_rows(account: Account) -> dict[str, record.Row]:
    """Read the whole task table."""
    pages = account.client("dynamodb").get_paginator("scan").paginate(TableName="tasks")
    rows = (record.row_from_item(item) for page in pages for item in page["Items"])
    return {row.id: row for row in rows}


def read_keys(account: Account) -> dict[str, set[str]]:
    """List the stored objects by task id."""
    keys: dict[str, set[str]] = collections.defaultdict(set)
    pages = (
        account.client("s3").get_paginator("list_objects_v2").paginate(Bucket=account.bucket, Prefix="out/")
    )
    for page in pages:
        for item in page.get("Contents", []):
            keys[item["Key"].split("/")[1]].add(item["Key"])
    return keys


def violations(account: Account, load: Load, results: Results) -> Iterator[str]:
    """Say everything that does not hold."""
    rows, keys = read_rows(account), read_keys(account)
    items = account.client("dynamodb").get_paginator("scan").paginate(TableName="tasks")
    for page in items:
        for item in page["Items"]:
            left = {"open_runtime", "open_until", "claim", "claim_until"} & set(item)
            if left:
                yield f"{item['id']['S']}: still has {sorted(left)}"
    yield from (f"{task_id}: a row that nobody sent" for task_id in rows.keys() - load.wanted.keys())
    for task_id, wanted in load.wanted.items():
        row, texts = rows.get(task_id), results.texts.get(task_id, [])
        if row is None:
            yield f"{task_id}: no row"
            continue
        if row.status not in wanted.statuses:
            yield f"{task_id}: {row.status} ({row.error}), not {sorted(wanted.statuses)}"
        if not texts:
            yield f"{task_id}: {row.status}, never notified"
        elif len(set(texts)) > 1:
            yield f"{task_id}: notifications differ: {sorted(set(texts))}"
        elif texts[0] != record.result_notification(row):
            yield f"{task_id}: notified {texts[0]}, kept {record.result_notification(row)}"
        stored = {f"s3://{account.bucket}/{key}" for key in keys.get(task_id, ())}
        listed = {*row.image_url, *([row.output_url] if row.output_url else [])}
        if row.status == "completed" and (stored != listed or len(row.image_url) != wanted.files):
            yield f"{task_id}: stored {sorted(stored)}, listed {sorted(listed)}, wanted {wanted.files} files"


@contextlib.contextmanager
def stage(
    folder: Path, seed: int, *, aws_rate: float, runtime_rate: float
) -> Iterator[tuple[Account, list[Pod]]]:
    """Start the account, the proxies and the pods; everything ends with the context."""
    with running_emulator(folder / "emulator", account=ACCOUNT) as endpoint:
        account = Account(endpoint)
        account.build()
        aws_port = free_port()
        pods = []
        for runtime, number in PODS:
            runtime_port, proxy_port = free_port(), free_port()
            name = f"{runtime}-{number}"
            environment = {
                "PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": "secret",
                "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws_port}",
                "RUNTIME_TYPE": TYPES[runtime], "RUNTIME_NAME": runtime,
                "API_BASE_URL": f"http://127.0.0.1:{proxy_port}", "SQS_QUEUE_URL": account.queues[runtime],
                "SNS_TOPIC_ARN": account.topic, "S3_BUCKET": account.bucket, "TASK_TABLE": "tasks",
                "DEAD_LETTER_QUEUE_URL": account.dead_letters[runtime], "MAX_ATTEMPTS": "20",
                "DRAIN_SECONDS": "5", "CHAOS_CLOCK": str(folder / f"{name}.clock"),
                "PYTHONPATH": str(Path(__file__).parent / "site"),
            }  # fmt: skip
            pods.append(Pod(runtime, number, folder, runtime_port, proxy_port, environment))
        command = [
            sys.executable, "-m", "chaos.proxies", "--aws-port", str(aws_port), "--aws-target", endpoint,
            "--seed", str(seed), "--aws-rate", str(aws_rate), "--runtime-rate", str(runtime_rate),
        ]  # fmt: skip
        for pod in pods:
            command += ["--runtime", f"{pod.proxy_port}={pod.runtime_port}"]
        with (folder / "proxies.log").open("ab") as log:
            proxies = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stderr=log)
        try:
            assert proxies.stdout is not None
            assert proxies.stdout.readline() == b"ready\n"
            yield account, pods
        finally:
            for pod in pods:
                pod.stop()
            proxies.kill()
            proxies.wait(10)
            if proxies.stdout is not None:
                proxies.stdout.close()


def run(
    tasks: int, seed: int, folder: Path, *, deadline_seconds: float, say: Callable[[str], None] = print
) -> list[str]:
    """Run the whole proof; return what was violated."""
    say(f"seed {seed}, {tasks} tasks, logs in {folder}")
    rng = random.Random(seed)
    started = time.monotonic()
    with stage(folder, seed, aws_rate=0.02, runtime_rate=0.02) as (account, pods):
        load, results = Load(account, rng), Results(account)
        for pod in pods:
            pod.keep_up()
        load.send_all(tasks)
        say(f"{time.monotonic() - started:6.1f} s: sent {dict(load.counts)}")
        chaos = Chaos(pods, random.Random(seed + 1), long_pauses=True)
        thread = threading.Thread(target=chaos.run, args=(2.0,), daemon=True)
        thread.start()
        sqs, cancelled, last = account.client("sqs"), 0, 0.0
        while (
            left := messages_in(sqs, account.queues.values())
        ) and time.monotonic() - started < deadline_seconds:
            for pod in pods:
                pod.keep_up()
            results.drain()
            if cancelled < tasks // 50:
                load.cancel_some(1)
                cancelled += 1
            if left <= 5:
                chaos.end()
            if time.monotonic() - last > 10:
                last = time.monotonic()
                say(f"{last - started:6.1f} s: {left} messages left, {len(results.texts)} tasks notified")
            time.sleep(0.3)
        chaos.end()
        thread.join(30)
        results.drain()
        found = list(violations(account, load, results))
        if left := messages_in(sqs, account.queues.values()):
            found.append(f"{left} messages left in the queues")
        dead = messages_in(sqs, account.dead_letters.values())
        if dead < load.undecodable:
            found.append(f"{dead} messages set aside, {load.undecodable} were undecodable")
        repeats = sum(len(texts) - 1 for texts in results.texts.values())
        exits = sum((pod.exits for pod in pods), collections.Counter())
        say(
            f"{time.monotonic() - started:6.1f} s: {dict(chaos.counts)}, agent exits {dict(exits)}, "
            f"{repeats} repeated notifications"
        )
    return found


def main() -> int:
    """Run the proof from the command line; exit 1 where something does not hold."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=None, help="repeat a run's choices (timing still varies)")
    parser.add_argument("--deadline-seconds", type=float, default=3 * 3600)
    arguments = parser.parse_args()
    seed = arguments.seed if arguments.seed is not None else int.from_bytes(os.urandom(4), "big")
    folder = Path(tempfile.mkdtemp(prefix="sdctl-chaos."))
    found = run(arguments.tasks, seed, folder, deadline_seconds=arguments.deadline_seconds)
    for line in found[:50]:
        print(line)
    print(f"{len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
