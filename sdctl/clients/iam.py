"""IAM: who the credentials are, which roles exist, and what a principal may do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, NotFoundError

PrincipalKind = Literal["role", "user", "root", "federated"]
# Roles of IAM Identity Center lie below a path that a session's ARN does not show:
# https://docs.aws.amazon.com/singlesignon/latest/userguide/using-service-linked-roles.html
_HIDDEN_PATH_PREFIX: Final = "AWSReservedSSO_"
_TAKEN_TEXT: Final = "has been taken in this account"
# How many actions one simulation is asked about; its answer is paged anyway.
_BATCH: Final = 100


@dataclass(frozen=True, slots=True)
class Identity:
    """Whom AWS takes the credentials for.

    `arn` is what it calls them, of a session where there is one; `principal_arn` the role or user behind
    them, which policies and EKS access entries name. `is_path_known` is false where the role's path could
    not be read, so that `principal_arn` may lack it.
    """

    account: str
    arn: str
    principal_arn: str
    kind: PrincipalKind
    is_path_known: bool = True


@dataclass(frozen=True, slots=True)
class Wish:
    """Actions that a principal needs on resources, as one statement of a policy."""

    actions: tuple[str, ...]
    resources: tuple[str, ...] = ("*",)


@dataclass(frozen=True, slots=True)
class Denied:
    """An action that a principal may not do; `is_explicit` where a statement forbids it."""

    action: str
    is_explicit: bool = False


class Iam:
    """The reads that a look before a deploy makes, typed."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; clients are made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("iam")

    def identity(self) -> Identity:
        """Find out whom the credentials belong to.

        Raises:
            AwsError: there are none, or AWS does not take them.
        """
        with aws_errors("find out whose credentials these are"):
            answer = self._aws.client("sts").get_caller_identity()
        return self.identity_of(str(answer["Account"]), str(answer["Arn"]))

    def identity_of(self, account: str, arn: str) -> Identity:
        """Find the role or user behind a caller's ARN; only a session's role is looked up."""
        kind, name = principal_of(arn)
        if kind != "role":
            return Identity(account, arn, arn, kind)
        guess = f"arn:{arn.split(':')[1]}:iam::{account}:role/{name}"
        try:
            with aws_errors(f"read the role {name}"):
                found = str(self._client.get_role(RoleName=name)["Role"]["Arn"])
        except (AwsError, NotFoundError):
            # Not allowed to look: right but for roles below a path.
            return Identity(account, arn, guess, kind, not name.startswith(_HIDDEN_PATH_PREFIX))
        return Identity(account, arn, found, kind)

    def role_exists(self, name: str) -> bool:
        """Tell whether a role exists."""
        try:
            with aws_errors(f"look for the role {name}"):
                self._client.get_role(RoleName=name)
        except NotFoundError:
            return False
        return True

    def create_service_role(self, service: str) -> None:
        """Make the service-linked role of an AWS service, as `spot.amazonaws.com`, unless it is there.

        https://docs.aws.amazon.com/IAM/latest/APIReference/API_CreateServiceLinkedRole.html
        """
        try:
            with aws_errors(f"make the service-linked role of {service}"):
                self._client.create_service_linked_role(AWSServiceName=service)
        except AwsError as error:
            # IAM's code for a role that exists is one that it has for other things too.
            is_taken = error.aws_code == "InvalidInput" and _TAKEN_TEXT in error.message
            if not is_taken and error.aws_code != "EntityAlreadyExists":
                raise

    def denied(self, principal_arn: str, wishes: Sequence[Wish]) -> tuple[Denied, ...]:
        """Return what a principal may not do of what it needs, by simulating its policies.

        A denial that hangs on a condition whose value only the real call has is no denial here.

        Args:
            principal_arn: a role or user, no session.
            wishes: what it needs.

        Raises:
            AwsError: the simulation itself is not allowed.
        """
        found: dict[str, Denied] = {}
        for wish in wishes:
            actions = iter(wish.actions)
            while batch := list(islice(actions, _BATCH)):
                for result in self._simulate(principal_arn, batch, wish.resources):
                    decision = result["EvalDecision"]
                    if decision == "allowed" or result.get("MissingContextValues"):
                        continue
                    action = str(result["EvalActionName"])
                    found[action] = Denied(action, decision == "explicitDeny")
        return tuple(found[action] for action in sorted(found))

    def _simulate(
        self, principal_arn: str, actions: list[str], resources: Sequence[str]
    ) -> Iterator[dict[str, Any]]:
        with aws_errors("simulate the permissions"):
            pages = self._client.get_paginator("simulate_principal_policy").paginate(
                PolicySourceArn=principal_arn,
                ActionNames=actions,
                ResourceArns=list(resources),
                ContextEntries=[
                    {
                        "ContextKeyName": "aws:RequestedRegion",
                        "ContextKeyType": "string",
                        "ContextKeyValues": [self._aws.region],
                    }
                ],
            )
            for page in pages:
                yield from page["EvaluationResults"]


def wishes_of(document: Mapping[str, Any]) -> tuple[Wish, ...]:
    """Read a policy document as what its holder needs: one wish a statement that allows.

    A resource with a policy variable names something only where the policy is attached: it is left out.
    """
    wishes = []
    for statement in document["Statement"]:
        resources = tuple(one for one in statement["Resource"] if "${" not in one)
        if statement["Effect"] == "Allow" and resources:
            wishes.append(Wish(tuple(statement["Action"]), resources))
    return tuple(wishes)


def principal_of(arn: str) -> tuple[PrincipalKind, str]:
    """Read what kind of principal a caller's ARN names, and its name; the session's own name is dropped.

    Raises:
        AwsError: it is none that we know.
    """
    kinds: tuple[tuple[PrincipalKind, str], ...] = (
        ("role", r"arn:[\w-]+:sts::\d+:assumed-role/([^/]+)/.+"),
        ("user", r"arn:[\w-]+:iam::\d+:user/(?:.+/)?([^/]+)"),
        ("root", r"arn:[\w-]+:iam::\d+:(root)"),
        ("federated", r"arn:[\w-]+:sts::\d+:federated-user/(.+)"),
    )
    for kind, pattern in kinds:
        match = re.fullmatch(pattern, arn)
        if match:
            return kind, match[1]
    raise AwsError(f"the caller {arn} is no role, user or session that sdctl knows")
