"""Building a snapshot against moto: what is sent, what remains, and a crash at every single call."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import create_autospec

import pytest
from botocore.exceptions import EndpointConnectionError

from fakes.snapshot_guest import Guests, account_with_guests
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.builders import OWNER_TAG, BuilderInstance, Builders
from sdctl.clients.ebs import Ebs, EbsSnapshot
from sdctl.config.model import Config
from sdctl.errors import AwsError, ConflictError, NotFoundError, UsageError, WaitTimeoutError
from sdctl.polling import Clock
from sdctl.snapshots.building import Around, Built, SnapshotError, Wishes, build_snapshot, remove_leftovers
from sdctl.snapshots.cloud import PATIENCE_SECONDS, Place, patient
from sdctl.snapshots.owner import Owner
from sdctl_snapshot.builder import MAX_SECONDS, PULL_SECONDS, SNAPSHOT_SECONDS
from sdctl_snapshot.builder import build as build_at
from sdctl_snapshot.images import Image
from sdctl_snapshot.site import Builder, Cloud, Made, Ran, Site

REGION, OTHER = "us-west-2", "eu-central-1"
GIB = 1024**3
PLAIN = Wishes()
CONFIG = Config.model_validate({"stackName": "farm", "kubernetesVersion": "1.36", "tags": {"team": "art"}})
SERVER = Image(
    "public.ecr.aws/bingjiao/sd-on-eks/sdwebui", "latest", f"sha256:{'a' * 64}", {"sha256:1": 6 * GIB}
)
AGENT = Image(
    "123456789012.dkr.ecr.us-west-2.amazonaws.com/sd-on-eks/queue-agent", "0.1.0", f"sha256:{'b' * 64}",
    {"sha256:2": GIB // 10},
)  # fmt: skip
IMAGES = (SERVER, AGENT)
ELSEWHERE = Owner("ann on desk", "abc", 77, int(Owner.this_process().at))


class CrashError(BaseException):
    """The process is gone: nothing after it runs."""


class Time:
    """A clock that runs only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    @property
    def clock(self) -> Clock:
        return Clock(lambda: self.now, self.sleep, lambda low, high: high)


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    with account_with_guests(tmp_path / "guests", monkeypatch) as found:
        yield found


@cache
def session(region: str = REGION) -> Aws:
    """Return one session for all tests: making clients is what takes time."""
    return Aws(AwsAccess(region, access_key="testing", secret_key="testing"))


def build(
    wishes: Wishes = PLAIN, aws: Aws | None = None, said: list[str] | None = None, **changes: Any
) -> Built:
    owner = changes.pop("owner", Owner.this_process())
    config = changes.pop("config", CONFIG)
    report = said.append if said is not None else lambda text: None
    around = Around(aws or session(), report, owner, Time().clock)
    return build_snapshot(config, changes.pop("images", IMAGES), wishes, around)


def remains(aws: Aws) -> dict[str, list[str]]:
    """List everything that a build may make."""
    ec2, iam = aws.client("ec2"), aws.client("iam")
    instances = [
        one["InstanceId"]
        for group in ec2.describe_instances()["Reservations"]
        for one in group["Instances"]
        if one["State"]["Name"] != "terminated"
    ]
    return {
        "instances": instances,
        "volumes": [one["VolumeId"] for one in ec2.describe_volumes()["Volumes"]],
        "roles": [one["RoleName"] for one in iam.list_roles()["Roles"]],
        "profiles": [one["InstanceProfileName"] for one in iam.list_instance_profiles()["InstanceProfiles"]],
    }


def snapshots(aws: Aws) -> list[str]:
    return [one.id for one in Ebs(aws).find({"sdctl:stack": "farm"})]


NOTHING: dict[str, list[str]] = {"instances": [], "volumes": [], "roles": [], "profiles": []}


