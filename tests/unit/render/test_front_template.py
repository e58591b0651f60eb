"""The templates of front and runtimes: what they hold, what cfn-lint says, and what it does not look at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl import contract
from sdctl.config.model import Config, RuntimeConfig
from sdctl.errors import NotFoundError
from sdctl.render.cluster import cluster_stack
from sdctl.render.engine import RenderError, render_yaml
from sdctl.render.runtime import filter_policy, registration
from sdctl.render.stacks import Output, Stack, code_parameters, front_stack, logical_id, resolve
from support.fronts import CONFIGS, rendered, runtimes_of

GOLDEN = Path(__file__).parents[2] / "golden"
REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "cn-north-1", "cn-northwest-1")
ALL = sorted(CONFIGS)
RUNTIMES = {key: stack for name in ALL for key, stack in runtimes_of(name).items()}
EVERY = [*ALL, *RUNTIMES]


def stack_of(name: str, **changes: Any) -> Stack:
    """Return the front of a configuration, or, as `configuration:runtime`, the stack of a runtime."""
    return RUNTIMES.get(name) or rendered(name, **changes)


def resources(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    found = stack_of(name, **changes).template.document["Resources"].items()
    return {logical: body for logical, body in found if body["Type"] == kind}


def variables(name: str, function: str, **changes: Any) -> dict[str, Any]:
    functions = resources(name, "AWS::Lambda::Function", **changes)
    found: dict[str, Any] = functions[function]["Properties"]["Environment"]["Variables"]
    return found


def statements(name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for logical, role in resources(name, "AWS::IAM::Role").items():
        for policy in role["Properties"]["Policies"]:
            for statement in policy["PolicyDocument"]["Statement"]:
                yield logical, statement


GOLDENS = {
    "front-guide": "guide", "front-everything": "everything", "runtime-guide": "guide:sdruntime",
    "runtime-everything": "everything:a-runtime", "runtime-local": "several-runtimes:sd-1",
}  # fmt: skip


@pytest.mark.parametrize("file", GOLDENS)
def test_the_rendering_is_the_one_that_was_reviewed(file: str) -> None:
    """`UPDATE_GOLDEN=1` writes the files anew."""
    path, text = GOLDEN / f"{file}.yaml", stack_of(GOLDENS[file]).template.text
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_cfn_lint_finds_nothing_in_any_region_of_either_partition(tmp_path: Path) -> None:
    paths = []
    for name in EVERY:
        path = tmp_path / f"{name.replace(':', '-')}.yaml"
        path.write_text(stack_of(name).template.text, encoding="utf-8")
        paths.append(str(path))
    done = subprocess.run(
        [str(Path(sys.executable).parent / "cfn-lint"), "-r", *REGIONS, "--", *paths],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert (done.stdout, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", ALL)
def test_the_template_stays_below_the_limits_of_cloudformation(name: str) -> None:
    """https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html"""
    document = rendered(name).template.document
    assert len(document["Resources"]) <= 500
    assert len(document["Outputs"]) <= 200
    assert len(rendered(name).template.body.encode()) <= 1024 * 1024


@pytest.mark.parametrize("name", EVERY)
def test_nothing_names_a_partition(name: str) -> None:
    body = stack_of(name).template.body
    assert not re.findall(r"arn:aws\b(?!-cn:(?:iam:|kms:cn-north-1|acm:cn-north-1):123456789012:)", body)
    # Services are principals under one suffix in every partition; hosts are not.
    principals = {"sns", "lambda", "events", "apigateway", "cloudwatch", "pods.eks"}
    assert set(re.findall(r"([a-z0-9.-]+)\.amazonaws\.com", body)) <= principals


# What knows no resource to be narrowed to.
WITHOUT_RESOURCES = {"xray:PutTraceSegments", "xray:PutTelemetryRecords"}


@pytest.mark.parametrize("name", [name for name in EVERY if CONFIGS[name.split(":")[0]][0] == "aws"])
def test_no_role_may_do_everything_or_touch_everything(name: str) -> None:
    seen = 0
    for logical, statement in statements(name):
        seen += 1
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert "*" not in action, logical
        for resource in statement["Resource"]:
            text = resource if isinstance(resource, str) else next(iter(resource.values()))
            assert text != "*" or set(statement["Action"]) <= WITHOUT_RESOURCES, logical
            if text == "*":
                continue
            assert (
                isinstance(text, list) or text.startswith(("${", "arn:${AWS::Partition}")) or "*" not in text
            )
    assert seen >= (7 if name in RUNTIMES else 12)


@pytest.mark.parametrize("name", EVERY)
def test_a_roles_policy_fits_into_iam(name: str) -> None:
    """An ARN of a queue has at most 45 + 80 characters; all inline policies of a role 10,240."""
    for logical, role in resources(name, "AWS::IAM::Role").items():
        text = json.dumps(role["Properties"]["Policies"], separators=(",", ":"))
        arns = text.count('{"Fn::GetAtt"')
        assert len(re.sub(r'\{"Fn::GetAtt":\[[^]]*\]\}', "", text)) + arns * 128 <= 10_240, logical


@pytest.mark.parametrize("name", ALL)
def test_functions_are_of_a_size_that_lambda_has(name: str) -> None:
    """https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
    for logical, function in resources(name, "AWS::Lambda::Function").items():
        properties = function["Properties"]
        assert 128 <= properties["MemorySize"] <= 10_240, logical
        assert 1 <= properties["Timeout"] <= 900, logical
        variables = properties["Environment"]["Variables"]
        # A reference becomes an ARN or a URL of at most 200 characters.
        sizes = [
            len(key) + (len(value) if isinstance(value, str) else 200) for key, value in variables.items()
        ]
        assert sum(sizes) <= 4096 + 400, logical


