"""Child programs, with real ones: what comes back, and that each ends when it has to."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from sdctl.clients.process import Finished, Programs, child_environment
from sdctl.errors import ToolError

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
STUBBORN = "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); "


def python(code: str, **options: float) -> Finished:
    return run([sys.executable, "-c", code], **options)


def run(arguments: list[str], *, programs: Programs | None = None, **options: float) -> Finished:
    keywords = {"timeout_seconds": 20.0, "grace_seconds": 5.0} | options
    return (programs or Programs()).run(arguments, environment=ENVIRONMENT, **keywords)  # type: ignore[arg-type]


def waits(file: Path, timeout_seconds: float = 10) -> str:
    deadline = time.monotonic() + timeout_seconds
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < deadline, f"{file} did not come"
        time.sleep(0.01)
    return file.read_text()


def test_exit_code_output_and_the_end_of_stderr_come_back() -> None:
    ended = python("import sys; print('héllo'); print('why', file=sys.stderr); sys.exit(3)")
    assert ended == Finished(3, "héllo\n", "why")


def test_arguments_reach_the_program_as_they_are() -> None:
    odd = ["--values=a b", "$(id)", "*", "", "-x", "中文", "a\nb"]
    ended = run([sys.executable, "-c", "import sys; print(sys.argv[1:])", *odd])
    assert ended.stdout == f"{odd}\n"


def test_a_program_sees_only_the_environment_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_OF_OURS", "x")
    assert "SECRET_OF_OURS" not in python("import os; print(dict(os.environ))").stdout


def test_a_program_has_no_input_and_no_terminal() -> None:
    code = "import sys; print(repr(sys.stdin.read()), sys.stdin.isatty(), sys.stdout.isatty())"
    assert python(code).stdout == "'' False False\n"


def test_a_program_inherits_no_open_file() -> None:
    with Path(os.devnull).open() as file:
        os.set_inheritable(file.fileno(), True)
        listed = python("import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:9])").stdout
    assert listed == "[0, 1, 2, 3]\n"  # 3 is the listing itself


def test_only_the_end_of_a_long_stderr_is_kept() -> None:
    ended = python("import sys; [print('line', n, file=sys.stderr) for n in range(9000)]")
    assert ended.stderr_tail.endswith("line 8999")
    assert len(ended.stderr_tail) <= 8192


def test_too_much_output_is_an_error_and_not_memory() -> None:
    with pytest.raises(ToolError, match="more than 1000 bytes"):
        python("import sys; print('x' * 5000)", max_stdout_bytes=1000)


def test_a_character_on_the_edge_of_two_pieces_survives() -> None:
    assert python("print('a' + '中' * 100_000)").stdout == "a" + "中" * 100_000 + "\n"


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(ToolError, match="no-such-program is not installed") as caught:
        run(["no-such-program"])
    assert caught.value.hint == "sdctl doctor --fix"


def test_a_file_that_is_no_program_is_an_error(tmp_path: Path) -> None:
    file = tmp_path / "helm"
    file.write_bytes(b"\x7fELF and no more")
    file.chmod(0o755)
    with pytest.raises(ToolError, match=r"helm cannot be run: .*Exec format"):
        run([str(file)])


def test_a_timeout_asks_politely_first() -> None:
    code = (
        "import signal,sys,time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('rolled back'), sys.exit(7)))\n"
        "print('up', flush=True)\ntime.sleep(30)"
    )
    ended = python(code, timeout_seconds=0.5)
    assert (ended.exit_code, ended.stdout, ended.is_timed_out) == (7, "up\nrolled back\n", True)


def test_what_does_not_listen_is_killed_with_all_its_children(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = STUBBORN + (
        "import subprocess,sys; p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
        f"open({str(pid_file)!r}, 'w').write(str(p.pid)); time.sleep(60)"
    )
    started = time.monotonic()
    ended = python(code, timeout_seconds=0.6, grace_seconds=0.3)
    assert (ended.exit_code, ended.is_timed_out) == (-signal.SIGKILL, True)
    assert time.monotonic() - started < 5
    assert is_gone(int(waits(pid_file)))


def is_gone(pid: int) -> bool:
    """Tell whether a process ended; an orphan that nobody has reaped yet has."""
    for _ in range(200):
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


def test_ctrl_c_ends_the_program_before_it_goes_on(tmp_path: Path) -> None:
    up, end = tmp_path / "up", tmp_path / "end"
    code = (
        "import pathlib,signal,sys,time\n"
        f"end = lambda *_: (pathlib.Path({str(end)!r}).write_text('x'), sys.exit(0))\n"
        "signal.signal(signal.SIGTERM, end)\n"
        f"pathlib.Path({str(up)!r}).write_text('x')\ntime.sleep(30)"
    )
    interrupter = threading.Thread(target=lambda: (waits(up), os.kill(os.getpid(), signal.SIGINT)))
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        python(code)
    interrupter.join()
    assert end.exists()


def test_a_second_ctrl_c_kills_at_once(tmp_path: Path) -> None:
    up = tmp_path / "up"
    code = STUBBORN + f"open({str(up)!r}, 'w').write('x'); time.sleep(30)"

    def interrupt_twice() -> None:
        waits(up)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    interrupter = threading.Thread(target=interrupt_twice)
    started = time.monotonic()
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        python(code, grace_seconds=25)
    interrupter.join()
    assert time.monotonic() - started < 10


def test_cancel_ends_what_runs_in_other_threads_and_lets_nothing_start(tmp_path: Path) -> None:
    programs, up, found = Programs(), tmp_path / "up", list[Finished]()
    code = f"open({str(up)!r}, 'w').write('x'); import time; time.sleep(30)"
    worker = threading.Thread(
        target=lambda: found.append(run([sys.executable, "-c", code], programs=programs))
    )
    worker.start()
    waits(up)
    programs.cancel()
    worker.join(10)
    assert [one.exit_code for one in found] == [-signal.SIGTERM]
    with pytest.raises(ToolError, match="cancelled"):
        run(["true"], programs=programs)


def test_programs_run_side_by_side() -> None:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: found.append(python(f"print({n})").stdout)) for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == ["0\n", "1\n", "2\n", "3\n"]


def test_the_environment_of_a_child_holds_what_it_needs_and_no_more() -> None:
    ours = {
        "PATH": "/bin",
        "AWS_PROFILE": "p",
        "LC_ALL": "C",
        "SDCTL_API_KEY": "k",
        "HTTPS_PROXY": "h",
        "X": "1",
    }
    kept = {"PATH": "/bin", "AWS_PROFILE": "p", "LC_ALL": "C", "HTTPS_PROXY": "h", "KUBECONFIG": "f"}
    assert child_environment(ours, {"KUBECONFIG": "f"}) == kept
