"""The runtime's chart as real helm renders it, and what a real API server would say to that."""

from __future__ import annotations

import copy
import functools
import json
import math
import os
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cel
import jsonschema
import kubernetes_validate
import yaml

from support import helm_tools

Object = dict[str, Any]
ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "sd-on-eks"
CI = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}
# Where the CRDs of Karpenter and KEDA are; what they refuse is tested only there.
CRDS = os.environ.get("SDCTL_CRD_DIR", "")
GLOBAL_KINDS = {
    "EC2NodeClass", "NodeOverlay", "NodePool", "PersistentVolume", "ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding",
}  # fmt: skip
RELEASE, NAMESPACE = "sdruntime", "farm"


class Refused(Exception):
    """Helm did not render."""


def ci_values(name: str) -> dict[str, Any]:
    """Return the values of a `ci` file, to change at will."""
    return yaml.safe_load(CI[name].read_text(encoding="utf-8"))


def with_changes(name: str, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a `ci` file's values with changes by dotted path."""
    values = ci_values(name)
    for path, value in changes.items():
        *parents, last = path.split("/")
        target = values
        for key in parents:
            target = target.setdefault(key, {})
        target[last] = value
    return values


def render(values: Mapping[str, Any], *, major: int = 4, kubernetes: str = "1.36.0") -> list[Object]:
    """Render the chart with values.

    Raises:
        Refused: with what helm said.
    """
    return list(copy.deepcopy(_render(json.dumps(values), major, kubernetes)))


def render_ci(name: str, changes: Mapping[str, Any] | None = None, *, major: int = 4) -> list[Object]:
    """Render the chart with a `ci` file, changed by path (`runtime/drainSeconds`)."""
    return render(with_changes(name, changes or {}), major=major)


@functools.lru_cache(maxsize=256)
def _render(values: str, major: int, kubernetes: str) -> tuple[Object, ...]:
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "values.json"
        file.write_text(values)
        done = subprocess.run(
            [str(helm_tools.helm(major)), "template", RELEASE, str(CHART), "--namespace", NAMESPACE,
             "--values", str(file), "--kube-version", kubernetes],
            env={"HOME": home}, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    if done.returncode:
        raise Refused(done.stderr)
    return tuple(doc for doc in yaml.safe_load_all(done.stdout) if doc)


def forget() -> None:
    """Forget what was rendered, where the chart itself is another."""
    _render.cache_clear()


def find(objects: list[Object], kind: str) -> Object:
    """Return the only object of a kind."""
    [found] = [one for one in objects if one["kind"] == kind]
    return found


def kinds(objects: list[Object]) -> set[str]:
    """Return the kinds of objects."""
    return {one["kind"] for one in objects}


def pod(objects: list[Object]) -> Object:
    """Return the Deployment's pod template."""
    return dict(find(objects, "Deployment")["spec"]["template"])


def container(objects: list[Object], name: str) -> Object:
    """Return a container of the pod, whichever kind it is."""
    spec = pod(objects)["spec"]
    [found] = [one for one in spec["initContainers"] + spec["containers"] if one["name"] == name]
    return dict(found)


def environment(objects: list[Object], name: str) -> dict[str, Any]:
    """Return the plain environment of a container."""
    return {one["name"]: one.get("value") for one in container(objects, name).get("env", [])}


def seconds(duration: str) -> int:
    """Read a duration, as `1h30m`."""
    units = {"h": 3600, "m": 60, "s": 1}
    return sum(int(number) * units[unit] for number, unit in re.findall(r"(\d+)([hms])", duration))


def wanted_pods(formula: str, *, running: int, waiting: int, schedule: int = 1) -> int:
    """Evaluate KEDA's formula, whose notation is Python's too as far as it is used here."""
    names = {"tasks": float(running + waiting), "waiting": float(waiting), "schedule0": float(schedule)}
    return math.ceil(eval(formula, {"__builtins__": {}, "max": max}, names))


def problems(found: Object, kubernetes: str) -> Iterator[str]:
    """Say what a real API server would refuse in an object: unknown fields, nulls, wrong types, broken rules.

    An object of a custom kind is judged by the CRDs in `CRDS`.
    """
    for path in _nulls(found):
        yield f"{path}: null"
    key = found.get("apiVersion", ""), found.get("kind", "")
    if _is_custom(key[0]):
        schema = _crds().get(key)
        if schema is None:
            yield f"there is no CRD of {key[0]} {key[1]}"
        else:
            yield from _custom_problems(found, schema)
        return
    try:
        kubernetes_validate.validate(found, kubernetes, strict=True)
    except kubernetes_validate.ValidationError as error:
        yield f"/{'/'.join(map(str, error.path))}: {error.message[:300]}"


def _is_custom(api_version: str) -> bool:
    group = api_version.partition("/")[0]
    return "." in group and not group.endswith(".k8s.io")


def _custom_problems(found: Object, schema: Object) -> Iterator[str]:
    closed = _closed(schema)
    closed["properties"] |= {name: {} for name in ("apiVersion", "kind", "metadata")}
    for error in jsonschema.Draft202012Validator(closed).iter_errors(found):
        yield f"/{'/'.join(map(str, error.absolute_path))}: {error.message[:300]}"
    for path, rule, value in _rules(schema, _with_defaults(schema, copy.deepcopy(found))):
        try:
            if _holds(rule["rule"], value):
                continue
        except (RuntimeError, TypeError, ValueError) as error:  # a server refuses what it cannot evaluate
            yield f"{path}: {error}: {rule['rule']}"
        else:
            yield f"{path}: {rule.get('message') or rule['rule']}"


@functools.cache
def _crds() -> dict[tuple[str, str], Object]:
    found: dict[tuple[str, str], Object] = {}
    for path in sorted(Path(CRDS).rglob("*.yaml")):
        for one in yaml.load_all(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader):
            if isinstance(one, dict) and one.get("kind") == "CustomResourceDefinition":
                spec = one["spec"]
                for version in spec["versions"]:
                    key = f"{spec['group']}/{version['name']}", spec["names"]["kind"]
                    found[key] = version["schema"]["openAPIV3Schema"]
    return found


def _closed(schema: Any) -> Any:
    """Turn an OpenAPI schema of a CRD into a JSON Schema that refuses what the server would drop."""
    if not isinstance(schema, dict):
        return schema
    closed = dict(schema)
    if closed.pop("x-kubernetes-int-or-string", False):
        closed.pop("type", None)
        closed.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    if "properties" in closed:
        closed["properties"] = {name: _closed(inner) for name, inner in closed["properties"].items()}
        if not closed.get("x-kubernetes-preserve-unknown-fields"):
            closed.setdefault("additionalProperties", False)
    for name in ("additionalProperties", "items"):
        if isinstance(closed.get(name), dict):
            closed[name] = _closed(closed[name])
    if closed.pop("nullable", False) and "type" in closed:
        closed["type"] = [closed["type"], "null"]
    return closed


def _with_defaults(schema: Object, value: Any) -> Any:
    if isinstance(value, dict):
        for name, inner in (schema.get("properties") or {}).items():
            if "default" in inner and name not in value:
                value[name] = copy.deepcopy(inner["default"])
            if name in value:
                _with_defaults(inner, value[name])
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for one in value:
            _with_defaults(schema["items"], one)
    return value


def _rules(schema: Any, value: Any, path: str = "") -> Iterator[tuple[str, Object, Any]]:
    """Yield each rule of a CRD that holds for a new object, with where and what it judges."""
    if not isinstance(schema, dict) or value is None:
        return
    for rule in schema.get("x-kubernetes-validations") or []:
        if "oldSelf" not in rule["rule"]:
            yield path, rule, value
    if isinstance(value, dict):
        properties, others = schema.get("properties") or {}, schema.get("additionalProperties")
        for name, inner in value.items():
            yield from _rules(properties.get(name, others), inner, f"{path}/{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _rules(schema.get("items"), inner, f"{path}/{number}")


def _holds(rule: str, value: Any) -> bool:
    context = cel.Context(variables={"self": value})
    context.add_function("find", lambda text, pattern: (re.search(pattern, text) or [""])[0])
    context.add_function("split", lambda text, mark: text.split(mark))
    return bool(cel.evaluate(rule, context))


def _nulls(value: Any, path: str = "") -> Iterator[str]:
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _nulls(inner, f"{path}/{name}")
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _nulls(inner, f"{path}/{number}")
