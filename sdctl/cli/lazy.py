"""Groups of commands that import a command's module only when that command runs.

Help and completion are served from a table of names and one-line texts. Also the error boundary of
the command line, which is the root group's `main`.
"""

from __future__ import annotations

import copy
import errno
import importlib
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from sdctl.cli import context, output
from sdctl.errors import ExitCode, MachineError, SdctlError

# Typer carries a copy of Click whose exceptions it does not export, but for this one's subclasses.
_UsageProblem: Final[Any] = typer.BadParameter.__mro__[1]
# What the machine may answer to any reading and writing; anything else is a bug.
_REFUSALS: Final = (
    errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.EIO,
)  # fmt: skip
_AGAIN_SECONDS: Final = 0.02
_GLOBAL_EPILOG: Final = "The global options of `sdctl --help` may stand here too."


@dataclass(frozen=True, slots=True)
class Entry:
    """One row of a command table.

    `module` is imported when the command runs; `attribute` in it is either the command's function or,
    for a group, a `typer.Typer`. `help` is the line in the list of commands.
    """

    name: str
    module: str
    attribute: str
    help: str
    section: str = "Commands"


def is_present(entry: Entry) -> bool:
    """Tell whether the entry's module exists in this installation, without importing it."""
    package, _, name = entry.module.rpartition(".")
    folder = Path(str(sys.modules[package].__file__)).parent
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


class LazyGroup(TyperGroup):
    """A group that is filled from `entries`; commands are loaded when they are invoked."""

    entries: Sequence[Entry] = ()

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self._table = {entry.name: entry for entry in self.entries if is_present(entry)}
        for entry in self._table.values():
            self.add_command(TyperCommand(entry.name, help=entry.help, rich_markup_mode=None))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command that `args` name, loaded."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in self._table:
            command = load(self._table[name], ctx.find_root().command.params)
        return name, command, rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands in the sections of the table, without loading any."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.commands[name]
            section = self._table[name].section if name in self._table else "Commands"
            sections.setdefault(section, []).append((name, command.get_short_help_str(100)))
        width = max((len(name) for name in self.commands), default=0)
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl([(name.ljust(width), text) for name, text in rows])


def lazy_group(help_text: str, entries: Sequence[Entry]) -> typer.Typer:
    """Make a group, as `submit`, of commands that are each loaded by themselves."""
    group = type("Group", (LazyGroup,), {"entries": tuple(entries)})
    app = typer.Typer(cls=group, help=help_text, rich_markup_mode=None, no_args_is_help=True)
    app.callback()(_nothing)
    return app


def _nothing() -> None:
    pass


def load(entry: Entry, global_params: Sequence[Any]) -> Any:
    """Import an entry's module and build its command, which takes the global options as well."""
    value = getattr(importlib.import_module(entry.module), entry.attribute)
    if not isinstance(value, typer.Typer):
        function = value
        value = typer.Typer(add_completion=False, rich_markup_mode=None)
        value.command(entry.name)(function)
    value.rich_markup_mode = None
    value._add_completion = False
    command = get_command(value)
    command.name = entry.name
    extra = []
    for param in global_params:
        if param.name in context.Options.__dataclass_fields__:
            here = copy.copy(param)
            # The environment was read at the root: read again, it would win over a flag that stands there.
            here.envvar, here.default, here.hidden = None, None, True
            extra.append(here)
    _extend(command, extra)
    return command


def _extend(command: Any, extra: Sequence[Any]) -> None:
    command.params.extend(extra)
    command.epilog = command.epilog or _GLOBAL_EPILOG
    if isinstance(command, TyperGroup) and not isinstance(command, LazyGroup):
        for child in command.commands.values():
            _extend(child, extra)


class RootGroup(LazyGroup):
    """The root of the command line, and its error boundary (exit codes: `sdctl.errors.ExitCode`)."""

    def invoke(self, ctx: Any) -> None:
        """Run the command; turn an error of ours, or Ctrl-C, into its message and exit code."""
        try:
            super().invoke(ctx)
        except SdctlError as error:
            _leave(error)
        except OSError as error:
            if error.errno not in _REFUSALS:
                raise
            where = f"{error.filename}: " if error.filename else ""
            _leave(MachineError(f"{where}{error.strerror}"))
        except KeyboardInterrupt as interrupt:
            output.error_of("interrupted", "interrupted")
            raise typer.Exit(int(ExitCode.INTERRUPTED)) from interrupt

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Read and run a command line, and exit."""
        words = list(sys.argv[1:] if args is None else args)
        extra["standalone_mode"] = False
        with context.command_line(context.Options(output=output_format(words))):
            sys.exit(self._exit_code(words, *rest, **extra))

    def _exit_code(self, words: list[str], *rest: Any, **extra: Any) -> int:
        try:
            code = super().main(words, *rest, **extra)
        except _UsageProblem as problem:
            code = _show_usage_problem(problem)
        except SdctlError as error:  # raised while the arguments were read
            output.error(error)
            code = int(error.exit_code)
        except typer.Abort:
            output.error_of("aborted", "aborted")
            code = int(ExitCode.BUG)
        except Exception as bug:  # the outermost boundary: with -o json a bug is JSON too
            if not context.current().is_json:
                raise
            import traceback

            output.error_of("bug", "".join(traceback.format_exception(bug)), "please report this")
            code = int(ExitCode.BUG)
        return code if isinstance(code, int) else 0


def pass_on_interrupt(unraisable: Any) -> None:
    """Interrupt again where Ctrl-C came in a callback that drops exceptions, as the import system has."""
    if unraisable.exc_type is not None and issubclass(unraisable.exc_type, KeyboardInterrupt):
        main = threading.main_thread().ident or 0
        threading.Timer(_AGAIN_SECONDS, signal.pthread_kill, (main, signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(unraisable)


def _leave(error: SdctlError) -> NoReturn:
    output.error(error)
    raise typer.Exit(int(error.exit_code)) from error


def _show_usage_problem(problem: Any) -> int:
    if context.current().is_json:
        command = problem.ctx.command_path if problem.ctx is not None else "sdctl"
        output.error_of("usage", problem.format_message(), f"{command} --help")
    else:
        problem.show()
    return int(problem.exit_code)


def output_format(words: Sequence[str]) -> str:
    """Find the output format in words that may not parse, so that a usage error can be JSON too."""
    found = context.environment().get("SDCTL_OUTPUT", context.TEXT)
    for index, word in enumerate(words):
        if word == "--":
            break
        if word in ("-o", "--output"):
            found = words[index + 1] if index + 1 < len(words) else found
        elif word.startswith("--output="):
            found = word.partition("=")[2]
        elif word.startswith("-o") and not word.startswith("--"):
            found = word[2:].removeprefix("=")
    return context.JSON if found == context.JSON else context.TEXT
