"""`sdctl init`: the annotated configuration and its schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from sdctl.config.load import Overrides, load_config
from support.cli import run


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_a_file_that_loads(folder: Path) -> None:
    ran = run("init", "-o", "json")
    assert (ran.code, ran.document) == (0, {"path": "sdctl.yaml"})
    assert load_config(folder / "sdctl.yaml", Overrides(), {}).config.stack_name == "sdoneks"


def test_init_takes_the_stacks_name_and_the_files(folder: Path) -> None:
    assert run("-n", "my-farm", "-c", "other.yaml", "init").stdout == "other.yaml\n"
    assert load_config(folder / "other.yaml", Overrides(), {}).config.stack_name == "my-farm"


def test_init_does_not_overwrite_without_yes(folder: Path) -> None:
    (folder / "sdctl.yaml").write_text("mine")
    ran = run("init", "-o", "json")
    assert (ran.code, ran.error["code"]) == (2, "usage")
    assert (folder / "sdctl.yaml").read_text() == "mine"
    assert run("init", "--yes").code == 0
    assert (folder / "sdctl.yaml").read_text() != "mine"


def test_a_folder_that_cannot_be_written_is_a_configuration_error() -> None:
    assert run("init", "-c", "no/such/folder/sdctl.yaml").code == 3


def test_the_schema_is_json_as_text_too(folder: Path) -> None:
    for words in (["init", "--schema"], ["init", "--schema", "-o", "json"]):
        schema = run(*words).document
        assert schema["type"] == "object"
        assert "modelsRuntime" in schema["properties"]
    assert list(folder.glob("*.yaml")) == []
