"""What helm is told, and what is made of its answers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sdctl.clients import helm_commands as commands
from sdctl.clients.helm_commands import HelmVersion, Remedy, Revision
from sdctl.errors import ConflictError, ToolError
from sdctl.releases import Chart, Release

THREE, FOUR = HelmVersion("3.19.0"), HelmVersion("4.3.1")
KEDA = Release("keda", "keda", Chart("keda", "2.20.2", "https://kedacore.github.io/charts"))
KARPENTER = Release("karpenter", "kube-system", Chart("oci://r.example/karpenter", "1.14.1"), skip_crds=True)
NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)


def history(*statuses: str, age_seconds: float = 0, description: str = "") -> list[Revision]:
    at = NOW - timedelta(seconds=age_seconds)
    return [Revision(n, status, "c-1", at, description) for n, status in enumerate(statuses, 1)]


def upgrade(release: Release, version: HelmVersion) -> list[str]:
    return commands.upgrade_arguments(
        release, version, values=Path("/v/values.yaml"), timeout_seconds=600, digest="abc"
    )


def test_an_upgrade_is_pinned_waits_and_goes_back() -> None:
    assert upgrade(KEDA, FOUR) == [
        "upgrade", "--install", "--create-namespace", "--repo", "https://kedacore.github.io/charts",
        "--version", "2.20.2", "--namespace", "keda", "--values", "/v/values.yaml", "--reset-values",
        "--rollback-on-failure", "--wait", "--timeout", "600s", "--history-max", "10",
        "--description", "sdctl abc", "--hide-notes", "--", "keda", "keda",
    ]  # fmt: skip


def test_helm_3_knows_the_way_back_by_another_name() -> None:
    assert "--atomic" in upgrade(KEDA, THREE)
    assert "--rollback-on-failure" not in upgrade(KEDA, THREE)


@pytest.mark.parametrize(
    ("registry", "is_plain"),
    [("127.0.0.1:5000", True), ("localhost:5000", True), ("[::1]:5000", True), ("r.example", False),
     ("127.0.0.1.example", False)],
)  # fmt: skip
def test_only_a_registry_of_this_machine_is_spoken_to_in_the_clear(registry: str, is_plain: bool) -> None:
    release = Release("web", "web", Chart(f"oci://{registry}/sdctl/web", "1.0.0"))
    assert ("--plain-http" in upgrade(release, FOUR)) is is_plain


def test_crds_that_are_a_release_of_their_own_are_left_out() -> None:
    arguments = upgrade(KARPENTER, FOUR)
    assert "--skip-crds" in arguments
    assert "--repo" not in arguments
    assert arguments[-3:] == ["--", "karpenter", "oci://r.example/karpenter"]


def test_rendering_takes_the_clusters_version_and_the_crds() -> None:
    arguments = commands.template_arguments(KEDA, values=Path("/v"), kubernetes_version="1.36.0")
    assert arguments[0] == "template"
    assert "--include-crds" in arguments
    assert arguments[arguments.index("--kube-version") + 1] == "1.36.0"


def test_listing_shows_every_state_with_both() -> None:
    assert "--all" in commands.list_arguments(THREE, "ns")
    assert "--all" not in commands.list_arguments(FOUR, "ns")
    assert "--all-namespaces" in commands.list_arguments(FOUR)


def test_no_name_can_be_taken_for_an_option() -> None:
    odd = Release("--post-renderer=/bin/sh", "ns", Chart("--debug"))
    for arguments in (
        upgrade(odd, FOUR),
        commands.uninstall_arguments(odd.name, "ns", timeout_seconds=1),
        commands.rollback_arguments(odd.name, "ns", 1, timeout_seconds=1),
        commands.history_arguments(odd.name, "ns"),
        commands.template_arguments(odd, values=Path("/v"), kubernetes_version="1.36"),
    ):
        assert arguments.index("--") < arguments.index(odd.name)


def test_our_own_limit_leaves_helm_time_to_fail_and_go_back() -> None:
    assert commands.overall_seconds(600) > 2 * 600


@pytest.mark.parametrize(
    ("text", "version"), [("v3.19.0+g3d8990f\n", "3.19.0"), ("v4.3.1", "4.3.1"), ("v3.14.0-rc.1", "3.14.0")]
)
def test_versions_are_read(text: str, version: str) -> None:
    assert commands.read_version(text) == HelmVersion(version)


@pytest.mark.parametrize("text", ["v3.13.2", "v2.17.0", "v5.0.0", "", "Client: &version.Version"])
def test_a_helm_that_cannot_be_driven_is_refused(text: str) -> None:
    with pytest.raises(ToolError) as caught:
        commands.read_version(text)
    assert caught.value.hint == "sdctl doctor --fix"


@pytest.mark.parametrize(
    ("statuses", "remedy"),
    [
        ((), (Remedy.NONE, 0)),
        (("deployed",), (Remedy.NONE, 0)),
        (("failed",), (Remedy.NONE, 0)),
        (("superseded", "failed"), (Remedy.NONE, 0)),
        (("pending-install",), (Remedy.UNINSTALL, 0)),
        (("failed", "pending-upgrade"), (Remedy.UNINSTALL, 0)),
        (("deployed", "pending-upgrade"), (Remedy.ROLLBACK, 1)),
        (("superseded", "deployed", "failed", "pending-upgrade"), (Remedy.ROLLBACK, 2)),
        (("superseded", "superseded", "failed", "pending-rollback"), (Remedy.ROLLBACK, 2)),
        (("superseded", "uninstalling"), (Remedy.UNINSTALL, 0)),
    ],
)
def test_what_ever_ran_is_gone_back_to_and_never_deleted(
    statuses: tuple[str, ...], remedy: tuple[Remedy, int]
) -> None:
    assert commands.remedy_for(history(*statuses)) == remedy


def test_only_a_pending_operation_can_be_fresh() -> None:
    assert commands.is_fresh(history("pending-upgrade", age_seconds=50), NOW, 60)
    assert not commands.is_fresh(history("pending-upgrade", age_seconds=70), NOW, 60)
    assert not commands.is_fresh(history("failed", age_seconds=0), NOW, 60)
    assert not commands.is_fresh([], NOW, 60)


def test_a_release_holds_what_its_last_good_revision_says() -> None:
    assert commands.holds(history("deployed", description="sdctl abc"), "abc")
    assert not commands.holds(history("deployed", description="sdctl abd"), "abc")
    assert not commands.holds(history("deployed", description="Rollback to 1"), "abc")
    assert not commands.holds(history("deployed", "failed", description="sdctl abc"), "abc")
    assert not commands.holds([], "abc")


def test_a_history_is_read_with_its_nanoseconds_and_zone_in_order() -> None:
    text = """[
      {"revision":2,"updated":"2026-11-22T11:00:00.123456789+01:00","status":"deployed","chart":"c-2",
       "app_version":"","description":"d"},
      {"revision":1,"updated":"2026-11-22T09:00:00Z","status":"superseded","chart":"c-1"}]"""
    first, second = commands.read_history(text)
    assert (first.number, first.description) == (1, "")
    assert second.updated_at == datetime(2026, 11, 22, 10, 0, 0, 123456, tzinfo=UTC)


@pytest.mark.parametrize("text", ["", "null", "{}", "[1]", "WARNING: x"])
def test_an_answer_that_helm_does_not_give_is_an_error(text: str) -> None:
    with pytest.raises(ToolError, match="helm's answer"):
        commands.read_history(text)


@pytest.mark.parametrize(
    ("stderr", "reason", "hint"),
    [
        ("Error: INSTALLATION FAILED: context deadline exceeded", "context deadline exceeded", "get pods"),
        ("x\nError: Kubernetes cluster unreachable: Unauthorized", "unreachable", "access entry"),
        ("Error: secrets is forbidden: User", "forbidden", "too few rights"),
        ("Error: dial tcp: lookup a: no such host", "no such host", "network"),
        ("level=WARN msg=a\nError: values don't meet the specifications of the schema(s)\nkeda:\n- x",
         "keda: - x", "extraValues"),
        ("Segmentation fault", "Segmentation fault", ""),
        ("", "it gave no reason", ""),
    ],
)  # fmt: skip
def test_a_failure_says_why_and_what_to_do(stderr: str, reason: str, hint: str) -> None:
    error = commands.failure("install keda", stderr, namespace="keda")
    assert isinstance(error, ToolError)
    assert error.message.startswith("helm could not install keda: ")
    assert reason in error.message
    assert hint in error.hint
    assert error.stderr_tail == stderr


def test_another_helm_at_work_is_a_conflict() -> None:
    said = "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress"
    assert isinstance(commands.failure("install keda", said), ConflictError)
