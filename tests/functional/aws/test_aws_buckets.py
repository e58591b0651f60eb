"""A bucket that was begun, or made by other means, is finished: nothing in it is lost."""

from __future__ import annotations

import json

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.deploy.executor import Executor
from sdctl.deploy.steps import BucketStep, Plan
from support.aws_world import REGION, World


def make(world: World, name: str) -> None:
    access = AwsAccess(
        REGION, endpoint_url=world.emulator_url, access_key=world.credentials["aws_access_key_id"],
        secret_key=world.credentials["aws_secret_access_key"],
    )  # fmt: skip
    step = BucketStep(id="model-bucket", action="update", name=name, tags={"sdctl:stack": "farm"})
    Executor(Aws(access), lambda event: None).run(Plan((step,)))


def test_finishing_a_bucket_keeps_what_is_in_it(world: World) -> None:
    s3 = world.client("s3")
    s3.create_bucket(Bucket="begun", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="begun", Key="models/a.safetensors", Body=b"weights")
    own = {"Sid": "Own", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "*"}
    s3.put_bucket_policy(Bucket="begun", Policy=json.dumps({"Version": "2012-10-17", "Statement": [own]}))
    make(world, "begun")
    assert s3.get_object(Bucket="begun", Key="models/a.safetensors")["Body"].read() == b"weights"
    tags = s3.get_bucket_tagging(Bucket="begun")["TagSet"]
    assert {"Key": "sdctl:stack", "Value": "farm"} in tags
    statements = json.loads(s3.get_bucket_policy(Bucket="begun")["Policy"])["Statement"]
    assert [one["Sid"] for one in statements] == ["Own", "TlsOnly"]


def test_a_bucket_that_deploy_makes_forgets_unfinished_uploads_as_any_model_bucket_does(world: World) -> None:
    make(world, "made-by-deploy")
    (rule,) = world.client("s3").get_bucket_lifecycle_configuration(Bucket="made-by-deploy")["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 7}
