"""The local target's checks: each rule's pass, warn and fail."""

from __future__ import annotations

from typing import Any

import pytest

from sdctl.doctor.local import satisfies
from sdctl.reads import Unknown
from support.doctor import judged_locally

GIB = 1024**3


def test_on_a_machine_that_has_all_everything_passes() -> None:
    checks = judged_locally()
    assert {check.result for check in checks.values()} == {"pass"}
    assert "ministack 1.5.33" in checks["packages"].found


@pytest.mark.parametrize(
    ("changes", "check", "result", "said"),
    [
        ({"packages": {"ministack": ("==1.5.33", "")}}, "packages", "fail", "not installed: ministack"),
        ({"packages": {"ministack": ("==1.5.33", "1.5.34")}}, "packages", "fail", "==1.5.33 is wanted"),
        ({"packages": {"pillow": (">=11", "10.4.0")}}, "packages", "fail", "pillow 10.4.0"),
        ({"packages": Unknown("no metadata")}, "packages", "warn", "no metadata"),
        ({"is_home_writable": False}, "state-folder", "fail", "cannot be written"),
        ({"free_bytes": GIB}, "disk", "warn", "1.0 GiB"),
        ({"free_bytes": GIB // 8}, "disk", "fail", "0.1 GiB"),
        ({"can_listen": False}, "ports", "fail", "127.0.0.1"),
        ({"port": 4566, "is_port_free": False}, "ports", "warn", "4566"),
        ({"port": 4566, "is_port_free": False, "is_running": True}, "ports", "pass", "running"),
        ({"port": 4566}, "ports", "pass", "is free"),
        ({"open_files": 256}, "file-limit", "warn", "256"),
        ({"open_files": None}, "file-limit", "pass", "no limit"),
    ],
)
def test_local_rules(changes: dict[str, Any], check: str, result: str, said: str) -> None:
    found = judged_locally(**changes)[check]
    assert found.result == result
    assert said in found.found
    assert bool(found.fix) == (result != "pass")


def test_on_windows_only_that_is_said() -> None:
    checks = judged_locally(system="Windows")
    assert list(checks) == ["system"]
    assert checks["system"].result == "fail"


@pytest.mark.parametrize(
    ("installed", "wanted", "is_met"),
    [("2.0.1", ">=2", True), ("2", ">=2.1", False), ("1.5.33", "==1.5.33", True),
     ("1.5.3", "==1.5.33", False), ("3.1", ">=2,<4", True), ("1.0", "", True)],
)  # fmt: skip
def test_requirements_compare_as_numbers(installed: str, wanted: str, is_met: bool) -> None:
    assert satisfies(installed, wanted) is is_met
