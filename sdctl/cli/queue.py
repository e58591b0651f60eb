"""`sdctl queue`: how many tasks wait, and what to do with messages that nobody could handle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdctl.cli import access, context, output
from sdctl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws

app = typer.Typer(
    help="Look at the runtimes' queues, redrive and purge them.", no_args_is_help=True, rich_markup_mode=None
)

_UNROUTED = "UnroutedQueueUrl"
_Name = Annotated[
    str | None, typer.Argument(metavar="[RUNTIME]", help="Which; may be left out where there is one.")
]


@dataclass(frozen=True, slots=True)
class _Queue:
    """A runtime's two queues, by their URLs."""

    runtime: str
    type: str
    url: str
    dead_letters: str


@dataclass(frozen=True, slots=True)
class _Found:
    """The queues of a deployment; `unrouted` is empty where it has no such queue."""

    aws: Aws
    is_local: bool
    queues: dict[str, _Queue]
    unrouted: str

    def one(self, runtime: str | None) -> _Queue:
        """Return the queue that is meant.

        Raises:
            NotFoundError: no runtime has that name.
            UsageError: none is named, and there are several.
        """
        names = ", ".join(self.queues)
        if runtime is None:
            if len(self.queues) != 1:
                raise UsageError(f"name one of the runtimes: {names}")
            return next(iter(self.queues.values()))
        found = self.queues.get(runtime.lower())
        if found is None:
            raise NotFoundError(f"there is no runtime {runtime}; deployed: {names}")
        return found


@app.callback()
def _group() -> None:
    pass


@app.command()
def depth(runtime: _Name = None) -> None:
    """Count each runtime's messages: waiting, held by agents, and in the dead-letter queue."""
    from sdctl.clients.queue_depth import QueueDepth

    found = _read()
    chosen = [found.one(runtime)] if runtime else list(found.queues.values())
    counts = QueueDepth(found.aws)
    rows: list[dict[str, Any]] = []
    for queue in chosen:
        tasks, dead = counts.depth(queue.url), counts.depth(queue.dead_letters)
        rows.append({
            "runtime": queue.runtime, "type": queue.type, "waiting": tasks.waiting, "running": tasks.running,
            "dead_letters": dead.waiting + dead.running,
        })  # fmt: skip
    document: dict[str, Any] = {"queues": rows}
    if not runtime and found.unrouted:
        document["unrouted"] = counts.depth(found.unrouted).waiting

    def text() -> str:
        lines = [output.table(rows, ["runtime", "type", "waiting", "running", "dead_letters"])]
        if document.get("unrouted"):
            lines.append(f"{document['unrouted']} messages matched no runtime.")
        return "\n".join(lines)

    output.result(document, text)


@app.command()
def redrive(runtime: _Name = None) -> None:
    """Move a runtime's dead letters back into its queue, to be tried again.

    Only what nobody could read or end stays there; a task that failed is retried with `sdctl tasks retry`.
    """
    from sdctl.clients.queues import Queues

    found = _read()
    queue, queues = found.one(runtime), Queues(found.aws)
    move = queues.redrive_ourselves if found.is_local else queues.redrive
    moved = move(queue.dead_letters, queue.url, lambda count: output.detail(f"{count} moved"))
    output.result({"runtime": queue.runtime, "moved": moved}, f"{queue.runtime}: {moved} moved back")


@app.command()
def purge(
    runtime: Annotated[str, typer.Argument(metavar="RUNTIME", help="Which.")],
    *,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="The dead-letter queue, not the queue itself.")
    ] = False,
) -> None:
    """Delete all messages of a runtime's queue, or of its dead-letter queue. There is no way back."""
    from sdctl.clients.queue_depth import QueueDepth
    from sdctl.clients.queues import Queues

    found = _read()
    queue = found.one(runtime)
    url = queue.dead_letters if dead_letters else queue.url
    count = QueueDepth(found.aws).depth(url)
    kind = "dead letters" if dead_letters else "tasks that wait and run"
    if not output.confirm(f"Delete {count.waiting + count.running} {kind} of {queue.runtime} for good?"):
        raise typer.Exit(1)
    Queues(found.aws).purge(url)
    purged = count.waiting + count.running
    document = {"runtime": queue.runtime, "dead_letters": dead_letters, "purged": purged}
    output.result(document, f"{queue.runtime}: {purged} deleted")
    if not dead_letters and purged:
        output.note("Their tasks stay `queued` until they expire: sdctl tasks cancel ends them at once")


def _read() -> _Found:
    """Find the deployment's queues; on AWS as they are now, whoever deployed last."""
    from sdctl.render.stacks import logical_id

    deployment = context.require_deployment()
    aws, is_local = access.aws(deployment), deployment.target == "local"
    outputs, runtimes = deployment.outputs, deployment.runtimes
    if not is_local:
        from sdctl.deploy.results import read_results

        outputs, runtimes = read_results(aws, deployment.stack_name)
    queues = {}
    for name, kind in runtimes.items():
        logical = logical_id(name)
        url, dead = outputs.get(f"QueueUrl{logical}"), outputs.get(f"DeadLetterQueueUrl{logical}")
        if url and dead:
            queues[name] = _Queue(name, kind, url, dead)
    return _Found(aws, is_local, queues, outputs.get(_UNROUTED, ""))
