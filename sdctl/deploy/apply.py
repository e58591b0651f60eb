"""Applying the plan of a deploy on AWS: one at a time, with helm where releases change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event as Flag
from typing import Final

from sdctl.clients.aws import Aws
from sdctl.clients.buckets import Buckets
from sdctl.clients.helm import Helm
from sdctl.clients.helm_binary import find_helm
from sdctl.clients.s3 import S3
from sdctl.config.model import Config
from sdctl.deploy.context import StoppedError
from sdctl.deploy.executor import Executor
from sdctl.deploy.lock import Holder, deploy_lock
from sdctl.deploy.observed import Observed, changed_since
from sdctl.deploy.release_steps import Releases
from sdctl.deploy.steps import BucketStep, Event, Plan, ReleaseStep
from sdctl.errors import ConflictError, NotFoundError, SdctlError, ToolError
from sdctl.render.stacks import outputs_in, with_placeholders
from sdctl.versions import KUBERNETES_DEFAULT

_IMAGE: Final = "image "


@dataclass(frozen=True, slots=True)
class Machine:
    """What of this machine a deploy uses: the state folder, the environment, and who is at it."""

    home: Path
    environment: Mapping[str, str]
    holder: Holder


def require_helm(plan: Plan, machine: Machine) -> Path | None:
    """Find helm, before anything is made that would need it; None where the plan has no release to change.

    Raises:
        ToolError: there is none.
    """
    if not any(isinstance(step, ReleaseStep) for step in plan.changes):
        return None
    helm = find_helm(machine.home, machine.environment)
    if helm is None:
        raise ToolError("helm is not installed", hint="sdctl doctor --fix installs it")
    return helm


def check_images(plan: Plan) -> None:
    """Refuse a plan whose runtimes' images could not be pinned.

    Raises:
        NotFoundError: names the images.
    """
    steps = [step for step in plan.changes if isinstance(step, ReleaseStep)]
    used = (one.stack for step in steps for one in outputs_in(step.release.values))
    unknown = sorted({stack.removeprefix(_IMAGE) for stack in used if stack.startswith(_IMAGE)})
    if unknown:
        raise NotFoundError(
            f"the registry does not tell the digest of {', '.join(unknown)}",
            hint="is it there, and reachable from here? or name an image of your own in extraValues.runtime."
            "inferenceApi.image",
        )


def check_releases(plan: Plan, helm: Path, environment: Mapping[str, str]) -> None:
    """Have helm render the charts that are on this machine, before the cluster is made that they go to.

    What a chart refuses of its values would else show after a quarter of an hour.

    Raises:
        ToolError: with what helm says.
    """
    steps = (step for step in plan.changes if isinstance(step, ReleaseStep) and step.action != "delete")
    releases = [step.release for step in steps if step.release.chart.is_local]
    if not releases:
        return
    with Helm(helm, environment=environment) as here:
        for release in releases:
            shown = replace(release, values=with_placeholders(release.values))
            here.template(shown, kubernetes_version=KUBERNETES_DEFAULT)


def apply_plan(
    aws: Aws,
    config: Config,
    plan: Plan,
    observed: Observed,
    machine: Machine,
    *,
    report: Callable[[Event], None],
    sign_in_seconds: float = 0.0,
) -> dict[str, dict[str, str]]:
    """Carry out the plan of a deploy on AWS, and return the outputs by stack name.

    Args:
        aws: the session.
        config: what is wanted.
        plan: how it comes about.
        observed: what the plan was made from.
        machine: of whoever deploys.
        report: is told of every event.
        sign_in_seconds: how long new credentials are waited for.

    Raises:
        ConflictError: another deploy or destroy of this stack is at work, or was since the plan was made.
        DeployFailedError: a stack failed.
        ToolError: helm is missing, or failed.
        AwsError: a call failed.
    """
    helm = require_helm(plan, machine)
    check_images(plan)
    if helm is not None:
        check_releases(plan, helm, machine.environment)
    s3 = S3(aws)
    for step in plan.changes:
        if isinstance(step, BucketStep) and step.name == observed.asset_bucket:
            Buckets(aws).ensure(step.name, step.tags)  # the lock lies in it
    with ExitStack() as resources:
        releases = None
        if helm is not None:
            charts = [step.release.chart for step in plan.changes if isinstance(step, ReleaseStep)]
            releases = resources.enter_context(
                Releases(aws, config.stack_name, helm, environment=machine.environment, charts=charts)
            )
        executor = Executor(aws, report, releases=releases, sign_in_seconds=sign_in_seconds)
        lost = Flag()

        def give_up() -> None:
            lost.set()
            executor.stop()

        resources.enter_context(
            deploy_lock(s3, observed.asset_bucket, config.stack_name, machine.holder, on_loss=give_up)
        )
        changed = changed_since(aws, config, observed)
        if changed:
            raise ConflictError(
                f"{', '.join(changed)} changed while this plan was looked at: it is out of date",
                hint="the same command plans again",
            )
        try:
            return executor.run(plan, observed.outputs)
        except (StoppedError, SdctlError) as error:
            if not lost.is_set():
                raise
            raise ConflictError(
                "another deploy or destroy has taken this stack over", hint="sdctl status"
            ) from error
