"""The deploy pipeline against the real emulator: create, change, nothing to change, fail, recover, delete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cloudformation import MAX_INLINE_TEMPLATE_BYTES, CloudFormation
from sdctl.config.load import Overrides, load_config
from sdctl.config.model import Config
from sdctl.deploy.executor import LOCAL_PACE, Executor
from sdctl.deploy.planner import observe, plan_deploy
from sdctl.deploy.remains import REMAINS_HANDLERS
from sdctl.deploy.standing import observe_standing
from sdctl.deploy.steps import Event, Plan, StackStep
from sdctl.deploy.teardown import Wishes, plan_destroy
from sdctl.errors import ConfigError, DeployFailedError
from support.emulator import running_emulator

ACCOUNT, REGION = "123456789012", "us-west-2"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_emulator(tmp_path_factory.mktemp("emulator"), account=ACCOUNT) as url:
        yield url


@pytest.fixture
def aws(endpoint: str) -> Aws:
    return Aws(AwsAccess(REGION, endpoint_url=endpoint, access_key=ACCOUNT, secret_key="secret"))


def configured(tmp_path: Path, **document: Any) -> Config:
    path = tmp_path / "sdctl.yaml"
    path.write_text(json.dumps(document))
    return load_config(path, Overrides(), {}).config


class Deployment:
    """One stack of a test: plans and applies, and keeps the events of the last run."""

    def __init__(self, aws: Aws) -> None:
        self.aws = aws
        self.events: list[Event] = []

    def plan(self, config: Config) -> Plan:
        return plan_deploy(config, observe(self.aws, config, target="local"), target="local")

    def run(self, plan: Plan) -> dict[str, str]:
        """Carry a plan out; the front's outputs, and the queue of each runtime by `queue-NAME`."""
        self.events = []
        outputs = Executor(self.aws, self.events.append, pace=LOCAL_PACE).run(plan)
        found: dict[str, str] = {}
        for stack, values in outputs.items():
            _, is_runtimes, name = stack.partition("-runtime-")
            found |= {f"queue-{name}": values["QueueUrl"]} if is_runtimes else values
        return found

    def deploy(self, config: Config) -> dict[str, str]:
        return self.run(self.plan(config))

    def destroy(self, stack_name: str, *, is_all: bool = True) -> None:
        standing = observe_standing(self.aws, stack_name, environment={})
        wishes = Wishes(buckets=tuple(standing.buckets))
        self.events = []
        executor = Executor(self.aws, self.events.append, pace=LOCAL_PACE, handlers=REMAINS_HANDLERS)
        executor.run(plan_destroy(standing, wishes if is_all else Wishes()))


@pytest.fixture
def deployment(aws: Aws) -> Deployment:
    return Deployment(aws)


def actions(plan: Plan) -> dict[str, str]:
    return {step.id: step.action for step in plan.steps}


def front(plan: Plan) -> StackStep:
    return next(step for step in plan.steps if isinstance(step, StackStep))


RUNTIME = {"name": "sdruntime", "type": "sdwebui", "modelFilename": "a.safetensors"}


def test_a_deploy_creates_everything_and_a_second_one_changes_nothing(
    deployment: Deployment, tmp_path: Path
) -> None:
    config = configured(tmp_path, stackName="twice")
    plan = deployment.plan(config)
    steps = ("asset-bucket", "model-bucket", "functions", "front", "runtime-sdruntime")
    assert actions(plan) == dict.fromkeys(steps, "create")

    outputs = deployment.run(plan)

    assert {
        "FrontApiEndpoint", "sdNotificationLambdaARN", "sdNotificationOutputARN", "sdNotificationOutputArn",
        "OutputS3Bucket", "ModelBucket", "GetAPIKeyCommand", "ConfigCommand", "ApiKeyId", "TaskTableName",
        "RestApiId", "ApiStageName", "UnroutedQueueUrl", "UnroutedQueueArn", "DeadLettersFunctionArn",
        "AlarmTopicArn", "queue-sdruntime",
    } == set(outputs)  # fmt: skip
    assert any(
        event.resource == "RestApi" and event.status == "CREATE_COMPLETE" for event in deployment.events
    )
    again = deployment.plan(config)
    assert set(actions(again).values()) == {"none"}
    assert deployment.run(again) == outputs


