"""`sdctl init`: writes the annotated configuration, or prints its schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from sdctl.cli import context, output
from sdctl.errors import ConfigError

_DEFAULT_NAME = "sdctl.yaml"


def init(
    *,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of the file instead, for editors.")
    ] = False,
) -> None:
    """Write an annotated sdctl.yaml, in this folder or where --config says."""
    if schema:
        from sdctl.config.load import json_schema

        document = json_schema()
        output.result(document, lambda: output.to_json(document, indent=2))
        return
    path = context.current().config or Path(_DEFAULT_NAME)
    if path.exists() and not output.confirm(f"{path} exists. Overwrite it?"):
        raise typer.Exit(1)
    from sdctl.config.example import example_text

    text = example_text()
    stack_name = context.current().stack_name
    if stack_name is not None:
        text = re.sub(r"(?m)^stackName:.*$", lambda _: f"stackName: {json.dumps(stack_name)}", text)
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    output.note("Next: sdctl deploy --plan, or sdctl deploy --target local")
    output.result({"path": str(path)}, str(path))
