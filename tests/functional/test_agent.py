"""The real agent process between the emulated account and a scripted runtime."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.agent_runtime import ScriptedRuntime, png
from support.agent import Account, Agent, FaultyProxy, now_ms, until
from support.emulator import running_emulator

from sdctl import contract, task_record


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_emulator(tmp_path_factory.mktemp("emulator")) as url:
        yield url


@pytest.fixture
def account(endpoint: str) -> Account:
    return Account(endpoint)


@pytest.fixture
def runtime() -> Iterator[ScriptedRuntime]:
    server = ScriptedRuntime().start()
    yield server
    server.stop()


StartAgent = Callable[..., Agent]


@pytest.fixture
def start_agent(account: Account, runtime: ScriptedRuntime, tmp_path: Path) -> Iterator[StartAgent]:
    agents: list[Agent] = []

    def start(**settings: str) -> Agent:
        agents.append(Agent(account, runtime.url, tmp_path, **settings))
        return agents[-1]

    yield start
    for agent in agents:
        agent.kill()


def test_a_task_is_run_stored_told_and_its_message_deleted(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    start_agent()
    account.submit("dog", context={"order": 7}, prefix="my/pictures")
    result = account.result_of("dog")
    row = account.ended("dog")
    assert (result["result"], result["status"], result["attempts"]) == (True, "completed", 1)
    assert result["context"] == {"order": 7}
    assert result["image_url"] == [
        f"s3://{account.bucket}/{contract.image_key('dog', 'my/pictures', 1, 'png')}"
    ]
    assert account.read(result["image_url"][0]) == runtime.images[0]
    assert "images" not in json.loads(account.read(result["output_url"])) or runtime.images[
        0
    ] not in account.read(result["output_url"])
    assert row.status == "completed"
    until("the queue to be empty", account.is_drained)
