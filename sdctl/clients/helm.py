"""Runs helm: install, upgrade, roll back, uninstall, and free what a killed helm left pending.

What helm is told is built in `helm_commands`. All that helm keeps lies in a private folder that goes away
with the `Helm`: values, kubeconfig, registry logins, caches, so that no login or plug-in of the user's
gets in the way, and nothing of ours is left.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from sdctl.clients import helm_commands as commands
from sdctl.clients.cluster_access import utc_now
from sdctl.clients.helm_commands import HelmVersion, Listed, Remedy, Revision
from sdctl.clients.kubeconfig import dump, replace_file
from sdctl.clients.process import Finished, Programs, child_environment
from sdctl.clients.registries import RegistryLogin, registry_config
from sdctl.errors import ConflictError, NotFoundError, ToolError
from sdctl.releases import Release

QUICK_SECONDS: Final = 120
UPGRADE_SECONDS: Final = 600
# After SIGTERM helm still has to write its release's state, and to go back where it was.
STOP_SECONDS: Final = 90.0


class Outcome(Enum):
    """What an installation came to."""

    UNCHANGED = "unchanged"
    INSTALLED = "installed"
    UPGRADED = "upgraded"


def digest_of(release: Release) -> str:
    """Return what stands for a release's whole content: chart, version and values; SHA-256 in hex.

    Raises:
        NotFoundError: the chart is a folder or archive that does not exist.
    """
    chart = release.chart
    source = _content_digest(Path(chart.reference)) if chart.is_local else chart.reference
    parts = [source, chart.version, chart.repository, release.namespace, release.skip_crds, release.values]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _located(release: Release) -> Release:
    """Name a chart of this machine by its absolute path: helm does not run where we do."""
    chart = release.chart
    if not chart.is_local:
        return release
    return replace(release, chart=replace(chart, reference=str(Path(chart.reference).absolute())))


def _content_digest(path: Path) -> str:
    if not path.exists():
        raise NotFoundError(f"the chart {path} does not exist", hint="check chartRepository in sdctl.yaml")
    files = sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if path.is_dir() else ""
        digest.update(json.dumps([name, hashlib.sha256(file.read_bytes()).hexdigest()]).encode())
    return digest.hexdigest()


class Helm:
    """helm for one cluster, as a context manager; safe to use from several threads for different releases.

    Args:
        program: helm's path.
        environment: of which helm sees what it needs.
        kubeconfig: the cluster, as `kubeconfig.cluster_config` builds it; None where none is needed.
        logins: of private registries.
        programs: what runs it, and can cancel it.
        now: the time of day.
    """

    def __init__(
        self,
        program: Path,
        *,
        environment: Mapping[str, str],
        kubeconfig: Mapping[str, Any] | None = None,
        logins: Sequence[RegistryLogin] = (),
        programs: Programs | None = None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._program = program
        self._outer = environment
        self._kubeconfig = kubeconfig
        self._logins = logins
        self._programs = programs or Programs()
        self._now = now
        self._folder: Path | None = None
        self._version: HelmVersion | None = None

    def __enter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="sdctl-helm-"))  # made with mode 0700
        try:
            if self._kubeconfig is not None:
                replace_file(self._folder / "kubeconfig", dump(dict(self._kubeconfig)))
            replace_file(self._folder / "registry.json", json.dumps(registry_config(self._logins)))
        except BaseException:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self._private, ignore_errors=True)
        self._folder = None

    @property
    def version(self) -> HelmVersion:
        """Return helm's own version.

        Raises:
            ToolError: helm cannot be run, or is too old or too new.
        """
        if self._version is None:
            done = self._run(commands.version_arguments(), timeout_seconds=QUICK_SECONDS)
            if done.exit_code != 0:
                raise commands.failure("say its version", done.stderr_tail)
            self._version = commands.read_version(done.stdout)
        return self._version

    def history(self, name: str, namespace: str) -> tuple[Revision, ...]:
        """Return the last revisions of a release, oldest first; none where there is no such release."""
        done = self._run(commands.history_arguments(name, namespace), timeout_seconds=QUICK_SECONDS)
        if done.exit_code != 0 and commands.is_missing(done.stderr_tail):
            return ()
        return commands.read_history(_output(done, f"read the history of {name}", namespace))

    def releases(self, namespace: str = "") -> tuple[Listed, ...]:
        """Return the releases of a namespace, or of all."""
        arguments = commands.list_arguments(self.version, namespace)
        done = self._run(arguments, timeout_seconds=QUICK_SECONDS)
        return commands.read_list(_output(done, "list the releases", namespace))

    def is_current(self, release: Release) -> bool:
        """Tell whether a release runs exactly as it is wanted."""
        return commands.holds(self.history(release.name, release.namespace), digest_of(release))

    def install(
        self, release: Release, *, timeout_seconds: int = UPGRADE_SECONDS, is_alone: bool = False
    ) -> Outcome:
        """Make a release what it should be: install it, upgrade it, or leave it; wait until it is ready.

        A failed upgrade goes back to what ran before; a failed installation leaves nothing.

        Args:
            release: what.
            timeout_seconds: helm's own limit.
            is_alone: no other deploy can be at work: what is pending was left behind, however young.

        Raises:
            ToolError: it did not become ready, or helm failed otherwise; with the end of what helm said.
            ConflictError: another helm is at work on it.
        """
        release = _located(release)
        history = self.history(release.name, release.namespace)
        digest = digest_of(release)
        if commands.holds(history, digest):
            return Outcome.UNCHANGED
        settled_seconds = 0 if is_alone else commands.overall_seconds(timeout_seconds)
        self._free(release.name, release.namespace, history, settled_seconds)
        with self._values(release.values) as values:
            arguments = commands.upgrade_arguments(
                release, self.version, values=values, timeout_seconds=timeout_seconds, digest=digest
            )
            done = self._run(arguments, timeout_seconds=commands.overall_seconds(timeout_seconds))
        _output(done, f"install {release.name}", release.namespace)
        ran = any(revision.was_good for revision in history)
        return Outcome.UPGRADED if ran else Outcome.INSTALLED

    def uninstall(self, name: str, namespace: str, *, timeout_seconds: int = UPGRADE_SECONDS) -> bool:
        """Uninstall a release, in whatever state, and wait until what it made is gone.

        Returns:
            Whether it was there.
        """
        if not self.history(name, namespace):
            return False
        arguments = commands.uninstall_arguments(name, namespace, timeout_seconds=timeout_seconds)
        done = self._run(arguments, timeout_seconds=timeout_seconds + QUICK_SECONDS)
        _output(done, f"uninstall {name}", namespace)
        return True

    def template(self, release: Release, *, kubernetes_version: str) -> str:
        """Render a release's manifests without a cluster, as YAML documents."""
        release = _located(release)
        with self._values(release.values) as values:
            arguments = commands.template_arguments(
                release, values=values, kubernetes_version=kubernetes_version
            )
            done = self._run(arguments, timeout_seconds=QUICK_SECONDS)
        return _output(done, f"render {release.name}", release.namespace)

    def package(self, chart: Path, folder: Path) -> Path:
        """Pack a chart into an archive in a folder, and return the archive's path."""
        arguments = commands.package_arguments(chart.absolute(), folder.absolute())
        done = self._run(arguments, timeout_seconds=QUICK_SECONDS)
        return commands.read_packaged(_output(done, f"pack {chart}", ""))

    def index(self, folder: Path, url: str = "") -> Path:
        """Write `index.yaml` of the archives in a folder, for a web server, and return its path.

        Args:
            folder: holds the archives.
            url: where they will be, if not beside the index.
        """
        arguments = commands.index_arguments(folder.absolute(), url)
        _output(self._run(arguments, timeout_seconds=QUICK_SECONDS), f"index {folder}", "")
        return folder.absolute() / "index.yaml"

    def cancel(self) -> None:
        """End helm wherever it runs, politely, and start it no more; from any thread."""
        self._programs.cancel(STOP_SECONDS)

    def _free(self, name: str, namespace: str, history: Sequence[Revision], settled_seconds: float) -> None:
        """Free a release that is pending, see `helm_commands.remedy_for`."""
        if commands.is_fresh(history, self._now(), settled_seconds):
            raise ConflictError(
                f"another helm is at work on {name}: it is {history[-1].status} since "
                f"{history[-1].updated_at:%H:%M:%S} UTC",
                hint="wait for the other deploy to end, then run this one again",
            )
        remedy, revision = commands.remedy_for(history)
        match remedy:
            case Remedy.NONE:
                return
            case Remedy.UNINSTALL:
                self.uninstall(name, namespace)
            case Remedy.ROLLBACK:
                arguments = commands.rollback_arguments(
                    name, namespace, revision, timeout_seconds=QUICK_SECONDS
                )
                done = self._run(arguments, timeout_seconds=2 * QUICK_SECONDS)
                _output(done, f"roll {name} back to revision {revision}", namespace)

    @property
    def _private(self) -> Path:
        if self._folder is None:
            raise RuntimeError("a Helm is used inside its `with` block only")
        return self._folder

    @contextmanager
    def _values(self, values: Mapping[str, Any]) -> Iterator[Path]:
        """Write values into a private file for as long as helm reads it; JSON is YAML too."""
        with tempfile.TemporaryDirectory(dir=self._private, prefix="values-") as folder:
            path = Path(folder) / "values.yaml"
            replace_file(path, json.dumps(values))
            yield path

    def _run(self, arguments: Sequence[str], *, timeout_seconds: float) -> Finished:
        folder = self._private
        own = {name: str(folder / name.lower()) for name in _HELM_FOLDERS}
        own |= {"HELM_REGISTRY_CONFIG": str(folder / "registry.json")}
        # Without a cluster there is none to be reached by mistake, either.
        own |= {"KUBECONFIG": str(folder / "kubeconfig")}
        return self._programs.run(
            [str(self._program), *arguments],
            environment=child_environment(self._outer, own),
            timeout_seconds=timeout_seconds,
            grace_seconds=STOP_SECONDS,
            # A chart's name can never mean a folder of the user's.
            folder=folder,
        )


_HELM_FOLDERS: Final = (
    "HELM_CACHE_HOME",
    "HELM_CONFIG_HOME",
    "HELM_DATA_HOME",
    "HELM_PLUGINS",
    "KUBECACHEDIR",
)


def _output(done: Finished, action: str, namespace: str) -> str:
    """Return what helm printed.

    Raises:
        ToolError: it failed, or was ended.
        ConflictError: another helm is at work on the release.
    """
    if done.is_timed_out:
        raise ToolError(
            f"helm could not {action}: it did not end in time and was stopped",
            stderr_tail=done.stderr_tail, hint="is the cluster well? sdctl status",
        )  # fmt: skip
    if done.exit_code != 0:
        raise commands.failure(action, done.stderr_tail, namespace=namespace)
    return done.stdout