def test_a_build_leaves_its_snapshot_and_nothing_else(guests: Guests) -> None:
    aws, said = session(), list[str]()
    built = build(aws=aws, said=said)
    [found] = Ebs(aws).find({"sdctl:stack": "farm"})
    assert (found.id, found.state, found.size_gib) == (built.snapshot_id, "completed", 56)
    assert found.tags["sdctl:image-0"] == SERVER.reference
    assert found.tags["sdctl:digest-0"] == SERVER.digest
    assert found.tags["sdctl:architecture"] == "x86_64"
    assert found.tags["team"] == "art"
    assert remains(aws) == NOTHING
    assert "pulling" in " ".join(said)


def test_every_image_is_there_under_each_of_its_names_and_pinned(guests: Guests) -> None:
    build()
    [state] = guests.folder.iterdir()
    assert set((state / "images").read_text().split()) == {
        SERVER.pinned, SERVER.reference, AGENT.pinned, AGENT.reference,
    }  # fmt: skip
    labels = (state / "labels").read_text().splitlines()
    marks = "io.cri-containerd.image=managed io.cri-containerd.pinned=pinned"
    assert labels == [f"{name} {marks}" for image in IMAGES for name in image.names]
    assert (state / "units").read_text() == "stop kubelet\n"


def test_a_second_build_of_the_same_images_makes_nothing(guests: Guests) -> None:
    first = build()
    guests.sent.clear()
    assert build().snapshot_id == first.snapshot_id
    assert guests.sent == []
    assert build(Wishes(is_forced=True)).snapshot_id != first.snapshot_id


def test_another_digest_makes_another_snapshot(guests: Guests) -> None:
    first = build()
    moved = Image(SERVER.name, SERVER.tag, f"sha256:{'c' * 64}", SERVER.layers)
    assert build(images=(moved, AGENT)).snapshot_id != first.snapshot_id


class Script:
    """A session whose process can die, or be interrupted, before or after one of its calls.

    After a death every further call fails, as a dead process makes none; an interrupt comes once.
    """

    def __init__(self) -> None:
        self.aws = Aws(session().access)
        self.calls: list[str] = []
        self.plan(0)
        events = self.aws._open().events
        events.register("before-call.*.*", self._before)
        events.register("after-call.*.*", self._after)

    def plan(self, number: int, *, is_after: bool = True, kind: type[BaseException] = CrashError) -> None:
        self.calls.clear()
        self._number, self._is_after, self._kind, self._is_dead = number, is_after, kind, False

    def _strike(self) -> None:
        self._is_dead = self._kind is CrashError
        raise self._kind

    def _before(self, model: Any, **_: Any) -> None:
        if self._is_dead:
            raise CrashError
        self.calls.append(model.name)
        if len(self.calls) == self._number and not self._is_after:
            self._strike()

    def _after(self, **_: Any) -> None:
        if len(self.calls) == self._number and self._is_after and not self._is_dead:
            self._strike()

    def calls_of_a_build(self) -> list[str]:
        """List the calls of a build that goes well, and take it away."""
        self.plan(0)
        found = build(aws=self.aws)
        listed = list(self.calls)
        Ebs(self.aws).delete(found.snapshot_id)
        return listed


the_script = cache(Script)
LOOKS = ("Describe", "Get", "List")


def changes(calls: list[str]) -> list[int]:
    """Number the first call of each kind that changes something."""
    return [
        number
        for number, name in enumerate(calls, 1)
        if not name.startswith(LOOKS) and name not in calls[: number - 1]
    ]


def crash_and_build_again(script: Script, number: int, *, is_after: bool) -> None:
    script.plan(number, is_after=is_after)
    with pytest.raises(CrashError):
        build(aws=script.aws)
    script.plan(0)
    built = build(aws=script.aws)
    assert remains(script.aws) == NOTHING, (number, is_after)
    assert snapshots(script.aws) == [built.snapshot_id], (number, is_after)
    Ebs(script.aws).delete(built.snapshot_id)


def test_after_a_crash_at_any_change_the_next_run_leaves_one_snapshot_and_nothing_else(
    guests: Guests,
) -> None:
    script = the_script()
    numbers = changes(script.calls_of_a_build())
    assert len(numbers) >= 12
    for number in numbers:
        crash_and_build_again(script, number, is_after=True)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("is_after", [False, True])
