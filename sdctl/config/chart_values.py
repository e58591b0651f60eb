"""What our chart, by schema or template, would refuse of `extraValues`, told before anything is made.

They are judged merged with the chart's defaults, as Helm does it. A chart of the user's own is not judged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import yaml

from sdctl.assets import asset_dir
from sdctl.config.model import Config
from sdctl.contract import found, nearest

if TYPE_CHECKING:
    from jsonschema import ValidationError

CHART_NAME: Final = "sd-on-eks"
_KINDS: Final = {
    "string": "a string (in quotes)", "integer": "a whole number", "number": "a number",
    "boolean": "true or false", "object": "an object", "array": "a list", "null": "nothing",
}  # fmt: skip

_SPOT_DRAIN_SECONDS: Final = 90
# What the chart writes itself, by how it looks in Bottlerocket's settings.
_NOT_IN_USER_DATA: Final = {
    "ephemeral-storage": "local disks are mounted by Karpenter, and over a snapshot they hide its images",
    r"^\s*(snapshotter\s*=|\[settings\.container-runtime-plugins\.soci)": (
        "imageCache chooses the snapshotter, another one at boot wipes the images of a snapshot"
    ),
    r"^\s*(device-sharing-strategy\s*=|\[settings\.kubelet-device-plugins\.nvidia)": (
        "gpuSharing writes the settings of the GPU's device plug-in"
    ),
}


def problems(config: Config) -> Iterator[tuple[str, str]]:
    """Yield (path, message) of everything in the runtimes' extra values that the chart does not take."""
    for index, runtime in enumerate(config.runtimes):
        if runtime.extra_values and not runtime.chart_repository:
            for path, message in _refused(runtime.extra_values):
                yield f"modelsRuntime/{index}/extraValues/{path}", message


def json_schema() -> dict[str, Any]:
    """Return the schema of extra values: the chart's, in which types may be given in part."""
    schema = _chart_schema()
    del schema["$schema"], schema["properties"]["types"]["additionalProperties"]["required"]
    return schema


def _refused(extra_values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from jsonschema import Draft7Validator
    from jsonschema.exceptions import best_match

    defaults = yaml.safe_load((asset_dir("charts") / CHART_NAME / "values.yaml").read_text(encoding="utf-8"))
    values = _merged(defaults, extra_values)
    errors = [best_match([error]) or error for error in Draft7Validator(_chart_schema()).iter_errors(values)]
    for error in sorted(errors, key=lambda error: [str(part) for part in error.absolute_path]):
        yield from _told(error)
    if not errors:
        yield from _pod_problems(values)
        yield from _node_problems(values)


def _chart_schema() -> dict[str, Any]:
    text = (asset_dir("charts") / CHART_NAME / "values.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def _pod_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name what the chart's templates refuse of pods and their number."""
    runtime = values.get("runtime", {})
    scaling = runtime.get("scaling", {})
    least, most = scaling.get("minReplicaCount", 0), scaling.get("maxReplicaCount", 0)
    if scaling.get("enabled") and least > most:
        yield "runtime/scaling/minReplicaCount", f"{least} is more than maxReplicaCount, which is {most}"
    karpenter = values.get("karpenter", {})
    capacity = karpenter.get("provisioner", {}).get("capacityType", {})
    drain_seconds = runtime.get("drainSeconds", 0)
    if karpenter.get("enabled") and capacity.get("spot") and drain_seconds > _SPOT_DRAIN_SECONDS:
        yield (
            "runtime/drainSeconds",
            f"{drain_seconds} is more than {_SPOT_DRAIN_SECONDS}, since Spot gives a notice of two minutes: "
            "lower it, or set karpenter/provisioner/capacityType/spot to false",
        )


def _node_problems(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Name what the chart's templates refuse of nodes; what goes with a snapshot is one of the `rules`."""
    karpenter = values.get("karpenter", {})
    nodes = karpenter.get("nodeTemplate", {})
    if not karpenter.get("enabled"):
        return
    capacity = karpenter.get("provisioner", {}).get("capacityType", {})
    if not (capacity.get("spot") or capacity.get("onDemand") or nodes.get("capacityReservations")):
        yield "karpenter/provisioner/capacityType", "neither onDemand nor spot is true"
    for pattern, reason in _NOT_IN_USER_DATA.items():
        if re.search(pattern, nodes.get("userData", ""), re.MULTILINE):
            yield "karpenter/nodeTemplate/userData", f"{reason}: remove it there"


def _merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as Helm does: objects key by key, the rest replaced, and what is null taken away."""
    result = dict(values)
    for key, value in over.items():
        if isinstance(value, Mapping):
            old = result.get(key)
            result[key] = _merged(old if isinstance(old, Mapping) else {}, value)
        elif value is None:
            result.pop(key, None)
        else:
            result[key] = value
    return result


def _told(error: ValidationError) -> Iterator[tuple[str, str]]:
    """Yield (path, message): what was found, and what is allowed."""
    path = [str(part) for part in error.absolute_path]
    where, value, allowed = "/".join(path), found(error.instance), error.validator_value
    match error.validator:
        case "additionalProperties":
            names = list(error.schema["properties"])
            for key in (key for key in error.instance if key not in names):
                yield (
                    "/".join([*path, key]),
                    f"unknown key{nearest(key, names)} (allowed: {', '.join(names)})",
                )
        case "required":
            for key in (key for key in allowed if key not in error.instance):
                yield "/".join([*path, key]), "is required"
        case "type":
            kinds = [allowed] if isinstance(allowed, str) else allowed
            yield where, f"{value} is not {' or '.join(_KINDS[kind] for kind in kinds)}"
        case "enum":
            names = [str(one) for one in allowed if one != ""]
            yield where, f"{value} is not one of {', '.join(names)}{nearest(str(error.instance), names)}"
        case "minimum":
            yield where, f"{value} is less than {allowed}"
        case "maximum":
            yield where, f"{value} is more than {allowed}"
        case "pattern":
            yield where, f"{value} does not match {allowed}"
        case "oneOf" | "anyOf":
            kinds = [one["type"] for one in allowed if one.get("type", "null") != "null"]
            yield where, f"{value} is not {' or '.join(_KINDS[kind] for kind in kinds)}"
        case _:
            yield where, error.message
