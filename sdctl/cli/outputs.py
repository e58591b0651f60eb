"""`sdctl outputs` and `sdctl apikey`: what a deployment gave back."""

from __future__ import annotations

from typing import Annotated

import typer

from sdctl.cli import access, context, output
from sdctl.errors import NotFoundError


def outputs(
    name: Annotated[
        str | None, typer.Argument(help="Only this one, its value alone.", metavar="NAME")
    ] = None,
) -> None:
    """Show the stack's outputs."""
    deployment = context.require_deployment()
    if name is None:
        output.result(deployment.outputs, lambda: output.pairs(deployment.outputs))
        return
    value = deployment.outputs.get(name)
    if value is None:
        known = ", ".join(deployment.outputs)
        raise NotFoundError(f"{deployment.stack_name} has no output {name!r}; it has {known}")
    output.result({name: value}, value)


def apikey() -> None:
    """Print the API key, and nothing else, on stdout."""
    key = access.api_key(context.require_deployment())
    output.result({"api_key": key}, key)
