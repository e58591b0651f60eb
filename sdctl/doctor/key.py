"""The rule about a key of the user's own: AWS's services must be able to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from sdctl.clients.kms import Key
from sdctl.config.model import Config
from sdctl.doctor.check import Check, Topic
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.reads import Unknown
from sdctl.render.key_policy import key_policy

KEY: Final = Topic("kms-key", "what is stored is encrypted with it, by AWS's services in their own name")
# What each of our statements is for, in words.
_USERS: Final = {
    "Logs": "CloudWatch Logs", "Messages": "topics and alarms", "SystemNodes": "nodes of EC2 Auto Scaling",
    "SystemNodesVolumes": "volumes of EC2 Auto Scaling",
}  # fmt: skip
_ADD: Final = "add the statements of iam/key.json, which sdctl render --out DIR writes, to the key's policy"


def key_checks(config: Config, facts: AwsFacts) -> Iterator[Check]:
    """Judge the configured key, if there is one."""
    if config.kms_key_arn:
        yield _judged(config.kms_key_arn, facts)


def _judged(arn: str, facts: AwsFacts) -> Check:
    if isinstance(facts.identity, Unknown):
        return KEY.unknown(NOT_READ)
    key = facts.kms_key
    if isinstance(key, Unknown):
        return KEY.unknown(key)
    if key is None:
        return KEY.fail(f"{arn} does not exist", "correct kmsKeyArn, or leave it out")
    if key.state != "Enabled":
        return KEY.fail(f"{arn} is {key.state}", "enable it, or name another one as kmsKeyArn")
    if key.spec != "SYMMETRIC_DEFAULT":
        return KEY.fail(f"{arn} is {key.spec}", "name a symmetric key that encrypts and decrypts")
    account = arn.split(":")[4]
    missing = [_USERS[sid] for sid in missing_statements(key, facts.region, account)]
    if missing:
        return KEY.fail(f"the key's policy leaves out {', '.join(missing)}", _ADD)
    return KEY.ok(f"{arn} is enabled, and open to the services that need it")


def missing_statements(key: Key, region: str, account: str) -> tuple[str, ...]:
    """Name the statements of `key_policy` that a key's policy has nothing for; conditions are not judged."""
    found = key.policy.get("Statement", [])
    given = [found] if isinstance(found, Mapping) else list(found)
    allowing = [one for one in given if one.get("Effect") == "Allow"]
    return tuple(
        wanted["Sid"]
        for wanted in key_policy(region, account)["Statement"]
        if wanted["Sid"] in _USERS and not _covered(wanted, allowing)
    )


def _covered(wanted: Mapping[str, Any], allowing: list[Mapping[str, Any]]) -> bool:
    """Tell whether every principal is allowed every action, be it by several statements."""
    return all(
        any(_names(one, kind, principal) and _allows(one, action) for one in allowing)
        for kind, listed in wanted["Principal"].items()
        for principal in _list(listed)
        for action in wanted["Action"]
    )


def _names(statement: Mapping[str, Any], kind: str, principal: str) -> bool:
    named = statement.get("Principal", {})
    if named == "*":
        return True
    listed = _list(named.get(kind, [])) if isinstance(named, Mapping) else []
    return any(one in ("*", principal) for one in listed)


def _allows(statement: Mapping[str, Any], action: str) -> bool:
    # Of a pattern that is wanted, as kms:ReEncrypt*, the pattern itself or a wider one has to be there.
    patterns = (str(one).lower() for one in _list(statement.get("Action", [])))
    return any(fnmatchcase(action.lower(), pattern) for pattern in patterns)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
