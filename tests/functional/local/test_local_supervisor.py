"""The supervisor and the emulator as real processes: crashes, kills, closed terminals, nothing left."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sdctl.errors import ConfigError, ConflictError, DeployFailedError
from sdctl.local import processes
from sdctl.local.children import ChildSpec
from sdctl.local.state import write_json
from sdctl.local.target import LocalTarget
from support.local_target import (
    child,
    client,
    eventually,
    is_listening,
    marks,
    processes_of,
    want,
    web_server,
)  # fmt: skip

pytestmark = pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks at processes through /proc")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def target(home: Path) -> Iterator[LocalTarget]:
    """One target for all tests of this module that leave it running."""
    target = LocalTarget(home, "shared", home)
    target.up()
    yield target
    target.down()


@pytest.fixture
def other(home: Path, tmp_path: Path) -> Iterator[LocalTarget]:
    """A target of another folder, not yet up."""
    target = LocalTarget(home, "shared", tmp_path)
    yield target
    target.down()


def test_a_second_up_finds_the_first(target: LocalTarget) -> None:
    before = target.status()
    assert target.up() == target.access()
    assert target.status() == before


def test_nobody_else_may_read_the_key_pair(target: LocalTarget) -> None:
    assert target.state.root.stat().st_mode & 0o077 == 0
    for path in (target.state.settings, target.state.status, target.state.lock):
        assert path.stat().st_mode & 0o077 == 0, path
    secret = (target.access().secret_key or "").encode()
    for pid, _ in marks(target):
        assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_another_region_in_the_same_folder_is_a_conflict(target: LocalTarget, home: Path) -> None:
    with pytest.raises(ConflictError, match="us-east-1"):
        LocalTarget(home, "shared", home, region="eu-west-1").up()


def test_the_emulators_state_survives_kill_9_and_it_is_back_within_two_seconds(target: LocalTarget) -> None:
    access = target.access()
    sqs, s3, dynamodb = (client(access, name) for name in ("sqs", "s3", "dynamodb"))
    url = sqs.create_queue(QueueName="kept")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    s3.create_bucket(Bucket="kept-bucket")
    s3.put_object(Bucket="kept-bucket", Key="a/b.png", Body=b"picture", ContentType="image/png")
    dynamodb.create_table(
        TableName="kept", BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
    )  # fmt: skip
    dynamodb.put_item(TableName="kept", Item={"id": {"S": "one"}})
    saved = target.state.emulator_state / "dynamodb.json"
    eventually(lambda: saved.exists() and b'"one"' in saved.read_bytes(), "the state to be saved")
    before = child(target, "emulator")

    assert before.pid
    os.kill(before.pid, signal.SIGKILL)
    started = time.monotonic()
    eventually(lambda: child(target, "emulator").restarts == before.restarts + 1, "the restart")
    eventually(lambda: child(target, "emulator").state == "ready", "the emulator")

    assert time.monotonic() - started < 5  # two seconds on an idle machine
    after = child(target, "emulator")
    assert (after.port, after.last_exit) == (before.port, -signal.SIGKILL)
    assert sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "hello"
    answer = s3.get_object(Bucket="kept-bucket", Key="a/b.png")
    assert (answer["Body"].read(), answer["ContentType"]) == (b"picture", "image/png")
    assert dynamodb.get_item(TableName="kept", Key={"id": {"S": "one"}})["Item"]["id"] == {"S": "one"}


def test_a_parked_long_poll_wakes_when_a_message_comes(target: LocalTarget) -> None:
    sender, receiver = (client(target.access(), "sqs") for _ in range(2))
    url = sender.create_queue(QueueName="awaited")["QueueUrl"]

    def receive() -> float:
        found = receiver.receive_message(QueueUrl=url, WaitTimeSeconds=10)["Messages"][0]
        received_at = time.monotonic()
        receiver.delete_message(QueueUrl=url, ReceiptHandle=found["ReceiptHandle"])
        return received_at - float(found["Body"])

    waits = []
    with ThreadPoolExecutor(1) as pool:
        for _ in range(9):
            waiting = pool.submit(receive)
            time.sleep(0.1)  # it is parked by then; where it is not, the wait is shorter still
            sender.send_message(QueueUrl=url, MessageBody=str(time.monotonic()))
            waits.append(waiting.result(10))

    assert sorted(waits)[4] < 0.04, waits  # unpatched, the median is above 50 ms


def test_a_crashed_child_is_restarted_and_reported(target: LocalTarget) -> None:
    want(target, web_server())
    pid = child(target, "runtime-web").pid
    assert pid
    os.kill(pid, signal.SIGKILL)

    again = eventually(
        lambda: next(
            (one for one in target.status().children if one.restarts == 1 and one.state == "ready"
             and one.name == "runtime-web"), None,
        ),
        "the restarted child",
    )  # fmt: skip

    assert (again.last_exit, again.pid != pid, is_listening(again.port or 0)) == (-signal.SIGKILL, True, True)


def test_only_what_changed_is_restarted_and_what_is_not_wanted_ends(target: LocalTarget) -> None:
    kept, dropped = web_server("runtime-kept"), web_server("runtime-dropped")
    want(target, kept, dropped)
    pids = {one.name: one.pid for one in target.status().children}

    want(target, kept, web_server("runtime-new"))

    now = {one.name: one.pid for one in target.status().children}
    assert set(now) == {"emulator", "runtime-kept", "runtime-new"}
    assert (now["emulator"], now["runtime-kept"]) == (pids["emulator"], pids["runtime-kept"])
    assert not is_listening(dropped.port or 0)


def test_a_child_that_keeps_ending_fails_the_deploy_with_the_end_of_its_log(target: LocalTarget) -> None:
    broken = ChildSpec("runtime-broken", "runtime", "json.tool", ("/no/such/file",), port=1, ready_path="/")
    with pytest.raises(DeployFailedError, match=r"(?s)runtime-broken keeps ending.*No such file"):
        want(target, broken)
    want(target)


def test_children_get_no_secret_of_the_callers_environment(
    other: LocalTarget, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_PROFILE", "of-the-user")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid")
    LocalTarget(home, "shared", tmp_path, env=os.environ).up()
    for pid, _ in marks(other):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"of-the-user" not in environment
        assert b"proxy.invalid" not in environment


def test_two_folders_run_side_by_side(target: LocalTarget, other: LocalTarget) -> None:
    here, there = target.access(), other.up()
    client(there, "sqs").create_queue(QueueName="there")
    assert here.endpoint_url != there.endpoint_url
    assert not any(url.endswith("/there") for url in client(here, "sqs").list_queues().get("QueueUrls", []))
    with pytest.raises(Exception, match="403"):
        client(there, "sqs", aws_secret_access_key=here.secret_key).list_queues()


def test_down_leaves_no_process_no_port_and_no_file(other: LocalTarget) -> None:
    other.up()
    want(other, web_server())
    left, ports = marks(other), [one.port or 0 for one in other.status().children]

    other.down()

    assert not [pid for pid, mark in left if processes.is_same(pid, mark)]
    assert not [port for port in ports if is_listening(port)]
    assert not processes_of(other.state.root)
    assert not other.state.root.exists()
    other.down()  # nothing to do, and no error


def test_children_end_with_a_killed_supervisor_and_the_next_up_recovers(other: LocalTarget) -> None:
    access = other.up()
    web = web_server()
    want(other, web)
    client(access, "sqs").create_queue(QueueName="kept")
    (supervisor, _), *children = marks(other)

    os.kill(supervisor, signal.SIGKILL)

    eventually(lambda: not any(processes.is_same(pid, mark) for pid, mark in children), "the children's end")
    stopped = other.status()
    assert stopped.supervisor is None
    assert {one.state for one in stopped.children} == {"stopped"}
    assert other.up() == access  # the same port, the same key pair
    other.wait_ready()
    assert is_listening(web.port or 0)
    assert client(access, "sqs").list_queues()["QueueUrls"][0].endswith("/kept")


def test_down_works_after_the_supervisor_was_killed(other: LocalTarget) -> None:
    other.up()
    (supervisor, _), *children = marks(other)
    os.kill(supervisor, signal.SIGKILL)
    other.down()
    assert not [pid for pid, mark in children if processes.is_same(pid, mark)]
    assert not other.state.root.exists()


def test_a_recycled_process_id_is_not_killed(other: LocalTarget) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        processes.end_leftovers([(stranger.pid, "12345")], grace_seconds=0)
        assert stranger.poll() is None


_UP = (
    "import sys; from pathlib import Path; from sdctl.local.target import LocalTarget\n"
    "target = LocalTarget(Path(sys.argv[1]), 'shared', Path(sys.argv[2])); target.up()\n"
    "print('up', flush=True)\n"
)


def test_nothing_keeps_the_callers_descriptors(other: LocalTarget, home: Path, tmp_path: Path) -> None:
    held = tmp_path / "held"
    script = f"import os; os.set_inheritable(os.open({str(held)!r}, os.O_CREAT | os.O_WRONLY), True)\n{_UP}"
    done = subprocess.run(  # returns when the pipe ends: a child that held it would block this
        [sys.executable, "-c", script, str(home), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("up\n", 0), done.stderr
    for pid, _ in marks(other):
        targets = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir() if entry.is_symlink()]
        assert str(held) not in targets


def test_a_child_that_hangs_is_told_and_then_replaced(other: LocalTarget) -> None:
    other._prepare()
    web = web_server()
    write_json(other.state.desired, {"children": [web.as_dict()]})
    code = (
        "import os, sys; from pathlib import Path; from sdctl.local import processes, supervisor\n"
        "from sdctl.local.state import StateFolder\n"
        "folder = StateFolder(Path(sys.argv[1])); lock = processes.take_lock(folder)\n"
        "impatient = supervisor.Patience(probe_seconds=0.1, misses_to_tell=1, misses_to_kill=3)\n"
        "supervisor.Supervisor(folder, os.environ, patience=impatient).run()\n"
    )
    # The supervisor is this test's child here, and not nobody's: it has to be collected.
    with subprocess.Popen([sys.executable, "-c", code, str(other.state.root)]) as supervisor:
        other.wait_ready(20)
        before = child(other, web.name)
        assert before.pid
        os.kill(before.pid, signal.SIGSTOP)
        eventually(lambda: child(other, web.name).state == "unresponsive", "the hang to be told")
        assert not other.status().is_healthy
        eventually(lambda: child(other, web.name).restarts == 1, "the restart")
        other.wait_ready(20)
        after = child(other, web.name)
        assert (after.pid != before.pid, after.last_exit) == (True, -signal.SIGKILL)
        supervisor.terminate()


def test_only_one_deploy_or_destroy_at_a_time_and_its_lock_is_gone_afterwards(other: LocalTarget) -> None:
    with (
        other.operation(),
        pytest.raises(ConflictError, match="in progress"),
        other.operation(),
    ):
        pass
    with other.operation():
        pass
    assert not list(other.state.root.parent.parent.glob("**/.*lock"))


def test_many_who_want_the_same_operation_never_hold_it_together(tmp_path: Path) -> None:
    other = LocalTarget(tmp_path / "alone", "shared", tmp_path)
    holders, most = 0, 0

    def hold(_: int) -> int:
        nonlocal holders, most
        try:
            with other.operation():
                holders += 1
                most = max(most, holders)
                time.sleep(0.001)
                holders -= 1
        except ConflictError:
            return 0
        return 1

    with ThreadPoolExecutor(16) as pool:
        held = sum(pool.map(hold, range(300)))
    assert most == 1
    assert held > 0


def test_it_survives_the_terminal(other: LocalTarget, home: Path, tmp_path: Path) -> None:
    master, slave = pty.openpty()

    def take_terminal() -> None:  # runs in the child, before the program
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-c", f"{_UP}\nimport time; time.sleep(60)", str(home), str(tmp_path)]
    with subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=take_terminal,  # noqa: PLW1509
    ) as caller:
        os.close(slave)
        said = b""
        while b"up" not in said:
            said += os.read(master, 100)
        os.close(master)  # the terminal closes: the caller's session gets SIGHUP
        assert caller.wait(10) == -signal.SIGHUP
    assert other.status().is_healthy
    assert client(other.access(), "sqs").list_queues()


def test_a_message_is_not_lost_to_a_receiver_that_was_killed(target: LocalTarget) -> None:
    sqs = client(target.access(), "sqs")
    url = sqs.create_queue(QueueName="orphaned")["QueueUrl"]
    script = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[3:]\n"
        "from sdctl.local.target import LocalTarget; from support.local_target import client\n"
        "target = LocalTarget(Path(sys.argv[1]), 'shared', Path(sys.argv[1]))\n"
        "sqs = client(target.access(), 'sqs'); sqs.list_queues(); print('ready', flush=True)\n"
        "sqs.receive_message(QueueUrl=sys.argv[2], WaitTimeSeconds=20)\n"
    )
    home = str(target.state.root.parent.parent)
    command = [sys.executable, "-c", script, home, url, *sys.path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout
        assert receiver.stdout.readline() == "ready\n"
        time.sleep(0.5)  # it is parked by then
        receiver.kill()
    time.sleep(0.3)

    sqs.send_message(QueueUrl=url, MessageBody="for the living")

    assert sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2)["Messages"][0]["Body"] == "for the living"


def _binds(squatter: socket.socket, port: int) -> bool:
    try:
        squatter.bind(("127.0.0.1", port))
    except OSError:
        return False
    return True


def test_a_port_that_was_taken_meanwhile_is_replaced_and_the_state_kept(other: LocalTarget) -> None:
    before = other.up()
    old_url = client(before, "sqs").create_queue(QueueName="kept")["QueueUrl"]
    saved = other.state.emulator_state / "sqs.json"
    eventually(lambda: saved.exists() and b"kept" in saved.read_bytes(), "the state to be saved")
    (supervisor, _), *children = marks(other)
    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not any(processes.is_same(pid, mark) for pid, mark in children), "the children's end")
    with socket.socket() as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        port = int((before.endpoint_url or "").rpartition(":")[2])
        # What the ended processes had open may hold the port a moment longer.
        eventually(lambda: _binds(squatter, port), "the port to be free")
        squatter.listen()

        after = other.up()

        assert after.endpoint_url != before.endpoint_url
        sqs = client(after, "sqs")
        sqs.send_message(QueueUrl=old_url, MessageBody="x")  # stack outputs hold URLs of the old port
        assert sqs.receive_message(QueueUrl=sqs.list_queues()["QueueUrls"][0])["Messages"]


def test_missing_packages_are_named_with_the_command_that_installs_them(
    other: LocalTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sdctl.local.target.find_spec", lambda name: None if name == "ministack" else object()
    )
    with pytest.raises(ConfigError, match="ministack") as error:
        other.up()
    assert "pip install 'sdctl[local]'" in error.value.hint
    assert not other.exists()
