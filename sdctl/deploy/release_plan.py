"""The Helm releases of a plan: what each needs, and whether the cluster runs it already; pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from sdctl.config.model import Config
from sdctl.deploy.context import Outputs
from sdctl.deploy.estimates import RELEASE_MINUTES
from sdctl.deploy.observed import ClusterFinds
from sdctl.deploy.observed_releases import ReleaseView
from sdctl.deploy.steps import Action, ReleaseStep
from sdctl.errors import NotFoundError
from sdctl.releases import Chart, Release
from sdctl.render.charts import ClusterFacts, third_party_releases
from sdctl.render.runtime_values import RuntimeFacts, runtime_release
from sdctl.render.stacks import resolve

PREFIX: Final = "release-"
# What is installed for all runtimes, with or without an option.
SHARED: Final = ("karpenter-crd", "karpenter", "keda", "dcgm-exporter")
# Beside the cluster: CRDs before what brings objects of them, and the role that spot nodes need.
_RUNTIME_NEEDS: Final = ("release-karpenter", "release-keda")
_NEEDS: Final[Mapping[str, tuple[str, ...]]] = {
    "karpenter": ("release-karpenter-crd", "spot-role"),
}


def plan_releases(
    config: Config, facts: RuntimeFacts, finds: ClusterFinds, outputs: Outputs
) -> list[ReleaseStep]:
    """Plan the releases that the configuration wants, and the end of those that moved to another namespace.

    Args:
        config: what is wanted.
        facts: what the runtimes' values need besides.
        finds: what the cluster has.
        outputs: what the stacks gave so far.
    """
    wanted = [
        (release, ("cluster", *_NEEDS.get(release.name, ())))
        for release in third_party_releases(config, ClusterFacts.of(config))
    ]
    wanted += [
        (runtime_release(config, runtime, facts), (f"runtime-{runtime.name}", *_RUNTIME_NEEDS))
        for runtime in config.runtimes
    ]
    views = {(view.namespace, view.name): view for view in finds.releases or ()}
    steps = []
    for release, needs in wanted:
        view = views.get((release.namespace, release.name))
        if finds.releases is None:
            action: Action = "update"
            detail = f"{_described(release, view)}: unknown, {finds.problem}"
        else:
            action, detail = _action(release, view, outputs), _described(release, view)
        steps.append(
            ReleaseStep(
                id=f"{PREFIX}{release.name}", action=action, needs=needs, detail=detail,
                minutes=RELEASE_MINUTES, release=release,
            )
        )  # fmt: skip
    namespaces = {runtime.name: runtime.namespace for runtime in config.runtimes}
    for view in views.values():
        if namespaces.get(view.name, view.namespace) != view.namespace:
            # Before its successor, which would fight it over the volume that both name.
            step_id = f"{PREFIX}{view.name}-in-{view.namespace}"
            steps.append(removed_release(view, step_id))
            number = next(i for i, step in enumerate(steps) if step.id == f"{PREFIX}{view.name}")
            steps[number] = replace(steps[number], needs=(*steps[number].needs, step_id))
    return steps


def removed_release(view: ReleaseView, step_id: str = "", needs: Iterable[str] = ()) -> ReleaseStep:
    """Plan the end of a release that is not wanted any more."""
    return ReleaseStep(
        id=step_id or f"{PREFIX}{view.name}",
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
        wanted = replace(release, values=resolve(release.values, outputs))
    except NotFoundError:  # of a stack that is not there, or not yet what it will be
        return "update"
    return "none" if view.holds(wanted) else "update"


def _described(release: Release, view: ReleaseView | None) -> str:
    name = release.chart.reference.rstrip("/").rpartition("/")[2]
    version = release.chart.version
    if view is not None and view.chart_version != version and version:
        return f"{name} {view.chart_version} → {version} in {release.namespace}"
    return f"{name} {version}".rstrip() + f" in {release.namespace}"
