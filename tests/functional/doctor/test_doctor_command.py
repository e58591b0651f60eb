"""`sdctl doctor` as people and scripts run it: in this process, and as one without credentials or network."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from sdctl.cli import doctor as command
from sdctl.doctor.check import Check
from sdctl.doctor.facts import NOT_READ
from support.cli import Ran, run, run_process

FIELDS = {"id", "result", "found", "why", "fix"}
# What can be said without asking AWS.
OFFLINE = {"helm", "region", "credentials", "kubernetes-version", "components"}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the dummy credentials away."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)


def put_helm(folder: Path, version: str = "v4.3.1") -> None:
    path = folder / "helm"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def helm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a helm on the PATH."""
    monkeypatch.setenv("PATH", os.environ["PATH"])
    put_helm(tmp_path)


def by_id(ran: Ran) -> dict[str, dict[str, str]]:
    document = ran.document
    assert set(document) == {"checks"}
    assert all(set(check) == FIELDS for check in document["checks"])
    return {check["id"]: check for check in document["checks"]}


def empty_environment(folder: Path) -> dict[str, str]:
    return {
        "HOME": str(folder), "SDCTL_HOME": str(folder / "state"), "PATH": "/nonexistent",
        "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip


def test_without_credentials_what_can_be_checked_is_and_the_rest_is_named(nobody: None, helm: None) -> None:
    ran = run("doctor", "-R", "us-west-2", "-o", "json")
    assert ran.code == 5
    checks = by_id(ran)
    assert checks["credentials"]["result"] == "fail"
    assert "no AWS credentials" in checks["credentials"]["found"]
    assert checks["helm"]["result"] == checks["kubernetes-version"]["result"] == "pass"
    skipped = {name for name, check in checks.items() if NOT_READ.reason in check["found"]}
    assert skipped == checks.keys() - OFFLINE
    assert {checks[name]["result"] for name in skipped} == {"warn"}


def test_as_text_what_was_not_checked_is_one_line_and_each_problem_has_its_fix(nobody: None) -> None:
    ran = run("doctor", "-R", "cn-north-1")
    assert ran.code == 5
    table, _, rest = ran.stdout.partition("\n\n")
    assert table.splitlines()[0].split() == ["RESULT", "CHECK", "FOUND"]
    assert "aws-cn" in table
    assert "quota-g-spot" not in table
    assert "Not checked, since AWS could not be asked: " in rest
    assert "fail credentials: everything is done as" in rest
    assert "\n  fix: sign in" in rest
    assert rest.rstrip().splitlines()[-1].endswith(" failed.")


def test_in_china_nothing_is_asked_that_china_lacks(nobody: None) -> None:
    checks = by_id(run("doctor", "-R", "cn-northwest-1", "-o", "json"))
    assert checks["region"]["found"] == "cn-northwest-1 (partition aws-cn)"
    assert checks["china"]["result"] == "warn"


def test_without_a_region_that_is_what_fails(helm: None) -> None:
    ran = run("doctor", "-o", "json")
    assert ran.code == 5
    assert {name: check["result"] for name, check in by_id(ran).items()} == {"helm": "pass", "region": "fail"}


def test_the_local_target_passes_on_this_machine() -> None:
    ran = run("doctor", "--target", "local", "-o", "json")
    assert ran.code == 0
    checks = by_id(ran)
    assert set(checks) == {"system", "packages", "state-folder", "disk", "ports", "file-limit"}
    assert {check["result"] for check in checks.values()} <= {"pass", "warn"}
    assert "ministack" in checks["packages"]["found"]
    text = run("doctor", "--target", "local")
    assert text.code == 0
    assert text.stdout.rstrip().endswith(" 0 failed.")


def test_a_local_deployments_port_is_looked_at() -> None:
    import socket

    from sdctl.local.target import LocalTarget

    target = LocalTarget(Path(os.environ["SDCTL_HOME"]), "sdoneks", Path.cwd())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        target.state.root.mkdir(parents=True)
        document = {"port": port, "region": "us-east-1", "account_id": "1", "secret_key": "x"}
        target.state.settings.write_text(json.dumps(document))
        check = by_id(run("doctor", "--target", "local", "-o", "json"))["ports"]
    assert check["result"] == "warn"
    assert str(port) in check["found"]


@pytest.mark.parametrize(
    ("results", "code"), [(["pass"], 0), (["pass", "warn"], 0), (["warn", "fail"], 5), ([], 0)]
)
def test_it_ends_with_5_only_where_a_check_fails(
    results: list[Any], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks = [Check(f"c{number}", result, "f", "w", "x") for number, result in enumerate(results)]
    monkeypatch.setattr(command, "examine", lambda config: checks)
    assert run("doctor", "-o", "json").code == code


def test_flags_reach_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(command, "examine", lambda config: seen.append(config) or [])
    ran = run("doctor", "-n", "other", "-b", "my-models", "-s", "snap-0123")
    assert ran.code == 0
    assert (seen[0].stack_name, seen[0].model_bucket) == ("other", "my-models")
    assert seen[0].runtimes[0].snapshot_id == "snap-0123"


def test_a_bad_configuration_is_an_error_of_its_own(folder: Path) -> None:
    (folder / "sdctl.yaml").write_text("stackNam: x\n")
    ran = run("doctor", "-o", "json")
    assert (ran.code, ran.error["code"]) == (3, "config")


def test_fix_installs_helm_and_says_where(
    nobody: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdctl.clients import helm_binary

    def install(home: Path, environment: object) -> tuple[Path, str]:
        path = home / "bin" / "helm"
        path.parent.mkdir(parents=True)
        path.write_text("#!/bin/sh\necho v4.3.1\n")
        path.chmod(0o755)
        return path, "4.3.1"

    monkeypatch.setattr(helm_binary, "install_helm", install)
    ran = run("doctor", "-R", "us-west-2", "--fix")
    assert "installed helm 4.3.1 as " in ran.stderr
    assert "pass    helm" in ran.stdout


def test_fix_leaves_a_good_helm_alone(nobody: None, helm: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from sdctl.clients import helm_binary

    monkeypatch.setattr(helm_binary, "install_helm", lambda *_: pytest.fail("installed"))
    assert "nothing to install: helm 4.3.1" in run("doctor", "-R", "us-west-2", "--fix").stderr


def test_as_a_process_without_credentials_helm_or_network_it_ends_soon_and_in_words(folder: Path) -> None:
    started = time.monotonic()
    env = {**empty_environment(folder), "HTTPS_PROXY": "http://127.0.0.1:1", "AWS_ACCESS_KEY_ID": "x",
           "AWS_SECRET_ACCESS_KEY": "y"}  # fmt: skip
    ran = run_process("doctor", "-R", "us-west-2", "-o", "json", cwd=folder, env=env)
    assert time.monotonic() - started < 20
    assert ran.code == 5
    checks = by_id(ran)
    assert checks["credentials"]["result"] == "fail"
    assert "proxy" in checks["credentials"]["fix"]
    assert checks["helm"]["result"] == "fail"
    assert ran.stderr == ""


def test_a_process_without_credentials_says_so(folder: Path) -> None:
    ran = run_process("doctor", "-R", "eu-central-1", cwd=folder, env=empty_environment(folder))
    assert ran.code == 5
    assert "no AWS credentials were found" in ran.stdout
    assert "Traceback" not in ran.stderr


def test_credentials_do_not_show(folder: Path) -> None:
    env = {**empty_environment(folder), "HTTPS_PROXY": "http://127.0.0.1:1",
           "AWS_ACCESS_KEY_ID": "AKIAVISIBLE", "AWS_SECRET_ACCESS_KEY": "very-hidden"}  # fmt: skip
    ran = run_process("doctor", "-R", "us-west-2", "--verbose", cwd=folder, env=env)
    assert "very-hidden" not in ran.stdout + ran.stderr


def test_a_helm_of_the_path_is_found_and_judged(
    nobody: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.environ["PATH"])
    put_helm(folder, "v3.10.0")
    checks = by_id(run("doctor", "-R", "us-west-2", "-o", "json"))
    assert checks["helm"]["result"] == "fail"
    assert "older than" in checks["helm"]["found"]
