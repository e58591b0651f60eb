"""Whether a message of the input topic has reached a runtime, pure: the queues' filter policies, negated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sdctl.contract import ROUTE_CHECKPOINT, ROUTE_RUNTIME, RuntimeInfo


def is_routed(attributes: Mapping[str, Any], runtimes: Mapping[str, RuntimeInfo]) -> bool:
    """Tell whether a filter policy lets a message through to a runtime's queue.

    Args:
        attributes: `MessageAttributes` of the SNS envelope, `{name: {"Type", "Value"}}`.
        runtimes: the deployed runtimes by lower-case name.
    """
    if ROUTE_RUNTIME in attributes:
        return _value(attributes, ROUTE_RUNTIME) in runtimes
    checkpoint = _value(attributes, ROUTE_CHECKPOINT)
    return bool(checkpoint) and any(info.checkpoint.lower() == checkpoint for info in runtimes.values())


def _value(attributes: Mapping[str, Any], name: str) -> str:
    attribute = attributes.get(name)
    value = attribute.get("Value") if isinstance(attribute, dict) else None
    return value.lower() if isinstance(value, str) else ""
