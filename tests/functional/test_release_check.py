"""What a chart refuses of its values is told before a deploy makes anything."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sdctl.deploy.apply import check_releases
from sdctl.deploy.steps import Plan, ReleaseStep
from sdctl.errors import ToolError
from sdctl.releases import Chart, Release
from sdctl.render.stacks import Output
from support import chart, helm_tools


def step(values: dict[str, Any], action: str = "create", reference: str = str(chart.CHART)) -> ReleaseStep:
    release = Release("one", "images", Chart(reference), values)
    return ReleaseStep(id="release-one", action=action, release=release)


def test_a_chart_that_refuses_its_values_stops_a_deploy_before_its_beginning(tmp_path: Path) -> None:
    environment, helm = {"HOME": str(tmp_path)}, helm_tools.helm(4)
    values = chart.with_changes(
        "sdwebui", {"runtime/queueAgent/sqsQueueUrl": Output("sdoneks-runtime-one", "QueueUrl")}
    )
    check_releases(Plan((step(values),)), helm, environment)
    values["karpenter"]["provisioner"] = {"disruption": {"terminationGracePeriod": "60s"}}
    with pytest.raises(ToolError, match=r"could not render one: .*60s cuts the 150 seconds"):
        check_releases(Plan((step(values),)), helm, environment)


@pytest.mark.parametrize(
    ("action", "reference"), [("none", str(chart.CHART)), ("delete", ""), ("create", "oci://example.com/x")]
)
def test_only_what_is_here_and_changes_is_looked_at(action: str, reference: str, tmp_path: Path) -> None:
    check_releases(Plan((step({"bogus": 1}, action, reference),)), tmp_path / "no-helm", {})