def test_after_a_crash_at_any_call_the_next_run_leaves_one_snapshot(guests: Guests, is_after: bool) -> None:
    script = the_script()
    for number in range(1, len(script.calls_of_a_build()) + 1):
        crash_and_build_again(script, number, is_after=is_after)


def test_an_interrupt_at_any_change_removes_what_was_made(guests: Guests) -> None:
    script = the_script()
    calls = script.calls_of_a_build()
    first_removal = calls.index("TerminateInstances") + 1
    for number in changes(calls):
        script.plan(number, kind=KeyboardInterrupt)
        said: list[str] = []
        with pytest.raises(KeyboardInterrupt):
            build(aws=script.aws, said=said)
        script.plan(0)
        if number >= first_removal:
            assert "--leftovers" in said[-1]
            # The removal itself was interrupted: --leftovers, or the next build, does the rest.
            remove_leftovers(CONFIG, around(script.aws))
        assert remains(script.aws) == NOTHING, calls[number - 1]
        for one in snapshots(script.aws):
            Ebs(script.aws).delete(one)


def around(aws: Aws) -> Around:
    return Around(aws, lambda text: None, Owner.this_process(), Time().clock)


def test_a_living_build_is_left_alone(guests: Guests) -> None:
    script = the_script()
    script.plan(script.calls_of_a_build().index("RunInstances") + 1)
    with pytest.raises(CrashError):
        build(aws=script.aws, owner=ELSEWHERE)
    script.plan(0)
    before = remains(script.aws)
    assert before["instances"]
    with pytest.raises(ConflictError, match="ann on desk"):
        build(aws=script.aws)
    assert remains(script.aws) == before
    assert remove_leftovers(CONFIG, around(script.aws), takes_over=True) == 2
    assert remains(script.aws) == NOTHING


def test_a_build_that_comes_second_leaves_what_the_first_has_made(guests: Guests) -> None:
    aws = Aws(session().access)
    first: list[str] = []

    def overtake(**_: Any) -> None:
        if not first:
            first.append("began")
            place = Place("farm", REGION, "aws")
            builders = Builders(session(), {"sdctl:stack": "farm"}, str(ELSEWHERE))
            builders.make_role(place.role_name, place.policies, place.principal)

    # Between the look for other builds and the making of the role.
    aws._open().events.register("before-call.iam.CreateRole", overtake)
    with pytest.raises(ConflictError, match="ann on desk"):
        build(aws=aws)
    found = remains(aws)
    assert (len(found["roles"]), len(found["profiles"]), found["instances"]) == (1, 1, [])
    assert remove_leftovers(CONFIG, around(aws), takes_over=True) == 1
    assert remains(aws) == NOTHING


def test_a_role_that_was_made_by_a_request_whose_answer_was_lost_is_taken(guests: Guests) -> None:
    place, me = Place("farm", REGION, "aws"), Owner.this_process()
    builders = Builders(session(), {"sdctl:stack": "farm"}, str(me))
    session().client("iam").create_role(
        RoleName=place.role_name, AssumeRolePolicyDocument="{}", Tags=[{"Key": OWNER_TAG, "Value": str(me)}]
    )
    builders.make_role(place.role_name, place.policies, place.principal)
    attached = session().client("iam").list_attached_role_policies(RoleName=place.role_name)
    assert {one["PolicyName"] for one in attached["AttachedPolicies"]} == {
        "AmazonEC2ContainerRegistryPullOnly", "AmazonSSMManagedInstanceCore", "AmazonEKSWorkerNodePolicy",
    }  # fmt: skip


