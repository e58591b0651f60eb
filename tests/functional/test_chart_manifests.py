"""What the chart renders, judged as a real API server of each supported version would."""

from __future__ import annotations

import pytest

from support import chart

KUBERNETES = ("1.34", "1.35", "1.36")
# Quick: each file with one version; `full` tries all versions and both majors of helm.
QUICK = [(name, KUBERNETES[index % len(KUBERNETES)], 3 + index % 2) for index, name in enumerate(chart.CI)]
ALL = [(name, version, major) for name in chart.CI for version in KUBERNETES for major in (3, 4)]
REST = [pytest.param(*one, marks=pytest.mark.full) for one in ALL if one not in QUICK]


@pytest.mark.parametrize(("name", "version", "major"), [*QUICK, *REST])
def test_a_strict_api_server_takes_every_object(name: str, version: str, major: int) -> None:
    objects = chart.render(chart.ci_values(name), major=major, kubernetes=f"{version}.0")
    assert objects
    found = [
        f"{one['kind']}: {problem}"
        for one in objects
        if chart.CRDS or one["apiVersion"].partition("/")[0].count(".") == 0
        for problem in chart.problems(one, version)
    ]
    assert found == []


@pytest.mark.skipif(not chart.CRDS, reason="SDCTL_CRD_DIR is not set: no CRDs to judge by")
@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("ScaledObject", ("spec", "scaleOnInFlight"), False, "scaleOnInFlight"),
        ("EC2NodeClass", ("spec", "instanceProfile"), None, "null"),
        ("EC2NodeClass", ("spec", "role"), "another", "mutually exclusive|role"),
        ("EC2NodeClass", ("spec", "amiSelectorTerms"), [{"alias": "bottlerocket"}], "alias"),
        ("NodePool", ("spec", "disruption", "consolidateAfter"), 30, "30"),
        ("NodePool", ("spec", "template", "spec", "requirements", 0, "operator"), "Gt", "x.operator"),
    ],
)
def test_the_judge_refuses_what_a_server_would(
    kind: str, path: tuple[str | int, ...], value: object, said: str
) -> None:
    found = chart.find(chart.render_ci("sdwebui"), kind)
    target = found
    for key in path[:-1]:
        target = target[key]  # type: ignore[index]
    target[path[-1]] = value  # type: ignore[index]
    problems = "\n".join(chart.problems(found, "1.36"))
    assert problems
    assert any(word in problems for word in said.split("|"))


@pytest.mark.parametrize("name", chart.CI)
def test_names_are_the_runtimes_and_every_object_says_whose_it_is(name: str) -> None:
    for one in chart.render_ci(name):
        labels = one["metadata"]["labels"]
        assert labels["app.kubernetes.io/instance"] == chart.RELEASE
        assert labels["app.kubernetes.io/part-of"] == "sdctl"
        is_volume = one["kind"].startswith("PersistentVolume")
        assert is_volume or one["metadata"]["name"] == chart.RELEASE
        is_global = one["kind"] in chart.GLOBAL_KINDS
        assert one["metadata"].get("namespace") == (None if is_global else chart.NAMESPACE)


def test_both_majors_of_helm_render_the_same() -> None:
    for name in chart.CI:
        assert chart.render_ci(name, major=3) == chart.render_ci(name, major=4)
