"""`sdctl status`: what runs, and how many tasks wait."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdctl.cli import access, context, output

if TYPE_CHECKING:
    from sdctl.deployments import Deployment
    from sdctl.local.target import LocalStatus

_LOCAL: Final = "local"


def status() -> None:
    """Show what runs: the stack, the runtimes and agents, and how many tasks wait."""
    deployment = context.require_deployment()
    if deployment.target == _LOCAL:
        found = access.local_target(deployment.stack_name, Path(deployment.folder)).status()
        document = _local_status(deployment, found)
    else:
        found = None
        document = {**_stack(deployment), "runtimes": deployment.runtimes, "queues": _queues(deployment)}

    def text() -> str:
        lines = [f"{deployment.stack_name} on {deployment.target}, {deployment.region}: {document['stack']}"]
        if found is not None:
            columns = ["name", "state", "pid", "port", "restarts", "last_exit", "since"]
            lines.append(output.table(document["children"], columns))
        lines.append(output.table(document["queues"], ["runtime", "waiting", "running", "dead_letters"]))
        return "\n\n".join(lines)

    output.result(document, text)
    if found is not None and found.supervisor is None:
        output.note("Nothing runs. Next: sdctl deploy --target local starts it again, with its state")


def _local_status(deployment: Deployment, found: LocalStatus) -> dict[str, Any]:
    from dataclasses import asdict

    children = [asdict(child) for child in found.children]
    is_up = any(child.kind == "emulator" and child.state == "ready" for child in found.children)
    stack = _stack(deployment) if is_up else {"stack_name": deployment.stack_name, "stack": "stopped"}
    return {
        **stack,
        "target": deployment.target,
        "region": deployment.region,
        "healthy": found.is_healthy,
        "supervisor": found.supervisor,
        "children": children,
        "queues": _queues(deployment) if is_up else [],
    }


def _stack(deployment: Deployment) -> dict[str, Any]:
    from sdctl.clients.cloudformation import CloudFormation

    view = CloudFormation(access.aws(deployment)).find(f"{deployment.stack_name}Stack")
    return {
        "stack_name": deployment.stack_name, "target": deployment.target, "region": deployment.region,
        "stack": view.status if view else "absent",
    }  # fmt: skip


def _queues(deployment: Deployment) -> list[dict[str, Any]]:
    """Count each runtime's messages: waiting, held by an agent, and given up."""
    from sdctl.clients.aws import aws_errors
    from sdctl.render.stacks import logical_id

    sqs = access.aws(deployment).client("sqs")

    def counts(url: str) -> tuple[int, int]:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    rows = []
    with aws_errors("read the queues"):
        for name, kind in deployment.runtimes.items():
            logical = logical_id(name)
            waiting, running = counts(deployment.outputs[f"QueueUrl{logical}"])
            dead, _ = counts(deployment.outputs[f"DeadLetterQueueUrl{logical}"])
            rows.append(
                {"runtime": name, "type": kind, "waiting": waiting, "running": running, "dead_letters": dead}
            )
    return rows
