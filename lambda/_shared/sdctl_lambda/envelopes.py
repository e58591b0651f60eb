"""The SNS envelope around a message, and which deployed runtime it was meant for. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sdctl import contract
from sdctl.contract import RuntimeInfo


def envelope_attributes(body: str) -> dict[str, str]:
    """Return the String attributes of the SNS message inside an SQS body; none where there is no envelope."""
    try:
        envelope = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    attributes = envelope.get("MessageAttributes") if isinstance(envelope, dict) else None
    if not isinstance(attributes, dict):
        return {}
    return {
        name: attribute["Value"]
        for name, attribute in attributes.items()
        if isinstance(attribute, dict) and isinstance(attribute.get("Value"), str)
    }


def routed_runtime(attributes: Mapping[str, Any], runtimes: Mapping[str, RuntimeInfo]) -> RuntimeInfo | None:
    """Return the runtime whose queue takes a message with these attributes, in any case of letters.

    `runtime` alone decides where it is present; else `sd_model_checkpoint`, as the filter policies do.
    """
    name = attributes.get(contract.ROUTE_RUNTIME)
    if name is not None:
        return runtimes.get(str(name).lower())
    return taker_of(str(attributes.get(contract.ROUTE_CHECKPOINT, "")), runtimes)


def taker_of(checkpoint: str, runtimes: Mapping[str, RuntimeInfo]) -> RuntimeInfo | None:
    """Return the runtime that takes the tasks of a checkpoint, in any case of letters."""
    for info in runtimes.values():
        if checkpoint and info.checkpoint.lower() == checkpoint.lower():
            return info
    return None
