"""Plan to rows and documents: the executor of a dry run."""

from __future__ import annotations

from typing import Any

from sdctl.deploy.steps import Plan


def plan_rows(plan: Plan) -> list[dict[str, str]]:
    """Return one row a step: `action`, `kind`, `id`, `detail`."""
    return [
        {"action": step.action, "kind": step.kind, "id": step.id, "detail": step.detail}
        for step in plan.steps
    ]


def plan_document(plan: Plan) -> dict[str, Any]:
    """Return the JSON of `deploy --plan`: `{"steps": [{"id", "kind", "action", "needs"}]}`."""
    return {
        "steps": [
            {"id": step.id, "kind": step.kind, "action": step.action, "needs": list(step.needs)}
            for step in plan.steps
        ]
    }
