"""A teardown on AWS: lock, look, confirm, carry out, and take stock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import typer

from sdctl.cli import access, context, found, output
from sdctl.errors import AwsError, ConflictError, NotFoundError, RemoteError, ToolError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.deploy.executor import Executor
    from sdctl.deploy.standing import Standing
    from sdctl.deploy.steps import Plan
    from sdctl.deploy.teardown import Wishes
    from sdctl.deployments import Deployment
    from sdctl.inventory import Inventory

# The list of tags forgets within minutes; what EC2 ends is gone sooner.
PROOF_SECONDS: Final = 120


class LeftOverError(RemoteError):
    """Something that costs is left of the deployment."""

    code = "left_over"


def destroy_on_aws(deployment: Deployment | None, wishes: Wishes, *, shows_plan: bool, proves: bool) -> None:
    """Take a deployment down, of which this machine may have a record.

    Args:
        deployment: the record.
        wishes: what goes besides the usual.
        shows_plan: show the plan, and change nothing.
        proves: end with everything read again, and an error where something that costs is left.

    Raises:
        NotFoundError: there is nothing of it.
        LeftOverError: something that costs is left.
    """
    name = deployment.stack_name if deployment else found.stack_name()
    aws = access.aws(deployment) if deployment else access.session()
    if shows_plan:
        from sdctl.cli.deploy import show_plan
        from sdctl.deploy.teardown import plan_destroy

        standing = _look(aws, name, wishes)
        _refuse_nothing(standing, deployment, aws.region)
        show_plan(plan_destroy(standing, wishes))
        return
    with ExitStack() as held:
        stop = held.enter_context(_locked(aws, name))
        standing = _look(aws, name, wishes)
        if not proves:
            _refuse_nothing(standing, deployment, aws.region)
        _carry_out(aws, standing, wishes, stop)
    if deployment is not None:
        context.deployments().forget(deployment)
    _take_stock(aws, name, proves=proves)


def _look(aws: Aws, name: str, wishes: Wishes) -> Standing:
    from sdctl.deploy.standing import observe_standing

    output.note(f"looking at what stands of {name} in {aws.region}…")
    return observe_standing(
        aws, name, environment=context.environment(), skips_cluster=wishes.skips_cluster,
        buckets=wishes.buckets, snapshots=wishes.snapshots,
    )  # fmt: skip


def _refuse_nothing(standing: Standing, deployment: Deployment | None, region: str) -> None:
    if standing.is_nothing and deployment is None:
        raise NotFoundError(
            f"nothing is there of {standing.stack_name} in {region}",
            hint="check -n, -R and --profile; --prove looks at everything",
        )


@contextmanager
def _locked(aws: Aws, name: str) -> Iterator[list[Executor]]:
    """Hold the deployment's lock, where there is an asset bucket for it to lie in.

    Yields a list to put the executor in: it is stopped when somebody else takes the lock.
    """
    from sdctl.clients.s3 import S3
    from sdctl.deploy.lock import deploy_lock, this_process
    from sdctl.deploy.observed import bucket_name

    s3, running = S3(aws), list["Executor"]()
    bucket = bucket_name(name, "assets", aws.account_id(), aws.region)
    if s3.bucket_region(bucket) is None:
        yield running
        return

    def lost() -> None:
        output.warn("somebody else has taken the deployment's lock: stopping")
        for executor in running:
            executor.stop()

    with deploy_lock(s3, bucket, name, this_process("destroy"), on_loss=lost):
        yield running


def _carry_out(aws: Aws, standing: Standing, wishes: Wishes, running: list[Executor]) -> None:
    from sdctl.cli.progress import progress
    from sdctl.deploy.context import StoppedError
    from sdctl.deploy.drains import drain_handlers
    from sdctl.deploy.executor import Executor
    from sdctl.deploy.release_steps import Releases
    from sdctl.deploy.remains import REMAINS_HANDLERS
    from sdctl.deploy.steps import ReleaseStep
    from sdctl.deploy.teardown import plan_destroy

    plan, env = plan_destroy(standing, wishes), context.environment()
    if not plan.changes:
        output.note("there is nothing to do")
        return
    with ExitStack() as resources:
        releases = None
        if any(isinstance(step, ReleaseStep) for step in plan.changes):
            releases = resources.enter_context(Releases(aws, standing.stack_name, _helm(), environment=env))
        if not output.confirm(_question(plan, standing, wishes, aws.region)):
            raise typer.Exit(1)
        shown = resources.enter_context(progress(plan))
        handlers = REMAINS_HANDLERS | drain_handlers(env)
        executor = Executor(aws, shown.report, handlers=handlers, releases=releases)
        running.append(executor)
        try:
            executor.run(plan)
        except StoppedError as error:
            raise ConflictError(
                "another deploy or destroy has taken this stack over", hint="sdctl status"
            ) from error
        except KeyboardInterrupt:
            output.note("Interrupted; what AWS was asked for goes on. sdctl destroy takes up from there.")
            raise


def _helm() -> Any:
    from sdctl.clients.helm_binary import find_helm
    from sdctl.deployments import home

    env = context.environment()
    helm = find_helm(home(env), env)
    if helm is None:
        raise ToolError(
            "helm is needed to uninstall what runs in the cluster, and there is none",
            hint="sdctl doctor --fix installs it; or --skip-cluster does without",
        )
    return helm


def _question(plan: Plan, standing: Standing, wishes: Wishes, region: str) -> str:
    """Say what goes and what stays."""
    from sdctl.deploy.teardown import kept

    lines = [f"Destroy {standing.stack_name} in {region}. These go:"]
    lines += [f"  {step.id}: {step.detail}" for step in plan.changes]
    stays = kept(standing, wishes)
    lines += ["These stay:", *(f"  {one}" for one in stays)] if stays else []
    return "\n".join([*lines, "Go on?"])


def _take_stock(aws: Aws, name: str, *, proves: bool) -> None:
    """Show what is left and its cost.

    Raises:
        LeftOverError: a proof is asked for, and something that costs is left.
    """
    from sdctl.errors import WaitTimeoutError
    from sdctl.polling import Pace, poll

    last: list[Inventory] = []

    def probe() -> Inventory | None:
        last[:] = [_inventory(aws, name)]
        output.detail(f"still there: {', '.join(row.id for row in last[0].left) or 'nothing'}")
        is_done = not proves or not (last[0].billable or last[0].unsure)
        return last[0] if is_done else None

    if proves:
        output.note("reading everything again; the list of tags is some minutes late…")
    with suppress(WaitTimeoutError):  # what is left is told below
        poll(
            probe, awaited="an empty inventory", timeout_seconds=PROOF_SECONDS if proves else 0,
            pace=Pace(interval_seconds=5.0, ceiling_seconds=20.0),
        )  # fmt: skip
    taken = last[0]
    document = {
        "stack_name": name, "region": aws.region, "target": "aws",
        "left": [asdict(row) for row in taken.left], "kept": [asdict(row) for row in taken.kept],
        "monthly": round(taken.sum.monthly, 2), "currency": taken.sum.currency,
        "unpriced": list(taken.sum.unpriced),
    }  # fmt: skip
    output.result(document, lambda: _stock_text(name, taken))
    if proves and taken.billable:
        names = ", ".join(f"{row.type} {row.id}" for row in taken.billable)
        raise LeftOverError(
            f"this is left of {name} and costs: {names}",
            hint="sdctl destroy again; what it does not know has to be deleted by hand",
        )


def _inventory(aws: Aws, name: str) -> Inventory:
    from sdctl.clients.pricing import Pricing
    from sdctl.clients.tagging import Tagging
    from sdctl.deploy.standing import observe_standing
    from sdctl.deploy.teardown import Wishes, kept
    from sdctl.inventory import inventory, price_keys

    standing = observe_standing(aws, name, environment=context.environment(), skips_cluster=True)
    has_cluster = standing.cluster is None or standing.own_cluster is not None
    left = Tagging(aws).left(name, has_cluster=has_cluster)
    keys, prices = price_keys(left), {}
    try:
        prices = Pricing(aws).prices(keys) if keys else {}
    except AwsError as error:
        output.warn(f"the prices are not known: {error.message}")
    return inventory(left, prices, kept(standing, Wishes()))


def _stock_text(name: str, taken: Inventory) -> str:
    def monthly(row: Any) -> str:
        return "?" if row.monthly is None else f"{row.monthly:.2f} {row.currency}".rstrip()

    rows = [
        {"": state, "type": row.type, "id": row.id, "a month": monthly(row), "note": row.note}
        for state, listed in (("left", taken.left), ("kept", taken.kept))
        for row in listed
    ]
    if not rows:
        return f"Nothing is left of {name}."
    ending = "" if taken.left else f"\nNothing else is left of {name}."
    return output.table(rows, ["", "type", "id", "a month", "note"]) + ending
