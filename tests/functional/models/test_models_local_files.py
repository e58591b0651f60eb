"""Files and folders into the bucket, as a user brings them."""

from __future__ import annotations

import base64
import hashlib
import json
import pickle
import zlib
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from functional.models.conftest import PART, Desk
from support import cli
from support.model_files import KINDS, kind, torch_pickle, torch_zip

LARGE = 2 * PART + 1000  # three parts


def write(path: str, data: bytes) -> Path:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)
    return Path(path)


def test_a_file_lands_in_the_folder_of_its_kind_with_what_is_known_of_it(desk: Desk) -> None:
    data = kind("sd1")
    write("sd.safetensors", data)
    (row,) = desk.upload("sd.safetensors")["models"]
    assert (row["action"], row["key"]) == ("uploaded", "Stable-diffusion/sd.safetensors")
    stored = desk.client.head_object(
        Bucket=desk.bucket, Key="Stable-diffusion/sd.safetensors", ChecksumMode="ENABLED"
    )
    sha256 = hashlib.sha256(data).hexdigest()
    assert stored["Metadata"]["sha256"] == row["sha256"] == sha256
    assert stored["Metadata"]["model-type"] == "checkpoint"
    assert stored["Metadata"]["base-model"] == "SD1"
    assert stored["ChecksumCRC32"] == base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()
    assert desk.body("Stable-diffusion/sd.safetensors") == data


def test_a_file_of_several_parts_arrives_whole_and_with_its_hash(desk: Desk) -> None:
    data = kind("sdxl", fill_bytes=LARGE)
    write("xl.safetensors", data)
    (row,) = desk.upload("xl.safetensors")["models"]
    assert desk.body(row["key"]) == data
    assert desk.objects.look(row["key"]).metadata["sha256"] == hashlib.sha256(data).hexdigest()  # type: ignore[union-attr]
    assert row["checksum"].endswith("-2")
    assert desk.unfinished() == []


@pytest.mark.parametrize(
    ("file", "data", "key"),
    [
        ("from-civitai", kind("sd1"), "Stable-diffusion/from-civitai.safetensors"),
        ("v1.5 pruned", torch_zip(torch_pickle(KINDS["sd1"])), "Stable-diffusion/v1.5 pruned.ckpt"),
        ("wrong.ckpt", kind("sd1"), "Stable-diffusion/wrong.safetensors"),
        ("4x.pth", torch_zip(torch_pickle(KINDS["esrgan"])), "ESRGAN/4x.pth"),
        ("模型.safetensors", kind("lora-flux"), "Lora/模型.safetensors"),
    ],
)
def test_a_name_gets_the_suffix_of_its_content(desk: Desk, file: str, data: bytes, key: str) -> None:
    write(file, data)
    assert [row["key"] for row in desk.upload(file)["models"]] == [key]
    assert desk.keys() == [key]


def test_the_folder_and_the_name_may_be_given(desk: Desk) -> None:
    write("x.safetensors", kind("unknown"))
    refused = desk.run("upload", "x.safetensors", "-o", "json")
    assert (refused.code, "--to" in refused.error["hint"]) == (2, True)
    desk.upload("x.safetensors", "--to", "lora/mine", "--name", "y")
    assert desk.keys() == ["Lora/mine/y.safetensors"]


@pytest.mark.parametrize("to", ["../up", "a/../b", "..", "/", "a\\b", ".sdctl"])
def test_a_folder_that_leads_elsewhere_is_refused(desk: Desk, to: str) -> None:
    write("x.safetensors", kind("sd1"))
    assert desk.run("upload", "x.safetensors", "--to", to).code == 2
    assert desk.keys() == []


def test_a_folders_tree_is_kept_and_what_lies_outside_of_it_is_sorted_in(desk: Desk) -> None:
    write("tree/Stable-diffusion/sub/a.safetensors", kind("sd1", seed=b"a"))
    write("tree/Stable-diffusion/sub/a.yaml", b"model: {}\n")
    write("tree/Lora/b.safetensors", kind("lora-sd1"))
    write("tree/c.safetensors", kind("vae"))
    write("tree/downloads/d.safetensors", kind("flux"))
    write("tree/.cache/e.safetensors", kind("sd2"))
    write("tree/notes.md", b"nothing")
    desk.upload("tree")
    assert desk.keys() == [
        "Lora/b.safetensors", "Stable-diffusion/d.safetensors", "Stable-diffusion/sub/a.safetensors",
        "Stable-diffusion/sub/a.yaml", "VAE/c.safetensors",
    ]  # fmt: skip


