"""What the policy of a user's own key must hold: AWS's services use it in their own name, not in a role's.

The roles of the stacks get what they need by their own policies, for which the account itself (`root`) has to
be in the key's policy, as it is by default:
https://docs.aws.amazon.com/kms/latest/developerguide/key-policy-default.html
"""

from __future__ import annotations

from typing import Any, Final

from sdctl.config.rules import partition_of

_USE: Final = ("kms:Decrypt", "kms:DescribeKey", "kms:Encrypt", "kms:GenerateDataKey*", "kms:ReEncrypt*")


def key_policy(region: str, account: str) -> dict[str, Any]:
    """Build a key policy with which everything that a deployment encrypts works.

    Args:
        region: where the key and the deployment are.
        account: its 12 digits.
    """
    partition = partition_of(region)
    suffix = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    here = f"{region}:{account}"
    own_account: dict[str, Any] = {"StringEquals": {"aws:SourceAccount": account}}
    logs: dict[str, Any] = {
        "ArnLike": {"kms:EncryptionContext:aws:logs:arn": f"arn:{partition}:logs:{here}:log-group:*"}
    }
    # https://docs.aws.amazon.com/autoscaling/ec2/userguide/key-policy-requirements-EBS-encryption.html
    scaling = (
        f"arn:{partition}:iam::{account}:role/aws-service-role/autoscaling.amazonaws.com/"
        "AWSServiceRoleForAutoScaling"
    )
    return {
        "Version": "2012-10-17",
        "Statement": [
            _allow("Account", {"AWS": f"arn:{partition}:iam::{account}:root"}, ["kms:*"]),
            # https://docs.aws.amazon.com/AmazonCloudWatch/latest/logs/encrypt-log-data-kms.html
            _allow("Logs", {"Service": f"logs.{region}.{suffix}"}, _USE, logs),
            # Topics write to queues, and alarms to topics:
            # https://docs.aws.amazon.com/sns/latest/dg/sns-key-management.html
            _allow(
                "Messages",
                {"Service": ["cloudwatch.amazonaws.com", "sns.amazonaws.com"]},
                ["kms:Decrypt", "kms:GenerateDataKey*"],
                own_account,
            ),
            _allow("SystemNodes", {"AWS": scaling}, _USE),
            _allow(
                "SystemNodesVolumes",
                {"AWS": scaling},
                ["kms:CreateGrant"],
                {"Bool": {"kms:GrantIsForAWSResource": "true"}},
            ),
        ],
    }


def _allow(
    sid: str, principal: dict[str, Any], actions: tuple[str, ...] | list[str], condition: Any = None
) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": sid, "Effect": "Allow", "Principal": principal, "Action": list(actions), "Resource": "*",
    }  # fmt: skip
    return statement | ({"Condition": condition} if condition else {})
