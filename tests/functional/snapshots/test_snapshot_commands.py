"""The snapshot commands as they are typed, against moto and a registry over real HTTP."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fakes.oci_registry import OciRegistry, oci_registry
from fakes.snapshot_guest import Guests, account_with_guests, put
from sdctl.cli import context, output, snapshot_run
from sdctl.cli.deploy_snapshot import warn_of_moved, with_snapshot
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.ebs import Ebs
from sdctl.clients.oci_http import OciHttp
from sdctl.clients.pricing import Pricing
from sdctl.config.load import Loaded, Overrides, load_config
from sdctl.deployments import Deployment
from sdctl.errors import AwsError, ConfigError, NotFoundError, UsageError
from sdctl.polling import Clock
from sdctl.prices import FAST_RESTORE, SNAPSHOT, Price
from sdctl.snapshots.building import Around
from sdctl.snapshots.images import digests, examine
from sdctl.snapshots.listing import moved
from sdctl.snapshots.owner import Owner
from support.cli import run

REGION = "us-west-2"


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    with oci_registry() as found:
        yield found


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    seconds = [0.0]

    def sleep(wanted: float) -> None:
        seconds[0] += wanted

    clock = Clock(lambda: seconds[0], sleep, lambda low, high: high)
    report = output.note
    monkeypatch.setattr(snapshot_run, "around", lambda aws: Around(aws, report, Owner.this_process(), clock))
    price = Price(0.05, "USD", "gib-month")
    monkeypatch.setattr(Pricing, "product", lambda self, name: price if name == SNAPSHOT else None)
    with account_with_guests(tmp_path / "guests", monkeypatch) as found:
        yield found
    context.reset(context.Options())


def session() -> Aws:
    return Aws(AwsAccess(REGION, access_key="testing", secret_key="testing"))


def configuration(
    registry: OciRegistry, snapshot_id: str = "", *, types: str = "[g5.xlarge]", size: str = ""
) -> None:
    """Write a configuration whose images lie in the registry."""
    fields = {"snapshotID": snapshot_id, "volumeSize": size}
    volume = json.dumps({"dataVolume": {name: value for name, value in fields.items() if value}})
    Path("sdctl.yaml").write_text(
        f"""stackName: farm
kubernetesVersion: "1.36"
modelsRuntime:
  - name: sdruntime
    type: sdwebui
    extraValues:
      karpenter: {{nodeTemplate: {volume}, provisioner: {{instanceType: {types}}}}}
      runtime:
        inferenceApi: {{image: {{repository: "{registry.host}/server", tag: "1"}}}}
        queueAgent: {{image: {{repository: "{registry.host}/agent", tag: "1"}}}}
