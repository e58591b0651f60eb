"""How busy the agent keeps a GPU, and what it costs: `python -m agent` from `benchmarks/`.

A real agent process stands between the emulated account, made as far away as the real one (S3 50 ms,
SQS and SNS 10 ms, DynamoDB 5 ms a request; inputs of 1 MB 200 ms away), and a runtime with one GPU that
takes an exact time a task and answers with 0.4 MB. Printed: the share of time that the GPU was busy
between the first task's start and the last one's end, CPU and requests a task, peak memory, and start to
first receive; `grown` is how often the largest file fits into what memory grew by, and `held` the most
messages that were in flight while a long task had more than four seconds to go. The first tasks of a run
are left out of the share: they meet an agent that knows nothing yet. Figures of one run on a busy machine
say little: look at the medians of several.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent.parent / "tests"))

from support.emulator import free_port, running_emulator  # noqa: E402

ACCOUNT = "123456789012"
WARM_UP = 3


@dataclass(frozen=True)
class Case:
    """One thing to measure; `goal` is the share of time that the GPU should be busy.

    `tasks` of a case that is not about the share are few; each has an input of `input_bytes` if not 0.
    """

    name: str
    runtime: str
    seconds: float
    goal: float = 0.0
    images: int = 1
    image_bytes: int = 400_000
    input_bytes: int = 0
    tasks: int = 0


CASES = (
    Case("text-to-image, 0.5 s", "sdwebui", 0.5, 0.98),
    Case("text-to-image, 0.1 s", "sdwebui", 0.1, 0.95),
    Case("pipeline, 0.5 s", "comfyui", 0.5, 0.98),
    Case("pipeline, 0.1 s", "comfyui", 0.1, 0.95),
    Case("image-to-image, 0.5 s", "sdwebui", 0.5, 0.96, input_bytes=1_000_000),
    Case("image-to-image, 0.1 s", "sdwebui", 0.1, 0.88, input_bytes=1_000_000),
    Case("four images, 0.5 s", "sdwebui", 0.5, 0.95, images=4),
    Case("100 MB input", "sdwebui", 0.5, input_bytes=100_000_000, tasks=1),
    Case("100 MB output", "sdwebui", 0.5, image_bytes=100_000_000, tasks=1),
    Case("100 MB output, pipeline", "comfyui", 0.5, image_bytes=100_000_000, tasks=1),
    Case("long tasks, 12 s", "sdwebui", 12, tasks=3),
)


def get(url: str) -> Any:
    """Fetch JSON from one of the benchmark's own servers."""
    with urllib.request.urlopen(url, timeout=10) as response:
        return json.loads(response.read())


def answers(url: str) -> bool:
    """Tell whether one of the benchmark's own servers is up."""
    try:
        get(url)
    except OSError:
        return False
    return True


def task_message(case: Case, number: int, inputs_url: str) -> str:
    """Return the queue message of one task."""
    if case.runtime == "comfyui":
        content: dict[str, Any] = {
            "9": {"class_type": "SaveImage", "inputs": {"filename_prefix": str(number), "images": ["8", 0]}},
            "8": {"class_type": "EmptyImage", "inputs": {"width": 512, "height": 512, "color": number}},
        }  # fmt: skip
        tasktype = "pipeline"
    else:
        content = {"prompt": f"number {number}", "steps": 20, "width": 512, "height": 512}
        tasktype = "text-to-image"
        if case.input_bytes:
            content["init_images"] = [f"{inputs_url}/input/{number}"]
            tasktype = "image-to-image"
    metadata = {"id": f"task-{number}", "runtime": "bench", "tasktype": tasktype, "prefix": "out"}
    return json.dumps({"metadata": metadata, "content": content})


