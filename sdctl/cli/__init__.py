"""The root of the command line: the global options, and the table of commands.

How a command is added. Write its function in a module of this package and name both in `COMMANDS`:

    # sdctl/cli/deploy.py
    \"\"\"`sdctl status`: what runs where.\"\"\"
    from typing import Annotated
    import typer
    from sdctl.cli import context, output        # cheap; anything heavy is imported in the function

    def status(
        watch: Annotated[bool, typer.Option("--watch", help="Keep looking.")] = False,
    ) -> None:
        \"\"\"Show stacks, runtimes and queues.\"\"\"        # the text of `sdctl status --help`
        deployment = context.require_deployment()      # NotFoundError with a hint where there is none
        from sdctl.deploy.observe import rows          # heavy: boto3
        found = rows(deployment)
        output.note("reading the queues…")             # stderr, silent with --quiet
        output.result(found, lambda: output.table(found, ["name", "state"]))   # stdout: JSON or text

- A group (`local …`) is a `typer.Typer` in its module, named by `Entry.attribute`; or
  `lazy.lazy_group(help, entries)`, where its commands are worth loading one by one.
- Never declare a global option (`-c -n -R -o -y`, `--profile --target --quiet --verbose`): every command
  takes them after its name too; read them with `context.current()`.
- Errors: raise a subclass of `SdctlError`, with a hint that is the next command to try. Nothing else
  exits. A declined `output.confirm(…)` is `raise typer.Exit(1)`.
- Print through `output` only: `result` once, or `stream` per line. A module that is missing from the
  installation is not listed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from sdctl.cli import context
from sdctl.cli.lazy import Entry, RootGroup, pass_on_interrupt

_DEPLOYING = "Deployment"
_TASKS = "Tasks"
_LOOKING = "Looking at what runs"

COMMANDS = (
    Entry("init", "sdctl.cli.init", "init", "Write an annotated sdctl.yaml.", _DEPLOYING),
    Entry("doctor", "sdctl.cli.doctor", "doctor", "Check what a deployment depends on.", _DEPLOYING),
    Entry("deploy", "sdctl.cli.deploy", "deploy", "Deploy what sdctl.yaml describes.", _DEPLOYING),
    Entry("render", "sdctl.cli.render", "render", "Write what deploy would send as files.", _DEPLOYING),
    Entry("destroy", "sdctl.cli.destroy", "destroy", "Take a deployment down.", _DEPLOYING),
    Entry("bucket", "sdctl.cli.bucket", "app", "Create and list model buckets.", _DEPLOYING),
    Entry("snapshot", "sdctl.cli.snapshot", "app", "Images that nodes find on their volumes.", _DEPLOYING),
    Entry("models", "sdctl.cli.models", "app", "Bring models into the bucket, list, verify.", _DEPLOYING),
    Entry("image", "sdctl.cli.image", "app", "Build, push and mirror images.", _DEPLOYING),
    Entry("chart", "sdctl.cli.chart", "app", "Package, push and index the Helm chart.", _DEPLOYING),
    Entry("outputs", "sdctl.cli.outputs", "outputs", "Show the stack's outputs.", _DEPLOYING),
    Entry("apikey", "sdctl.cli.outputs", "apikey", "Print the API key.", _DEPLOYING),
    Entry("iam", "sdctl.cli.iam", "app", "Print the permissions that sdctl needs.", _DEPLOYING),
    Entry("submit", "sdctl.cli.submit", "app", "Submit a task: t2i, i2i, upscale, pipeline, raw.", _TASKS),
    Entry("watch", "sdctl.cli.watch", "watch", "Follow tasks to their end.", _TASKS),
    Entry("tasks", "sdctl.cli.tasks", "app", "List, get, cancel, retry and download tasks.", _TASKS),
    Entry("verify", "sdctl.cli.verify", "verify", "Run the smoke test through the API.", _TASKS),
    Entry("status", "sdctl.cli.status", "status", "Show stacks, runtimes and queues.", _LOOKING),
    Entry("logs", "sdctl.cli.local", "logs", "Show logs.", _LOOKING),
    Entry("queue", "sdctl.cli.queue", "app", "Depth, redrive and purge of the queues.", _LOOKING),
    Entry("runtime", "sdctl.cli.runtime", "app", "Pause, resume, warm and restart runtimes.", _LOOKING),
    Entry("kubeconfig", "sdctl.cli.kubeconfig", "kubeconfig", "Add the cluster to a kubeconfig.", _LOOKING),
    Entry("token", "sdctl.cli.token", "token", "Print a token for the cluster.", _LOOKING),
    Entry("local", "sdctl.cli.local", "app", "What only the local target has.", _LOOKING),
)


class _Output(StrEnum):
    TEXT = context.TEXT
    JSON = context.JSON


class _Target(StrEnum):
    AWS = "aws"
    LOCAL = "local"


class Root(RootGroup):
    """`sdctl` itself."""

    entries = COMMANDS


app = typer.Typer(
    cls=Root,
    rich_markup_mode=None,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _record(ctx: typer.Context, param: typer.CallbackParam, value: Any) -> Any:
    source = ctx.get_parameter_source(param.name or "")
    if value is not None and not ctx.resilient_parsing and source is not None and source.name != "DEFAULT":
        context.record(str(param.name), value.value if isinstance(value, StrEnum) else value)
    return value


def _print_version(value: bool) -> None:
    if value:
        from sdctl import __version__
        from sdctl.cli import output

        output.result({"version": __version__}, f"sdctl {__version__}")
        raise typer.Exit


def _option(*names: str, help_text: str, env: str, metavar: str | None = None) -> Any:
    return typer.Option(
        *names,
        help=help_text,
        envvar=f"SDCTL_{env}",
        metavar=metavar,
        callback=_record,
        expose_value=False,
        show_default=False,
        show_envvar=False,
        is_eager=env == "OUTPUT",
    )


@app.callback(epilog="Each global option may stand after the command too, or in SDCTL_<OPTION>.")
def _root(
    *,
    config: Annotated[
        Path | None,
        _option("--config", "-c", help_text="sdctl.yaml, else config.yaml.", env="CONFIG", metavar="FILE"),
    ] = None,
    stack_name: Annotated[
        str | None,
        _option("--stack-name", "-n", help_text="Name of the stack.", env="STACK_NAME", metavar="NAME"),
    ] = None,
    region: Annotated[
        str | None, _option("--region", "-R", help_text="AWS region.", env="REGION", metavar="REGION")
    ] = None,
    profile: Annotated[
        str | None, _option("--profile", help_text="AWS profile.", env="PROFILE", metavar="NAME")
    ] = None,
    target: Annotated[
        _Target | None,
        _option("--target", help_text="Where: your AWS account, or this machine.", env="TARGET"),
    ] = None,
    output: Annotated[
        _Output, _option("--output", "-o", help_text="How to print the result.", env="OUTPUT")
    ] = _Output.TEXT,
    yes: Annotated[bool, _option("--yes", "-y", help_text="Answer yes to questions.", env="YES")] = False,
    quiet: Annotated[bool, _option("--quiet", help_text="No progress on stderr.", env="QUIET")] = False,
    verbose: Annotated[bool, _option("--verbose", help_text="More of it on stderr.", env="VERBOSE")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True, expose_value=False
        ),
    ] = False,
) -> None:
    """Deploy an asynchronous Stable Diffusion farm into AWS, or onto this machine, and use it."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code."""
    from typer.main import get_command

    if os.name == "posix":
        sys.unraisablehook = pass_on_interrupt
    try:
        get_command(app).main(list(arguments), prog_name="sdctl")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


__all__ = ["COMMANDS", "app", "run"]
