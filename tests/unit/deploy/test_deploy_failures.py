"""What a failure's hint says, for the words in which AWS tells the common ones."""

from __future__ import annotations

import pytest

from sdctl.deploy.failures import denied_action, hint_for

DENIED = (
    "User: arn:aws:sts::123456789012:assumed-role/dev/me is not authorized to perform: ec2:CreateVpc on "
    "resource: "
    "arn:aws:ec2:us-west-2:123456789012:vpc/*"
)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        (f"{DENIED} with an explicit deny in a service control policy", "organization forbids ec2:CreateVpc"),
        (f"{DENIED} because no permissions boundary allows the action", "boundary forbids ec2:CreateVpc"),
        (f"{DENIED} because no identity-based policy allows the action", "you may not do ec2:CreateVpc"),
        ("API: iam:CreateRole Access Denied", "you may not do what the reason names"),
        (
            'Resource handler returned message: "The maximum number of VPCs has been reached. (Service: Ec2, '
            'Status Code: 400)" (HandlerErrorCode: ServiceLimitExceeded)', "network.vpcId",
        ),
        ("The maximum number of addresses has been reached. (AddressLimitExceeded)", "network.natMode"),
        ("This would exceed the limit of NAT gateways (NatGatewayLimitExceeded)", "L-FE5A380F"),
        (
            "Cannot create cluster 'x' because EKS does not support creating control plane instances in "
            "us-east-1e, the targeted availability zone. (UnsupportedAvailabilityZoneException)",
            "network.zones",
        ),
        (
            "You have requested more vCPU capacity than your current vCPU limit of 0 allows",
            "sdctl doctor",
        ),
        ("We currently do not have sufficient capacity (InsufficientInstanceCapacity)", "no free capacity"),
        ("Specified ReservedConcurrentExecutions for function decreases account's "
         "UnreservedConcurrentExecution below its minimum value of [10].", "L-B99A9384"),
        ("Amazon EKS Nodegroup was unable to assume the service-linked role", "role is missing"),
        ("sdoneks-assets-1 already exists (BucketAlreadyOwnedByYou)", "a bucket of this name exists"),
        ("/aws/eks/x/cluster already exists in stack arn:aws:cloudformation:…", "else has this name"),
        ("resource sg-1 has a dependent object (DependencyViolation)", "not made by this stack"),
        ("Cannot exceed quota for PoliciesPerRole: 10 (LimitExceeded)", "a quota of the account is reached"),
        ("Rate exceeded (Throttling)", "AWS was asked too often"),
        ("Resource of type 'AWS::EKS::Addon' did not stabilize.", "AWS gave up waiting"),
        ("Internal Failure", "AWS's own error"),
        ("no such thing", "mend what the first line names"),
    ],
)  # fmt: skip
def test_a_reason_has_its_advice_and_ends_with_the_same_command(reason: str, said: str) -> None:
    hint = hint_for(reason)
    assert said in hint
    assert hint.endswith("then run the same command again: it takes up where it is")


def test_the_action_that_was_refused_is_named() -> None:
    assert denied_action(DENIED) == "ec2:CreateVpc"
    assert denied_action("You are not authorized to perform this operation.") == "what the reason names"
