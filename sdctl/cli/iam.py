"""`sdctl iam policy`: what a person or a pipeline needs to be allowed."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from sdctl.cli import context, output
from sdctl.cli.flags import check_account
from sdctl.errors import ConfigError

app = typer.Typer(help="The permissions that sdctl needs in AWS.", no_args_is_help=True)


class _Purpose(StrEnum):
    DEPLOY = "deploy"
    SUBMIT = "submit"
    DESTROY = "destroy"
    SNAPSHOT = "snapshot"
    MODELS = "models"
    IMAGES = "images"


@app.callback()
def _group() -> None:
    pass


@app.command()
def policy(
    *,
    purpose: Annotated[_Purpose, typer.Option("--for", help="What its holder does.")] = _Purpose.DEPLOY,
    account: Annotated[
        str | None, typer.Option(metavar="ID", help="The account's 12 digits, to be narrower still.")
    ] = None,
    split: Annotated[
        bool, typer.Option("--split", help="A JSON list of documents, each short enough for IAM.")
    ] = False,
) -> None:
    """Print the least-privilege policy for what sdctl.yaml describes, as a JSON document.

    It is computed offline from the resource types of the rendered templates. Whoever may deploy can also
    give the deployment's own roles more: permissionsBoundaryArn in sdctl.yaml limits that.
    """
    from sdctl.config.load import Overrides, load_config
    from sdctl.iam import policy as policies
    from sdctl.iam.scopes import Place

    check_account(account)
    options, env = context.current(), context.environment()
    region = context.region()
    if not region:
        raise ConfigError("no region is set", hint="pass -R REGION, or set AWS_DEFAULT_REGION")
    loaded = load_config(options.config, Overrides(options.stack_name), env)
    for warning in loaded.warnings:
        output.warn(warning)
    document = policies.policy(purpose.value, loaded.config, Place(region, account or "*"))
    if split:
        documents = policies.split(document)
        output.result(documents, lambda: output.to_json(documents, indent=2))
        return
    length = policies.characters(document)
    if length > policies.MAX_POLICY_CHARACTERS:
        output.warn(
            f"the document has {length} characters, a managed policy takes "
            f"{policies.MAX_POLICY_CHARACTERS}: --split prints several that fit"
        )
    output.result(document, lambda: output.to_json(document, indent=2))
