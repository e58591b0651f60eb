"""What the real agent process shows of itself: metrics, probes, spans; and what a deaf runtime costs."""

from __future__ import annotations

import http.client
import re
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fakes.agent_runtime import ScriptedRuntime
from fakes.otlp_collector import Collector
from sdctl import contract, task_record
from support.agent import Account, Agent, now_ms, until
from support.emulator import free_port, running_emulator

StartAgent = Callable[..., Agent]
TRACE = "5759e988bd862e3fe1be46a994272793"
HEADER = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled={}"

# The part in C of what the exporter encodes spans with: it shows in a process's memory map.
PROTOBUF = "google/_upb"


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_emulator(tmp_path_factory.mktemp("emulator")) as url:
        yield url


@pytest.fixture
def account(endpoint: str) -> Account:
    return Account(endpoint)


class TalkativeRuntime(ScriptedRuntime):
    """Tells its memory; a deaf one's job makes no progress."""

    is_deaf = False

    def get(self, path: str) -> tuple[int, Any]:
        if path == "/sdapi/v1/memory":
            return 200, {"ram": {"used": 3e9, "free": 5e9, "total": 8e9}, "cuda": {"error": "unavailable"}}
        status, document = super().get(path)
        if self.is_deaf and path == "/sdapi/v1/progress":
            document["state"]["sampling_step"] = 3
        return status, document


@pytest.fixture
def runtime() -> Iterator[TalkativeRuntime]:
    server = TalkativeRuntime()
    server.start()
    yield server
    server.stop()


@pytest.fixture
def start_agent(account: Account, runtime: ScriptedRuntime, tmp_path: Path) -> Iterator[StartAgent]:
    agents: list[Agent] = []

    def start(**settings: str) -> Agent:
        agents.append(Agent(account, runtime.url, tmp_path, **settings))
        return agents[-1]

    yield start
    for agent in agents:
        agent.kill()


def status_of(port: int, path: str) -> int:
    """Return the status of an answer, 0 while nothing listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionError:
        return 0
    finally:
        connection.close()


def scrape(port: int) -> dict[str, float]:
    """Return every sample of a scrape by `name{labels}`."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        text = answer.read().decode()
    samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation, family.name
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            samples[f"{sample.name}{{{labels}}}"] = sample.value
    return samples


# -- metrics and probes -------------------------------------------------------------------------------


def test_a_scrape_tells_tasks_phases_events_and_the_gpus_share(
    account: Account, runtime: TalkativeRuntime, start_agent: StartAgent
) -> None:
    port = free_port()
    agent = start_agent(METRICS_PORT=str(port), DEAD_LETTER_QUEUE_URL=account.dead_letters)
    agent.wait_ready()
    first = scrape(port)
    for name in (
        "tasks_total{status=completed}", "tasks_total{status=failed}", "tasks_total{status=cancelled}",
        "tasks_total{status=expired}", "retries_total{}", "hand_backs_total{}", "model_switches_total{}",
        "undecodable_messages_total{}", "step_errors_total{}", "lost_tasks_total{}",
        "gpu_busy_seconds_total{}", "phase_seconds_count{phase=queue}", "phase_seconds_count{phase=run}",
        "phase_seconds_count{phase=store}", "in_flight_messages{}",
    ):  # fmt: skip
        assert first[f"sd_agent_{name}"] == 0, name
    assert first["sd_agent_runtime_up{}"] == 1
    runtime.seconds = 0.5
    account.submit("dog")
    account.send("no task at all")
    account.ended("dog")
    until("both messages to be settled", account.is_drained)
    runtime.seconds = 30
    runtime.at_work.clear()
    account.submit("long")
    assert runtime.at_work.wait(10)
    time.sleep(0.7)
    after = {name.removeprefix("sd_agent_"): value for name, value in scrape(port).items()}
    assert after["tasks_total{status=completed}"] == 1
    assert after["undecodable_messages_total{}"] == 1
    assert after["in_flight_messages{}"] == 1
    assert after["phase_seconds_count{phase=run}"] == 1
    # The agent's clock starts when the request is off, which may be a moment after the runtime's.
    assert 0.4 <= after["phase_seconds_sum{phase=run}"] < 3
    assert after["phase_seconds_count{phase=queue}"] == after["phase_seconds_count{phase=store}"] == 1
    # The task that still runs is counted up to the moment of the scrape.
    assert after["gpu_busy_seconds_total{}"] > after["phase_seconds_sum{phase=run}"] + 0.5
    assert after["runtime_memory_used_bytes{kind=ram}"] == 3e9
    assert after["runtime_memory_total_bytes{kind=ram}"] == 8e9
    assert after["runtime_memory_growth_bytes_per_task{}"] == 0
    assert "process_resident_memory_bytes{}" in after


