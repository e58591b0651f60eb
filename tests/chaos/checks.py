"""What must hold in the end, for each task and for what is left behind."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from chaos.account import TABLE, Account, Pod
from chaos.load import Load, Wanted
from sdctl import contract
from sdctl import task_record as record

# How exactly the proxy's times and those of the incidents can be compared, in seconds.
SLACK_SECONDS = 1.0
# A drained, a killed, a twice signalled agent, and one that had no time to mask the signal; else a crash.
EXPECTED_EXITS = {0, -9, 128 + 15, -15}


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


@dataclass
class Story:
    """What the agents' logs tell of one task."""

    starts: int = 0
    unexcused_starts: int = 0  # that no hand-back, retry, loss or end of the process follows
    claims: int = 0
    counted: int = 0  # what may have raised `attempts`


@dataclass
class Journal:
    """What the AWS proxy saw of one task's claims and its notification, in wall time."""

    published: list[float] = field(default_factory=list)  # each publish that took effect
    recorded: float = float("inf")  # the first record of it that took effect
    is_faulty: bool = False  # an answer to either of them was lost, or late
    claims: int = 0


def messages_in(sqs: Any, urls: Iterable[str]) -> int:
    """Count the messages in some queues, in flight, delayed or not."""
    names = [f"ApproximateNumberOfMessages{kind}" for kind in ("", "NotVisible", "Delayed")]
    total = 0
    for url in urls:
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        total += sum(int(found.get(name, 0)) for name in names)
    return total


def read_rows(account: Account) -> dict[str, dict[str, Any]]:
    """Read the whole task table, as items."""
    pages = account.client("dynamodb").get_paginator("scan").paginate(TableName=TABLE)
    return {item["id"]["S"]: item for page in pages for item in page["Items"]}


def read_keys(account: Account, prefix: str) -> set[str]:
    """List the stored objects below a prefix."""
    pages = account.client("s3").get_paginator("list_objects_v2").paginate(
        Bucket=account.bucket, Prefix=prefix
    )  # fmt: skip
    return {item["Key"] for page in pages for item in page.get("Contents", [])}


def read_stories(pods: Iterable[Pod]) -> dict[str, Story]:
    """Read the agents' logs, and what was done to them between their lines."""
    stories: dict[str, Story] = collections.defaultdict(Story)
    for pod in pods:
        held: set[str] = set()
        started: set[str] = set()
        gone: dict[str, float] = {}  # when this agent said that it had lost them
        for line in log_lines(pod.log):
            action, task_id = line.get("action"), str(line.get("task_id") or line.get("task") or "")
            if action in ("chaos_exit", "chaos_pause"):
                for lost in held:
                    stories[lost].counted += 1
                for lost in started:
                    stories[lost].unexcused_starts -= 1
                held, started = set(), set()
            elif action == "claimed":
                stories[task_id].claims += 1
                held.add(task_id)
                gone.pop(task_id, None)
            elif action == "started":
                stories[task_id].starts += 1
                # One that was on its way when the loss was noticed, as after a pause in the middle of it.
                if logged_at(line) - gone.get(task_id, float("-inf")) > SLACK_SECONDS:
                    stories[task_id].unexcused_starts += 1
                    started.add(task_id)
            elif action in ("hand_back", "retry", "lost"):
                stories[task_id].counted += action != "hand_back" and task_id in held
                stories[task_id].unexcused_starts -= task_id in started
                held.discard(task_id)
                started.discard(task_id)
                if action == "lost":
                    gone[task_id] = logged_at(line)
            elif action == "task_ended":
                held.discard(task_id)
                started.discard(task_id)
    return stories


def logged_at(line: dict[str, Any]) -> float:
    """Return when an agent wrote a line, in seconds of its own clock."""
    return datetime.fromisoformat(line["time"]).timestamp()


