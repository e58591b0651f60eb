"""Which names a bucket may have, and whose bucket is taken for ours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from botocore.stub import Stubber

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.buckets import Buckets, name_problem
from sdctl.clients.s3 import S3
from sdctl.errors import AwsError, ConflictError

ACCOUNT = "123456789012"
HEAD = {"Bucket": "models", "ExpectedBucketOwner": ACCOUNT}


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Aws:
    found = Aws(AwsAccess(region="us-west-2"))
    monkeypatch.setattr(found, "account_id", lambda: ACCOUNT)
    return found


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("ab", "it has 2 characters"), ("x" * 64, "it has 64 characters"), ("No-Capitals", "'C' 'N'"),
        ("under_score", "'_'"), ("a/b", "'/'"), ("b\u00fccher", "'\u00fc'"), ("with space", "' '"),
        ("-hyphen", "begin and end"), ("hyphen-", "begin and end"), (".dot", "begin and end"),
        ("a..b", "two dots"), ("192.168.5.4", "IP address"), ("xn--models", "xn--"),
        ("sthree-models", "sthree-"), ("amzn-s3-demo-x", "amzn-s3-demo-"), ("models-s3alias", "-s3alias"),
        ("models--ol-s3", "--ol-s3"), ("models.mrap", ".mrap"), ("models--x-s3", "--x-s3"),
        ("models--table-s3", "--table-s3"),
    ],
)  # fmt: skip
def test_each_of_s3s_rules_for_names_is_told(name: str, problem: str) -> None:
    assert problem in name_problem(name)


@pytest.mark.parametrize("name", ["abc", "my.models", "0-models-9", "x" * 63, "sdoneks-model-bucket-1a2b"])
def test_names_that_s3_allows_have_no_problem(name: str) -> None:
    assert name_problem(name) == ""


def test_a_bucket_that_someone_else_made_under_our_name_and_opened_is_not_ours(aws: Aws) -> None:
    """It would answer to us; S3 refuses because we say whose it must be."""
    with Stubber(aws.client("s3")) as stubber:
        stubber.add_client_error("head_bucket", "403", "Forbidden", 403, expected_params=HEAD)
        with pytest.raises(ConflictError, match="someone else"):
            Buckets(aws).ensure("models", {})
        stubber.assert_no_pending_responses()


def test_a_bucket_that_a_user_names_may_be_of_another_account(aws: Aws) -> None:
    with Stubber(aws.client("s3")) as stubber:
        stubber.add_response("head_bucket", {"BucketRegion": "us-west-2"}, {"Bucket": "shared"})
        assert S3(aws).bucket_region("shared") == "us-west-2"


def test_a_name_that_was_taken_between_the_look_and_the_making_is_said_so(aws: Aws) -> None:
    with Stubber(aws.client("s3")) as stubber:
        stubber.add_client_error("head_bucket", "404", "Not Found", 404, expected_params=HEAD)
        stubber.add_client_error("create_bucket", "BucketAlreadyExists", "taken", 409)
        with pytest.raises(ConflictError, match="someone else"):
            Buckets(aws).ensure("models", {})


def test_a_refusal_of_another_kind_keeps_its_reason(aws: Aws) -> None:
    with Stubber(aws.client("s3")) as stubber:
        stubber.add_client_error("head_bucket", "404", "Not Found", 404, expected_params=HEAD)
        stubber.add_client_error("create_bucket", "TooManyBuckets", "You have 10000 already", 400)
        with pytest.raises(AwsError, match="You have 10000 already"):
            Buckets(aws).ensure("models", {})


@pytest.mark.parametrize(
    ("statement", "is_enough"),
    [
        ({"Action": "s3:*", "Principal": "*"}, True), ({"Action": "*", "Principal": {"AWS": "*"}}, True),
        ({"Action": "s3:GetObject", "Principal": "*"}, False),
        ({"Action": "s3:*", "Principal": {"AWS": f"arn:aws:iam::{ACCOUNT}:root"}}, False),
    ],
)  # fmt: skip
def test_only_a_statement_that_denies_everyone_everything_makes_a_bucket_take_tls_alone(
    aws: Aws, statement: dict[str, Any], is_enough: bool
) -> None:
    whole = {"Effect": "Deny", "Resource": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [{**whole, **statement}]})
    with Stubber(aws.client("s3")) as stubber:
        stubber.add_response("get_bucket_policy", {"Policy": policy})
        if not is_enough:
            stubber.add_response("put_bucket_policy", {})
        assert Buckets(aws)._add_tls_only("models") is not is_enough
        stubber.assert_no_pending_responses()
