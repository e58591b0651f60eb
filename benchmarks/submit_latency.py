"""From POST to notification on the local target, with a runtime that takes no time.

Deploys a farm of its own, subscribes to its results, submits one task after the other and prints the
median and the spread of the time from sending the request to receiving the notification.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from support.farm import Farm


def measure(farm: Farm, tasks: int) -> list[float]:
    """Return the milliseconds of each task, the first few left out."""
    results = farm.subscribe()
    times = []
    for number in range(tasks + 5):
        task_id = f"latency-{number}"
        metadata = {"id": task_id, "runtime": "sdruntime", "tasktype": "text-to-image"}
        start = time.perf_counter()
        answer = farm.submit({"metadata": metadata, "content": {"prompt": f"A dog {number}", "steps": 16}})
        assert answer.status == 200, answer.body
        while True:
            got = results.sqs.receive_message(QueueUrl=results.url, WaitTimeSeconds=10).get("Messages", [])
            seen = time.perf_counter()
            for message in got:
                results.sqs.delete_message(QueueUrl=results.url, ReceiptHandle=message["ReceiptHandle"])
            if any(json.loads(json.loads(message["Body"])["Message"])["id"] == task_id for message in got):
                break
        times.append(1000 * (seen - start))
    return times[5:]


def main() -> None:
    """Deploy, measure, destroy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=50)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sdctl-latency.") as folder:
        farm = Farm(Path(folder) / "project", Path(folder) / "home")
        farm.folder.mkdir()
        try:
            farm.deploy()
            times = measure(farm, arguments.tasks)
        finally:
            farm.destroy()
    cuts = statistics.quantiles(times, n=20)
    print(
        f"POST to notification, ms: median {statistics.median(times):.0f}, "
        f"minimum {min(times):.0f}, 95th percentile {cuts[-1]:.0f}, {len(times)} tasks"
    )


if __name__ == "__main__":
    main()
