"""`sdctl deploy`: configuration to plan to what it brings about."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from sdctl.cli import access, context, output
from sdctl.cli.flags import Bucket, RuntimeName, RuntimeType, Snapshot
from sdctl.cli.progress import Progress, progress
from sdctl.deployments import Deployment, home
from sdctl.errors import AwsError, RemoteError, SdctlError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.clients.cloudformation import ResourceChange
    from sdctl.config.load import Loaded, Overrides
    from sdctl.config.model import Config
    from sdctl.deploy.preview import Preview
    from sdctl.deploy.steps import Event, Plan

_LOCAL: Final = "local"
_AWS: Final = "aws"
# How long somebody at a terminal has to sign in again, in another one.
_SIGN_IN_SECONDS: Final = 1800.0


class UnfitError(RemoteError):
    """The look before a deploy found what would make it fail."""

    code = "unfit"


def deploy(
    *,
    plan: Annotated[bool, typer.Option("--plan", help="Show what would change, and change nothing.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-d", help="Write sdctl.yaml, show the plan, apply nothing.")
    ] = False,
    bucket: Bucket = None,
    snapshot: Snapshot = None,
    runtime_name: RuntimeName = None,
    runtime_type: RuntimeType = None,
    runtime_url: Annotated[
        list[str] | None,
        typer.Option(
            "--runtime-url", metavar="[NAME=]URL", help="Local: use this server and not the built-in one."
        ),
    ] = None,
    seconds_per_image: Annotated[
        float, typer.Option(min=0, max=3600, help="Local: how long the built-in runtime draws.")
    ] = 0.0,
    skip_doctor: Annotated[
        bool, typer.Option("--skip-doctor", help="AWS: do not look at quotas, names and permissions first.")
    ] = False,
    build_snapshot: Annotated[
        bool,
        typer.Option("--with-snapshot", help="AWS: nodes start from a snapshot of the images, built first."),
    ] = False,
) -> None:
    """Deploy what sdctl.yaml describes, or the guide's defaults where there is none."""
    from sdctl.config.load import Overrides, load_config

    options = context.current()
    overrides = Overrides(
        options.stack_name, bucket, snapshot, runtime_name, runtime_type, region=context.region()
    )
    loaded = load_config(options.config, overrides, context.environment())
    for warning in loaded.warnings:
        output.warn(warning)
    if build_snapshot:
        loaded = _with_snapshot(loaded, overrides, only_look=plan or dry_run)
    if dry_run:
        _write_config(loaded)
    if plan or dry_run:
        _show_planned(loaded, is_dry_run=dry_run and not plan)
        return
    brings_model = False
    if options.target == _LOCAL:
        deployment = _apply_locally(loaded, runtime_url or [], seconds_per_image)
    else:
        deployment, brings_model = _apply_on_aws(loaded, skip_doctor=skip_doctor)
    document = {
        "stack_name": deployment.stack_name, "region": deployment.region, "target": deployment.target,
        "outputs": deployment.outputs,
    }  # fmt: skip
    output.result(document, lambda: output.pairs(deployment.outputs))
    if deployment.target != _LOCAL:
        _tell_next(loaded.config, deployment, brings_model=brings_model)
        return
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


def _apply_on_aws(loaded: Loaded, *, skip_doctor: bool) -> tuple[Deployment, bool]:
    """Deploy, and tell whether the guide's default model is to be brought afterwards."""
    from sdctl.cli.deploy_model import offer_default
    from sdctl.deploy.apply import Machine, apply_plan
    from sdctl.deploy.display import summary
    from sdctl.deploy.lock import this_process
    from sdctl.deploy.outputs import joined_outputs
    from sdctl.deploy.planner import observe, plan_deploy

    config, env = loaded.config, context.environment()
    aws = _session(loaded)
    if not skip_doctor:
        _examine(config)
    config = access.placed(config, aws.region, aws.account_id())
    output.note(f"reading what there is in {aws.region}…")
    observed = observe(aws, config, target=_AWS, environment=env)
    if any(runtime.snapshot_id for runtime in config.runtimes):
        from sdctl.cli.deploy_snapshot import warn_of_moved

        warn_of_moved(config, aws, observed.image_digests)
    found = _previewed(aws, plan_deploy(config, observed, target=_AWS), observed.outputs)
    outputs: Mapping[str, Mapping[str, str]] = observed.outputs
    if found.plan.changes:
        _ask(found, config.stack_name, f"{observed.region} of account {observed.account}")
    # Asked before the half hour that a cluster takes, and not after it.
    brings_model = offer_default(config, aws, observed.model_bucket)
    if found.plan.changes:
        machine = Machine(home(env), env, this_process("deploy"))
        with progress(found.plan) as shown:
            try:
                outputs = apply_plan(
                    aws, config, found.plan, observed, machine, report=shown.report,
                    sign_in_seconds=_SIGN_IN_SECONDS if sys.stderr.isatty() else 0.0,
                )  # fmt: skip
            except KeyboardInterrupt:
                _tell_unfinished(shown)
                raise
    else:
        output.note(summary(found.plan))
    deployment = Deployment(
        stack_name=config.stack_name, region=aws.region, target=_AWS, folder=str(Path.cwd()),
        outputs=joined_outputs(config.stack_name, outputs), deployed_at=datetime.now(UTC).isoformat(),
        runtimes={runtime.name: runtime.type for runtime in config.runtimes},
        profile=context.current().profile or "",
        snapshots={one.name: one.snapshot_id for one in config.runtimes if one.snapshot_id},
    )  # fmt: skip
    context.deployments().record(deployment)
    return deployment, brings_model


