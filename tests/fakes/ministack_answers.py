"""What ministack answers otherwise than AWS: names of service-linked roles, and filters that it ignores.

Touches ministack's private names: only the emulator's own process imports this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ministack.services import ec2, iam

Answer = tuple[int, Any, Any]
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_aws-services-that-work-with-iam.html
SERVICE_ROLES: Final = {
    "eks.amazonaws.com": "AWSServiceRoleForAmazonEKS",
    "eks-nodegroup.amazonaws.com": "AWSServiceRoleForAmazonEKSNodegroup",
    "spot.amazonaws.com": "AWSServiceRoleForEC2Spot",
}
# Filters by the key of the record that they look at.
_FILTERED: Final = {
    "vpc-id": "VpcId", "subnet-id": "SubnetId", "status": "Status", "vpc-endpoint-type": "VpcEndpointType",
}  # fmt: skip


def answer_as_aws_does() -> None:
    """Give service-linked roles their names, and look at filters that ministack ignores."""
    iam._IAM_HANDLERS["CreateServiceLinkedRole"] = _create_service_role
    for action, store, parameter in (
        ("DescribeNetworkInterfaces", ec2._network_interfaces, "NetworkInterfaceId"),
        ("DescribeVpcEndpoints", ec2._vpc_endpoints, "VpcEndpointId"),
        ("DescribeAddresses", ec2._addresses, "AllocationId"),
    ):
        ec2._ACTION_MAP[action] = _filtering(ec2._ACTION_MAP[action], store, parameter)


def _create_service_role(parameters: dict[str, list[str]]) -> Answer:
    service = parameters["AWSServiceName"][0]
    name = SERVICE_ROLES[service]
    if name in iam._roles:
        text = f"Service role name {name} has been taken in this account, please try a different suffix."
        return iam._error(400, "InvalidInput", text, ns="iam")  # type: ignore[no-any-return]
    answer: Answer = iam._create_service_linked_role(parameters)
    made = f"AWSServiceRoleFor{service.partition('.')[0].capitalize()}"
    record = iam._roles.pop(made)
    record |= {"RoleName": name, "Arn": record["Arn"].replace(made, name)}
    iam._roles[name] = record
    return answer


def _filtering(describe: Callable[[Any], Answer], store: Any, parameter: str) -> Callable[[Any], Answer]:
    def described(parameters: dict[str, list[str]]) -> Answer:
        filters = ec2._parse_filters(parameters)
        plain = {name: values for name, values in filters.items() if not name.startswith("tag")}
        if plain.keys() - _FILTERED.keys():
            raise NotImplementedError(f"filters {sorted(plain)}")
        named = ec2._parse_member_list(parameters, parameter)
        fitting = [
            name
            for name, record in store.items()
            if name in (named or [name])
            and ec2._resource_matches_tag_filters(name, filters)
            and all(record.get(_FILTERED[key]) in values for key, values in plain.items())
        ]
        if not filters:
            return describe(parameters)
        kept = {
            name: value for name, value in parameters.items() if not name.startswith((parameter, "Filter"))
        }
        return describe(kept | {f"{parameter}.{n}": [one] for n, one in enumerate(fitting or ["none"], 1)})

    return described