"""
    )


def test_what_the_configuration_uses_is_built_listed_and_deleted(
    guests: Guests, registry: OciRegistry
) -> None:
    server, agent = put(registry, "server", "1", "amd64", "arm64"), put(registry, "agent", "1", "amd64")
    configuration(registry)
    built = run("snapshot", "build", "-o", "json")
    assert built.code == 0, built.stderr
    assert {one["digest"] for one in built.document["images"]} == {server, agent}
    snapshot_id = built.document["snapshot_id"]
    again = run("snapshot", "build", "-q")
    assert again.stdout == f"{snapshot_id}\n"

    [row] = run("snapshot", "list", "-o", "json").document["snapshots"]
    assert (row["id"], row["state"], row["used_by"]) == (snapshot_id, "completed", [])
    assert row["monthly_cost_at_most"] == pytest.approx(row["size_gib"] * 0.05)
    assert row["images"][0] == {"name": f"{registry.host}/server:1", "digest": server}
    assert snapshot_id in run("snapshot", "list").stdout
    assert run("snapshot", "list", "-q").stdout == f"{snapshot_id}\n"

    configuration(registry, snapshot_id)
    [row] = run("snapshot", "list", "-o", "json").document["snapshots"]
    assert row["used_by"] == ["sdruntime"]
    refused = run("snapshot", "delete", snapshot_id, "-y", "-o", "json")
    assert (refused.code, refused.error["code"]) == (8, "conflict")
    configuration(registry)
    assert run("snapshot", "delete", snapshot_id).code == 2
    assert run("snapshot", "delete", snapshot_id, "-y").code == 0
    assert Ebs(session()).find({"sdctl:stack": "farm"}) == []


def test_an_image_that_has_moved_is_told(guests: Guests, registry: OciRegistry) -> None:
    for name in ("server", "agent"):
        put(registry, name, "1", "amd64")
    configuration(registry)
    assert run("snapshot", "build", "-q").code == 0
    [row] = run("snapshot", "list", "--check", "-o", "json").document["snapshots"]
    assert row["moved"] == []
    put(registry, "server", "1", "amd64", layer=b"newer")
    ran = run("snapshot", "list", "--check", "-o", "json")
    [row] = ran.document["snapshots"]
    assert row["moved"] == [f"{registry.host}/server:1"]


def test_fast_restore_is_not_bought_without_a_yes(guests: Guests, registry: OciRegistry) -> None:
    put(registry, "server", "1", "amd64")
    words = ("snapshot", "build", f"{registry.host}/server:1", "--fast-restore", "us-west-2a")
    configuration(registry)
    refused = run(*words)
    assert (refused.code, guests.fast_restore) == (2, set())
    allowed = run(*words, "-y")
    assert allowed.code == 0, allowed.stderr
    assert [zone for _, zone in guests.fast_restore] == ["us-west-2a"]
    assert "billed by the hour" in allowed.stdout


def build_server(registry: OciRegistry, *more: str) -> str:
    """Build a snapshot of one image and return its id."""
    put(registry, "server", "1", "amd64")
    configuration(registry)
    ran = run("snapshot", "build", f"{registry.host}/server:1", "-q", "-y", *more)
    assert ran.code == 0, ran.stderr
    return ran.stdout.strip()


def test_fast_restore_is_counted_and_ended_without_the_snapshot(
    guests: Guests, registry: OciRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = {SNAPSHOT: Price(0.05, "USD", "gib-month"), FAST_RESTORE: Price(0.9, "USD")}
    monkeypatch.setattr(Pricing, "product", lambda self, name: known[name])
    name = build_server(registry, "--fast-restore", "us-west-2a", "--fast-restore", "us-west-2b")
    [row] = run("snapshot", "list", "-o", "json").document["snapshots"]
    assert row["fast_restore_zones"] == ["us-west-2a", "us-west-2b"]
    assert row["monthly_cost_at_most"] == pytest.approx(row["size_gib"] * 0.05 + 2 * 0.9 * 730)
    ended = run("snapshot", "delete", name, "--only-fast-restore", "-o", "json")
    assert ended.document == {"fast_restore_disabled": {name: ["us-west-2a", "us-west-2b"]}}
    [row] = run("snapshot", "list", "-o", "json").document["snapshots"]
    assert row["fast_restore_zones"] == []


def test_fast_restore_that_nodes_would_not_use_is_told(guests: Guests, registry: OciRegistry) -> None:
    put(registry, "server", "1", "amd64")
    words = ("snapshot", "build", f"{registry.host}/server:1", "--fast-restore", "us-west-2a", "-y")
    configuration(registry)
    told = run(*words)
    assert "volumeInitializationRate to 0" in told.stderr
    assert "bills this rate by the GiB of data of each volume; for the price in us-west-2" in told.stdout
    text = Path("sdctl.yaml").read_text()
    Path("sdctl.yaml").write_text(text.replace("{}", '{"volumeInitializationRate": 0}'))
    assert "volumeInitializationRate" not in run(*words).stderr


def test_a_zone_or_region_that_is_none_is_refused_before_anything_is_made(
    guests: Guests, registry: OciRegistry
) -> None:
    put(registry, "server", "1", "amd64")
    configuration(registry)
    for words in (
        ("--copy-to", "eu-centrl-1"), ("--copy-to", REGION), ("--copy-to", "cn-north-1"),
        ("--fast-restore", "eu-central-1a"), ("--fast-restore", "us-west-2"),
        ("--fast-restore", "us-west-2-lax-1a"),
    ):  # fmt: skip
        ran = run("snapshot", "build", f"{registry.host}/server:1", *words, "-o", "json")
        assert (ran.code, ran.error["code"]) == (2, "usage"), words
        assert words[1] in ran.error["message"]
    assert guests.sent == []


def test_copies_are_listed_and_deleted_with_their_snapshot(guests: Guests, registry: OciRegistry) -> None:
    there = Ebs(Aws(AwsAccess("eu-central-1", access_key="testing", secret_key="testing")))
    name = build_server(registry, "--copy-to", "eu-central-1")
    [copy] = there.find({"sdctl:stack": "farm"})
    [row] = run("snapshot", "list", "-o", "json").document["snapshots"]
    assert row["copies"] == ["eu-central-1"]
    # What was built there by itself is nobody's copy.
    own = there.copy_from(REGION, name, "built there", {"sdctl:stack": "farm"})
    deleted = run("snapshot", "delete", name, "-y", "-o", "json")
    assert deleted.document["copies_deleted"] == [{"region": "eu-central-1", "id": copy.id}]
    assert [one.id for one in there.find({"sdctl:stack": "farm"})] == [own]


def test_a_new_build_of_the_same_images_gets_copies_of_its_own(guests: Guests, registry: OciRegistry) -> None:
    there = Ebs(Aws(AwsAccess("eu-central-1", access_key="testing", secret_key="testing")))
    first = build_server(registry, "--copy-to", "eu-central-1")
    second = build_server(registry, "--copy-to", "eu-central-1", "--force")
    made_of = {one.tags["sdctl:copy-of"] for one in there.find({"sdctl:stack": "farm"})}
    assert made_of == {first, second}


def test_what_was_deployed_is_not_deleted_although_the_configuration_does_not_name_it(
    guests: Guests, registry: OciRegistry
) -> None:
    name = build_server(registry)
    deployment = Deployment(
        "farm",
        REGION,
        "aws",
        str(Path.cwd()),
        {},
        runtimes={"sdruntime": "sdwebui"},
        snapshots={"sdruntime": name},
    )
    context.deployments().record(deployment)
    [row] = run("snapshot", "list", "-o", "json").document["snapshots"]
    assert row["used_by"] == ["sdruntime"]
    refused = run("snapshot", "delete", name, "-y", "-o", "json")
    assert (refused.code, refused.error["code"]) == (8, "conflict")


def test_a_builder_is_for_the_nodes_that_are_configured(guests: Guests, registry: OciRegistry) -> None:
    for name in ("server", "agent"):
        put(registry, name, "1", "amd64", "arm64")
    configuration(registry, types="[g5g.xlarge]")
    built = run("snapshot", "build", "-o", "json")
    assert built.document["architecture"] == "arm64"
    again = run("snapshot", "build", "--arch", "arm64", "-q")
    assert again.stdout.strip() == built.document["snapshot_id"]
    wrong = run("snapshot", "build", "--arch", "x86_64", "-o", "json")
    assert (wrong.code, wrong.error["message"]) == (2, "no runtime has nodes with x86_64")
    configuration(registry, types="[g5g.xlarge, g5.xlarge]")
    assert "no one architecture" in run("snapshot", "build", "-o", "json").error["message"]


def test_a_registry_that_wants_a_login_is_told_before_anything_is_made(
    guests: Guests, registry: OciRegistry
) -> None:
    put(registry, "server", "1", "amd64")
    configuration(registry)
    registry.login = "a user's"
    ran = run("snapshot", "build", f"{registry.host}/server:1", "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "registry")
    assert "copy a private image into ECR" in ran.error["hint"]
    assert guests.sent == []


def test_a_registry_that_cannot_be_asked_hides_no_snapshot(guests: Guests, registry: OciRegistry) -> None:
    name = build_server(registry)
    registry.login = "a user's"
    ran = run("snapshot", "list", "--check", "-o", "json")
    assert ran.code == 0
    assert [(one["id"], one["moved"]) for one in ran.document["snapshots"]] == [(name, None)]
    assert "not known" in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_the_process_removes_the_builder_first(
    guests: Guests, registry: OciRegistry, number: signal.Signals
) -> None:
    put(registry, "server", "1", "amd64")
    configuration(registry)
    before = signal.getsignal(number)
    guests.when_sent = lambda lines: os.kill(os.getpid(), number) if "pull-image" in lines[1] else None
    ran = run("snapshot", "build", f"{registry.host}/server:1")
    assert ran.code == 130
    assert signal.getsignal(number) is before
    states = {
        one["State"]["Name"]
        for group in session().client("ec2").describe_instances()["Reservations"]
        for one in group["Instances"]
    }
    assert states == {"terminated"}
    assert session().client("iam").list_roles()["Roles"] == []


def test_a_lost_terminal_ends_nothing_that_nohup_started(guests: Guests, registry: OciRegistry) -> None:
    guests.when_sent = lambda lines: os.kill(os.getpid(), signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert build_server(registry).startswith("snap-")
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_key_that_cannot_encrypt_is_refused_before_anything_is_made(
    guests: Guests, registry: OciRegistry
) -> None:
    kms = session().client("kms")
    key = kms.create_key()["KeyMetadata"]["Arn"]
    name = build_server(registry, "--kms-key", key)
    assert Ebs(session()).get(name).is_encrypted
    guests.sent.clear()
    kms.disable_key(KeyId=key.rpartition("/")[2])
    words = ("snapshot", "build", f"{registry.host}/server:1", "--force", "-o", "json", "--kms-key")
    refused = run(*words, key)
    assert (refused.code, refused.error["code"]) == (3, "config")
    assert "it is Disabled" in refused.error["message"]
    signing = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
    assert "RSA_2048" in run(*words, signing).error["message"]
    gone = f"arn:aws:kms:{REGION}:123456789012:key/00000000-0000-0000-0000-000000000000"
    assert "there is no key" in run(*words, gone).error["message"]
    assert guests.sent == []


def test_a_snapshot_of_somebody_elses_is_not_deleted(guests: Guests, registry: OciRegistry) -> None:
    configuration(registry)
    ec2 = session().client("ec2")
    volume = ec2.create_volume(AvailabilityZone="us-west-2a", Size=1)["VolumeId"]
    other = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    ran = run("snapshot", "delete", other, "-y", "-o", "json")
    assert (ran.code, ran.error["code"]) == (4, "not_found")
    assert Ebs(session()).get(other).state == "completed"
    assert run("snapshot", "delete", "-y").code == 2
    assert run("snapshot", "delete", "nothing", "-y").code == 2
    missing = run("snapshot", "delete", "snap-0123456789abcdef0", "-y", "-o", "json")
    assert (missing.code, missing.error["message"], missing.error["hint"]) == (
        4, "there is no snapshot snap-0123456789abcdef0 in us-west-2", "sdctl snapshot list"
    )  # fmt: skip
    assert run("snapshot", "delete", "--leftovers", "--only-fast-restore", "-y").code == 2
    assert run("snapshot", "delete", "--leftovers").stdout == "0 leftovers removed\n"


def test_the_local_target_says_that_it_has_no_nodes(guests: Guests, registry: OciRegistry) -> None:
    for words in (("list",), ("build", "r.io/a:1"), ("delete", "snap-1")):
        ran = run("snapshot", *words, "--target", "local", "-o", "json")
        assert (ran.code, ran.error["code"]) == (5, "no_nodes")


def test_images_are_examined_for_the_platform_that_is_asked_for(registry: OciRegistry) -> None:
    digest = put(registry, "server", "1", "amd64", "arm64")
    reference = f"{registry.host}/server:1"
    [arm] = examine([reference], "arm64", OciHttp)
    [x86] = examine([reference], "x86_64", OciHttp)
    assert arm.digest == x86.digest == digest
    assert arm.layers.keys() != x86.layers.keys()
    assert len(arm.layers) == 2
    put(registry, "server", "2", "amd64")
    with pytest.raises(NotFoundError, match=r"not there for linux/arm64, but for .*linux/amd64"):
        examine([f"{registry.host}/server:2"], "arm64", OciHttp)


def test_an_image_without_an_index_is_judged_by_its_configuration(registry: OciRegistry) -> None:
    put(registry, "server", "1", "arm64")
    reference = f"{registry.host}/server:1-arm64"
    [found] = examine([reference], "arm64", OciHttp)
    assert found.tag == "1-arm64"
    with pytest.raises(NotFoundError, match="is for arm64, not for amd64"):
        examine([reference], "x86_64", OciHttp)


def test_an_image_that_is_gone_has_no_digest(registry: OciRegistry) -> None:
    digest = put(registry, "server", "1", "amd64")
    known, gone = f"{registry.host}/server:1", f"{registry.host}/server:9"
    assert digests([known, gone], OciHttp) == {known: digest, gone: ""}
    assert moved({known: digest, gone: "sha256:1", f"{registry.host}/server@{digest}": digest}, OciHttp) == [
        gone
    ]


def test_a_price_that_cannot_be_read_hides_nothing(
    guests: Guests, registry: OciRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(registry, "server", "1", "amd64")
    configuration(registry)
    assert run("snapshot", "build", f"{registry.host}/server:1", "-q").code == 0

    def refuse(self: Pricing, name: str) -> None:
        raise AwsError("could not read the price", aws_code="AccessDenied")

    monkeypatch.setattr(Pricing, "product", refuse)
    ran = run("snapshot", "list")
    assert ran.code == 0
    assert "unknown" in ran.stdout
    assert "not known: could not read the price" in ran.stderr


def loaded_with(snapshot: str | None = None) -> tuple[Loaded, Overrides]:
    overrides = Overrides(snapshot=snapshot)
    return load_config(None, overrides, {}), overrides


def test_a_deploy_with_a_snapshot_builds_one_first_and_takes_it_the_next_time(
    guests: Guests, registry: OciRegistry, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("server", "agent"):
        put(registry, name, "1", "amd64")
    configuration(registry)
    planned = with_snapshot(*loaded_with(), session(), only_look=True)
    assert planned.config.runtimes[0].snapshot_id == ""
    assert "would be built first" in capsys.readouterr().err
    with pytest.raises(UsageError):
        with_snapshot(*loaded_with(), session(), only_look=False)  # it asks, and nobody is there
    assert guests.sent == []

    context.reset(context.Options(yes=True))
    first = with_snapshot(*loaded_with(), session(), only_look=False).config.runtimes[0]
    assert first.snapshot_id.startswith("snap-")
    guests.sent.clear()
    second = with_snapshot(*loaded_with(), session(), only_look=False).config.runtimes[0]
    assert (second.snapshot_id, guests.sent) == (first.snapshot_id, [])
    with pytest.raises(UsageError, match="sdruntime has a snapshotID already"):
        with_snapshot(*loaded_with(first.snapshot_id), session(), only_look=False)


def test_volumes_are_as_large_as_the_snapshot_that_is_built_first(
    guests: Guests, registry: OciRegistry
) -> None:
    put(registry, "server", "1", "amd64", gib=30)
    put(registry, "agent", "1", "amd64", layer=b"agent")
    configuration(registry, size="120Gi")
    context.reset(context.Options(yes=True))
    with pytest.raises(UsageError, match="need a volume of 167 GiB; the nodes of sdruntime have a smaller"):
        with_snapshot(*loaded_with(), session(), only_look=False)
    assert guests.sent == []
    text = (
        Path("sdctl.yaml").read_text().replace('"volumeSize": "120Gi"}', '}, "instanceStorePolicy": "RAID0"')
    )
    Path("sdctl.yaml").write_text(text)
    with pytest.raises(ConfigError, match="hides the image cache"):
        with_snapshot(*loaded_with(), session(), only_look=False)
    assert guests.sent == []
    configuration(registry)
    for _ in range(2):  # built, then found
        runtime = with_snapshot(*loaded_with(), session(), only_look=False).config.runtimes[0]
        assert runtime.extra_value("karpenter", "nodeTemplate", "dataVolume", "volumeSize") == "167Gi"
        assert Ebs(session()).get(runtime.snapshot_id).size_gib == 167


def test_a_deploy_warns_of_images_for_other_nodes(
    guests: Guests, registry: OciRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("server", "agent"):
        put(registry, name, "1", "amd64", "arm64")
    configuration(registry)
    snapshot_id = run("snapshot", "build", "-q").stdout.strip()
    configuration(registry, types="[g5g.xlarge]")
    warn_of_moved(loaded_with(snapshot_id)[0].config, session(), {})
    assert (
        f"{snapshot_id} has images for x86_64, and nodes of sdruntime may be others"
        in capsys.readouterr().err
    )


def test_a_deploy_warns_where_an_image_is_not_on_the_snapshot_as_it_is_today(
    guests: Guests, registry: OciRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("server", "agent"):
        put(registry, name, "1", "amd64")
    configuration(registry)
    snapshot_id = run("snapshot", "build", "-q").stdout.strip()
    loaded, _ = loaded_with(snapshot_id)
    warn_of_moved(loaded.config, session(), {})
    assert "not on" not in capsys.readouterr().err
    put(registry, "agent", "1", "amd64", layer=b"newer")
    warn_of_moved(loaded.config, session(), {})
    told = capsys.readouterr().err
    assert f"{registry.host}/agent:1 is not on {snapshot_id} as it is today" in told
    assert "server" not in told
    Ebs(session()).delete(snapshot_id)
    warn_of_moved(loaded.config, session(), {})
    assert "is not known" in capsys.readouterr().err


def test_a_local_deploy_refuses_a_snapshot(guests: Guests) -> None:
    ran = run("deploy", "--with-snapshot", "--target", "local", "-o", "json")
    assert (ran.code, ran.error["code"]) == (2, "usage")
