"""The functions' pure parts: routes, checkpoints, what an overdue row needs, envelopes, settings."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from sdctl import contract
from sdctl.contract import RuntimeInfo
from sdctl.task_record import ROW_LIFE_SECONDS, Row
from sdctl_api import routes
from sdctl_api.checkpoints import BucketCheckpoints, with_bucket_checkpoints
from sdctl_api.exchange import ApiError, Request, read_request
from sdctl_lambda.envelopes import envelope_attributes, routed_runtime
from sdctl_lambda.settings import read_settings
from sdctl_sweep.rules import RETENTION_MS, Need, need_of

NOW = 1_800_000_000_000
RUNTIMES = {
    "web": RuntimeInfo("web", "sdwebui", "A.safetensors", checkpoints=("A.safetensors",)),
    "dyn": RuntimeInfo("dyn", "sdwebui", dynamic=True),
}


@pytest.mark.parametrize("route", routes.ROUTES)
def test_a_route_is_served_on_its_own_resource_and_never_through_the_catch_all(route: str) -> None:
    method, resource = route.split(" ")
    path = resource.replace("{id}", "x")
    assert routes.route_of(Request(resource, method, path)) == route
    with pytest.raises(ApiError) as caught:
        routes.route_of(Request("/{proxy+}", method, path))
    assert caught.value.code == "not_found"
    with pytest.raises(ApiError) as caught:
        routes.route_of(Request("/{proxy+}", "PATCH", path))
    assert (caught.value.code, caught.value.headers) == ("method_not_allowed", {"Allow": method})


def test_a_resource_is_known_below_a_mapped_base_path() -> None:
    assert routes.route_of(Request("/v1alpha2", "POST", "/base/v1alpha2")) == routes.SUBMIT_V1ALPHA2


def test_header_names_lose_their_case_and_the_last_value_counts() -> None:
    event = {
        "headers": {"X-A": "1"},
        "multiValueHeaders": {"x-a": ["1", "2"], "X-B": []},
        "queryStringParameters": None,
    }
    assert read_request(event).headers == {"x-a": "2"}


class Bucket:
    """A model bucket that counts how often it is listed, two keys a page."""

    def __init__(self, keys: list[str]) -> None:
        self.keys, self.lists = keys, 0

    def client(self, service: str) -> Bucket:
        assert service == "s3"
        return self

    def list_objects_v2(self, *, ContinuationToken: str = "0", **call: str) -> dict[str, Any]:
        assert call == {"Bucket": "models", "Prefix": "Stable-diffusion/"}
        start = int(ContinuationToken)
        self.lists += start == 0
        page = [{"Key": key} for key in self.keys[start : start + 2]]
        more = start + 2 < len(self.keys)
        token = {"NextContinuationToken": str(start + 2)} if more else {}
        return {"Contents": page, "IsTruncated": more, **token}


def asking(name: object, runtime: str = "dyn") -> dict[str, Any]:
    content = {"override_settings": {"sd_model_checkpoint": name}}
    return {"task": {"metadata": {"runtime": runtime}, "content": content}}


def checkpoints(bucket: Bucket, clock: list[float], name: str = "models") -> BucketCheckpoints:
    return BucketCheckpoints(bucket, name, lambda: clock[0])  # type: ignore[arg-type]


def test_the_bucket_is_read_for_an_unknown_model_only_and_kept_a_while() -> None:
    keys = [
        f"Stable-diffusion/{name}" for name in ("M1.ckpt", "x/M2.safetensors", "notes.txt", "M3.safetensors")
    ]
    bucket, clock = Bucket(keys), [100.0]
    known = checkpoints(bucket, clock)
    assert with_bucket_checkpoints(asking("A", "web"), RUNTIMES, known) is RUNTIMES
    for name in ("A", contract.DEFAULT_CHECKPOINT):
        with_bucket_checkpoints(asking(name), RUNTIMES, known)
    assert bucket.lists == 0
    names = with_bucket_checkpoints(asking("m2"), RUNTIMES, known)["dyn"].checkpoints
    assert names == (
        "M1.ckpt",
        "x/M2.safetensors",
        "M3.safetensors",
        "A.safetensors",
        contract.DEFAULT_CHECKPOINT,
    )
    clock[0] += 59
    with_bucket_checkpoints(asking("m3"), RUNTIMES, known)
    assert bucket.lists == 1
    clock[0] += 2
    with_bucket_checkpoints(asking("m3"), RUNTIMES, known)
    assert bucket.lists == 2


def test_a_model_that_was_missing_is_looked_for_again_soon_but_not_at_once() -> None:
    bucket, clock = Bucket([]), [0.0]
    known = checkpoints(bucket, clock)
    for seconds, lists in ((0.0, 1), (4.0, 1), (5.5, 2)):
        clock[0] = seconds
        names = with_bucket_checkpoints(asking("new"), RUNTIMES, known)["dyn"].checkpoints
        assert ("new.safetensors" in names, bucket.lists) == (False, lists)
    bucket.keys.append("Stable-diffusion/new.safetensors")
    clock[0] = 11.0
    assert "new.safetensors" in with_bucket_checkpoints(asking("new"), RUNTIMES, known)["dyn"].checkpoints


@pytest.mark.parametrize(
    "document",
    [None, [], {"task": 1}, {"task": {"metadata": {"runtime": 1}, "content": {}}}, asking(5), asking("")],
)
def test_a_body_that_asks_for_no_model_changes_nothing(document: object) -> None:
    bucket = Bucket([])
    assert with_bucket_checkpoints(document, RUNTIMES, checkpoints(bucket, [0.0])) is RUNTIMES
    assert with_bucket_checkpoints(asking("x"), RUNTIMES, checkpoints(bucket, [0.0], "")) is RUNTIMES
    assert bucket.lists == 0


def row(**values: Any) -> Row:
    at = values.pop("at", NOW - 60_000)
    known = {
        "submitted_at": at,
        "ttl": at // 1000 + ROW_LIFE_SECONDS,
        "open_until": NOW - 1,
        "published": True,
    }
    return replace(Row("t", contract.QUEUED), **known | values)


LONG_AGO = NOW - RETENTION_MS - 10_000


@pytest.mark.parametrize(
    ("values", "need"),
    [
        ({"published": False}, Need.PUBLISH),
        ({"published": False, "open_until": NOW}, Need.NOTHING),
        ({}, Need.NOTHING),
        ({"deadline_at": NOW}, Need.EXPIRE),
        ({"deadline_at": NOW, "published": False}, Need.EXPIRE),
        ({"deadline_at": NOW + 1}, Need.NOTHING),
        ({"deadline_at": NOW, "started_at": NOW - 5}, Need.NOTHING),
        ({"at": LONG_AGO}, Need.EXPIRE),
        ({"at": LONG_AGO, "ttl": (NOW - 60_000) // 1000 + ROW_LIFE_SECONDS}, Need.NOTHING),
        ({"status": "running", "claim_until": NOW - 1, "deadline_at": NOW - 1}, Need.NOTHING),
        ({"status": "running", "claim_until": NOW - 1, "at": LONG_AGO}, Need.EXPIRE),
        ({"status": "running", "claim_until": NOW + 1, "at": LONG_AGO}, Need.NOTHING),
        ({"status": "completed"}, Need.NOTIFY),
        ({"status": "failed", "notified": True}, Need.NOTHING),
        ({"status": "expired", "at": LONG_AGO}, Need.NOTIFY),
        ({"cancel_requested": True}, Need.CANCEL),
        ({"cancel_requested": True, "open_until": NOW}, Need.NOTHING),
        ({"cancel_requested": True, "status": "running", "claim_until": NOW - 1}, Need.CANCEL),
        ({"cancel_requested": True, "status": "running", "claim_until": NOW + 1}, Need.NOTHING),
    ],
)
def test_what_an_overdue_row_needs(values: dict[str, Any], need: Need) -> None:
    assert need_of(row(**values), NOW) is need


@pytest.mark.parametrize(
    ("values", "need"),
    [
        ({"open_until": NOW + RETENTION_MS}, Need.EXPIRE),
        ({"published": False}, Need.EXPIRE),
        ({"status": "running", "claim_until": NOW - 1}, Need.EXPIRE),
        ({"status": "running", "claim_until": NOW + 1}, Need.NOTHING),
        ({"cancel_requested": True, "open_until": NOW + RETENTION_MS}, Need.CANCEL),
        ({"status": "completed"}, Need.NOTIFY),
        ({"status": "completed", "open_until": NOW}, Need.NOTHING),
    ],
)
def test_what_a_row_needs_whose_runtime_is_not_deployed_any_more(values: dict[str, Any], need: Need) -> None:
    assert need_of(row(**values), NOW, is_deployed=False) is need


def test_attributes_are_read_from_an_envelope_and_from_nothing_else() -> None:
    envelope = {
        "MessageAttributes": {"runtime": {"Type": "String", "Value": "x"}, "odd": 1, "no": {"Value": 5}}
    }
    assert envelope_attributes(json.dumps(envelope)) == {"runtime": "x"}
    for body in ("", "{", "[]", "1", '{"MessageAttributes": 5}', "[" * 100_000):
        assert envelope_attributes(body) == {}


def test_a_runtime_attribute_decides_alone() -> None:
    assert routed_runtime({"runtime": "WEB", "sd_model_checkpoint": "none"}, RUNTIMES) is RUNTIMES["web"]
    assert routed_runtime({"runtime": "gone", "sd_model_checkpoint": "a.safetensors"}, RUNTIMES) is None
    assert routed_runtime({"sd_model_checkpoint": "A.SAFETENSORS"}, RUNTIMES) is RUNTIMES["web"]
    assert routed_runtime({"sd_model_checkpoint": ""}, RUNTIMES) is None
    assert routed_runtime({}, RUNTIMES) is None


def test_a_missing_variable_is_named() -> None:
    with pytest.raises(KeyError, match="TASK_TABLE"):
        read_settings({})
