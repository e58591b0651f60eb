"""`sdctl destroy`: take a deployment down, and say what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sdctl.cli import access, context, found, output
from sdctl.errors import ConflictError, NotFoundError, UsageError

if TYPE_CHECKING:
    from sdctl.deployments import Deployment
    from sdctl.local.target import LocalTarget

_LOCAL: Final = "local"


def destroy(
    *,
    plan: Annotated[
        bool, typer.Option("--plan", help="AWS: show what would go, and change nothing.")
    ] = False,
    prove: Annotated[
        bool,
        typer.Option("--prove", help="AWS: read everything again, and fail if anything that costs is left."),
    ] = False,
    skip_cluster: Annotated[
        bool,
        typer.Option(
            "--skip-cluster",
            help="AWS: do not speak to a cluster that does not answer; end its nodes by EC2.",
        ),
    ] = False,
    delete_bucket: Annotated[
        list[str] | None,
        typer.Option("--delete-bucket", metavar="NAME", help="AWS: this bucket goes too, with all in it."),
    ] = None,
    delete_snapshot: Annotated[
        list[str] | None,
        typer.Option("--delete-snapshot", metavar="ID", help="AWS: this image cache goes too."),
    ] = None,
) -> None:
    """Take a deployment down. On AWS buckets with pictures and models stay, and image caches.

    On this machine everything of it goes. Interrupted, the same command goes on where it stopped.
    """
    deployment = context.find_deployment()
    target = _leftover() if deployment is None else None
    if target is None and (deployment.target != _LOCAL if deployment else _is_on_aws()):
        from sdctl.cli.destroy_aws import destroy_on_aws
        from sdctl.deploy.teardown import Wishes

        wishes = Wishes(tuple(delete_bucket or ()), tuple(delete_snapshot or ()), skip_cluster)
        destroy_on_aws(deployment, wishes, shows_plan=plan, proves=prove)
        return
    if plan or prove or skip_cluster or delete_bucket or delete_snapshot:
        raise UsageError("these options are for a deployment on AWS", hint="sdctl destroy, or --target aws")
    _destroy_locally(deployment, target)


def _is_on_aws() -> bool:
    """Tell whether what has no record is looked for on AWS."""
    if context.current().target == "aws":
        access.region()  # raises where there is none
    return found.is_asked_for()


def _destroy_locally(deployment: Deployment | None, target: LocalTarget | None) -> None:
    if deployment is None and target is None:
        context.require_deployment()  # raises, saying what there is
    if target is None and deployment is not None:
        target = access.local_target(deployment.stack_name, Path(deployment.folder))
    if target is None:
        raise NotFoundError("nothing is deployed here")
    name = deployment.stack_name if deployment else target.state.root.name
    folder = deployment.folder if deployment else Path.cwd()
    if not output.confirm(f"Destroy {name} of {folder} on this machine, with every picture and model?"):
        raise typer.Exit(1)
    from sdctl.local.state import is_free

    with target.operation():
        ports = [child.port for child in target.status().children if child.port]
        target.down()
        if deployment is not None:
            context.deployments().forget(deployment)
    taken = [port for port in ports if not is_free(port)]
    if taken:
        raise ConflictError(f"everything is gone, but something listens on {', '.join(map(str, taken))}")
    document = {"stack_name": name, "target": _LOCAL, "left": []}
    output.result(document, f"Destroyed {name} of {folder}: no process and no state is left.")


def _leftover() -> LocalTarget | None:
    """Find what an interrupted first deploy left: it has state but no record."""
    options = context.current()
    if options.target not in (None, _LOCAL):
        return None
    from sdctl.config.load import Overrides, load_config

    env = context.environment()
    name = load_config(options.config, Overrides(options.stack_name), env).config.stack_name
    target = access.local_target(name)
    return target if target.exists() else None
