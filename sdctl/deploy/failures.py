"""What is to be done about a failure, from AWS's words for it: a table, first match wins; no effects.

CloudFormation passes a service's reason on as text, with the service's error code in it where there is one.
"""

from __future__ import annotations

import re
from typing import Final

_RUN_AGAIN: Final = "then run the same command again: it takes up where it is"
# Codes as the services document them, for example
# https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
# https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/troubleshooting.html
_KNOWN: Final = tuple(
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), advice)
    for pattern, advice in (
        (
            r"with an explicit deny in a service control policy",
            "your organization forbids {action}: ask its administrators, or use another account or region",
        ),
        (
            r"explicit deny in a permissions boundary|no permissions boundary allows",
            "the permissions boundary forbids {action}: widen it, or name another permissionsBoundaryArn",
        ),
        (
            r"AccessDenied|not authorized to perform|UnauthorizedOperation|is not authorized|Access Denied",
            "you may not do {action}: `sdctl iam policy --for deploy` prints what is needed",
        ),
        (
            r"VpcLimitExceeded|maximum number of VPCs",
            "the region has as many VPCs as it may have: raise the quota L-F678F1CE (VPCs per Region), "
            "delete one, or use an existing one with network.vpcId",
        ),
        (
            r"AddressLimitExceeded|maximum number of addresses",
            "the region has no Elastic IP address left: raise the quota L-0263D0A3, release one, or set "
            "network.natMode to single or none",
        ),
        (
            r"NatGatewayLimitExceeded|limit of NAT gateways|number of NAT gateways",
            "a zone has as many NAT gateways as it may have: raise the quota L-FE5A380F, or set "
            "network.natMode to single",
        ),
        (
            r"UnsupportedAvailabilityZoneException|does not support the specified availability zone"
            r"|availability zones? .{0,80}(?:cannot|does not currently) ",
            "EKS takes no cluster in one of these zones: name others in network.zones",
        ),
        (
            r"VcpuLimitExceeded|vCPU capacity than your current vCPU limit|MaxSpotInstanceCountExceeded",
            "the account may not run so many vCPUs: raise the quota that `sdctl doctor` names",
        ),
        (
            r"InsufficientInstanceCapacity|insufficient capacity|not have enough capacity"
            r"|InsufficientFreeAddresses|UnfulfillableCapacity",
            "AWS has no free capacity (or subnet addresses) for this now: wait, or use another instance "
            "type in clusterComponents.instanceType, or other zones in network.zones",
        ),
        (
            r"instance type .{0,80}(?:is not supported|not supported in)|Unsupported.{0,40}instance type"
            r"|InvalidInstanceType",
            "the region or a zone lacks this instance type: `sdctl doctor` lists where it is offered",
        ),
        (
            r"reserved ?concurren|UnreservedConcurrentExecution|ConcurrentExecutions",
            "the account allows too few concurrent Lambda executions: raise the quota L-B99A9384",
        ),
        (
            r"service[- ]linked role|AWSServiceRoleFor",
            "a service-linked role is missing and may not be made: an administrator has to run "
            "`aws iam create-service-linked-role` for the service that the reason names",
        ),
        (
            r"BucketAlreadyOwnedByYou|BucketAlreadyExists|bucket .{0,80}already (?:exists|owned)",
            "a bucket of this name exists: if it is left from an earlier deployment and nothing in it is "
            "needed, delete it; else choose another stackName",
        ),
        (
            r"AlreadyExists|already exists|EntityAlreadyExists|ResourceConflict|already in use"
            r"|already associated",
            "something else has this name: delete what an earlier deployment left, or choose another "
            "stackName",
        ),
        (
            r"DependencyViolation|has a dependent object|has dependencies and cannot be deleted"
            r"|BucketNotEmpty|bucket you tried to delete is not empty",
            "something that was not made by this stack still uses it: remove that",
        ),
        (
            r"LimitExceeded|ServiceQuotaExceeded|quota|limit (?:of|has been) |TooMany(?!Requests)",
            "a quota of the account is reached: raise the one that the reason names in Service Quotas",
        ),
        (
            r"Throttling|Rate exceeded|TooManyRequests|RequestLimitExceeded",
            "AWS was asked too often: wait a minute",
        ),
        (
            r"MalformedPolicyDocument|Invalid principal|principal .{0,80}does not exist",
            "a policy names a role or user that does not exist: check permissionsBoundaryArn and kmsKeyArn",
        ),
        (
            r"KMS|key .{0,80}(?:disabled|pending deletion|does not exist)",
            "the key of kmsKeyArn cannot be used: it must be enabled, in this region, and its policy must "
            "let the account use it",
        ),
        (
            r"(?:did not stabilize|NotStabilized|exceeded attempts to wait|timed? ?out)",
            "AWS gave up waiting for it: look at its own status in the console",
        ),
        (
            r"Internal ?(?:Failure|Error)|ServiceUnavailable|try again later",
            "this was AWS's own error",
        ),
    )
)  # fmt: skip
_ACTIONS: Final = (
    re.compile(r"not authorized to perform:? ([\w-]+:\w+)"),
    re.compile(r"authorization to perform:? ([\w-]+:\w+)"),
)
_UNKNOWN: Final = "mend what the first line names"


def hint_for(reason: str) -> str:
    """Say what to do about a failure, in one sentence that ends with running the command again."""
    advice = next((advice for pattern, advice in _KNOWN if pattern.search(reason)), _UNKNOWN)
    return f"{advice.replace('{action}', denied_action(reason))}, {_RUN_AGAIN}"


def denied_action(reason: str) -> str:
    """Return the action that a refusal names, as `ec2:CreateVpc`, or words for it where it names none."""
    found = next((match for pattern in _ACTIONS if (match := pattern.search(reason))), None)
    return found[1] if found else "what the reason names"
