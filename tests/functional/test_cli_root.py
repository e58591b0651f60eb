"""The root of the command line: global options, help, the error boundary, each exit code."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from sdctl import __version__, errors
from sdctl.cli import COMMANDS, context, lazy, output
from sdctl.errors import ExitCode
from support.cli import command, process_env, run, run_process


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> list[context.Options]:
    """Put a command in the place of `watch` that records the options it sees."""
    seen: list[context.Options] = []

    def watch(ids: list[str], fail: str = "") -> None:
        seen.append(context.current())
        if fail == "interrupt":
            raise KeyboardInterrupt
        if fail:
            raise getattr(errors, fail)(hint="try this") if hasattr(errors, fail) else ZeroDivisionError(fail)

    monkeypatch.setattr("sdctl.cli.watch.watch", watch)
    return seen


@pytest.mark.parametrize(
    "words",
    [
        ["-n", "s", "-R", "eu-west-1", "--target", "local", "-y", "watch", "x"],
        ["watch", "x", "-n", "s", "-R", "eu-west-1", "--target", "local", "-y"],
        ["-n", "other", "--target", "local", "watch", "-n", "s", "--yes", "x", "--region=eu-west-1"],
    ],
)
def test_global_options_stand_before_or_after_the_command(
    words: list[str], probe: list[context.Options]
) -> None:
    assert run(*words).code == 0
    assert probe == [context.Options(stack_name="s", region="eu-west-1", target="local", yes=True)]


def test_every_global_option_comes_from_the_environment_and_a_flag_wins(
    probe: list[context.Options], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = {
        "CONFIG": "c.yaml", "STACK_NAME": "s", "REGION": "r", "PROFILE": "p", "TARGET": "aws",
        "OUTPUT": "json", "YES": "1", "QUIET": "true", "VERBOSE": "1",
    }  # fmt: skip
    for name, value in values.items():
        monkeypatch.setenv(f"SDCTL_{name}", value)
    run("watch", "x")
    run("--region", "root", "watch", "x")
    run("watch", "x", "--region", "leaf", "-o", "text")
    wanted = context.Options(Path("c.yaml"), "s", "r", "p", "aws", "json", True, True, True)
    assert probe[0] == wanted
    assert [one.region for one in probe] == ["r", "root", "leaf"]
    assert probe[2].output == "text"


def test_options_of_one_run_do_not_reach_the_next(probe: list[context.Options]) -> None:
    run("-n", "s", "-o", "json", "watch", "x")
    run("watch", "x")
    assert probe[1] == context.Options()


CODES = {
    "SdctlError": 1, "UsageError": 2, "ConfigError": 3, "NotFoundError": 4, "RemoteError": 5, "AwsError": 5,
    "ApiError": 5, "ToolError": 5, "DeployFailedError": 6, "WaitTimeoutError": 7, "ConflictError": 8,
    "TaskFailedError": 9, "MachineError": 5,
}  # fmt: skip


def test_every_error_class_has_its_exit_code_checked_here() -> None:
    classes = {n for n, c in vars(errors).items() if isinstance(c, type) and issubclass(c, errors.SdctlError)}
    assert classes == set(CODES)
    assert {int(code) for code in ExitCode} == {*CODES.values(), 0, 130}


@pytest.mark.parametrize(("name", "code"), CODES.items())
def test_an_error_leaves_with_its_message_hint_and_exit_code(
    name: str, code: int, probe: list[context.Options]
) -> None:
    kind = getattr(errors, name)
    text = run("watch", "x", "--fail", name)
    message = kind().message
    assert (text.code, text.stdout, text.stderr) == (code, "", f"Error: {message}\nHint: try this\n")
    as_json = run("watch", "x", "--fail", name, "-o", "json")
    assert (as_json.code, as_json.stdout) == (code, "")
    assert as_json.error == {"code": kind.code, "message": message, "hint": "try this"}


def test_an_interrupt_leaves_with_130(probe: list[context.Options]) -> None:
    assert run("watch", "x", "--fail", "interrupt").code == 130
    assert run("-o", "json", "watch", "x", "--fail", "interrupt").error["code"] == "interrupted"


def test_a_bug_shows_its_traceback_and_leaves_with_1(probe: list[context.Options]) -> None:
    with pytest.raises(ZeroDivisionError):
        run("watch", "x", "--fail", "boom")
    ran = run("watch", "x", "--fail", "boom", "-o", "json")
    assert ran.code == 1
    assert "Traceback" in ran.error["message"]
    assert "ZeroDivisionError: boom" in ran.error["message"]


@pytest.mark.parametrize(
    "words",
    [
        ["--nope"],
        ["nope"],
        ["watch"],
        ["--target", "moon", "watch", "x"],
        ["watch", "x", "--nope"],
        ["tasks", "x"],
    ],
)
def test_wrong_usage_leaves_with_2_as_text_and_as_json(words: list[str]) -> None:
    text = run(*words)
    assert text.code == 2
    assert text.stdout == ""
    assert "Error: " in text.stderr
    for place in (["-o", "json", *words], [*words, "--output=json"], [*words, "-ojson"]):
        ran = run(*place)
        assert (ran.code, ran.stdout, ran.error["code"]) == (2, "", "usage")


def test_usage_errors_are_json_when_the_environment_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDCTL_OUTPUT", "json")
    assert run("nope").error["code"] == "usage"


def test_no_arguments_show_the_help_and_leave_with_2() -> None:
    ran = run()
    assert ran.code == 2
    assert "Usage: sdctl" in ran.stderr


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    assert "'watch'" in run("wach").stderr


def test_the_version_is_printed_alone() -> None:
    assert run("--version").stdout == f"sdctl {__version__}\n"
    assert run("--version", "-o", "json").document == {"version": __version__}


_PRINT_MODULES = """
import runpy, sys
sys.argv = ["sdctl", *sys.argv[1:]]
try:
    runpy.run_module("sdctl", run_name="__main__")
