"""A plan that somebody overtook, while it waited for a yes, is not carried out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.s3 import S3
from sdctl.config.model import Config
from sdctl.deploy.apply import Machine, apply_plan
from sdctl.deploy.lock import this_process
from sdctl.deploy.observed import Observed, observe
from sdctl.deploy.steps import Plan
from sdctl.errors import ConflictError
from support.aws_world import REGION, World

TOPIC = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic"}}})
NAMED = json.dumps({"Resources": {"Topic": {"Type": "AWS::SNS::Topic", "Properties": {"DisplayName": "x"}}}})


def test_a_plan_is_refused_when_a_stack_was_made_or_updated_meanwhile(world: World, tmp_path: Path) -> None:
    access = AwsAccess(
        REGION, endpoint_url=world.emulator_url, access_key=world.credentials["aws_access_key_id"],
        secret_key=world.credentials["aws_secret_access_key"],
    )  # fmt: skip
    aws, config = Aws(access), Config.model_validate({"stackName": "slow"})
    cloudformation, machine = world.client("cloudformation"), Machine(tmp_path, {}, this_process("deploy"))

    def apply(observed: Observed) -> None:
        apply_plan(aws, config, Plan(()), observed, machine, report=lambda _: None)

    nothing = observe(aws, config, target="local")
    world.client("s3").create_bucket(
        Bucket=nothing.asset_bucket, CreateBucketConfiguration={"LocationConstraint": REGION}
    )
    apply(nothing)
    cloudformation.create_stack(StackName="slowStack", TemplateBody=TOPIC)
    cloudformation.get_waiter("stack_create_complete").wait(StackName="slowStack", WaiterConfig={"Delay": 1})
    with pytest.raises(ConflictError, match="slowStack changed while this plan was looked at"):
        apply(nothing)
    assert S3(aws).get(nothing.asset_bucket, "locks/slow.json") is None, "the lock is given back"

    made = observe(aws, config, target="local")
    apply(made)
    cloudformation.update_stack(StackName="slowStack", TemplateBody=NAMED)
    with pytest.raises(ConflictError, match="slowStack"):
        apply(made)
