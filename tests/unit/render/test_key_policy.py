"""The policy that a user's own key needs: the services that use it in their own name, per partition."""

from __future__ import annotations

import json
from typing import Any

import pytest

from sdctl.offline.files import Where, offline_plan, policy_files
from sdctl.render.key_policy import key_policy
from support.template_configs import config

ACCOUNT = "123456789012"


def statements(region: str) -> dict[str, dict[str, Any]]:
    return {one["Sid"]: one for one in key_policy(region, ACCOUNT)["Statement"]}


@pytest.mark.parametrize(
    ("region", "logs", "partition"),
    [
        ("us-west-2", "logs.us-west-2.amazonaws.com", "aws"),
        ("cn-north-1", "logs.cn-north-1.amazonaws.com.cn", "aws-cn"),
    ],
)
def test_services_and_partitions_are_called_as_the_region_calls_them(
    region: str, logs: str, partition: str
) -> None:
    found = statements(region)
    assert found["Logs"]["Principal"] == {"Service": logs}
    text = json.dumps(found)
    assert text.count("arn:") == text.count(f"arn:{partition}:") > 0


def test_only_the_account_itself_may_do_everything_and_services_are_bound_to_it() -> None:
    found = statements("us-west-2")
    assert [sid for sid, one in found.items() if "kms:*" in one["Action"]] == ["Account"]
    for sid, one in found.items():
        if "Service" in one["Principal"]:
            assert ACCOUNT in json.dumps(one["Condition"]), sid
    assert found["SystemNodesVolumes"]["Condition"] == {"Bool": {"kms:GrantIsForAWSResource": "true"}}


def test_it_is_rendered_where_a_key_is_configured() -> None:
    where = Where("us-east-1", ACCOUNT)
    for name, expected in (("key", True), ("guide", False)):
        files = policy_files(config(name), where, offline_plan(config(name), where, target="aws"))
        assert ("iam/key.json" in files) is expected
