"""Plan to rows, words and documents; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sdctl.clients.cloudformation import ResourceChange
from sdctl.deploy.estimates import critical_path
from sdctl.deploy.steps import Plan

Changes = Mapping[str, Sequence[ResourceChange]]
_NO_CHANGES: Final[Changes] = {}


def plan_rows(plan: Plan) -> list[dict[str, str]]:
    """Return one row a step: `action`, `kind`, `id`, `detail`."""
    return [{"action": step.action, "kind": step.kind, "id": step.id, "detail": step.detail} for step in plan]


def plan_document(plan: Plan, changes: Changes = _NO_CHANGES) -> dict[str, Any]:
    """Return the JSON of `deploy --plan`.

    `{"steps": [{"id", "kind", "action", "needs", "detail", "minutes", "changes": [{"resource", "type",
    "action", "replacement"}]}], "critical_path": [ids], "minutes"}`; `changes` is what CloudFormation says of
    an update, `replacement` is `true`, `false`, `conditional` or empty.
    """
    path, minutes = critical_path(plan)
    return {
        "steps": [
            {
                "id": step.id, "kind": step.kind, "action": step.action, "needs": list(step.needs),
                "detail": step.detail, "minutes": round(step.minutes, 1) if step.action != "none" else 0.0,
                "changes": [
                    {
                        "resource": one.resource, "type": one.type, "action": one.action,
                        "replacement": one.replacement,
                    }
                    for one in changes.get(step.id, ())
                ],
            }
            for step in plan
        ],
        "critical_path": list(path),
        "minutes": round(minutes, 1),
    }  # fmt: skip


def change_lines(plan: Plan, changes: Changes) -> list[str]:
    """Say what CloudFormation would change in each stack; replacements stand out."""
    lines: list[str] = []
    for step in plan:
        found = changes.get(step.id, ())
        lines += [f"{step.id}:"] if found else []
        for one in found:
            mark, words = "  ", one.action
            if one.replacement == "true":
                mark, words = "! ", "REPLACE"
            elif one.replacement == "conditional":
                mark, words = "! ", "may REPLACE"
            lines.append(f"  {mark}{words} {one.resource} ({one.type})")
    return lines


def summary(plan: Plan) -> str:
    """Say in one sentence how much a plan does, how long it takes, and what decides that."""
    if not plan.changes:
        return "Nothing to change: everything is as it is to be."
    counts = Counter(step.action for step in plan.changes)
    words = ", ".join(
        f"{counts[action]} to {action}" for action in ("create", "update", "delete") if counts[action]
    )
    path, minutes = critical_path(plan)
    return f"{words}; {in_words(minutes)}, decided by {' → '.join(path)}."


def in_words(minutes: float) -> str:
    """Say an expected duration, roughly."""
    return "less than a minute" if minutes < 1 else f"about {minutes:.0f} min"