def test_a_hand_back_and_a_runtime_that_is_down_are_seen_in_metrics_and_readiness(
    account: Account, runtime: TalkativeRuntime, start_agent: StartAgent
) -> None:
    port = free_port()
    runtime.stop()
    agent = start_agent(METRICS_PORT=str(port))
    until("the agent to be live", lambda: status_of(port, "/livez") == 200)
    assert status_of(port, "/readyz") == 503
    assert scrape(port)["sd_agent_runtime_up{}"] == 0
    runtime.seconds = 30
    runtime.start()
    until("the agent to be ready", lambda: status_of(port, "/readyz") == 200)
    assert status_of(port, "/healthz") == 200
    account.submit("dog")
    assert runtime.at_work.wait(15)
    runtime.stop()
    until("the hand-back", lambda: agent.logged("hand_back"), 5)
    until("the agent to be unready", lambda: status_of(port, "/readyz") == 503)
    samples = scrape(port)
    assert samples["sd_agent_runtime_up{}"] == 0
    assert samples["sd_agent_hand_backs_total{}"] == 1
    assert samples["sd_agent_retries_total{}"] == 0
    assert status_of(port, "/livez") == 200


def test_the_metrics_port_takes_nothing_else_and_silent_clients_do_not_block_it(
    start_agent: StartAgent,
) -> None:
    port = free_port()
    start_agent(METRICS_PORT=str(port)).wait_ready()
    assert status_of(port, "/") == 404
    assert status_of(port, "/metrics/../etc/passwd") == 404
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", data=b"x", method="POST")
    with pytest.raises(urllib.error.HTTPError, match="501"):
        urllib.request.urlopen(request, timeout=5)
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(7)]
    assert status_of(port, "/livez") == 200
    for client in silent:
        client.close()


def test_a_metrics_port_that_is_taken_stops_the_agent_and_is_named(start_agent: StartAgent) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        port = taken.getsockname()[1]
        agent = start_agent(METRICS_PORT=str(port))
        assert agent.wait(10) == 2
    assert re.search(rf"METRICS_PORT: {port} cannot be listened on: ", agent.text)


# -- spans ------------------------------------------------------------------------------------------


def send_traced(account: Account, task_id: str, sampled: int) -> None:
    account.sqs.send_message(
        QueueUrl=account.queue, MessageBody=contract.message_body(account.task(task_id)),
        MessageSystemAttributes={
            "AWSTraceHeader": {"DataType": "String", "StringValue": HEADER.format(sampled)}
        },
    )  # fmt: skip


