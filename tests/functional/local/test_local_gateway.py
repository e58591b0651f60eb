"""The emulator's door over real HTTP: who gets in, and who does not."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from sdctl.clients.aws import AwsAccess
from sdctl.local.target import LocalTarget
from support.local_target import client


@pytest.fixture(scope="module")
def access(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsAccess]:
    folder = tmp_path_factory.mktemp("gateway")
    target = LocalTarget(folder, "stack", folder)
    yield target.up()
    target.down()


def call(
    access: AwsAccess, method: str, path: str, headers: Mapping[str, str] | None = None, body: Any = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(
        "127.0.0.1", int((access.endpoint_url or "").rpartition(":")[2]), 10
    )
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/?Action=ListQueues"), ("GET", "/some-bucket"), ("PUT", "/some-bucket"),
        ("GET", "/restapis"),
        ("POST", "/_ministack/reset"), ("POST", "/_ministack/config"), ("GET", "/_ministack/ready"),
        ("GET", "/_ministack/sqs/messages"), ("GET", "/_aws/sqs/messages"), ("GET", "/_localstack/init"),
        ("GET", "/_ministack/lambda-code/x/y/z"), ("POST", "/"), ("OPTIONS", "/"),
    ],
)  # fmt: skip
def test_what_is_not_signed_is_refused(access: AwsAccess, method: str, path: str) -> None:
    status, body = call(access, method, path, body=b"" if method != "GET" else None)
    assert (status, json.loads(body)["error"]["code"]) == (403, "forbidden")


def test_another_host_name_is_refused_even_for_the_task_api(access: AwsAccess) -> None:
    for path in ("/_ministack/health", "/_aws/execute-api/x/dev/v1alpha2", "/"):
        assert call(access, "GET", path, {"Host": "evil.example"})[0] == 421
    assert call(access, "GET", "/_ministack/health", {"Host": "127.0.0.1:1"})[0] == 421


def test_health_needs_no_key(access: AwsAccess) -> None:
    assert call(access, "GET", "/_ministack/health")[0] == 200


def test_a_client_that_sends_too_much_still_sees_the_answer(access: AwsAccess) -> None:
    body = b"x" * 16 * 1024 * 1024
    status, answer = call(access, "POST", "/_aws/execute-api/x/dev/v1alpha2", body=body)
    assert (status, json.loads(answer)["error"]["code"]) == (413, "too_large")


def test_a_body_beyond_api_gateways_limit_is_refused_stated_or_not(access: AwsAccess) -> None:
    path = "/_aws/execute-api/abc/dev/v1alpha2"
    status, body = call(access, "POST", path, {"Content-Length": str(11 * 1024 * 1024)})
    assert (status, json.loads(body)["error"]["code"]) == (413, "too_large")
    chunks = (b"x" * 1024 * 1024 for _ in range(11))
    assert call(access, "POST", path, body=chunks)[0] == 413


@pytest.mark.parametrize("service", ["sqs", "dynamodb", "lambda", "apigateway"])
def test_another_secret_is_refused(access: AwsAccess, service: str) -> None:
    stranger = client(access, service, aws_secret_access_key="guessed")
    call_of = {
        "sqs": "list_queues", "dynamodb": "list_tables", "lambda": "list_functions",
        "apigateway": "get_rest_apis",
    }  # fmt: skip
    with pytest.raises(ClientError) as error:
        getattr(stranger, call_of[service])()
    assert error.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_objects_go_in_and_out_by_signature_and_by_presigned_url(access: AwsAccess) -> None:
    s3 = client(access, "s3")
    s3.create_bucket(Bucket="door")
    key = "a/b c+ü&=.png"
    s3.put_object(Bucket="door", Key=key, Body=b"picture")
    assert s3.get_object(Bucket="door", Key=key)["Body"].read() == b"picture"
    assert [item["Key"] for item in s3.list_objects_v2(Bucket="door", Prefix="a/b c")["Contents"]] == [key]

    wanted = {"Bucket": "door", "Key": key, "ResponseContentDisposition": 'attachment; filename="x y"'}
    url = s3.generate_presigned_url("get_object", Params=wanted, ExpiresIn=60)
    path = url.partition("://")[2].partition("/")[2]
    assert call(access, "GET", f"/{path}") == (200, b"picture")
    assert call(access, "GET", f"/{path[:-4]}0000")[0] == 403
    assert call(access, "DELETE", f"/{path}")[0] == 403

    put = s3.generate_presigned_url("put_object", Params={"Bucket": "door", "Key": "up"}, ExpiresIn=60)
    assert call(access, "PUT", "/" + put.partition("://")[2].partition("/")[2], body=b"x" * 300_000)[0] == 200
    assert s3.head_object(Bucket="door", Key="up")["ContentLength"] == 300_000


def test_large_objects_pass_in_parts(access: AwsAccess, tmp_path: Path) -> None:
    s3 = client(access, "s3")
    s3.create_bucket(Bucket="models")
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"m" * 9 * 1024 * 1024)
    s3.upload_file(str(path), "models", "Stable-diffusion/model.safetensors")
    assert (
        s3.head_object(Bucket="models", Key="Stable-diffusion/model.safetensors")["ContentLength"]
        == 9 * 2**20
    )
