"""The front's template: what it holds, what cfn-lint says, and what cfn-lint does not look at."""

from __future__ import annotations

import base64
import gzip
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
from sdctl.config.model import Config
from sdctl.errors import ConfigError
from sdctl.render.engine import RenderError, render_yaml
from sdctl.render.stacks import code_parameters, filter_policy, logical_id, runtimes_variable
from support.fronts import CONFIGS, rendered

GOLDEN = Path(__file__).parents[2] / "golden"
REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "cn-north-1", "cn-northwest-1")
ALL = sorted(CONFIGS)


def resources(name: str, kind: str, **changes: Any) -> dict[str, Any]:
    found = rendered(name, **changes).template.document["Resources"].items()
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


@pytest.mark.parametrize("name", ["guide", "several-runtimes"])
def test_the_rendering_is_the_one_that_was_reviewed(name: str) -> None:
    """`UPDATE_GOLDEN=1` writes the files anew."""
    path, text = GOLDEN / f"front-{name}.yaml", rendered(name).template.text
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.slow
def test_cfn_lint_finds_nothing_in_any_region_of_either_partition(tmp_path: Path) -> None:
    paths = []
    for name in ALL:
        path = tmp_path / f"{name}.yaml"
        path.write_text(rendered(name).template.text, encoding="utf-8")
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


@pytest.mark.parametrize("name", ALL)
def test_nothing_names_a_partition(name: str) -> None:
    body = rendered(name).template.body
    assert not re.findall(r"arn:aws\b(?!-cn:iam::123456789012:policy/boundary)", body)
    # Services are principals under one suffix in every partition; hosts are not.
    principals = {"sns", "lambda", "events", "apigateway"}
    assert set(re.findall(r"([a-z0-9.-]+)\.amazonaws\.com", body)) <= principals


@pytest.mark.parametrize("name", ALL)
def test_no_role_may_do_everything_or_touch_everything(name: str) -> None:
    seen = 0
    for logical, statement in statements(name):
        seen += 1
        assert statement["Effect"] == "Allow"
        for action in statement["Action"]:
            assert "*" not in action, logical
        for resource in statement["Resource"]:
            text = resource if isinstance(resource, str) else next(iter(resource.values()))
            assert text != "*", logical
            assert (
                isinstance(text, list) or text.startswith(("${", "arn:${AWS::Partition}")) or "*" not in text
            )
    assert seen >= 12


@pytest.mark.parametrize("name", ALL)
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


@pytest.mark.parametrize("name", ALL)
def test_a_queue_before_a_function_stays_invisible_for_six_times_its_timeout(name: str) -> None:
    document = rendered(name).template.document["Resources"]
    for mapping in resources(name, "AWS::Lambda::EventSourceMapping").values():
        properties = mapping["Properties"]
        assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        function = document[properties["FunctionName"]["Ref"]]["Properties"]
        queue = document[properties["EventSourceArn"]["Fn::GetAtt"][0]]["Properties"]
        window = properties.get("MaximumBatchingWindowInSeconds", 0)
        assert queue["VisibilityTimeout"] >= 6 * function["Timeout"] + window
        assert properties["BatchSize"] <= 10 or window >= 1


@pytest.mark.parametrize("name", ALL)
def test_every_queue_is_encrypted_and_keeps_messages_for_a_fortnight(name: str) -> None:
    for logical, queue in resources(name, "AWS::SQS::Queue").items():
        assert queue["Properties"]["SqsManagedSseEnabled"] is True, logical
        assert queue["Properties"]["MessageRetentionPeriod"] == contract.QUEUE_RETENTION_SECONDS, logical


@pytest.mark.parametrize("name", ALL)
def test_nothing_piles_up_fails_or_gets_lost_without_an_alarm(name: str) -> None:
    document = rendered(name).template.document["Resources"]
    watched: dict[str, str] = {}
    for alarm in resources(name, "AWS::CloudWatch::Alarm").values():
        properties = alarm["Properties"]
        assert properties["TreatMissingData"] == "notBreaching"
        for dimension in properties["Dimensions"]:
            target = dimension["Value"].get("Ref") or dimension["Value"]["Fn::GetAtt"][0]
            assert target in document or target == "AWS::StackName"
            watched[target] = properties["MetricName"]
    for logical in resources(name, "AWS::Lambda::Function"):
        assert watched[logical] == "Errors"
    # A runtime's own queue may be long: that is what the agents' number follows.
    queues = {logical for logical in resources(name, "AWS::SQS::Queue") if not logical.startswith("Queue")}
    assert queues <= set(watched)
    assert watched["ApiStage"] == "5XXError"


def test_an_alarm_on_dead_letters_outlasts_the_pause_between_two_looks() -> None:
    queue = resources("guide", "AWS::SQS::Queue")["DeadLetterQueueSdruntime"]["Properties"]
    alarm = resources("guide", "AWS::CloudWatch::Alarm")["DeadLetterQueueSdruntimeAlarm"]["Properties"]
    assert alarm["Period"] > queue["VisibilityTimeout"]
    assert alarm["Period"] % 60 == 0


