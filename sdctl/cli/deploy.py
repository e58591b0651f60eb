"""`sdctl deploy`, `destroy`, `status`, `outputs`, `apikey`: a deployment's life."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sdctl.cli import access, context, output
from sdctl.deployments import Deployment, home
from sdctl.errors import ConflictError, NotFoundError, RemoteError

if TYPE_CHECKING:
    from sdctl.config.load import Loaded
    from sdctl.deploy.steps import Event, Plan
    from sdctl.local.target import LocalStatus, LocalTarget

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
        _show_plan(_planned(loaded))
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
    output.result(document, lambda: _rows(deployment.outputs))
    output.note('Next: sdctl submit t2i "A dog" --wait --download out')


def _local_target(stack_name: str, folder: Path | None = None) -> LocalTarget:
    from sdctl.local.target import LocalTarget

    env = context.environment()
    return LocalTarget(home(env), stack_name, folder or Path.cwd(), region=context.current().region, env=env)


def _apply_locally(loaded: Loaded, runtime_url: list[str], seconds_per_image: float) -> Deployment:
    from sdctl.local.apply import LocalWishes, deploy_local, read_runtime_urls, runtime_url_problems

    wishes = LocalWishes(read_runtime_urls(runtime_url, loaded.config), seconds_per_image)
    target = _local_target(loaded.config.stack_name)
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

        return plan_local(_local_target(config.stack_name), config, region=options.region)
    from sdctl.clients.aws import Aws, AwsAccess
    from sdctl.deploy.planner import observe, plan_deploy

    aws = Aws(AwsAccess(region=_aws_region(), profile=options.profile))
    return plan_deploy(config, observe(aws, config), target="aws")


def _aws_region() -> str:
    env = context.environment()
    region = context.current().region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    if not region:
        from sdctl.errors import ConfigError

        raise ConfigError("no region is set", hint="pass -R REGION, or set AWS_DEFAULT_REGION")
    return region


def _show_plan(plan: Plan) -> None:
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
        target = _local_target(deployment.stack_name, Path(deployment.folder))
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
    target = _local_target(name)
    return target if target.exists() else None


def status() -> None:
    """Show what runs: the stack, the runtimes and agents, and how many tasks wait."""
    deployment = context.require_deployment()
    if deployment.target == _LOCAL:
        found = _local_target(deployment.stack_name, Path(deployment.folder)).status()
        document = _local_status(deployment, found)
    else:
        found = None
        document = {**_stack(deployment), "runtimes": deployment.runtimes, "queues": _queues(deployment)}

    def text() -> str:
        lines = [f"{deployment.stack_name} on {deployment.target}, {deployment.region}: {document['stack']}"]
        if found is not None:
            columns = ["name", "state", "pid", "port", "restarts", "last_exit", "since"]
            lines.append(output.table(document["children"], columns))
        lines.append(output.table(document["queues"], ["runtime", "waiting", "running", "dead_letters"]))
        return "\n\n".join(lines)

    output.result(document, text)
    if found is not None and found.supervisor is None:
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
    from sdctl.clients.aws import aws_errors
    from sdctl.render.stacks import logical_id

    sqs = access.aws(deployment).client("sqs")

    def counts(url: str) -> tuple[int, int]:
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    rows = []
    with aws_errors("read the queues"):
        for name, kind in deployment.runtimes.items():
            logical = logical_id(name)
            waiting, running = counts(deployment.outputs[f"QueueUrl{logical}"])
            dead, _ = counts(deployment.outputs[f"DeadLetterQueueUrl{logical}"])
            rows.append(
                {"runtime": name, "type": kind, "waiting": waiting, "running": running, "dead_letters": dead}
            )
    return rows


def outputs(
    name: Annotated[
        str | None, typer.Argument(help="Only this one, its value alone.", metavar="NAME")
    ] = None,
) -> None:
    """Show the stack's outputs."""
    deployment = context.require_deployment()
    if name is None:
        output.result(deployment.outputs, lambda: _rows(deployment.outputs))
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


def _rows(values: dict[str, str]) -> str:
    width = max(map(len, values), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in values.items())