def test_an_instance_that_is_listed_late_after_an_interrupt_is_removed(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = the_script()
    script.plan(script.calls_of_a_build().index("RunInstances") + 1, kind=KeyboardInterrupt)
    real, unlisted = Builders.instances, [3]

    def instances(self: Builders, stack_tag: tuple[str, str]) -> list[BuilderInstance]:
        if "RunInstances" in script.calls and unlisted[0]:
            unlisted[0] -= 1
            return []
        return real(self, stack_tag)

    monkeypatch.setattr(Builders, "instances", instances)
    with pytest.raises(KeyboardInterrupt):
        build(aws=script.aws)
    assert unlisted == [0]
    assert remains(session()) == NOTHING


def test_a_builder_is_terminated_although_nothing_can_be_looked_up(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests.pull_fails = "no space left"
    real = Builders.instances

    def instances(self: Builders, stack_tag: tuple[str, str]) -> list[BuilderInstance]:
        if guests.sent:
            raise AwsError("not you", aws_code="UnauthorizedOperation")
        return real(self, stack_tag)

    monkeypatch.setattr(Builders, "instances", instances)
    said: list[str] = []
    with pytest.raises(AwsError, match="not you"):
        build(said=said)
    assert "--leftovers" in said[-1]
    assert remains(session())["instances"] == []


def test_an_instance_that_ec2_does_not_know_yet_is_terminated_when_it_does(
    guests: Guests, monkeypatch: pytest.MonkeyPatch
) -> None:
    guests.pull_fails = "no space left"
    real, unknown = Builders.terminate, [2]

    def terminate(self: Builders, instance_id: str) -> None:
        # As EC2's InvalidInstanceID.NotFound, which means gone as well as not there yet.
        if unknown[0]:
            unknown[0] -= 1
        else:
            real(self, instance_id)

    monkeypatch.setattr(Builders, "terminate", terminate)
    with pytest.raises(SnapshotError, match="no space left"):
        build()
    assert remains(session()) == NOTHING


def test_a_line_that_breaks_for_a_while_ends_no_build(guests: Guests) -> None:
    clock, broken = Time(), [0.0]
    aws = Aws(session().access)

    def cut(**_: Any) -> None:
        if broken[0] < clock.now < broken[0] + 240:
            raise EndpointConnectionError(endpoint_url="https://ssm")

    def report(text: str) -> None:
        if text.startswith("waiting until"):
            broken[0] = clock.now
            clock.now += 1

    aws._open().events.register("before-call.ssm.DescribeInstanceInformation", cut)
    away = Around(aws, report, Owner.this_process(), clock.clock)
    assert build_snapshot(CONFIG, IMAGES, PLAIN, away).snapshot_id
    assert clock.now > 240


def test_a_line_that_stays_broken_is_given_up(guests: Guests) -> None:
    clock = Time()
    lost = AwsError("no way", aws_code="EndpointConnectionError")
    refused = AwsError("not you", aws_code="AccessDenied")

    def probe(error: AwsError) -> None:
        raise error

    asked = patient(partial(probe, lost), clock.clock)
    assert asked() is None
    clock.now += PATIENCE_SECONDS
    assert asked() is None
    clock.now += 1
    with pytest.raises(AwsError, match="no way"):
        asked()
    with pytest.raises(AwsError, match="not you"):
        patient(partial(probe, refused), clock.clock)()


def fail_snapshots(monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    real = Ebs.get

    def get(self: Ebs, snapshot_id: str) -> EbsSnapshot:
        return replace(real(self, snapshot_id), state=state, reason="the key is gone")

    monkeypatch.setattr(Ebs, "get", get)


def test_a_snapshot_that_fails_is_deleted(guests: Guests, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_snapshots(monkeypatch, "error")
    with pytest.raises(SnapshotError, match="the key is gone"):
        build()
    assert remains(session()) == NOTHING
    assert snapshots(session()) == []


def test_a_snapshot_that_was_not_awaited_is_named_and_taken_by_the_next_build(guests: Guests) -> None:
    script, said = the_script(), list[str]()
    script.plan(script.calls_of_a_build().index("CreateSnapshot") + 2, kind=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        build(aws=script.aws, said=said)
    script.plan(0)
    [left] = snapshots(script.aws)
    assert any(f"sdctl snapshot delete {left}" in text for text in said)
    assert remains(script.aws) == NOTHING
    assert build(aws=script.aws).snapshot_id == left


def test_no_build_outlives_what_another_machine_waits_for() -> None:
    clock, images = Time(), tuple(Image("r.io/a", str(n), f"sha256:{n:064x}", {}) for n in range(18))
    listed = "\n".join(name for image in images for name in image.names)
    cloud = create_autospec(Cloud, instance=True)
    cloud.builders.return_value = (Builder("i-0", "running", "dead"),)
    cloud.alike.return_value = ()
    cloud.launch.return_value = "i-1"
    cloud.create_snapshot.return_value = Made("snap-1", "pending")
    cloud.snapshot.return_value = Made("snap-1", "completed")
    cloud.instance_state.side_effect = ["terminated", "running", "running", "stopped", *["terminated"] * 2]

    # Each wait and each command takes all the time that it has, of the pulls the last one.
    def run(instance_id: str, script: tuple[str, ...], timeout_seconds: int) -> Ran:
        is_quick = "pull-image" in script[1] and images[-1].pinned not in script[1]
        clock.now += 1 if is_quick else timeout_seconds + 120
        return Ran("50%" if "df" in script[-1] else listed)

    def wait(probe: Any, *, awaited: str, timeout_seconds: float, state: Any = None) -> Any:
        clock.now += timeout_seconds
        return probe()

    cloud.run.side_effect = run
    site = Site("me", cloud, wait, lambda: clock.now, lambda text: None, lambda mark: False)
    assert build_at(images, site) == Made("snap-1", "completed")
    assert PULL_SECONDS + SNAPSHOT_SECONDS < clock.now < MAX_SECONDS


def test_images_that_take_too_long_together_are_given_up(guests: Guests) -> None:
    clock = Time()

    def report(text: str) -> None:
        clock.now += 0.6 * PULL_SECONDS if text.startswith("pulling") else 0

    late = Around(session(), report, Owner.this_process(), clock.clock)
    with pytest.raises(SnapshotError, match=f"before {AGENT.reference} took 2 hours"):
        build_snapshot(CONFIG, IMAGES, PLAIN, late)
    assert remains(session()) == NOTHING


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        ("Client.InternalError: Client error on launch", "--kms-key"),
        ("Client.VolumeLimitExceeded: Volume limit exceeded", "quota"),
    ],
)
def test_an_instance_that_ends_as_it_begins_is_told_with_what_to_do(
    guests: Guests, monkeypatch: pytest.MonkeyPatch, reason: str, hint: str
) -> None:
    real = Builders.describe
    monkeypatch.setattr(Builders, "describe", lambda self, name: ("terminated", reason, real(self, name)[2]))
    with pytest.raises(SnapshotError, match=reason) as failed:
        build()
    assert hint in failed.value.hint
    assert remains(session()) == NOTHING


def answer(status: str, details: str, code: int = -1, **said: str) -> dict[str, Any]:
    return {"Status": status, "StatusDetails": details, "ResponseCode": code, **said}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (answer("Failed", "Failed", 3, StandardErrorContent="it is wedged"), "exit code 3: it is wedged"),
        (answer("TimedOut", "ExecutionTimedOut"), "did not end in time (ExecutionTimedOut)"),
        (answer("TimedOut", "Delivery Timed Out"), "did not take the command in time (DeliveryTimedOut)"),
        (answer("Cancelled", "Cancelled"), "somebody cancelled it"),
        (answer("Failed", "Undeliverable"), "does not answer Systems Manager (Undeliverable)"),
        (answer("Failed", "Terminated"), "other commands failed (Terminated)"),
        (answer("Failed", "AccessDenied"), "role may not run it (AccessDenied)"),
    ],
)  # fmt: skip
def test_each_end_of_a_command_is_told_with_its_reason(
    guests: Guests, found: dict[str, Any], text: str
) -> None:
    success = answer("Success", "Success", 0)
    guests.answers = [None, answer("Pending", "Pending"), answer("InProgress", "InProgress"), success, found]
    with pytest.raises(SnapshotError) as failed:
        build()
    assert "could not stop the kubelet: " in failed.value.message
    assert text in failed.value.message
    assert remains(session()) == NOTHING


def test_a_state_that_is_not_known_is_no_success(guests: Guests) -> None:
    guests.answers = [answer("Paused", "Paused")]
    with pytest.raises(Exception, match="does not know: Paused"):
        build()
    assert remains(session()) == NOTHING


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("write /var/lib/containerd: no space left on device", "--size"),
        ("unexpected status: 401 Unauthorized", "only public images"),
        ("dial tcp 1.2.3.4:443: i/o timeout", "--subnet"),
    ],
)
def test_a_failed_pull_is_told_in_the_builders_words(guests: Guests, said: str, hint: str) -> None:
    guests.pull_fails = said
    with pytest.raises(SnapshotError) as failed:
        build()
    assert SERVER.reference in failed.value.message
    assert said in failed.value.message
    assert hint in failed.value.hint
    assert remains(session()) == NOTHING
    assert snapshots(session()) == []