@pytest.mark.parametrize("name", ALL)
def test_the_api_function_ends_before_api_gateway_gives_up(name: str) -> None:
    function = resources(name, "AWS::Lambda::Function")["ApiFunction"]["Properties"]
    assert function["Timeout"] <= 29
    assert resources(name, "AWS::Lambda::Function")["SweepFunction"]["Properties"]["Timeout"] <= 60


@pytest.mark.parametrize("name", EVERY)
def test_a_queue_before_a_function_stays_invisible_for_six_times_its_timeout(name: str) -> None:
    document = stack_of(name).template.document["Resources"]
    functions = resources(name.split(":")[0], "AWS::Lambda::Function")
    for mapping in resources(name, "AWS::Lambda::EventSourceMapping").values():
        properties = mapping["Properties"]
        assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        function = functions[properties["FunctionName"]["Ref"].removesuffix("Arn")]["Properties"]
        queue = document[properties["EventSourceArn"]["Fn::GetAtt"][0]]["Properties"]
        window = properties.get("MaximumBatchingWindowInSeconds", 0)
        assert queue["VisibilityTimeout"] >= 6 * function["Timeout"] + window
        assert properties["BatchSize"] <= 10 or window >= 1


@pytest.mark.parametrize("name", EVERY)
def test_every_queue_is_encrypted_and_keeps_messages_for_a_fortnight(name: str) -> None:
    key = CONFIGS[name.split(":")[0]][1].get("kmsKeyArn")
    for logical, queue in resources(name, "AWS::SQS::Queue").items():
        encryption = {"KmsMasterKeyId": key} if key else {"SqsManagedSseEnabled": True}
        assert encryption.items() <= queue["Properties"].items(), logical
        assert queue["Properties"]["MessageRetentionPeriod"] == contract.QUEUE_RETENTION_SECONDS, logical