def _tell_next(config: Config, deployment: Deployment, *, brings_model: bool) -> None:
    """Bring the model that was agreed to; name the commands to try next."""
    from sdctl.cli.deploy_model import bring_default, tell_missing

    failure = None
    if brings_model:
        output.note("The deployment stands; bringing the guide's default model.")
        try:
            bring_default(deployment)
        except SdctlError as error:
            failure = error
    context.deployments().record(tell_missing(config, deployment))
    if failure is not None:
        raise failure
    output.note("Next: sdctl verify draws a first picture, sdctl kubeconfig gives access to the cluster")


def _with_snapshot(loaded: Loaded, overrides: Overrides, *, only_look: bool) -> Loaded:
    if context.current().target == _LOCAL:
        raise UsageError("--with-snapshot: the local target has no nodes", hint="leave it out")
    from sdctl.cli.deploy_snapshot import with_snapshot

    return with_snapshot(loaded, overrides, _session(loaded), only_look=only_look)


def _session(loaded: Loaded) -> Aws:
    from sdctl.clients.aws import Aws, AwsAccess
    from sdctl.config.load import check_region

    region = access.region()
    check_region(loaded, region)
    return Aws(AwsAccess(region=region, profile=context.current().profile))


def _examine(config: Config) -> None:
    """Look before the leap, as `sdctl doctor` does.

    Raises:
        UnfitError: a check failed.
    """
    from sdctl.cli.doctor import examine
    from sdctl.doctor.check import FAIL, WARN

    checks = examine(config)
    failed = [check for check in checks if check.result == FAIL]
    if failed:
        lines = [f"  {check.id}: {check.found} ({check.why})\n    fix: {check.fix}" for check in failed]
        raise UnfitError(
            "\n".join([f"{len(failed)} of {len(checks)} checks fail, nothing was changed:", *lines]),
            hint="mend these (sdctl doctor looks again), or go on regardless with --skip-doctor",
        )
    for check in checks:
        if check.result == WARN:
            output.warn(f"{check.id}: {check.found} ({check.why}); fix: {check.fix}")


def _previewed(aws: Aws, plan: Plan, outputs: Mapping[str, Mapping[str, str]]) -> Preview:
    from sdctl.deploy.preview import preview

    return preview(aws, plan, outputs)


def _ask(found: Preview, stack_name: str, place: str) -> None:
    """Show what will be done, on stderr, and go on only with a yes."""
    from sdctl.deploy.display import change_lines, plan_rows, summary

    rows = [row for row in plan_rows(found.plan) if row["action"] != "none"]
    output.note(output.table(rows, ["action", "kind", "id", "detail"]))
    for line in change_lines(found.plan, found.changes):
        output.note(line)
    replaced = "".join(f" {change.resource} of {step} is REPLACED." for step, change in found.replacements)
    if not output.confirm(f"{summary(found.plan)}{replaced} Deploy {stack_name} into {place}?"):
        raise typer.Exit(1)


def _tell_unfinished(shown: Progress) -> None:
    """Say where an interrupted deploy stands."""
    left = [f"  {step}: {last}" if last else f"  {step}" for step, last in shown.stopped.items()]
    output.note("\n".join(["Interrupted. What AWS was asked for goes on there:", *(left or ["  nothing"])]))
    output.note("Next: the same command takes it up again; sdctl destroy takes it away")


def _show_planned(loaded: Loaded, *, is_dry_run: bool) -> None:
    """Show the plan; a dry run has one without an account, too."""
    options, config = context.current(), loaded.config
    if options.target == _LOCAL:
        from sdctl.local.apply import plan_local

        show_plan(plan_local(access.local_target(config.stack_name), config, region=options.region))
        return
    if is_dry_run and not context.region():
        _show_guessed(config, "no region is set")
        return
    from sdctl.clients.aws import is_expired, is_transient
    from sdctl.deploy.planner import observe, plan_deploy

    aws = _session(loaded)
    try:
        config = access.placed(config, aws.region, aws.account_id())
        observed = observe(aws, config, target=_AWS, environment=context.environment())
    except AwsError as error:
        if not is_dry_run or not (is_expired(error) or is_transient(error)):
            raise
        _show_guessed(config, error.message)
        return
    found = _previewed(aws, plan_deploy(config, observed, target=_AWS), observed.outputs)
    show_plan(found.plan, found.changes)


def _show_guessed(config: Config, reason: str) -> None:
    from sdctl.config.rules import placed
    from sdctl.offline.files import ACCOUNT, Where, offline_plan

    output.warn(f"{reason}; this is the plan for an account that has nothing of {config.stack_name} yet")
    region = context.region()
    show_plan(offline_plan(placed(config, region, ACCOUNT), Where(region), target=_AWS))


def show_plan(plan: Plan, changes: Mapping[str, Sequence[ResourceChange]] | None = None) -> None:
    """Print a plan, of a deploy or of a teardown, as the command's result."""
    from sdctl.deploy.display import change_lines, plan_document, plan_rows, summary

    found = changes or {}

    def text() -> str:
        lines = [output.table(plan_rows(plan), ["action", "kind", "id", "detail"])]
        lines += change_lines(plan, found)
        return "\n".join([*lines, summary(plan)])

    output.result(plan_document(plan, found), text)


def _write_config(loaded: Loaded) -> None:
    """Write the configuration that a dry run shows; a file that is there already stays as it is."""
    from sdctl.config.write import config_text

    path = loaded.path or context.current().config or Path("sdctl.yaml")
    if path.exists():
        output.note(f"{path} is there already and is not changed")
        return
    path.write_text(config_text(loaded.config), encoding="utf-8")
    output.note(f"wrote {path}")