def test_a_volume_that_is_nearly_full_is_refused(guests: Guests) -> None:
    guests.percent = 91
    with pytest.raises(SnapshotError, match="91 %") as failed:
        build()
    assert "--size" in failed.value.hint


def test_a_builder_that_never_registers_is_given_up_with_what_to_look_at(guests: Guests) -> None:
    guests.offline = 10_000
    with pytest.raises(WaitTimeoutError, match="--subnet"):
        build()
    assert remains(session()) == NOTHING


def test_an_admin_container_that_is_late_is_waited_for(guests: Guests) -> None:
    guests.is_admin_late = True
    guests.offline = 3
    assert build().snapshot_id


def test_no_credential_is_in_what_is_sent(guests: Guests) -> None:
    build()
    text = "\n".join(line for lines in guests.sent for line in lines)
    assert "--user" not in text
    assert "password" not in text.lower()
    assert AGENT.pinned in text


def test_copies_are_made_once_a_region_and_fast_restore_is_enabled(guests: Guests) -> None:
    wishes = Wishes(copies={OTHER: ""}, fast_restore_zones=("us-west-2a",))
    first = build(wishes)
    assert Ebs(session(OTHER)).get(first.copies[OTHER]).tags["sdctl:image-1"] == AGENT.reference
    assert guests.fast_restore == {(first.snapshot_id, "us-west-2a")}
    assert build(wishes).copies == first.copies