@pytest.mark.parametrize("name", EVERY)
def test_nothing_piles_up_fails_or_gets_lost_without_an_alarm(name: str) -> None:
    document = stack_of(name).template.document["Resources"]
    topic = "AlarmTopicArn" if name in RUNTIMES else "AlarmTopic"
    watched: dict[str, str] = {}
    for alarm in resources(name, "AWS::CloudWatch::Alarm").values():
        properties = alarm["Properties"]
        assert properties["TreatMissingData"] == "notBreaching"
        assert properties["AlarmActions"] == [{"Ref": topic}]
        for dimension in properties["Dimensions"]:
            if isinstance(dimension["Value"], str):
                continue  # what another stack makes
            target = dimension["Value"].get("Ref") or dimension["Value"]["Fn::GetAtt"][0]
            assert target in document or target == "AWS::StackName"
            watched[target] = properties["MetricName"]
    for logical in resources(name, "AWS::Lambda::Function"):
        assert watched[logical] == "Errors"
    assert set(resources(name, "AWS::SQS::Queue")) <= set(watched)
    # A runtime's own queue may be long, that is what the agents' number follows, but nothing waits for ever.
    assert watched.get("Queue", "ApproximateAgeOfOldestMessage") == "ApproximateAgeOfOldestMessage"
    assert name in RUNTIMES or watched["ApiStage"] == "5XXError"


def test_spots_notices_raise_an_alarm_by_the_rule_of_the_clusters_stack() -> None:
    alarm = resources("guide", "AWS::CloudWatch::Alarm")["SpotInterruptionsAlarm"]["Properties"]
    assert (alarm["Namespace"], alarm["MetricName"]) == ("AWS/Events", "Invocations")
    config = Config.model_validate({"stackName": "a" * 48})
    keys = dict.fromkeys(code_parameters().values(), "a.zip")
    front = front_stack(config, target="aws", model_bucket="m", asset_bucket="a", code_keys=keys)
    (dimension,) = front.template.document["Resources"]["SpotInterruptionsAlarm"]["Properties"]["Dimensions"]
    cluster = cluster_stack(config, model_bucket="m").template.document["Resources"]
    rule = cluster["SpotInterruptionRule"]["Properties"]
    assert rule["EventPattern"]["detail-type"] == ["EC2 Spot Instance Interruption Warning"]
    assert dimension == {"Name": "RuleName", "Value": rule["Name"]}
    # https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutRule.html
    assert len(rule["Name"]) <= 64
    assert "SpotInterruptionsAlarm" not in resources("several-runtimes", "AWS::CloudWatch::Alarm")


def test_dead_letters_that_stay_raise_an_alarm_although_nobody_receives_them() -> None:
    alarm = resources("guide:sdruntime", "AWS::CloudWatch::Alarm")["DeadLettersStayAlarm"]["Properties"]
    assert alarm["MetricName"] == "ApproximateNumberOfMessagesVisible"
    assert alarm["Dimensions"][0]["Value"] == {"Fn::GetAtt": ["DeadLetterQueue", "QueueName"]}


def test_an_alarm_on_dead_letters_outlasts_the_pause_between_two_looks() -> None:
    queue = resources("guide:sdruntime", "AWS::SQS::Queue")["DeadLetterQueue"]["Properties"]
    alarm = resources("guide:sdruntime", "AWS::CloudWatch::Alarm")["DeadLetterQueueAlarm"]["Properties"]
    assert alarm["Period"] > queue["VisibilityTimeout"]
    assert alarm["Period"] % 60 == 0


def subscriptions(name: str) -> dict[str, Any]:
    """Return the subscriptions of queues; the others are mails."""
    found = resources(name, "AWS::SNS::Subscription").items()
    return {logical: body for logical, body in found if body["Properties"]["Protocol"] != "email"}


@pytest.mark.parametrize("name", EVERY)
def test_a_message_that_a_queue_does_not_take_goes_to_the_unrouted_queue(name: str) -> None:
    queue = {"Ref": "UnroutedQueueArn"} if name in RUNTIMES else {"Fn::GetAtt": ["UnroutedQueue", "Arn"]}
    for logical, subscription in subscriptions(name).items():
        assert subscription["Properties"]["RedrivePolicy"] == {"deadLetterTargetArn": queue}, logical
    policy = resources(name.split(":")[0], "AWS::SQS::QueuePolicy")["UnroutedQueuePolicy"]["Properties"][
        "PolicyDocument"
    ]
    [statement] = policy["Statement"]
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Ref": "InputTopic"}}}


