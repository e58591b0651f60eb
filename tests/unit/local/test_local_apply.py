"""Outputs, runtime URLs and the saving of state, without any process."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sdctl.config.load import Overrides, load_config
from sdctl.config.write import config_text
from sdctl.errors import UsageError
from sdctl.local.apply import local_outputs, read_runtime_urls
from sdctl.local.emulator import save_repeatedly
from sdctl.local.logfiles import follow, tail

ONE = load_config(None, Overrides(), {}).config


def test_outputs_that_name_aws_point_to_this_machine() -> None:
    stack = {
        "RestApiId": "abc",
        "ApiStageName": "dev",
        "FrontApiEndpoint": "https://aws",
        "OutputS3Bucket": "b",
    }
    found = local_outputs("my stack", "us-east-1", "http://127.0.0.1:4000", stack)
    assert found["FrontApiEndpoint"] == "http://127.0.0.1:4000/_aws/execute-api/abc/dev/"
    assert found["GetAPIKeyCommand"] == "sdctl apikey -n 'my stack' -R us-east-1 --target local"
    assert "no cluster" in found["ConfigCommand"]
    assert found["OutputS3Bucket"] == "b"


def test_one_url_goes_to_the_one_runtime() -> None:
    assert read_runtime_urls(["http://127.0.0.1:8188"], ONE) == {"sdruntime": "http://127.0.0.1:8188"}
    assert read_runtime_urls(["SdRuntime=http://gpu:7860/?a=b"], ONE) == {"sdruntime": "http://gpu:7860/?a=b"}


def test_every_bad_runtime_url_is_named() -> None:
    with pytest.raises(UsageError) as error:
        read_runtime_urls(["other=http://x", "sdruntime=ftp://x", "sdruntime=http://me:pw@x"], ONE)
    assert len(error.value.message.splitlines()) == 3
    assert "'other' is not a runtime" in error.value.message


def test_a_written_configuration_loads_as_the_same(tmp_path: Path) -> None:
    config = load_config(
        None, Overrides("farm", "my-bucket", "snap-0123456789abcdef0", "rt", "comfyui"), {}
    ).config
    path = tmp_path / "sdctl.yaml"
    path.write_text(config_text(config), encoding="utf-8")
    assert load_config(path, Overrides(), {}).config == config


def test_state_is_saved_once_a_change_and_a_copy_that_fails_is_taken_again() -> None:
    written: list[Any] = []
    waits: list[float] = []
    snapshots = iter([RuntimeError("dictionary changed size during iteration"), {"sqs": 1}, {"sqs": 2}])

    def snapshot() -> dict[str, Any]:
        found = next(snapshots)
        if isinstance(found, RuntimeError):
            raise found
        return found

    async def run() -> None:
        changed = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            if written == [{"sqs": 1}]:
                changed.set()
            await asyncio.sleep(0)

        changed.set()
        saving = asyncio.create_task(save_repeatedly(changed, snapshot, written.append, sleep=sleep))
        while len(waits) < 3:
            assert not saving.done()
            await asyncio.sleep(0.001)
        saving.cancel()

    asyncio.run(run())
    assert written == [{"sqs": 1}, {"sqs": 2}]
    assert min(waits) >= 1


def test_a_followed_log_shows_whole_lines_and_goes_on_after_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "agent.log"
    path.write_text("old\n")
    writes = iter([("a", "one\ntw"), ("a", "o\n"), ("w", "new\n")])
    rounds = 0

    def sleep(_seconds: float) -> None:
        mode, text = next(writes, ("a", ""))
        with path.open(mode) as file:
            file.write(text)

    def is_over() -> bool:
        nonlocal rounds
        rounds += 1
        return rounds == 5

    assert [line.text for line in follow({"agent": path}, is_over=is_over, sleep=sleep)] == [
        "one",
        "two",
        "new",
    ]
    assert tail(path, 5) == ["new"]
    assert tail(tmp_path / "missing.log", 5) == []
