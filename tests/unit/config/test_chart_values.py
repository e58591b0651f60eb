"""What of `extraValues` the chart would refuse is refused with the configuration, before anything is made."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml

from sdctl.config import chart_values, load
from sdctl.config.model import Config
from support.cli import ROOT

AT = "modelsRuntime/0/extraValues"


def problems(extra: dict[str, Any], **more: Any) -> list[str]:
    runtime = {"name": "a", "type": "sdwebui", "extraValues": extra, **more}
    config = Config.model_validate({"modelsRuntime": [runtime]})
    return [f"{path}: {message}" for path, message in chart_values.problems(config)]


def runtime(**values: Any) -> dict[str, Any]:
    return {"runtime": values}


def nodes(**values: Any) -> dict[str, Any]:
    return {"karpenter": {"nodeTemplate": values}}


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (runtime(drainSecond=5), f'{AT}/runtime/drainSecond: unknown key; did you mean "drainSeconds"?'),
        ({"runtimes": {}}, f'{AT}/runtimes: unknown key; did you mean "runtime"?'),
        (
            runtime(scaling={"queueLength": "ten"}),
            f'{AT}/runtime/scaling/queueLength: "ten" is not a whole number',
        ),
        (runtime(drainSeconds=600), f"{AT}/runtime/drainSeconds: 600 is more than 540"),
        (
            runtime(scaling={"minReplicaCount": -1}),
            f"{AT}/runtime/scaling/minReplicaCount: -1 is less than 0",
        ),
        (
            runtime(inferenceApi={"extraEnv": "A=1"}),
            f'{AT}/runtime/inferenceApi/extraEnv: "A=1" is not an object or a list',
        ),
        (
            nodes(amiFamily="AL2"),
            f'{AT}/karpenter/nodeTemplate/amiFamily: "AL2" is not one of Bottlerocket',
        ),
        (nodes(amiVersion="latest"), f'{AT}/karpenter/nodeTemplate/amiVersion: "latest" does not match ^v'),
        ({"types": {"mine": {"port": 1}}}, f"{AT}/types/mine/repository: is required"),
        (runtime(drainSeconds=120), f"{AT}/runtime/drainSeconds: 120 is more than 90, since Spot"),
        (
            runtime(scaling={"minReplicaCount": 30}),
            f"{AT}/runtime/scaling/minReplicaCount: 30 is more than maxReplicaCount, which is 20",
        ),
        (
            {"karpenter": {"provisioner": {"capacityType": {"spot": False, "onDemand": False}}}},
            f"{AT}/karpenter/provisioner/capacityType: neither onDemand nor spot is true",
        ),
        (
            nodes(userData='[settings.container-runtime]\nsnapshotter = "soci"\n'),
            f"{AT}/karpenter/nodeTemplate/userData: imageCache chooses the snapshotter",
        ),
        (
            nodes(userData='commands = [["apiclient", "ephemeral-storage", "init"]]'),
            f"{AT}/karpenter/nodeTemplate/userData: local disks are mounted by Karpenter",
        ),
    ],
)
def test_a_problem_names_its_path_what_was_found_and_what_is_allowed(
    extra: dict[str, Any], line: str
) -> None:
    assert problems(extra)[0].startswith(line)


def test_every_problem_is_told_at_once() -> None:
    extra = {"runtime": {"bogus": 1, "drainSeconds": "x"}, "karpenter": {"other": 1}}
    assert [line.partition(":")[0].removeprefix(f"{AT}/") for line in problems(extra)] == [
        "karpenter/other", "runtime/bogus", "runtime/drainSeconds",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "extra",
    [
        runtime(inferenceApi=None, drainSeconds=None),
        runtime(inferenceApi={"extraEnv": {"A": 1, "B": True}}, queueAgent={"extraEnv": [{"name": "A"}]}),
        {"types": {"comfyui": {"port": 8188}}},
        nodes(userData=None),
        {"karpenter": None},
        {"runtime": {"drainSeconds": 300}, "karpenter": {"enabled": False}},
        {"runtime": {"drainSeconds": 300}, "karpenter": {"provisioner": {"capacityType": {"spot": False}}}},
        {"runtime": {"scaling": {"enabled": False, "minReplicaCount": 30}}},
    ],
)
def test_what_helm_would_take_is_no_problem(extra: dict[str, Any]) -> None:
    assert problems(extra) == []


@pytest.mark.parametrize(
    "path", sorted((ROOT / "charts/sd-on-eks/ci").glob("*.yaml")), ids=lambda path: path.stem
)
def test_the_charts_own_examples_are_no_problem(path: Any) -> None:
    assert problems(yaml.safe_load(path.read_text())) == []


def test_a_chart_of_ones_own_is_not_judged_by_ours() -> None:
    assert problems({"mine": 1}, chartRepository="oci://example.com/charts/mine", chartVersion="1.0.0") == []


def test_the_published_schema_tells_editors_the_charts_values() -> None:
    schema = jsonschema.Draft202012Validator(load.json_schema())
    runtime = {"name": "a", "type": "sdwebui", "extraValues": {"runtime": {"drainSecond": 5}}}
    [error] = schema.iter_errors({"modelsRuntime": [runtime]})
    assert "drainSecond" in error.message
    assert schema.is_valid({"modelsRuntime": [{**runtime, "chartRepository": "oci://example.com/mine"}]})
    partial = {**runtime, "extraValues": {"types": {"comfyui": {"port": 8188}}}}
    assert schema.is_valid({"modelsRuntime": [partial]})
