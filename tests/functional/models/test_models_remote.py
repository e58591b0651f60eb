"""Models from other people's servers, which drop, stall, redirect and lie."""

from __future__ import annotations

import _thread
import hashlib
import itertools
import json
import os
import socket
import time
from typing import Any

import pytest

from fakes.model_sources import COMMIT, File, Sources
from functional.models.conftest import PART, Desk
from sdctl.clients.downloads import FIRST_ATTEMPTS, NO_TOKEN, Downloads, SourceError
from sdctl.clients.remote_files import Remote
from sdctl.deployments import home
from sdctl.models.digest import Digest
from support.model_files import KINDS, kind, torch_pickle, torch_zip

LARGE = 2 * PART + 1000  # three parts
MIB = 1024**2


@pytest.fixture(scope="module")
def large() -> bytes:
    return kind("sd1", fill_bytes=LARGE)


def failing(desk: Desk, *words: str) -> dict[str, str]:
    """Upload without success; return the error. Nothing may be left."""
    ran = desk.run("upload", *words, "-o", "json")
    assert ran.code != 0
    assert desk.keys() == []
    return ran.error


def test_a_file_of_an_address_streams_into_the_bucket(desk: Desk, sources: Sources, large: bytes) -> None:
    (row,) = desk.upload(sources.add("/a/model.safetensors", large))["models"]
    assert (row["key"], row["sha256"]) == (
        "Stable-diffusion/model.safetensors", hashlib.sha256(large).hexdigest()
    )  # fmt: skip
    assert desk.body(row["key"]) == large
    assert desk.objects.look(row["key"]).metadata["sha256"] == row["sha256"]  # type: ignore[union-attr]
    assert sum(one.range != "" for one in sources.asked) >= 3
    assert {one["verdict"] for one in desk.run("verify", "-o", "json").document} == {"ok"}


def test_a_server_without_ranges_is_read_as_one_stream(desk: Desk, sources: Sources, large: bytes) -> None:
    url = sources.add("/model.safetensors", large, has_ranges=False)
    (row,) = desk.upload(url)["models"]
    assert desk.body(row["key"]) == large
    assert len(sources.asked) == 1


@pytest.mark.parametrize("has_ranges", [True, False])
def test_an_address_that_tells_no_hash_is_kept_where_it_still_has_the_same_file(
    desk: Desk, sources: Sources, large: bytes, has_ranges: bool
) -> None:
    url = sources.add("/model.safetensors", large, has_ranges=has_ranges)
    desk.upload(url)
    (row,) = desk.upload(url)["models"]
    assert (row["action"], row["sha256"]) == ("kept", hashlib.sha256(large).hexdigest())
    sources.add("/model.safetensors", kind("sd1", fill_bytes=LARGE), has_ranges=has_ranges)
    ran = desk.run("upload", url, "-o", "json")
    assert (ran.code, "another file" in ran.error["message"]) == (8, True)
    assert desk.body(row["key"]) == large


def test_a_stream_that_breaks_is_taken_up_where_it_broke(desk: Desk, sources: Sources, large: bytes) -> None:
    drops = [("drop", PART + 9), ("drop", 2 * PART + 1)]
    url = sources.add("/model.safetensors", large, has_ranges=False, mishaps=drops)
    (row,) = desk.upload(url)["models"]
    assert desk.body(row["key"]) == large
    assert len(sources.asked) == 3


def test_a_pickle_needs_a_server_with_ranges(desk: Desk, sources: Sources) -> None:
    data = torch_zip(torch_pickle(KINDS["sd1"])) + bytes(18 * MIB)  # its directory is not at the end: unsound
    url = sources.add(
        "/model.ckpt", torch_zip(torch_pickle(KINDS["sd1"]) + bytes(20 * MIB)), has_ranges=False
    )
    assert "one stream" in failing(desk, url)["message"]
    assert failing(desk, sources.add("/bad.ckpt", data))["code"] == "bad_model"


