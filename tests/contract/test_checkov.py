"""checkov's findings in the templates are exactly those that are justified."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.checkov_run import checkov_program, failed_checks
from support.template_configs import config, stacks

JUSTIFIED: dict[str, dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "checkov_justified.yaml").read_text(encoding="utf-8")
)
CONFIGS = ("guide", "isolated", "everything", "tuner")


def test_every_justification_says_where_and_why() -> None:
    for check, entry in JUSTIFIED.items():
        assert set(entry) - {"with_key"} == {"resources", "why"}, check
        assert len(entry["why"]) > 40, check


@pytest.mark.full
@pytest.mark.parametrize("has_key", [False, True])
def test_checkov_finds_what_is_justified_and_nothing_else(tmp_path: Path, has_key: bool) -> None:
    program = checkov_program()
    if program is None:
        pytest.skip("checkov is not installed: make .venv-checkov/bin/checkov")
    templates = {
        f"{name}-{kind}": stack.template.document
        for name in CONFIGS
        if bool(config(name).kms_key_arn) == has_key
        for kind, stack in stacks(name).items()
    }
    expected = {
        (check, pattern)
        for check, entry in JUSTIFIED.items()
        for pattern in entry["resources"]
        if not has_key or entry.get("with_key", True)
    }
    found = failed_checks(program, templates, tmp_path)
    unjustified = {
        one
        for one in found
        if not any(check == one[0] and fnmatchcase(one[1], pattern) for check, pattern in expected)
    }
    assert unjustified == set()
    stale = {
        (check, pattern)
        for check, pattern in expected
        if not any(one[0] == check and fnmatchcase(one[1], pattern) for one in found)
    }
    assert stale == set()
