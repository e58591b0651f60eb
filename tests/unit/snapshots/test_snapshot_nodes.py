"""What snapshots have to fit: the nodes' architecture, their volumes, and the chart's defaults for both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from sdctl.config.model import Config
from sdctl.errors import UsageError
from sdctl.snapshots import nodes

CHART = Path(__file__).resolve().parents[3] / "charts" / "sd-on-eks"


def config(*karpenter: dict[str, Any]) -> Config:
    runtimes = [
        {"name": f"r{number}", "type": "comfyui", "extraValues": {"karpenter": values}}
        for number, values in enumerate(karpenter)
    ]
    return Config.model_validate({"modelsRuntime": runtimes})


def types(*listed: str, **more: Any) -> dict[str, Any]:
    return {"provisioner": {"instanceType": list(listed), **more}}


def arch(operator: str, *values: str) -> list[dict[str, Any]]:
    return [{"key": "kubernetes.io/arch", "operator": operator, "values": list(values)}]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"x86_64"}),
        (types("g5g.xlarge", "p6e-gb200.36xlarge"), {"arm64"}),
        (types("g4dn.xlarge", "g4ad.xlarge", "gr6.4xlarge", "p5en.48xlarge"), {"x86_64"}),
        (types("g5g.xlarge", "g5.xlarge"), {"arm64", "x86_64"}),
        (types("g5g.xlarge", "g5.xlarge", extraRequirements=arch("In", "arm64")), {"arm64"}),
        (types(extraRequirements=arch("In", "arm64")), {"arm64"}),
        (types(extraRequirements=arch("NotIn", "arm64")), {"x86_64"}),
        (types(), {"arm64", "x86_64"}),
    ],
)
def test_the_architecture_follows_from_instance_types_and_requirements(
    values: dict[str, Any], expected: set[str]
) -> None:
    assert nodes.architectures(config(values).runtimes[0]) == expected


def test_nodes_of_two_architectures_have_no_snapshot_in_common() -> None:
    both = config({}, types("g5g.xlarge"))
    with pytest.raises(UsageError, match="r0: x86_64, r1: arm64") as refused:
        nodes.architecture(both)
    assert "--arch" in refused.value.hint
    assert [one.name for one in nodes.of_architecture(both, "arm64").runtimes] == ["r1"]
    with pytest.raises(UsageError, match="no runtime has nodes with arm64"):
        nodes.of_architecture(config({}), "arm64")


def volume(**values: Any) -> dict[str, Any]:
    return {"nodeTemplate": {"dataVolume": values}}


def test_volumes_are_made_to_fit_and_nothing_else_of_the_values_changes() -> None:
    given = config(
        {}, volume(volumeSize="200Gi"), volume(volumeSize="1Ti", iops=4000), volume(volumeSize="80G")
    )
    assert [nodes.volume_gib(one) for one in given.runtimes] == [None, 200, 1024, 74]
    assert [one.name for one in nodes.too_small(given.runtimes, 120)] == ["r0", "r3"]
    assert nodes.with_volume(given, 120) == given
    cached = config(
        volume(snapshotID="snap-1"), volume(snapshotID="snap-1", volumeSize="200Gi", iops=4000), {}
    )
    before = cached.model_copy(deep=True)
    fitting = nodes.with_volume(cached, 120)
    assert [nodes.volume_gib(one) for one in fitting.runtimes] == [120, 200, None]
    assert fitting.runtimes[0].snapshot_id == "snap-1"
    assert (fitting.runtimes[1:], cached) == (cached.runtimes[1:], before)


def test_the_defaults_are_the_charts() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())["karpenter"]
    assert list(nodes.DEFAULT_INSTANCE_TYPES) == values["provisioner"]["instanceType"]
    assert (
        values["nodeTemplate"]["dataVolume"]["volumeInitializationRate"] == nodes.DEFAULT_RATE_MIB_PER_SECOND
    )
    assert f'"{nodes.DEFAULT_VOLUME_GIB}Gi"' in (CHART / "templates" / "ec2nodeclass.yaml").read_text()
    plain, lazy = config({}, volume(volumeInitializationRate=0)).runtimes
    assert (nodes.initialisation_rate(plain), nodes.initialisation_rate(lazy)) == (300, 0)
