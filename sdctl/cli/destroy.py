"""`sdctl destroy`: take a deployment down, and say what is left of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from sdctl.cli import access, context, output
from sdctl.cli.deploy import NotYetError
from sdctl.errors import ConflictError, NotFoundError

if TYPE_CHECKING:
    from sdctl.local.target import LocalTarget

_LOCAL: Final = "local"


def destroy() -> None:
    """Take a deployment down; on this machine everything of it goes, pictures and models too."""
    deployment = context.find_deployment()
    target = _leftover() if deployment is None else None
    if deployment is None and target is None:
        context.require_deployment()  # raises, saying what there is
        raise NotFoundError("nothing is deployed here")
    if deployment is not None and deployment.target != _LOCAL:
        raise NotYetError(f"{deployment.stack_name} is on AWS, which destroy cannot take down yet")
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