def test_a_runtime_can_be_added_changed_and_removed_without_touching_the_others(
    deployment: Deployment, tmp_path: Path
) -> None:
    before = deployment.deploy(configured(tmp_path, stackName="grow", modelsRuntime=[RUNTIME]))
    comfy = {"name": "comfy-2", "type": "comfyui"}
    sqs = deployment.aws.client("sqs")
    sqs.send_message(QueueUrl=before["queue-sdruntime"], MessageBody="survives")

    plan = deployment.plan(configured(tmp_path, stackName="grow", modelsRuntime=[RUNTIME, comfy]))
    assert actions(plan) == {
        "asset-bucket": "none", "model-bucket": "none", "functions": "none", "front": "none",
        "runtime-sdruntime": "none", "runtime-comfy-2": "create",
    }  # fmt: skip
    after = deployment.run(plan)

    assert set(after) - set(before) == {"queue-comfy-2"}
    assert listed(deployment, "grow") == {"sdruntime", "comfy-2"}
    assert {name: after[name] for name in before} == before
    received = sqs.receive_message(QueueUrl=before["queue-sdruntime"])["Messages"]
    assert [message["Body"] for message in received] == ["survives"]
    renamed = RUNTIME | {"modelFilename": "b.safetensors"}
    plan = deployment.plan(configured(tmp_path, stackName="grow", modelsRuntime=[renamed]))
    assert actions(plan) == {
        "asset-bucket": "none", "model-bucket": "none", "functions": "none", "front": "none",
        "runtime-sdruntime": "update", "runtime-comfy-2": "delete",
    }  # fmt: skip
    assert deployment.run(plan) == before
    assert listed(deployment, "grow") == {"sdruntime"}
    events = [event.resource for event in deployment.events if event.status == "DELETE_COMPLETE"]
    assert events.index("Registration") < min(events.index("Subscription"), events.index("DeadLetterMapping"))


def listed(deployment: Deployment, stack_name: str) -> set[str]:
    """Return the runtimes that the functions find."""
    path = f"/sdctl/{stack_name}/runtimes"
    found = deployment.aws.client("ssm").get_parameters_by_path(Path=path)["Parameters"]
    return {json.loads(parameter["Value"])["name"] for parameter in found}


def test_a_changed_throttle_updates_the_usage_plan_in_place(deployment: Deployment, tmp_path: Path) -> None:
    before = deployment.deploy(configured(tmp_path, stackName="throttle"))
    throttle = {"rateLimit": 7, "burstLimit": 9}

    plan = deployment.plan(configured(tmp_path, stackName="throttle", APIGW={"throttle": throttle}))
    assert front(plan).detail == "throttleStack: ~UsagePlan"
    after = deployment.run(plan)

    assert after == before
    plans = deployment.aws.client("apigateway").get_usage_plans()["items"]
    mine = [
        plan for plan in plans if any(stage["apiId"] == after["RestApiId"] for stage in plan["apiStages"])
    ]
    assert [plan["throttle"] for plan in mine] == [{"rateLimit": 7.0, "burstLimit": 9}]


def broken(plan: Plan, mend: Callable[[dict[str, Any]], None]) -> Plan:
    """Return a plan whose template has been changed."""
    step = front(plan)
    document = json.loads(step.body)
    mend(document)
    action = "create" if step.action == "create" else "update"
    changed = replace(step, action=action, body=json.dumps(document))
    return Plan(tuple(changed if item is step else item for item in plan.steps))


