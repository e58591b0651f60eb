"""The list of models, the lock beside it, and where tokens are found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keyring
import pytest
from keyring.errors import KeyringLocked

from sdctl.clients.secrets import find_token
from sdctl.errors import ConfigError
from sdctl.models.manifest import Line, Locked, read_locks, read_manifest, write_locks

SHA = "0" * 64
LOCKED = Locked(Line("hf:who/what@main"), "hf:who/what/a.safetensors@0123", "Lora/a.safetensors", SHA, 7)


def lock(path: Path, **changes: Any) -> Path:
    write_locks(path, {LOCKED.line: [LOCKED]})
    document = json.loads(path.read_text())
    document["models"][0] |= changes
    path.write_text(json.dumps(document))
    return path


def test_a_lock_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_locks(lock(tmp_path / "models.lock")) == {LOCKED.line: (LOCKED,)}
    assert read_locks(tmp_path / "nothing.lock") == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"key": 7},
        {"sha256": "short"},
        {"size_bytes": "7"},
        {"line": {"source": 1}},
        {"more": 1},
        {"line": {}},
    ],
)
def test_a_damaged_lock_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="damaged"):
        read_locks(lock(tmp_path / "models.lock", **changes))


@pytest.mark.parametrize(
    ("source", "pinned", "is_of_it"),
    [
        ("hf:who/what", "hf:who/what/a@1", True), ("hf:who/what/a@v1", "hf:who/what/a@1", True),
        ("https://huggingface.co/who/what/tree/main/vae", "hf:who/what/vae/a.ckpt@1", True),
        ("civitai:7", "civitai:7", True), ("a.ckpt", "file:a.ckpt", True),
        ("https://example.com/a", "https://example.com/a", True),
        ("hf:who/what", "hf:evil/what/a.ckpt@1", False), ("hf:who/what", "hf:who/whatever/a.ckpt@1", False),
        ("civitai:7", "civitai:77", False), ("civitai:7", "hf:who/what/a@1", False),
        ("a.ckpt", "hf:who/what/a.ckpt@1", False),
    ],
)  # fmt: skip
def test_a_lock_pins_the_source_of_its_line_and_no_other(
    tmp_path: Path, source: str, pinned: str, is_of_it: bool
) -> None:
    path = lock(tmp_path / "models.lock", pinned=pinned, line={"source": source})
    if is_of_it:
        assert read_locks(path)[Line(source)][0].pinned == pinned
    else:
        with pytest.raises(ConfigError, match="another source"):
            read_locks(path)


def test_a_list_that_repeats_itself_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text("models: &all\n  - *all\n")
    with pytest.raises(ConfigError, match="neither a source nor a map"):
        read_manifest(path)


def test_every_problem_of_a_list_is_told(tmp_path: Path) -> None:
    path = tmp_path / "models.yaml"
    path.write_text(
        "models:\n  - 7\n  - hf:a/b\n  - {source: hf:a/b, sha256: x, too: y}\n  - {name: 3}\nmore: 1\n"
    )
    with pytest.raises(ConfigError) as raised:
        read_manifest(path)
    assert raised.value.message.splitlines()[1:] == [
        "  'more' is not one of models",
        "  models/0: 7 is neither a source nor a map with one",
        "  models/2: 'too' is not one of source, to, name, sha256",
        "  models/2/sha256: 'x' is no SHA-256: 64 hexadecimal digits",
        "  models/3/source: it is missing",
        "  models/3/name: 3 is not a text; put it in quotes",
    ]


def test_a_token_comes_from_the_environment_then_the_file_then_the_keyring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def kept(service: str, account: str) -> str:
        asked.append((service, account))
        return "from the keyring"

    monkeypatch.setattr(keyring, "get_password", kept)
    file = tmp_path / "token"
    file.write_text("from the file\n")
    names = ("FIRST", "SECOND")
    assert find_token({"SECOND": " two ", "FIRST": "  "}, names, "huggingface", file) == "two"
    assert find_token({}, names, "huggingface", file) == "from the file"
    assert asked == []
    assert find_token({}, names, "huggingface", tmp_path / "none") == "from the keyring"
    assert asked == [("sdctl", "huggingface")]


def test_a_keyring_that_is_locked_has_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(_service: str, _account: str) -> str:
        raise KeyringLocked

    monkeypatch.setattr(keyring, "get_password", locked)
    assert find_token({}, (), "civitai") == ""
