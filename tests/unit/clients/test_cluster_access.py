"""Tokens for EKS, checked by signing them again, and the cluster's address as EKS gives it."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64decode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from botocore.stub import Stubber

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.cluster_access import ClusterAccess, Token, TokenSource, find_cluster, make_token
from sdctl.errors import AwsError, ConflictError, NotFoundError
from support.eks_tokens import problem_with

ARN = "arn:aws:eks:us-west-2:123456789012:cluster/farm"


@pytest.fixture
def aws() -> Aws:
    return Aws(AwsAccess(region="us-west-2"))


@pytest.fixture
def eks(aws: Aws) -> Iterator[Stubber]:
    with Stubber(aws.client("eks")) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def address_in(token: Token) -> str:
    encoded = token.value.removeprefix("k8s-aws-v1.")
    return urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).decode()


def test_a_token_is_good_for_its_cluster_and_no_other(aws: Aws) -> None:
    token = make_token(aws, "farm").value
    assert problem_with(token, "farm") == ""
    assert problem_with(token, "other") == "wrong signature"


def test_a_token_is_not_good_after_a_quarter_of_an_hour(aws: Aws) -> None:
    token = make_token(aws, "farm")
    assert problem_with(token.value, "farm", now=token.expires_at) == ""
    late = datetime.now(UTC) + timedelta(minutes=16)
    assert problem_with(token.value, "farm", now=late) == "too old, or from the future"


@pytest.mark.parametrize(
    ("region", "host"),
    [("us-west-2", "sts.us-west-2.amazonaws.com"), ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn")],
)
def test_a_token_asks_the_regions_own_sts(region: str, host: str) -> None:
    assert address_in(make_token(Aws(AwsAccess(region=region)), "farm")).startswith(f"https://{host}/?")


def test_tokens_of_two_clusters_from_one_session_do_not_mix(aws: Aws) -> None:
    tokens = {name: make_token(aws, name).value for name in ("farm", "barn", "farm")}
    assert [problem_with(token, name) for name, token in tokens.items()] == ["", ""]


def test_the_session_still_asks_sts_for_other_things(aws: Aws) -> None:
    make_token(aws, "farm")
    with Stubber(aws.client("sts")) as stubber:
        stubber.add_response("get_caller_identity", {"Account": "123456789012"}, {})
        assert aws.account_id() == "123456789012"


def test_no_token_without_credentials(aws: Aws, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AwsError, match="no AWS credentials"):
        make_token(aws, "farm")


def test_a_token_does_not_show_itself(aws: Aws) -> None:
    assert "k8s-aws-v1" not in repr(make_token(aws, "farm"))


def test_a_source_makes_a_new_token_shortly_before_the_last_is_over() -> None:
    time = [datetime(2026, 11, 22, tzinfo=UTC)]
    made: list[Token] = []

    def make() -> Token:
        made.append(Token(f"t{len(made)}", time[0] + timedelta(minutes=14)))
        return made[-1]

    tokens = TokenSource(make, now=lambda: time[0])
    assert [tokens.current(), tokens.current()] == ["t0", "t0"]
    time[0] += timedelta(minutes=12, seconds=1)
    assert tokens.current() == "t1"


def test_a_refused_token_is_not_given_again_and_its_successor_stays() -> None:
    names = iter("abc")
    tokens = TokenSource(lambda: Token(next(names), datetime.max.replace(tzinfo=UTC)))
    tokens.discard(tokens.current())
    assert tokens.current() == "b"
    tokens.discard("a")
    assert tokens.current() == "b"


def test_a_cluster_is_found_with_its_address(aws: Aws, eks: Stubber) -> None:
    pem = b64encode(b"-----BEGIN CERTIFICATE-----").decode()
    found = {
        "name": "farm", "arn": ARN, "endpoint": "https://a.eks.amazonaws.com", "status": "ACTIVE",
        "certificateAuthority": {"data": pem},
    }  # fmt: skip
    eks.add_response("describe_cluster", {"cluster": found}, {"name": "farm"})
    access = find_cluster(aws, "farm")
    assert access == ClusterAccess("farm", ARN, "https://a.eks.amazonaws.com", pem, "us-west-2")
    assert access.authority_pem == "-----BEGIN CERTIFICATE-----"


def test_a_cluster_that_is_being_created_cannot_be_reached_yet(aws: Aws, eks: Stubber) -> None:
    eks.add_response("describe_cluster", {"cluster": {"name": "farm", "status": "CREATING"}})
    with pytest.raises(ConflictError, match="farm cannot be reached yet: it is CREATING"):
        find_cluster(aws, "farm")


def test_a_cluster_that_does_not_exist_is_not_found(aws: Aws, eks: Stubber) -> None:
    eks.add_client_error("describe_cluster", "ResourceNotFoundException", "No cluster found")
    with pytest.raises(NotFoundError, match="find the cluster farm in us-west-2"):
        find_cluster(aws, "farm")


def test_an_authority_that_is_no_base64_is_an_error() -> None:
    with pytest.raises(AwsError, match="authority of farm"):
        _ = ClusterAccess("farm", ARN, "https://x", "%%%", "us-west-2").authority_pem
