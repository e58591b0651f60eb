"""`sdctl render --out` as a user runs it: a folder that stands alone, the same at every run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import yaml

from support.cli import run, run_process


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def contents(folder: str | Path) -> dict[str, bytes]:
    root = Path(folder)
    return {
        path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }


def test_two_runs_give_the_same_bytes_and_json_lists_every_one_of_them() -> None:
    first = run("render", "--out", "one", "-R", "us-west-2", "-o", "json")
    assert (first.code, first.stderr) == (0, "")
    assert run("render", "--out", "two", "-R", "us-west-2").code == 0
    assert contents("one") == contents("two")
    listed = {row["path"]: (row["sha256"], row["bytes"]) for row in first.document["files"]}
    assert listed == {
        path: (hashlib.sha256(content).hexdigest(), len(content)) for path, content in contents("one").items()
    }


def test_every_template_stands_alone() -> None:
    run("render", "--out", "out", "-R", "us-west-2")
    templates = list(Path("out/stacks").glob("*.yaml"))
    assert templates
    for path in templates:
        document = yaml.safe_load(path.read_bytes())
        assert document["AWSTemplateFormatVersion"] == "2010-09-09"
        rows = json.loads(path.with_suffix(".parameters.json").read_bytes())
        parameters = document.get("Parameters", {})
        asked_for = {name for name, parameter in parameters.items() if "Default" not in parameter}
        assert asked_for <= {row["ParameterKey"] for row in rows} <= set(parameters)


def test_it_needs_no_credentials_and_imports_no_client(tmp_path: Path) -> None:
    ran = run_process("render", "--out", "out", cwd=tmp_path, env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert ran.code == 0
    assert "sdctl.render.stacks" in ran.stderr
    assert "boto" not in ran.stderr
