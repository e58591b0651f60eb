"""Text to configuration: defaults, then the file, then the environment, then flags; every problem at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from sdctl.config import chart_values, rules
from sdctl.config.model import DEFAULT_RUNTIME, Config
from sdctl.config.rest import Location, concerns, without
from sdctl.contract import DEFAULT_CHECKPOINT, found, nearest
from sdctl.errors import ConfigError

DEFAULT_FILES: Final = ("sdctl.yaml", "config.yaml")
MAX_FILE_BYTES: Final = 1024 * 1024
_PLACEHOLDER: Final = re.compile(r"\$\{(\w+)\}|<[^<>]*>")


@dataclass(frozen=True, slots=True)
class Overrides:
    """What flags set, None where a flag was not given; `region` is where they mean, where that is known."""

    stack_name: str | None = None
    model_bucket: str | None = None
    snapshot: str | None = None
    runtime_name: str | None = None
    runtime_type: str | None = None
    region: str = ""


# The environment variable behind each override.
_VARIABLES: Final = {
    "stack_name": "SDCTL_STACK_NAME", "model_bucket": "SDCTL_BUCKET", "snapshot": "SDCTL_SNAPSHOT",
    "runtime_name": "SDCTL_RUNTIME_NAME", "runtime_type": "SDCTL_RUNTIME_TYPE",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, what to warn about, and the file it came from (None: the guide's defaults)."""

    config: Config
    warnings: tuple[str, ...] = ()
    path: Path | None = None


def load_config(path: Path | None, overrides: Overrides, env: Mapping[str, str]) -> Loaded:
    """Load the configuration of a deployment.

    Args:
        path: the file; None looks for `sdctl.yaml`, then `config.yaml` in the current folder, and takes
            the guide's defaults where there is neither.
        overrides: what flags set.
        env: environment variables; `SDCTL_STACK_NAME` and its like stand between file and flags.

    Raises:
        ConfigError: the file is missing or unreadable, or lists every problem, one a line.
    """
    # A folder, or a link to nothing, of that name is an error rather than no configuration.
    path = path or next((Path(name) for name in DEFAULT_FILES if os.path.lexists(name)), None)
    document = _read(path) if path else {}
    notes: list[str] = []
    _fill_placeholder(document, env, notes)
    _apply(document, _merged(overrides, env))
    _lower_names(document, notes)
    source = str(path) if path else "the settings"
    config = _validated(document, source)
    _raise_problems([f"{where}: {what}" for where, what in _between(config)], source)
    notes += [f"{where}: {what}" for where, what in rules.warnings(config)]
    return Loaded(config, tuple(notes), path)


def check_region(loaded: Loaded, region: str) -> None:
    """Refuse a configuration that cannot be deployed into a region of AWS.

    Raises:
        ConfigError: lists every problem, one a line.
    """
    found = [f"{where}: {what}" for where, what in rules.region_problems(loaded.config, region)]
    _raise_problems(found, str(loaded.path) if loaded.path else "the settings")


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, for editors."""
    schema = Config.model_json_schema(by_alias=True)
    # A chart of the user's own has other values.
    schema["$defs"]["RuntimeConfig"] |= {
        "if": {"properties": {"chartRepository": {"const": ""}}},
        "then": {"properties": {"extraValues": chart_values.json_schema()}},
    }
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "sdctl.yaml"}


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            raw = stream.read(MAX_FILE_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist", hint="sdctl init writes one") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start} is wrong") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
    try:
        document = _without_nulls(yaml.load(text, Loader=_Loader))  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        raise ConfigError(f"{where}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: nested too deeply, or contains itself") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: holds {found(document)}, not keys and values")
    return document


def _without_nulls(value: Any) -> Any:
    """Take a key without a value (all below it commented out) as absent; what goes to the chart stays."""
    if isinstance(value, list):
        return [_without_nulls(item) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: item if key == "extraValues" else _without_nulls(item)
        for key, item in value.items()
        if item is not None
    }


class _Loader(yaml.SafeLoader):
    """YAML without duplicate keys, without keys that are no strings, and with dates left as text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = True) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f'key "{key.value}" stands here twice', key.start_mark
                )
            seen.add(key.value)
        return {str(key): value for key, value in super().construct_mapping(node, deep).items()}