@pytest.mark.parametrize("name", ALL)
def test_a_message_that_a_queue_does_not_take_goes_to_the_unrouted_queue(name: str) -> None:
    for logical, subscription in resources(name, "AWS::SNS::Subscription").items():
        policy = subscription["Properties"]["RedrivePolicy"]
        assert policy == {"deadLetterTargetArn": {"Fn::GetAtt": ["UnroutedQueue", "Arn"]}}, logical
    policy = resources(name, "AWS::SQS::QueuePolicy")["UnroutedQueuePolicy"]["Properties"]["PolicyDocument"]
    [statement] = policy["Statement"]
    assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Ref": "InputTopic"}}}


@pytest.mark.parametrize("name", ALL)
def test_no_resource_policy_lets_anybody_in_but_the_services_that_must(name: str) -> None:
    kinds = ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy", "AWS::S3::BucketPolicy")
    found = [policy for kind in kinds for policy in resources(name, kind).values()]
    assert len({policy["Type"] for policy in found}) == len(kinds)
    for policy in found:
        for statement in policy["Properties"]["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow":
                assert statement["Principal"] == {"Service": "sns.amazonaws.com"}
                assert "aws:SourceArn" in statement["Condition"]["ArnEquals"]
    covered = resources(name, "AWS::SNS::TopicPolicy")["TopicsPolicy"]["Properties"]["Topics"]
    assert covered == [{"Ref": logical} for logical in resources(name, "AWS::SNS::Topic")]


def test_a_runtimes_queue_gives_up_only_long_after_the_agent() -> None:
    queues = resources("several-runtimes", "AWS::SQS::Queue")
    assert queues["QueueComfy"]["Properties"]["VisibilityTimeout"] == 30
    assert queues["QueueComfy"]["Properties"]["RedrivePolicy"]["maxReceiveCount"] == 5 + 20


@pytest.mark.parametrize("name", ALL)
def test_every_subscription_goes_to_a_queue_that_lets_the_topic_in(name: str) -> None:
    policies = resources(name, "AWS::SQS::QueuePolicy")
    allowed = {policy["Properties"]["Queues"][0]["Ref"]: logical for logical, policy in policies.items()}
    for logical, subscription in resources(name, "AWS::SNS::Subscription").items():
        properties = subscription["Properties"]
        assert properties["Protocol"] == "sqs"
        queue, attribute = properties["Endpoint"]["Fn::GetAtt"]
        assert attribute == "Arn", logical
        assert subscription["DependsOn"] == allowed[queue]
        assert "RawMessageDelivery" not in properties


@pytest.mark.parametrize("name", ALL)
def test_every_filter_policy_is_one_that_sns_takes(name: str) -> None:
    """https://docs.aws.amazon.com/sns/latest/dg/subscription-filter-policy-constraints.html"""
    filtered = 0
    for logical, subscription in resources(name, "AWS::SNS::Subscription").items():
        policy = subscription["Properties"].get("FilterPolicy")
        if policy is None:
            assert logical == "IntakeSubscription"
            continue
        filtered += 1
        assert subscription["Properties"]["FilterPolicyScope"] == "MessageAttributes"
        members = policy.get("$or", [policy])
        assert all(isinstance(rules, list) for member in members for rules in member.values())
        assert len({key for member in members for key in member}) <= 5
        combinations = 1
        for member in members:
            for rules in member.values():
                combinations *= len(rules)
        assert combinations <= 150
    assert filtered == len(CONFIGS[name][1].get("modelsRuntime", [1])) <= 199


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
    nasty = 'a "b" ${AWS::Region}\u0085\u2028: {c.safetensors'
    runtimes = [{"name": "a", "type": "sdwebui", "modelFilename": nasty}]
    known = json.loads(variables("guide", "ApiFunction", modelsRuntime=runtimes)["RUNTIMES"])
    assert known[0]["checkpoint"] == nasty


def test_a_long_list_of_runtimes_travels_compressed() -> None:
    text = variables("many-runtimes", "ApiFunction")["RUNTIMES"]
    assert text.startswith("gz:")
    assert len(json.loads(gzip.decompress(base64.b64decode(text[3:])))) == 60


def test_runtimes_that_no_environment_can_hold_are_refused_before_aws_does() -> None:
    import random

    chance = random.Random(1)
    names = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz0123456789", k=63)) for _ in range(120)]
    runtimes = [
        {"name": name, "type": "sdwebui", "modelFilename": f"{model}.safetensors"}
        for name, model in zip(names[:60], names[60:], strict=True)
    ]
    with pytest.raises(ConfigError, match="a function has room for"):
        runtimes_variable(Config.model_validate({"modelsRuntime": runtimes}))


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
