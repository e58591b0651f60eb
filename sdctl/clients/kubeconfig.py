"""kubeconfig files: the entry of one cluster, and merging it into a file that is the user's own.

Whatever else such a file holds stays; it is replaced whole, readable by its owner only, under the same
lock file that kubectl takes. Comments are lost, as with kubectl. The format is
https://kubernetes.io/docs/reference/config-api/kubeconfig.v1/
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from sdctl.clients.cluster_access import ClusterAccess
from sdctl.errors import ConfigError, ConflictError, WaitTimeoutError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll

EXEC_API_VERSION: Final = "client.authentication.k8s.io/v1"
_LOCK_SECONDS: Final = 5.0
_LOCK_PACE: Final = Pace(interval_seconds=0.05, ceiling_seconds=0.5)
_MAX_BYTES: Final = 16 * 1024 * 1024
_INSTALL_HINT: Final = "pip install sdctl: the token comes from it"

Document = dict[str, Any]


def token_command(access: ClusterAccess) -> list[str]:
    """Return the command that prints a token: this very interpreter, so that no PATH can mislead it."""
    # -P: a folder named sdctl where kubectl happens to be called is not ours.
    command = [sys.executable, "-P", "-m", "sdctl", "token", "--target", "aws"]
    command += ["--stack-name", access.stack_name, "--region", access.region]
    return command + (["--profile", access.profile] if access.profile else [])


def cluster_config(access: ClusterAccess, *, namespace: str = "") -> Document:
    """Build the kubeconfig of one cluster; its entries are named by the cluster's ARN, as AWS names them.

    Args:
        access: the cluster.
        namespace: where commands go that name none.
    """
    command, *arguments = token_command(access)
    program = {
        "apiVersion": EXEC_API_VERSION,
        "command": command,
        "args": arguments,
        "interactiveMode": "Never",
        "provideClusterInfo": False,
        "installHint": _INSTALL_HINT,
    }
    context = {"cluster": access.arn, "user": access.arn} | ({"namespace": namespace} if namespace else {})
    cluster = {"server": access.endpoint, "certificate-authority-data": access.authority}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": access.arn, "cluster": cluster}],
        "users": [{"name": access.arn, "user": {"exec": program}}],
        "contexts": [{"name": access.arn, "context": context}],
        "current-context": access.arn,
    }


def merged(existing: Document, added: Document) -> Document:
    """Put the entries of `added` in place of those of the same name, and make its context the current one."""
    result = {"apiVersion": "v1", "kind": "Config"} | existing
    for section in ("clusters", "users", "contexts"):
        kept = existing.get(section) or []
        if not isinstance(kept, list) or not all(isinstance(one, dict) and "name" in one for one in kept):
            raise ConfigError(f"the kubeconfig's {section} are not a list of named entries")
        names = {one["name"] for one in added[section]}
        result[section] = [one for one in kept if one["name"] not in names] + added[section]
    result["current-context"] = added["current-context"]
    return result


def default_path(environment: Mapping[str, str]) -> Path:
    """Return where kubectl looks first: the first file of KUBECONFIG, else `~/.kube/config`."""
    named = [one for one in environment.get("KUBECONFIG", "").split(os.pathsep) if one]
    if named:
        return Path(named[0]).expanduser()
    home = environment.get("HOME") or environment.get("USERPROFILE")
    return (Path(home) if home else Path.home()) / ".kube" / "config"


def add_to_file(path: Path, added: Document, *, clock: Clock = REAL_CLOCK) -> None:
    """Merge a kubeconfig into a file, which is made where it is missing.

    Args:
        path: the file; a symbolic link stays, what it points to is replaced.
        added: one that `cluster_config` built.
        clock: time to use while another program holds the file.

    Raises:
        ConfigError: the file is not a kubeconfig, or cannot be written.
        ConflictError: another program holds its lock.
    """
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(target, clock):
            replace_file(target, dump(merged(_read(target), added)))
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be written: {error.strerror}", hint="name another with --file"
        ) from error


def dump(document: Document) -> str:
    """Render a kubeconfig as YAML, in the order it has."""
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=False, allow_unicode=True)


def replace_file(target: Path, text: str) -> None:
    """Replace a file whole, with mode 0600; at no time is it half written or readable by others."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # made with mode 0600
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _read(path: Path) -> Document:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return {}
    if len(raw) > _MAX_BYTES:
        raise ConfigError(f"{path} is too large for a kubeconfig: {len(raw)} bytes")
    hint = "mend or move the file, or name another with --file"
    try:
        document = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeError) as error:
        raise ConfigError(f"{path} is not YAML, so nothing was added to it", hint=hint) from error
    if document is None:
        return {}
    if not isinstance(document, dict) or document.get("kind", "Config") != "Config":
        raise ConfigError(f"{path} is not a kubeconfig, so nothing was added to it", hint=hint)
    return document


@contextmanager
def _locked(path: Path, clock: Clock) -> Iterator[None]:
    """Hold `<file>.lock`, as kubectl does while it changes the file."""
    lock = path.with_name(f"{path.name}.lock")

    def take() -> bool | None:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except FileExistsError:
            return None
        return True

    try:
        poll(take, awaited=str(lock), timeout_seconds=_LOCK_SECONDS, pace=_LOCK_PACE, clock=clock)
    except WaitTimeoutError as error:
        raise ConflictError(
            f"another program is changing {path}", hint=f"if none is, delete {lock}"
        ) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
