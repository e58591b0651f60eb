"""The wire format, pinned from outside: JSON files that every part must write or read as they stand.

The functions write messages, rows, task objects and errors; the agent reads messages and writes
notifications; the command line reads task objects and errors. A file that changes is a change for users.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sdctl import contract, task_record
from sdctl.contract import Problem, RuntimeInfo, Task
from sdctl.errors import ConflictError, NotFoundError, SdctlError
from sdctl.tasks.answers import object_of, parse_task
from sdctl.tasks.transport import Reply
from sdctl_api.exchange import STATUS_OF_CODE, ApiError, error_answer
from support.fronts import rendered

HERE = Path(__file__).parent
CHECKPOINT = "v1-5-pruned-emaonly.safetensors"
RUNTIMES = {
    "sdruntime": RuntimeInfo("sdruntime", "sdwebui", CHECKPOINT, checkpoints=(CHECKPOINT,)),
    "comfy": RuntimeInfo("comfy", "comfyui"),
}


def fixtures(folder: str) -> list[Any]:
    found = [
        pytest.param(json.loads(path.read_text(encoding="utf-8")), id=path.stem)
        for path in sorted((HERE / folder).glob("*.json"))
    ]
    assert found
    return found


def requested(name: str) -> Task:
    document = json.loads((HERE / "requests" / f"{name}.json").read_text(encoding="utf-8"))
    parse = contract.parse_v1alpha1 if name.startswith("v1alpha1") else contract.parse_v1alpha2
    return parse(document, RUNTIMES)


@pytest.mark.parametrize("fixture", fixtures("messages"))
def test_a_request_is_published_as_the_message(fixture: dict[str, Any]) -> None:
    task = requested(fixture["request"])
    if "pointer" in fixture:
        task = replace(task, pointer=tuple(fixture["pointer"]))
    assert list(task.route) == fixture["attribute"]
    assert json.loads(contract.message_body(task, inline="pointer" not in fixture)) == fixture["message"]


@pytest.mark.parametrize("is_raw", [True, False])
@pytest.mark.parametrize("fixture", fixtures("messages"))
def test_an_agent_reads_the_message_as_the_task_that_was_requested(
    fixture: dict[str, Any], is_raw: bool
) -> None:
    text = json.dumps(fixture["message"])
    if not is_raw:
        text = json.dumps({"Type": "Notification", "MessageId": "m", "TopicArn": "arn", "Message": text})
    task = contract.parse_message(text, runtime="sdruntime", task_types=contract.TASK_TYPES["sdwebui"])
    wanted = replace(requested(fixture["request"]), route=("runtime", "sdruntime"))
    if "pointer" in fixture:
        wanted = replace(wanted, content={}, pointer=tuple(fixture["pointer"]))
    assert (task, task.problems) == (wanted, ())


def test_every_task_type_of_the_contract_has_a_request() -> None:
    names = {path.stem for path in (HERE / "requests").glob("*.json")}
    assert {requested(name).tasktype for name in names} == set(contract.ALL_TASK_TYPES)


@pytest.mark.parametrize("fixture", fixtures("tasks"))
def test_a_row_is_told_as_the_task_object_and_the_notification(fixture: dict[str, Any]) -> None:
    row = task_record.row_from_item(fixture["item"])
    assert json.loads(json.dumps(task_record.task_object(row))) == fixture["task"]
    if fixture["notification"] is not None:
        text = task_record.result_notification(row)
        assert json.loads(text) == fixture["notification"]
        assert list(json.loads(text)) == list(fixture["notification"])
        attributes = task_record.notification_attributes(row)
        assert {name: value["StringValue"] for name, value in attributes.items()} == {
            "runtime": "sdruntime",
            "status": row.status,
        }


def test_every_status_of_the_contract_has_a_row() -> None:
    assert {path.stem for path in (HERE / "tasks").glob("*.json")} == set(contract.STATUSES)


@pytest.mark.parametrize("fixture", fixtures("tasks"))
def test_the_command_line_reads_the_task_object_and_shows_it_unchanged(fixture: dict[str, Any]) -> None:
    task = fixture["task"]
    answered = task | {"image_links": [None for _ in task["image_url"]], "output_link": None}
    assert parse_task(answered).document() == task | {"files": []}


@pytest.mark.parametrize("fixture", fixtures("errors"))
def test_an_error_is_answered_as_it_stands(fixture: dict[str, Any]) -> None:
    error = fixture["body"]["error"]
    if error["code"] == "unauthorized":
        return  # API Gateway's own answer, below
    problems = [Problem(**entry) for entry in error["fields"]]
    answer = error_answer(ApiError(error["code"], error["message"], problems))
    assert (answer["statusCode"], json.loads(answer["body"])) == (fixture["status"], fixture["body"])


def test_every_code_of_the_functions_and_of_the_gateway_has_an_error() -> None:
    pinned = {entry.values[0]["body"]["error"]["code"]: entry.values[0] for entry in fixtures("errors")}
    assert set(pinned) == set(STATUS_OF_CODE) | {"unauthorized"}
    for response in rendered("guide").template.document["Resources"].values():
        if response["Type"] == "AWS::ApiGateway::GatewayResponse":
            properties = response["Properties"]
            body = json.loads(properties["ResponseTemplates"]["application/json"])
            assert int(properties["StatusCode"]) == pinned[body["error"]["code"]]["status"]


@pytest.mark.parametrize("fixture", fixtures("errors"))
def test_the_command_line_understands_the_error(fixture: dict[str, Any]) -> None:
    status, error = fixture["status"], fixture["body"]["error"]
    with pytest.raises(SdctlError) as caught:
        object_of(Reply(status, {}, json.dumps(fixture["body"]).encode()))
    kinds = {404: NotFoundError, 409: ConflictError}
    assert isinstance(caught.value, kinds.get(status, SdctlError))
    assert error["message"] in str(caught.value)
    code = getattr(caught.value, "api_code", None) or caught.value.code
    assert code == error["code"]