@contextlib.contextmanager
def process(*arguments: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program for as long as the context lasts."""
    child = subprocess.Popen([sys.executable, "-m", *arguments], stdin=subprocess.DEVNULL, **options)
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
        child.wait(10)


def check_alive(agent: subprocess.Popen[bytes], folder: Path) -> None:
    """End the benchmark when the agent has ended, which would never finish the tasks."""
    if agent.poll() is not None:
        raise SystemExit(f"the agent ended: {(folder / 'agent.log').read_text()[-2000:]}")


def memory_mb(pid: int, name: str) -> float:
    """Read a figure of a process's memory from /proc, in MB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no {name} of process {pid}")


def cpu_seconds(pid: int) -> float:
    """Read the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(case: Case, tasks: int, folder: Path) -> dict[str, float]:
    """Run one case once."""
    runtime_port, latency_port = free_port(), free_port()
    latency_url = f"http://127.0.0.1:{latency_port}"
    with contextlib.ExitStack() as stack:
        endpoint = stack.enter_context(running_emulator(folder / "emulator", account=ACCOUNT))

        def client(service: str) -> Any:
            return boto3.session.Session().client(
                service, region_name="us-east-1", endpoint_url=endpoint, aws_access_key_id=ACCOUNT,
                aws_secret_access_key="secret",
            )  # fmt: skip

        sqs = client("sqs")
        queue = sqs.create_queue(QueueName="bench", Attributes={"VisibilityTimeout": "30"})["QueueUrl"]
        topic = client("sns").create_topic(Name="results")["TopicArn"]
        client("s3").create_bucket(Bucket="outputs")
        client("dynamodb").create_table(
            TableName="tasks", BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        )  # fmt: skip
        runtime = ["agent.runtime", "--type", case.runtime, "--port", str(runtime_port)]
        runtime += ["--seconds", str(case.seconds), "--images", str(case.images)]
        runtime += ["--image-bytes", str(case.image_bytes)]
        stack.enter_context(process(*runtime, cwd=HERE.parent))
        latency = stack.enter_context(
            process(
                "agent.latency",
                "--port",
                str(latency_port),
                "--target",
                endpoint,
                "--input-bytes",
                str(case.input_bytes or 1),
                cwd=HERE.parent,
                stdout=subprocess.PIPE,
            )
        )
        assert latency.stdout is not None
        stack.callback(latency.stdout.close)
        latency.stdout.readline()
        while not answers(f"http://127.0.0.1:{runtime_port}/busy"):
            time.sleep(0.05)
        environment = {
            "PATH": os.environ["PATH"], "AWS_ACCESS_KEY_ID": ACCOUNT, "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": latency_url, "RUNTIME_TYPE": case.runtime,
            "RUNTIME_NAME": "bench", "API_BASE_URL": f"http://127.0.0.1:{runtime_port}",
            "SQS_QUEUE_URL": queue, "SNS_TOPIC_ARN": topic, "S3_BUCKET": "outputs", "TASK_TABLE": "tasks",
            "INPUT_ALLOWLIST": f"127.0.0.1:{latency_port}",
        }  # fmt: skip
        with (folder / "agent.log").open("wb") as log:
            started = time.monotonic()
            agent = stack.enter_context(process("sdctl_agent", env=environment, stderr=log, stdout=log))
            while get(f"{latency_url}/counts")["first_receive"] is None:
                check_alive(agent, folder)
                time.sleep(0.02)
            first_receive = get(f"{latency_url}/counts")["first_receive"] - started
            time.sleep(0.5)
            idle = memory_mb(agent.pid, "VmRSS")
            before = cpu_seconds(agent.pid)
            for start in range(0, tasks, 10):
                entries = [
                    {"Id": str(number), "MessageBody": task_message(case, number, latency_url)}
                    for number in range(start, min(start + 10, tasks))
                ]
                sqs.send_message_batch(QueueUrl=queue, Entries=entries)
            samples = []
            while True:
                names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
                found = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"]
                samples.append((time.monotonic(), int(found[names[1]])))
                if sum(int(found[name]) for name in names) == 0:
                    break
                check_alive(agent, folder)
                time.sleep(0.1)
            cpu = cpu_seconds(agent.pid) - before
            peak = memory_mb(agent.pid, "VmHWM")
            agent.send_signal(signal.SIGTERM)
            agent.wait(10)
        intervals = get(f"http://127.0.0.1:{runtime_port}/busy")["intervals"]
        counts = get(f"{latency_url}/counts")["counts"]
    counted = intervals[min(WARM_UP, len(intervals) - 1) :]
    busy = sum(end - start for start, end in counted) / (counted[-1][1] - counted[0][0])
    held = [
        count
        for start, end in intervals
        for moment, count in samples
        if start + 1 < moment < end - 4  # the one before is stored in the first second
    ]
    return {
        "busy": busy, "cpu_ms": 1000 * cpu / tasks, "peak_mb": peak, "idle_mb": idle,
        "first_receive_s": first_receive, "requests": sum(counts.values()) / tasks,
        "runs": len(intervals) / tasks, "held": max(held, default=0),
        "grown": (peak - idle) * 1024 * 1024 / max(case.image_bytes, case.input_bytes),
    }  # fmt: skip


def main() -> None:
    """Measure every case, or those whose name has the given word."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--tasks", type=int, default=40)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    titles = ("busy", "goal", "CPU ms", "peak MB", "idle MB", "grown", "first s", "requests", "held")
    print(f"{'case':24}" + "".join(f"{title:>9}" for title in titles))
    for case in CASES:
        if arguments.only not in case.name:
            continue
        runs = []
        for _ in range(arguments.runs):
            with tempfile.TemporaryDirectory(prefix="sdctl-bench.") as folder:
                runs.append(measure(case, case.tasks or arguments.tasks, Path(folder)))
        median = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        figures = (
            f"{median['busy']:9.3f}{case.goal:9.2f}{median['cpu_ms']:9.1f}{median['peak_mb']:9.1f}"
            f"{median['idle_mb']:9.1f}{median['grown']:9.1f}{median['first_receive_s']:9.2f}"
            f"{median['requests']:9.1f}{median['held']:9.0f}"
        )
        print(f"{case.name:24}{figures}", flush=True)


if __name__ == "__main__":
    main()
