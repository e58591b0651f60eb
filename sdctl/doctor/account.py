"""Rules about the account: credentials, region, service-linked roles, permissions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sdctl.clients.ec2 import SPOT
from sdctl.contract import nearest
from sdctl.doctor.check import Check, Topic
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.doctor.needs import SERVICE_ROLES, RuntimeNeed
from sdctl.reads import Unknown

CREDENTIALS: Final = Topic(
    "credentials", "everything is done as this role or user, which administers the cluster"
)
REGION: Final = Topic("region", "everything lies in one region, which must have EKS")
PERMISSIONS: Final = Topic(
    "permissions", "a deployment stops half-way at the first action that is not allowed"
)
_CHINA: Final = Topic("china", "what lies outside of China is slow or out of reach there")
_SHOWN_ACTIONS: Final = 8
_CONNECT: Final = "check the network, the proxy (HTTPS_PROXY) and the region's name"
_NOT_ENABLED: Final = "a region that the account has not enabled answers the same: aws account enable-region"
_SIGN_IN: Final = "sign in (aws configure, or aws sso login), or name another profile with --profile"


def no_region() -> Check:
    """Make the check of a region that nothing names."""
    return REGION.fail("no region is set", "pass -R REGION, or set AWS_DEFAULT_REGION")


def account_checks(facts: AwsFacts, needs: Sequence[RuntimeNeed], *, is_simulated: bool) -> Iterator[Check]:
    """Judge who calls, where, and what they may do.

    Args:
        facts: what was observed.
        needs: what the runtimes may start.
        is_simulated: whether the permissions were looked at.
    """
    yield _region(facts)
    yield _credentials(facts)
    for service, role in SERVICE_ROLES.items():
        if service.startswith(SPOT) and not any(SPOT in need.capacities for need in needs):
            continue
        yield _service_role(facts, service, role)
    if is_simulated:
        yield _permissions(facts)
    if facts.partition == "aws-cn":
        yield _CHINA.warn(
            "the deployment goes to China: API Gateway's own domain answers only with an ICP exception, and "
            "public registries and Hugging Face are hardly reachable",
            "copy images and charts first (sdctl image mirror), and submit with --via sns",
        )


def _region(facts: AwsFacts) -> Check:
    known = facts.known_regions
    if known and facts.region not in known:
        return REGION.warn(
            f"{facts.region} is no region that we know to have EKS{nearest(facts.region, list(known))}",
            "pass another one with -R, or update boto3 if the region is new",
        )
    return REGION.ok(f"{facts.region} (partition {facts.partition})")


def _credentials(facts: AwsFacts) -> Check:
    identity = facts.identity
    if isinstance(identity, Unknown):
        return CREDENTIALS.fail(identity.reason, _way_in(identity))
    found = f"{identity.arn} in account {identity.account}"
    if identity.kind == "federated":
        return CREDENTIALS.fail(
            f"{found}, a federated user", "use a role or a user: a cluster's access entries know no others"
        )
    if identity.kind == "root":
        return CREDENTIALS.warn(
            f"{found}, the root user",
            "use a role: nothing can restrict the root user, nor a leak of its keys",
        )
    if not identity.is_path_known:
        return CREDENTIALS.warn(
            f"{found}; the path of its role could not be read",
            "allow iam:GetRole on it, so that the cluster can name it as its administrator",
        )
    role = f" (role {identity.principal_arn})" if identity.kind == "role" else ""
    return CREDENTIALS.ok(f"{found}{role}")


def _way_in(problem: Unknown) -> str:
    if problem.is_unreachable:
        return _CONNECT
    return f"{_SIGN_IN}; {_NOT_ENABLED}" if problem.is_unknown_key else _SIGN_IN


def _service_role(facts: AwsFacts, service: str, role: str) -> Check:
    name = service.partition(".")[0]
    is_spot = name == SPOT
    why = "without it no spot instance starts" if is_spot else "EKS works through it"
    topic = Topic(f"service-role-{name}", why)
    exists = facts.service_roles.get(role, NOT_READ)
    if isinstance(exists, Unknown):
        return topic.unknown(exists)
    if exists:
        return topic.ok(f"the role {role} exists")
    # Who deploys has to be allowed to, which the check of the permissions tells.
    return topic.ok(f"the role {role} does not exist yet; {'deploy' if is_spot else 'EKS'} makes it")


def _permissions(facts: AwsFacts) -> Check:
    denied = facts.denied
    if isinstance(denied, Unknown):
        return PERMISSIONS.unknown(denied)
    if not denied:
        return PERMISSIONS.ok("the simulation allows every action of a deployment")
    names = [f"{one.action}{' (forbidden)' if one.is_explicit else ''}" for one in denied[:_SHOWN_ACTIONS]]
    more = f" and {len(denied) - _SHOWN_ACTIONS} more" if len(denied) > _SHOWN_ACTIONS else ""
    return PERMISSIONS.fail(
        f"{len(denied)} actions are not allowed: {', '.join(names)}{more}",
        "attach the policy that sdctl iam policy --for deploy prints; what is forbidden is so by a deny "
        "statement, a permissions boundary or the organisation",
    )
