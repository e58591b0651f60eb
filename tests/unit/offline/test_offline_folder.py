"""The rendered folder: replaced as a whole where it is ours, left alone where it is not."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from sdctl.errors import ConflictError, MachineError, UsageError
from sdctl.offline.folder import INDEX_FILE, write_folder

FILES = {"a.txt": b"one", "deep/er/b.txt": b"two"}


def contents(folder: Path) -> dict[str, bytes]:
    found = {
        one.relative_to(folder).as_posix(): one.read_bytes() for one in folder.rglob("*") if one.is_file()
    }
    return {path: content for path, content in found.items() if path != INDEX_FILE}


def beside(folder: Path) -> list[str]:
    return sorted(one.name for one in folder.parent.iterdir())


def test_a_folder_is_made_with_its_parents_and_holds_the_files_and_their_index(tmp_path: Path) -> None:
    folder = tmp_path / "some" / "where"
    written = write_folder(folder, FILES)
    assert contents(folder) == FILES
    assert [row.path for row in written] == ["a.txt", "deep/er/b.txt", INDEX_FILE]
    index = json.loads((folder / INDEX_FILE).read_bytes())
    assert [row["path"] for row in index["files"]] == ["a.txt", "deep/er/b.txt"]
    assert beside(folder) == ["where"]


def test_our_own_folder_is_replaced_and_what_is_stale_goes(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    write_folder(folder, FILES)
    (folder / "a.txt").write_bytes(b"edited")
    write_folder(folder, {"a.txt": b"new"})
    assert contents(folder) == {"a.txt": b"new"}
    assert not (folder / "deep").exists()
    assert beside(folder) == ["out"]


def test_an_empty_folder_is_taken_and_a_link_to_one_leads_there(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    write_folder(tmp_path / "link", FILES)
    write_folder(tmp_path / "link", {"a.txt": b"again"})
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == {"a.txt": b"again"}


@pytest.mark.parametrize(
    "index",
    [
        None,
        b"",
        b"[]",
        b"{}",
        b'{"made_by": "someone"}',
        b'{"made_by": "sdctl render"}',
        b"\xff",
        b"[" * 10_000,
    ],
)
def test_a_folder_that_we_did_not_write_stays_as_it_is(tmp_path: Path, index: bytes | None) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "me.jpg").write_bytes(b"jpg")
    if index is not None:
        (folder / INDEX_FILE).write_bytes(index)
    before = sorted(one.name for one in folder.iterdir())
    with pytest.raises(ConflictError, match="was not written by sdctl render"):
        write_folder(folder, FILES)
    assert sorted(one.name for one in folder.iterdir()) == before
    assert beside(folder) == ["photos"]


def add_file(folder: Path) -> None:
    (folder / "deep" / "mine.txt").write_text("mine")


def add_empty_folder(folder: Path) -> None:
    (folder / "deep" / "mine").mkdir()


def add_link(folder: Path) -> None:
    (folder / "mine").symlink_to("/")


@pytest.mark.parametrize("add", [add_file, add_empty_folder, add_link])
def test_what_somebody_put_into_our_folder_is_never_removed(tmp_path: Path, add: Any) -> None:
    folder = tmp_path / "out"
    write_folder(folder, FILES)
    add(folder)
    with pytest.raises(ConflictError, match=r"did not write: .*mine") as refused:
        write_folder(folder, {"a.txt": b"new"})
    assert refused.value.hint
    assert (folder / "a.txt").read_bytes() == b"one"


def test_a_link_in_the_place_of_the_index_proves_nothing(tmp_path: Path) -> None:
    write_folder(tmp_path / "ours", FILES)
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "a.txt").write_bytes(b"theirs")
    (folder / INDEX_FILE).symlink_to(tmp_path / "ours" / INDEX_FILE)
    with pytest.raises(ConflictError):
        write_folder(folder, FILES)
    assert (folder / "a.txt").read_bytes() == b"theirs"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConflictError, match="is a file"):
        write_folder(tmp_path / "file", FILES)


@pytest.mark.parametrize("path", [".", "..", "../.."])
def test_the_current_folder_and_what_is_around_it_are_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    here = tmp_path / "a" / "b"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    with pytest.raises(UsageError):
        write_folder(Path(path), FILES)


@pytest.mark.parametrize(
    "path",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\\b", "C:a", "a\0b", "a\nb", "a" * 256,
     "\ud800", "x/"],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="is no path inside the folder"):
        write_folder(tmp_path / "out", {"fine.txt": b"", path: b"x"})
    assert beside(tmp_path / "out") == []


def test_what_the_file_system_refuses_leaves_the_old_folder_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    write_folder(folder, FILES)
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if Path(source).name == "new":
            raise OSError(errno.EBUSY, "Device or resource busy", str(target))
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(MachineError, match="Device or resource busy"):
        write_folder(folder, {"a.txt": b"new"})
    assert contents(folder) == FILES
    assert beside(folder) == ["out"]


def test_a_parent_that_is_a_file_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(MachineError, match="cannot be written"):
        write_folder(tmp_path / "file" / "out", FILES)