@pytest.mark.parametrize("at", [0, 1, 100_000, PART - 1])
def test_dropped_connections_are_taken_up_inside_a_part(
    desk: Desk, sources: Sources, large: bytes, at: int
) -> None:
    url = sources.add("/model.safetensors", large, mishaps=[("none",), ("none",), ("drop", at), ("drop", at)])
    (row,) = desk.upload(url)["models"]
    assert desk.body(row["key"]) == large


def test_too_many_requests_are_waited_out_as_the_server_asks(sources: Sources) -> None:
    waited: list[float] = []
    mishaps = [("status", 429, {"Retry-After": "7"}), ("none",), ("status", 503, {"Retry-After": "100000"})]
    url = sources.add("/model.safetensors", bytes(100), mishaps=mishaps)
    remote = Remote(Downloads({}, sleep=waited.append), url, NO_TOKEN)
    assert remote.read(0, 100) == bytes(100)
    assert waited == [7.0, 120.0]


def test_a_server_that_never_answers_is_given_up_sooner_and_waiting_is_told() -> None:
    with socket.socket() as closed:  # bound, and never listening: whoever connects is refused
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/model.safetensors"
        waited: list[float] = []
        told: list[tuple[str, float]] = []
        with pytest.raises(SourceError) as caught:
            Remote(Downloads({}, on_wait=lambda *said: told.append(said), sleep=waited.append), url, NO_TOKEN)
    assert [seconds for _, seconds in told] == waited
    assert len(waited) == FIRST_ATTEMPTS - 1
    assert "Connection refused" in told[0][0]
    assert "HTTPConnection" not in caught.value.message
    assert "check the address" in caught.value.hint


def test_a_server_that_goes_away_is_given_up_and_the_next_run_goes_on(
    desk: Desk, sources: Sources, large: bytes
) -> None:
    url = sources.add("/model.safetensors", large, gone_from=2 * PART)
    error = failing(desk, url)
    assert "goes on from there" in error["hint"]
    assert len(desk.unfinished()) == 1
    sources.files["/model.safetensors"].gone_from, sources.sent_bytes = None, 0
    (row,) = desk.upload(url)["models"]
    assert desk.body(row["key"]) == large
    assert row["sha256"] == hashlib.sha256(large).hexdigest()
    assert sources.sent_bytes < PART  # the first two parts are there already
    assert desk.unfinished() == []


