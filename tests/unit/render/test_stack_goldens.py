"""The stacks of three configurations, as they were reviewed; `UPDATE_GOLDEN=1` writes the files anew.

The templates of front and runtimes are the same in every partition, and have golden files of their own.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from sdctl.render.stacks import Output
from support.template_configs import stacks

GOLDEN = Path(__file__).parents[2] / "golden"
CASES = {"guide": ("guide", "aws"), "everything": ("everything", "aws"), "china": ("isolated", "aws-cn")}


def is_neutral(kind: str) -> bool:
    return kind == "front" or kind.startswith("runtime-")


def expected_files(case: str) -> dict[str, str]:
    """Every template by its file name, and what each stack is given."""
    made = stacks(*CASES[case])
    given = {
        kind: {
            "name": stack.name,
            "parameters": {
                name: value.placeholder if isinstance(value, Output) else value
                for name, value in stack.parameters.items()
            },
            "tags": dict(stack.tags),
        }
        for kind, stack in made.items()
    }
    files = {f"{kind}.yaml": stack.template.text for kind, stack in made.items() if not is_neutral(kind)}
    return files | {"stacks.yaml": yaml.safe_dump(given, sort_keys=False)}


@pytest.mark.parametrize("case", CASES)
def test_the_rendering_is_the_one_that_was_reviewed(case: str) -> None:
    folder, files = GOLDEN / case, expected_files(case)
    if os.environ.get("UPDATE_GOLDEN"):
        folder.mkdir(exist_ok=True)
        for path in folder.glob("*.yaml"):
            path.unlink()
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    assert {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.yaml")} == files


def test_front_and_runtimes_are_the_same_in_every_partition() -> None:
    for kind, stack in stacks("isolated", "aws-cn").items():
        if is_neutral(kind):
            assert stack.template.text == stacks("isolated")[kind].template.text
