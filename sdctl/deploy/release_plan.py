"""The Helm releases of a plan: what each needs, and whether the cluster runs it already; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from sdctl.config.model import Config
from sdctl.deploy.context import Outputs
from sdctl.deploy.estimates import RELEASE_MINUTES
from sdctl.deploy.observed_releases import ReleaseView
from sdctl.deploy.steps import Action, ReleaseStep
from sdctl.errors import NotFoundError
from sdctl.releases import Chart, Release
from sdctl.render.charts import ClusterFacts, third_party_releases
from sdctl.render.stacks import resolve

PREFIX: Final = "release-"
# What is installed for all runtimes, with or without an option.
SHARED: Final = ("karpenter-crd", "karpenter", "keda", "dcgm-exporter")
# Beside the cluster: CRDs before what brings objects of them, and the role that spot nodes need.
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "karpenter": ("release-karpenter-crd", "spot-role"),
}


def plan_releases(
    config: Config, releases: tuple[ReleaseView, ...] | None, problem: str, outputs: Outputs
) -> list[ReleaseStep]:
    """Plan the releases that the configuration wants.

    Args:
        config: what is wanted.
        releases: what the cluster has; None where it cannot be asked.
        problem: why it cannot.
        outputs: what the stacks gave so far.
    """
    views = {(view.namespace, view.name): view for view in releases or ()}
    steps = []
    for release in third_party_releases(config, ClusterFacts.of(config)):
        view = views.get((release.namespace, release.name))
        action = _action(release, view, outputs) if releases is not None else "update"
        detail = _described(release, view) if releases is not None else f"{release.name}: unknown, {problem}"
        needs = ("cluster", *_NEEDS.get(release.name, ()))
        steps.append(
            ReleaseStep(
                id=f"{PREFIX}{release.name}", action=action, needs=needs, detail=detail,
                minutes=RELEASE_MINUTES, release=release,
            )
        )  # fmt: skip
    return steps


def removed_release(view: ReleaseView, needs: Iterable[str] = ()) -> ReleaseStep:
    """Plan the end of a release that is not wanted any more."""
    return ReleaseStep(
        id=f"{PREFIX}{view.name}",
        action="delete",
        needs=tuple(needs),
        detail=f"{view.chart} {view.chart_version} in {view.namespace}",
        minutes=RELEASE_MINUTES,
        release=Release(view.name, view.namespace, Chart(view.chart, view.chart_version)),
    )


def _action(release: Release, view: ReleaseView | None, outputs: Outputs) -> Action:
    if view is None:
        return "create"
    try:
        wanted = Release(
            release.name, release.namespace, release.chart, resolve(release.values, outputs),
            release.skip_crds,
        )  # fmt: skip
    except NotFoundError:  # of a stack that is not there, or not yet what it will be
        return "update"
    return "none" if view.holds(wanted) else "update"


def _described(release: Release, view: ReleaseView | None) -> str:
    name = release.chart.reference.rstrip("/").rpartition("/")[2]
    version = release.chart.version
    if view is not None and view.chart_version != version and version:
        return f"{name} {view.chart_version} → {version} in {release.namespace}"
    return f"{name} {version}".rstrip() + f" in {release.namespace}"
