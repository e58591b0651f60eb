"""The lock of a deployment against a real S3 API: one holder at a time, and none for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from threading import Event

import pytest

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.s3 import S3
from sdctl.deploy.lock import Holder, deploy_lock, this_process
from sdctl.errors import ConflictError
from support.emulator import running_emulator

BUCKET, KEY = "locked-assets", "locks/farm.json"


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    with running_emulator(tmp_path_factory.mktemp("emulator"), account="123456789012") as url:
        aws = Aws(AwsAccess("us-west-2", endpoint_url=url, access_key="123456789012", secret_key="x"))
        aws.client("s3").create_bucket(
            Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
        )
        yield S3(aws)


@pytest.fixture(autouse=True)
def free(s3: S3) -> None:
    s3.delete(BUCKET, KEY)


def elsewhere(command: str = "destroy") -> Holder:
    return replace(this_process(command), host="other", machine="f00", user="ann")


def ended_process() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_a_second_holder_is_told_who_has_it_and_since_when(s3: S3) -> None:
    other = elsewhere()
    with deploy_lock(s3, BUCKET, "farm", other):
        with pytest.raises(ConflictError) as caught, deploy_lock(s3, BUCKET, "farm", this_process("deploy")):
            pytest.fail("two holders")
        assert f"sdctl destroy of ann on other (process {os.getpid()}) since {other.since}" in str(
            caught.value
        )
        with deploy_lock(s3, BUCKET, "another", this_process("deploy")):
            pass
    with deploy_lock(s3, BUCKET, "farm", this_process("deploy")):
        assert s3.get(BUCKET, KEY)
    assert s3.get(BUCKET, KEY) is None


def test_what_a_killed_process_of_this_machine_left_is_taken_over_at_once(s3: S3) -> None:
    dead = replace(this_process("deploy"), process=ended_process())
    with deploy_lock(s3, BUCKET, "farm", dead), deploy_lock(s3, BUCKET, "farm", this_process("deploy")):
        pass


def test_a_living_process_of_this_machine_keeps_it(s3: S3) -> None:
    living = replace(this_process("deploy"), process=os.getppid())
    with (
        deploy_lock(s3, BUCKET, "farm", living),
        pytest.raises(ConflictError),
        deploy_lock(s3, BUCKET, "farm", this_process("deploy")),
    ):
        pytest.fail("two holders")


def test_a_lock_that_is_not_renewed_ends_by_age_and_a_renewed_one_does_not(s3: S3) -> None:
    with deploy_lock(s3, BUCKET, "farm", elsewhere(), renewed_every_seconds=0.2):
        time.sleep(2.5)  # S3 tells ages in whole seconds
        with (
            pytest.raises(ConflictError),
            deploy_lock(s3, BUCKET, "farm", this_process("deploy"), stale_seconds=2),
        ):
            pytest.fail("two holders")
    with deploy_lock(s3, BUCKET, "farm", elsewhere()):
        time.sleep(2.5)
        with deploy_lock(s3, BUCKET, "farm", this_process("deploy"), stale_seconds=2):
            pass


def test_who_lost_it_hears_of_it_and_leaves_the_other_s_alone(s3: S3) -> None:
    lost = Event()
    with deploy_lock(s3, BUCKET, "farm", elsewhere(), on_loss=lost.set, renewed_every_seconds=0.1):
        s3.put(BUCKET, KEY, b'{"not": "ours"}')
        assert lost.wait(5)
    found = s3.get(BUCKET, KEY)
    assert found is not None
    assert found.body == b'{"not": "ours"}'


def test_a_lock_that_cannot_be_read_is_somebody_s_until_it_is_old(s3: S3) -> None:
    s3.put(BUCKET, KEY, b"\xff")
    with pytest.raises(ConflictError), deploy_lock(s3, BUCKET, "farm", this_process("deploy")):
        pytest.fail("two holders")
    time.sleep(2.5)
    with deploy_lock(s3, BUCKET, "farm", this_process("deploy"), stale_seconds=2):
        pass
