"""The real agent process between the emulated account and a scripted runtime."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fakes.agent_runtime import ScriptedRuntime, png
from sdctl import contract, task_record
from support.agent import Account, Agent, FaultyProxy, now_ms, until
from support.emulator import free_port, running_emulator


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


def test_a_killed_agents_task_is_run_again_within_45_seconds_and_ends_once(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 60
    first = start_agent()
    account.submit("dog")
    assert runtime.at_work.wait(15)
    second = start_agent().wait_ready()
    runtime.at_work.clear()
    first.kill()
    killed_at = time.monotonic()
    runtime.seconds = 0.05
    runtime._interrupted.set()  # the GPU is free for the next one
    result = account.result_of("dog", 46)
    assert time.monotonic() - killed_at < 45
    assert (result["status"], result["attempts"]) == ("completed", 2)
    assert runtime.started["dog"] == 2
    until("the queue to be empty", account.is_drained)
    assert [r["id"] for r in account.results()] == ["dog"]
    assert len(account.keys()) == 2
    second.signal()
    assert second.wait(2) == 0


def test_an_agent_whose_thread_died_is_gone_at_once_and_another_one_does_its_task(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent, tmp_path: Path
) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sdctl_agent.worker\n"
        "def broken(*_): raise ValueError('a bug')\n"
        "sdctl_agent.worker.Worker._note_failure = broken\n"
    )
    path = os.pathsep.join([str(site), *filter(None, sys.path)])
    broken = start_agent(PYTHONPATH=path)
    account.submit("dog")
    assert broken.wait(25) == 1
    assert "a bug" in broken.logged("crash")[0]["traceback"]
    start_agent()
    assert account.ended("dog", 50).status == "completed"


def test_the_same_task_delivered_twice_runs_once(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 0.4
    task = account.submit("dog")
    account.send(contract.message_body(task))
    start_agent()
    start_agent()
    account.result_of("dog")
    account.send(contract.message_body(task))
    until("the last message to be settled", lambda: account.depth()[0] == 0)
    account.submit("cat")
    account.result_of("cat")
    assert runtime.started == {"dog": 1, "cat": 1}
    assert [r["id"] for r in account.results()] == ["dog", "cat"]


def test_an_idle_agent_is_gone_within_2_seconds_and_takes_nothing_more(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    agent = start_agent().wait_ready()
    time.sleep(0.5)  # inside its long poll
    agent.signal()
    assert agent.wait(2) == 0
    # The emulator does not notice that the poll was aborted and may still hand it the message, unseen.
    account.submit("dog")
    time.sleep(0.3)
    row = account.row("dog")
    assert row is not None
    assert (row.status, row.attempts) == ("queued", 0)
    assert sum(account.depth()) == 1


def test_a_drain_finishes_what_fits(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 1.0
    agent = start_agent()
    account.submit("dog")
    assert runtime.at_work.wait(15)
    agent.signal()
    assert agent.wait(10) == 0
    assert account.result_of("dog")["status"] == "completed"
    assert runtime.interrupts == 0


def test_a_drain_interrupts_and_hands_back_what_does_not_fit_without_counting(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 30
    agent = start_agent(DRAIN_SECONDS="1")
    account.submit("dog")
    assert runtime.at_work.wait(15)
    agent.signal()
    assert agent.wait(12) == 0
    assert runtime.interrupts >= 1
    row = account.row("dog")
    assert row is not None
    assert (row.status, row.attempts) == ("queued", 1)
    assert account.depth() == (1, 0)
    runtime.seconds = 0
    start_agent()
    assert account.result_of("dog")["attempts"] == 1


def test_a_second_signal_ends_a_draining_agent_at_once(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 30
    agent = start_agent()
    account.submit("dog")
    assert runtime.at_work.wait(15)
    agent.signal()
    until("the drain", lambda: agent.logged("drain"))
    agent.signal()
    assert agent.wait(1) == 128 + signal.SIGTERM


def test_a_running_task_that_is_cancelled_stops_within_3_seconds(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 30
    start_agent()
    account.submit("dog")
    assert runtime.at_work.wait(15)
    account.write(task_record.cancel_call("dog", int(time.time() * 1000)))
    result = account.result_of("dog", 3.5)
    assert (result["status"], result["result"], result["image_url"]) == ("cancelled", False, [])
    assert runtime.interrupts >= 1
    until("the queue to be empty", account.is_drained)
    assert account.keys() == []


def test_a_runtime_that_dies_costs_no_attempt_and_nothing_is_received_until_it_is_back(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 30
    agent = start_agent()
    account.submit("dog")
    assert runtime.at_work.wait(15)
    runtime.stop()
    until("the hand-back", lambda: account.depth() == (1, 0), 5)
    account.submit("cat")
    time.sleep(1.0)
    assert account.depth() == (2, 0)
    assert agent.process.poll() is None
    runtime.seconds = 0
    runtime.start()
    assert account.result_of("dog")["attempts"] == 1
    assert account.result_of("cat")["attempts"] == 1


def test_a_runtime_that_is_not_up_yet_is_waited_for_and_nothing_is_received(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.stop()
    account.submit("dog")
    start_agent()
    time.sleep(1.5)
    assert account.depth() == (1, 0)
    runtime.start()
    assert account.result_of("dog")["attempts"] == 1


def test_an_idle_agent_whose_runtime_dies_stops_receiving(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    agent = start_agent().wait_ready()
    runtime.stop()
    until("the runtime to be noticed", lambda: agent.logged("runtime_down"), 5)
    account.submit("dog")
    time.sleep(0.5)
    assert account.depth() == (1, 0)
    runtime.start()
    assert account.result_of("dog")["attempts"] == 1


def test_errors_of_s3_repeat_the_step_and_never_the_run(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    failures = iter([500, 403, 500, 503, 500, 500])
    with FaultyProxy(account.endpoint).serve() as proxy:
        proxy.fault = lambda method, path: next(failures, None) if method == "PUT" else None
        start_agent(AWS_ENDPOINT_URL_S3=proxy.url)
        account.submit("dog")
        result = account.result_of("dog")
    assert (result["status"], result["attempts"]) == ("completed", 1)
    assert runtime.started["dog"] == 1
    assert next(failures, None) is None


def test_errors_of_sns_repeat_the_step_and_never_the_run(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    failures = iter([500, 500, 403])
    with FaultyProxy(account.endpoint).serve() as proxy:
        proxy.fault = lambda method, path: next(failures, None)
        start_agent(AWS_ENDPOINT_URL_SNS=proxy.url)
        account.submit("dog")
        result = account.result_of("dog")
    assert (result["status"], result["attempts"]) == ("completed", 1)
    assert runtime.started["dog"] == 1
    assert next(failures, None) is None


def test_a_message_that_is_no_task_is_set_aside_and_the_next_one_runs(
    account: Account, start_agent: StartAgent
) -> None:
    start_agent(DEAD_LETTER_QUEUE_URL=account.dead_letters)
    account.send("this is not JSON")
    account.submit("dog")
    account.result_of("dog")
    until("the message to be set aside", lambda: account.depth(account.dead_letters) == (1, 0))
    until("the queue to be empty", account.is_drained)


def test_a_message_that_is_no_task_is_left_to_the_redrive_policy_without_a_dead_letter_queue(
    account: Account, start_agent: StartAgent
) -> None:
    start_agent()
    account.send("[]")
    account.submit("dog")
    account.result_of("dog")
    until("the other message to be left", lambda: account.depth() == (0, 1))


def test_an_invalid_direct_publish_ends_failed_with_every_problem(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    start_agent()
    account.send(json.dumps({"metadata": {"id": "dog", "tasktype": "poem", "prefix": ""}, "content": 1}))
    result = account.result_of("dog")
    assert (result["status"], result["error"]["code"]) == ("failed", "invalid_task")
    for part in ("content", "metadata/tasktype", "metadata/prefix"):
        assert part in result["error"]["message"]
    assert not runtime.started
    assert account.ended("dog").status == "failed"
    until("the queue to be empty", account.is_drained)


def test_a_direct_publish_gets_a_row_and_an_id_of_its_message(
    account: Account, start_agent: StartAgent
) -> None:
    start_agent()
    body = json.dumps({"metadata": {"tasktype": "text-to-image"}, "content": {"prompt": "x"}})
    envelope = {"Type": "Notification", "TopicArn": "arn", "MessageId": "11-22-33", "Message": body}
    account.send(json.dumps(envelope))
    assert account.result_of("11-22-33")["status"] == "completed"
    row = account.ended("11-22-33")
    assert (row.runtime, row.attempts, row.status) == ("main", 1, "completed")
    assert row.submitted_at > now_ms() - 60_000


def test_a_task_refused_by_the_runtime_fails_at_once_with_its_reason(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.refusal = (422, {"detail": [{"loc": ["body", "steps"], "msg": "not an integer", "type": "x"}]})
    start_agent()
    account.submit("dog")
    result = account.result_of("dog")
    assert (result["status"], result["attempts"]) == ("failed", 1)
    assert "not an integer" in result["error"]["message"]


def test_a_task_that_takes_too_long_fails_with_timeout(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 30
    start_agent(TASK_TIMEOUT_SECONDS="1")
    account.submit("dog")
    result = account.result_of("dog")
    assert (result["status"], result["error"]["code"]) == ("failed", "timeout")
    assert runtime.interrupts >= 1


def test_content_that_travels_in_s3_is_read_from_the_own_bucket_only(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    start_agent()
    task = account.task("dog")
    key = contract.pointer_key("dog", task.content_hash)
    account.s3.put_object(Bucket=account.bucket, Key=key, Body=json.dumps({"prompt": "far"}).encode())
    account.submit("dog", pointer=(account.bucket, key))
    account.submit("cat", pointer=("somebody-elses", key))
    account.submit("cow", pointer=(account.bucket, "output/secret.json"))
    assert account.result_of("dog")["status"] == "completed"
    assert runtime.started == {"far": 1}
    for task_id in ("cat", "cow"):
        result = account.result_of(task_id)
        assert result["status"] == "failed"
        assert "content_pointer" in result["error"]["message"]


def test_a_task_past_its_deadline_expires_without_a_run(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    account.submit("dog", deadline_seconds=0.2)
    account.send(contract.message_body(account.task("cat", deadline_seconds=0.2)))
    time.sleep(0.4)
    start_agent()
    assert account.result_of("dog")["status"] == "expired"
    assert account.result_of("cat")["status"] == "expired"
    assert not runtime.started


def test_an_ended_task_that_was_not_told_is_told_by_the_next_delivery(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    account.submit("dog")
    row = account.row("dog")
    assert row is not None
    account.write(task_record.end_call(row, task_record.Ending("cancelled", now_ms())))
    start_agent()
    assert account.result_of("dog")["status"] == "cancelled"
    assert account.ended("dog").notified
    assert not runtime.started
    until("the queue to be empty", account.is_drained)


def test_without_a_table_everything_works_but_status(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    agent = start_agent(TASK_TABLE="", NOTIFY_RUNNING="true")
    task = account.task("dog", context="mine")
    account.send(contract.message_body(task))
    result = account.result_of("dog")
    assert (result["status"], result["attempts"], result["context"]) == ("completed", 1, "mine")
    assert account.row("dog") is None
    account.send(contract.message_body(task))
    account.send("nonsense")
    account.send(contract.message_body(account.task("cat")))
    account.result_of("cat")
    until("all but the nonsense to be settled", lambda: account.depth() == (0, 1))
    assert runtime.started == {"dog": 1, "cat": 1}
    assert [(r["id"], r["status"]) for r in account.results()] == [
        ("dog", "running"), ("dog", "completed"), ("cat", "running"), ("cat", "completed"),
    ]  # fmt: skip
    agent.signal()
    assert agent.wait(3) == 0


def test_the_first_receive_comes_soon_and_an_idle_agent_is_small(
    account: Account, start_agent: StartAgent
) -> None:
    agent = start_agent().wait_ready()
    account.submit("dog")
    account.result_of("dog")
    status = Path(f"/proc/{agent.process.pid}/status").read_text()
    resident_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
    assert resident_mb < 80


def test_a_large_output_is_uploaded_in_parts(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.images = [png(padding_bytes=20_000_000), png()]
    start_agent()
    account.submit("dog")
    result = account.result_of("dog", 40)
    assert [account.read(url) for url in result["image_url"]] == runtime.images


def test_bad_settings_stop_the_agent_before_it_receives_and_are_all_named(
    account: Account, start_agent: StartAgent
) -> None:
    agent = start_agent(S3_BUCKET="", MAX_ATTEMPTS="many", RUNTIME_TYPE="toaster")
    assert agent.wait(10) == 2
    for name in ("S3_BUCKET", "MAX_ATTEMPTS", "RUNTIME_TYPE"):
        assert name in agent.text


def test_a_task_that_turns_out_long_gives_back_the_message_that_was_held_behind_it(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 0.3
    agent = start_agent()
    for number in range(2):
        account.submit(f"quick{number}")
        account.result_of(f"quick{number}")
    runtime.seconds = 60
    runtime.at_work.clear()
    account.submit("long")
    assert runtime.at_work.wait(10)
    account.submit("next")
    until("the next message to be held", lambda: account.depth() == (0, 2), 5)
    until("it to be given back", lambda: account.depth() == (1, 1), 20)
    row = account.row("next")
    assert row is not None
    assert (row.status, row.attempts) == ("queued", 1)
    assert agent.logged("hand_back")[0]["reason"] == "yield"


def test_metrics_are_served_where_a_port_is_set(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    port = free_port()
    start_agent(METRICS_PORT=str(port))
    account.submit("dog")
    account.ended("dog")
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    assert 'sd_agent_tasks_total{status="completed"} 1.0' in text
    assert "sd_agent_runtime_up 1.0" in text
    for phase in ("queue", "run", "store"):
        assert f'sd_agent_phase_seconds_count{{phase="{phase}"}} 1.0' in text
