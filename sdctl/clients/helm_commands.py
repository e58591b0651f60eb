"""What helm is told, and what its answers mean; pure. Fits helm 3 from 3.14 on, and helm 4.

Each function builds a list of arguments without the program; what is not an option stands behind `--`, so
that no name can be taken for one. Values go by file: an argument can be read
by every user of the machine. `--timeout` is below the time after which we end helm ourselves, so that helm
can mark its release as failed and roll back; a release that is left pending blocks the next upgrade.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any, Final

from sdctl.clients.registries import is_loopback
from sdctl.errors import ConflictError, ToolError
from sdctl.releases import Chart, Release
from sdctl.versions import HELM_VERSION, OLDEST_HELM, numbers

# How many revisions helm keeps of a release, and how many are looked at.
HISTORY_MAX: Final = 10
# A failed upgrade waits for its rollback as long again as for itself; the rest is for the API and the chart.
_MARGIN_SECONDS: Final = 60
_DIGEST_PREFIX: Final = "sdctl "
_MAX_DIGEST_CHARACTERS: Final = 64


@dataclass(frozen=True, slots=True)
class HelmVersion:
    """helm's own version, as `4.3.1`."""

    text: str

    @property
    def major(self) -> int:
        """3 or 4."""
        return numbers(self.text)[0]


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision of a release, as `helm history` has it; `chart` is name and version in one."""

    number: int
    status: str
    chart: str
    updated_at: datetime
    description: str

    @property
    def is_pending(self) -> bool:
        """Tell whether an operation on it has begun and not ended."""
        return self.status.startswith("pending-") or self.status == "uninstalling"

    @property
    def was_good(self) -> bool:
        """Tell whether it is, or once was, what runs."""
        return self.status in ("deployed", "superseded")


@dataclass(frozen=True, slots=True)
class Listed:
    """One release, as `helm list` has it."""

    name: str
    namespace: str
    revision: int
    status: str
    chart: str


def overall_seconds(timeout_seconds: int) -> int:
    """Return after how long we end helm ourselves, for a `--timeout`: going back may take as long again."""
    return 2 * timeout_seconds + _MARGIN_SECONDS


def version_arguments() -> list[str]:
    """Ask helm for its version."""
    return ["version", "--short"]


def read_version(text: str) -> HelmVersion:
    """Read helm's answer, `v4.3.1+gc0d08d0`.

    Raises:
        ToolError: it is no version, or an older one than we can drive.
    """
    match = re.fullmatch(r"v?(\d+\.\d+\.\d+)\S*", text.strip())
    if match is None:
        raise ToolError(f"helm says no version: {text.strip()[:100]!r}", hint="sdctl doctor --fix")
    if numbers(match[1]) < numbers(OLDEST_HELM) or numbers(match[1])[0] > numbers(HELM_VERSION)[0]:
        raise ToolError(
            f"helm {match[1]} is not supported: {OLDEST_HELM} to {numbers(HELM_VERSION)[0]}.x are",
            hint="sdctl doctor --fix",
        )
    return HelmVersion(match[1])


def upgrade_arguments(
    release: Release, version: HelmVersion, *, values: Path, timeout_seconds: int, digest: str
) -> list[str]:
    """Install a release or upgrade it, wait until it is ready, and go back where it does not become so.

    Args:
        release: what.
        version: of helm.
        values: the file that holds the release's values.
        timeout_seconds: helm's own limit.
        digest: stands in the revision's description, see `holds`.
    """
    return_to_last = "--rollback-on-failure" if version.major >= 4 else "--atomic"
    arguments = ["upgrade", "--install", "--create-namespace", *_source(release.chart)]
    arguments += ["--namespace", release.namespace, "--values", str(values), "--reset-values"]
    arguments += [return_to_last, "--wait", "--timeout", f"{timeout_seconds}s"]
    arguments += ["--history-max", str(HISTORY_MAX), "--description", description_of(digest)]
    arguments += ["--hide-notes", *(["--skip-crds"] if release.skip_crds else [])]
    return [*arguments, "--", release.name, release.chart.reference]


def template_arguments(release: Release, *, values: Path, kubernetes_version: str) -> list[str]:
    """Render a release's manifests without a cluster."""
    arguments = ["template", *_source(release.chart), "--namespace", release.namespace]
    arguments += ["--values", str(values), "--kube-version", kubernetes_version, "--skip-tests"]
    arguments += ["--skip-crds" if release.skip_crds else "--include-crds"]
    return [*arguments, "--", release.name, release.chart.reference]


