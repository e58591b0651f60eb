"""Runs checkov, a program with an environment of its own: its pins do not go with ours, and it is large."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def checkov_program() -> str | None:
    """Find checkov: `CHECKOV`, else the environment that `make test-full` makes, else the path."""
    own = ROOT / ".venv-checkov" / "bin" / "checkov"
    return os.environ.get("CHECKOV") or (str(own) if own.exists() else shutil.which("checkov"))


def failed_checks(
    program: str, templates: Mapping[str, Mapping[str, Any]], folder: Path
) -> set[tuple[str, str]]:
    """Check templates; returns (check id, `Type.LogicalId`) of all that fails.

    Args:
        program: checkov.
        templates: documents by a file name without suffix.
        folder: an empty folder.
    """
    for name, document in templates.items():
        (folder / f"{name}.json").write_text(json.dumps(document), encoding="utf-8")
    done = subprocess.run(
        [program, "-d", str(folder), "--framework", "cloudformation", "-o", "json", "--quiet", "--compact"],
        capture_output=True, text=True, timeout=300, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(folder), "BC_SKIP_MAPPING": "TRUE"},
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["summary"]["parsing_errors"] == 0
    assert report["summary"]["passed"] > 100
    return {(check["check_id"], check["resource"]) for check in report["results"]["failed_checks"]}
