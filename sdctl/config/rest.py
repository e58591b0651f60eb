"""The rest of a document in which something is wrong: what else is wrong with it can be told at once."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Final

from pydantic import ValidationError

from sdctl.config.model import Config

Location = tuple[int | str, ...]
# What stands for a wrong or missing value that other fields are compared with.
_STANDING_IN: Final = {"type": "sdwebui", "imageRegistry": "registry.invalid"}


def without(document: dict[str, Any], wrong: Sequence[Location]) -> Config | None:
    """Return the configuration with the wrong places left out, or None where that leaves none.

    Args:
        document: the file's content; stays as it is.
        wrong: the places, each a path of keys and indices.
    """
    rest = deepcopy(document)
    for location in wrong:
        _leave_out(rest, location)
    try:
        return Config.model_validate(rest)
    except ValidationError:
        return None


def concerns(path: str, location: Location) -> bool:
    """Tell whether a finding at `path` may come of leaving a place out: it lies above or below of it."""
    place = "/".join(map(str, location))
    if location[:1] == ("modelsRuntime",) and location[2:] == ("type",):
        place = place.removesuffix("type") + "extraValues"
    return f"{path}/".startswith(f"{place}/") or f"{place}/".startswith(f"{path}/")


def _leave_out(document: dict[str, Any], location: Location) -> None:
    *above, last = location
    parent: Any = document
    for key in above:
        is_there = isinstance(key, int) and isinstance(parent, list) and key < len(parent)
        if not is_there and not (isinstance(parent, dict) and key in parent):
            return  # left out already
        parent = parent[key]
    is_runtime = above[:1] == ["modelsRuntime"] and len(above) == 2
    if isinstance(parent, list):
        _leave_out(document, tuple(above))
    elif not isinstance(parent, dict):
        return
    elif last in _STANDING_IN:
        parent[last] = _STANDING_IN[str(last)]
    elif is_runtime and last == "name":
        parent["name"] = f"unnamed-{above[1]}"
    elif last in parent:
        del parent[last]
    elif above:
        _leave_out(document, tuple(above))  # it lacks what it needs
