"""Configuration and observed state to the plan of a teardown, pure; the deploy's executor carries it out.

The plan is made from what is still there, so an interrupted teardown is resumed by planning again.
"""

from __future__ import annotations

from sdctl.clients.cloudformation import StackState, busy
from sdctl.config.model import Config
from sdctl.deploy.planner import Observed
from sdctl.deploy.steps import Action, BucketStep, EmptyBucketStep, Plan, StackStep, Step


def plan_destroy(config_or_stack: Config | str, observed: Observed, *, target: str) -> Plan:
    """Plan how a deployment goes: on AWS buckets with images or models stay, on local everything goes.

    Args:
        config_or_stack: the configuration, or the name of the deployment where there is none.
        observed: what is there, from `observe` or `observe_stack`.
        target: `aws` or `local`.

    Raises:
        ConflictError: another operation on the stack is in progress.
    """
    stack_name = config_or_stack if isinstance(config_or_stack, str) else config_or_stack.stack_name
    is_local, front = target == "local", observed.front
    if front is not None and front.state is StackState.BUSY and front.status != "DELETE_IN_PROGRESS":
        raise busy(front.name, front.status)
    steps: list[Step] = []
    output_is_there = observed.output_bucket in observed.bucket_regions
    if observed.output_bucket and is_local:
        steps.append(
            EmptyBucketStep(
                id="output-objects",
                action="delete" if output_is_there and observed.output_bucket_has_objects else "none",
                detail=f"everything in {observed.output_bucket}",
                name=observed.output_bucket,
            )
        )
    steps.append(
        StackStep(
            id="front",
            action="delete" if front is not None else "none",
            needs=tuple(step.id for step in steps),
            detail=f"{stack_name}Stack",
            name=f"{stack_name}Stack",
        )
    )
    if observed.output_bucket and not is_local:
        is_empty = output_is_there and not observed.output_bucket_has_objects
        steps.append(
            _bucket("output-bucket", observed.output_bucket, is_doomed=is_empty, kept="holds results")
        )
    steps.append(
        _bucket(
            "asset-bucket",
            observed.asset_bucket,
            is_doomed=observed.asset_bucket in observed.bucket_regions,
            kept="is gone already",
        )
    )
    model_is_there = observed.model_bucket in observed.bucket_regions
    steps.append(
        _bucket(
            "model-bucket",
            observed.model_bucket,
            is_doomed=is_local and model_is_there,
            kept="holds models" if model_is_there else "is gone already",
        )
    )
    return Plan(tuple(steps))


def _bucket(step_id: str, name: str, *, is_doomed: bool, kept: str) -> BucketStep:
    action: Action = "delete" if is_doomed else "none"
    detail = name if is_doomed else f"{name} {kept}"
    return BucketStep(id=step_id, action=action, needs=("front",), detail=detail, name=name)
