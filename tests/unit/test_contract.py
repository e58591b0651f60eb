"""The task envelope: what is accepted, what is refused, and that every problem is named at once."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl import contract
from sdctl.contract import InvalidTaskError, RuntimeInfo

CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
RUNTIMES = {
    "sdruntime": RuntimeInfo("sdruntime", "sdwebui", CHECKPOINT, checkpoints=(CHECKPOINT,)),
    "comfy": RuntimeInfo("comfy", "comfyui"),
}
REQUESTS = Path(__file__).parent.parent / "contract" / "requests"


def request_of(name: str) -> Any:
    return json.loads((REQUESTS / f"{name}.json").read_text())


def problems_of(document: object, version: str = "v1alpha2") -> dict[str, str]:
    parse = contract.parse_v1alpha2 if version == "v1alpha2" else contract.parse_v1alpha1
    with pytest.raises(InvalidTaskError) as caught:
        parse(document, RUNTIMES)
    return {problem.path: problem.message for problem in caught.value.problems}


@pytest.mark.parametrize("path", sorted(REQUESTS.glob("v1alpha2-*.json")), ids=lambda p: p.stem)
def test_every_sample_of_v1alpha2_is_accepted_with_its_content_untouched(path: Path) -> None:
    document = json.loads(path.read_text())
    task = contract.parse_v1alpha2(document, RUNTIMES)
    assert task.content == document["task"]["content"]
    assert task.id == document["task"]["metadata"]["id"]
    assert task.route == ("runtime", task.runtime)


@pytest.mark.parametrize("path", sorted(REQUESTS.glob("v1alpha1-*.json")), ids=lambda p: p.stem)
def test_every_sample_of_v1alpha1_is_accepted_and_routed_by_its_checkpoint(path: Path) -> None:
    document = json.loads(path.read_text())
    before = copy.deepcopy(document)
    task = contract.parse_v1alpha1(document, RUNTIMES)
    assert document == before, "the request is not changed in place"
    assert (task.runtime, task.prefix) == ("sdruntime", "outputs")
    assert task.route == ("sd_model_checkpoint", CHECKPOINT)
    assert task.content["alwayson_scripts"] == {"sd_model_checkpoint": CHECKPOINT}
    link = document["alwayson_scripts"].get("image_link")
    assert task.content.get("init_images") == ([link] if link else None)


def test_a_legacy_task_may_not_switch_to_a_model_that_its_runtime_lacks() -> None:
    document = request_of("v1alpha1-text-to-image")
    for name in (CHECKPOINT, "v1-5-pruned-emaonly", ""):
        document["override_settings"] = {"sd_model_checkpoint": name}
        assert contract.parse_v1alpha1(document, RUNTIMES).content["override_settings"]
    document["override_settings"] = {"sd_model_checkpoint": "other.safetensors"}
    assert list(problems_of(document, "v1alpha1")) == ["override_settings/sd_model_checkpoint"]
    dynamic = {"sdruntime": replace(RUNTIMES["sdruntime"], dynamic=True)}
    assert contract.parse_v1alpha1(document, dynamic).content == document | {
        "alwayson_scripts": {"sd_model_checkpoint": CHECKPOINT}
    }


def test_the_message_of_a_task_reads_back_as_the_same_task_raw_or_in_its_envelope() -> None:
    task = contract.parse_v1alpha2(request_of("v1alpha2-text-to-image"), RUNTIMES)
    body = contract.message_body(task)
    envelope = json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "t", "Message": body})
    for text in (body, envelope):
        read = contract.parse_message(text, runtime="sdruntime", task_types=contract.TASK_TYPES["sdwebui"])
        assert read == task
        assert read.content_hash == task.content_hash
        assert not read.problems


def test_a_large_task_leaves_only_a_pointer_in_its_message() -> None:
    from dataclasses import replace

    task = contract.parse_v1alpha2(request_of("v1alpha2-text-to-image"), RUNTIMES)
    pointed = replace(task, pointer=("bucket", "key"))
    body = contract.message_body(pointed, inline=False)
    assert "A dog" not in body
    read = contract.parse_message(body, runtime="sdruntime", task_types=("text-to-image",))
    assert (read.pointer, read.content) == (("bucket", "key"), {})


def test_all_problems_of_a_request_are_reported_at_once() -> None:
    metadata = {
        "id": "-no", "runtime": "sdrutime", "tasktype": "text-to-video", "prefix": "a/../b",
        "context": "x" * 20_000, "webhook_url": "https://x", "deadline_seconds": -1, "perfix": "x",
    }  # fmt: skip
    problems = problems_of({"task": {"metadata": metadata}})
    assert set(problems) == {f"task/metadata/{name}" for name in metadata} | {"task/content"}
    assert 'did you mean "sdruntime"' in problems["task/metadata/runtime"]
    assert 'did you mean "prefix"' in problems["task/metadata/perfix"]
    assert "not supported yet" in problems["task/metadata/webhook_url"]


@pytest.mark.parametrize("document", [None, 1, "x", [], True])
def test_a_body_that_is_not_an_object_is_one_clear_problem(document: object) -> None:
    assert list(problems_of(document)) == [""]
    assert list(problems_of(document, "v1alpha1")) == [""]


@pytest.mark.parametrize(
    "prefix",
    ["", "/", "/a", "a//b", "a/./b", "../a", "a/..", "a\nb", "é" * 129, ".sdctl/x", ".sdctl", 7, None],
)
def test_a_hostile_prefix_is_refused(prefix: object) -> None:
    document = request_of("v1alpha2-text-to-image")
    document["task"]["metadata"]["prefix"] = prefix
    assert list(problems_of(document)) == ["task/metadata/prefix"]


def test_one_trailing_slash_of_a_prefix_is_dropped_and_a_missing_prefix_is_the_default() -> None:
    document = request_of("v1alpha2-text-to-image")
    document["task"]["metadata"]["prefix"] = "a/b/"
    assert contract.parse_v1alpha2(document, RUNTIMES).prefix == "a/b"
    del document["task"]["metadata"]["prefix"]
    assert contract.parse_v1alpha2(document, RUNTIMES).prefix == "output"


@pytest.mark.parametrize("task_id", ["", "a" * 65, "_a", "-a", "a b", "a/b", "ä", "a\n", 5, None, True])
def test_a_bad_id_is_refused(task_id: object) -> None:
    document = request_of("v1alpha2-text-to-image")
    document["task"]["metadata"]["id"] = task_id
    assert list(problems_of(document)) == ["task/metadata/id"]


def test_a_missing_id_is_made_by_the_server() -> None:
    document = request_of("v1alpha2-text-to-image")
    del document["task"]["metadata"]["id"]
    first, second = (contract.parse_v1alpha2(document, RUNTIMES) for _ in range(2))
    assert first.id != second.id
    assert contract.ID_PATTERN.fullmatch(first.id)
    assert first.content_hash == second.content_hash


def test_a_runtime_is_found_whatever_its_case() -> None:
    document = request_of("v1alpha2-text-to-image")
    document["task"]["metadata"]["runtime"] = "SdRuntime"
    assert contract.parse_v1alpha2(document, RUNTIMES).runtime == "sdruntime"


def test_a_task_type_of_the_other_runtime_type_says_what_this_one_takes() -> None:
    document = request_of("v1alpha2-pipeline")
    document["task"]["metadata"]["runtime"] = "sdruntime"
    message = problems_of(document)["task/metadata/tasktype"]
    assert "does not fit" in message
    assert "text-to-image" in message


def test_a_workflow_in_ui_format_says_how_to_export_the_right_one() -> None:
    document = request_of("v1alpha2-pipeline")
    document["task"]["content"] = {"nodes": [], "links": [], "version": 0.4}
    assert "Save (API Format)" in problems_of(document)["task/content"]


@pytest.mark.parametrize(
    ("name", "accepted"),
    [
        (CHECKPOINT, True), ("v1-5-pruned-emaonly", True),
        ("V1-5-Pruned-EmaOnly.safetensors [6ce01616]", True), ("6ce0161689", True),
        ("Stable-diffusion/v1-5-pruned-emaonly.ckpt", True), ("sdxl.safetensors", False),
    ],
)  # fmt: skip
def test_a_checkpoint_is_known_by_title_name_or_hash(name: str, accepted: bool) -> None:
    for section in ("alwayson_scripts", "override_settings"):
        document = request_of("v1alpha2-text-to-image")
        document["task"]["content"][section] = {"sd_model_checkpoint": name}
        if accepted:
            assert contract.parse_v1alpha2(document, RUNTIMES)
        else:
            message = problems_of(document)[f"task/content/{section}/sd_model_checkpoint"]
            assert CHECKPOINT in message


def test_v1alpha1_names_every_missing_routing_key_and_an_unknown_checkpoint() -> None:
    assert set(problems_of({"alwayson_scripts": {}}, "v1alpha1")) == {
        f"alwayson_scripts/{key}" for key in ("task", "sd_model_checkpoint", "id_task")
    }
    document = request_of("v1alpha1-text-to-image")
    document["alwayson_scripts"]["sd_model_checkpoint"] = "other.ckpt"
    assert CHECKPOINT in problems_of(document, "v1alpha1")["alwayson_scripts/sd_model_checkpoint"]


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"a": Infinity}', '"\\ud800"', "[" * 100_000, b"\xff"])
def test_what_is_not_strict_json_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        contract.decode_json(text)


def test_a_direct_publish_without_id_gets_one_from_the_sns_message_id() -> None:
    body = json.dumps({"metadata": {"tasktype": "text-to-image"}, "content": {"prompt": "x"}})
    envelope = json.dumps({"MessageId": "5f1c-1", "TopicArn": "t", "Message": body})
    read = contract.parse_message(
        envelope, runtime="sdruntime", task_types=("text-to-image",), message_id="other"
    )
    assert read.id == "5f1c-1"
    assert not read.problems


def test_a_message_that_breaks_the_contract_keeps_its_id_so_that_it_can_be_reported() -> None:
    body = json.dumps({"metadata": {"id": "x1", "tasktype": "pipeline", "prefix": ""}, "content": {"a": 1}})
    read = contract.parse_message(body, runtime="sdruntime", task_types=("text-to-image",))
    assert read.id == "x1"
    assert {problem.path for problem in read.problems} == {"metadata/tasktype", "metadata/prefix", "content"}


@pytest.mark.parametrize("text", ["hello", "[]", "{}", '"x"', "null", '{"Message": "x", "TopicArn": "t"}'])
def test_a_message_with_no_task_in_it_is_undecodable(text: str) -> None:
    with pytest.raises(contract.UndecodableMessageError):
        contract.parse_message(text, runtime="r", task_types=("pipeline",), message_id="m")


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(
    ["task", "metadata", "content", "id", "runtime", "tasktype", "prefix", "context", "content_pointer"]
)


@given(st.dictionaries(keys, st.dictionaries(keys, json_values | st.dictionaries(keys, json_values))))
def test_any_json_either_parses_or_is_refused_as_an_invalid_task(document: dict[str, Any]) -> None:
    for parse in (contract.parse_v1alpha2, contract.parse_v1alpha1):
        with suppress(InvalidTaskError):
            parse(document, RUNTIMES)
    try:
        task = contract.parse_message(
            json.dumps(document), runtime="r", task_types=("pipeline",), message_id="m"
        )
    except contract.UndecodableMessageError:
        return
    assert contract.ID_PATTERN.fullmatch(task.id)


@given(st.text(max_size=300))
def test_whatever_prefix_is_accepted_stays_below_itself(prefix: str) -> None:
    document = request_of("v1alpha2-text-to-image")
    document["task"]["metadata"]["prefix"] = prefix
    try:
        task = contract.parse_v1alpha2(document, RUNTIMES)
    except (InvalidTaskError, UnicodeEncodeError):
        return
    key = contract.image_key(task.id, task.prefix, 1, "png")
    assert key.startswith(task.prefix + "/" + task.id + "/")
    assert all(part not in ("", ".", "..") for part in key.split("/"))


def test_output_names_derive_from_the_task() -> None:
    name = contract.image_key("dog-1", "output", 2, "png")
    assert name == contract.image_key("dog-1", "output", 2, "png")
    suffix = contract.output_suffix("dog-1", "output")
    assert name == f"output/dog-1/dog-1-{suffix}-2.png"
    assert contract.answer_key("dog-1", "output") == f"output/dog-1/dog-1-{suffix}.out"
    assert len(suffix) == 4
    assert int(suffix, 16) >= 0