@pytest.mark.parametrize("name", EVERY)
def test_no_resource_policy_lets_anybody_in_but_the_services_that_must(name: str) -> None:
    kinds = ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy", "AWS::S3::BucketPolicy")
    found = [policy for kind in kinds for policy in resources(name, kind).values()]
    assert len({policy["Type"] for policy in found}) == (1 if name in RUNTIMES else len(kinds))
    conditions = {
        "sns.amazonaws.com": ("ArnEquals", "aws:SourceArn"),
        "cloudwatch.amazonaws.com": ("StringEquals", "aws:SourceAccount"),
    }
    for policy in found:
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow":
                operator, key = conditions[statement["Principal"]["Service"]]
                assert key in statement["Condition"][operator]
    policies = resources(name, "AWS::SNS::TopicPolicy").values()
    covered = [topic["Ref"] for policy in policies for topic in policy["Properties"]["Topics"]]
    assert sorted(covered) == sorted(resources(name, "AWS::SNS::Topic"))


def test_a_runtimes_queue_gives_up_only_long_after_the_agent() -> None:
    queue = resources("several-runtimes:comfy", "AWS::SQS::Queue")["Queue"]["Properties"]
    assert queue["VisibilityTimeout"] == 30
    assert queue["RedrivePolicy"]["maxReceiveCount"] == 5 + 20


@pytest.mark.parametrize("name", EVERY)
def test_every_subscription_goes_to_a_queue_that_lets_the_topic_in(name: str) -> None:
    policies = resources(name, "AWS::SQS::QueuePolicy")
    allowed = {policy["Properties"]["Queues"][0]["Ref"]: logical for logical, policy in policies.items()}
    for logical, subscription in subscriptions(name).items():
        properties = subscription["Properties"]
        assert properties["Protocol"] == "sqs"
        queue, attribute = properties["Endpoint"]["Fn::GetAtt"]
        assert attribute == "Arn", logical
        assert subscription["DependsOn"] == allowed[queue]
        assert "RawMessageDelivery" not in properties


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_filter_policy_is_one_that_sns_takes(name: str) -> None:
    """https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html"""
    for subscription in resources(name, "AWS::SNS::Subscription").values():
        policy = subscription["Properties"]["FilterPolicy"]
        assert subscription["Properties"]["FilterPolicyScope"] == "MessageAttributes"
        members = policy.get("$or", [policy])
        assert all(isinstance(rules, list) for member in members for rules in member.values())
        assert len({key for member in members for key in member}) <= 5
        combinations = 1
        for member in members:
            for rules in member.values():
                combinations *= len(rules)
        assert combinations <= 150


@pytest.mark.parametrize("name", ALL)
def test_the_deployment_waits_for_the_whole_api_and_every_route_reaches_the_function(name: str) -> None:
    document = rendered(name).template.document["Resources"]
    (deployment,) = resources(name, "AWS::ApiGateway::Deployment").values()
    parts = resources(name, "AWS::ApiGateway::Method") | resources(name, "AWS::ApiGateway::GatewayResponse")
    assert set(deployment["DependsOn"]) == set(parts)
    for logical, method in resources(name, "AWS::ApiGateway::Method").items():
        integration = method["Properties"]["Integration"]
        assert integration["Type"] == "AWS_PROXY", logical
        assert "ApiFunction.Arn" in integration["Uri"]["Fn::Sub"], logical
        resource = method["Properties"]["ResourceId"]
        assert resource.get("Ref") in document or resource == {"Fn::GetAtt": ["RestApi", "RootResourceId"]}


