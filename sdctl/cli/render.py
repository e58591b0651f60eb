"""`sdctl render`: what `deploy` would send, as files; offline."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sdctl.cli import access, context, output
from sdctl.cli.flags import Bucket, RuntimeName, RuntimeType, Snapshot, check_account
from sdctl.deployments import home


def render(
    *,
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="The folder; made, or replaced where it is ours.")
    ],
    account: Annotated[
        str | None,
        typer.Option(metavar="ID", help="The account's 12 digits, to fill in what follows from it."),
    ] = None,
    bucket: Bucket = None,
    snapshot: Snapshot = None,
    runtime_name: RuntimeName = None,
    runtime_type: RuntimeType = None,
) -> None:
    """Write everything that deploy would send for sdctl.yaml into a folder: no credentials, no network.

    CloudFormation templates with parameters and tags, Lambda zips, Helm values, manifests where helm is
    found, IAM policies, and the order of it all. What only an account knows has a placeholder with a name.
    """
    from sdctl.config.load import Overrides, check_region, load_config
    from sdctl.offline.files import ACCOUNT, Where
    from sdctl.offline.folder import write_folder
    from sdctl.offline.rendering import render_all

    check_account(account)
    options, env = context.current(), context.environment()
    region = context.region()
    overrides = Overrides(options.stack_name, bucket, snapshot, runtime_name, runtime_type, region=region)
    loaded = load_config(options.config, overrides, env)
    for warning in loaded.warnings:
        output.warn(warning)
    target, config = options.target or "aws", loaded.config
    if region:
        check_region(loaded, region)
    if region and target == "aws":
        config = access.placed(config, region, account or ACCOUNT)
    rendering = render_all(
        config, Where(region, account or ""), target=target, home=home(env),
        environment=env,
    )  # fmt: skip
    for note in rendering.notes:
        output.note(note)
    written = write_folder(out, rendering.files)
    document = {
        "folder": str(out), "stack_name": loaded.config.stack_name, "region": region or None,
        "files": [{"path": row.path, "sha256": row.sha256, "bytes": row.bytes} for row in written],
        "placeholders": rendering.placeholders, "notes": list(rendering.notes),
    }  # fmt: skip
    output.result(document, lambda: "\n".join(f"{out}/{row.path}" for row in written))
