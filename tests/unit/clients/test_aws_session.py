"""The session, and botocore's errors in our words."""

from __future__ import annotations

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError, ProfileNotFound
from botocore.parsers import ResponseParserError

from sdctl.clients.aws import Aws, AwsAccess, aws_errors
from sdctl.clients.cloudformation import busy_is_conflict, is_no_change
from sdctl.errors import AwsError, ConfigError, ConflictError, NotFoundError, SdctlError


def client_error(code: str, text: str = "because", operation: str = "DoIt") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": text}}, operation)


def translated(error: Exception) -> SdctlError:
    with pytest.raises(SdctlError) as caught, aws_errors("do it"):
        raise error
    assert caught.value.__cause__ is error
    return caught.value


@pytest.mark.parametrize(
    ("code", "text", "kind"),
    [
        ("NoSuchBucket", "", NotFoundError),
        ("404", "", NotFoundError),
        ("ResourceNotFoundException", "", NotFoundError),
        ("InvalidSnapshot.NotFound", "", NotFoundError),
        ("AWS.SimpleQueueService.NonExistentQueue", "", NotFoundError),
        ("ValidationError", "Stack with id x does not exist", NotFoundError),
        ("ValidationError", "Template format error", AwsError),
        ("BucketAlreadyExists", "", ConflictError),
        ("OperationInProgressException", "", ConflictError),
        ("AccessDenied", "", AwsError),
    ],
)
def test_an_error_is_translated_by_its_code(code: str, text: str, kind: type[SdctlError]) -> None:
    assert type(translated(client_error(code, text))) is kind


def test_a_refusal_keeps_operation_and_code_and_says_what_was_tried() -> None:
    error = translated(client_error("AccessDenied", "not yours"))
    assert isinstance(error, AwsError)
    assert error.message == "could not do it: not yours (AccessDenied)"
    assert (error.operation, error.aws_code, error.exit_code) == ("DoIt", "AccessDenied", 5)


def test_expired_credentials_come_with_a_way_out() -> None:
    assert "--profile" in translated(client_error("ExpiredToken")).hint
    assert "--profile" in translated(ProfileNotFound(profile="x")).hint
    assert isinstance(translated(ProfileNotFound(profile="x")), ConfigError)
    assert "--target local" in translated(NoCredentialsError()).hint


def test_no_answer_is_an_error_of_aws() -> None:
    error = translated(EndpointConnectionError(endpoint_url="http://127.0.0.1:1"))
    assert isinstance(error, AwsError)
    assert error.aws_code == "EndpointConnectionError"


def test_an_answer_that_is_not_awss_is_an_error_without_its_page() -> None:
    error = translated(ResponseParserError("Unable to parse response: <!doctype html>…"))
    assert isinstance(error, AwsError)
    assert "doctype" not in error.message
    assert "PROXY" in error.hint


def test_a_page_in_place_of_a_reason_is_not_shown() -> None:
    assert translated(client_error("502", "<!DOCTYPE html><h1>Bad gateway</h1>")).message == (
        "could not do it: what answered is not AWS, but a page (502)"
    )


def test_an_error_of_ours_passes_through() -> None:
    with pytest.raises(KeyError), aws_errors("do it"):
        raise KeyError("x")


def test_a_stack_at_work_is_a_conflict() -> None:
    text = "Stack:arn:aws:cloudformation:x is in UPDATE_IN_PROGRESS state and can not be updated."
    with pytest.raises(ConflictError, match="another operation on the stack s"), busy_is_conflict("s"), \
            aws_errors("change it"):  # fmt: skip
        raise client_error("ValidationError", text)
    with pytest.raises(AwsError), busy_is_conflict("s"), aws_errors("change it"):
        raise client_error("ValidationError", "Template format error")


@pytest.mark.parametrize(
    ("reason", "is_none"),
    [
        ("The submitted information didn't contain changes. Submit different information.", True),
        ("No updates are to be performed.", True),
        ("Template error: unresolved resource dependencies", False),
    ],
)
def test_the_texts_by_which_aws_says_that_nothing_changes(reason: str, is_none: bool) -> None:
    assert is_no_change(reason) is is_none


def test_clients_are_made_once_and_speak_to_the_given_endpoint() -> None:
    access = AwsAccess("us-west-2", endpoint_url="http://127.0.0.1:9", access_key="a", secret_key="hidden")
    aws = Aws(access)
    assert aws.client("sqs") is aws.client("sqs")
    assert aws.client("sqs").meta.endpoint_url == "http://127.0.0.1:9"
    assert aws.client("sqs").meta.region_name == aws.region == "us-west-2"
    assert "hidden" not in repr(access)


@pytest.mark.parametrize(("region", "partition"), [("eu-central-1", "aws"), ("cn-north-1", "aws-cn")])
def test_the_partition_follows_the_region(region: str, partition: str) -> None:
    assert Aws(AwsAccess(region)).partition == partition
