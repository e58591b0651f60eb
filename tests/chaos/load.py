"""The tasks: through the table as the API makes them, published directly, twice, large, late or broken."""

from __future__ import annotations

import collections
import json
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from chaos.account import TABLE, TYPES, Account
from sdctl import contract
from sdctl import task_record as record
from sdctl_api.changes import Changer
from sdctl_api.exchange import ApiError
from sdctl_lambda.contents import Contents
from sdctl_lambda.table import Table
from sdctl_lambda.topics import QueueUnavailableError, Topics


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
    retries: int = 0
    # The notification of each end before the last one, which a retry has put an end to.
    earlier: list[str] | None = None

    @property
    def has_row(self) -> bool:
        return self.task.runtime != "plain"


class Load:
    """Sends the tasks, and cancels and retries some as the API does."""

    def __init__(self, account: Account, rng: random.Random) -> None:
        self.account = account
        self.random = rng
        self.sqs, self.dynamodb, self.s3 = (account.client(name) for name in ("sqs", "dynamodb", "s3"))
        self.wanted: dict[str, Wanted] = {}
        self.pointers: set[str] = set()
        self.undecodable = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self._lock = threading.Lock()
        aws: Any = account
        self._table = Table(aws, TABLE)
        topics = Topics(aws, input_arn=account.input_topic, output_arn=account.topic)
        self._changer = Changer(
            self._table,
            topics,
            Contents(aws, account.bucket),
            self._now_ms,
            is_deployed=set(TYPES).__contains__,
        )

    @staticmethod
    def _now_ms() -> int:
        return time.time_ns() // 1_000_000

    def make(self, number: int) -> Wanted:
        name = self.random.choices(list(TYPES), (4, 4, 1))[0]
        task_id = f"task-{number:05d}"
        files = 1 if name == "comfy" else self.random.choice((1, 1, 1, 2))
        if name == "comfy":
            content, tasktype = workflow(task_id, number), "pipeline"
        else:
            tasktype = "text-to-image"
            content = {
                "prompt": task_id, "seed": number, "steps": 2, "width": 64, "height": 64, "batch_size": files,
            }  # fmt: skip
        task = contract.Task(
            task_id, name, tasktype, content, "out", {"n": number}, route=("runtime", name)
        )  # fmt: skip
        if self.random.random() > 0.03:
            return Wanted(task, {"completed"}, files)
        self.counts["broken"] += 1
        if name == "comfy":
            return Wanted(
                replace(task, content={"1": {"class_type": "SaveImage", "inputs": {}}}), {"failed"}, 0
            )
        inputs = {"prompt": "x", "init_images": ["http://10.1.1.1/x"]}
        return Wanted(replace(task, tasktype="image-to-image", content=inputs), {"failed"}, 0)

    def send(self, wanted: Wanted, roll: float, delay_seconds: int) -> None:
        """Send one task; `roll` from 0 to 1 says how."""
        task, name = wanted.task, wanted.task.runtime
        if 0.5 < roll < 0.55:
            key = contract.pointer_key(task.id, task.content_hash)
            body = contract.canonical_json(task.content).encode()
            self.s3.put_object(Bucket=self.account.bucket, Key=key, Body=body)
            task = replace(task, pointer=(self.account.bucket, key))
            with self._lock:
                self.pointers.add(key)
                self.counts["pointer"] += 1
        document = json.loads(contract.message_body(task, inline=task.pointer is None))
        if wanted.has_row and roll > 0.2:
            body = record.pack_body(task.content)
            self.dynamodb.put_item(TableName=TABLE, **record.submit_call(task, self._now_ms(), body))
        elif roll < 0.1:
            del document["metadata"]["id"]  # it is the envelope's then
        envelope = {"Type": "Notification", "MessageId": task.id, "TopicArn": "in"}
        text = json.dumps({**envelope, "Message": json.dumps(document)})
        copies = 2 if roll > 0.9 else 1
        for _ in range(copies):
            self.sqs.send_message(
                QueueUrl=self.account.queues[name], MessageBody=text, DelaySeconds=delay_seconds
            )
        with self._lock:
            self.counts["duplicated"] += copies - 1
            self.counts["direct"] += wanted.has_row and roll <= 0.2
            self.counts["without a table"] += not wanted.has_row
            self.counts["late"] += delay_seconds > 0

    def send_all(self, count: int) -> None:
        """Send everything, in another order than it was made in."""
        work = []
        for number in range(count):
            wanted = self.make(number)
            self.wanted[wanted.task.id] = wanted
            delay = self.random.randint(1, 10) if self.random.random() < 0.1 else 0
            work.append((wanted, self.random.random(), delay))
        self.random.shuffle(work)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda each: self.send(*each), work))
        for name, url in self.account.queues.items():
            self.sqs.send_message(QueueUrl=url, MessageBody=f"not JSON for {name}")
            self.undecodable += 1

    def cancel_one(self) -> None:
        """Cancel a random task, whatever it does; it may be too late, or not there yet."""
        wanted = self.wanted[self.random.choice(sorted(self.wanted))]
        try:
            row = self._changer.cancel(wanted.task.id)
        except (ApiError, QueueUnavailableError):
            return
        wanted.statuses.add("cancelled")
        self.counts[f"cancelled while {'running' if row.status == 'running' else 'queued'}"] += 1

    def retry_one(self) -> None:
        """Retry a random task that has ended without success, if there is one."""
        ended = [name for name, wanted in sorted(self.wanted.items()) if wanted.statuses != {"completed"}]
        if not ended:
            return
        wanted = self.wanted[self.random.choice(ended)]
        row = self._table.get(wanted.task.id)
        if row is None or not row.is_ended or wanted.retries >= 2:
            return
        told = record.result_notification(row)
        try:
            self._changer.retry(row.id)
        except (ApiError, QueueUnavailableError):
            return
        wanted.retries += 1
        wanted.earlier = [*(wanted.earlier or ()), told]
        if wanted.files:
            wanted.statuses.add("completed")
        self.counts["retried"] += 1
