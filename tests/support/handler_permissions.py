"""Writes `sdctl/iam/handlers.json`: what CloudFormation calls for the resource types of our templates.

Source: the registry schemas and the service authorization reference that cfn-lint carries. Run it when
a template uses a new type, or for newer schemas: `python tests/support/handler_permissions.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "sdctl" / "iam" / "handlers.json"
HANDLERS = ("create", "read", "update", "delete", "list")
# Schemas differ from region to region; what any of these asks for is listed.
REGIONS = ("us-east-1", "cn-north-1", "cn-northwest-1")


def data_folder() -> Path:
    import cfnlint

    return Path(str(cfnlint.__file__)).parent / "data"


def schema_date() -> str:
    """The date of the installed schemas."""
    return str(json.loads((data_folder() / "schemas" / "version.json").read_text())["schema_date"])


@cache
def reference() -> dict[str, Any]:
    """The service authorization reference: `{service: {"Actions": …, "Resources": …}}`, names lower-case."""
    path = data_folder() / "AdditionalSpecs" / "Policies.json"
    return dict(json.loads(path.read_text(encoding="utf-8")))


def known(action: str) -> dict[str, Any] | None:
    """What the reference says of an action, or None where there is no such action."""
    service, _, name = action.partition(":")
    found = reference().get(service, {}).get("Actions", {}).get(name.lower())
    return None if found is None else dict(found)


def kinds(action: str) -> list[str]:
    """The kinds of resources an action can be narrowed to, lower-case; none where it knows no resource."""
    return sorted(kind.lower() for kind in (known(action) or {}).get("Resources", []))


@cache
def schema(resource_type: str, region: str) -> dict[str, Any]:
    """The registry schema of a type in a region."""
    folder = data_folder() / "schemas"
    index = json.loads((folder / "providers" / f"{region}.json").read_text(encoding="utf-8"))
    return dict(json.loads((folder / "resources" / f"{index[resource_type]}.json").read_text("utf-8")))


def collect(resource_types: Iterable[str]) -> dict[str, Any]:
    """Gather the document of these types; actions that do not exist, which schemas name too, are left out."""
    types: dict[str, dict[str, list[str]]] = {}
    actions: set[str] = set()
    for name in sorted(resource_types):
        types[name] = {}
        for handler in HANDLERS:
            found = {
                action
                for region in REGIONS
                for action in schema(name, region)["handlers"].get(handler, {}).get("permissions", [])
                if known(action) is not None
            }
            if found:
                types[name][handler] = sorted(found)
            actions |= found
    return {
        "schema_date": schema_date(),
        "types": types,
        "resources": {action: kinds(action) for action in sorted(actions)},
    }


def dump(document: dict[str, Any]) -> str:
    """Lay the document out: one line a handler and an action, so that differences read well."""
    lines = ["{", f' "schema_date": {json.dumps(document["schema_date"])},', ' "types": {']
    names = list(document["types"])
    for name in names:
        handlers = document["types"][name]
        rows = [f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in handlers.items()]
        lines += [f"  {json.dumps(name)}: {{", ",\n".join(rows), "  }" + ("," if name != names[-1] else "")]
    lines += [" },", ' "resources": {']
    rows = [f"  {json.dumps(action)}: {json.dumps(value)}" for action, value in document["resources"].items()]
    return "\n".join([*lines, ",\n".join(rows), " }", "}"]) + "\n"


def main() -> None:
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    from support.iam_configs import rendered_types

    TARGET.write_text(dump(collect(rendered_types())), encoding="utf-8")
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
