"""Documents as text for people and other programs: the same document gives the same text at every run."""

from __future__ import annotations

import json
from functools import cache
from typing import Any, Final

import yaml

_WIDTH: Final = 110
# What one YAML reader or another takes for something else than text, where it is not quoted. Numbers,
# dates and times begin with no letter: https://yaml.org/type/ and https://yaml.org/spec/1.2.2/#core-schema
_NO_PLAIN_TEXT: Final = frozenset({"y", "n", "yes", "no", "on", "off", "true", "false", "null", "nan", "inf"})


def to_json(document: Any) -> bytes:
    """Render a document as indented JSON."""
    return (json.dumps(document, ensure_ascii=False, indent=1) + "\n").encode()


def to_yaml(document: Any) -> bytes:
    """Render a document as YAML that loads as the same document with YAML 1.1 and 1.2, helm's reader too."""
    text: str = yaml.dump(document, Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=_WIDTH)
    return text.encode()


@cache
def _dumper() -> Any:
    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        """Repeats what occurs twice: an alias is for machines."""

        def ignore_aliases(self, _: Any) -> bool:
            return True

    def text(dumper: Any, value: str) -> Any:
        is_plain = value[:1].isalpha() and value.lower() not in _NO_PLAIN_TEXT
        style = "|" if "\n" in value else None if is_plain else '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    return Dumper
