"""The stacks of options in a plan: made beside the rest, and deleted when they are not chosen any more."""

from __future__ import annotations

from typing import Any

from sdctl.clients.cloudformation import StackView
from sdctl.config.model import Config
from sdctl.deploy.bundle import Bundle
from sdctl.deploy.observed import Observed
from sdctl.deploy.planner import plan_deploy
from sdctl.deploy.steps import StackStep
from sdctl.render.stacks import code_parameters

BUNDLES = {name: Bundle(name, "", b"", "0" * 64) for name in code_parameters().values()}


def option_steps(stacks: dict[str, StackView] | None = None, **document: Any) -> dict[str, StackStep]:
    observed = Observed("123456789012", "us-west-2", "assets", "models", stacks=stacks or {})
    made = plan_deploy(Config.model_validate(document), observed, target="aws", bundles=BUNDLES)
    return {
        step.id: step for step in made.steps if isinstance(step, StackStep) and step.id in ("budget", "tuner")
    }


def test_a_chosen_option_is_made_beside_the_rest() -> None:
    assert option_steps() == {}
    made = option_steps(ebsThroughputTuner={}, budget={"monthlyAmount": 5, "email": "me@example.com"})
    assert {name: (step.action, step.needs) for name, step in made.items()} == {
        "budget": ("create", ()), "tuner": ("create", ()),
    }  # fmt: skip


def test_an_option_that_is_not_chosen_any_more_is_deleted() -> None:
    there = {"sdoneks-tuner": StackView("sdoneks-tuner", "arn", "CREATE_COMPLETE")}
    made = option_steps(there)
    assert {name: (step.action, step.name) for name, step in made.items()} == {
        "tuner": ("delete", "sdoneks-tuner")
    }
