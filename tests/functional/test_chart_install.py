"""Real helm, both majors, installs, upgrades, takes back and removes each example of the chart."""

from __future__ import annotations

import itertools
import json
import subprocess
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import chart, helm_tools
from support.kubernetes_api import KubernetesApi

# Quick: what differs most, with one major; `full` tries every file with both.
QUICK = [("sdwebui", 4), ("guide", 3), ("comfyui", 3), ("own-cluster", 4), ("working-hours", 4)]
REST = [one for one in itertools.product(chart.CI, (3, 4)) if one not in QUICK]
CASES = [*QUICK, *(pytest.param(*one, marks=pytest.mark.full) for one in REST)]


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi(ready_seconds=0) as server:
        yield server


class Helm:
    """The program, pointed at an API."""

    def __init__(self, major: int, api: KubernetesApi, folder: Path) -> None:
        self.program, self.folder, self.major = helm_tools.helm(major), folder, major
        cluster = {"server": api.url, "certificate-authority-data": api.authority}
        document = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": cluster}],
            "users": [{"name": "it", "user": {"token": "good"}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }  # fmt: skip
        (folder / "kubeconfig").write_text(json.dumps(document))

    def __call__(self, *words: str, values: Mapping[str, Any] | None = None) -> str:
        arguments = [str(self.program), *words, "--namespace", chart.NAMESPACE]
        if values is not None:
            file = self.folder / "values.json"
            file.write_text(json.dumps(values))
            arguments += ["--values", str(file)]
        done = subprocess.run(
            arguments, env={"HOME": str(self.folder), "KUBECONFIG": str(self.folder / "kubeconfig")},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


def stored(api: KubernetesApi, wanted: list[chart.Object]) -> dict[tuple[str, str], Any]:
    """Return what the API has of the objects that are wanted."""
    found = {}
    for one in wanted:
        for there in api.objects(one["kind"]):
            found[one["kind"], there["metadata"]["name"]] = there.get("spec")
    return found


@pytest.mark.parametrize(("name", "major"), CASES)
def test_a_release_is_installed_upgraded_taken_back_and_removed(
    name: str, major: int, api: KubernetesApi, tmp_path: Path
) -> None:
    helm, first = Helm(major, api, tmp_path), chart.ci_values(name)
    wait = ["--wait", "--timeout", "20s"]
    words = [chart.RELEASE, str(chart.CHART)]
    wanted = chart.render(first, major=major)
    said = helm("install", *words, "--create-namespace", *wait, values=first)
    assert f"Runtime {chart.RELEASE}" in said
    assert f'sdctl submit t2i "A dog" --runtime {chart.RELEASE}' in said
    before = stored(api, wanted)
    assert set(before) == {(one["kind"], one["metadata"]["name"]) for one in wanted}

    changes = {"runtime/drainSeconds": 60, "runtime/persistence/s3": {"modelBucket": "other-models"}}
    second = chart.with_changes(name, changes)
    helm("upgrade", *words, *wait, values=second)
    assert stored(api, wanted) != before
    assert agent_drain(api) == "60"

    helm("rollback", chart.RELEASE, "1", *wait)
    assert stored(api, wanted) == before

    helm("uninstall", chart.RELEASE, *wait)
    assert stored(api, wanted) == {}


def agent_drain(api: KubernetesApi) -> str:
    [deployment] = api.objects("Deployment")
    [agent] = deployment["spec"]["template"]["spec"]["containers"]
    return str(next(one["value"] for one in agent["env"] if one["name"] == "DRAIN_SECONDS"))


def test_keda_scales_and_an_upgrade_leaves_its_number_alone(api: KubernetesApi, tmp_path: Path) -> None:
    helm = Helm(4, api, tmp_path)
    words = [chart.RELEASE, str(chart.CHART)]
    helm("install", *words, "--create-namespace", values=chart.ci_values("sdwebui"))
    for replicas in (0, 7):
        scaled = {"spec": {"replicas": replicas}}
        api.edit("Deployment", chart.RELEASE, chart.NAMESPACE, scaled, manager="keda")
        helm("upgrade", *words, values=chart.with_changes("sdwebui", {"runtime/drainSeconds": 30 + replicas}))
        [deployment] = api.objects("Deployment")
        assert deployment["spec"]["replicas"] == replicas


def test_a_pause_outlives_an_upgrade(api: KubernetesApi, tmp_path: Path) -> None:
    helm, paused = Helm(4, api, tmp_path), {"autoscaling.keda.sh/paused-replicas": "0"}
    words = [chart.RELEASE, str(chart.CHART)]
    helm("install", *words, "--create-namespace", values=chart.ci_values("sdwebui"))
    edit = {"metadata": {"annotations": paused}}
    api.edit("ScaledObject", chart.RELEASE, chart.NAMESPACE, edit, manager="sdctl")
    helm("upgrade", *words, values=chart.with_changes("sdwebui", {"runtime/drainSeconds": 30}))
    [found] = api.objects("ScaledObject")
    assert found["metadata"]["annotations"].items() >= paused.items()


@pytest.mark.parametrize("major", [3, pytest.param(4, marks=pytest.mark.full)])
def test_every_example_lints_without_a_warning(major: int, tmp_path: Path) -> None:
    for path in chart.CI.values():
        done = subprocess.run(
            [str(helm_tools.helm(major)), "lint", "--strict", str(chart.CHART), "--values", str(path)],
            env={"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert done.returncode == 0, said
        assert "WARNING" not in said.upper(), said


@pytest.mark.parametrize("major", [3, pytest.param(4, marks=pytest.mark.full)])
def test_the_chart_lints_without_any_values(major: int, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(helm_tools.helm(major)), "lint", str(chart.CHART)],
        env={"HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "[ERROR]" not in done.stdout


def test_a_packaged_chart_is_the_chart_without_its_examples(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    helm = str(helm_tools.helm(4))
    pack = [helm, "package", str(chart.CHART), "--destination", str(tmp_path)]
    subprocess.run(pack, env=environment, capture_output=True, timeout=60, check=True)
    [archive] = tmp_path.glob("sd-on-eks-*.tgz")
    values = tmp_path / "values.json"
    values.write_text(json.dumps(chart.ci_values("comfyui")))
    done = subprocess.run(
        [helm, "template", chart.RELEASE, str(archive), "--namespace", chart.NAMESPACE,
         "--values", str(values), "--kube-version", "1.36.0"],
        env=environment, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert [one for one in yaml.safe_load_all(done.stdout) if one] == chart.render_ci("comfyui")
    with tarfile.open(archive) as packed:
        names = {name.removeprefix("sd-on-eks/") for name in packed.getnames()}
    assert {"README.md", "values.schema.json", "files/custom_nodes.py", "templates/NOTES.txt"} <= names
    assert not [name for name in names if name.startswith("ci")]