def test_work_needs_a_key_and_wrong_methods_and_paths_reach_the_function_without_one() -> None:
    keyed, keyless = set(), set()
    document = rendered("guide").template.document["Resources"]
    for method in resources("guide", "AWS::ApiGateway::Method").values():
        properties = method["Properties"]
        path, resource = [], properties["ResourceId"].get("Ref")
        while resource:
            path.insert(0, document[resource]["Properties"]["PathPart"])
            resource = document[resource]["Properties"]["ParentId"].get("Ref")
        entry = (properties["HttpMethod"], "/".join(path))
        (keyed if properties["ApiKeyRequired"] else keyless).add(entry)
    assert keyed == {
        ("POST", "v1alpha1"), ("POST", "v1alpha2"), ("GET", "v1alpha2/tasks"), ("GET", "v1alpha2/tasks/{id}"),
        ("POST", "v1alpha2/tasks/{id}/cancel"), ("POST", "v1alpha2/tasks/{id}/retry"),
        ("POST", "v1alpha2/uploads"),
    }  # fmt: skip
    assert keyless == {("ANY", path) for _, path in keyed} | {("ANY", ""), ("ANY", "{proxy+}")}


def test_every_gateway_response_speaks_the_apis_own_words() -> None:
    answers = {}
    for response in resources("guide", "AWS::ApiGateway::GatewayResponse").values():
        properties = response["Properties"]
        body = json.loads(properties["ResponseTemplates"]["application/json"])
        assert set(body["error"]) == {"code", "message", "fields"}
        assert body["error"]["fields"] == []
        answers[properties["ResponseType"]] = (properties["StatusCode"], body["error"]["code"])
    assert answers["INVALID_API_KEY"] == ("401", "unauthorized")
    assert answers["THROTTLED"] == answers["QUOTA_EXCEEDED"] == ("429", "throttled")
    assert answers["REQUEST_TOO_LARGE"] == ("413", "too_large")
    assert answers["UNSUPPORTED_MEDIA_TYPE"] == ("415", "unsupported_media_type")
    assert answers["DEFAULT_4XX"] == ("400", "invalid_task")
    assert answers["DEFAULT_5XX"] == ("500", "internal")


def test_the_deployments_id_follows_the_api_and_nothing_else(tmp_path: Path) -> None:
    def deployment(**changes: Any) -> str:
        (logical,) = resources("guide", "AWS::ApiGateway::Deployment", **changes)
        return logical

    first = deployment()
    assert deployment(APIGW={"throttle": {"rateLimit": 1}}) == first
    assert deployment(modelsRuntime=[{"name": "other", "type": "comfyui"}]) == first
    # The description is part of the REST API itself.
    assert deployment(stackName="other") != first


def test_a_stage_never_limits_what_a_key_may_do() -> None:
    (stage,) = resources("several-runtimes", "AWS::ApiGateway::Stage").values()
    (settings,) = stage["Properties"]["MethodSettings"]
    assert (settings["ThrottlingRateLimit"], settings["ThrottlingBurstLimit"]) == (2500.5, 5000)


def test_the_output_bucket_outlives_the_stack_on_aws_only() -> None:
    on_aws = resources("guide", "AWS::S3::Bucket")["OutputBucket"]
    assert (on_aws["DeletionPolicy"], on_aws["UpdateReplacePolicy"]) == ("RetainExceptOnCreate", "Retain")
    local = resources("several-runtimes", "AWS::S3::Bucket")["OutputBucket"]
    assert (local["DeletionPolicy"], local["UpdateReplacePolicy"]) == ("Delete", "Delete")
    rules = on_aws["Properties"]["LifecycleConfiguration"]["Rules"]
    assert [(rule["Prefix"], rule["ExpirationInDays"]) for rule in rules if "Prefix" in rule] == [
        (".sdctl/", 31)
    ]


