"""Building a snapshot against moto: what is sent, what remains, and a crash at every single call."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fakes.snapshot_guest import Guests, account_with_guests
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.ebs import Ebs
from sdctl.config.model import Config
from sdctl.errors import ConflictError, NotFoundError, UsageError, WaitTimeoutError
from sdctl.polling import Clock
from sdctl.snapshots.building import Around, Built, SnapshotError, Wishes, build_snapshot, remove_leftovers
from sdctl.snapshots.owner import Owner
from sdctl_snapshot.images import Image

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
    elsewhere = Owner("ann on desk", "abc", 77, int(Owner.this_process().at))
    with pytest.raises(CrashError):
        build(aws=script.aws, owner=elsewhere)
    script.plan(0)
    before = remains(script.aws)
    assert before["instances"]
    with pytest.raises(ConflictError, match="ann on desk"):
        build(aws=script.aws)
    assert remains(script.aws) == before
    assert remove_leftovers(CONFIG, around(script.aws), takes_over=True) == 2
    assert remains(script.aws) == NOTHING


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
    assert guests.fast_restore == [{"zones": ["us-west-2a"], "snapshots": [first.snapshot_id]}]
    assert build(wishes).copies == first.copies


def test_the_builder_is_launched_as_asked(guests: Guests) -> None:
    aws = Aws(session().access)
    launched: list[dict[str, Any]] = []
    aws._open().events.register(
        "provide-client-params.ec2.RunInstances", lambda params, **_: launched.append(params)
    )
    key = "arn:aws:kms:us-west-2:123456789012:key/11111111-2222-3333-4444-555555555555"
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


def test_what_cannot_be_built_is_refused_before_anything_is_made(guests: Guests) -> None:
    with pytest.raises(UsageError, match="no image"):
        build(images=())
    with pytest.raises(UsageError, match="room for 18"):
        build(images=tuple(Image(f"r.io/{n}", "1", f"sha256:{n:064x}", {}) for n in range(19)))
    with pytest.raises(NotFoundError, match=r"Kubernetes 1\.99"):
        build(Wishes(kubernetes_version="1.99"))
    assert remains(session()) == NOTHING
