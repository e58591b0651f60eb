"""Configuration to the whole content of the rendered folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sdctl.config.model import Config
from sdctl.deploy.steps import Plan, ReleaseStep, StackStep
from sdctl.offline.files import Sent, Where, offline_plan, placeholders, policy_files, step_files
from sdctl.offline.index import plan_json, readme
from sdctl.offline.text import to_json


@dataclass(frozen=True, slots=True)
class Rendering:
    """Contents by path, the placeholders in them with their meanings, and what is to be told besides."""

    files: Mapping[str, bytes]
    placeholders: Mapping[str, str]
    notes: tuple[str, ...]


def render_all(
    config: Config, where: Where, *, target: str, home: Path, environment: Mapping[str, str]
) -> Rendering:
    """Render everything that a deploy into an empty account sends.

    Args:
        config: the configuration.
        where: region and account, as far as they are known.
        target: `aws` or `local`, where nobody needs a policy.
        home: the state folder, where an installed helm is.
        environment: in whose PATH another helm is looked for.

    Raises:
        ToolError: helm refuses the values of a release.
    """
    plan = offline_plan(config, where, target=target)
    sent = {step.id: step_files(step) for step in plan}
    notes = [] if where.region else ["no region is set: ${region} stands for it, in the partition aws"]
    notes += _add_manifests(plan, sent, home, environment)
    files = {path: content for of_step in sent.values() for path, content in of_step.items()}
    if target == "aws":
        files |= policy_files(config, where, plan)
    named = placeholders((content for path, content in files.items() if not path.endswith(".zip")), plan)
    head = {"stack_name": config.stack_name, "region": where.region or None, "target": target}
    steps = [Sent(step, sent[step.id]) for step in plan]
    files["plan.json"] = to_json(plan_json(head, steps, named))
    files["README.md"] = readme(config.stack_name, steps, named, notes)
    return Rendering(files, named, tuple(notes))


def _add_manifests(
    plan: Plan, sent: Mapping[str, dict[str, bytes]], home: Path, environment: Mapping[str, str]
) -> list[str]:
    """Add what helm makes of the charts that are on this machine; return what is to be told of it."""
    releases = {
        step.id: step.release
        for step in plan
        if isinstance(step, ReleaseStep) and step.release.chart.is_local
    }
    if not releases:
        return []
    from sdctl.offline.manifests import manifest_files

    [version] = [
        str(step.parameters["KubernetesVersion"])
        for step in plan
        if isinstance(step, StackStep) and step.id == "cluster"
    ]
    found, note = manifest_files(releases, kubernetes_version=version, home=home, environment=environment)
    for step_id, files in found.items():
        sent[step_id].update(files)
    return [note]
