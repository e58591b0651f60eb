"""`sdctl runtime`: how many pods a runtime has, by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sdctl.cli import access, context, output
from sdctl.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.kubernetes import Kubernetes
    from sdctl.clients.scaling import RuntimeWorkload
    from sdctl.deployments import Deployment
    from sdctl.local.target import LocalTarget

app = typer.Typer(help="Pause, warm and restart runtimes.", no_args_is_help=True, rich_markup_mode=None)

_Name = Annotated[
    str | None, typer.Argument(metavar="[RUNTIME]", help="Which; may be left out where there is one.")
]
_LOCAL: Final = "local"


@app.callback()
def _group() -> None:
    pass


@app.command()
def pause(runtime: _Name = None) -> None:
    """Take no more tasks: what runs is finished or handed back, and tasks wait in the queue.

    On AWS the runtime goes to no pod and its nodes go too; on the local target its agent is ended.
    """
    from sdctl.clients import scaling

    deployment, name = _chosen(runtime)
    if deployment.target == _LOCAL:
        from sdctl.local import holding

        with _here(deployment) as target:
            holding.pause(target, name)
        _tell(name, "paused", 0)
        return
    _tell(name, "paused", _in_cluster(deployment, name, scaling.pause))


@app.command()
def resume(runtime: _Name = None) -> None:
    """Take tasks again, after pause or warm: the queue decides how many pods there are."""
    from sdctl.clients import scaling

    deployment, name = _chosen(runtime)
    if deployment.target == _LOCAL:
        from sdctl.local import holding

        with _here(deployment) as target:
            holding.resume(target, name)
        _tell(name, "running", 1)
        return
    _tell(name, "running", _in_cluster(deployment, name, scaling.resume))


@app.command()
def warm(
    number: Annotated[str, typer.Argument(metavar="N", help="How many pods at least.")],
    runtime: _Name = None,
) -> None:
    """Have N pods ready before the tasks come, and stop none of them until resume.

    More are started as the queue asks. The local target has one of each runtime, ready at all times.
    """
    from sdctl.clients import scaling

    if runtime is not None and runtime.isdecimal() and not number.isdecimal():
        number, runtime = runtime, number  # `warm RUNTIME N` can mean nothing else
    if not number.isdecimal() or int(number) < 1:
        raise UsageError(f'N: "{number}" is not a whole number from 1 on')
    pods = int(number)
    deployment, name = _chosen(runtime)
    if deployment.target == _LOCAL:
        from sdctl.local import holding

        if pods > 1:
            raise UsageError("the local target runs one of each runtime, ready at all times")
        with _here(deployment) as target:
            holding.resume(target, name)
        _tell(name, "warm", 1)
        return
    replicas = _in_cluster(deployment, name, lambda api, found: scaling.warm(api, found, pods))
    _tell(name, "warm", replicas)
    output.note(f"These pods cost until: sdctl runtime resume {name}")


@app.command()
def restart(runtime: _Name = None) -> None:
    """Replace the servers, so that they read models and upscalers anew; no task is lost."""
    from datetime import UTC, datetime

    from sdctl.clients import scaling

    deployment, name = _chosen(runtime)
    if deployment.target == _LOCAL:
        from sdctl.local import holding

        with _here(deployment) as target:
            holding.restart(target, name)
        _tell(name, "restarted", 1)
        return
    now = datetime.now(UTC)
    replicas = _in_cluster(deployment, name, lambda api, found: scaling.restart(api, found, now))
    _tell(name, "restarting" if replicas else "idle", replicas)


def _chosen(runtime: str | None) -> tuple[Deployment, str]:
    """Return the deployment, and the runtime that is meant.

    Raises:
        NotFoundError: there is none of that name.
        UsageError: none is named, and there are several.
    """
    deployment = context.require_deployment()
    names = sorted(deployment.runtimes)
    if runtime is None and len(names) == 1:
        return deployment, names[0]
    if runtime is None:
        raise UsageError(f"name one of the runtimes: {', '.join(names)}")
    if deployment.target == _LOCAL and runtime.lower() not in names:
        raise NotFoundError(f"there is no runtime {runtime}; deployed: {', '.join(names)}")
    return deployment, runtime.lower()


@contextmanager
def _here(deployment: Deployment) -> Iterator[LocalTarget]:
    target = access.local_target(deployment.stack_name, Path(deployment.folder))
    with target.operation():
        yield target


def _in_cluster(
    deployment: Deployment, runtime: str, change: Callable[[Kubernetes, RuntimeWorkload], int]
) -> int:
    """Change a runtime in the deployment's cluster, and return how many pods it wants then."""
    from sdctl.clients.cluster_access import find_cluster
    from sdctl.clients.kubernetes import connect
    from sdctl.clients.scaling import find_workload

    aws = access.aws(deployment)
    cluster = find_cluster(aws, deployment.stack_name)
    with connect(aws, cluster, environment=context.environment()) as kubernetes:
        return change(kubernetes, find_workload(kubernetes, runtime))


def _tell(runtime: str, state: str, replicas: int) -> None:
    output.result(
        {"runtime": runtime, "state": state, "replicas": replicas}, f"{runtime}: {state} ({replicas} wanted)"
    )