def log_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Read an agent's log; a line that a kill cut off in the middle is left out."""
    for text in path.read_text(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def read_journal(path: Path) -> dict[str, Journal]:
    """Read what the proxy saw of notifications."""
    found: dict[str, Journal] = collections.defaultdict(Journal)
    for text in path.read_text().splitlines():
        entry = json.loads(text)
        journal = found[entry["id"]]
        if entry["operation"] == "claim":
            journal.claims += entry["took_effect"]
            continue
        journal.is_faulty |= bool(entry["fault"])
        if entry["took_effect"] and entry["operation"] == "publish":
            journal.published.append(entry["time"])
        elif entry["took_effect"]:
            journal.recorded = min(journal.recorded, entry["time"])
    return found


class Verdicts:
    """Says everything that does not hold."""

    def __init__(self, account: Account, load: Load, results: Results, pods: list[Pod], folder: Path) -> None:
        self.account, self.load, self.results, self.pods = account, load, results, pods
        self.items = read_rows(account)
        self.rows = {name: record.row_from_item(item) for name, item in self.items.items()}
        self.stories = read_stories(pods)
        self.journal = read_journal(folder / "journal.jsonl")
        self.stored: dict[str, set[str]] = collections.defaultdict(set)
        for key in read_keys(account, "out/"):
            self.stored[key.split("/")[1]].add(f"s3://{account.bucket}/{key}")

    def all(self) -> Iterator[str]:
        yield from self.left_behind()
        yield from self.crashes()
        for task_id, wanted in self.load.wanted.items():
            if not wanted.has_row:
                yield from self.plain_task(task_id, wanted)
            elif task_id not in self.rows:
                yield f"{task_id}: no row"
            else:
                yield from self.task(task_id, wanted)

    def left_behind(self) -> Iterator[str]:
        for task_id, item in self.items.items():
            if task_id not in self.load.wanted:
                yield f"{task_id}: a row that nobody sent"
            left = {"open_runtime", "open_until", "claim", "claim_until", "cancel_requested", "step"}
            if left & set(item):
                yield f"{task_id}: still has {sorted(left & set(item))}"
        strays = (
            self.stored.keys() - self.load.wanted.keys() | self.results.texts.keys() - self.load.wanted.keys()
        )
        yield from (f"{task_id}: stored or told of, but never sent" for task_id in strays)
        yield from (
            f"{key}: left behind"
            for key in read_keys(self.account, f"{contract.RESERVED_PREFIX}/") ^ self.load.pointers
        )
        uploads = self.account.client("s3").list_multipart_uploads(Bucket=self.account.bucket)
        yield from (f"{each['Key']}: an upload was begun and left" for each in uploads.get("Uploads", ()))
        yield from self.queues()

    def queues(self) -> Iterator[str]:
        sqs = self.account.client("sqs")
        if left := messages_in(sqs, self.account.queues.values()):
            yield f"{left} messages left in the queues"
        undecodable = 0
        for url in self.account.dead_letters.values():
            while found := sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
                for message in found:
                    undecodable += message["Body"].startswith("not JSON")
                    if not message["Body"].startswith("not JSON"):
                        yield f"given up: {message['Body'][:300]}"
        if undecodable < self.load.undecodable:
            yield f"{undecodable} messages set aside, {self.load.undecodable} were undecodable"

    def crashes(self) -> Iterator[str]:
        for pod in self.pods:
            if unexpected := set(pod.exits) - EXPECTED_EXITS:
                yield f"{pod.name}: ended with {sorted(unexpected)}"
            for line in log_lines(pod.log):
                if line.get("action") in ("bug", "crash"):
                    yield f"{pod.name}: {line.get('traceback', line.get('message'))}"

    def task(self, task_id: str, wanted: Wanted) -> Iterator[str]:
        row, texts = self.rows[task_id], self.results.texts.get(task_id, [])
        if row.status not in wanted.statuses:
            yield f"{task_id}: {row.status} ({row.error}), not {sorted(wanted.statuses)}"
        last = record.result_notification(row)
        expected = [*(wanted.earlier or ()), last]
        for text in sorted(set(expected) - set(texts)):
            yield f"{task_id}: never told: {text}"
        for text in sorted(set(texts) - set(expected)):
            yield f"{task_id}: told {text}, kept {last}"
        if len(texts) > len(set(texts)) and not self.may_repeat(task_id, row.runtime):
            yield f"{task_id}: told {len(texts)} times though nothing went wrong in between"
        yield from self.files(task_id, row, wanted)
        yield from self.attempts(task_id, row, wanted)

    def may_repeat(self, task_id: str, runtime: str) -> bool:
        """Tell whether something went wrong between a publish and its record."""
        journal = self.journal[task_id]
        if journal.is_faulty or not journal.published:
            return True
        start, end = min(journal.published) - SLACK_SECONDS, journal.recorded + SLACK_SECONDS
        incidents = (each for pod in self.pods if pod.runtime == runtime for each in pod.incidents)
        return any(begun <= end and start <= over for begun, over in incidents)

    def files(self, task_id: str, row: record.Row, wanted: Wanted) -> Iterator[str]:
        listed = {*row.image_url, *([row.output_url] if row.output_url else [])}
        stored = self.stored.get(task_id, set())
        if row.status == "completed" and (stored != listed or len(row.image_url) != wanted.files):
            yield f"{task_id}: stored {sorted(stored)}, listed {sorted(listed)}, wanted {wanted.files} files"
        if len(stored) > wanted.files + 1:
            yield f"{task_id}: more than one set of files: {sorted(stored)}"

    def attempts(self, task_id: str, row: record.Row, wanted: Wanted) -> Iterator[str]:
        story = self.stories[task_id]
        if story.unexcused_starts > 1 + wanted.retries:
            yield f"{task_id}: ran {story.starts} times, {story.unexcused_starts} of them without a reason"
        # An agent that is killed while it claims has no time to write so into its log.
        unseen = self.journal[task_id].claims - story.claims
        most = 1 + wanted.retries + story.counted + max(0, unseen)
        if row.attempts > most:
            yield f"{task_id}: {row.attempts} attempts, {most} can be explained"

    def plain_task(self, task_id: str, wanted: Wanted) -> Iterator[str]:
        """Check what can be kept without a table: nothing is lost, and a repeat writes the same files."""
        texts = self.results.texts.get(task_id, [])
        if task_id in self.rows:
            yield f"{task_id}: an agent without a table made a row"
        if not texts:
            yield f"{task_id}: never notified"
        statuses = {json.loads(text)["status"] for text in texts}
        if not statuses <= wanted.statuses:
            yield f"{task_id}: told {sorted(statuses)}, wanted {sorted(wanted.statuses)}"
        listed = {tuple(json.loads(text)["image_url"]) for text in texts}
        if len(listed) > 1:
            yield f"{task_id}: told of different files: {sorted(listed)}"
        stored = self.stored.get(task_id, set())
        if wanted.files and len(stored) != wanted.files + 1:
            yield f"{task_id}: stored {sorted(stored)}, wanted {wanted.files} files and the answer"
