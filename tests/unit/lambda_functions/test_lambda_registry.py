"""The list of deployed runtimes: when it is read, when it is not, and what holds while it cannot be read."""

from __future__ import annotations

import json
from typing import Any

import botocore.session
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from sdctl.contract import RuntimeInfo
from sdctl_lambda.aws import Aws
from sdctl_lambda.registry import (
    FAILED_PAUSE_SECONDS,
    MAX_AGE_SECONDS,
    UNKNOWN_AGE_SECONDS,
    BadEntryError,
    Registry,
    read_entry,
)

PATH = "/sdctl/farm/runtimes"
THROTTLED = ClientError(
    {"Error": {"Code": "ThrottlingException", "Message": "secret"}}, "GetParametersByPath"
)
SILENT = ReadTimeoutError(endpoint_url="https://secret.example")


class Store:
    """Parameter Store as the registry sees it, and the clock."""

    def __init__(self, *names: str) -> None:
        self.names = list(names)
        self.failure: Exception | None = None
        self.reads = 0
        self.now = 1000.0

    def client(self, service: str) -> Store:
        assert service == "ssm"
        return self

    def get_parameters_by_path(self, *, Path: str, MaxResults: int, NextToken: str = "0") -> dict[str, Any]:
        assert (Path, MaxResults) == (PATH, 10)
        self.reads += NextToken == "0"
        if self.failure:
            raise self.failure
        first = int(NextToken)
        page = [{"Value": json.dumps({"name": name, "type": "sdwebui"})} for name in self.names]
        rest = {"NextToken": str(first + MaxResults)} if len(page) > first + MaxResults else {}
        return {"Parameters": page[first : first + MaxResults], **rest}


def registry_of(store: Any) -> Registry:
    return Registry(store, PATH, clock=lambda: store.now)


def knows(name: str) -> Any:
    return lambda runtimes: name in runtimes


def test_the_list_is_read_once_and_every_page_of_it() -> None:
    store = Store(*(f"runtime-{number}" for number in range(25)))
    registry = registry_of(store)
    assert store.reads == 0
    assert len(registry.runtimes()) == 25
    store.now += MAX_AGE_SECONDS
    assert registry.runtimes(knows("runtime-24"))["runtime-24"].name == "runtime-24"
    assert store.reads == 1


def test_an_old_list_is_read_again() -> None:
    store = Store("a")
    registry = registry_of(store)
    registry.runtimes()
    store.names = ["b"]
    store.now += MAX_AGE_SECONDS + 0.1
    assert set(registry.runtimes()) == {"b"}


def test_a_runtime_that_is_not_listed_is_looked_for_at_once_but_not_again_and_again() -> None:
    store = Store("a")
    registry = registry_of(store)
    registry.runtimes()
    store.names = ["a", "new"]
    store.now += UNKNOWN_AGE_SECONDS + 0.1
    assert "new" in registry.runtimes(knows("new"))
    for _ in range(5):
        assert "nobody" not in registry.runtimes(knows("nobody"))
    assert store.reads == 2


@pytest.mark.parametrize("failure", [THROTTLED, SILENT])
def test_a_list_that_cannot_be_read_again_is_used_as_it_was(failure: Exception, capsys: Any) -> None:
    store = Store("a")
    registry = registry_of(store)
    registry.runtimes()
    store.failure = failure
    store.now += MAX_AGE_SECONDS + 1
    for _ in range(3):
        assert set(registry.runtimes(knows("a"))) == {"a"}
    assert store.reads == 2, "a failing service is not asked at every request"
    store.now += FAILED_PAUSE_SECONDS + 1
    assert set(registry.runtimes(knows("a"))) == {"a"}
    assert store.reads == 3
    store.failure, store.names = None, ["b"]
    store.now += FAILED_PAUSE_SECONDS + 1
    assert set(registry.runtimes()) == {"b"}
    assert "secret" not in capsys.readouterr().out


def test_nobody_is_told_that_a_runtime_is_missing_from_a_list_that_could_not_be_read() -> None:
    store = Store("a")
    registry = registry_of(store)
    registry.runtimes()
    store.failure = THROTTLED
    store.now += UNKNOWN_AGE_SECONDS + 1
    for _ in range(3):
        with pytest.raises(ClientError):
            registry.runtimes(knows("new"))
    assert store.reads == 2
    assert set(registry.runtimes(knows("a"))) == {"a"}


def test_without_any_list_every_request_tries_and_fails_in_the_services_words() -> None:
    store = Store()
    store.failure = THROTTLED
    registry = registry_of(store)
    for _ in range(2):
        with pytest.raises(ClientError):
            registry.runtimes()
    assert store.reads == 2
    store.failure, store.names = None, ["a"]
    assert set(registry.runtimes()) == {"a"}


@pytest.mark.parametrize("text", ["", "[]", "1", "{}", '{"name":"a"}', '{"name":1,"type":"x"}', "{"])
def test_an_entry_that_no_stack_wrote_is_a_list_that_cannot_be_read(text: str) -> None:
    with pytest.raises(BadEntryError):
        read_entry(text)


def test_an_entry_is_read_as_it_was_written() -> None:
    text = '{"name":"Web","type":"sdwebui","checkpoint":"m","dynamic":true,"checkpoints":["m"]}'
    assert read_entry(text) == RuntimeInfo("Web", "sdwebui", "m", dynamic=True, checkpoints=("m",))
    assert read_entry('{"name":"c","type":"comfyui"}') == RuntimeInfo("c", "comfyui")


def test_the_short_model_of_the_service_says_what_botocores_own_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "cn-north-1")
    client = Aws().client("ssm")
    own = client.meta.service_model
    theirs = botocore.session.get_session().get_service_model("ssm")
    assert {**theirs.metadata, **own.metadata} == theirs.metadata
    (name,) = own.operation_names
    mine, whole = own.operation_model(name), theirs.operation_model(name)
    assert mine.http == whole.http
    for side in ("input_shape", "output_shape"):
        members, known = getattr(mine, side).members, getattr(whole, side).members
        assert {key: shape.type_name for key, shape in members.items()}.items() <= {
            key: shape.type_name for key, shape in known.items()
        }.items()
    entry = mine.output_shape.members["Parameters"].member.members
    assert set(entry) <= set(whole.output_shape.members["Parameters"].member.members)
    assert client.meta.endpoint_url == "https://ssm.cn-north-1.amazonaws.com.cn"
