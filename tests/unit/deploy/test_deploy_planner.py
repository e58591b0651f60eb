"""The plans of deploy and destroy, from observed states that no account is needed for."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sdctl.clients.cloudformation import StackState, StackView, classify
from sdctl.config.model import Config
from sdctl.deploy.bundle import Bundle
from sdctl.deploy.display import plan_document, plan_rows
from sdctl.deploy.planner import Observed, bucket_name, plan_deploy
from sdctl.deploy.steps import ObjectsStep, Plan, StackStep
from sdctl.errors import AwsError, ConfigError, NotFoundError
from sdctl.render.stacks import code_parameters, outputs_in, resolve

EMPTY = Observed(account="123456789012", region="us-west-2", asset_bucket="assets", model_bucket="models")
BUNDLES = {
    name: Bundle(name, f"{name}.handler.handle", f"zip of {name}".encode(), f"{number:064x}")
    for number, name in enumerate(code_parameters().values())
}


def plan(observed: Observed = EMPTY, config: Config | None = None, target: str = "local") -> Plan:
    return plan_deploy(config or Config(), observed, target=target, bundles=BUNDLES)


def front(made: Plan) -> StackStep:
    return next(step for step in made.steps if isinstance(step, StackStep))


def deployed(status: str = "CREATE_COMPLETE") -> Observed:
    """What is observed after the default configuration was deployed; `status` is the front's."""
    steps = [step for step in plan().steps if isinstance(step, StackStep)]
    outputs = {"sdoneksStack": {output.name: output.name for output in outputs_in(steps[-1].parameters)}}
    return replace(
        EMPTY,
        bucket_regions={"assets": "us-west-2", "models": "us-west-2"},
        asset_keys=frozenset(f"functions/{name}-{item.sha256}.zip" for name, item in BUNDLES.items()),
        stacks={
            step.name: StackView(
                step.name,
                "arn",
                status if step.id == "front" else "CREATE_COMPLETE",
                parameters=resolve(step.parameters, outputs),
                tags=step.tags,
                outputs=outputs.get(step.name, {}),
            )
            for step in steps
        },
        templates={step.name: json.loads(step.body) for step in steps},
    )


def actions(made: Plan) -> dict[str, str]:
    return {step.id: step.action for step in made.steps}


def test_nothing_there_means_everything_is_created_in_order() -> None:
    made = plan()
    assert actions(made) == dict.fromkeys(
        ["asset-bucket", "model-bucket", "functions", "front", "runtime-sdruntime"], "create"
    )
    seen: set[str] = set()
    for step in made.steps:
        assert seen.issuperset(step.needs)
        seen.add(step.id)


def test_a_deployed_configuration_leaves_nothing_to_do() -> None:
    made = plan(deployed())
    assert set(actions(made).values()) == {"none"}
    assert made.changes == ()


def test_a_new_zip_is_uploaded_and_changes_its_parameter_alone() -> None:
    bundles = BUNDLES | {"sdctl_api": Bundle("sdctl_api", "h", b"new", "f" * 64)}
    made = plan_deploy(Config(), deployed(), target="local", bundles=bundles)
    (objects,) = (step for step in made.steps if isinstance(step, ObjectsStep))
    assert objects.objects == {f"functions/sdctl_api-{'f' * 64}.zip": b"new"}
    assert front(made).detail == "sdoneksStack: ~ApiCodeKey"
    assert front(made).action == "update"


@pytest.mark.parametrize(
    ("document", "shown"),
    [
        ({"APIGW": {"throttle": {"burstLimit": 1}}}, "~UsagePlan"),
        ({"tags": {"team": "art"}}, "~tags"),
        ({"logRetentionDays": 1}, "~ApiLog, ~DeadLettersLog, ~SweepLog, ~UnroutedLog"),
    ],
)
def test_an_update_says_which_resources_change(document: dict[str, Any], shown: str) -> None:
    made = plan(deployed(), Config.model_validate(document))
    assert front(made).action == "update"
    assert front(made).detail.startswith(f"sdoneksStack: {shown}")


