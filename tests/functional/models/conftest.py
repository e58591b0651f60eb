"""A bucket on the emulator, publishers on loopback, and sdctl as a user runs it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fakes.model_sources import Sources, model_sources
from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.objects import Objects
from support import cli
from support.emulator import running_emulator

ACCOUNT = "123456789012"
# Smaller parts than S3 takes, which the emulator does not mind: the tests are quicker.
PART = 1024**2
_numbers = itertools.count(1)


class Desk:
    """One bucket, and the command line beside it."""

    def __init__(self, endpoint: str, bucket: str) -> None:
        self.endpoint, self.bucket = endpoint, bucket
        self.aws = Aws(AwsAccess("us-west-2", endpoint_url=endpoint, access_key=ACCOUNT, secret_key="x"))
        self.objects = Objects(self.aws, bucket)

    @property
    def client(self) -> Any:
        return self.aws.client("s3")

    def run(self, *words: str) -> cli.Ran:
        """Run `sdctl models …` on the bucket."""
        return cli.run("models", *words, "-b", self.bucket)

    def upload(self, *words: str) -> dict[str, Any]:
        """Upload with success; return the last event."""
        ran = self.run("upload", *words, "-o", "json")
        assert ran.code == 0, ran.stderr
        return cli.last_line(ran)

    def keys(self) -> list[str]:
        """The bucket's models."""
        return sorted(one.key for one in self.objects.listed() if not one.key.startswith(".sdctl/"))

    def unfinished(self) -> list[dict[str, Any]]:
        """The uploads that were begun and neither finished nor dropped."""
        found: list[dict[str, Any]] = self.client.list_multipart_uploads(Bucket=self.bucket).get(
            "Uploads", []
        )
        return found

    def body(self, key: str) -> bytes:
        """An object's bytes."""
        return self.objects.read(key)


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_emulator(tmp_path_factory.mktemp("models"), account=ACCOUNT) as endpoint:
        yield endpoint


@pytest.fixture
def desk(emulator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Stand in an empty folder, with a bucket of one's own and without waiting between attempts."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", emulator)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCOUNT)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-west-2")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    for name in ("HF_TOKEN", "HF_HOME", "HF_TOKEN_PATH", "HUGGING_FACE_HUB_TOKEN", "CIVITAI_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sdctl.clients.downloads.BACKOFF_SECONDS", 0.001)
    monkeypatch.setattr("sdctl.models.sending.PART_BYTES", PART)
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    desk = Desk(emulator, f"models-{next(_numbers)}")
    desk.client.create_bucket(
        Bucket=desk.bucket, CreateBucketConfiguration={"LocationConstraint": "us-west-2"}
    )
    return desk


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    with model_sources() as served:
        for name, value in served.environment().items():
            monkeypatch.setenv(name, value)
        yield served
