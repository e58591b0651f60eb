"""`sdctl snapshot` as processes of their own, against moto over HTTP: killed in the middle, and run again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from fakes.oci_registry import OciRegistry, oci_registry
from fakes.snapshot_guest import Guests, account_with_guests, put
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.ebs import Ebs
from support.cli import command, process_env, run_process

REGION = "us-west-2"
BUILD = ("snapshot", "build", "--kubernetes-version", "1.36")


@pytest.fixture
def registry() -> Iterator[OciRegistry]:
    with oci_registry() as found:
        put(found, "server", "1", "amd64")
        yield found


@pytest.fixture
def guests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guests]:
    with account_with_guests(tmp_path / "guests", monkeypatch) as found:
        yield found


@pytest.fixture
def environment(guests: Guests, tmp_path: Path) -> Iterator[dict[str, str]]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": REGION,
        "SDCTL_HOME": str(tmp_path / "home"), "SDCTL_STACK_NAME": "farm",
    }  # fmt: skip
    server.stop()


def session() -> Aws:
    return Aws(AwsAccess(REGION, access_key="testing", secret_key="testing"))


def instances() -> list[str]:
    groups = session().client("ec2").describe_instances()["Reservations"]
    return [one["State"]["Name"] for group in groups for one in group["Instances"]]


def roles() -> list[str]:
    return [one["RoleName"] for one in session().client("iam").list_roles()["Roles"]]


def end_at_the_pull(
    guests: Guests, image: str, environment: dict[str, str], folder: Path, number: signal.Signals
) -> tuple[int, str]:
    """Start a build, send it a signal while it pulls, and return its exit code and what it told."""
    words = command(*BUILD, image)
    process = subprocess.Popen(
        words, cwd=folder, env=process_env(environment), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    guests.when_sent = lambda lines: os.kill(process.pid, number) if "pull-image" in lines[1] else None
    with process:
        _, told = process.communicate(timeout=60)
    guests.when_sent = lambda lines: None
    return process.returncode, told


def test_after_a_kill_the_next_build_leaves_its_snapshot_alone(
    guests: Guests, registry: OciRegistry, environment: dict[str, str], tmp_path: Path
) -> None:
    image = f"{registry.host}/server:1"
    code, told = end_at_the_pull(guests, image, environment, tmp_path, signal.SIGKILL)
    assert (code, instances(), len(roles())) == (-signal.SIGKILL, ["running"], 1), told
    again = run_process(*BUILD, image, "-q", cwd=tmp_path, env=environment)
    assert again.code == 0, again.stderr
    assert "removing what an earlier build left" in again.stderr
    assert (set(instances()), roles()) == ({"terminated"}, [])
    assert [f"{one.id}\n" for one in Ebs(session()).find({"sdctl:stack": "farm"})] == [again.stdout]


def test_ctrl_c_removes_the_builder_before_the_command_ends(
    guests: Guests, registry: OciRegistry, environment: dict[str, str], tmp_path: Path
) -> None:
    image = f"{registry.host}/server:1"
    code, told = end_at_the_pull(guests, image, environment, tmp_path, signal.SIGINT)
    assert (code, instances(), roles()) == (130, ["terminated"], []), told
    assert "removing the builder" in told


def test_the_builder_is_removed_although_nobody_reads_any_more(
    guests: Guests, registry: OciRegistry, environment: dict[str, str], tmp_path: Path
) -> None:
    process = subprocess.Popen(
        command(*BUILD, f"{registry.host}/server:1"), cwd=tmp_path, env=process_env(environment),
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None

    def hang_up(lines: list[str]) -> None:
        if "pull-image" in lines[1] and process.stderr is not None:
            process.stderr.close()
            process.send_signal(signal.SIGHUP)

    guests.when_sent = hang_up
    process.wait(60)
    assert (instances(), roles()) == (["terminated"], [])
