"""The global options of a command line, and what every command finds out from them.

Options are collected while the arguments are read (before or after the command) and are read by
commands with `current()`. Only this module and the option declarations look at the environment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sdctl.errors import NotFoundError

if TYPE_CHECKING:
    from sdctl.deployments import Deployment, Deployments

TEXT = "text"
JSON = "json"


@dataclass(frozen=True, slots=True)
class Options:
    """The global options; None where neither a flag nor the environment gives one."""

    config: Path | None = None
    stack_name: str | None = None
    region: str | None = None
    profile: str | None = None
    target: str | None = None
    output: str = TEXT
    yes: bool = False
    quiet: bool = False
    verbose: bool = False

    @property
    def is_json(self) -> bool:
        """Tell whether stdout and errors are JSON."""
        return self.output == JSON


_NOTHING_GIVEN = Options()
_cleanups: ContextVar[ExitStack | None] = ContextVar("sdctl_cleanups", default=None)
# What was read from AWS for this command line; `context` alone knows when that is over.
_read_deployment: ContextVar[Deployment | None] = ContextVar("sdctl_read_deployment", default=None)
_options: ContextVar[Options] = ContextVar("sdctl_options", default=_NOTHING_GIVEN)


def current() -> Options:
    """Return the global options of the command that runs."""
    return _options.get()


def reset(options: Options) -> None:
    """Start over with these options, outside any command line."""
    _options.set(options)


@contextmanager
def command_line(options: Options) -> Iterator[None]:
    """Hold one command line: start with these options, and clean up at its end."""
    _options.set(options)
    with ExitStack() as cleanups:
        token = _cleanups.set(cleanups)
        _read_deployment.set(None)
        try:
            yield
        finally:
            _cleanups.reset(token)


def at_end(cleanup: Callable[[], None]) -> None:
    """Call something when the command line is over, however it ends."""
    cleanups = _cleanups.get()
    if cleanups is None:
        raise RuntimeError("no command line is being run")
    cleanups.callback(cleanup)


def record(name: str, value: Any) -> None:
    """Keep one global option, in place of what stood further left."""
    _options.set(replace(_options.get(), **{name: value}))


def environment() -> Mapping[str, str]:
    """Return the process's environment, for functions that take it as an argument."""
    return os.environ


def region() -> str:
    """Return the region that a flag, the environment or the AWS profile names, empty where none does."""
    env = environment()
    named = current().region or env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
    return named or _profile_region(env)


def _profile_region(env: Mapping[str, str]) -> str:
    """Read the profile's region from AWS's own files; what is wrong with them, boto3 says when it is used.

    https://docs.aws.amazon.com/cli/latest/userguide/cli-configure-files.html
    """
    from configparser import ConfigParser, MissingSectionHeaderError, ParsingError

    profile = current().profile or env.get("AWS_PROFILE") or env.get("AWS_DEFAULT_PROFILE") or "default"
    for variable, name in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        path = Path(env.get(variable) or Path("~/.aws") / name).expanduser()
        if not path.is_file():
            continue
        found = ConfigParser(interpolation=None, strict=False)
        with suppress(ParsingError, MissingSectionHeaderError, OSError, UnicodeDecodeError):
            found.read(path, encoding="utf-8")
        for section in (f"profile {profile}", profile):
            if value := found.get(section, "region", fallback=""):
                return value.strip()
    return ""


def deployments() -> Deployments:
    """Return the records of what was deployed."""
    from sdctl.deployments import Deployments, home

    return Deployments(home(environment()))


def find_deployment() -> Deployment | None:
    """Return the deployment that the global options mean: the folder's last, or the only one."""
    options = current()
    return deployments().find(
        folder=Path.cwd(), stack_name=options.stack_name, region=options.region, target=options.target
    )


def require_deployment() -> Deployment:
    """Return the deployment that the global options mean: one recorded here, else the one on AWS they name.

    Raises:
        NotFoundError: there is none, or several and no way to tell which; the hint says what to pass.
    """
    found = find_deployment() or _read_deployment.get()
    if found is not None:
        return found
    from sdctl.cli import found as on_aws

    if on_aws.is_asked_for():
        deployment = on_aws.deployment_on_aws()
        _read_deployment.set(deployment)
        return deployment
    options = current()
    others = deployments().all()
    if not others:
        raise NotFoundError(
            "nothing is deployed from this machine, and no -n STACK and -R REGION name one on AWS",
            hint="sdctl deploy --target local",
        )
    names = ", ".join(f"{one.stack_name} ({one.target}, {one.region}, {one.folder})" for one in others)
    if options.stack_name or options.region or options.target:
        raise NotFoundError(f"no such deployment; deployed: {names}", hint="check -n, -R and --target")
    raise NotFoundError(
        f"this folder has no deployment, and there are several: {names}",
        hint="go to the folder of one, or name it with -n STACK, -R REGION, --target TARGET",
    )