def add_bad_role(document: dict[str, Any]) -> None:
    """A trust policy that IAM refuses, made after most of the stack is there."""
    role = json.loads(json.dumps(document["Resources"]["SweepRole"]))
    statement = role["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]
    statement["NotPrincipal"] = statement.pop("Principal")
    document["Resources"]["BadRole"] = role | {"DependsOn": "UsagePlanKey"}


def test_a_create_that_fails_names_the_resource_and_the_next_deploy_recovers(
    deployment: Deployment, tmp_path: Path
) -> None:
    config = configured(tmp_path, stackName="mended")
    with pytest.raises(DeployFailedError) as caught:
        deployment.run(broken(deployment.plan(config), add_bad_role))
    lines = caught.value.message.splitlines()
    assert lines[0] == "the stack mendedStack ended as ROLLBACK_COMPLETE"
    assert lines[1].startswith("  BadRole (AWS::IAM::Role): ")

    plan = deployment.plan(config)
    assert front(plan).is_broken
    assert deployment.run(plan)["TaskTableName"]
    assert set(actions(deployment.plan(config)).values()) == {"none"}


def test_an_update_that_fails_rolls_back_and_leaves_the_old_stack_at_work(
    deployment: Deployment, tmp_path: Path
) -> None:
    config = configured(tmp_path, stackName="rolled")
    before = deployment.deploy(config)
    with pytest.raises(DeployFailedError, match="UPDATE_ROLLBACK_COMPLETE\n  BadRole"):
        deployment.run(broken(deployment.plan(config), add_bad_role))
    assert deployment.deploy(config) == before


def test_a_template_that_is_refused_leaves_no_empty_stack_behind(
    deployment: Deployment, tmp_path: Path
) -> None:
    config = configured(tmp_path, stackName="refused")

    def unknown_type(document: dict[str, Any]) -> None:
        document["Resources"]["Odd"] = {"Type": "AWS::No::Such"}

    with pytest.raises(Exception, match="AWS::No::Such"):
        deployment.run(broken(deployment.plan(config), unknown_type))
    assert deployment.deploy(config)["TaskTableName"]


def test_a_stack_left_in_review_is_created_after_all(deployment: Deployment, tmp_path: Path) -> None:
    config = configured(tmp_path, stackName="reviewed")
    plan = deployment.plan(config)
    deployment.run(Plan(plan.steps[:3]))
    step = front(plan)
    deployment.aws.client("cloudformation").create_change_set(
        StackName=step.name, ChangeSetName="forgotten", ChangeSetType="CREATE", TemplateBody=step.body,
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in step.parameters.items()],
        Capabilities=["CAPABILITY_IAM"],
    )  # fmt: skip
    again = deployment.plan(config)
    assert front(again).action == "create"
    assert deployment.run(again)["TaskTableName"]


def test_a_large_template_travels_through_the_asset_bucket(deployment: Deployment, tmp_path: Path) -> None:
    config = configured(tmp_path, stackName="wide")

    def widen(document: dict[str, Any]) -> None:
        document["Metadata"] = {"padding": "x" * MAX_INLINE_TEMPLATE_BYTES}

    deployment.run(broken(deployment.plan(config), widen))
    keys = deployment.aws.client("s3").list_objects_v2(
        Bucket=observe(deployment.aws, config, target="local").asset_bucket, Prefix="templates/"
    )
    assert keys["KeyCount"] == 1


def test_a_destroy_leaves_nothing_and_can_be_repeated(deployment: Deployment, tmp_path: Path) -> None:
    config = configured(tmp_path, stackName="gone")
    outputs = deployment.deploy(config)
    s3 = deployment.aws.client("s3")
    s3.put_object(Bucket=outputs["OutputS3Bucket"], Key="output/x/x.png", Body=b"x")
    mine = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"] if bucket["Name"].startswith("gone")}
    assert len(mine) == 3

    deployment.destroy("gone")
    assert not [b for b in s3.list_buckets()["Buckets"] if b["Name"] in mine]
    assert CloudFormation(deployment.aws).find("goneStack") is None
    queues = deployment.aws.client("sqs").list_queues(QueueNamePrefix="gone").get("QueueUrls", [])
    assert queues == []
    deployment.destroy("gone")
    assert {event.status for event in deployment.events} == {"kept"}


def test_on_aws_a_destroy_keeps_buckets_that_hold_something(deployment: Deployment, tmp_path: Path) -> None:
    config = configured(tmp_path, stackName="kept", tracing=False)  # the emulator knows no X-Ray
    plan = plan_deploy(config, observe(deployment.aws, config, target="local"), target="aws")
    front_side = ("asset-bucket", "model-bucket", "functions", "front")
    outputs = deployment.run(Plan(tuple(step for step in plan if step.id in front_side)))
    s3 = deployment.aws.client("s3")
    s3.put_object(Bucket=outputs["OutputS3Bucket"], Key="output/x/x.png", Body=b"x")

    deployment.destroy("kept", is_all=False)

    left = {bucket["Name"] for bucket in s3.list_buckets()["Buckets"] if bucket["Name"].startswith("kept")}
    assert outputs["OutputS3Bucket"] in left
    assert len(left) == 2  # and the model bucket


def test_a_model_bucket_of_another_region_is_refused(
    deployment: Deployment, aws: Aws, tmp_path: Path
) -> None:
    elsewhere = Aws(
        AwsAccess(
            "eu-central-1", endpoint_url=aws.access.endpoint_url, access_key=ACCOUNT, secret_key="secret"
        )
    )
    elsewhere.client("s3").create_bucket(
        Bucket="far-away-models", CreateBucketConfiguration={"LocationConstraint": "eu-central-1"}
    )
    with pytest.raises(ConfigError, match="is in eu-central-1, the deployment in us-west-2"):
        deployment.plan(configured(tmp_path, stackName="far", modelBucketArn="arn:aws:s3:::far-away-models"))
