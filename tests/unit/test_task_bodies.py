"""Request bodies from what a user says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdctl.errors import SdctlError, UsageError
from sdctl.tasks import bodies


@pytest.mark.parametrize(
    ("start", "setting", "wanted"),
    [
        ({}, "a=1", {"a": 1}),
        ({}, "a=text", {"a": "text"}),
        ({}, 'a="1"', {"a": "1"}),
        ({}, "a=", {"a": ""}),
        ({}, "a=x=y", {"a": "x=y"}),
        ({}, "a=null", {"a": None}),
        ({}, "a.b.c=true", {"a": {"b": {"c": True}}}),
        ({}, "a[0].b=1", {"a": [{"b": 1}]}),
        ({"a": [1]}, "a[1]=2", {"a": [1, 2]}),
        ({"a": [1]}, "a.0=2", {"a": [2]}),
        ({"6": {"inputs": {}}}, "6.inputs.text=A dog", {"6": {"inputs": {"text": "A dog"}}}),
        ({}, r"a\.b=1", {"a.b": 1}),
        ({"a": None}, "a.b=1", {"a": {"b": 1}}),
        ({}, 'a=[1,{"b":2}]', {"a": [1, {"b": 2}]}),
        ({}, "a[0][0]=1", {"a": [[1]]}),
    ],
)
def test_a_setting_is_put_in_its_place(start: dict[str, Any], setting: str, wanted: dict[str, Any]) -> None:
    bodies.apply_settings(start, [setting])
    assert start == wanted


@pytest.mark.parametrize(
    "setting", ["a", "=1", ".a=1", "a.=1", "a..b=1", "a[x]=1", "a[1]=1", "s.b=1", "l.x=1", "l[9]=1", "s[0]=1"]
)
def test_a_setting_that_does_not_fit_is_refused(setting: str) -> None:
    with pytest.raises(UsageError):
        bodies.apply_settings({"s": "text", "l": [1]}, [setting])


@given(st.text(max_size=40))
def test_any_setting_is_either_applied_or_refused(setting: str) -> None:
    document: dict[str, Any] = {"a": {"b": [1]}}
    try:
        bodies.apply_settings(document, [setting])
    except UsageError:
        return
    json.dumps(document)


def test_every_body_gets_an_id_and_keeps_one() -> None:
    made = [bodies.body(bodies.Metadata(), "text-to-image", {})["task"]["metadata"]["id"] for _ in range(2)]
    assert made[0] != made[1]
    kept = bodies.body(bodies.Metadata(id="x", context=0), "text-to-image", {})["task"]["metadata"]
    assert kept == {"id": "x", "context": 0, "tasktype": "text-to-image"}


@pytest.mark.parametrize("text", ["", "[]", "nonsense", "NaN", '{"a":', '"text"', "[" * 5000])
def test_a_file_that_is_no_json_object_is_a_configuration_error(text: str) -> None:
    with pytest.raises(SdctlError) as caught:
        bodies.parse_json_object(text, "f.json")
    assert caught.value.exit_code == 3
    assert caught.value.message.startswith("f.json is ")


def test_two_nodes_of_one_title_must_be_told_apart() -> None:
    node = {"class_type": "LoadImage", "inputs": {}, "_meta": {"title": "Photo"}}
    with pytest.raises(UsageError, match="1, 2"):
        bodies.node_of({"1": node, "2": node}, "Photo")
    assert bodies.node_of({"1": node, "2": node}, "2") == "2"


def test_a_raw_body_of_v1alpha1_takes_id_and_prefix_only() -> None:
    body = {"alwayson_scripts": {"task": "text-to-image"}, "prompt": "x"}
    made, version = bodies.raw_body(body, bodies.Metadata(id="i", prefix="p"))
    assert version == "v1alpha1"
    assert made["alwayson_scripts"] == {"task": "text-to-image", "id_task": "i", "save_dir": "p"}
    assert body["alwayson_scripts"] == {"task": "text-to-image"}
    with pytest.raises(UsageError, match="runtime"):
        bodies.raw_body(body, bodies.Metadata(runtime="r"))


def test_text_in_utf8_survives_a_locale_that_cannot_read_it() -> None:
    prompt = "ein Hünd, 小狗".encode().decode("ascii", "surrogateescape")
    made = bodies.body(bodies.Metadata(id="a", context={"who": prompt}), "text-to-image", {"prompt": prompt})
    assert made["task"]["content"]["prompt"] == "ein Hünd, 小狗"
    assert made["task"]["metadata"]["context"] == {"who": "ein Hünd, 小狗"}


@pytest.mark.parametrize("prompt", ["bad\udcff\udcfe", "half a pair \ud83d"])
def test_text_that_is_not_utf8_is_refused_with_words(prompt: str) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        bodies.body(bodies.Metadata(), "text-to-image", {"prompt": prompt})
