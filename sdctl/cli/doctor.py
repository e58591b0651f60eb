"""`sdctl doctor`: what would go wrong with a deployment, and how to put it right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sdctl.cli import context, output
from sdctl.cli.flags import Bucket, Snapshot
from sdctl.deployments import home
from sdctl.errors import ExitCode

if TYPE_CHECKING:
    from datetime import date

    from sdctl.clients.iam import Identity, Wish
    from sdctl.config.model import Config
    from sdctl.doctor.check import Check

_LOCAL: Final = "local"
# A look is no deploy: better no answer in time than a late one.
_CONNECT_SECONDS: Final = 3.0
_READ_SECONDS: Final = 6.0
_ATTEMPTS: Final = 2


def doctor(
    *,
    fix: Annotated[
        bool,
        typer.Option("--fix", help="Where helm is missing or unfit, install it first, its hash checked."),
    ] = False,
    bucket: Bucket = None,
    snapshot: Snapshot = None,
) -> None:
    """Check tools, credentials, quotas, names and permissions for what sdctl.yaml describes.

    Changes nothing in AWS. Ends with 5 if a check fails.
    """
    from sdctl.config.load import Overrides, load_config

    options = context.current()
    overrides = Overrides(options.stack_name, bucket, snapshot, region=context.region())
    loaded = load_config(options.config, overrides, context.environment())
    for warning in loaded.warnings:
        output.warn(warning)
    if fix and options.target != _LOCAL:
        _install_helm(loaded.config)
    checks = examine(loaded.config)
    output.result({"checks": [check.as_dict() for check in checks]}, lambda: _text(checks))
    from sdctl.doctor.check import has_failed

    if has_failed(checks):
        raise typer.Exit(int(ExitCode.REMOTE))


def examine(config: Config) -> list[Check]:
    """Look at everything that a deployment of this configuration depends on, on the current target."""
    state = home(context.environment())
    if context.current().target == _LOCAL:
        from sdctl.doctor.machine import observe_local
        from sdctl.doctor.rules import judge_local

        return judge_local(observe_local(state, config.stack_name, Path.cwd(), context.environment()))
    return _examine_aws(config, state)


def _examine_aws(config: Config, state: Path) -> list[Check]:
    from sdctl.clients.aws import Aws, AwsAccess
    from sdctl.doctor.machine import observe_tools
    from sdctl.doctor.needs import runtime_needs
    from sdctl.doctor.observe import observe_aws
    from sdctl.doctor.rules import judge_aws

    options, env = context.current(), context.environment()
    tools = observe_tools(state, env)
    needs = runtime_needs(config, _chart_values())
    region = context.region()
    if not region:
        return judge_aws(config, needs, tools, None, today=_today())
    output.note(f"looking at {region}…")
    access = AwsAccess(
        region, options.profile, connect_timeout_seconds=_CONNECT_SECONDS,
        read_timeout_seconds=_READ_SECONDS, max_attempts=_ATTEMPTS,
    )  # fmt: skip
    facts = observe_aws(
        Aws(access), config, needs, today=_today(),
        wishes=lambda identity: _wishes(config, region, identity),
    )  # fmt: skip
    return judge_aws(config, needs, tools, facts, today=_today(), is_simulated=True)


def _wishes(config: Config, region: str, identity: Identity) -> Sequence[Wish]:
    """List what a deploy needs to be allowed, as `sdctl iam policy` prints it."""
    from sdctl.clients.iam import wishes_of
    from sdctl.iam.policy import policy
    from sdctl.iam.scopes import Place

    return wishes_of(policy("deploy", config, Place(region, identity.account)))


def _chart_values() -> Mapping[str, Any]:
    """Read the chart's own values; empty where this installation has no chart."""
    import yaml

    from sdctl.assets import asset_dir
    from sdctl.errors import NotFoundError

    try:
        path = asset_dir("charts") / "sd-on-eks" / "values.yaml"
    except NotFoundError:
        return {}
    return dict(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _install_helm(config: Config) -> None:
    from sdctl.clients.helm_binary import install_helm
    from sdctl.doctor.check import PASS
    from sdctl.doctor.cluster import helm_check
    from sdctl.doctor.machine import observe_tools
    from sdctl.versions import KUBERNETES_DEFAULT

    env = context.environment()
    state = home(env)
    check = helm_check(observe_tools(state, env), config.kubernetes_version or KUBERNETES_DEFAULT, _today())
    if check.result == PASS:
        output.note(f"nothing to install: {check.found}")
        return
    output.note(f"{check.found}: installing helm…")
    path, version = install_helm(state, env)
    output.note(f"installed helm {version} as {path}")


def _today() -> date:
    from datetime import UTC, datetime

    return datetime.now(UTC).date()


def _text(checks: Sequence[Check]) -> str:
    """Lay out the checks: a line for each, what is not as it should be with its reason and fix below."""
    from sdctl.doctor.facts import NOT_READ

    skipped = [check for check in checks if check.found.endswith(NOT_READ.reason)]
    shown = [check for check in checks if check not in skipped]
    rows = [{"result": check.result, "check": check.id, "found": check.found} for check in shown]
    lines = [output.table(rows, ["result", "check", "found"])]
    if skipped:
        names = ", ".join(check.id for check in skipped)
        lines += ["", f"Not checked, since AWS could not be asked: {names}."]
    for check in shown:
        if check.fix:
            lines += ["", f"{check.result} {check.id}: {check.why}", f"  fix: {check.fix}"]
    counts = {result: sum(check.result == result for check in checks) for result in ("pass", "warn", "fail")}
    lines += ["", f"{counts['pass']} passed, {counts['warn']} warnings, {counts['fail']} failed."]
    return "\n".join(lines)
