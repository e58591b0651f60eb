"""`sdctl deploy --dry-run` where there is no account to ask: the configuration, and a plan all the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.cli import run


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")


@pytest.mark.parametrize(
    ("words", "reason"), [((), "no region is set"), (("-R", "us-west-2"), "no AWS credentials were found")]
)
def test_a_dry_run_needs_no_account(words: tuple[str, ...], reason: str) -> None:
    ran = run("deploy", "-d", "-n", "studio", "-r", "comfy", "-t", "comfyui", "-o", "json", *words)
    assert ran.code == 0, ran.stderr
    assert f"{reason}; this is the plan for an account that has nothing of studio yet" in ran.stderr
    steps = {step["id"]: step["action"] for step in ran.document["steps"]}
    assert set(steps.values()) == {"create"}
    assert {"network", "cluster", "front", "runtime-comfy", "release-comfy"} <= set(steps)
    assert "stackName: studio" in Path("sdctl.yaml").read_text()


def test_a_plan_that_is_asked_for_is_never_guessed() -> None:
    ran = run("deploy", "--plan", "-R", "us-west-2", "-o", "json")
    assert (ran.code, ran.stdout, ran.error["code"]) == (5, "", "aws")


def test_a_configuration_that_does_not_fit_its_region_has_no_plan() -> None:
    Path("sdctl.yaml").write_text("modelBucketArn: arn:aws:s3:::my-models")
    ran = run("deploy", "-d", "-R", "cn-north-1", "-o", "json")
    assert (ran.code, ran.stdout) == (3, "")
    assert "modelBucketArn" in ran.error["message"]


def test_a_bucket_that_a_flag_names_is_of_the_regions_partition() -> None:
    ran = run(
        "deploy", "-d", "-R", "cn-north-1", "-b", "my-models", "-s", "snap-0123456789abcdef0", "-o", "json"
    )
    assert ran.code == 0, ran.stderr
    assert "modelBucketArn: arn:aws-cn:s3:::my-models" in Path("sdctl.yaml").read_text()