def test_of_any_other_folder_the_models_are_brought_whatever_they_are_called(desk: Desk) -> None:
    write("downloads/from-civitai", kind("lora-sd1"))
    write("downloads/v1.5", kind("sd1"))
    write("downloads/old one", torch_zip(torch_pickle(KINDS["vae"])))
    write("downloads/LICENSE", b"Take it, it is yours.")
    write("downloads/config.json", b"{}")
    write("downloads/README.txt", b"Read me.")
    write("downloads/other.zip", torch_zip(b""))
    desk.upload("downloads")
    assert desk.keys() == [
        "Lora/from-civitai.safetensors", "Stable-diffusion/v1.5.safetensors", "VAE/old one.ckpt",
    ]  # fmt: skip


def test_a_folder_of_the_tree_may_be_given_by_itself(desk: Desk) -> None:
    write("Lora/b.safetensors", kind("lora-sd1"))
    desk.upload("Lora")
    assert desk.keys() == ["Lora/b.safetensors"]


def test_a_model_in_the_wrong_folder_is_brought_with_a_warning(desk: Desk) -> None:
    write("VAE/b.safetensors", kind("lora-sd1"))
    (row,) = desk.upload("VAE")["models"]
    assert row["warning"] == "it is a lora, which belongs into Lora, and lies in VAE"


def test_the_same_file_again_is_kept_and_not_sent(desk: Desk) -> None:
    write("a.safetensors", kind("sd1", fill_bytes=LARGE))
    desk.upload("a.safetensors")
    before = desk.objects.look("Stable-diffusion/a.safetensors")
    assert [row["action"] for row in desk.upload("a.safetensors")["models"]] == ["kept"]
    assert desk.objects.look("Stable-diffusion/a.safetensors") == before


