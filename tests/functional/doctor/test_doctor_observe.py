"""Reading an account: from an emulator over HTTP, refused, hanging, and with bugs that must not hide."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from threading import Barrier, Event
from typing import Any, cast

import pytest
from moto.core import set_initial_no_auth_action_count
from moto.server import ThreadedMotoServer

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.ec2 import Ec2
from sdctl.clients.iam import Denied, Iam, Identity, Wish
from sdctl.clients.kms import Key, Kms
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.doctor.key import missing_statements
from sdctl.doctor.needs import runtime_needs
from sdctl.doctor.observe import SIMULATIONS_AT_ONCE, merged_denials, observe_aws, simulations
from sdctl.doctor.rules import judge_aws
from sdctl.errors import AwsError, NotFoundError
from sdctl.reads import NO_ANSWER, Unknown, read_all
from support.cli import run
from support.doctor import HELM, MODEL, ROLE, TODAY, config, provisioner, runtime

REGION = "us-west-2"
ACCOUNT = "123456789012"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


def signed_in(server: str, name: str) -> Aws:
    """Make a user and speak to the emulator as that user."""
    first = Aws(AwsAccess(REGION, endpoint_url=server, access_key="testing", secret_key="testing"))
    first.client("iam").create_user(UserName=name)
    key = first.client("iam").create_access_key(UserName=name)["AccessKey"]
    access = AwsAccess(
        REGION, endpoint_url=server, access_key=key["AccessKeyId"], secret_key=key["SecretAccessKey"],
        max_attempts=1,
    )  # fmt: skip
    return Aws(access)


@pytest.fixture(scope="module")
def aws(server: str) -> Aws:
    return signed_in(server, "admin")


def observed(aws: Aws, wanted: object = None, **options: object) -> AwsFacts:
    chosen = wanted or config()
    needs = runtime_needs(chosen, {})
    return observe_aws(aws, chosen, needs, today=TODAY, identity_seconds=30, read_seconds=60, **options)


def test_an_account_is_read_over_http(aws: Aws) -> None:
    ec2 = aws.client("ec2")
    volume = ec2.create_volume(AvailabilityZone=f"{REGION}a", Size=40)["VolumeId"]
    snapshot = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    s3 = aws.client("s3")
    s3.create_bucket(Bucket="my-models", CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(Bucket="my-models", Key=f"Stable-diffusion/{MODEL}", Body=b"x")
    s3.put_object(Bucket="my-models", Key="Lora/other.safetensors", Body=b"x")
    aws.client("logs").create_log_group(logGroupName="/aws/eks/sdoneks/cluster")
    ec2.allocate_address(Domain="vpc")
    values = provisioner(instanceType=["g5.2xlarge", "g6.2xlarge", "g4dn.xlarge", "nothing.large"])
    values["karpenter"]["nodeTemplate"] = {"dataVolume": {"snapshotID": snapshot}}
    key = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    wanted = config(
        modelBucketArn="arn:aws:s3:::my-models", modelsRuntime=[runtime(values)],
        network={"natMode": "single"}, kmsKeyArn=key,
    )  # fmt: skip
    facts = observed(aws, wanted)
    assert isinstance(facts.identity, Identity)
    assert (facts.partition, facts.region, facts.identity.account) == ("aws", REGION, ACCOUNT)
    assert facts.identity.principal_arn == f"arn:aws:iam::{ACCOUNT}:user/admin"
    assert not isinstance(facts.zones, Unknown)
    assert [zone.name for zone in facts.zones][:3] == [f"{REGION}{letter}" for letter in "abc"]
    assert not isinstance(facts.vcpus, Unknown)
    assert facts.vcpus["g5.2xlarge"] == 8
    assert "nothing.large" not in facts.vcpus
    assert not isinstance(facts.offers, Unknown)
    assert facts.offers["nothing.large"] == frozenset()
    assert f"{REGION}a" in facts.offers["g5.2xlarge"]
    # This emulator knows no wildcards in a filter, so that it lists none.
    assert facts.running == ()
    assert facts.address_count == 1
    assert facts.vpc_count == 1
    assert facts.nat_gateways == {}
    assert facts.bucket_count == 1
    assert isinstance(facts.kms_key, Key)
    assert (facts.kms_key.state, facts.kms_key.spec) == ("Enabled", "SYMMETRIC_DEFAULT")
    # A new key is open to its account alone.
    assert missing_statements(facts.kms_key, REGION, ACCOUNT) == (
        "Logs", "Messages", "SystemNodes", "SystemNodesVolumes",
    )  # fmt: skip
    assert Kms(aws).key(key[:-8] + "00000000") is None
    assert facts.buckets["my-models"] == REGION
    assert set(facts.buckets.values()) == {REGION, None}
    assert facts.model_files == {f"Stable-diffusion/{MODEL}"}
    assert facts.log_groups == ("/aws/eks/sdoneks/cluster",)
    assert facts.cluster is None
    assert set(facts.stacks.values()) == {None}
    assert set(facts.service_roles.values()) == {False}
    found = facts.snapshots[snapshot]
    assert found is not None
    assert not isinstance(found, Unknown)
    assert (found.size_gib, found.state) == (40, "completed")
    # What this emulator does not know is unknown, and no reason to stop.
    assert isinstance(facts.calendar, Unknown)
    checks = {
        check.id: check for check in judge_aws(wanted, runtime_needs(wanted, {}), HELM, facts, today=TODAY)
    }
    assert checks["model-files"].result == "pass"
    assert checks["log-group"].result == "fail"
    assert checks["snapshot-sdruntime"].result == "pass"


def test_an_existing_network_is_read_by_its_subnets_and_missing_ones_are_left_out(aws: Aws) -> None:
    first = aws.client("ec2").describe_subnets()["Subnets"][0]
    network = {"vpcId": first["VpcId"], "subnetIds": [first["SubnetId"], "subnet-0123456789abcdef0"]}
    facts = observed(aws, config(network=network))
    assert not isinstance(facts.subnets, Unknown)
    assert [one.id for one in facts.subnets] == [first["SubnetId"]]
    assert facts.vpc_count == NOT_READ


def test_the_command_looks_at_an_account_with_all_that_a_deploy_needs_to_be_allowed(
    server: str, aws: Aws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = aws.access
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", str(key.access_key))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", str(key.secret_key))
    ran = run("doctor", "-R", REGION, "-n", "another", "-o", "json")
    checks = {check["id"]: check for check in ran.document["checks"]}
    assert "user/admin" in checks["credentials"]["found"]
    for name in ("zones", "instance-offers", "vpc-headroom", "stacks", "asset-bucket", "cluster"):
        assert checks[name]["result"] == "pass", checks[name]
    # The emulator cannot simulate: that is said, with what was tried.
    assert checks["permissions"]["result"] == "warn"
    assert "simulate the permissions" in checks["permissions"]["found"]
    assert checks["node-image"]["result"] == "fail"
    assert ran.code == 5


def test_a_snapshot_that_is_not_in_the_region_is_none(aws: Aws) -> None:
    assert Ec2(aws).snapshot("snap-0123456789abcdef0") is None


def test_a_caller_who_may_nothing_gets_warnings_that_name_the_call_and_no_crash(server: str) -> None:
    nobody = signed_in(server, "nobody")
    wishes = (Wish(("eks:CreateCluster",)),)
    refusing = set_initial_no_auth_action_count(0)
    facts = refusing(lambda: observed(nobody, wishes=lambda _: wishes))()
    assert isinstance(facts.identity, Identity)
    assert facts.identity.kind == "user"
    assert isinstance(facts.zones, Unknown)
    assert facts.zones.is_denied
    assert isinstance(facts.denied, Unknown)
    wanted = config()
    checks = {
        check.id: check
        for check in judge_aws(wanted, runtime_needs(wanted, {}), HELM, facts, today=TODAY, is_simulated=True)
    }
    assert checks["credentials"].result == "pass"
    assert checks["zones"].result == "warn"
    assert "ec2:DescribeAvailabilityZones" in checks["zones"].found
    assert "allow" in checks["zones"].fix


def test_where_nobody_answers_the_whole_look_ends_at_its_deadline() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        aws = Aws(AwsAccess(REGION, endpoint_url=url, access_key="a", secret_key="b", max_attempts=1))
        aws.client("sts")
        started = time.monotonic()
        facts = observe_aws(aws, config(), (), today=TODAY, identity_seconds=0.3, read_seconds=30)
    assert time.monotonic() - started < 5
    assert isinstance(facts.identity, Unknown)
    assert facts.identity.is_unreachable
    assert facts.zones == NOT_READ


class Simulator:
    """Stands for IAM: answers each statement by its first action, and counts who asks at once."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        self._together = Barrier(SIMULATIONS_AT_ONCE)

    def denied(self, principal_arn: str, wishes: Sequence[Wish]) -> tuple[Denied, ...]:
        assert principal_arn == ROLE.principal_arn
        self._together.wait(10)
        found: list[Denied] = []
        for wish in wishes:
            answer = self._answers.get(wish.actions[0], ())
            if isinstance(answer, Exception):
                raise answer
            found += answer
        return tuple(found)


