"""`sdctl deploy`: configuration to plan to what it brings about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sdctl.cli import access, context, output
from sdctl.errors import RemoteError

if TYPE_CHECKING:
    from sdctl.config.load import Loaded
    from sdctl.deploy.steps import Event, Plan
    from sdctl.deployments import Deployment

_LOCAL: Final = "local"


class NotYetError(RemoteError):
    """This command cannot do that on AWS yet."""

    code = "not_supported_yet"


def deploy(
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would change, and change nothing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-d", help="Write sdctl.yaml, show the plan, apply nothing.")
    ] = False,
    bucket: Annotated[
        str | None, typer.Option("--bucket", "-b", metavar="NAME", help="The bucket that holds the models.")
    ] = None,
    snapshot: Annotated[
        str | None, typer.Option("--snapshot", "-s", metavar="ID", help="The image cache, snap-….")
    ] = None,
    runtime_name: Annotated[
        str | None, typer.Option("--runtime-name", "-r", metavar="NAME", help="Name of the one runtime.")
    ] = None,
    runtime_type: Annotated[
        str | None, typer.Option("--runtime-type", "-t", metavar="TYPE", help="sdwebui or comfyui.")
    ] = None,
    runtime_url: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime-url", metavar="[NAME=]URL", help="Local: use this server and not the built-in one."
        ),
    ] = None,
    seconds_per_image: Annotated[
        float, typer.Option(min=0, max=3600, help="Local: how long the built-in runtime draws.")
    ] = 0.0,
) -> None:
    """Deploy what sdctl.yaml describes, or the guide's defaults where there is none."""
    from sdctl.config.load import Overrides, load_config

    options = context.current()
    overrides = Overrides(options.stack_name, bucket, snapshot, runtime_name, runtime_type)
    loaded = load_config(options.config, overrides, context.environment())
    for warning in loaded.warnings:
        output.warn(warning)
    if dry_run:
        _write_config(loaded)
    if plan or dry_run:
        show_plan(_planned(loaded))
        return
    if options.target != _LOCAL:
        raise NotYetError(
            "the cluster cannot be applied to AWS yet", hint="sdctl deploy --plan, or --target local"
        )
    deployment = _apply_locally(loaded, runtime_url or [], seconds_per_image)
    document = {
        "stack_name": deployment.stack_name, "region": deployment.region, "target": deployment.target,
        "outputs": deployment.outputs,
    }  # fmt: skip
    output.result(document, lambda: output.pairs(deployment.outputs))
    output.note('Next: sdctl submit t2i "A dog" --wait --download out')


def _apply_locally(loaded: Loaded, runtime_url: list[str], seconds_per_image: float) -> Deployment:
    from sdctl.local.apply import LocalWishes, deploy_local, read_runtime_urls, runtime_url_problems

    wishes = LocalWishes(read_runtime_urls(runtime_url, loaded.config), seconds_per_image)
    target = access.local_target(loaded.config.stack_name)
    with target.operation():
        try:
            deployment = deploy_local(target, loaded.config, wishes, folder=Path.cwd(), report=_report)
            context.deployments().record(deployment)
        except KeyboardInterrupt:
            output.note("The deployment is unfinished: sdctl deploy goes on, sdctl destroy takes it away.")
            raise
    for problem in runtime_url_problems(wishes.runtime_urls, loaded.config):
        output.warn(problem)
    return deployment


def _report(event: Event) -> None:
    """Show a step's progress; a stack's own events are for `--verbose`, its failures for everyone."""
    if event.resource:
        text = f"  {event.resource} {event.status} {event.reason}".rstrip()
        (output.note if event.status.endswith("_FAILED") else output.detail)(text)
    elif event.status == "done":
        output.note(f"{event.step}: done ({event.elapsed_seconds:.1f} s)")
    elif event.status != "kept":
        output.detail(f"{event.step}: {event.status}")


def _planned(loaded: Loaded) -> Plan:
    options, config = context.current(), loaded.config
    if options.target == _LOCAL:
        from sdctl.local.apply import plan_local

        return plan_local(access.local_target(config.stack_name), config, region=options.region)
    from sdctl.clients.aws import Aws, AwsAccess
    from sdctl.deploy.planner import observe, plan_deploy

    aws = Aws(AwsAccess(region=access.region(), profile=options.profile))
    return plan_deploy(config, observe(aws, config, target="aws", environment=context.environment()), target="aws")


def show_plan(plan: Plan) -> None:
    """Print a plan, of a deploy or of a teardown, as the command's result."""
    from sdctl.deploy.display import plan_document, plan_rows

    def text() -> str:
        rows = output.table(plan_rows(plan), ["action", "kind", "id", "detail"])
        return f"{rows}\n{len(plan.changes)} of {len(plan.steps)} steps change something."

    output.result(plan_document(plan), text)


def _write_config(loaded: Loaded) -> None:
    """Write the configuration that a dry run shows; a file that is there already stays as it is."""
    from sdctl.config.write import config_text

    path = loaded.path or context.current().config or Path("sdctl.yaml")
    if path.exists():
        output.note(f"{path} is there already and is not changed")
        return
    path.write_text(config_text(loaded.config), encoding="utf-8")
    output.note(f"wrote {path}")
