"""Tell Kubernetes whether this pod is at work, so that a scale-in takes idle pods first.

usage: deletion_cost.py METRICS_URL TOKEN_FOLDER. Standard library only. Writes one annotation of its own pod,
whose name is in POD_NAME, whenever the agent takes its first message or settles its last. A failure costs
nothing but the hint: it is told once, and tried again.
"""

import json
import os
import pathlib
import signal
import ssl
import sys
import time
import types
import urllib.request

METRIC = "sd_agent_in_flight_messages"
# https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#pod-deletion-cost
ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
BUSY_COST, IDLE_COST = "1000", "0"
LOOK_SECONDS = 1.0
TIMEOUT_SECONDS = 5


def main() -> None:
    """Look, and write what has changed, until told to stop."""
    signal.signal(signal.SIGTERM, _stop)
    metrics, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    written, said = "", ""
    while True:
        try:
            cost = BUSY_COST if in_flight(metrics) else IDLE_COST
            if cost != written:
                annotate(folder, cost)
                written, said = cost, ""
        except OSError as error:
            if str(error) != said:
                said = str(error)
                print(json.dumps({"action": "deletion_cost", "error": said}), file=sys.stderr, flush=True)
        time.sleep(LOOK_SECONDS)


def in_flight(url: str) -> int:
    """Return how many messages the agent holds; an agent that says nothing of it holds none."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:
        lines = answer.read().decode().splitlines()
    values = [float(line.split()[1]) for line in lines if line.startswith(f"{METRIC} ")]
    return int(sum(values))


def annotate(folder: pathlib.Path, cost: str) -> None:
    """Write the annotation of the own pod; the token is read each time, since it is renewed."""
    host, port = os.environ["KUBERNETES_SERVICE_HOST"], os.environ["KUBERNETES_SERVICE_PORT"]
    namespace = (folder / "namespace").read_text()
    request = urllib.request.Request(
        f"https://{host}:{port}/api/v1/namespaces/{namespace}/pods/{os.environ['POD_NAME']}",
        data=json.dumps({"metadata": {"annotations": {ANNOTATION: cost}}}).encode(),
        headers={
            "Authorization": f"Bearer {(folder / 'token').read_text()}",
            "Content-Type": "application/merge-patch+json",
        },
        method="PATCH",
    )
    context = ssl.create_default_context(cafile=str(folder / "ca.crt"))
    with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS, context=context) as answer:
        answer.read()


def _stop(_signal: int, _frame: types.FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    main()