except SystemExit:
    pass
print(" ".join(sys.modules), file=sys.stderr)
"""


def test_version_and_help_import_nothing_heavy(tmp_path: Path) -> None:
    loaded = {}
    for flag in ("--version", "--help"):
        done = subprocess.run(
            [sys.executable, "-c", _PRINT_MODULES, flag], env=process_env({}), cwd=tmp_path,
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        loaded[flag] = set(done.stderr.split())
    assert loaded["--version"].isdisjoint({"typer", "rich", "boto3", "sdctl.cli"})
    heavy = {"rich", "boto3", "http.client", "yaml", "sdctl.cli.submit", "sdctl.cli.watch"}
    assert loaded["--help"].isdisjoint(heavy)


def listed() -> list[lazy.Entry]:
    return [entry for entry in COMMANDS if lazy.is_present(entry)]


def test_help_lists_every_command_that_is_present_and_none_of_later_work() -> None:
    ran = run("--help")
    assert ran.code == 0
    for entry in listed():
        assert f"\n  {entry.name} " in ran.stdout
    for later in ("cost", "ui"):
        assert f"\n  {later} " not in ran.stdout


@pytest.mark.parametrize("entry", listed(), ids=lambda entry: entry.name)
def test_every_listed_command_can_be_loaded_and_shows_its_help(entry: lazy.Entry) -> None:
    value = getattr(importlib.import_module(entry.module), entry.attribute)
    assert callable(value)
    ran = run(entry.name, "--help")
    assert (ran.code, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"Usage: sdctl {entry.name}")


def groups() -> list[tuple[str, str]]:
    from typer.main import get_command

    found = []
    for entry in listed():
        value = getattr(importlib.import_module(entry.module), entry.attribute)
        if isinstance(value, typer.Typer):
            command = get_command(value)
            found += [(entry.name, name) for name in command.commands]  # type: ignore[attr-defined]
    return found


@pytest.mark.parametrize(("group", "name"), groups())
def test_every_command_of_a_group_shows_its_help_and_takes_global_options(group: str, name: str) -> None:
    ran = run(group, name, "-n", "stack", "-o", "json", "--help")
    assert (ran.code, ran.stderr) == (0, "")
    assert "global options" in ran.stdout


def test_a_module_that_is_missing_is_not_listed() -> None:
    assert not lazy.is_present(lazy.Entry("x", "sdctl.cli.never_written", "x", "…"))


def test_a_question_without_a_terminal_is_a_usage_error() -> None:
    context.reset(context.Options())
    with pytest.raises(errors.UsageError, match="no terminal") as caught:
        output.confirm("Go on?")
    assert "--yes" in caught.value.hint
    context.reset(context.Options(yes=True))
    assert output.confirm("Go on?")


def test_text_from_outside_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    context.reset(context.Options())
    output.result({}, "a\x1b[2Jb\u202ec\n")
    assert capsys.readouterr().out == "a\ufffd[2Jb\ufffdc\n"


def test_a_table_aligns_wide_characters() -> None:
    lines = output.table([{"a": "图像", "b": 1}, {"a": "x", "b": None}], ["a", "b"]).splitlines()
    assert lines == ["A     B", "图像  1", "x     -"]


def test_notes_stay_out_of_the_way_of_json_errors(capsys: pytest.CaptureFixture[str]) -> None:
    context.reset(context.Options(output="json"))
    output.note("working…")
    context.reset(context.Options(quiet=True))
    output.note("working…")
    assert capsys.readouterr().err == ""
    context.reset(context.Options())
    output.note("working…")
    assert capsys.readouterr().err == "working…\n"


def test_a_narrow_console_still_prints(tmp_path: Path) -> None:
    ran = run_process("--help", cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"})
    assert ran.code == 0


def test_a_closed_pipe_ends_without_a_traceback(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command("--help"), cwd=tmp_path, env=process_env({}), stdout=writer, stderr=subprocess.PIPE,
            timeout=30, check=False,
        )  # fmt: skip
    finally:
        os.close(writer)
    assert b"Traceback" not in done.stderr
    assert done.returncode != 0


def test_completion_offers_commands_and_their_options(tmp_path: Path) -> None:
    env = {"_SDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "sdctl submit t2i --ne", "COMP_CWORD": "3"}
    assert "--negative-prompt" in run_process(cwd=tmp_path, env=env).stdout
    env |= {"COMP_WORDS": "sdctl wa", "COMP_CWORD": "1"}
    assert "watch" in run_process(cwd=tmp_path, env=env).stdout


def test_json_output_is_one_document(probe: list[context.Options]) -> None:
    assert json.loads(run("--version", "-o", "json").stdout)
