"""Configuration and observed state to the plan of a deploy. Observing reads AWS; planning is pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl.clients.aws import Aws
from sdctl.clients.cloudformation import CloudFormation, StackState, StackView, busy
from sdctl.clients.s3 import S3
from sdctl.config.model import Config
from sdctl.deploy.bundle import Bundle, build_bundles
from sdctl.deploy.steps import Action, BucketStep, ObjectsStep, Plan, StackStep, Step
from sdctl.errors import ConfigError, NotFoundError
from sdctl.render.stacks import Stack, front_stack

FUNCTIONS_PREFIX: Final = "functions/"


@dataclass(frozen=True, slots=True)
class Observed:
    """What AWS has of a deployment.

    `bucket_regions` has the region of each bucket that exists, `asset_keys` the function zips in the asset
    bucket, `template` the document that the front stack was last given.
    """

    account: str
    region: str
    asset_bucket: str
    model_bucket: str
    bucket_regions: Mapping[str, str] = field(default_factory=dict)
    asset_keys: frozenset[str] = frozenset()
    front: StackView | None = None
    template: Mapping[str, Any] = field(default_factory=dict)
    output_bucket: str = ""
    output_bucket_has_objects: bool = False


def observe(aws: Aws, config: Config) -> Observed:
    """Read what exists of the deployment that a configuration describes."""
    return observe_stack(aws, config.stack_name, model_bucket=config.model_bucket)


def observe_stack(aws: Aws, stack_name: str, *, model_bucket: str | None = None) -> Observed:
    """Read what exists of a deployment by its name alone; `model_bucket` is the configured one."""
    account, region, s3, cloudformation = aws.account_id(), aws.region, S3(aws), CloudFormation(aws)
    asset_bucket = bucket_name(stack_name, "assets", account, region)
    model_bucket = model_bucket or bucket_name(stack_name, "model-bucket", account, region)
    front = cloudformation.find(f"{stack_name}Stack")
    is_there = front is not None and front.state is not StackState.ABSENT
    output_bucket = front.outputs.get("OutputS3Bucket", "") if front else ""
    names = (asset_bucket, model_bucket, output_bucket)
    found = {name: s3.bucket_region(name) for name in names if name}
    regions = {name: place for name, place in found.items() if place}
    return Observed(
        account=account,
        region=region,
        asset_bucket=asset_bucket,
        model_bucket=model_bucket,
        bucket_regions=regions,
        asset_keys=frozenset(s3.keys(asset_bucket, FUNCTIONS_PREFIX))
        if asset_bucket in regions
        else frozenset(),
        front=front,
        template=cloudformation.template(front.name) if front and is_there else {},
        output_bucket=output_bucket,
        output_bucket_has_objects=output_bucket in regions and s3.has_objects(output_bucket),
    )


def bucket_name(stack_name: str, purpose: str, account: str, region: str) -> str:
    """Pick a bucket's name: always the same for a deployment, unlike everyone else's, at most 63 characters.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    digest = hashlib.sha256(f"{account}/{region}/{stack_name}".encode()).hexdigest()
    # The guide's script names the model bucket with four digits.
    digits = digest[:4] if purpose == "model-bucket" else digest[:10]
    return f"{stack_name[:32].lower().strip('-')}-{purpose}-{digits}"


def plan_deploy(
    config: Config, observed: Observed, *, target: str, bundles: Mapping[str, Bundle] | None = None
) -> Plan:
    """Plan what brings a deployment from its observed state to its configuration.

    Args:
        config: what is wanted.
        observed: what is there.
        target: `aws` or `local`.
        bundles: the Lambda zips; built from the sources where not given.

    Raises:
        ConflictError: another operation on the stack is in progress.
        NotFoundError: the configured model bucket does not exist (on AWS; the local target creates it).
        ConfigError: the configured model bucket is in another region.
    """
    bundles = build_bundles() if bundles is None else bundles
    objects = {
        f"{FUNCTIONS_PREFIX}{name}-{item.sha256}.zip": item.zip_bytes for name, item in bundles.items()
    }
    keys = {name: f"{FUNCTIONS_PREFIX}{name}-{item.sha256}.zip" for name, item in bundles.items()}
    stack = front_stack(
        config,
        target=target,
        model_bucket=observed.model_bucket,
        asset_bucket=observed.asset_bucket,
        code_keys=keys,
    )
    missing = {key: body for key, body in objects.items() if key not in observed.asset_keys}
    steps: tuple[Step, ...] = (
        _bucket("asset-bucket", observed.asset_bucket, observed),
        _model_bucket(config, observed, target),
        ObjectsStep(
            id="functions",
            action="create" if missing else "none",
            needs=("asset-bucket",),
            detail=f"{len(missing) or len(objects)} zip files",
            bucket=observed.asset_bucket,
            objects=missing,
        ),
        _front(stack, observed),
    )
    return Plan(steps)


def _bucket(step_id: str, name: str, observed: Observed) -> BucketStep:
    action: Action = "none" if name in observed.bucket_regions else "create"
    return BucketStep(id=step_id, action=action, detail=name, name=name)


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
    return _bucket("model-bucket", name, observed)


def _front(stack: Stack, observed: Observed) -> StackStep:
    view = observed.front
    state = view.state if view else StackState.ABSENT
    if view is not None and state is StackState.BUSY:
        raise busy(view.name, view.status)
    details = {
        StackState.ABSENT: stack.name,
        StackState.BROKEN: f"{stack.name}, after deleting what a failed attempt left",
        StackState.STUCK: f"{stack.name}, after continuing the rollback of a failed update",
    }
    action: Action = "create" if state in (StackState.ABSENT, StackState.BROKEN) else "update"
    detail = details.get(state, stack.name)
    if view is not None and state is StackState.STABLE:
        changes = stack_changes(stack, view, observed.template)
        if changes:
            detail = f"{stack.name}: {', '.join(changes)}"
        else:
            action = "none"
    return StackStep(
        id="front",
        action=action,
        needs=("asset-bucket", "model-bucket", "functions"),
        detail=detail,
        name=stack.name,
        body=stack.template.body,
        parameters=stack.parameters,
        tags=stack.tags,
        asset_bucket=observed.asset_bucket,
        is_broken=state is StackState.BROKEN,
        is_stuck=state is StackState.STUCK,
    )


def stack_changes(stack: Stack, view: StackView, template: Mapping[str, Any]) -> list[str]:
    """Name what differs between a stack as it is to be and as it is: `+Added`, `-Removed`, `~Changed`."""
    changes = []
    wanted: dict[str, Any] = json.loads(stack.template.body)
    for section in ("Resources", "Outputs"):
        new, old = wanted.get(section, {}), template.get(section, {})
        changes += [f"+{name}" for name in new if name not in old]
        changes += [f"-{name}" for name in old if name not in new]
        changes += [f"~{name}" for name in new if name in old and new[name] != old[name]]
    rest = {key: value for key, value in wanted.items() if key not in ("Resources", "Outputs")}
    if rest != {key: value for key, value in template.items() if key not in ("Resources", "Outputs")}:
        changes.append("~template")
    changes += [f"~{name}" for name, value in stack.parameters.items() if view.parameters.get(name) != value]
    if dict(view.tags) != stack.tags:
        changes.append("~tags")
    return changes
