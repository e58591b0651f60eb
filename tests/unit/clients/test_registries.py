"""Signing in to private registries."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import pytest
from botocore.stub import Stubber
from moto import mock_aws

from sdctl.clients.aws import Aws, AwsAccess
from sdctl.clients.registries import RegistryLogin, ecr_login, is_ecr, registry_config
from sdctl.errors import AwsError

HOST = "123456789012.dkr.ecr.us-west-2.amazonaws.com"
CHINA = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn"


@pytest.mark.parametrize("host", [HOST, CHINA])
def test_ecr_registries_are_known_in_both_partitions(host: str) -> None:
    assert is_ecr(host)


@pytest.mark.parametrize("host", ["ghcr.io", "public.ecr.aws", f"{HOST}.evil.example", f"x.{HOST}", ""])
def test_nothing_else_is_given_a_password(host: str) -> None:
    assert not is_ecr(host)
    with pytest.raises(AwsError, match="is not an ECR registry"):
        ecr_login(Aws(AwsAccess(region="us-west-2")), host)


def test_the_password_is_ecrs_own() -> None:
    aws = Aws(AwsAccess(region="us-west-2"))
    token = b64encode(b"AWS:pass:word").decode()
    with Stubber(aws.client("ecr")) as stubber:
        stubber.add_response(
            "get_authorization_token", {"authorizationData": [{"authorizationToken": token}]}
        )
        assert ecr_login(aws, HOST) == RegistryLogin(HOST, "AWS", "pass:word")


@pytest.mark.parametrize("data", [[], [{}], [{"authorizationToken": "%%%"}]])
def test_an_answer_without_a_password_is_an_error(data: list[dict[str, str]]) -> None:
    aws = Aws(AwsAccess(region="us-west-2"))
    with Stubber(aws.client("ecr")) as stubber:
        stubber.add_response("get_authorization_token", {"authorizationData": data})
        with pytest.raises(AwsError, match="cannot be read"):
            ecr_login(aws, HOST)


def test_a_registry_of_another_region_is_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    client = Aws.client

    def spy(self: Aws, service: str) -> Any:
        asked.append((service, self.region))
        return client(self, service)

    monkeypatch.setattr(Aws, "client", spy)
    with mock_aws():
        assert ecr_login(Aws(AwsAccess(region="eu-central-1")), HOST).user == "AWS"
    assert asked == [("ecr", "us-west-2")]


def test_a_login_shows_its_password_only_in_the_file_for_it() -> None:
    login = RegistryLogin(HOST, "AWS", "secret")
    assert "secret" not in repr(login)
    assert b64decode(registry_config([login])["auths"][HOST]["auth"]) == b"AWS:secret"