def test_the_builder_is_launched_as_asked(guests: Guests) -> None:
    aws = Aws(session().access)
    launched: list[dict[str, Any]] = []
    aws._open().events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_: launched.append(params)
    )
    key = aws.client("kms").create_key()["KeyMetadata"]["Arn"]
    subnet = aws.client("ec2").describe_subnets()["Subnets"][0]["SubnetId"]
    build(
        Wishes("arm64", size_gib=80, subnet_id=subnet, has_public_ip=False, kms_key=key),
        aws,
        config=CONFIG.model_copy(update={"permissions_boundary_arn": "arn:aws:iam::aws:policy/Boundary"}),
    )
    [asked] = launched
    [interface], [device] = asked["NetworkInterfaces"], asked["BlockDeviceMappings"]
    assert (interface["SubnetId"], interface["AssociatePublicIpAddress"]) == (subnet, False)
    assert device["Ebs"] | {"VolumeSize": 80, "Encrypted": True, "KmsKeyId": key} == device["Ebs"]
    assert asked["InstanceType"] == "m6g.large"
    assert asked["MetadataOptions"]["HttpTokens"] == "required"
    assert "[settings.host-containers.admin]" in base64.b64decode(asked["UserData"]).decode()


def test_where_the_pinned_bottlerocket_is_gone_the_newest_builds(guests: Guests) -> None:
    said: list[str] = []
    built = build(Wishes(kubernetes_version="1.35"), said=said)
    assert built.kubernetes_version == "1.35"
    assert any("looking for the newest" in text for text in said)


def test_what_cannot_be_built_is_refused_before_anything_is_made(guests: Guests) -> None:
    with pytest.raises(UsageError, match="no image"):
        build(images=())
    with pytest.raises(UsageError, match="room for 18"):
        build(images=tuple(Image(f"r.io/{n}", "1", f"sha256:{n:064x}", {}) for n in range(19)))
    with pytest.raises(NotFoundError, match=r"Kubernetes 1\.99"):
        build(Wishes(kubernetes_version="1.99"))
    assert remains(session()) == NOTHING
