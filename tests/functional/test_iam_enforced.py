"""Computed policies at work: the real pipeline, as users who have nothing else, on an emulator that checks.

Every call is also judged by an evaluator of our own, which knows the tags and partitions that the emulator
does not, and no call of ours may be allowed that is not made.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import date
from typing import Any

import pytest
from botocore.stub import Stubber

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cloudformation import CloudFormation
from sdctl.clients.iam import Iam, wishes_of
from sdctl.clients.quotas import Quotas
from sdctl.clients.s3 import S3
from sdctl.clients.tagging import Tagging
from sdctl.config.model import Config
from sdctl.deploy.executor import LOCAL_PACE, Executor
from sdctl.deploy.lock import deploy_lock, this_process
from sdctl.deploy.planner import bucket_name, observe, plan_deploy
from sdctl.deploy.remains import REMAINS_HANDLERS
from sdctl.deploy.results import read_results
from sdctl.deploy.standing import observe_standing
from sdctl.deploy.steps import Plan, StackStep
from sdctl.deploy.teardown import plan_destroy
from sdctl.doctor.needs import VPCS, runtime_needs
from sdctl.doctor.observe import observe_aws
from sdctl.errors import AwsError, DeployFailedError
from sdctl.iam.calls import CALLS, INVENTORY, NODES, Purpose
from sdctl.iam.policy import policy, split, stacks_of
from sdctl.iam.scopes import Place, Scopes
from sdctl.reads import Unknown
from sdctl.tasks.publish import publish
from support.emulator import running_emulator
from support.iam_evaluator import Recorder, allows, matches

ACCOUNT, REGION = "123456789012", "us-west-2"
# An image of one's own: no registry is asked for a digest.
RUNTIME = {"type": "comfyui", "extraValues": {"runtime": {"inferenceApi": {"image": {"tag": "v1"}}}}}
RUNTIMES = [RUNTIME | {"name": f"runtime-{number}"} for number in range(2)]

# Three types on spot are scored, a snapshot is looked up, a checkpoint is looked for.
CHOOSY = {
    "name": "choosy", "type": "sdwebui", "modelFilename": "a.safetensors",
    "extraValues": {
        **RUNTIME["extraValues"],
        "karpenter": {
            "provisioner": {"instanceType": ["g5.2xlarge", "g6.2xlarge", "g5.4xlarge"]},
            "nodeTemplate": {"dataVolume": {"snapshotID": "snap-0123456789abcdef0"}},
        }
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("emulator")
    with running_emulator(folder, account=ACCOUNT, environment={"AUTH": "true"}) as url:
        yield url


def session(endpoint: str, key: str, secret: str, region: str = REGION) -> Aws:
    """Open a session that looks as if TLS were ended in front of the emulator: our buckets insist on it."""
    # What the emulator does not have is not asked for again.
    access = AwsAccess(region, endpoint_url=endpoint, access_key=key, secret_key=secret, max_attempts=1)
    aws = Aws(access)

    def say_https(request: Any, **_: Any) -> None:
        request.headers["x-forwarded-proto"] = "https"

    aws._open().events.register("before-send.*.*", say_https)
    return aws


@pytest.fixture(scope="module")
def root(endpoint: str) -> Aws:
    return session(endpoint, ACCOUNT, "secret")


@dataclass
class Person:
    """An IAM user with one computed policy and nothing else."""

    aws: Aws
    policy: dict[str, Any]
    recorder: Recorder

    def run(self, plan: Plan) -> dict[str, str]:
        outputs = Executor(self.aws, lambda _: None, pace=LOCAL_PACE).run(plan)
        return next(iter(outputs.values()), {})

    def deploy(self, config: Config) -> dict[str, str]:
        return self.run(front_side(self.aws, config))

    def denied_by_our_own_evaluator(self, **tags: tuple[str, ...]) -> list[str]:
        asked = self.recorder.requests(ACCOUNT, **tags)
        return [f"{one.action} on {one.resource}" for one in asked if not allows(self.policy, one)]


@pytest.fixture
def person(root: Aws, endpoint: str) -> Callable[[Purpose, Config], Person]:
    def make(purpose: Purpose, config: Config) -> Person:
        document, name = policy(purpose, config, Place(REGION, ACCOUNT)), f"{purpose}-{config.stack_name}"
        iam = root.client("iam")
        iam.create_user(UserName=name)
        for number, part in enumerate(split(document)):
            made = iam.create_policy(PolicyName=f"{name}-{number}", PolicyDocument=json.dumps(part))
            iam.attach_user_policy(UserName=name, PolicyArn=made["Policy"]["Arn"])
        key = iam.create_access_key(UserName=name)["AccessKey"]
        aws = session(endpoint, key["AccessKeyId"], key["SecretAccessKey"])
        return Person(aws, document, Recorder(aws))

    return make


def configured(stack_name: str, **more: Any) -> Config:
    # The emulator has no X-Ray.
    plain = {"stackName": stack_name, "tracing": False, "modelsRuntime": [RUNTIME | {"name": "sdruntime"}]}
    return Config.model_validate(plain | more)


def front_side(aws: Aws, config: Config) -> Plan:
    """Plan what the emulator has: no cluster, and nothing of what needs one."""
    plan = plan_deploy(config, observe(aws, config, target="aws"), target="aws")
    kept = {"asset-bucket", "model-bucket", "functions", "front"}
    return Plan(tuple(step for step in plan if step.id in kept))


def broken(plan: Plan, mend: Callable[[dict[str, Any]], None]) -> Plan:
    """Return a plan whose template has been changed."""
    step = next(step for step in plan.steps if isinstance(step, StackStep))
    document = json.loads(step.body)
    mend(document)
    action = "create" if step.action == "create" else "update"
    changed = replace(step, action=action, body=json.dumps(document))
    return Plan((*(item for item in plan.steps if item is not step), changed))


def add_bad_role(document: dict[str, Any]) -> None:
    role = json.loads(json.dumps(document["Resources"]["SweepRole"]))
    statement = role["Properties"]["AssumeRolePolicyDocument"]["Statement"][0]
    statement["NotPrincipal"] = statement.pop("Principal")
    document["Resources"]["BadRole"] = role | {"DependsOn": "UsagePlanKey"}


def leave_as_it_is(_: dict[str, Any]) -> None:
    """An update without changes: its change set fails, and is dropped."""


def make_old_bucket(root: Aws, name: str) -> None:
    """Make a bucket as they were before S3 made each of them private."""
    s3 = root.client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.delete_public_access_block(Bucket=name)


def live_through_everything(deployer: Person, config: Config) -> None:
    """Create, fail, recover, change, change nothing, continue a rollback: every branch of the executor."""
    aws = deployer.aws
    with pytest.raises(DeployFailedError):
        deployer.run(broken(front_side(aws, config), add_bad_role))
    assert deployer.deploy(config)["TaskTableName"]
    assert deployer.run(broken(front_side(aws, config), leave_as_it_is))
    # The emulator has no update whose rollback fails: the call is made, and refused for the stack's state.
    with pytest.raises(AwsError) as refused:
        CloudFormation(aws).continue_rollback(config.front_stack_name)
    assert "AccessDenied" not in refused.value.aws_code
    faster = config.model_copy(update={"log_retention_days": 7})
    assert deployer.deploy(faster)["TaskTableName"]


def look_at_everything(deployer: Person, config: Config) -> list[str]:
    """Look as `doctor` does, at a new network and at an existing one; return what was denied."""
    subnets = ("subnet-0123456789abcdef0", "subnet-0123456789abcdef1")
    network = config.network.model_copy(update={"vpc_id": "vpc-0123456789abcdef0", "subnet_ids": subnets})
    denied = []
    for looked_at in (config, config.model_copy(update={"network": network})):
        facts = observe_aws(
            deployer.aws, looked_at, runtime_needs(looked_at, {}), today=date(2026, 11, 22),
            wishes=lambda _: wishes_of(deployer.policy), identity_seconds=60, read_seconds=60,
        )  # fmt: skip
        for name, value in ((one.name, getattr(facts, one.name)) for one in fields(facts)):
            found = value.values() if isinstance(value, dict) else [value]
            denied += [f"{name}: {one}" for one in found if isinstance(one, Unknown) and one.is_denied]
    # A quota that was never changed is asked for once more; the emulator has no quotas.
    client = deployer.aws.client("service-quotas")
    with Stubber(client) as stub:
        stub.add_client_error("get_service_quota", "NoSuchResourceException")
        stub.add_response("get_aws_default_service_quota", {"Quota": {"Value": 5.0}})
        assert Quotas(deployer.aws).value(VPCS) == 5
    return denied


def test_a_deployer_with_the_policy_alone_lives_through_everything_and_is_allowed_nothing_more(
    person: Callable[[Purpose, Config], Person], root: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if the template were too large to be sent inline.
    monkeypatch.setattr("sdctl.deploy.stack_steps.MAX_INLINE_TEMPLATE_BYTES", 1000)
    key = root.client("kms").create_key()["KeyMetadata"]["Arn"]
    config = configured("farm", modelsRuntime=[*RUNTIMES, CHOOSY], kmsKeyArn=key)
    deployer = person("deploy", config)
    make_old_bucket(root, bucket_name(config.stack_name, "model-bucket", ACCOUNT, REGION))
    live_through_everything(deployer, config)
    assets = bucket_name(config.stack_name, "assets", ACCOUNT, REGION)
    # The emulator does not know the condition on the service: its own answer is no.
    with (
        deploy_lock(S3(deployer.aws), assets, config.stack_name, this_process("deploy")),
        pytest.raises(AwsError, match="CreateServiceLinkedRole"),
    ):
        Iam(deployer.aws).create_service_role("spot.amazonaws.com")
    denied = look_at_everything(deployer, config)
    # The emulator takes AWS's public parameters, whose ARNs hold no account, for the account's own, and
    # does not see whose policies a simulation is about.
    deviations = ("ssm:GetParameters", "iam:SimulatePrincipalPolicy")
    assert [one for one in denied if not any(action in one for action in deviations)] == []
    assert deployer.denied_by_our_own_evaluator() == []
    assert any("TemplateURL" in params for _, _, params in deployer.recorder.calls)
    # The emulator encrypts every bucket, as S3 does by now: what is there already is not set again.
    listed = {(call.service, call.operation) for call in CALLS["deploy"]} - {("s3", "PutBucketEncryption")}
    assert deployer.recorder.operations == listed


def test_in_china_the_same_calls_are_allowed_by_a_policy_of_china(endpoint: str) -> None:
    region = "cn-north-1"
    config = configured("china", modelsRuntime=RUNTIMES)
    aws = session(endpoint, ACCOUNT, "secret", region)
    deployer = Person(aws, policy("deploy", config, Place(region, ACCOUNT)), Recorder(aws))
    live_through_everything(deployer, config)
    assert deployer.denied_by_our_own_evaluator() == []
    elsewhere = policy("deploy", config, Place(REGION, ACCOUNT))
    assert not any(
        allows(elsewhere, one) for one in deployer.recorder.requests(ACCOUNT) if one.resource != "*"
    )


def test_what_the_deployment_is_called_is_what_the_policy_names(
    person: Callable[[Purpose, Config], Person], root: Aws
) -> None:
    config = configured("named")
    person("deploy", config).deploy(config)
    place = Place(REGION, ACCOUNT)
    scopes = Scopes(stacks_of(config, partition="aws"), place, ())
    arns = {
        "AWS::IAM::Role": ("iam role", f"arn:aws:iam::{ACCOUNT}:role/{{}}"),
        "AWS::DynamoDB::Table": ("dynamodb table", f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{{}}"),
        "AWS::Lambda::Function": ("lambda function", f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{{}}"),
        "AWS::S3::Bucket": ("s3 bucket", "arn:aws:s3:::{}"),
        "AWS::SNS::Topic": ("sns topic", "{}"),
        "AWS::CloudWatch::Alarm": ("cloudwatch alarm", f"arn:aws:cloudwatch:{REGION}:{ACCOUNT}:alarm:{{}}"),
        "AWS::Logs::LogGroup": ("logs log-group", f"arn:aws:logs:{REGION}:{ACCOUNT}:log-group:{{}}:*"),
        "AWS::Events::Rule": (
            "events rule-on-default-event-bus", f"arn:aws:events:{REGION}:{ACCOUNT}:rule/{{}}",
        ),
    }  # fmt: skip
    cloudformation = root.client("cloudformation")
    resources = cloudformation.describe_stack_resources(StackName=config.front_stack_name)["StackResources"]
    seen = set()
    for resource in resources:
        if resource["ResourceType"] in arns:
            kind, arn = arns[resource["ResourceType"]]
            patterns = scopes.arns(*kind.split(" ", 1))
            name = arn.format(resource["PhysicalResourceId"])
            assert any(matches(pattern, name) for pattern in patterns), (name, patterns)
            seen.add(resource["ResourceType"])
    assert seen == set(arns)


def test_a_submitter_publishes_and_reads_the_key_and_can_do_nothing_else(
    person: Callable[[Purpose, Config], Person], root: Aws
) -> None:
    config = configured("shop")
    outputs = Person(root, {}, Recorder(root)).deploy(config)
    submitter = person("submit", config)
    metadata = {"id": "a-1", "runtime": "sdruntime", "tasktype": "text-to-image", "prefix": "output"}
    body = {"task": {"metadata": metadata, "content": {"prompt": "A dog"}}}
    publish(submitter.aws, outputs, body)
    assert list(S3(submitter.aws).keys(outputs["ModelBucket"], "Stable-diffusion/")) == []
    # The emulator takes a path of parameters for all of them: its own answer is no.
    with pytest.raises(AwsError, match="GetParametersByPath"):
        read_results(submitter.aws, "shop")
    gateway = submitter.aws.client("apigateway")
    # The emulator does not look at the tags of API keys: its own answer is no, ours knows the key's tags.
    with pytest.raises(gateway.exceptions.ClientError):
        gateway.get_api_key(apiKey=outputs["ApiKeyId"], includeValue=True)
    tags = root.client("apigateway").get_api_key(apiKey=outputs["ApiKeyId"])["tags"]
    own = {f"aws:ResourceTag/{key}": (value,) for key, value in tags.items()}
    assert submitter.denied_by_our_own_evaluator(**own) == []
    assert submitter.recorder.operations == {(call.service, call.operation) for call in CALLS["submit"]}
    assert len(submitter.denied_by_our_own_evaluator()) == 1  # somebody else's key
    with pytest.raises(AwsError, match="not authorized"):
        submitter.deploy(config)
    elsewhere = outputs | {"sdNotificationLambdaARN": outputs["sdNotificationOutputARN"]}
    with pytest.raises(AwsError, match="not authorized"):
        publish(submitter.aws, elsewhere, body)


def test_a_destroyer_takes_everything_down_and_is_allowed_nothing_more(
    person: Callable[[Purpose, Config], Person], root: Aws
) -> None:
    config = configured("gone")
    outputs = Person(root, {}, Recorder(root)).deploy(config)
    destroyer = person("destroy", config)
    assets = bucket_name("gone", "assets", destroyer.aws.account_id(), REGION)
    with deploy_lock(S3(destroyer.aws), assets, "gone", this_process("destroy")):
        standing = observe_standing(destroyer.aws, "gone", environment={})
    Executor(destroyer.aws, lambda _: None, pace=LOCAL_PACE, handlers=REMAINS_HANDLERS).run(
        plan_destroy(standing)
    )
    assert CloudFormation(root).find("goneStack") is None
    buckets = {bucket["Name"] for bucket in root.client("s3").list_buckets()["Buckets"]}
    assert outputs["OutputS3Bucket"] not in buckets
    left = [one for one in Tagging(destroyer.aws).left("gone") if one.is_seen]
    assert [one.type for one in left] == ["s3:bucket"]
    assert left[0].id.startswith("gone-model-bucket-")
    assert destroyer.denied_by_our_own_evaluator() == []
    # What only nodes and an inventory of machines and prices need is proven beside it.
    listed = {(call.service, call.operation) for call in CALLS["destroy"]}
    assert destroyer.recorder.operations <= listed
    beside = {(call.service, call.operation) for call in (*NODES, *INVENTORY)}
    assert listed - destroyer.recorder.operations <= beside
    with pytest.raises(AwsError, match="not authorized"):
        destroyer.deploy(config)
