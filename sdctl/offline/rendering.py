"""Configuration to the whole content of the rendered folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sdctl.config.model import Config
from sdctl.offline.files import Sent, Where, offline_plan, placeholders, policy_files, step_files
from sdctl.offline.index import plan_json, readme
from sdctl.offline.text import to_json


@dataclass(frozen=True, slots=True)
class Rendering:
    """Contents by path, the placeholders in them with their meanings, and what is to be told besides."""

    files: Mapping[str, bytes]
    placeholders: Mapping[str, str]
    notes: tuple[str, ...]


def render_all(config: Config, where: Where, *, target: str) -> Rendering:
    """Render everything that a deploy into an empty account sends.

    Args:
        config: the configuration.
        where: region and account, as far as they are known.
        target: `aws` or `local`, where nobody needs a policy.
    """
    plan = offline_plan(config, where, target=target)
    files: dict[str, bytes] = {}
    sent = []
    for step in plan.steps:
        of_step = step_files(step)
        files |= of_step
        sent.append(Sent(step, tuple(of_step)))
    if target == "aws":
        files |= policy_files(config, where)
    notes: list[str] = []
    if not where.region:
        notes.append("no region is set: ARNs hold ${region}, and names are those of the partition aws")
    named = placeholders((content for path, content in files.items() if not path.endswith(".zip")), plan)
    head = {"stack_name": config.stack_name, "region": where.region or None, "target": target}
    files["plan.json"] = to_json(plan_json(head, sent, named))
    files["README.md"] = readme(config.stack_name, sent, named, notes)
    return Rendering(files, named, tuple(notes))