def package_arguments(chart: Path, folder: Path) -> list[str]:
    """Pack a chart's folder into an archive in another folder."""
    return ["package", "--destination", str(folder), "--", str(chart)]


def read_packaged(text: str) -> Path:
    """Read where the archive is from helm's answer to `package_arguments`.

    Raises:
        ToolError: it does not say.
    """
    match = re.search(r"saved it to: (.+\.tgz)\s*$", text)
    if match is None:
        raise ToolError(f"helm does not say where it packed the chart: {text[:200]!r}")
    return Path(match[1])


def index_arguments(folder: Path, url: str) -> list[str]:
    """Write the index of a folder's archives; an address is put before their names."""
    return ["repo", "index", *(["--url", url] if url else []), "--", str(folder)]


def uninstall_arguments(name: str, namespace: str, *, timeout_seconds: int) -> list[str]:
    """Uninstall a release and wait until what it made is gone; no release is no error."""
    return [
        "uninstall", "--namespace", namespace, "--ignore-not-found", "--wait",
        "--timeout", f"{timeout_seconds}s", "--", name,
    ]  # fmt: skip


def rollback_arguments(name: str, namespace: str, revision: int, *, timeout_seconds: int) -> list[str]:
    """Go back to a revision; not waited for, since an upgrade follows."""
    return [
        "rollback", "--namespace", namespace, "--timeout", f"{timeout_seconds}s",
        "--history-max", str(HISTORY_MAX), "--", name, str(revision),
    ]  # fmt: skip


def history_arguments(name: str, namespace: str) -> list[str]:
    """List the revisions of a release, oldest first."""
    maximum = str(HISTORY_MAX)
    return ["history", "--namespace", namespace, "--max", maximum, "--output", "json", "--", name]


def list_arguments(version: HelmVersion, namespace: str = "") -> list[str]:
    """List releases in whatever state, of one namespace or of all."""
    where = ["--namespace", namespace] if namespace else ["--all-namespaces"]
    # Helm 4 lists every state anyway, and no longer knows the option.
    return ["list", *where, *(["--all"] if version.major < 4 else []), "--max", "0", "--output", "json"]


def _source(chart: Chart) -> list[str]:
    source = ["--repo", chart.repository] if chart.repository else []
    source += ["--version", chart.version] if chart.version else []
    return source + (["--plain-http"] if is_loopback(chart.registry) else [])


def description_of(digest: str) -> str:
    """Return the description of a revision that holds what a digest stands for."""
    return f"{_DIGEST_PREFIX}{digest[:_MAX_DIGEST_CHARACTERS]}"


def holds(history: Sequence[Revision], digest: str) -> bool:
    """Tell whether the release runs, and runs exactly what a digest stands for.

    A failure and a rollback put words of their own into the description, so that the next upgrade is made.
    """
    return (
        bool(history)
        and history[-1].status == "deployed"
        and history[-1].description == description_of(digest)
    )


class Remedy(Enum):
    """What a release needs before it can be upgraded."""

    NONE = "none"
    ROLLBACK = "rollback"
    UNINSTALL = "uninstall"


def remedy_for(history: Sequence[Revision]) -> tuple[Remedy, int]:
    """Choose how to free a release that a killed helm left pending; with the revision to go back to.

    Once something has run, it goes back to the last of it, and nothing is deleted. Only where nothing ever
    ran, or a deletion had begun, it is uninstalled.
    """
    if not history or not history[-1].is_pending:
        return Remedy.NONE, 0
    good = [revision.number for revision in history if revision.was_good]
    if good and history[-1].status != "uninstalling":
        return Remedy.ROLLBACK, good[-1]
    return Remedy.UNINSTALL, 0


