"""Configuration and observed state to the plan of a deploy; pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Final

from sdctl.clients.cloudformation import MAX_INLINE_TEMPLATE_BYTES, StackState, StackView
from sdctl.config.model import Config
from sdctl.deploy.bundle import Bundle, build_bundles
from sdctl.deploy.choices import check_fixed, check_names, first_deployer, kubernetes_version
from sdctl.deploy.context import Outputs
from sdctl.deploy.estimates import stack_minutes
from sdctl.deploy.observed import (
    FUNCTIONS_PREFIX,
    ClusterFinds,
    Observed,
    bucket_name,
    observe,
)
from sdctl.deploy.release_plan import plan_releases, removed_release
from sdctl.deploy.steps import (
    PROTECTION,
    Action,
    BucketStep,
    ObjectsStep,
    Plan,
    ServiceRoleStep,
    StackStep,
    Step,
)
from sdctl.errors import ConfigError, NotFoundError
from sdctl.render.cluster import cluster_stack
from sdctl.render.network import network_stack
from sdctl.render.options import option_stack_names, option_stacks
from sdctl.render.runtime import runtime_stack, runtime_stack_prefix
from sdctl.render.runtime_values import RuntimeFacts
from sdctl.render.stacks import Output, Stack, front_stack, resolve, stack_tags

__all__ = ["Observed", "bucket_name", "observe", "plan_deploy", "stack_changes"]

_SPOT_SERVICE: Final = "spot.amazonaws.com"


@dataclass(frozen=True, slots=True)
class _Wanted:
    """A stack as it is to be, and the steps before it."""

    id: str
    stack: Stack
    needs: tuple[str, ...]
    is_protected: bool = False


def plan_deploy(
    config: Config,
    observed: Observed,
    *,
    target: str,
    bundles: Mapping[str, Bundle] | None = None,
    today: date | None = None,
) -> Plan:
    """Plan what brings a deployment from its observed state to its configuration.

    A stack that an operation is under way on is planned for all the same: it is waited for.

    Args:
        config: what is wanted.
        observed: what is there.
        target: `aws` or `local`, where there is no cluster.
        bundles: the Lambda zips; built from the sources where not given.
        today: decides which Kubernetes versions are in support.

    Raises:
        NotFoundError: the configured model bucket does not exist (on AWS; the local target creates it).
        ConfigError: the configured model bucket is in another region, or what is fixed would change.
    """
    bundles = build_bundles() if bundles is None else bundles
    keys = {name: f"{FUNCTIONS_PREFIX}{name}-{item.sha256}.zip" for name, item in bundles.items()}
    zips = {keys[name]: item.zip_bytes for name, item in bundles.items()}
    missing = {key: body for key, body in zips.items() if key not in observed.asset_keys}
    steps: list[Step] = [
        _bucket("asset-bucket", observed.asset_bucket, config, observed),
        _model_bucket(config, observed, target),
        ObjectsStep(
            id="functions",
            action="create" if missing else "none",
            needs=("asset-bucket",),
            detail=f"{len(missing) or len(zips)} zip files",
            minutes=0.1,
            bucket=observed.asset_bucket,
            objects=missing,
        ),
    ]
    finds = observed.cluster or ClusterFinds()
    if target == "local":
        wanted = [_front(config, observed, keys, target), *_runtimes(config, target)]
        steps += [_stack_step(one, observed) for one in wanted]
        return Plan((*steps, *_removed(config, observed, finds)))
    check_names(config)
    steps.append(_spot_role(finds))
    wanted = [
        *_cluster_side(config, observed, finds, today or datetime.now(UTC).date()),
        _front(config, observed, keys, target),
        *_runtimes(config, target),
        *(_Wanted(option, stack, ()) for option, stack in option_stacks(config).items()),
    ]
    steps += [_stack_step(one, observed) for one in wanted]
    facts = RuntimeFacts(observed.account, observed.region, observed.model_bucket, observed.image_digests)
    steps += plan_releases(config, facts, finds, observed.outputs)
    steps += _removed(config, observed, finds)
    return Plan(tuple(steps))


def _bucket(step_id: str, name: str, config: Config, observed: Observed) -> BucketStep:
    is_there = name in observed.bucket_regions
    is_whole = is_there and name not in observed.unfinished_buckets
    return BucketStep(
        id=step_id,
        action="none" if is_whole else "update" if is_there else "create",
        detail=name,
        minutes=0.1,
        name=name,
        tags=stack_tags(config),
    )


def _model_bucket(config: Config, observed: Observed, target: str) -> BucketStep:
    name = observed.model_bucket
    region = observed.bucket_regions.get(name)
    if region is None and config.model_bucket and target == "aws":
        raise NotFoundError(
            f"the model bucket {name} does not exist",
            hint=f"create it in {observed.region}, or leave modelBucketArn out and one is made",
        )
    if region is not None and region != observed.region:
        raise ConfigError(
            f"modelBucketArn: the bucket {name} is in {region}, the deployment in {observed.region}",
            hint="models are read over and over: use a bucket of the same region",
        )
    return _bucket("model-bucket", name, config, observed)


def _spot_role(finds: ClusterFinds) -> ServiceRoleStep:
    return ServiceRoleStep(
        id="spot-role",
        action="none" if finds.has_spot_role else "create",
        detail=f"the service-linked role of {_SPOT_SERVICE}",
        minutes=0.1,
        service=_SPOT_SERVICE,
    )


def _front(config: Config, observed: Observed, keys: Mapping[str, str], target: str) -> _Wanted:
    stack = front_stack(
        config, target=target, model_bucket=observed.model_bucket, asset_bucket=observed.asset_bucket,
        code_keys=keys,
    )  # fmt: skip
    needs = ("asset-bucket", "model-bucket", "functions")
    return _Wanted("front", stack, needs, is_protected=target == "aws")


def _cluster_side(config: Config, observed: Observed, finds: ClusterFinds, today: date) -> Iterator[_Wanted]:
    """Yield the network, unless there is one already, and the cluster in it."""
    name = f"{config.stack_name}-network"
    there = observed.stacks.get(name)
    given = there.parameters.get("Zones", "") if there else ""
    zones = finds.zones or tuple(filter(None, given.split(",")))
    network = network_stack(config, partition=observed.partition, zones=zones)
    subnets: str | Output = ",".join(config.network.subnet_ids)
    if network is not None:
        yield _Wanted("network", network, ())
        subnets = Output(network.name, "PrivateSubnetIds")
    stack = cluster_stack(config, model_bucket=observed.model_bucket)
    check_fixed(config, observed, stack)
    view = observed.stacks.get(stack.name)
    given = view.parameters.get("KubernetesVersion", "") if view else ""
    parameters = {
        **stack.parameters,
        "SubnetIds": subnets,
        "DeployerPrincipalArn": first_deployer(config, finds.principal_arn, view),
        "KubernetesVersion": kubernetes_version(config, finds, given, today),
    }
    yield _Wanted(
        "cluster", Stack(stack.name, stack.template, parameters, stack.tags),
        ("network",) if network is not None else (), is_protected=True,
    )  # fmt: skip


def _runtimes(config: Config, target: str) -> Iterator[_Wanted]:
    needs = ("front",) if target == "local" else ("front", "cluster")
    for runtime in config.runtimes:
        yield _Wanted(f"runtime-{runtime.name}", runtime_stack(config, runtime, target=target), needs)


def _stack_step(wanted: _Wanted, observed: Observed) -> StackStep:
    stack, view = wanted.stack, observed.stacks.get(wanted.stack.name)
    state = view.state if view else StackState.ABSENT
    action: Action = "create" if state in (StackState.ABSENT, StackState.BROKEN) else "update"
    changes: list[str] = []
    detail = stack.name
    match state:
        case StackState.BROKEN:
            detail = f"{stack.name}, after deleting what a failed attempt left"
        case StackState.STUCK:
            detail = f"{stack.name}, after continuing the rollback of a failed update"
        case StackState.BUSY:
            detail = f"{stack.name}, after what is under way ({view.status if view else ''})"
        case StackState.STABLE if view:
            template = observed.templates.get(stack.name, {})
            changes = stack_changes(stack, view, template, observed.outputs)
            if wanted.is_protected and not view.is_protected:
                changes.append(PROTECTION)
            action = "update" if changes else "none"
            detail = f"{stack.name}: {', '.join(changes)}" if changes else stack.name
    body = stack.template.body
    touched = {change[1:] for change in changes} if changes else None
    needs_assets = "asset-bucket" not in wanted.needs and len(body.encode()) > MAX_INLINE_TEMPLATE_BYTES
    return StackStep(
        id=wanted.id,
        action=action,
        needs=(*wanted.needs, *(("asset-bucket",) if needs_assets else ())),
        detail=detail,
        minutes=stack_minutes(stack.template.document, touched),
        name=stack.name,
        body=body,
        parameters=stack.parameters,
        tags=stack.tags,
        asset_bucket=observed.asset_bucket,
        is_protected=wanted.is_protected,
        is_broken=state is StackState.BROKEN,
        is_stuck=state is StackState.STUCK,
        is_busy=state is StackState.BUSY,
    )


def _removed(config: Config, observed: Observed, finds: ClusterFinds) -> list[Step]:
    """Plan the end of what is not configured any more: of a runtime the release first, then its stack."""
    prefix = runtime_stack_prefix(config.stack_name)
    names = {runtime.name for runtime in config.runtimes}
    gone = [name.removeprefix(prefix) for name in observed.stacks if name.startswith(prefix)]
    steps: list[Step] = []
    for name in sorted(set(gone) - names):
        releases = [removed_release(view) for view in finds.releases or () if view.name == name]
        steps += releases
        steps.append(
            StackStep(
                id=f"runtime-{name}",
                action="delete",
                needs=tuple(step.id for step in releases),
                detail=f"{prefix}{name}",
                minutes=1.0,
                name=f"{prefix}{name}",
            )
        )
    chosen = option_stacks(config)
    for option, name in option_stack_names(config.stack_name).items():
        if name in observed.stacks and option not in chosen:
            steps.append(StackStep(id=option, action="delete", needs=(), detail=name, minutes=1.0, name=name))
    return steps


def stack_changes(
    stack: Stack, view: StackView, template: Mapping[str, Any], outputs: Outputs | None = None
) -> list[str]:
    """Name what differs between a stack as it is to be and as it is: `+Added`, `-Removed`, `~Changed`.

    Args:
        stack: as it is to be.
        view: as it is.
        template: what it was last given.
        outputs: of the stacks that are there, for parameters that are outputs of others.
    """
    changes = []
    # As it travels: JSON turns keys that are numbers into text.
    wanted: dict[str, Any] = json.loads(stack.template.body)
    for section in ("Resources", "Outputs"):
        new, old = wanted.get(section, {}), template.get(section, {})
        changes += [f"+{name}" for name in new if name not in old]
        changes += [f"-{name}" for name in old if name not in new]
        changes += [f"~{name}" for name in new if name in old and new[name] != old[name]]
    rest = {key: value for key, value in wanted.items() if key not in ("Resources", "Outputs")}
    if rest != {key: value for key, value in template.items() if key not in ("Resources", "Outputs")}:
        changes.append("~template")
    for name, value in stack.parameters.items():
        try:
            is_same = view.parameters.get(name) == resolve(value, outputs or {})
        except NotFoundError:  # the stack that gives it is not there yet
            is_same = False
        changes += [] if is_same else [f"~{name}"]
    if dict(view.tags) != stack.tags:
        changes.append("~tags")
    return changes
