"""Thousands of tasks over several agents while everything around them fails at random.

`python -m chaos.run --tasks 10000` (or `make chaos`) from `tests/`. Prints the seed first and what was
injected last. Two pods of each kind share a queue; between them and the emulated account stand the
proxies of `chaos.proxies`. What must hold in the end is in `chaos.checks`.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos.account import ACCOUNT, PODS, REGION, TABLE, TYPES, Account, Pod
from chaos.checks import Results, Verdicts, messages_in
from chaos.faults import Chaos
from chaos.load import Load
from support.emulator import free_port, running_emulator

TESTS = Path(__file__).parent.parent
# An idle agent is gone within 2 seconds; several at once on a busy machine may take longer.
DRAIN_SECONDS = 15.0


def pod_environment(account: Account, runtime: str, clock: Path, ports: tuple[int, int]) -> dict[str, str]:
    """Return the settings of one agent; `ports` are those of its proxy and of the AWS proxy."""
    proxy_port, aws_port = ports
    # The stepped clock before anything else; the rest lets a run test another checkout than the installed.
    path = os.pathsep.join((str(Path(__file__).parent / "site"), os.environ.get("PYTHONPATH", "")))
    environment = {
        "PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": REGION, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws_port}",
        "RUNTIME_TYPE": TYPES[runtime], "RUNTIME_NAME": runtime,
        "API_BASE_URL": f"http://127.0.0.1:{proxy_port}", "SQS_QUEUE_URL": account.queues[runtime],
        "SNS_TOPIC_ARN": account.topic, "S3_BUCKET": account.bucket,
        "DEAD_LETTER_QUEUE_URL": account.dead_letters[runtime], "MAX_ATTEMPTS": "40",
        "DRAIN_SECONDS": "5", "CHAOS_CLOCK": str(clock),
        "PYTHONPATH": path,
    }  # fmt: skip
    return environment if runtime == "plain" else environment | {"TASK_TABLE": TABLE}


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
            clock = folder / f"{runtime}-{number}.clock"
            environment = pod_environment(account, runtime, clock, (proxy_port, aws_port))
            pods.append(Pod(runtime, number, folder, runtime_port, proxy_port, environment))
        command = [
            sys.executable, "-m", "chaos.proxies", "--aws-port", str(aws_port), "--aws-target", endpoint,
            "--seed", str(seed), "--aws-rate", str(aws_rate), "--runtime-rate", str(runtime_rate),
            "--journal", str(folder / "journal.jsonl"),
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


def work_off(
    account: Account, pods: list[Pod], load: Load, results: Results, chaos: Chaos, deadline: float,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Keep the pods up, cancel and retry, until nothing is left in the queues or the time is over."""
    sqs, changes, last = account.client("sqs"), 0, 0.0
    while (left := messages_in(sqs, account.queues.values())) and time.monotonic() < deadline:
        for pod in pods:
            pod.keep_up()
        results.drain()
        if changes < len(load.wanted) // 25 and left > 10:
            (load.cancel_one, load.retry_one)[changes % 2]()
            changes += 1
        if left <= 5:
            chaos.end()
        if time.monotonic() - last > 10:
            last = time.monotonic()
            say(f"{left} messages left, {len(results.texts)} tasks notified")
        time.sleep(0.3)
    chaos.end()


def run(
    tasks: int, seed: int, folder: Path, *, deadline_seconds: float, say: Callable[[str], None] = print
) -> list[str]:
    """Run the whole proof; return what was violated."""
    say(f"seed {seed}, {tasks} tasks, logs in {folder}")
    rng = random.Random(seed)
    started = time.monotonic()

    def timed(text: str) -> None:
        say(f"{time.monotonic() - started:6.1f} s: {text}")

    with stage(folder, seed, aws_rate=0.02, runtime_rate=0.02) as (account, pods):
        load, results, chaos = Load(account, rng), Results(account), Chaos(pods, random.Random(seed + 1))
        for pod in pods:
            pod.keep_up()
        load.send_all(tasks)
        timed(f"sent {dict(load.counts)}")
        thread = threading.Thread(target=chaos.run, args=(2.0,), daemon=True)
        thread.start()
        work_off(account, pods, load, results, chaos, started + deadline_seconds, timed)
        thread.join(30)
        chaos.end()  # once more, for what the thread did last
        for pod in pods:
            pod.keep_up()
        time.sleep(1.0)
        slow = [pod.name for pod in pods if pod.drain(DRAIN_SECONDS) is None]
        results.drain()
        found = [f"{name}: did not end within {DRAIN_SECONDS:g} s" for name in slow]
        verdicts = Verdicts(account, load, results, pods, folder)
        found += verdicts.all()
        timed(summary(load, results, chaos, pods, verdicts))
    return found


def summary(load: Load, results: Results, chaos: Chaos, pods: list[Pod], verdicts: Verdicts) -> str:
    """Say in one line what was done and what it led to."""
    repeats = sum(len(texts) - len(set(texts)) for texts in results.texts.values())
    exits = sum((pod.exits for pod in pods), collections.Counter[int]())
    starts = sum(story.starts for story in verdicts.stories.values())
    statuses = collections.Counter(row.status for row in verdicts.rows.values())
    return (
        f"{dict(chaos.counts)}, {dict(load.counts)}, agent exits {dict(exits)}, {starts} GPU runs, "
        f"{dict(statuses)}, {repeats} repeated notifications"
    )


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