def test_the_index_holds_all_that_a_listed_task_shows_but_not_its_body() -> None:
    from sdctl import task_record

    (table,) = resources("guide", "AWS::DynamoDB::Table").values()
    indexes = {index["IndexName"]: index for index in table["Properties"]["GlobalSecondaryIndexes"]}
    listed = set(indexes["by_runtime"]["Projection"]["NonKeyAttributes"]) | {"id", "runtime", "listing"}
    fields = set(task_record.task_object(task_record.Row(id="a", runtime="b", status="queued")))
    assert fields <= listed
    assert not {"body", "body_key", "hash"} & listed
    # https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html
    assert len(listed) - 3 <= 100


def test_values_cannot_break_out_of_their_place() -> None:
    nasty = 'a "b" ${AWS::Region} {{ssm:secret}} {{{\u0085\u2028: {c.safetensors'
    runtime = RuntimeConfig.model_validate({"name": "a", "type": "sdwebui", "modelFilename": nasty})
    text = registration(runtime)
    assert "{{" not in text
    assert json.loads(text)["checkpoint"] == nasty


def test_the_functions_find_every_runtime_where_its_stack_lists_it() -> None:
    path = variables("several-runtimes", "ApiFunction")["RUNTIMES_PATH"]
    for name in ("sd-1", "sd1", "comfy"):
        (entry,) = resources(f"several-runtimes:{name}", "AWS::SSM::Parameter").values()
        assert entry["Properties"]["Name"] == f"{path}/{name}"
        assert json.loads(entry["Properties"]["Value"])["name"] == name
    assert set(variables("several-runtimes", "UnroutedFunction")) == {"RUNTIMES_PATH", "UNROUTED_QUEUE_URL"}


@pytest.mark.parametrize("name", RUNTIMES)
def test_a_runtime_is_listed_last_and_taken_off_the_list_first(name: str) -> None:
    (entry,) = resources(name, "AWS::SSM::Parameter").values()
    mapping = "AWS::Lambda::EventSourceMapping"
    assert set(entry["DependsOn"]) == set(resources(name, "AWS::SNS::Subscription")) | set(
        resources(name, mapping)
    )


def test_a_runtime_can_come_and_go_without_another_stack_being_touched() -> None:
    one = rendered("guide").template.body
    assert rendered("guide", modelsRuntime=[{"name": "other", "type": "comfyui"}]).template.body == one


@pytest.mark.parametrize("name", RUNTIMES)
def test_every_parameter_of_a_runtimes_stack_is_used_and_given_by_another_stack(name: str) -> None:
    stack, front = RUNTIMES[name], rendered(name.split(":")[0])
    body = stack.template.body
    outputs = {
        stack_name: set(template.document["Outputs"])
        for stack_name, template in [(front.name, front.template)]
    }
    for parameter, value in stack.parameters.items():
        assert f'{{"Ref":"{parameter}"}}' in body or f"${{{parameter}}}" in body, parameter
        assert isinstance(value, Output)
        assert value.name in outputs.get(value.stack, {"ClusterName"}), parameter
    assert set(stack.parameters) == set(stack.template.document["Parameters"])


