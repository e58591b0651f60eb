"""What other agents lose, double or hang on: the real agent process, real faults, the opposite outcome."""

from __future__ import annotations

import http.server
import io
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fakes.agent_runtime import ScriptedRuntime, png
from fakes.comfy_server import ComfyScript, FakeComfy
from sdctl import contract, task_record
from support.agent import Account, Agent, FaultyProxy, now_ms, until
from support.emulator import free_port, running_emulator
from support.sketch import text_to_image


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
def start_agent(account: Account, tmp_path: Path) -> Iterator[StartAgent]:
    agents: list[Agent] = []

    def start(url: str, **settings: str) -> Agent:
        agents.append(Agent(account, url, tmp_path, **settings))
        return agents[-1]

    yield start
    for agent in agents:
        agent.kill()


class SketchServer:
    """The built-in runtime as a process that can be ended and started again on the same port."""

    def __init__(self, kind: str, seconds_per_image: float = 0.0) -> None:
        self.kind, self.port = kind, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None
        self.start(seconds_per_image)

    def start(self, seconds_per_image: float = 0.0) -> None:
        command = [
            sys.executable, "-m", "sdctl.local.sketch", "--type", self.kind, "--port", str(self.port),
            "--seconds-per-image", str(seconds_per_image),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert self.process.stderr is not None
        assert self.process.stderr.readline(), "it did not start"

    def end(self, number: int = signal.SIGKILL) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            self.process.wait(10)
            assert self.process.stderr is not None
            self.process.stderr.close()
            self.process = None


@pytest.fixture
def start_sketch() -> Iterator[Callable[..., SketchServer]]:
    servers: list[SketchServer] = []

    def start(kind: str, seconds_per_image: float = 0.0) -> SketchServer:
        servers.append(SketchServer(kind, seconds_per_image))
        return servers[-1]

    yield start
    for server in servers:
        server.end()


@pytest.fixture
def comfy() -> Iterator[FakeComfy]:
    server = FakeComfy(ComfyScript())
    yield server
    server.stop()


def pipeline(*nodes: str | tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Return a graph of nodes that are linked in a row."""
    graph: dict[str, Any] = {}
    for number, node in enumerate(nodes, 1):
        kind, inputs = (node, {}) if isinstance(node, str) else node
        link = {"source": [str(number - 1), 0]} if number > 1 else {}
        graph[str(number)] = {"class_type": kind, "inputs": {**inputs, **link}}
    return graph


COMFY = {"RUNTIME_TYPE": "comfyui"}
SUBMIT: dict[str, dict[str, Any]] = {
    "sdwebui": {},
    "comfyui": {"tasktype": "pipeline", "content": text_to_image()},
}


def stored_files(account: Account) -> dict[str, bytes]:
    """Return what is in the bucket, by key."""
    keys = account.keys()
    return {key: account.read(f"s3://{account.bucket}/{key}") for key in keys}


def raw_results(account: Account) -> list[str]:
    """Return the notifications as the bytes that they are, in order."""
    texts = []
    while messages := account.sqs.receive_message(QueueUrl=account.results_queue, MaxNumberOfMessages=10).get(
        "Messages"
    ):
        for message in messages:
            texts.append(message["Body"])
            account.sqs.delete_message(QueueUrl=account.results_queue, ReceiptHandle=message["ReceiptHandle"])
    return texts


# -- killed between two steps of settling ------------------------------------------------------------


def short_visibility(operation: str, body: bytes) -> bytes:
    """Let a killed agent's message come back after 2 seconds instead of 30."""
    if operation == "AmazonSQS.ReceiveMessage":
        return body.replace(b'"VisibilityTimeout": 30', b'"VisibilityTimeout": 2')
    return body


@pytest.mark.parametrize("last_step", ["published", "recorded"])
def test_an_agent_killed_between_notify_and_delete_leaves_one_result_and_one_set_of_files(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent, last_step: str
) -> None:
    published, refused = threading.Event(), threading.Event()

    def fault(method: str, operation: str) -> int | None:
        if method == "POST" and operation == "/":  # SNS alone names no operation in a header
            published.set()
            return None
        blocked = "AmazonSQS.DeleteMessage" if last_step == "recorded" else "UpdateItem"
        if published.is_set() and operation.endswith(blocked):
            refused.set()
            return 500
        return None

    with FaultyProxy(account.endpoint).serve() as proxy:
        proxy.fault, proxy.rewrite = fault, short_visibility
        first = start_agent(runtime.url, AWS_ENDPOINT_URL=proxy.url)
        account.submit("dog", context={"n": 1})
        assert refused.wait(20)
        first.kill()
    files = stored_files(account)
    row = account.row("dog")
    assert row is not None
    assert (row.status, row.notified) == ("completed", last_step == "recorded")
    start_agent(runtime.url)
    until("the message to be settled", account.is_drained)
    texts = raw_results(account)
    assert len(texts) == (1 if last_step == "recorded" else 2)
    assert len(set(texts)) == 1
    assert json.loads(texts[0])["attempts"] == 1
    assert runtime.started == {"dog": 1}
    assert stored_files(account) == files
    assert len(files) == 2
    assert account.ended("dog").notified


# -- a task that outlasts the visibility timeout -----------------------------------------------------


@pytest.mark.slow
def test_a_task_longer_than_the_visibility_timeout_runs_once_though_two_agents_wait(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.seconds = 38
    agents = [start_agent(runtime.url).wait_ready() for _ in range(2)]
    account.submit("dog")
    assert runtime.at_work.wait(15)
    result = account.result_of("dog", 60)
    until("the message to be settled", account.is_drained)
    assert (result["status"], result["attempts"]) == ("completed", 1)
    assert result["timings"]["run_seconds"] > contract.VISIBILITY_SECONDS
    assert runtime.started == {"dog": 1}
    assert sum(len(agent.logged("claimed")) for agent in agents) == 1
    assert account.results() == [result]


# -- the runtime goes away ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sdwebui", "comfyui"])
def test_a_pod_whose_containers_are_all_ended_at_once_hands_its_task_to_the_next_pod(
    account: Account, start_agent: StartAgent, start_sketch: Callable[..., SketchServer], kind: str
) -> None:
    server = start_sketch(kind, 30)
    agent = start_agent(server.url, RUNTIME_TYPE=kind)
    account.submit("dog", **SUBMIT[kind])
    until("the task to run", lambda: agent.logged("started"))
    time.sleep(0.5)  # inside its run
    assert server.process is not None
    server.process.send_signal(signal.SIGTERM)
    agent.signal()
    assert agent.wait(5) == 0
    server.end()
    row = account.row("dog")
    assert row is not None
    assert (row.status, row.attempts, row.error) == ("queued", 1, None)
    assert account.depth() == (1, 0)
    assert account.results() == []
    server.start()
    start_agent(server.url, RUNTIME_TYPE=kind)
    result = account.result_of("dog")
    assert (result["status"], result["attempts"]) == ("completed", 1)


LAST_WORDS = (
    500,
    {"error": "RuntimeError", "detail": "", "errors": "cannot schedule new futures after shutdown"},
)


@pytest.mark.parametrize("who_is_ended", ["runtime", "agent"])
def test_what_a_runtime_says_while_it_is_being_ended_is_no_failure_of_the_task(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent, who_is_ended: str
) -> None:
    runtime.refusal = LAST_WORDS
    agent = start_agent(runtime.url).wait_ready()

    refused = threading.Event()

    def end() -> None:
        refused.set()
        if who_is_ended == "agent":
            agent.signal()
        else:
            threading.Timer(0.1, runtime.stop).start()

    runtime.on_refusal = end
    account.submit("dog")
    assert refused.wait(10)
    until("the hand-back", lambda: account.depth() == (1, 0))
    row = account.row("dog")
    assert row is not None
    assert (row.status, row.attempts) == ("queued", 1)
    assert account.results() == []
    runtime.refusal = None
    if who_is_ended == "agent":
        assert agent.wait(3) == 0
        start_agent(runtime.url)
    else:
        runtime.start()
    assert account.result_of("dog")["attempts"] == 1


def test_an_error_of_a_runtime_that_lives_on_fails_the_task(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    runtime.refusal = LAST_WORDS
    start_agent(runtime.url)
    account.submit("dog")
    result = account.result_of("dog")
    assert (result["status"], result["attempts"], result["error"]["code"]) == ("failed", 1, "runtime_error")
    assert "cannot schedule" in result["error"]["message"]


def test_a_dead_runtime_costs_none_of_five_waiting_tasks_an_attempt(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    agent = start_agent(runtime.url).wait_ready()
    runtime.stop()
    names = [f"dog{number}" for number in range(5)]
    for name in names:
        account.submit(name)
    until("the runtime to be noticed", lambda: agent.logged("runtime_down"))
    time.sleep(3.0)
    assert account.depth() == (5, 0)
    assert account.results() == []
    runtime.start()
    for name in names:
        result = account.result_of(name)
        assert (result["status"], result["attempts"]) == ("completed", 1)
    assert runtime.started == dict.fromkeys(names, 1)
    rows = [account.ended(name) for name in names]
    assert {row.attempts for row in rows} == {1}


def prompt_of(data: bytes) -> str:
    """Return the prompt that a picture says that it was made from."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        graph = json.loads(image.info["prompt"])
    return str(graph["6"]["inputs"]["text"])


def test_comfyui_restarted_in_mid_task_costs_no_attempt_and_the_picture_is_the_tasks_own(
    account: Account, start_agent: StartAgent, start_sketch: Callable[..., SketchServer]
) -> None:
    server = start_sketch("comfyui", 30)
    agent = start_agent(server.url, **COMFY)
    account.submit("dog", tasktype="pipeline", content=text_to_image(prompt="a dog"))
    until("the task to run", lambda: agent.logged("started"))
    time.sleep(0.5)
    server.end()
    server.start()
    result = account.result_of("dog")
    assert (result["status"], result["attempts"]) == ("completed", 1)
    assert prompt_of(account.read(result["image_url"][0])) == "a dog"


def test_comfyui_restarted_between_two_tasks_never_gives_the_second_the_firsts_picture(
    account: Account, start_agent: StartAgent, start_sketch: Callable[..., SketchServer]
) -> None:
    server = start_sketch("comfyui")
    start_agent(server.url, **COMFY)
    pictures = {}
    for animal in ("dog", "cat", "cow"):
        account.submit(animal, tasktype="pipeline", content=text_to_image(prompt=f"a {animal}"))
        result = account.result_of(animal)
        assert (result["status"], result["attempts"]) == ("completed", 1)
        pictures[animal] = account.read(result["image_url"][0])
        assert prompt_of(pictures[animal]) == f"a {animal}"
        server.end()
        server.start()
    assert len(set(pictures.values())) == 3


# -- what comfyui says is what the user is told ------------------------------------------------------


def comfy_result(
    account: Account, start_agent: StartAgent, comfy: FakeComfy, content: dict[str, Any]
) -> dict[str, Any]:
    start_agent(comfy.url, **COMFY)
    account.submit("dog", tasktype="pipeline", content=content)
    result = account.result_of("dog")
    until("the message to be settled", account.is_drained)
    assert len(account.results()) == 1
    return result


def test_an_execution_error_fails_the_task_with_node_and_message(
    account: Account, start_agent: StartAgent, comfy: FakeComfy
) -> None:
    failing = ("Raise", {"type": "ValueError", "message": "the prompt is too purple"})
    result = comfy_result(account, start_agent, comfy, pipeline("Draw", failing, "SaveImage"))
    assert (result["status"], result["result"], result["image_url"]) == ("failed", False, [])
    assert "too purple" in result["error"]["message"]
    assert result["error"]["node"].startswith("2")
    assert len(comfy.prompts) == 1
    assert account.keys() == []


def test_an_output_that_is_gone_fails_the_task_and_stores_no_empty_file(
    account: Account, start_agent: StartAgent, comfy: FakeComfy
) -> None:
    comfy.script.answers["/view"] = (404, "text/plain", b"")
    result = comfy_result(account, start_agent, comfy, pipeline("Draw", "SaveImage"))
    assert (result["status"], result["image_url"]) == ("failed", [])
    assert result["error"]["message"]
    assert not [key for key in account.keys() if not key.endswith(".out")]  # noqa: SIM118 - not a dict


def test_a_workflow_that_comfyui_refuses_is_posted_once_and_its_reason_kept(
    account: Account, start_agent: StartAgent, comfy: FakeComfy
) -> None:
    loader = ("CheckpointLoaderSimple", {"ckpt_name": "missing.safetensors"})
    result = comfy_result(account, start_agent, comfy, pipeline(loader, "SaveImage"))
    assert (result["status"], result["attempts"]) == ("failed", 1)
    assert "missing.safetensors" in result["error"]["message"]
    assert len(comfy.prompts) == 1


# -- messages that are no tasks, or none that can run ------------------------------------------------


def test_messages_of_every_broken_kind_are_set_aside_or_told_and_the_loop_goes_on(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    undecodable = ["", "{", "not JSON", "[]", "null", '"x"', "1" * 5000, "\u0000".encode().hex(), "NaN"]
    metadata = {"tasktype": "text-to-image", "runtime": "main"}
    invalid: dict[str, dict[str, Any]] = {
        "no-content": {"metadata": metadata},
        "no-type": {"metadata": {}, "content": {"prompt": "x"}},
        "empty-prefix": {"metadata": metadata | {"prefix": ""}, "content": {"prompt": "x"}},
        "dots": {"metadata": metadata | {"prefix": "../../etc"}, "content": {"prompt": "x"}},
        "deep-context": {"metadata": metadata | {"context": "x" * 20_000}, "content": {"prompt": "x"}},
    }
    agent = start_agent(runtime.url, DEAD_LETTER_QUEUE_URL=account.dead_letters)
    for text in undecodable:
        if text:  # SQS takes no empty body
            account.send(text)
    for name, document in invalid.items():
        document["metadata"] = document["metadata"] | {"id": name}
        account.send(json.dumps(document))
    # Without metadata there is no id but that of the message.
    bare = {"Type": "Notification", "TopicArn": "t", "MessageId": "bare-1", "Message": '{"content":{}}'}
    account.send(json.dumps(bare))
    account.submit("dog")
    assert account.result_of("dog")["status"] == "completed"
    until("everything to be settled", account.is_drained)
    told = {result["id"]: result for result in account.results()}
    for name in invalid:
        assert told[name]["status"] == "failed", name
        assert told[name]["error"]["code"] == "invalid_task"
    set_aside = account.depth(account.dead_letters)[0]
    assert set_aside + ("bare-1" in told) == len([text for text in undecodable if text]) + 1
    assert runtime.started == {"dog": 1}
    assert agent.process.poll() is None
    assert not agent.logged("bug")


# -- S3, SNS and SQS fail for long -------------------------------------------------------------------


def test_s3_and_sns_that_refuse_for_seconds_cost_no_second_run_and_no_crash(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    refusing_until = time.monotonic() + 60

    def fault(method: str, operation: str) -> int | None:
        is_sns = method == "POST" and operation == "/"
        return 403 if (method == "PUT" or is_sns) and time.monotonic() < refusing_until else None

    with FaultyProxy(account.endpoint).serve() as proxy:
        proxy.fault = fault
        agent = start_agent(runtime.url, AWS_ENDPOINT_URL=proxy.url)
        account.submit("dog")
        assert runtime.at_work.wait(15)
        time.sleep(5)
        assert agent.process.poll() is None
        assert account.results() == []
        refusing_until = 0.0
        result = account.result_of("dog")
        until("the message to be settled", account.is_drained)
    assert (result["status"], result["attempts"]) == ("completed", 1)
    assert runtime.started == {"dog": 1}
    assert len(account.results()) == 1
    assert len(agent.logged("step_error")) >= 3


@pytest.mark.parametrize("service", ["S3", "SNS", "SQS", "DYNAMODB"])
def test_a_gateway_that_answers_for_a_service_in_words_of_its_own_repeats_the_step_and_never_the_run(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent, service: str
) -> None:
    failures = iter([503, 502, 504])
    with FaultyProxy(account.endpoint).serve() as proxy:
        proxy.error_body = b"upstream connect error or disconnect/reset before headers"
        proxy.fault = lambda method, operation: next(failures, None)
        agent = start_agent(runtime.url, **{f"AWS_ENDPOINT_URL_{service}": proxy.url})
        account.submit("dog")
        result = account.result_of("dog")
        assert next(failures, None) is None
        until("the message to be settled", account.is_drained)
    assert (result["status"], result["attempts"]) == ("completed", 1)
    assert runtime.started == {"dog": 1}
    assert not agent.logged("bug")
    assert not agent.logged("crash")


def test_a_claim_whose_answer_is_lost_is_known_again_and_costs_neither_time_nor_an_attempt(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    """The write took effect, its answer did not arrive, and the client's own retry finds the row claimed."""
    lost = iter([500])

    with FaultyProxy(account.endpoint).serve() as proxy:
        proxy.lose = lambda method, operation: next(lost, None) if operation.endswith("UpdateItem") else None
        start_agent(runtime.url, AWS_ENDPOINT_URL_DYNAMODB=proxy.url)
        account.submit("dog")
        result = account.result_of("dog", 10)
    assert next(lost, None) is None
    assert (result["status"], result["attempts"]) == ("completed", 1)


# -- inputs ------------------------------------------------------------------------------------------


class InputServer:
    """A web server whose one picture may change, whose `/hang` never answers, and that counts who asks."""

    def __init__(self) -> None:
        self.picture = png()
        self.asked: list[str] = []
        self.release = threading.Event()
        self.redirect = ""
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                owner.asked.append(self.path)
                if self.path == "/hang":
                    owner.release.wait(60)
                    self.close_connection = True
                    return
                self.send_response(302 if self.path == "/away" else 200)
                if self.path == "/away":
                    self.send_header("location", owner.redirect)
                self.send_header("content-length", str(len(owner.picture)))
                self.end_headers()
                self.wfile.write(owner.picture)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self.place = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.place}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def inputs() -> Iterator[InputServer]:
    server = InputServer()
    yield server
    server.stop()


def image_to_image(url: str) -> dict[str, Any]:
    return {"tasktype": "image-to-image", "content": {"prompt": "x", "init_images": [url]}}


def test_an_input_that_never_answers_holds_up_neither_cancel_nor_drain(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent, inputs: InputServer
) -> None:
    agent = start_agent(runtime.url, INPUT_ALLOWLIST=inputs.place)
    account.submit("dog", **image_to_image(f"{inputs.url}/hang"))
    until("the input to be asked for", lambda: inputs.asked)
    account.write(task_record.cancel_call("dog", int(time.time() * 1000)))
    assert account.result_of("dog", 3.5)["status"] == "cancelled"
    account.submit("cat", **image_to_image(f"{inputs.url}/hang"))
    until("the input to be asked for", lambda: len(inputs.asked) == 2)
    agent.signal()
    assert agent.wait(5) == 0
    row = account.row("cat")
    assert row is not None
    assert (row.status, row.attempts) == ("queued", 1)
    assert account.depth()[0] == 1
    assert not runtime.started


def test_an_input_that_changed_between_two_tasks_is_fetched_anew(
    account: Account,
    start_agent: StartAgent,
    start_sketch: Callable[..., SketchServer],
    inputs: InputServer,
) -> None:
    server = start_sketch("comfyui")
    start_agent(server.url, **COMFY, INPUT_ALLOWLIST=inputs.place)
    content = {
        "1": {"class_type": "LoadImage", "inputs": {"image": f"{inputs.url}/picture.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"filename_prefix": "x", "images": ["1", 0]}},
    }
    for name, size in (("old", (24, 16)), ("new", (40, 32)), ("again", (24, 16))):
        inputs.picture = png(*size)
        account.submit(name, tasktype="pipeline", content=content)
        result = account.result_of(name)
        assert result["status"] == "completed", result
        with Image.open(io.BytesIO(account.read(result["image_url"][0]))) as image:
            assert image.size == size
    assert len(inputs.asked) == 3


def test_forged_requests_reach_nobody_and_nothing_of_them_is_stored(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent, inputs: InputServer
) -> None:
    allowed = InputServer()
    allowed.redirect = f"{inputs.url}/secret"
    forged = {
        "loopback": f"{inputs.url}/secret",
        "name": f"http://localhost:{inputs.place.split(':')[1]}/secret",
        "decimal": f"http://2130706433:{inputs.place.split(':')[1]}/secret",
        "mapped": f"http://[::ffff:127.0.0.1]:{inputs.place.split(':')[1]}/secret",
        "metadata": "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
        "redirect": f"{allowed.url}/away",
        "bucket": "s3://somebody-elses/secret.png",
        "reserved": "http://[::1]/secret",
    }
    try:
        start_agent(runtime.url, INPUT_ALLOWLIST=allowed.place)
        for name, url in forged.items():
            account.submit(name, **image_to_image(url))
        account.submit("prompt", content={"prompt": f"{inputs.url}/secret", "styles": [f"{inputs.url}/x"]})
        for name in forged:
            result = account.result_of(name)
            assert (result["status"], result["attempts"]) == ("failed", 1), name
            assert result["error"]["message"], name
        assert account.result_of("prompt")["status"] == "completed"
    finally:
        allowed.stop()
    assert inputs.asked == []
    assert allowed.asked == ["/away"]
    assert runtime.started == {f"{inputs.url}/secret": 1}
    assert all("prompt" in key for key in stored_files(account))


# -- deadlines and duplicates of what comes late -----------------------------------------------------


def test_a_direct_publish_that_was_handed_back_unseen_still_expires_at_its_deadline(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    account.send(contract.message_body(account.task("dog", deadline_seconds=0.5)))
    received = account.sqs.receive_message(QueueUrl=account.queue)["Messages"][0]
    account.sqs.change_message_visibility(
        QueueUrl=account.queue, ReceiptHandle=received["ReceiptHandle"], VisibilityTimeout=0
    )
    time.sleep(0.6)
    start_agent(runtime.url)
    assert account.result_of("dog")["status"] == "expired"
    assert not runtime.started


def test_a_task_that_was_cancelled_while_it_waited_and_retried_since_runs_once(
    account: Account, runtime: ScriptedRuntime, start_agent: StartAgent
) -> None:
    """The first message is still in the queue when the second one follows."""
    task = account.submit("dog")
    row = account.row("dog")
    assert row is not None
    account.write(task_record.end_call(row, task_record.Ending("cancelled", now_ms())))
    ended = account.row("dog")
    assert ended is not None
    account.write(task_record.notified_call(ended))
    account.write(task_record.retry_call(ended, now_ms()))
    account.send(contract.message_body(task))
    start_agent(runtime.url)
    result = account.result_of("dog")
    # The other one is looked at again when the lease that it found has run out.
    until("one message to be settled and the other put off", lambda: account.depth() == (0, 1))
    assert (result["status"], result["attempts"]) == ("completed", 1)
    assert runtime.started == {"dog": 1}
    assert len(account.results()) == 1
