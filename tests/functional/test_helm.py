"""Real helm, both major versions, against a Kubernetes API of our own: every way that a release can go."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sdctl.clients import helm_commands as commands
from sdctl.clients.helm import Helm, Outcome, digest_of
from sdctl.clients.process import Programs
from sdctl.clients.registries import RegistryLogin
from sdctl.errors import ConflictError, ToolError
from sdctl.releases import Chart, Release
from support import chart_registry, helm_tools
from support.kubernetes_api import KubernetesApi

CHART = Path(__file__).resolve().parents[1] / "support" / "charts" / "small"
GOOD = Release("web", "farm", Chart(str(CHART)), {"image": "web:1"})
BETTER = replace(GOOD, values={"image": "web:2"})
BROKEN = replace(GOOD, values={"image": "web:3", "ready": False})
WRITES = {"POST", "PUT", "PATCH", "DELETE"}


def kubeconfig_of(api: KubernetesApi, token: str = "good") -> dict[str, Any]:
    return {
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [
            {"name": "it", "cluster": {"server": api.url, "certificate-authority-data": api.authority}}
        ],
        "users": [{"name": "it", "user": {"token": token}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
    }  # fmt: skip


@pytest.fixture
def api() -> Iterator[KubernetesApi]:
    with KubernetesApi(ready_seconds=0) as server:
        yield server


# What differs between the major versions is tried with both; the rest with the one that we install.
only_helm_4 = pytest.mark.parametrize("program", [4], indirect=True, ids=["helm4"])


@pytest.fixture(params=[3, 4], ids=["helm3", "helm4"])
def program(request: pytest.FixtureRequest) -> Path:
    return helm_tools.helm(request.param)


@pytest.fixture
def environment(tmp_path: Path) -> Mapping[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path)}


@pytest.fixture
def helm(api: KubernetesApi, program: Path, environment: Mapping[str, str]) -> Iterator[Helm]:
    with Helm(program, environment=environment, kubeconfig=kubeconfig_of(api)) as made:
        yield made


def image(api: KubernetesApi) -> str:
    (found,) = api.objects("Deployment", "farm")
    return str(found["spec"]["template"]["spec"]["containers"][0]["image"])


def statuses(helm: Helm) -> list[str]:
    return [revision.status for revision in helm.history("web", "farm")]


def until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.02)


def is_stored_as(api: KubernetesApi, status: str) -> bool:
    return any(one["metadata"].get("labels", {}).get("status") == status for one in api.objects("Secret"))


def test_a_release_is_installed_left_alone_upgraded_and_uninstalled(api: KubernetesApi, helm: Helm) -> None:
    assert helm.history("web", "farm") == ()
    assert helm.install(GOOD, timeout_seconds=20) is Outcome.INSTALLED
    assert (image(api), helm.is_current(GOOD), helm.is_current(BETTER)) == ("web:1", True, False)
    before = len(api.requests)
    assert helm.install(GOOD, timeout_seconds=20) is Outcome.UNCHANGED
    assert not WRITES & {request.method for request in api.requests[before:]}
    assert helm.install(BETTER, timeout_seconds=20) is Outcome.UPGRADED
    assert (image(api), statuses(helm)) == ("web:2", ["superseded", "deployed"])
    assert helm.releases() == helm.releases("farm") == (
        commands.Listed("web", "farm", 2, "deployed", "small-1.2.3"),
    )  # fmt: skip
    assert helm.uninstall("web", "farm", timeout_seconds=20) is True
    assert helm.uninstall("web", "farm", timeout_seconds=20) is False
    assert api.objects("Deployment") + api.objects("Secret") + api.objects("ConfigMap") == []


def test_a_failing_upgrade_goes_back_to_what_ran(api: KubernetesApi, helm: Helm) -> None:
    helm.install(GOOD, timeout_seconds=20)
    with pytest.raises(ToolError, match=r"helm could not install web: .*deadline exceeded") as caught:
        helm.install(BROKEN, timeout_seconds=3)
    assert (image(api), statuses(helm)) == ("web:1", ["superseded", "failed", "deployed"])
    assert caught.value.hint == "its pods did not become ready: see `kubectl -n farm get pods,events`"
    assert "deadline exceeded" in caught.value.stderr_tail
    assert not helm.is_current(BROKEN)
    assert helm.install(BETTER, timeout_seconds=20) is Outcome.UPGRADED
    assert image(api) == "web:2"


@only_helm_4
def test_a_failing_installation_leaves_nothing(api: KubernetesApi, helm: Helm) -> None:
    with pytest.raises(ToolError, match="helm could not install web"):
        helm.install(BROKEN, timeout_seconds=1)
    assert api.objects("Deployment") + api.objects("Secret") == []
    assert helm.install(GOOD, timeout_seconds=20) is Outcome.INSTALLED


def start_helm(
    api: KubernetesApi, program: Path, tmp_path: Path, release: Release, seconds: int
) -> subprocess.Popen[bytes]:
    """Start helm as someone else would: without a way back."""
    kubeconfig, values = tmp_path / "kubeconfig", tmp_path / "values"
    kubeconfig.write_text(json.dumps(kubeconfig_of(api)))
    values.write_text(json.dumps(release.values))
    version = commands.read_version(
        subprocess.run(
            [str(program), "version", "--short"], check=True, capture_output=True, text=True
        ).stdout
    )
    arguments = commands.upgrade_arguments(
        release, version, values=values, timeout_seconds=seconds, digest="x"
    )
    return subprocess.Popen(
        [str(program), *(word for word in arguments if word not in ("--atomic", "--rollback-on-failure"))],
        env={"KUBECONFIG": str(kubeconfig), "HOME": str(tmp_path), "PATH": "/bin"},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def killed_helm(api: KubernetesApi, program: Path, tmp_path: Path, release: Release, status: str) -> None:
    """Leave a release pending: start helm on something that never becomes ready, and kill it."""
    child = start_helm(api, program, tmp_path, release, 90)
    try:
        until(lambda: is_stored_as(api, status))
    finally:
        child.kill()
        child.wait(10)


def test_an_installation_of_anothers_that_failed_is_installed_over(
    api: KubernetesApi, helm: Helm, program: Path, tmp_path: Path
) -> None:
    assert start_helm(api, program, tmp_path, BROKEN, 1).wait(30) != 0
    assert statuses(helm) == ["failed"]
    assert helm.install(GOOD, timeout_seconds=20) is Outcome.INSTALLED
    assert (image(api), statuses(helm)) == ("web:1", ["superseded", "deployed"])


def test_an_upgrade_that_was_killed_is_taken_back_and_made_again(
    api: KubernetesApi, helm: Helm, program: Path, tmp_path: Path
) -> None:
    helm.install(GOOD, timeout_seconds=20)
    killed_helm(api, program, tmp_path, BROKEN, "pending-upgrade")
    assert statuses(helm) == ["deployed", "pending-upgrade"]
    assert helm.install(BETTER, timeout_seconds=20, is_alone=True) is Outcome.UPGRADED
    assert image(api) == "web:2"
    assert statuses(helm)[-1] == "deployed"


def test_an_installation_that_was_killed_is_removed_and_made_again(
    api: KubernetesApi, helm: Helm, program: Path, tmp_path: Path
) -> None:
    killed_helm(api, program, tmp_path, BROKEN, "pending-install")
    assert statuses(helm) == ["pending-install"]
    assert helm.install(GOOD, timeout_seconds=20, is_alone=True) is Outcome.INSTALLED
    assert (image(api), statuses(helm)) == ("web:1", ["deployed"])


@only_helm_4
def test_what_may_be_anothers_work_is_left_until_it_is_old(
    api: KubernetesApi, program: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    killed_helm(api, program, tmp_path, BROKEN, "pending-install")
    now = [datetime.now(UTC)]
    with Helm(program, environment=environment, kubeconfig=kubeconfig_of(api), now=lambda: now[0]) as helm:
        with pytest.raises(ConflictError, match="another helm is at work on web: it is pending-install"):
            helm.install(GOOD, timeout_seconds=20)
        now[0] += timedelta(seconds=commands.overall_seconds(20) + 5)
        assert helm.install(GOOD, timeout_seconds=20) is Outcome.INSTALLED


@pytest.mark.parametrize("first", [GOOD, None], ids=["upgrade", "installation"])
def test_a_helm_that_is_cancelled_leaves_nothing_pending(
    api: KubernetesApi, program: Path, environment: Mapping[str, str], first: Release | None
) -> None:
    programs, errors = Programs(), list[ToolError]()
    with Helm(program, environment=environment, kubeconfig=kubeconfig_of(api), programs=programs) as helm:
        if first:
            helm.install(first, timeout_seconds=20)

        def work() -> None:
            with pytest.raises(ToolError) as caught:
                helm.install(BROKEN, timeout_seconds=60)
            errors.append(caught.value)

        worker = threading.Thread(target=work)
        worker.start()
        until(lambda: is_stored_as(api, "pending-upgrade" if first else "pending-install"))
        helm.cancel()
        worker.join(30)
    assert len(errors) == 1
    with Helm(program, environment=environment, kubeconfig=kubeconfig_of(api)) as helm:
        assert not any("pending" in status for status in statuses(helm))
        if first:
            assert (image(api), statuses(helm)[-1]) == ("web:1", "deployed")
        assert helm.install(BETTER, timeout_seconds=20) in (Outcome.UPGRADED, Outcome.INSTALLED)


def test_our_own_timeout_leaves_nothing_pending(
    api: KubernetesApi, helm: Helm, monkeypatch: pytest.MonkeyPatch
) -> None:
    helm.install(GOOD, timeout_seconds=20)
    monkeypatch.setattr(commands, "overall_seconds", lambda _: 1.5)
    with pytest.raises(ToolError, match="did not end in time and was stopped"):
        helm.install(BROKEN, timeout_seconds=60)
    assert (image(api), statuses(helm)[-1]) == ("web:1", "deployed")


def test_manifests_are_rendered_without_a_cluster(program: Path, environment: Mapping[str, str]) -> None:
    with Helm(program, environment=environment) as helm:
        text = helm.template(BETTER, kubernetes_version="1.36.0")
    assert 'image: "web:2"' in text
    assert "namespace" not in text


def test_a_pinned_chart_of_a_private_oci_registry_is_installed(
    api: KubernetesApi, program: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    with chart_registry.chart_registry({"mirror/small": chart_registry.Served(CHART)}, tmp_path) as registry:
        login = RegistryLogin(registry.host, chart_registry.USER, chart_registry.PASSWORD)
        mirrored = replace(GOOD, chart=Chart(registry.oci("small"), "1.2.3"))
        kubeconfig = kubeconfig_of(api)
        with Helm(program, environment=environment, kubeconfig=kubeconfig, logins=[login]) as helm:
            assert helm.install(mirrored, timeout_seconds=20) is Outcome.INSTALLED
            missing = replace(GOOD, name="other", chart=Chart(registry.oci("small"), "9.9.9"))
            with pytest.raises(ToolError, match=r"9\.9\.9"):
                helm.install(missing, timeout_seconds=20)
        other = replace(mirrored, name="other")
        for logins in ([], [replace(login, password="another")]):
            stranger = Helm(program, environment=environment, kubeconfig=kubeconfig, logins=logins)
            with stranger, pytest.raises(ToolError, match="could not install other") as caught:
                stranger.install(other, timeout_seconds=20)
            assert caught.value.hint == "the chart's registry refuses: sdctl doctor"
    assert image(api) == "web:1"


def test_a_pinned_chart_of_an_https_repository_is_rendered(
    program: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    with chart_registry.chart_registry(
        {"mirror/small": chart_registry.Served(CHART)}, tmp_path, is_tls=True
    ) as registry:
        trusting = {**environment, "SSL_CERT_FILE": str(registry.authority)}
        listed = replace(GOOD, chart=Chart("small", "1.2.3", registry.repository))
        with Helm(program, environment=trusting) as helm:
            assert 'image: "web:1"' in helm.template(listed, kubernetes_version="1.36.0")


def test_what_helm_3_installed_helm_4_upgrades(api: KubernetesApi, environment: Mapping[str, str]) -> None:
    kubeconfig = kubeconfig_of(api)
    with Helm(helm_tools.helm(3), environment=environment, kubeconfig=kubeconfig) as older:
        older.install(GOOD, timeout_seconds=20)
    with Helm(helm_tools.helm(4), environment=environment, kubeconfig=kubeconfig) as newer:
        assert newer.install(GOOD, timeout_seconds=20) is Outcome.UNCHANGED
        assert newer.install(BETTER, timeout_seconds=20) is Outcome.UPGRADED
    assert image(api) == "web:2"


@only_helm_4
def test_a_field_that_another_program_owns_is_told_as_such(api: KubernetesApi, helm: Helm) -> None:
    helm.install(GOOD, timeout_seconds=20)
    api.edit("Deployment", "web", "farm", {"spec": {"replicas": 7}}, manager="autoscaler")
    with pytest.raises(ToolError, match=r"\.spec\.replicas") as caught:
        helm.install(replace(BETTER, values={"replicas": 2}), timeout_seconds=5)
    assert caught.value.hint == "another program owns these fields: change them there, or in extraValues"


@only_helm_4
def test_two_releases_are_installed_side_by_side(api: KubernetesApi, helm: Helm) -> None:
    outcomes: list[Outcome] = []
    threads = [
        threading.Thread(
            target=lambda name=name: outcomes.append(
                helm.install(replace(GOOD, name=name), timeout_seconds=30)
            )
        )
        for name in ("one", "two", "three")
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert outcomes == [Outcome.INSTALLED] * 3
    assert {one.name for one in helm.releases("farm")} == {"one", "two", "three"}


def test_credentials_without_access_are_told_apart(
    api: KubernetesApi, program: Path, environment: Mapping[str, str]
) -> None:
    api.authenticate = lambda token: token == "good"
    bad = Helm(program, environment=environment, kubeconfig=kubeconfig_of(api, "bad"))
    with bad as helm, pytest.raises(ToolError, match="read the history of web") as caught:
        helm.install(GOOD, timeout_seconds=20)
    assert "access entry" in caught.value.hint


@only_helm_4
def test_a_chart_that_does_not_render_is_named_with_its_line(helm: Helm, tmp_path: Path) -> None:
    (tmp_path / "bad" / "templates").mkdir(parents=True)
    (tmp_path / "bad" / "Chart.yaml").write_text("apiVersion: v2\nname: bad\nversion: 1.0.0\n")
    (tmp_path / "bad" / "templates" / "a.yaml").write_text("{{ .Values.missing.deep }}\n")
    with pytest.raises(ToolError, match=r"bad/templates/a.yaml:1"):
        helm.install(replace(GOOD, chart=Chart(str(tmp_path / "bad"))), timeout_seconds=20)


@only_helm_4
def test_secrets_are_in_no_argument_and_nothing_is_left(
    api: KubernetesApi, program: Path, environment: Mapping[str, str], tmp_path: Path
) -> None:
    log, modes = tmp_path / "log", tmp_path / "modes"
    spy = tmp_path / "helm"
    spy.write_text(
        f'#!/bin/sh\necho "$@" >> {log}\n'
        f'stat -c %a "${{KUBECONFIG%/*}}" "$KUBECONFIG" "$HELM_REGISTRY_CONFIG" >> {modes}\n'
        f'exec {program} "$@"\n'
    )
    spy.chmod(0o755)
    login = RegistryLogin("registry.example", "AWS", "hidden-password")
    release = replace(GOOD, values={"image": "hidden-value"})
    kubeconfig = kubeconfig_of(api, "hidden-token")
    with Helm(spy, environment=environment, kubeconfig=kubeconfig, logins=[login]) as helm:
        helm.install(release, timeout_seconds=20)
    assert "upgrade --install" in log.read_text()
    assert "hidden" not in log.read_text()
    assert modes.read_text().split() == ["700", "600", "600"] * 3
    assert not list(tmp_path.glob("sdctl-helm-*"))
    assert not (tmp_path / "home").exists()


def test_the_digest_stands_for_chart_version_and_values(tmp_path: Path) -> None:
    chart = tmp_path / "chart"
    (chart / "templates").mkdir(parents=True)
    (chart / "Chart.yaml").write_text("name: a")
    release = Release("web", "farm", Chart(str(chart)), {"a": 1, "b": {"c": 2}})
    digests = [digest_of(release), digest_of(replace(release, values={"b": {"c": 2}, "a": 1}))]
    assert digests[0] == digests[1]
    (chart / "templates" / "x.yaml").write_text("x")
    others = [
        digest_of(release),
        digest_of(replace(release, values={"a": 2})),
        digest_of(replace(release, namespace="other")),
        digest_of(replace(release, chart=Chart("oci://r/c", "1.0.0"))),
        digest_of(replace(release, chart=Chart("oci://r/c", "1.0.1"))),
    ]
    assert len({*digests, *others}) == 6
