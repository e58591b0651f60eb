"""The chart's values, their comments, their schema and their table say the same."""

from __future__ import annotations

import json
import os
import re
from typing import Any

import yaml

from sdctl import __version__
from sdctl.render.runtime_values import AGENT_REPOSITORY, CHART_NAME, EVALUATION_IMAGES
from sdctl.versions import BOTTLEROCKET_VERSION
from support import chart_docs
from support.chart import CHART, CI, ci_values

VALUES = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
# Upstream's values that are taken and not used.
ACCEPTED = {"runtime.queueAgent.xray.daemon"}


def schema_of(path: str) -> dict[str, Any]:
    found = SCHEMA
    for key in path.split("."):
        inner = found.get("properties", {}).get(key)
        found = found["additionalProperties"] if inner is None else inner
    return found


def test_the_readmes_table_is_the_one_that_the_values_make() -> None:
    readme = chart_docs.README.read_text(encoding="utf-8")
    wanted = chart_docs.with_table(readme)
    if os.environ.get("UPDATE_GOLDEN"):
        chart_docs.README.write_text(wanted, encoding="utf-8")
    else:
        assert readme == wanted, "UPDATE_GOLDEN=1 writes the table anew"


def test_every_value_has_a_comment() -> None:
    said = {one.path for one in chart_docs.values()}
    unsaid = [
        leaf
        for leaf in chart_docs.leaves(VALUES)
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in said)
    ]
    assert unsaid == []
    assert all(one.said.endswith((".", ")")) or len(one.said) > 8 for one in chart_docs.values())


def test_every_value_has_a_place_in_the_schema() -> None:
    for one in chart_docs.values():
        assert schema_of(one.path), one.path


def test_the_schema_knows_no_value_that_is_not_there() -> None:
    def paths(schema: dict[str, Any], path: str) -> list[str]:
        inner = schema.get("properties", {})
        return [leaf for key in inner for leaf in paths(inner[key], f"{path}.{key}".lstrip("."))] or [path]

    known = set(chart_docs.leaves(VALUES))
    for path in paths(SCHEMA, ""):
        is_known = any(
            leaf == path or leaf.startswith(f"{path}.") or path.startswith(f"{leaf}.") for leaf in known
        )
        assert is_known or path in ACCEPTED, path


def test_every_object_of_the_schema_is_closed() -> None:
    def check(schema: Any, path: str) -> None:
        if isinstance(schema, list):
            for one in schema:
                check(one, path)
        if not isinstance(schema, dict):
            return
        if "properties" in schema:
            is_budget = path.endswith("/budgets/items")
            assert is_budget or schema["additionalProperties"] is not True, path
            assert is_budget or "additionalProperties" in schema, path
        for key, inner in schema.items():
            if key == "properties":
                for name, one in inner.items():
                    check(one, f"{path}/{name}")
            else:
                check(inner, f"{path}/{key}")

    check(SCHEMA, "")


def test_every_value_is_used_by_a_template() -> None:
    text = "\n".join(
        path.read_text(encoding="utf-8")
        for path in (CHART / "templates").iterdir()
        if path.suffix in (".yaml", ".tpl", ".txt")
    ) + "\n".join(path for one in VALUES["types"].values() for path in map(str, one.values()))
    for leaf in chart_docs.leaves(VALUES):
        if not leaf.startswith("types."):
            assert re.search(rf"\b{re.escape(leaf.rpartition('.')[2])}\b", text), leaf


def test_no_default_image_is_called_latest() -> None:
    assert not re.search(
        r'[:"\s]latest"?$', (CHART / "values.yaml").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert VALUES["runtime"]["inferenceApi"]["image"] == {"repository": "", "tag": "", "digest": ""}


def test_the_chart_and_sdctl_agree_on_names_and_versions() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert (chart["name"], chart["appVersion"]) == (CHART_NAME, __version__)
    assert VALUES["karpenter"]["nodeTemplate"]["amiVersion"] == f"v{BOTTLEROCKET_VERSION}"
    assert {name: one["repository"] for name, one in VALUES["types"].items()} == EVALUATION_IMAGES
    assert VALUES["runtime"]["queueAgent"]["image"]["repository"] == AGENT_REPOSITORY


def test_the_ci_files_say_what_they_are_for_and_are_at_least_six() -> None:
    assert len(CI) >= 6
    for name, path in CI.items():
        assert path.read_text(encoding="utf-8").startswith("# "), name
        assert ci_values(name)