def test_only_on_aws_has_the_agent_a_role_and_only_its_own_pod_may_take_it() -> None:
    assert not resources("several-runtimes:comfy", "AWS::IAM::Role")
    (role,) = resources("everything:a-runtime", "AWS::IAM::Role").values()
    [trust] = role["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "pods.eks.amazonaws.com"}
    tags = {key.rpartition("/")[2]: value for key, value in trust["Condition"]["StringEquals"].items()}
    assert tags.pop("eks-cluster-arn")["Fn::Sub"].endswith(":cluster/${ClusterName}")
    assert tags == {"kubernetes-namespace": "pictures", "kubernetes-service-account": "a-runtime"}
    (association,) = resources("everything:a-runtime", "AWS::EKS::PodIdentityAssociation").values()
    assert association["Properties"]["Namespace"] == "pictures"
    assert association["Properties"]["ServiceAccount"] == "a-runtime"


def test_the_dead_letters_function_reads_the_queues_of_runtimes_whatever_their_names_become() -> None:
    (queues,) = [
        resource["Fn::Sub"]
        for role, statement in statements("everything")
        if role == "DeadLettersRole" and "sqs:ReceiveMessage" in statement["Action"]
        for resource in statement["Resource"]
    ]
    pattern = queues.rpartition(":")[2]
    assert pattern == "a-stack-with-a-rather-lo*"
    assert RUNTIMES["everything:a-runtime"].name.startswith(pattern.removesuffix("*"))


@pytest.mark.parametrize("name", ALL)
def test_traces_are_written_from_the_api_to_the_queue_or_nowhere(name: str) -> None:
    target, document = CONFIGS[name]
    is_traced = target == "aws" and document.get("tracing", True)
    body = rendered(name).template.body
    functions = resources(name, "AWS::Lambda::Function").values()
    assert all(("TracingConfig" in one["Properties"]) is is_traced for one in functions)
    stages = resources(name, "AWS::ApiGateway::Stage").values()
    assert all(one["Properties"].get("TracingEnabled", False) is is_traced for one in stages)
    assert ("xray" in body) is is_traced
    for policy in resources(name, "AWS::XRay::ResourcePolicy").values():
        (statement,) = json.loads(policy["Properties"]["PolicyDocument"]["Fn::Sub"])["Statement"]
        assert statement["Condition"]["ArnEquals"]["aws:SourceArn"] == ["${InputTopic}", "${OutputTopic}"]


def test_a_key_of_the_accounts_own_protects_all_that_is_stored() -> None:
    key = CONFIGS["everything"][1]["kmsKeyArn"]
    front = rendered("everything").template.document["Resources"]
    for logical, topic in resources("everything", "AWS::SNS::Topic").items():
        assert topic["Properties"]["KmsMasterKeyId"] == key, logical
    for logical, group in resources("everything", "AWS::Logs::LogGroup").items():
        assert group["Properties"]["KmsKeyId"] == key, logical
    assert front["TaskTable"]["Properties"]["SSESpecification"]["KMSMasterKeyId"] == key
    (rule,) = front["OutputBucket"]["Properties"]["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"]["KMSMasterKeyID"] == key
    users = {role for name in ("everything", "everything:a-runtime") for role, statement in statements(name)
             if statement["Resource"] == [key]}  # fmt: skip
    assert users == {"ApiRole", "DeadLettersRole", "SweepRole", "UnroutedRole", "AgentRole"}


def test_inputs_may_be_read_from_the_buckets_that_are_named_and_from_no_pattern() -> None:
    (readable,) = [
        [resource["Fn::Sub"] for resource in statement["Resource"]]
        for _, statement in statements("everything:a-runtime")
        if "s3:GetObject" in statement["Action"]
    ]
    buckets = [arn.removeprefix("arn:${AWS::Partition}:s3:::") for arn in readable]
    assert buckets == ["${OutputBucket}/*", "inputs/*"]


def test_a_domain_of_the_users_own_becomes_the_endpoint() -> None:
    outputs = rendered("everything").template.document["Outputs"]
    assert outputs["FrontApiEndpoint"]["Value"] == {"Fn::Sub": "https://${ApiDomain}/"}
    assert outputs["CustomDomainTarget"]["Value"] == {"Fn::GetAtt": ["ApiDomain", "RegionalDomainName"]}
    (mapping,) = resources("everything", "AWS::ApiGateway::BasePathMapping").values()
    assert mapping["Properties"]["Stage"] == {"Ref": "ApiStage"}
    assert not resources("guide", "AWS::ApiGateway::DomainName")


def test_mails_of_alarms_go_where_they_are_wanted() -> None:
    (mail,) = [body["Properties"] for body in resources("everything", "AWS::SNS::Subscription").values()
               if body["Properties"]["Protocol"] == "email"]  # fmt: skip
    assert (mail["TopicArn"], mail["Endpoint"]) == ({"Ref": "AlarmTopic"}, "me@example.com")


@pytest.mark.parametrize("name", ALL)
def test_the_dashboard_is_json_and_names_only_what_the_template_has(name: str) -> None:
    document = rendered(name).template.document["Resources"]
    (dashboard,) = resources(name, "AWS::CloudWatch::Dashboard").values()
    text = dashboard["Properties"]["DashboardBody"]["Fn::Sub"]
    for reference in re.findall(r"\$\{([A-Za-z]+)[.}]", text):
        assert reference in document
    for widget in json.loads(text)["widgets"]:
        assert widget["x"] + widget["width"] <= 24
        assert widget["properties"]["metrics"]
    assert not re.search("|".join(one.name for one in Config.model_validate(CONFIGS[name][1]).runtimes), text)


def test_an_output_is_resolved_wherever_it_stands_and_missed_by_name() -> None:
    output = Output("a-stack", "Name")
    assert output.placeholder == "${a-stack.Name}"
    nested = {"list": [output, 1], "pair": (output, "x"), "map": {"key": output}, "text": "same"}
    assert resolve(nested, {"a-stack": {"Name": "value"}}) == {
        "list": ["value", 1], "pair": ("value", "x"), "map": {"key": "value"}, "text": "same",
    }  # fmt: skip
    for outputs in ({}, {"a-stack": {"Other": "x"}}):
        with pytest.raises(NotFoundError, match="the stack a-stack has no output Name") as caught:
            resolve([output], outputs)
        assert caught.value.hint == "run sdctl deploy"


def test_a_message_with_both_attributes_goes_by_its_runtime() -> None:
    policy = filter_policy(Config().runtimes[0])
    assert policy == {
        "$or": [
            {"runtime": [{"equals-ignore-case": "sdruntime"}]},
            {
                "sd_model_checkpoint": [{"equals-ignore-case": "v1-5-pruned-emaonly.safetensors"}],
                "runtime": [{"exists": False}],
            },
        ]
    }


@given(st.lists(st.from_regex(contract.NAME_PATTERN, fullmatch=True), unique=True, min_size=2, max_size=8))
def test_no_two_names_share_a_logical_id(names: list[str]) -> None:
    ids = [logical_id(name) for name in names]
    assert len(set(ids)) == len(ids)
    assert all(text.isalnum() for text in ids)


def test_names_that_look_alike_have_their_own_ids() -> None:
    names = ["a-b", "ab", "adashb", "a--b", "a-1", "a1"]
    assert len({logical_id(name) for name in names}) == len(names)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(JSON_VALUES)
def test_the_json_filter_means_the_same_in_yaml(value: Any) -> None:
    import yaml

    from sdctl.render.engine import _loader, to_json

    assert yaml.load(f"key: {to_json(value)}", Loader=_loader()) == {"key": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {{ missing | json }}\n", "t.yaml.j2:2: 'missing' is undefined"),
        ("a: 1\nb: {{ value }}\n", "t.yaml.j2:2: a int is written without the json filter"),
        ("a: 1\n{% for x in %}\n", "t.yaml.j2:2: "),
        ("a: 1\nb: [1\n", "t.yaml.j2, rendered line 3: "),
        ("a: 1\nb: 2\na: 3\n", "t.yaml.j2, rendered line 3: key a twice: a: 3"),
        ("- 1\n", "t.yaml.j2: renders to list, not to a mapping"),
    ],
)
def test_a_mistake_in_a_template_is_blamed_on_its_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.yaml.j2").write_text(text)
    with pytest.raises(RenderError) as caught:
        render_yaml("t.yaml.j2", {"value": 1}, folder=tmp_path)
    assert caught.value.message.startswith(message)


def test_the_stack_is_named_and_tagged_as_the_guide_wants() -> None:
    stack = rendered("several-runtimes")
    assert stack.name == "farmStack"
    assert stack.tags == {"team": "art", "sdctl:stack": "farm"}
    assert set(stack.parameters) == {"AssetBucket", "ModelBucket", *code_parameters()}