def test_ctrl_c_in_the_middle_of_hashing_is_gone_on_from(
    desk: Desk, sources: Sources, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = sources.add("/model.safetensors", large)
    update, count = Digest.update, itertools.count(1)

    def interrupted(self: Digest, data: bytes) -> None:
        update(self, data)
        if next(count) == 2:
            _thread.interrupt_main()
            time.sleep(0.3)

    monkeypatch.setattr(Digest, "update", interrupted)
    assert desk.run("upload", url).code == 130
    (kept,) = home(os.environ).glob("models/*/uploads/*.json")
    state = json.loads(kept.read_text())
    assert len(state["crc32s"]) == state["hashed_parts"] >= 2
    monkeypatch.setattr(Digest, "update", update)
    (row,) = desk.upload(url)["models"]
    assert row["sha256"] == hashlib.sha256(large).hexdigest()
    assert (desk.body(row["key"]), desk.unfinished()) == (large, [])


def test_a_source_that_changed_since_begins_anew(desk: Desk, sources: Sources, large: bytes) -> None:
    url = sources.add("/model.safetensors", large, gone_from=2 * PART)
    failing(desk, url)
    other = kind("sd1", fill_bytes=LARGE)
    sources.files["/model.safetensors"] = File(other, etag='"v2"')
    (row,) = desk.upload(url)["models"]
    assert desk.body(row["key"]) == other
    assert desk.unfinished() == []


def test_a_source_that_changes_on_the_way_is_an_error(desk: Desk, sources: Sources, large: bytes) -> None:
    url = sources.add("/model.safetensors", large)
    file = sources.files["/model.safetensors"]
    original, changed = file.etag, '"v2"'

    class Changing(list[Any]):
        def pop(self, _index: int = 0) -> tuple[str]:
            file.etag = changed if len(sources.asked) > 3 else original
            return ("none",)

        def __bool__(self) -> bool:
            return True

    file.mishaps = Changing()
    assert "became another file" in failing(desk, url)["message"]


REFUSALS = {
    "a sign-in page": ({"content_type": "text/html; charset=utf-8"}, "web page"),
    "a length that is too short": ({"announced": LARGE}, "became another file|ends before|bytes of tensors"),
    "a length that is too long": ({"announced": LARGE * 2}, "bytes of tensors|another file"),
    "no length": ({"has_ranges": False, "has_length": False}, "how long"),
    "a token that nobody has": ({"needs_token": "x"}, "answers 401"),
    "a forbidden file": ({"needs_token": "x", "refusal": (403, {})}, "answers 403"),
    "a redirect without end": ({"redirect": "/model.safetensors"}, "without end"),
    "a redirect to plain http": ({"redirect": "http://example.com/x"}, "not https"),
    "a redirect to a file": ({"redirect": "file:///etc/passwd"}, "not an address"),
}


@pytest.mark.parametrize("name", sorted(REFUSALS))
def test_what_a_server_gives_instead_of_a_model_is_an_error(
    desk: Desk, sources: Sources, large: bytes, name: str
) -> None:
    import re

    how, reason = REFUSALS[name]
    error = failing(desk, sources.add("/model.safetensors", large, **how))
    assert re.search(reason, error["message"]), error
    assert desk.unfinished() == []


def test_a_body_that_ends_early_is_an_error(desk: Desk, sources: Sources, large: bytes) -> None:
    url = sources.add("/model.safetensors", large[: PART + 9], announced=len(large), has_ranges=False)
    assert f"{PART + 9} bytes read" in failing(desk, url)["message"]


def test_a_page_under_a_models_type_is_an_error(desk: Desk, sources: Sources) -> None:
    assert (
        "web page" in failing(desk, sources.add("/m.safetensors", b"<html>please sign in</html>"))["message"]
    )


def test_a_wrong_hash_leaves_nothing(desk: Desk, sources: Sources, large: bytes) -> None:
    error = failing(desk, sources.add("/m.safetensors", large), "--sha256", "0" * 64)
    assert hashlib.sha256(large).hexdigest() in error["message"]
    assert desk.unfinished() == []


def test_another_content_than_was_examined_leaves_nothing(desk: Desk, sources: Sources) -> None:
    """A server may show a harmless head to whoever looks, and give another file to whoever takes it."""
    good, evil = kind("sd1", fill_bytes=LARGE), kind("sd2", fill_bytes=LARGE + 2)
    evil = evil[: len(good)]
    url = sources.add("/m.safetensors", good)
    file = sources.files["/m.safetensors"]

    class Switching(list[Any]):
        def pop(self, _index: int = 0) -> tuple[str]:
            # The first requests are small looks; parts follow.
            last = sources.asked[-1].range
            file.data = evil if last == f"bytes=0-{PART - 1}" else good
            return ("none",)

        def __bool__(self) -> bool:
            return True

    file.mishaps = Switching()
    assert "showed when it was examined" in failing(desk, url)["message"]
    assert desk.unfinished() == []


@pytest.mark.parametrize(
    "url", ["http://example.com/a.safetensors", "https://user@host/a", "https://", "https://a b/"]
)
def test_addresses_that_are_not_safe_are_refused(desk: Desk, url: str) -> None:
    assert failing(desk, url)["code"] == "usage"


@pytest.mark.parametrize(
    ("disposition", "key"),
    [
        ('attachment; filename="../../etc/passwd"', None),
        ("attachment; filename*=UTF-8''a%2F..%2F..%2Fb.safetensors", None),
        ('attachment; filename="x\x7fy.safetensors"', None),
        ('attachment; filename="nice name.safetensors"', "Stable-diffusion/nice name.safetensors"),
    ],
)
def test_a_name_from_the_server_is_checked(
    desk: Desk, sources: Sources, disposition: str, key: str | None
) -> None:
    url = sources.add("/download", kind("sd1"), disposition=disposition)
    if key is None:
        assert "cannot be a model's name" in failing(desk, url)["message"]
    else:
        desk.upload(url)
        assert desk.keys() == [key]


def test_hugging_face_gives_hash_commit_and_storage_without_the_token(
    desk: Desk, sources: Sources, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    sources.add_hugging_face("who/what", {"model.safetensors": large, "README.md": b"x"}, gated="hf_secret")
    (row,) = desk.upload("hf:who/what")["models"]
    assert row["source"] == f"hf:who/what/model.safetensors@{COMMIT}"
    assert desk.body(row["key"]) == large
    tokens = {(one.host.partition(":")[0], one.token) for one in sources.asked}
    assert tokens == {("127.0.0.1", "hf_secret"), ("localhost", "")}
    assert "hf_secret" not in json.dumps(row)


def test_a_gated_repository_names_the_page_to_accept(desk: Desk, sources: Sources, large: bytes) -> None:
    sources.add_hugging_face("who/gated", {"model.safetensors": large}, gated="hf_secret")
    error = failing(desk, "hf:who/gated")
    assert "https://huggingface.co/who/gated" in error["hint"]
    assert "HF_TOKEN" in error["hint"]


def test_a_token_that_is_not_enough_is_said_so(
    desk: Desk, sources: Sources, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    sources.add_hugging_face("who/gated", {"model.safetensors": large}, gated="hf_secret")
    error = failing(desk, "hf:who/gated")
    assert "not open to your token" in error["message"]
    assert "hf_other" not in json.dumps(error)


def test_terms_that_the_tokens_account_has_not_accepted_are_named(
    desk: Desk, sources: Sources, large: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    sources.add_hugging_face("who/gated", {"model.safetensors": large}, gated="hf_accepted")
    sources.files[f"/who/gated/resolve/{COMMIT}/model.safetensors"].refusal = (
        403, {"x-error-code": "GatedRepo", "x-error-message": "Access is restricted."}
    )  # fmt: skip
    error = failing(desk, "hf:who/gated")
    assert "not open to your token" in error["message"]
    assert "https://huggingface.co/who/gated" in error["hint"]


def test_the_token_of_hugging_faces_own_tool_is_found(
    desk: Desk, sources: Sources, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/token").write_text("hf_secret\n")
    sources.add_hugging_face("who/gated", {"model.safetensors": kind("sd1")}, gated="hf_secret")
    assert desk.upload("hf:who/gated")["failed"] == []


def test_a_repository_of_several_models_lists_them(desk: Desk, sources: Sources) -> None:
    files = {"a.safetensors": kind("sd1"), "b.safetensors": kind("sd2"), "sub/c.ckpt": b"x"}
    sources.add_hugging_face("who/what", files)
    assert "hf:who/what/b.safetensors" in failing(desk, "hf:who/what")["message"]
    desk.upload("hf:who/what/b.safetensors")
    assert desk.keys() == ["Stable-diffusion/b.safetensors"]


@pytest.mark.parametrize(
    "source", ["hf:nobody/nothing", "hf:who/what/missing.safetensors", "hf:who/what@nope"]
)
def test_what_is_not_on_hugging_face_is_not_found(desk: Desk, sources: Sources, source: str) -> None:
    sources.add_hugging_face("who/what", {"a.safetensors": kind("sd1")})
    ran = desk.run("upload", source, "-o", "json")
    assert (ran.code, ran.error["code"]) == (4, "not_found")


@pytest.mark.parametrize("source", ["hf:", "hf:one", "hf:a/../b", "hf:a/b@", "civitai:", "civitai:12a"])
def test_misspelled_sources_are_usage_errors(desk: Desk, sources: Sources, source: str) -> None:
    assert failing(desk, source)["code"] == "usage"


def test_a_hash_that_hugging_face_does_not_confirm_leaves_nothing(
    desk: Desk, sources: Sources, large: bytes
) -> None:
    sources.add_hugging_face("who/what", {"model.safetensors": large})
    storage = next(path for path in sources.files if path.startswith("/storage/"))
    sources.files[storage].data = large[:-1] + bytes([large[-1] ^ 1])
    assert "SHA-256" in failing(desk, "hf:who/what")["message"]
    assert desk.unfinished() == []


def test_a_signed_address_that_runs_out_is_asked_for_anew(desk: Desk, sources: Sources, large: bytes) -> None:
    sources.add_hugging_face("who/what", {"model.safetensors": large})
    storage = next(path for path in sources.files if path.startswith("/storage/"))
    sources.files[storage].mishaps = [("none",), ("none",), ("none",), ("status", 403)]
    (row,) = desk.upload("hf:who/what")["models"]
    assert desk.body(row["key"]) == large


def civitai_file(name: str, data: bytes, **more: Any) -> dict[str, Any]:
    return {
        "name": name, "type": "Model", "primary": True, "sizeKB": len(data) / 1024,
        "metadata": {"format": "SafeTensor"}, "hashes": {"SHA256": hashlib.sha256(data).hexdigest().upper()},
        "downloadUrl": "https://civitai.com/api/download/models/99?type=Model&format=SafeTensor",
    } | more  # fmt: skip


def test_civitai_gives_the_main_file_and_its_hash(desk: Desk, sources: Sources, large: bytes) -> None:
    pruned = civitai_file("training.zip", b"x", type="Training Data", primary=False)
    sources.add_civitai(99, [civitai_file("nice.safetensors", large), pruned], large)
    (row,) = desk.upload("civitai:99")["models"]
    assert (row["key"], row["source"]) == ("Stable-diffusion/nice.safetensors", "civitai:99")
    assert desk.body(row["key"]) == large


def test_civitai_wants_a_sign_in(desk: Desk, sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    data = kind("lora-sd1")
    sources.add_civitai(99, [civitai_file("lora", data)], data, needs_token="civitai-secret")
    error = failing(desk, "civitai:99")
    assert "CIVITAI_TOKEN" in error["hint"]
    assert "modelVersionId=99" in error["hint"]
    monkeypatch.setenv("CIVITAI_TOKEN", "civitai-secret")
    desk.upload("civitai:99")
    assert desk.keys() == ["Lora/lora.safetensors"]


def test_civitais_sign_in_page_is_no_model(desk: Desk, sources: Sources) -> None:
    page = b"<!DOCTYPE html><title>Sign in</title>"
    sources.add_civitai(99, [civitai_file("a.safetensors", page)], page, content_type="text/html")
    assert "CIVITAI_TOKEN" in failing(desk, "civitai:99")["hint"]


@pytest.mark.parametrize("scan", ["virusScanResult", "pickleScanResult"])
def test_a_file_that_civitais_scan_calls_dangerous_is_refused(
    desk: Desk, sources: Sources, scan: str
) -> None:
    data = kind("sd1")
    sources.add_civitai(99, [civitai_file("a.safetensors", data, **{scan: "Danger"})], data)
    assert failing(desk, "civitai:99")["code"] == "unsafe_model"


def test_a_hash_that_is_there_already_is_not_even_downloaded(
    desk: Desk, sources: Sources, large: bytes
) -> None:
    sources.add_hugging_face("who/what", {"model.safetensors": large})
    desk.upload("hf:who/what")
    sources.sent_bytes = 0
    (row,) = desk.upload("hf:who/what", "--name", "again")["models"]
    assert row["action"] == "copied"
    assert sources.sent_bytes < 2 * 65536 + 1000