def test_a_runtime_comes_and_goes_with_a_stack_of_its_own() -> None:
    other = Config.model_validate({"modelsRuntime": [{"name": "other", "type": "comfyui"}]})
    changed = {step: action for step, action in actions(plan(deployed(), other)).items() if action != "none"}
    assert changed == {"runtime-other": "create", "runtime-sdruntime": "delete"}


@pytest.mark.parametrize(
    ("status", "action", "is_broken", "is_stuck"),
    [
        ("CREATE_COMPLETE", "none", False, False),
        ("UPDATE_ROLLBACK_COMPLETE", "none", False, False),
        ("REVIEW_IN_PROGRESS", "create", False, False),
        ("ROLLBACK_COMPLETE", "create", True, False),
        ("CREATE_FAILED", "create", True, False),
        ("DELETE_FAILED", "create", True, False),
        ("UPDATE_ROLLBACK_FAILED", "update", False, True),
    ],
)
def test_every_state_of_a_stack_has_its_way_out(
    status: str, action: str, is_broken: bool, is_stuck: bool
) -> None:
    step = front(plan(deployed(status)))
    assert (step.action, step.is_broken, step.is_stuck) == (action, is_broken, is_stuck)


@pytest.mark.parametrize("status", ["CREATE_IN_PROGRESS", "UPDATE_ROLLBACK_IN_PROGRESS"])
def test_a_stack_at_work_is_planned_for_after_its_end(status: str) -> None:
    step = front(plan(deployed(status)))
    assert step.action == "update"
    assert step.detail == f"sdoneksStack, after what is under way ({status})"


def test_an_unknown_state_is_an_error_and_never_success() -> None:
    assert classify("DELETE_COMPLETE") is StackState.ABSENT
    with pytest.raises(AwsError, match="BOILING is unknown"):
        classify("BOILING")


def test_a_configured_model_bucket_must_exist_on_aws_and_is_created_on_local() -> None:
    config = Config.model_validate({"modelBucketArn": "arn:aws:s3:::models"})
    assert actions(plan(config=config))["model-bucket"] == "create"
    with pytest.raises(NotFoundError, match="the model bucket models does not exist"):
        plan(config=config, target="aws")
    there = replace(EMPTY, bucket_regions={"models": "us-west-2"})
    assert actions(plan(there, config, "aws"))["model-bucket"] == "none"


def test_a_model_bucket_elsewhere_is_refused() -> None:
    config = Config.model_validate({"modelBucketArn": "arn:aws:s3:::models"})
    with pytest.raises(ConfigError, match="models is in eu-west-1, the deployment in us-west-2"):
        plan(replace(EMPTY, bucket_regions={"models": "eu-west-1"}), config)


def test_names_of_buckets_are_valid_steady_and_differ_by_deployment() -> None:
    name = bucket_name("A" * 48, "model-bucket", "123456789012", "ap-southeast-1")
    assert len(name) <= 63
    assert name == name.lower()
    assert bucket_name("a-", "assets", "1", "r").startswith("a-assets-")
    others = {bucket_name("a", "assets", account, region) for account in "12" for region in ("r", "s")}
    assert len(others) == 4


def test_the_documents_of_a_plan_are_those_of_the_contract() -> None:
    document = plan_document(plan(deployed()))
    assert document["steps"][0] == {
        "id": "asset-bucket", "kind": "bucket", "action": "none", "needs": [], "detail": "assets",
        "minutes": 0.0, "changes": [],
    }  # fmt: skip
    assert {step["kind"] for step in document["steps"]} == {"bucket", "objects", "stack"}
    assert document["critical_path"] == []
    assert plan_rows(plan())[-1] == {
        "action": "create", "kind": "stack", "id": "runtime-sdruntime", "detail": "sdoneks-runtime-sdruntime",
    }  # fmt: skip
    json.dumps(document)
