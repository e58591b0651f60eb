"""The reduced proof of every test run: `make chaos` is the full one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from chaos.run import run


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_whatever_fails_every_task_has_one_end_one_set_of_files_and_its_notification(tmp_path: Path) -> None:
    seed = int(os.environ.get("CHAOS_SEED", "20261"))
    assert run(500, seed, tmp_path, deadline_seconds=400) == []
