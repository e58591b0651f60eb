"""`sdctl iam policy` as a user runs it: offline, one document or several, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sdctl.iam.calls import PURPOSES
from sdctl.iam.policy import MAX_POLICY_CHARACTERS, characters
from support.cli import run, run_process


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_text_and_json_are_the_same_document(purpose: str) -> None:
    text = run("iam", "policy", "--for", purpose, "-R", "us-west-2")
    document = run("iam", "policy", "--for", purpose, "-R", "us-west-2", "-o", "json")
    assert (text.code, document.code) == (0, 0)
    assert json.loads(text.stdout) == document.document
    assert document.document["Version"] == "2012-10-17"


def test_a_document_too_long_for_a_managed_policy_says_so_and_can_be_split() -> None:
    whole = run("iam", "policy", "--for", "deploy", "-R", "us-west-2")
    assert "--split prints several that fit" in whole.stderr
    parts = run("iam", "policy", "--for", "deploy", "-R", "us-west-2", "--split")
    assert parts.stderr == ""
    assert len(parts.document) > 1
    assert all(characters(part) <= MAX_POLICY_CHARACTERS for part in parts.document)
    short = run("iam", "policy", "--for", "submit", "-R", "us-west-2")
    assert short.stderr == ""


def test_it_is_computed_from_the_configuration_of_this_folder() -> None:
    network = {"vpcId": "vpc-0123456789abcdef0", "subnetIds": ["subnet-01234567", "subnet-89abcdef"]}
    Path("sdctl.yaml").write_text(json.dumps({"stackName": "studio", "network": network}))
    text = run("iam", "policy", "--for", "deploy", "-R", "us-west-2", "--account", "123456789012").stdout
    assert "ec2:CreateVpc" not in text
    assert "arn:aws:sns:us-west-2:123456789012:studioStack-*" in text
    renamed = run("iam", "policy", "--for", "deploy", "-R", "us-west-2", "-n", "other").stdout
    assert "studio" not in renamed


def test_the_region_decides_the_partition_and_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "cn-northwest-1")
    text = run("iam", "policy", "--for", "destroy").stdout
    assert "arn:aws-cn:cloudformation:cn-northwest-1:" in text
    assert "arn:aws:" not in text


@pytest.mark.parametrize(
    ("words", "profile", "region"),
    [
        ((), "", "eu-central-1"),
        (("--profile", "studio"), "", "cn-north-1"),
        ((), "studio", "cn-north-1"),
        (("--profile", "kept"), "", "us-west-1"),
        (("-R", "us-west-2"), "studio", "us-west-2"),
    ],
)
def test_a_region_that_nothing_else_names_is_the_profiles(
    words: tuple[str, ...], profile: str, region: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config").write_text(
        "[default]\nregion = eu-central-1\n[profile studio]\nregion=cn-north-1\n[profile kept]\n"
    )
    (tmp_path / "credentials").write_text("[kept]\nregion = us-west-1\naws_secret_access_key = a%b\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    if profile:
        monkeypatch.setenv("AWS_PROFILE", profile)
    assert f":cloudformation:{region}:" in run("iam", "policy", *words).stdout


def test_what_is_no_file_of_profiles_names_no_region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("region = eu-central-1\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    assert run("iam", "policy", "-o", "json").code == 3


def test_without_a_region_nothing_is_guessed() -> None:
    ran = run("iam", "policy", "-o", "json")
    assert ran.code == 3
    assert ran.error["hint"] == "pass -R REGION, or set AWS_DEFAULT_REGION"
    assert ran.stdout == ""


@pytest.mark.parametrize("account", ["12345", "1234567890123", "12345678901x", "\u0661" * 12, ""])
def test_what_is_no_account_is_refused(account: str) -> None:
    assert run("iam", "policy", "-R", "us-west-2", "--account", account).code == 2


def test_it_needs_no_credentials_and_imports_no_client(tmp_path: Path) -> None:
    ran = run_process(
        "iam", "policy", "--for", "submit", "-R", "us-west-2", cwd=tmp_path,
        env={"PYTHONPROFILEIMPORTTIME": "1"},
    )  # fmt: skip
    assert ran.code == 0
    assert "sdctl.iam.policy" in ran.stderr
    assert "boto" not in ran.stderr
