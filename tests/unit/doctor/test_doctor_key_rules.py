"""The user's own key: each rule's pass, warn and fail."""

from __future__ import annotations

from typing import Any

import pytest

from sdctl.clients.kms import Key
from sdctl.doctor.facts import NOT_READ
from sdctl.render.key_policy import key_policy
from support.doctor import ACCOUNT, DENIED, REGION, config, healthy, judged

ARN = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
WANTED = config(kmsKeyArn=ARN)
WHOLE = key_policy(REGION, ACCOUNT)


def without(sid: str) -> dict[str, Any]:
    return {"Statement": [one for one in WHOLE["Statement"] if one["Sid"] != sid]}


def key(policy: dict[str, Any] = WHOLE, state: str = "Enabled", spec: str = "SYMMETRIC_DEFAULT") -> Key:
    return Key(state, spec, policy)


@pytest.mark.parametrize(
    ("found", "result", "said"),
    [
        (key(), "pass", "open to the services"),
        (None, "fail", "does not exist"),
        (key(state="PendingDeletion"), "fail", "PendingDeletion"),
        (key(spec="RSA_2048"), "fail", "RSA_2048"),
        (key(without("Logs")), "fail", "leaves out CloudWatch Logs"),
        (key(without("Messages")), "fail", "leaves out topics and alarms"),
        (key({"Statement": WHOLE["Statement"][0]}), "fail", "CloudWatch Logs, topics and alarms, nodes of"),
        (DENIED, "warn", "not checked"),
        (NOT_READ, "warn", "not checked"),
    ],
)
def test_a_key_must_be_usable_by_the_services_that_encrypt(found: Any, result: str, said: str) -> None:
    check = judged(WANTED, healthy(WANTED, kms_key=found))["kms-key"]
    assert check.result == result
    assert said in check.found
    assert ("iam/key.json" in check.fix) == ("leaves out" in check.found)


def test_a_policy_may_say_the_same_in_other_words() -> None:
    services = ["logs.us-west-2.amazonaws.com", "sns.amazonaws.com", "cloudwatch.amazonaws.com"]
    role = (
        f"arn:aws:iam::{ACCOUNT}:role/aws-service-role/autoscaling.amazonaws.com/AWSServiceRoleForAutoScaling"
    )
    mine = {
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": services}, "Action": "kms:*", "Resource": "*"},
            {"Effect": "Allow", "Principal": {"AWS": role}, "Action": ["kms:*"], "Resource": "*"},
        ]
    }
    assert judged(WANTED, healthy(WANTED, kms_key=key(mine)))["kms-key"].result == "pass"
    denying = {"Statement": [one | {"Effect": "Deny"} for one in mine["Statement"]]}
    assert judged(WANTED, healthy(WANTED, kms_key=key(denying)))["kms-key"].result == "fail"


def test_without_a_key_of_ones_own_nothing_is_said_of_keys() -> None:
    assert "kms-key" not in judged()
