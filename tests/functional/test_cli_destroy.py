"""`sdctl destroy` and `status` on AWS as commands: what they refuse, ask, show and leave, against moto."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto import mock_aws

from sdctl.cli import destroy_aws
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.pricing import Pricing
from sdctl.deploy.executor import Executor
from sdctl.deployments import Deployment, Deployments
from sdctl.errors import AwsError
from support.cli import run

REGION = "us-west-2"
HERE = ("-n", "farm", "-R", REGION, "--target", "aws")
TAGS = [{"Key": "sdctl:stack", "Value": "farm"}]
PICTURES = "farmstack-outputbucket-1"


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Aws]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("SDCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # seconds for each test
    monkeypatch.chdir(tmp_path)
    with mock_aws():
        yield Aws(AwsAccess(REGION))


@pytest.fixture
def deployed(aws: Aws) -> Aws:
    body = json.dumps({"Resources": {"T": {"Type": "AWS::SNS::Topic"}}})
    aws.client("cloudformation").create_stack(StackName="farmStack", TemplateBody=body, Tags=TAGS)
    s3 = aws.client("s3")
    for name in (PICTURES, "brought-along"):
        s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_object(Bucket=name, Key="x.png", Body=b"x")
    return aws


def stacks(aws: Aws) -> list[str]:
    return [one["StackName"] for one in aws.client("cloudformation").describe_stacks()["Stacks"]]


def test_without_a_terminal_it_asks_for_yes_and_says_what_goes_and_stays(deployed: Aws) -> None:
    ran = run("destroy", *HERE, "-o", "json")
    assert ran.code == 2
    message = ran.error["message"]
    assert "farmStack" in message
    assert message.index("These stay:") < message.index(PICTURES)
    assert stacks(deployed) == ["farmStack"]


def test_a_plan_is_shown_and_changes_nothing(deployed: Aws) -> None:
    ran = run("destroy", *HERE, "--plan", "-o", "json")
    steps = {step["id"]: step for step in ran.document["steps"]}
    assert (ran.code, steps["front"]["action"]) == (0, "delete")
    assert {"id", "kind", "action", "needs"} <= steps["front"].keys()
    assert steps[f"bucket-{PICTURES}"]["action"] == "none"
    assert stacks(deployed) == ["farmStack"]


def test_everything_goes_but_the_pictures_and_so_does_the_record(deployed: Aws, tmp_path: Path) -> None:
    records = Deployments(tmp_path / "home")
    records.record(Deployment("farm", REGION, "aws", str(tmp_path), {}))
    ran = run("destroy", "--yes", "-o", "json")
    assert ran.code == 0
    assert stacks(deployed) == []
    assert (ran.document["stack_name"], ran.document["left"]) == ("farm", [])
    assert [row["id"] for row in ran.document["kept"]] == [PICTURES]
    assert records.all() == []
    again = run("destroy", *HERE, "--yes", "--prove", "--delete-bucket", PICTURES, "-o", "json")
    assert (again.code, again.document["left"], again.document["kept"]) == (0, [], [])


def test_a_bucket_that_was_brought_along_is_never_deleted(deployed: Aws) -> None:
    ran = run("destroy", *HERE, "--yes", "--delete-bucket", "brought-along", "-o", "json")
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert stacks(deployed) == ["farmStack"]


def test_a_proof_fails_and_names_what_costs_and_is_left(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = aws.client("ec2").create_volume(
        AvailabilityZone=f"{REGION}a", Size=8, TagSpecifications=[{"ResourceType": "volume", "Tags": TAGS}]
    )["VolumeId"]

    def refuse(self: Pricing, keys: object) -> None:
        raise AwsError("could not read the prices")

    monkeypatch.setattr(Pricing, "prices", refuse)
    monkeypatch.setattr(destroy_aws, "PROOF_SECONDS", 0)
    ran = run("destroy", *HERE, "--prove", "--yes")
    assert ran.code == 5
    assert f"this is left of farm and costs: ec2:volume {volume}" in ran.stderr
    assert "no price is known" in ran.stdout
    assert "the prices are not known" in ran.stderr


def test_nothing_of_the_name_is_not_found_but_can_be_proved(aws: Aws) -> None:
    ran = run("destroy", *HERE, "--yes", "-o", "json")
    assert (ran.code, ran.error["code"]) == (4, "not_found")
    assert run("destroy", *HERE, "--prove").code == 0
    assert run("status", *HERE, "-o", "json").code == 4


def test_an_interrupt_says_how_it_goes_on(deployed: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: Executor, plan: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Executor, "run", interrupt)
    ran = run("destroy", *HERE, "--yes")
    assert ran.code == 130
    assert "sdctl destroy takes up from there" in ran.stderr
    assert stacks(deployed) == ["farmStack"]


def test_the_options_for_aws_are_refused_on_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDCTL_HOME", str(tmp_path / "home"))
    Deployments(tmp_path / "home").record(Deployment("farm", REGION, "local", str(tmp_path), {}))
    for option in ("--prove", "--plan", "--skip-cluster"):
        assert run("destroy", option, "-n", "farm").code == 2


def test_aws_without_a_region_is_a_configuration_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDCTL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    ran = run("destroy", "--target", "aws", "--yes", "-o", "json")
    assert (ran.code, ran.error["message"]) == (3, "no region is set")
