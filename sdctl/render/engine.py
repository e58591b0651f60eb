"""The one Jinja environment: renders a template, parses it at once, and blames errors on a file and a line.

A template has loops and conditions, nothing else; every scalar goes through the `json` filter, so that
no value can break or retype the YAML around it.
"""

from __future__ import annotations

import json
import re
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError, TemplateSyntaxError

from sdctl.assets import asset_dir
from sdctl.errors import SdctlError

# What JSON leaves as it is inside a string and YAML does not: controls, line breaks, the byte order mark.
_YAML_SPECIAL: Final = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")


class RenderError(SdctlError):
    """A template could not be rendered."""

    code = "render"


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered template: `text` is the YAML, `document` what it says."""

    name: str
    text: str
    document: dict[str, Any]

    @property
    def body(self) -> str:
        """The document as compact JSON, the form that is sent to CloudFormation."""
        return json.dumps(self.document, ensure_ascii=False, separators=(",", ":"))


def to_json(value: object) -> str:
    """Render a value as JSON that means the same inside YAML."""
    text = json.dumps(value, ensure_ascii=False, default=_refuse)
    return _YAML_SPECIAL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def render_yaml(name: str, context: Mapping[str, Any], *, folder: Path | None = None) -> Rendered:
    """Render `templates/<name>` and parse the result.

    Args:
        name: the template's file name, ending in `.yaml.j2`.
        context: what the template uses, all of it.
        folder: where to look instead of our own templates.

    Raises:
        RenderError: with the template's file and line, or the rendered one's where it is not YAML.
    """
    try:
        text = _environment(folder or asset_dir("templates")).get_template(name).render(context)
    except TemplateSyntaxError as error:
        raise RenderError(f"{error.name}:{error.lineno}: {error.message}") from error
    except TemplateError as error:
        raise RenderError(f"{name}:{_template_line(error, name)}: {error.message}") from error
    try:
        document = yaml.load(text, Loader=_loader())  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line if error.problem_mark else 0
        shown = text.splitlines()[line].strip() if line < len(text.splitlines()) else ""
        raise RenderError(f"{name}, rendered line {line + 1}: {error.problem}: {shown}") from error
    if not isinstance(document, dict):
        raise RenderError(f"{name}: renders to {type(document).__name__}, not to a mapping")
    return Rendered(name.removesuffix(".j2"), text, document)


def _refuse(value: object) -> object:
    """Raise what Jinja raises for an undefined value, or TypeError for one that JSON lacks."""
    if isinstance(value, StrictUndefined):
        str(value)
    raise TypeError(f"a {type(value).__name__} is no JSON")


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader(folder),
        undefined=StrictUndefined,
        autoescape=False,  # noqa: S701 - YAML, not HTML: the json filter is what escapes
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_only_strings,
    )
    environment.filters["json"] = to_json
    return environment


def _only_strings(value: object) -> object:
    """Refuse a value that came around the json filter (which returns a string)."""
    if not isinstance(value, (str, StrictUndefined)):
        raise TemplateError(f"a {type(value).__name__} is written without the json filter")
    return value


def _template_line(error: TemplateError, name: str) -> int:
    lines = [
        frame.lineno or 0
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename.endswith(name)
    ]
    return lines[-1] if lines else 0


@cache
def _loader() -> type[yaml.SafeLoader]:
    """Build the YAML loader that knows CloudFormation's short forms and refuses a key that comes twice."""

    class CloudFormationLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
        """Short forms become what they stand for: `!Ref X` is `{"Ref": "X"}`."""

    def mapping(loader: Any, node: yaml.MappingNode) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value} twice", key.start_mark)
            seen.add(key.value)
        return dict(loader.construct_mapping(node, deep=True))

    def short_form(loader: Any, suffix: str, node: yaml.Node) -> dict[str, Any]:
        if isinstance(node, yaml.ScalarNode):
            value: Any = loader.construct_scalar(node)
        elif isinstance(node, yaml.SequenceNode):
            value = loader.construct_sequence(node, deep=True)
        else:
            value = loader.construct_mapping(node, deep=True)
        if suffix == "GetAtt" and isinstance(value, str):
            value = value.split(".", 1)
        return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}

    CloudFormationLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    CloudFormationLoader.add_multi_constructor("!", short_form)
    return CloudFormationLoader
