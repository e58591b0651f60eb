"""The table of our own calls against the source: none that is made may be missing, none may be left over."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import botocore.session
from botocore import xform_name

from sdctl.iam.calls import CALLS

ROOT = Path(__file__).resolve().parents[3]
# Commands that look at what runs, or mend its queues, are no purpose of their own.
LOOKING = {
    ("cloudformation", "DescribeStackResources"), ("cloudwatch", "GetMetricData"),
    ("logs", "FilterLogEvents"),
    *(("sqs", operation) for operation in (
        "DeleteMessage", "GetQueueAttributes", "ListMessageMoveTasks", "PurgeQueue", "ReceiveMessage",
        "SendMessage", "StartMessageMoveTask",
    )),
}  # fmt: skip


@cache
def operations(service: str) -> dict[str, str]:
    """The operations of a service by the names that clients and paginators give them."""
    model = botocore.session.Session().get_service_model(service)
    return {xform_name(name): name for name in model.operation_names}


def made_in(path: Path) -> Iterator[tuple[str, str]]:
    """Find the calls of a module: methods of its clients, or their names as text, as paginators take them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    services, names = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "client":
            services |= {str(one.value) for one in node.args if isinstance(one, ast.Constant)}
        elif isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    for service in services:
        known = operations(service)
        yield from ((service, known[name]) for name in names if name in known)


def made() -> set[tuple[str, str]]:
    files = [path for path in (ROOT / "sdctl").rglob("*.py") if "local" not in path.parts]
    return {call for path in files for call in made_in(path)}


def listed(*purposes: str) -> set[tuple[str, str]]:
    return {(one.service, one.operation) for name in purposes or CALLS for one in CALLS[name]}  # type: ignore[index]


def test_every_call_that_the_code_makes_is_in_the_table() -> None:
    assert made() - listed() - LOOKING == set(), "say in sdctl/iam/calls.py who needs it, and on what"


def test_every_call_in_the_table_is_made() -> None:
    assert listed() - made() == set()
    assert made() >= LOOKING
