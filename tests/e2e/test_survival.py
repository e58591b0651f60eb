"""What a farm survives: agents and emulators that are killed, a closed terminal, a second folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.farm import BIN, Farm, command_environment, is_alive, wait_until


@pytest.fixture(scope="module")
def slow_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    """A farm whose pictures take two seconds each."""
    farm = Farm(tmp_path_factory.mktemp("slow"), tmp_path_factory.mktemp("slow-home") / "sdctl")
    try:
        farm.deploy("--seconds-per-image", "2")
        yield farm
    finally:
        farm.destroy()


def child(farm: Farm, kind: str) -> dict[str, Any]:
    (found,) = [child for child in farm.status()["children"] if child["kind"] == kind]
    return found


def t2i(task_id: str) -> dict[str, Any]:
    metadata = {"id": task_id, "runtime": "sdruntime", "tasktype": "text-to-image"}
    return {"metadata": metadata, "content": {"prompt": task_id, "steps": 8}}


def status_of(farm: Farm, task_id: str) -> str:
    return str(farm.call("GET", f"v1alpha2/tasks/{task_id}").body["status"])


def test_killing_the_agent_in_mid_task_loses_and_doubles_nothing(slow_farm: Farm) -> None:
    results = slow_farm.subscribe()
    for name in ("first", "second"):
        assert slow_farm.submit(t2i(name)).status == 200
    wait_until(lambda: status_of(slow_farm, "first") == "running", 20, lambda: "the first task to run")
    victim = child(slow_farm, "agent")["pid"]
    os.kill(victim, signal.SIGKILL)
    for name in ("first", "second"):
        assert slow_farm.ended(name, timeout_seconds=60)["status"] == "completed"
        assert results.of(name)["result"] is True
    results.drain()
    assert all(len(set(texts)) == 1 for texts in results.received.values())
    listing = slow_farm.client("s3").list_objects_v2(
        Bucket=slow_farm.outputs["OutputS3Bucket"], Prefix="output/first/"
    )
    assert len(listing["Contents"]) == 2, "one picture and one answer"
    restarted = child(slow_farm, "agent")
    assert restarted["pid"] != victim
    assert restarted["restarts"] == 1


def test_a_running_task_is_cancelled_within_seconds(slow_farm: Farm) -> None:
    assert slow_farm.submit(t2i("stop-me")).status == 200
    wait_until(lambda: status_of(slow_farm, "stop-me") == "running", 20, lambda: "the task to run")
    assert slow_farm.call("POST", "v1alpha2/tasks/stop-me/cancel").status == 202
    ended = slow_farm.ended("stop-me", timeout_seconds=5)
    assert ended["status"] == "cancelled"
    assert slow_farm.call("POST", "v1alpha2/tasks/stop-me/cancel").status == 409


def test_a_waiting_task_is_cancelled_at_once_and_can_be_retried(slow_farm: Farm) -> None:
    for name in ("ahead-1", "ahead-2", "ahead-3", "waiting"):
        assert slow_farm.submit(t2i(name)).status == 200
    answer = slow_farm.call("POST", "v1alpha2/tasks/waiting/cancel")
    assert (answer.status, answer.body["status"]) == (202, "cancelled")
    answer = slow_farm.call("POST", "v1alpha2/tasks/waiting/retry")
    assert (answer.status, answer.body["status"], answer.body["attempts"]) == (202, "queued", 1)
    assert slow_farm.ended("waiting")["status"] == "completed"


@pytest.mark.parametrize("kind", ["runtime", "emulator"])
def test_a_crash_of_a_child_is_ridden_out_and_reported(slow_farm: Farm, kind: str) -> None:
    before = child(slow_farm, kind)
    os.kill(before["pid"], signal.SIGKILL)

    def is_back() -> bool:
        now = child(slow_farm, kind)
        return now["restarts"] == before["restarts"] + 1 and now["state"] == "ready"

    wait_until(is_back, 20, lambda: f"the {kind} to be back")
    assert slow_farm.submit(t2i(f"after-{kind}")).status == 200
    assert slow_farm.ended(f"after-{kind}")["status"] == "completed"
    if kind == "emulator":
        assert slow_farm.ended("first")["status"] == "completed", "the account's state survived"


def test_two_folders_run_side_by_side_and_outlive_the_terminal(slow_farm: Farm, tmp_path: Path) -> None:
    other = Farm(tmp_path / "other", slow_farm.home)
    other.folder.mkdir()
    terminal = subprocess.Popen(
        [str(BIN / "sdctl"), "deploy", "--target", "local", "--yes", "-o", "json"],
        cwd=other.folder, env=command_environment(other.home), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        stdout, _ = terminal.communicate(timeout=60)
        assert terminal.returncode == 0, "the pipe closed, so no child holds deploy's standard output"
        other.outputs = json.loads(stdout)["outputs"]
        other.key = other.run("apikey").stdout.strip()
        assert other.outputs["FrontApiEndpoint"] != slow_farm.outputs["FrontApiEndpoint"]
        assert other.submit(t2i("elsewhere")).status == 200
        assert other.ended("elsewhere")["status"] == "completed"
        assert slow_farm.call("GET", "v1alpha2/tasks/elsewhere").status == 404
        pids = [child["pid"] for child in other.status()["children"]]
    finally:
        other.destroy()
    wait_until(lambda: not any(map(is_alive, pids)), 10, lambda: f"{pids} to be gone")
    assert child(slow_farm, "agent")["state"] == "ready"


def test_a_second_deploy_changes_nothing(slow_farm: Farm) -> None:
    before = {child["name"]: child["pid"] for child in slow_farm.status()["children"]}
    slow_farm.deploy("--seconds-per-image", "2")
    assert {child["name"]: child["pid"] for child in slow_farm.status()["children"]} == before
    plan = json.loads(slow_farm.run("deploy", "--plan", "--target", "local", "-o", "json").stdout)
    assert {step["action"] for step in plan["steps"]} == {"none"}