def is_fresh(history: Sequence[Revision], now: datetime, settled_seconds: float) -> bool:
    """Tell whether a pending operation is so young that another helm may still be at it."""
    pending = history and history[-1].is_pending
    return bool(pending) and now - history[-1].updated_at < timedelta(seconds=settled_seconds)


def read_history(text: str) -> tuple[Revision, ...]:
    """Read the answer to `history_arguments`.

    Raises:
        ToolError: it is not what helm says.
    """
    with_numbers = [
        Revision(
            int(one["revision"]), str(one["status"]), str(one["chart"]), _moment(one["updated"]),
            str(one.get("description", "")),
        )
        for one in _array(text)
    ]  # fmt: skip
    return tuple(sorted(with_numbers, key=lambda revision: revision.number))


def read_list(text: str) -> tuple[Listed, ...]:
    """Read the answer to `list_arguments`.

    Raises:
        ToolError: it is not what helm says.
    """
    return tuple(
        Listed(
            str(one["name"]), str(one["namespace"]), int(one["revision"]), str(one["status"]),
            str(one["chart"]),
        )
        for one in _array(text)
    )  # fmt: skip


def _array(text: str) -> list[dict[str, Any]]:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ToolError(f"helm's answer is no JSON: {text[:100]!r}") from error
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise ToolError(f"helm's answer is no list: {text[:100]!r}")
    return found


def _moment(text: str) -> datetime:
    """Read a time with nanoseconds, which Python has not."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))


# helm tells these apart by words alone; a test pins them with both major versions.
_MISSING: Final = "release: not found"
_BUSY: Final = "another operation (install/upgrade/rollback) is in progress"
_HINTS: Final = (
    (
        ("context deadline exceeded", "timed out waiting"),
        "its pods did not become ready: see `kubectl -n {namespace} get pods,events`",
    ),
    (
        ("basic credential not found", "status code 401", "status code 403", "403 Forbidden", "denied:"),
        "the chart's registry refuses: sdctl doctor",
    ),
    (
        ("Unauthorized", "must be logged in", "the server has asked for the client to provide credentials"),
        "these credentials have no access entry in the cluster: use those that deployed it",
    ),
    (("is forbidden:",), "these credentials have too few rights in the cluster: use those that deployed it"),
    (
        ("conflict with", "conflicts with"),
        "another program owns these fields: change them there, or in extraValues",
    ),
    (
        ("no such host", "connection refused", "i/o timeout", "Client.Timeout"),
        "is the network reachable? sdctl doctor",
    ),
    (("values don't meet the specifications",), "mend extraValues of the runtime in sdctl.yaml"),
)  # fmt: skip


def is_missing(stderr: str) -> bool:
    """Tell from helm's words that there is no such release."""
    return _MISSING in stderr


def failure(action: str, stderr: str, *, namespace: str = "") -> ToolError | ConflictError:
    """Build the error of a helm that failed, from the end of what it said.

    Args:
        action: what was tried, as in `install karpenter`.
        stderr: the last lines of helm's standard error.
        namespace: for the hint.
    """
    message = f"helm could not {action}: {_reason(stderr)}"
    if _BUSY in stderr:
        return ConflictError(message, hint="wait for the other deploy to end, then run this one again")
    hint = next((hint for words, hint in _HINTS if any(word in stderr for word in words)), "")
    return ToolError(message, stderr_tail=stderr, hint=hint.format(namespace=namespace or "NAMESPACE"))


def _reason(stderr: str) -> str:
    """Return what helm says after its last `Error:`, else its last line."""
    _, found, text = stderr.rpartition("Error: ")
    lines = (text if found else stderr).strip().splitlines()
    if not lines:
        return "it gave no reason"
    return " ".join(line.strip() for line in lines[:4])[:600] if found else lines[-1].strip()[:600]