_Loader.add_constructor(
    "tag:yaml.org,2002:timestamp",
    lambda loader, node: loader.construct_scalar(node),  # type: ignore[arg-type]
)


def _fill_placeholder(document: dict[str, Any], env: Mapping[str, str], notes: list[str]) -> None:
    """Resolve the guide's `arn:aws:s3:::${MODEL_BUCKET}` from the environment; unset means no bucket yet."""
    arn = document.get("modelBucketArn")
    if not isinstance(arn, str) or not _PLACEHOLDER.search(arn):
        return
    filled = _PLACEHOLDER.sub(lambda match: env.get(match[1] or "", "") or match[0], arn)
    if _PLACEHOLDER.search(filled):
        notes.append(f'modelBucketArn: "{arn}" is a placeholder; taken as no bucket')
        del document["modelBucketArn"]
    else:
        document["modelBucketArn"] = filled


def _merged(overrides: Overrides, env: Mapping[str, str]) -> Overrides:
    values = {
        name: getattr(overrides, name) or env.get(variable) or None for name, variable in _VARIABLES.items()
    }
    return Overrides(**values, region=overrides.region)


def _apply(document: dict[str, Any], overrides: Overrides) -> None:
    """Put the flags into the document, so that they are checked like the file's own values."""
    if overrides.stack_name:
        document["stackName"] = overrides.stack_name
    if overrides.model_bucket:
        partition = rules.partition_of(overrides.region)
        document["modelBucketArn"] = f"arn:{partition}:s3:::{overrides.model_bucket}"
    if not (overrides.snapshot or overrides.runtime_name or overrides.runtime_type):
        return
    for runtime in _overridden_runtimes(document, overrides):
        if overrides.runtime_name:
            runtime["name"] = overrides.runtime_name
        if overrides.runtime_type:
            runtime["type"] = overrides.runtime_type
            if overrides.runtime_type == "comfyui" and runtime.get("modelFilename") == DEFAULT_CHECKPOINT:
                del runtime["modelFilename"]
        if overrides.snapshot:
            _set(runtime, ("extraValues", "karpenter", "nodeTemplate", "amiFamily"), "Bottlerocket")
            _set(
                runtime,
                ("extraValues", "karpenter", "nodeTemplate", "dataVolume", "snapshotID"),
                overrides.snapshot,
            )


def _overridden_runtimes(document: dict[str, Any], overrides: Overrides) -> list[dict[str, Any]]:
    """Find whom the flags mean: the only runtime, the one named, or (for a snapshot) all of them."""
    runtimes = document.setdefault("modelsRuntime", [dict(DEFAULT_RUNTIME)])
    if not isinstance(runtimes, list) or not all(isinstance(runtime, dict) for runtime in runtimes):
        return []  # the check of the document says what is wrong
    if len(runtimes) == 1 or not (overrides.runtime_name or overrides.runtime_type):
        return runtimes
    wanted = (overrides.runtime_name or "").lower()
    named = [runtime for runtime in runtimes if str(runtime.get("name", "")).lower() == wanted]
    if not named:
        names = ", ".join(str(runtime.get("name")) for runtime in runtimes)
        raise ConfigError(
            "several runtimes are configured, and the flags name none of them",
            hint=f"add --runtime-name with one of {names}, or change the file",
        )
    return named


def _set(document: dict[str, Any], path: tuple[str, ...], value: str) -> None:
    for key in path[:-1]:
        inner = document.get(key)
        document[key] = inner if isinstance(inner, dict) else {}
        document = document[key]
    document[path[-1]] = value


def _lower_names(document: dict[str, Any], notes: list[str]) -> None:
    runtimes = document.get("modelsRuntime")
    for index, runtime in enumerate(runtimes if isinstance(runtimes, list) else []):
        name = runtime.get("name") if isinstance(runtime, dict) else None
        if isinstance(name, str) and name != name.lower():
            notes.append(f'modelsRuntime/{index}/name: "{name}" is deployed as "{name.lower()}"')
            runtime["name"] = name.lower()


