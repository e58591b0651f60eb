"""checkov's findings in the chart's manifests are at most three, each justified in the template."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from support import chart
from support.checkov_run import checkov_program

MOST = 3
# What an example chooses for itself.
CHOSEN = {("own-cluster", "CKV_K8S_22"), ("guide", "CKV_K8S_14")}


def justified() -> dict[str, str]:
    """Read check and reason from the comment in the Deployment's template."""
    text = (chart.CHART / "templates" / "deployment.yaml").read_text(encoding="utf-8")
    return dict(re.findall(r"^(CKV\w+): (.+)$", text, re.MULTILINE))


def test_no_more_is_justified_than_may_be_found() -> None:
    assert 0 < len(justified()) <= MOST


@pytest.mark.full
def test_checkov_finds_what_is_justified_and_nothing_else(tmp_path: Path) -> None:
    program = checkov_program()
    if program is None:
        pytest.skip("checkov is not installed: make .venv-checkov/bin/checkov")
    for name in chart.CI:
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump_all(chart.render_ci(name)), encoding="utf-8")
    done = subprocess.run(
        [program, "-d", str(tmp_path), "--framework", "kubernetes", "-o", "json", "--quiet", "--compact"],
        capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "BC_SKIP_MAPPING": "TRUE"},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 50 * len(chart.CI)
    found = {
        (Path(check["file_path"]).stem, check["check_id"]) for check in report["results"]["failed_checks"]
    }
    assert {check for name, check in found - CHOSEN} == set(justified())
    for name in chart.CI:
        assert len([check for of, check in found if of == name]) <= MOST