def test_the_same_content_under_another_name_is_copied_in_the_bucket(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = kind("sd1", fill_bytes=LARGE)
    write("a.safetensors", data)
    write("b.safetensors", data)
    desk.upload("a.safetensors")
    monkeypatch.setattr("sdctl.clients.objects.Objects.put_part", None)
    (row,) = desk.upload("b.safetensors")["models"]
    assert row["action"] == "copied"
    assert desk.body("Stable-diffusion/b.safetensors") == data
    assert desk.objects.look("Stable-diffusion/b.safetensors").metadata["sha256"] == row["sha256"]  # type: ignore[union-attr]
    assert {one["verdict"] for one in desk.run("verify", "-o", "json").document} == {"ok"}


def test_a_copy_of_more_than_s3_copies_at_once_goes_in_parts(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = kind("sd1", fill_bytes=LARGE)
    write("a.safetensors", data)
    write("b.safetensors", data)
    desk.upload("a.safetensors")
    monkeypatch.setattr("sdctl.clients.objects.MAX_COPY_BYTES", PART)
    monkeypatch.setattr("sdctl.clients.objects.COPY_PART_BYTES", PART)
    (row,) = desk.upload("b.safetensors")["models"]
    assert row["action"] == "copied"
    assert desk.body("Stable-diffusion/b.safetensors") == data


def test_another_file_of_the_same_name_needs_replace(desk: Desk) -> None:
    write("a.safetensors", kind("sd1", seed=b"old"))
    desk.upload("a.safetensors")
    write("a.safetensors", kind("sd1", seed=b"new"))
    refused = desk.run("upload", "a.safetensors", "-o", "json")
    assert (refused.code, "--replace" in refused.error["hint"]) == (8, True)
    assert [row["action"] for row in desk.upload("a.safetensors", "--replace")["models"]] == ["replaced"]
    assert b"new" in desk.body("Stable-diffusion/a.safetensors")


def test_a_wrong_sha256_leaves_no_object(desk: Desk) -> None:
    data = kind("sd1")
    write("a.safetensors", data)
    refused = desk.run("upload", "a.safetensors", "--sha256", "0" * 64, "-o", "json")
    assert refused.code == 2
    assert hashlib.sha256(data).hexdigest() in refused.error["message"]
    assert desk.keys() == []
    desk.upload("a.safetensors", "--sha256", hashlib.sha256(data).hexdigest().upper())


class Evil:
    def __reduce__(self) -> object:
        import os

        return (os.system, ("true",))


def test_unsafe_and_unsound_files_are_refused_and_the_others_arrive(desk: Desk) -> None:
    write("all/a.safetensors", kind("sd1"))
    write("all/b.ckpt", torch_zip(pickle.dumps(Evil(), protocol=2)))
    write("all/c.safetensors", b"<!DOCTYPE html><title>Sign in</title>")
    write("all/d.safetensors", b"")
    write("all/e.safetensors", torch_zip(torch_pickle(KINDS["sd1"])))
    write("all/f.ckpt", pickle.dumps(Evil(), protocol=0))
    write("all/g.ckpt", b"not a pickle of any protocol")
    ran = desk.run("upload", "all", "-o", "json")
    assert ran.code == 5
    messages = {
        one["message"].split(":")[1]: one["message"]
        for one in json.loads(ran.stdout.splitlines()[-1])["failed"]
    }
    assert "posix.system: GLOBAL" in messages["b.ckpt"]
    assert "web page" in messages["c.safetensors"]
    assert "empty" in messages["d.safetensors"]
    assert "not a safetensors file" in messages["e.safetensors"]
    assert "posix.system: GLOBAL" in messages["f.ckpt"]
    assert "neither safetensors" in messages["g.ckpt"]
    assert desk.keys() == ["Stable-diffusion/a.safetensors"]


def test_an_empty_source_is_not_the_whole_folder(desk: Desk) -> None:
    write("a.safetensors", kind("sd1"))
    assert (desk.run("upload", "").code, desk.keys()) == (2, [])
    assert desk.run("upload", ".").code == 0


def test_one_file_that_is_refused_is_told_of_once(desk: Desk) -> None:
    write("a.safetensors", b"")
    ran = desk.run("upload", "a.safetensors")
    assert (ran.stdout, ran.stderr) == ("", "Error: file:a.safetensors: the file is empty\n")


def test_two_sources_that_would_have_one_key_are_refused(desk: Desk) -> None:
    write("x/a.safetensors", kind("sd1", seed=b"1"))
    write("y/a.safetensors", kind("sd1", seed=b"2"))
    ran = desk.run("upload", "x/a.safetensors", "y/a.safetensors", "-o", "json")
    assert (ran.code, ran.error["code"]) == (8, "conflict")
    assert len(desk.keys()) == 1


def test_a_file_that_changes_while_it_is_sent_leaves_no_object(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdctl.clients.objects import Objects

    path = write("a.safetensors", kind("sd1", fill_bytes=LARGE))
    begin = Objects.start

    def start(self: Objects, key: str, metadata: dict[str, str]) -> tuple[str, bool]:
        with path.open("r+b") as file:
            file.seek(LARGE // 2)
            file.write(b"another content")
        return begin(self, key, metadata)

    monkeypatch.setattr(Objects, "start", start)
    ran = desk.run("upload", "a.safetensors", "-o", "json")
    assert "changed while it was" in ran.error["message"]
    assert (desk.keys(), desk.unfinished()) == ([], [])


def test_events_tell_start_progress_and_end(desk: Desk) -> None:
    write("a.safetensors", kind("sd1", fill_bytes=LARGE))
    ran = desk.run("upload", "a.safetensors", "-o", "json")
    events = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [one["event"] for one in events if one["event"] != "progress"] == ["start", "done", "end"]
    progress = next(one for one in events if one["event"] == "progress")
    assert {"done_bytes", "size_bytes", "total_bytes", "bytes_per_second", "seconds_left"} <= progress.keys()
    assert ran.stderr == ""


def test_a_missing_bucket_names_the_command_that_makes_it(desk: Desk) -> None:
    write("a.safetensors", kind("sd1"))
    ran = cli.run("models", "upload", "a.safetensors", "-b", "no-such-bucket-there", "-o", "json")
    assert (ran.code, ran.error["hint"]) == (4, "sdctl bucket create no-such-bucket-there")


def test_missing_files_and_empty_folders_are_named(desk: Desk) -> None:
    Path("empty").mkdir()
    assert desk.run("upload", "nothing.safetensors").code == 4
    assert desk.run("upload", "empty").code == 2


@pytest.mark.parametrize("is_native", [True, False])
def test_many_small_files_arrive_with_and_without_the_native_client(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, is_native: bool
) -> None:
    from sdctl.clients.quick_puts import QuickPuts

    native: list[str | None] = []
    put = QuickPuts.put

    def counted(self: QuickPuts, key: str, *rest: object) -> str | None:
        native.append(put(self, key, *rest) if is_native else None)  # type: ignore[arg-type]
        return native[-1]

    monkeypatch.setattr(QuickPuts, "put", counted)
    files = {
        f"Lora/m {number}+ü.safetensors": kind("lora-flux", seed=bytes([number])) for number in range(10)
    }
    for name, data in files.items():
        write(f"tree/{name}", data)
    desk.upload("tree")
    assert {key: desk.body(key) for key in [*desk.keys()]} == files
    assert (len(native), all(native)) == (10, is_native)
    assert {one["verdict"] for one in desk.run("verify", "-o", "json").document} == {"ok"}


def test_a_small_file_that_changes_under_the_native_client_leaves_no_object(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sdctl.clients.quick_puts import QuickPuts

    put = QuickPuts.put

    def changed(self: QuickPuts, key: str, path: Path, *rest: Any) -> str | None:
        if path.name == "m3.safetensors":
            path.write_bytes(kind("lora-flux", seed=b"another"))
        return put(self, key, path, *rest)

    monkeypatch.setattr(QuickPuts, "put", changed)
    for number in range(10):
        write(f"tree/m{number}.safetensors", kind("lora-flux", seed=bytes([number])))
    ran = desk.run("upload", "tree", "-o", "json")
    assert ran.code != 0
    assert "changed while it was" in ran.error["message"]
    stored = {PurePosixPath(key).name for key in [*desk.keys()]}
    assert stored == {f"m{number}.safetensors" for number in range(10) if number != 3}
