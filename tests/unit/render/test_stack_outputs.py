"""Stacks and releases take from other stacks what those give."""

from __future__ import annotations

import pytest

from sdctl.render.stacks import outputs_in
from support.template_configs import CONFIGS, releases, stacks


@pytest.mark.parametrize("name", CONFIGS)
def test_what_a_stack_or_release_takes_from_another_stack_is_there(name: str) -> None:
    made = stacks(name)
    given = {stack.name: stack.template.document.get("Outputs", {}) for stack in made.values()}
    sources = [stack.parameters for stack in made.values()] + [one.values for one in releases(name)]
    # An image's digest is read from its registry.
    taken = [one for source in sources for one in outputs_in(source) if not one.stack.startswith("image ")]
    assert taken
    assert [one for one in taken if one.name not in given.get(one.stack, {})] == []