def simulated(answers: dict[str, Any]) -> Any:
    iam = cast("Iam", Simulator(answers))
    wishes = [Wish((f"a:{number}",)) for number in range(70)]
    return merged_denials(read_all(simulations(iam, ROLE, wishes), timeout_seconds=20).values())


def test_statements_are_simulated_at_once_and_their_denials_joined() -> None:
    both = {"a:3": (Denied("a:3"),), "a:69": (Denied("a:69"), Denied("a:3", is_explicit=True))}
    assert simulated(both) == (Denied("a:3", is_explicit=True), Denied("a:69"))
    assert simulated({}) == ()


def test_a_denial_counts_though_another_part_of_the_simulation_failed() -> None:
    failing = {"a:5": AwsError("throttled", aws_code="Throttling")}
    assert simulated(failing) == Unknown("throttled", "Throttling")
    assert simulated({**failing, "a:8": (Denied("a:8"),)}) == (Denied("a:8"),)


def test_one_read_that_hangs_costs_its_own_answer_only() -> None:
    release = Event()
    found = read_all({"slow": release.wait, "quick": lambda: 7}, timeout_seconds=0.2)
    release.set()
    assert found["quick"] == 7
    assert found["slow"] == Unknown("there was no answer within 0.2 s", NO_ANSWER)