def _between(config: Config) -> list[rules.Finding]:
    """List what is wrong between fields that are right each by itself."""
    wrong = list(rules.problems(config))
    named = {where for where, _ in wrong}
    return wrong + [one for one in chart_values.problems(config) if one[0] not in named]


def _validated(document: dict[str, Any], source: str) -> Config:
    try:
        return Config.model_validate(document)
    except ValidationError as error:
        details = error.errors(include_url=False)
        inner = {detail["loc"][:1] for detail in details if len(detail["loc"]) > 1}
        # A list with a bad entry is also reported as too short: only the entry is the user's problem.
        lines = [
            _line(detail) for detail in details if detail["type"] != "too_short" or detail["loc"] not in inner
        ]
        places = [_place(detail) for detail in details]
        rest = without(document, places)
        lines += [
            f"{where}: {what}"
            for where, what in (_between(rest) if rest else ())
            if not any(concerns(where, place) for place in places)
        ]
        _raise_problems(lines, source)
        raise


def _raise_problems(lines: Iterable[str], source: str) -> None:
    unique = list(dict.fromkeys(lines))
    if unique:
        count = f"{len(unique)} problem{'s' if len(unique) > 1 else ''} in {source}"
        raise ConfigError("\n".join([f"{count}:", *unique]), hint="sdctl init --schema describes every key")


def _line(detail: ErrorDetails) -> str:
    return f"{'/'.join(map(str, _place(detail)))}: {_message(detail)}"


def _place(detail: ErrorDetails) -> Location:
    """Return the path of keys to what is wrong, without pydantic's own steps."""
    return tuple(part for part in detail["loc"] if not str(part).startswith(("constrained-", "function-")))


_KINDS: Final = {
    "string_type": "a string (in quotes)", "int_type": "a whole number", "int_from_float": "a whole number",
    "float_type": "a number", "bool_type": "true or false", "dict_type": "an object",
    "list_type": "a list", "tuple_type": "a list", "model_type": "an object",
    "model_attributes_type": "an object",
}  # fmt: skip


def _message(detail: ErrorDetails) -> str:
    """Say what was found and what is allowed."""
    value, context, kind = found(_plain(detail["input"])), detail.get("ctx", {}), detail["type"]
    match kind:
        case "missing":
            return "is required"
        case "extra_forbidden":
            parent = _section(detail["loc"][:-1])
            allowed = [field.alias or name for name, field in parent.model_fields.items()] if parent else []
            key = str(detail["loc"][-1])
            return f"unknown key{nearest(key, allowed)}" + (
                f" (allowed: {', '.join(allowed)})" if allowed else ""
            )
        case "literal_error":
            choices = re.findall(r"'([^']*)'|(\d+)", str(context["expected"]))
            names = [text or number for text, number in choices]
            return f"{value} is not one of {', '.join(names)}{nearest(str(detail['input']), names)}"
        case "string_pattern_mismatch":
            return f"{value} does not match {context['pattern']}"
        case "value_error":
            return str(context["error"])
        case "too_short":
            return f"has {context['actual_length']} entries; at least {context['min_length']} needed"
        case "too_long":
            return f"has {context['actual_length']} entries; at most {context['max_length']} allowed"
    if kind in _KINDS:
        return f"{value} is not {_KINDS[kind]}"
    return f"{value}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, dict, list, type(None))) else str(value)


def _section(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Find the model that a path of keys leads to, for the names it knows."""
    model: type[BaseModel] | None = Config
    for part in location:
        if isinstance(part, int) or model is None:
            continue
        field = next((field for field in model.model_fields.values() if field.alias == part), None)
        annotation: Any = field.annotation if field else None
        candidates = (annotation, *getattr(annotation, "__args__", ()))
        model = next(
            (kind for kind in candidates if isinstance(kind, type) and issubclass(kind, BaseModel)), None
        )
    return model
