"""`sdctl status`: what runs, and how many tasks wait."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sdctl.cli import access, context, found, output
from sdctl.errors import NotFoundError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.deployments import Deployment
    from sdctl.local.target import LocalStatus

_LOCAL: Final = "local"
# A look: better no answer in time than a late one.
_CONNECT_SECONDS: Final = 3.0
_READ_SECONDS: Final = 6.0
_ATTEMPTS: Final = 2


def status() -> None:
    """Show what runs: stacks, runtimes, nodes and queues, and on AWS what it costs an hour."""
    deployment = context.find_deployment()
    if deployment is not None and deployment.target == _LOCAL:
        _show_local(deployment)
        return
    if deployment is None and not found.is_asked_for():
        context.require_deployment()  # raises, saying what there is
        raise NotFoundError("nothing is deployed here")
    name = deployment.stack_name if deployment else found.stack_name()
    document = _read(access.aws(deployment) if deployment else access.session(), name)
    output.result(document, lambda: _text(document))


def _read(aws: Aws, name: str) -> dict[str, Any]:
    from dataclasses import replace
    from datetime import UTC, datetime

    from sdctl.clients.aws import Aws
    from sdctl.status.observe import observe_status
    from sdctl.status.view import document

    hasty = replace(
        aws.access, connect_timeout_seconds=_CONNECT_SECONDS, read_timeout_seconds=_READ_SECONDS,
        max_attempts=_ATTEMPTS,
    )  # fmt: skip
    facts = observe_status(Aws(hasty), name, environment=context.environment())
    return document(facts, datetime.now(UTC))


def _text(document: dict[str, Any]) -> str:
    from sdctl.status.view import stack_rows

    versions = ", ".join(f"{name} {version or '?'}" for name, version in document["versions"].items())
    parts = [
        f"{document['stack_name']} on aws, {document['region']}: {document['stack']}\n{versions}",
        output.table(stack_rows(document), ["name", "status", "reason"]),
        output.table(
            document["runtimes"],
            ["name", "type", "desired", "ready", "minimum", "maximum", "paused", "waits_for"],
        ),
    ]
    if document["nodes"]:
        nodes = [row | {"age": _age(row["age_seconds"])} for row in document["nodes"]]
        parts.append(output.table(nodes, ["name", "type", "zone", "capacity", "pool", "ready", "age"]))
    queues = [row | {"oldest": _age(row["oldest_seconds"])} for row in document["queues"]]
    parts.append(output.table(queues, ["runtime", "waiting", "running", "oldest", "dead_letters"]))
    if document["unrouted"]:
        parts.append(f"{document['unrouted']} messages matched no runtime.")
    parts += [_cost_text(document["cost"])] if document["cost"] else []
    problems = [f"Not known: {one['part']}: {one['reason']}" for one in document["problems"]]
    parts += ["\n".join(problems)] if problems else []
    return "\n\n".join(parts)


def _age(seconds: float | None) -> str | None:
    """Say an age in its largest unit."""
    if seconds is None:
        return None
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _cost_text(cost: dict[str, Any]) -> str:
    if not cost["charges"]:
        return "Nothing runs that is paid by the hour."
    hourly = f"{cost['hourly']:.2f} {cost['currency']}".rstrip()
    unknown = f", besides what has no known price: {', '.join(cost['unknown'])}" if cost["unknown"] else ""
    return f"Costs {hourly} an hour now{unknown}."


def _show_local(deployment: Deployment) -> None:
    local = access.local_target(deployment.stack_name, Path(deployment.folder)).status()
    document = _local_status(deployment, local)

    def text() -> str:
        lines = [f"{deployment.stack_name} on {deployment.target}, {deployment.region}: {document['stack']}"]
        columns = ["name", "state", "pid", "port", "restarts", "last_exit", "since"]
        lines.append(output.table(document["children"], columns))
        lines.append(output.table(document["queues"], ["runtime", "waiting", "running", "dead_letters"]))
        return "\n\n".join(lines)

    output.result(document, text)
    if local.supervisor is None:
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
    from sdctl.clients.queue_depth import QueueDepth
    from sdctl.render.stacks import logical_id

    queues = QueueDepth(access.aws(deployment))
    rows = []
    for name, kind in deployment.runtimes.items():
        logical = logical_id(name)
        depth = queues.depth(deployment.outputs[f"QueueUrl{logical}"])
        dead = queues.depth(deployment.outputs[f"DeadLetterQueueUrl{logical}"])
        rows.append(
            {"runtime": name, "type": kind, "waiting": depth.waiting, "running": depth.running,
             "dead_letters": dead.waiting}
        )  # fmt: skip
    return rows