def test_reads_run_at_once() -> None:
    both = [Event(), Event()]

    def meet(own: Event, other: Event) -> bool:
        own.set()
        return other.wait(10)

    found = read_all(
        {"a": lambda: meet(both[0], both[1]), "b": lambda: meet(both[1], both[0])}, timeout_seconds=20
    )
    assert found == {"a": True, "b": True}


@pytest.mark.parametrize(
    ("error", "is_denied", "is_unreachable"),
    [
        (AwsError("no", aws_code="AccessDenied"), True, False),
        (AwsError("no", aws_code="UnauthorizedOperation"), True, False),
        (AwsError("no", aws_code="EndpointConnectionError"), False, True),
        (AwsError("no", aws_code="Throttling"), False, False),
        (NotFoundError("no"), False, False),
    ],
)
def test_a_failed_read_is_a_fact(error: Exception, is_denied: bool, is_unreachable: bool) -> None:
    def fail() -> None:
        raise error

    fact = read_all({"x": fail})["x"]
    assert isinstance(fact, Unknown)
    assert (fact.reason, fact.is_denied, fact.is_unreachable) == ("no", is_denied, is_unreachable)


def test_a_bug_in_a_read_is_not_taken_for_an_answer() -> None:
    with pytest.raises(ZeroDivisionError):
        read_all({"x": lambda: 1 // 0})


def test_today_is_kept_with_the_facts(aws: Aws) -> None:
    wanted = config()
    facts = observe_aws(aws, wanted, (), today=date(2030, 1, 1), identity_seconds=30, read_seconds=60)
    assert facts.today == date(2030, 1, 1)
