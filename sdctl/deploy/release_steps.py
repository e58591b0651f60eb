"""Carrying out a release's step: helm against the deployment's own cluster, opened when first needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Final

from sdctl.clients.aws import Aws
from sdctl.clients.cluster_access import find_cluster
from sdctl.clients.helm import Helm
from sdctl.clients.kubeconfig import cluster_config
from sdctl.clients.registries import ecr_login, is_ecr
from sdctl.deploy.context import StepContext
from sdctl.deploy.steps import ReleaseStep
from sdctl.errors import ToolError
from sdctl.releases import Chart
from sdctl.render.stacks import resolve

# A runtime's first pod may wait for a node, a large image and its models.
INSTALL_SECONDS: Final = 900


class Releases:
    """Installs and uninstalls the releases of one deployment; a context manager, safe between threads."""

    def __init__(
        self, aws: Aws, stack_name: str, helm: Path, *, environment: Mapping[str, str],
        charts: Iterable[Chart] = (),
    ) -> None:  # fmt: skip
        """Take what helm is run with; nothing is read or sent yet.

        Args:
            aws: the session.
            stack_name: the deployment, whose name the cluster has.
            helm: the program.
            environment: of which helm sees what it needs.
            charts: what will be installed: private registries of them are signed in to.
        """
        self._aws = aws
        self._stack_name = stack_name
        self._program = helm
        self._environment = environment
        self._registries = sorted({host for chart in charts if is_ecr(host := chart.registry)})
        self._resources = ExitStack()
        self._helm: Helm | None = None
        self._lock = Lock()
        self._is_cancelled = False

    def __enter__(self) -> Releases:
        return self

    def __exit__(self, *_: object) -> None:
        self._resources.close()

    def carry_out(self, step: ReleaseStep, context: StepContext) -> None:
        """Bring a release to what its step says, and wait until it is ready, or gone.

        Raises:
            ToolError: helm failed, with the end of what it said.
            ConflictError: another helm is at work on it.
        """
        helm, release = self._opened(), step.release
        if step.action == "delete":
            helm.uninstall(release.name, release.namespace)
            return
        wanted = replace(release, values=resolve(release.values, context.outputs))
        # The deploy's lock says that nobody else is at it.
        helm.install(wanted, timeout_seconds=INSTALL_SECONDS, is_alone=True)

    def cancel(self) -> None:
        """End helm politely wherever it runs, and start it no more; from any thread."""
        with self._lock:
            self._is_cancelled = True
            helm = self._helm
        if helm is not None:
            helm.cancel()

    def _opened(self) -> Helm:
        with self._lock:
            if self._is_cancelled:
                raise ToolError("helm was not started: cancelled")
            if self._helm is None:
                access = find_cluster(self._aws, self._stack_name)
                logins = [ecr_login(self._aws, host) for host in self._registries]
                helm = Helm(
                    self._program, environment=self._environment, kubeconfig=cluster_config(access),
                    logins=logins,
                )  # fmt: skip
                self._helm = self._resources.enter_context(helm)
            return self._helm
