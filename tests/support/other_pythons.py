"""Runs the unit tests on every other Python from 3.11 that this machine has: `make test-pythons`."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def interpreters() -> dict[str, str]:
    """Find one working interpreter a minor version: on the PATH, and where pyenv keeps them."""
    candidates = [shutil.which(f"python3.{minor}") for minor in range(11, 20)]
    candidates += map(str, sorted(Path.home().glob(".pyenv/versions/3.*/bin/python")))
    found: dict[str, str] = {}
    for candidate in filter(None, candidates):
        asked = subprocess.run(
            [candidate, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        version = asked.stdout.strip()
        if asked.returncode == 0 and re.fullmatch(r"3\.1[1-9]", version):
            found.setdefault(version, candidate)
    return found


def main() -> int:
    """Test each in an environment of its own; return the number that failed."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    failed = 0
    for version, python in sorted(interpreters().items()):
        if version == own:
            continue
        print(f"Python {version}: {python}", flush=True)
        with tempfile.TemporaryDirectory(prefix="sdctl-python.") as folder:
            subprocess.run([python, "-m", "venv", folder], check=True)
            inside = f"{folder}/bin/python"
            pip = [inside, "-m", "pip", "--disable-pip-version-check", "-q", "install"]
            subprocess.run([*pip, "-e", f"{ROOT}[dev]"], check=True)
            done = subprocess.run([inside, "-m", "pytest", "-q", "tests/unit"], cwd=ROOT, check=False)
            failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
