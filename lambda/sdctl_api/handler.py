"""The function's entry: one event in, one answer out, one log line; all failures end here."""

from __future__ import annotations

import functools
import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from sdctl import contract
from sdctl.contract import InvalidTaskError, Task
from sdctl.task_record import task_object
from sdctl_api import routes
from sdctl_api.asked import asked_checkpoint, asked_runtime
from sdctl_api.changes import Changer
from sdctl_api.checkpoints import BucketCheckpoints, with_bucket_checkpoints
from sdctl_api.exchange import ApiError, Request, answer, error_answer, invalid, read_json, read_request
from sdctl_api.links import Links
from sdctl_api.listing import list_page, parse_page
from sdctl_api.submit import Submitter, answer_v1alpha1, answer_v1alpha2
from sdctl_api.uploads import parse_upload
from sdctl_lambda.aws import AWS_ERRORS, Aws, is_throttled
from sdctl_lambda.contents import Contents
from sdctl_lambda.envelopes import taker_of
from sdctl_lambda.log_lines import log_line, where
from sdctl_lambda.registry import Registry, Runtimes
from sdctl_lambda.settings import Settings, read_settings
from sdctl_lambda.table import Table
from sdctl_lambda.topics import Topics

Document = dict[str, Any]


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


class Api:
    """The operations of the API, each from a request to (status, document)."""

    def __init__(self, settings: Settings, aws: Aws, now_ms: Callable[[], int] = _clock_ms) -> None:
        self._settings = settings
        self._table = Table(aws, settings.table)
        topics = Topics(aws, input_arn=settings.input_topic_arn, output_arn=settings.output_topic_arn)
        contents = Contents(aws, settings.output_bucket)
        self._registry = Registry(aws, settings.runtimes_path)
        self._submitter = Submitter(self._table, topics, contents, now_ms)
        self._changer = Changer(self._table, topics, contents, now_ms, is_deployed=self._is_deployed)
        self._links = Links(aws, settings.output_bucket)
        self._checkpoints = BucketCheckpoints(aws, settings.model_bucket)
        # What the log line may name: the id of the task, once it is known to be one.
        self.task_id = ""

    def serve(self, route: str, request: Request) -> tuple[int, Document]:
        """Serve one request of a known route."""
        self.task_id = ""
        operations: Mapping[str, Callable[[Request], tuple[int, Document]]] = {
            routes.SUBMIT_V1ALPHA1: self._submit_v1alpha1,
            routes.SUBMIT_V1ALPHA2: self._submit_v1alpha2,
            routes.LIST_TASKS: self._list,
            routes.GET_TASK: self._get,
            routes.CANCEL_TASK: self._cancel,
            routes.RETRY_TASK: self._retry,
            routes.REQUEST_UPLOAD: self._upload,
        }
        return operations[route](request)

    def _submit_v1alpha1(self, request: Request) -> tuple[int, Document]:
        document = read_json(request)
        checkpoint = asked_checkpoint(document)
        runtimes = self._registry.runtimes(lambda known: not checkpoint or taker_of(checkpoint, known))
        task = self._named(contract.parse_v1alpha1(document, runtimes))
        accepted = self._submitter.submit(task)
        return 200, answer_v1alpha1(accepted, self._settings.output_bucket, task.route[1])

    def _submit_v1alpha2(self, request: Request) -> tuple[int, Document]:
        document = read_json(request)
        known = self._runtimes_with(asked_runtime(document))
        runtimes = with_bucket_checkpoints(document, known, self._checkpoints)
        task = self._named(contract.parse_v1alpha2(document, runtimes))
        return 200, answer_v1alpha2(self._submitter.submit(task), self._settings.output_bucket)

    def _runtimes_with(self, name: str) -> Runtimes:
        """Return the deployed runtimes; an empty name asks for none in particular."""
        return self._registry.runtimes(lambda known: not name or name.lower() in known)

    def _is_deployed(self, name: str) -> bool:
        return name.lower() in self._runtimes_with(name)

    def _named(self, task: Task) -> Task:
        self.task_id = task.id
        return task

    def _list(self, request: Request) -> tuple[int, Document]:
        runtimes = self._runtimes_with(request.query.get("runtime", ""))
        rows, cursor = list_page(self._table.query, parse_page(request.query, runtimes))
        return 200, {"tasks": [task_object(row) for row in rows], "cursor": cursor}

    def _get(self, request: Request) -> tuple[int, Document]:
        return 200, self._links.task_with_links(self._changer.get(self._id(request)))

    def _cancel(self, request: Request) -> tuple[int, Document]:
        return 202, task_object(self._changer.cancel(self._id(request)))

    def _retry(self, request: Request) -> tuple[int, Document]:
        return 202, task_object(self._changer.retry(self._id(request)))

    def _id(self, request: Request) -> str:
        task_id = request.parameters.get("id", "")
        if contract.ID_PATTERN.fullmatch(task_id):
            self.task_id = task_id
        return task_id

    def _upload(self, request: Request) -> tuple[int, Document]:
        upload = parse_upload(read_json(request))
        key = upload.key(uuid.uuid4().hex)
        return 200, self._links.upload(key, upload.content_type, upload.size_bytes, upload.sha256)


@functools.cache
def _api() -> Api:
    aws = Aws()
    for service in ("dynamodb", "sns"):
        aws.client(service)
    return Api(read_settings(os.environ), aws)


def handle(event: Mapping[str, Any], context: object) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Answer one request of API Gateway."""
    return respond(event, _api)


def respond(event: Mapping[str, Any], get_api: Callable[[], Api]) -> dict[str, Any]:
    """Answer one request: every failure in the contract's shape, an unexpected one without its text."""
    started = time.perf_counter()
    route, task_id = "none", ""
    details: dict[str, object] = {}
    try:
        request = read_request(event)
        route = routes.route_of(request)
        api = get_api()
        try:
            status, document = api.serve(route, request)
        finally:
            task_id = api.task_id
        response = answer(status, document)
    except ApiError as error:
        response = error_answer(error)
        details = {"code": error.code}
    except InvalidTaskError as error:
        response = error_answer(invalid(error.problems))
        details = {"code": "invalid_task"}
    except AWS_ERRORS as error:
        details = where(error)
        code = "throttled" if is_throttled(error) else "internal"
        text = "too many requests; try again" if code == "throttled" else "something failed on our side"
        response = error_answer(ApiError(code, text))
    except Exception as error:  # noqa: BLE001 - the process boundary: a bug is logged and answered 500
        details = where(error)
        response = error_answer(ApiError("internal", "something failed on our side"))
    milliseconds = round((time.perf_counter() - started) * 1000, 1)
    log_line("request", route=route, status=response["statusCode"], id=task_id, ms=milliseconds, **details)
    return response