def attributes_of(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_spans_continue_the_trace_that_the_message_carries(
    account: Account, runtime: TalkativeRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 0.3
    with Collector().serve() as collector:
        agent = start_agent(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url)
        send_traced(account, "unsampled", 0)
        account.ended("unsampled")
        send_traced(account, "dog", 1)
        account.ended("dog")
        until("the span", lambda: any(span.name == "task" for span in collector.spans))
        assert PROTOBUF in Path(f"/proc/{agent.process.pid}/maps").read_text()
        agent.signal()
        assert agent.wait(5) == 0
    spans = {span.name: span for span in collector.spans}
    assert sorted(span.name for span in collector.spans) == [
        "claim", "notify", "prepare", "run", "store", "task",
    ]  # fmt: skip
    task = spans.pop("task")
    assert task.trace_id.hex() == TRACE
    assert task.parent_span_id.hex() == "53995c3f42cd8ad8"
    assert {span.parent_span_id for span in spans.values()} == {task.span_id}
    assert 0.3 <= (spans["run"].end_time_unix_nano - spans["run"].start_time_unix_nano) / 1e9 < 2
    attributes = attributes_of(task)
    expected = {
        "sdctl.task.id": "dog", "sdctl.runtime": "main", "sdctl.runtime.type": "sdwebui",
        "sdctl.tasktype": "text-to-image", "sdctl.attempt": 1, "sdctl.status": "completed",
    }  # fmt: skip
    assert expected.items() <= attributes.items()
    assert collector.resources[0]["service.name"] == "sd-queue-agent"


@pytest.mark.parametrize("fault", ["refuses", "hangs"])
def test_a_collector_that_is_dead_changes_neither_the_tasks_nor_the_drain(
    account: Account, runtime: TalkativeRuntime, start_agent: StartAgent, fault: str
) -> None:
    with Collector(hangs=fault == "hangs").serve() as collector:
        url = collector.url if fault == "hangs" else f"http://127.0.0.1:{free_port()}"
        agent = start_agent(OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=f"{url}/v1/traces").wait_ready()
        for number in range(5):
            account.submit(f"t{number}")
        for number in range(5):
            assert account.result_of(f"t{number}")["attempts"] == 1
        until("the queue to be empty", account.is_drained)
        agent.signal()
        assert agent.wait(20) == 0
        (draining,), (stopped,) = agent.logged("drain"), agent.logged("stopped")
        times = [datetime.fromisoformat(line["time"]) for line in (draining, stopped)]
        assert (times[1] - times[0]).total_seconds() < 1.5
    assert runtime.started == {f"t{number}": 1 for number in range(5)}
    assert not agent.logged("bug")


def test_without_an_endpoint_nothing_of_tracing_or_metrics_is_loaded(
    account: Account, start_agent: StartAgent
) -> None:
    agent = start_agent().wait_ready()
    account.submit("dog")
    account.result_of("dog")
    maps = Path(f"/proc/{agent.process.pid}/maps").read_text()
    assert PROTOBUF not in maps
    assert not re.search(r"opentelemetry|prometheus", agent.text)


# -- a deaf runtime ---------------------------------------------------------------------------------


def test_the_task_of_a_deaf_runtime_goes_back_uncounted_and_nothing_is_received_meanwhile(
    account: Account, runtime: TalkativeRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds, runtime.is_deaf = 60, True
    agent = start_agent(STALL_TIMEOUT_SECONDS="2")
    account.submit("dog")
    assert runtime.at_work.wait(15)
    until("the hand-back", lambda: account.depth() == (1, 0), 15)
    account.submit("cat")
    time.sleep(1.0)
    assert account.depth() == (2, 0)
    row = account.row("dog")
    assert row is not None
    assert (row.status, row.attempts) == ("queued", 1)
    assert agent.logged("runtime_down")
    runtime.stop()  # restarted, as its liveness probe would have it
    runtime.seconds, runtime.is_deaf = 0, False
    runtime.start()
    assert account.result_of("dog")["attempts"] == 1
    assert account.result_of("cat")["attempts"] == 1


# -- what a result tells ------------------------------------------------------------------------------


def test_seconds_of_waiting_for_the_gpu_count_as_queued_and_not_as_running(
    account: Account, runtime: TalkativeRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 1.5
    start_agent()
    account.submit("first")
    account.result_of("first")
    for task_id in ("second", "third"):  # the third one is held while the second one runs
        account.submit(task_id)
    until("the third task to be held", lambda: account.depth() == (0, 2), 10)
    timings = account.result_of("third")["timings"]
    assert timings["queued_seconds"] >= 1.2
    assert 1.4 <= timings["run_seconds"] < 2.2
    assert timings["queued_seconds"] + timings["run_seconds"] <= timings["total_seconds"] + 0.01


def test_when_a_running_task_really_began_is_in_the_table(
    account: Account, runtime: TalkativeRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 30
    start_agent(NOTIFY_RUNNING="true")
    account.submit("dog")
    assert runtime.at_work.wait(15)
    began = now_ms()

    def told() -> bool:
        row = account.row("dog")
        return row is not None and abs((row.started_at or 0) - began) < 500 and row.progress is not None

    until("the start to be told", told, 5)
    running = until("the notice", account.results)[0]
    row = account.row("dog")
    assert row is not None
    assert running["status"] == "running"
    assert running["timings"]["queued_seconds"] == pytest.approx((began - row.submitted_at) / 1000, abs=0.5)


def test_a_task_that_was_interrupted_on_every_attempt_tells_as_many_as_there_were(
    account: Account, start_agent: StartAgent
) -> None:
    task = account.task("dog")
    account.dynamodb.put_item(
        TableName=account.name,
        **task_record.submit_call(task, now_ms(), task_record.pack_body(task.content)),
    )
    for attempt in range(3):  # each by an agent that was killed a minute later
        at_ms = now_ms() - 60_000 * (3 - attempt)
        account.write(task_record.claim_call("dog", f"killed {attempt}", at_ms))
    account.send(contract.message_body(task))
    start_agent()
    result = account.result_of("dog")
    assert (result["status"], result["error"]["code"]) == ("failed", "attempts_exhausted")
    assert result["attempts"] == 3
    row = account.row("dog")
    assert row is not None
    assert row.attempts == 3
