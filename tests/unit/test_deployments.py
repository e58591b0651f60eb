"""The record of what was deployed from where."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from sdctl.deployments import Deployment, Deployments, home
from sdctl.errors import ConfigError


def deployment(folder: Path, **fields: Any) -> Deployment:
    given = {"stack_name": "s", "region": "r", "target": "local", "outputs": {"a": "b"}, "api_key": "secret"}
    return Deployment(**{**given, "folder": str(folder), **fields})


def test_a_record_comes_back_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    records = Deployments(tmp_path / "home")
    one = deployment(tmp_path, runtimes={"a": "sdwebui"}, deployed_at="2026-01-01T00:00:00Z")
    records.record(one)
    assert records.find(folder=tmp_path) == one
    assert "secret" not in repr(one)
    if os.name == "posix":
        (path,) = (tmp_path / "home/deployments").iterdir()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_deploying_again_replaces_the_record(tmp_path: Path) -> None:
    records = Deployments(tmp_path)
    records.record(deployment(tmp_path, outputs={"a": "1"}))
    records.record(deployment(tmp_path, outputs={"a": "2"}))
    assert [one.outputs for one in records.all()] == [{"a": "2"}]
    records.forget(deployment(tmp_path))
    records.forget(deployment(tmp_path))
    assert records.all() == []


def test_the_folders_last_deployment_comes_before_the_only_one(tmp_path: Path) -> None:
    records = Deployments(tmp_path)
    here, there = tmp_path / "here", tmp_path / "there"
    records.record(deployment(there, stack_name="far", deployed_at="3"))
    assert records.find(folder=here) is not None
    records.record(deployment(here, stack_name="old", deployed_at="1"))
    records.record(deployment(here, stack_name="new", deployed_at="2"))
    found = [records.find(folder=here, stack_name=name) for name in (None, "old", "far", "none")]
    assert [one and one.stack_name for one in found] == ["new", "old", "far", None]
    assert records.find(folder=tmp_path) is None
    assert records.find(folder=here, target="aws") is None


def test_the_same_stack_of_two_folders_is_two_on_this_machine_and_one_on_aws(tmp_path: Path) -> None:
    for target, count in (("local", 2), ("aws", 1)):
        records = Deployments(tmp_path / target)
        records.record(deployment(tmp_path / "a", target=target))
        records.record(deployment(tmp_path / "b", target=target))
        assert len(records.all()) == count


def test_a_damaged_record_is_named_and_unknown_fields_are_not_damage(tmp_path: Path) -> None:
    records = Deployments(tmp_path)
    records.record(deployment(tmp_path))
    (path,) = (tmp_path / "deployments").iterdir()
    text = path.read_text()
    path.write_text(text.replace('"stack_name"', '"later": 1, "stack_name"'))
    assert len(records.all()) == 1
    for damage in (text[:20], "[]", "{}"):
        path.write_text(damage)
        with pytest.raises(ConfigError, match=path.name):
            records.all()


def test_the_state_folder_comes_from_the_environment(tmp_path: Path) -> None:
    assert home({"SDCTL_HOME": str(tmp_path / "a")}) == tmp_path / "a"
    assert home({"XDG_STATE_HOME": str(tmp_path)}) == tmp_path / "sdctl"
    assert home({"HOME": str(tmp_path)}).is_relative_to(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        home({"SDCTL_HOME": str(tmp_path / "file/below")})
