"""sdctl as a process of its own: signals, pipes, no terminal, a terminal, what it imports."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.cli import command, process_env, run_process
from support.task_api_server import TaskApiServer, running_server

posix = pytest.mark.skipif(os.name != "posix", reason="POSIX signals and terminals")


@pytest.fixture
def server() -> Iterator[TaskApiServer]:
    with running_server() as running:
        yield running


def test_output_can_be_piped_into_a_json_reader(server: TaskApiServer, tmp_path: Path) -> None:
    reader = "import json,sys; print(json.load(sys.stdin)['id'])"
    ran = run_process("submit", "t2i", "小狗", "--id", "dog", "-o", "json", cwd=tmp_path, env=server.env)
    done = subprocess.run(
        [sys.executable, "-c", reader],
        input=ran.stdout,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "dog\n"
    assert server.bodies[-1]["task"]["content"]["prompt"] == "小狗"


def test_nothing_is_asked_without_a_terminal(server: TaskApiServer, tmp_path: Path) -> None:
    server.add("a", status="failed")
    ran = run_process("tasks", "retry", "--status", "failed", cwd=tmp_path, env=server.env, stdin="y\n")
    assert (ran.code, ran.stdout) == (2, "")
    assert "--yes" in ran.stderr


def test_submit_needs_neither_aws_nor_configuration_nor_rich(server: TaskApiServer, tmp_path: Path) -> None:
    code = (
        "import runpy, sys\nsys.argv = ['sdctl', 'submit', 't2i', 'x', '--wait', '--download', 'out']\n"
        "try:\n    runpy.run_module('sdctl', run_name='__main__')\n"
        "except SystemExit as end:\n    assert not end.code, end\n"
        "print(' '.join(sys.modules), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=process_env(server.env), capture_output=True,
        text=True, timeout=60, check=True,
    )  # fmt: skip
    loaded = set(done.stderr.splitlines()[-1].split())
    unwanted = {"boto3", "botocore", "rich", "requests", "yaml", "sh", "PIL", "sdctl.config.load"}
    assert loaded.isdisjoint(unwanted | {"sdctl.local", "sdctl.clients", "urllib.request"})


def test_the_submit_path_imports_where_there_is_no_sh_and_no_fcntl(tmp_path: Path) -> None:
    code = (
        "import sys\nfor name in ('sh', 'fcntl', 'termios', 'pwd', 'grp', 'resource'):\n"
        "    sys.modules[name] = None\n"
        "import sdctl.cli.submit, sdctl.cli.watch, sdctl.cli.tasks, sdctl.cli.terminal, sdctl.cli.verify\n"
        "import sdctl.tasks.files, sdctl.deployments\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=process_env({}), timeout=60, check=True)


@posix
@pytest.mark.parametrize("words", [["watch", "slow"], ["watch", "slow", "-o", "json"]])
def test_ctrl_c_in_a_watch_leaves_with_130(words: list[str], server: TaskApiServer, tmp_path: Path) -> None:
    server.script = []
    server.add("slow")
    child = subprocess.Popen(
        command(*words), cwd=tmp_path, env=process_env(server.env), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while len(server.requests) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(server.requests) >= 2
        child.send_signal(signal.SIGINT)
        stdout, stderr = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == 130
    assert "Traceback" not in stderr
    if "json" in words:
        assert json.loads(stderr)["error"]["code"] == "interrupted"
        assert json.loads(stdout)["status"] == "queued"


def on_a_terminal(words: list[str], cwd: Path, env: dict[str, str], answer: bytes = b"") -> tuple[int, str]:
    """Run sdctl with a pseudo-terminal on all three streams, and return its exit code and what it showed."""
    import pty

    main, side = pty.openpty()
    child = subprocess.Popen(
        command(*words), cwd=cwd, env=process_env(env), stdin=side, stdout=side, stderr=side,
        start_new_session=True,
    )  # fmt: skip
    os.close(side)
    shown = b""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            ready, _, _ = select.select([main], [], [], 0.1)
            if not ready:
                continue
            try:
                piece = os.read(main, 65536)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            if answer and b"[y/N]" in shown:
                os.write(main, answer)
                answer = b""
        return child.wait(30), shown.decode()
    finally:
        os.close(main)
        child.kill()
        child.wait()


@posix
def test_a_question_on_a_terminal_is_answered_there(server: TaskApiServer, tmp_path: Path) -> None:
    server.add("a", status="failed")
    words = ["tasks", "retry", "--status", "failed"]
    assert on_a_terminal(words, tmp_path, server.env, b"n\n")[0] == 1
    assert server.tasks["a"]["status"] == "failed"
    assert on_a_terminal(words, tmp_path, server.env, b"y\n")[0] == 0
    assert server.tasks["a"]["status"] == "queued"


@posix
@pytest.mark.parametrize(
    ("env", "mark"),
    [
        ({"TERM": "xterm-256color"}, "▀"),
        ({"TERM": "xterm-kitty"}, "\x1b_Ga=T,f=100"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, "\x1b]1337;File=inline=1"),
        ({"TERM": "foot"}, "\x1bPq"),
    ],
)
def test_watch_draws_the_picture_on_a_terminal(
    env: dict[str, str], mark: str, server: TaskApiServer, tmp_path: Path
) -> None:
    pytest.importorskip("PIL")
    server.add("a")
    code, shown = on_a_terminal(["watch", "a"], tmp_path, {**server.env, **env})
    assert (code, mark in shown, "running 50%" in shown, "a  completed" in shown) == (0, True, True, True)


@posix
def test_nothing_is_drawn_on_a_dumb_terminal_or_as_json(server: TaskApiServer, tmp_path: Path) -> None:
    server.complete(server.add("a", status="completed"))
    _, dumb = on_a_terminal(["watch", "a"], tmp_path, {**server.env, "TERM": "dumb"})
    _, as_json = on_a_terminal(["watch", "a", "-o", "json"], tmp_path, {**server.env, "TERM": "xterm-kitty"})
    assert "▀" not in dumb
    assert "\x1b_G" not in as_json
    assert json.loads(as_json.strip().splitlines()[-1])["status"] == "completed"


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["init", "--schema"], ["--version", "-o", "json"]])
def test_a_full_disk_behind_stdout_is_one_line_of_error(words: list[str], tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            command(*words), cwd=tmp_path, env=process_env({}), stdout=full, stderr=subprocess.PIPE,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 5
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@posix
@pytest.mark.parametrize(
    ("closing", "code", "told"),
    [("<&-", 0, ""), (">&-", 5, "stdout is closed"), ("2>&-", 0, ""), ("-o json 2>&- --bogus", 2, "")],
)
def test_closed_streams_are_no_bug(closing: str, code: int, told: str, tmp_path: Path) -> None:
    line = f"{sys.executable} -m sdctl init --schema {closing}"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=process_env({}), capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert (done.returncode, told in done.stderr, "Traceback" in done.stderr) == (code, True, False)


@posix
def test_a_folder_that_may_not_be_written_is_one_line_of_error(tmp_path: Path) -> None:
    words = ["deploy", "--dry-run", "--target", "local", "--config", "/proc/sdctl.yaml"]
    ran = run_process(*words, cwd=tmp_path)
    assert ran.code in (3, 5)
    assert ran.stderr.startswith("Error: ")
    assert "Traceback" not in ran.stderr


@posix
def test_ctrl_c_that_a_callback_of_the_interpreter_drops_still_counts(tmp_path: Path) -> None:
    code = (
        "import sys, time, weakref\nimport sdctl.cli.init as module\nfrom sdctl.cli import run\n"
        "class Thing: pass\n"
        "def drop(_): raise KeyboardInterrupt\n"
        "def init():\n    thing = Thing(); mark = weakref.ref(thing, drop); del thing; time.sleep(20)\n"
        "module.init = init\nsys.exit(run(['init']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=process_env({}), capture_output=True, text=True,
        timeout=15, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (130, "Error: interrupted\n")


@posix
def test_a_prompt_in_utf8_arrives_whatever_the_locale_says(server: TaskApiServer, tmp_path: Path) -> None:
    env = {**server.env, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = run_process("submit", "t2i", "小狗", "--id", "dog", cwd=tmp_path, env=env)
    assert ran.code == 0, ran.stderr
    assert server.bodies[-1]["task"]["content"]["prompt"] == "小狗"
