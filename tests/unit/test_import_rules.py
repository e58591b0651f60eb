"""Who may import whom: reads every import of the tree and fails on one that points up or sideways."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# What each part of sdctl may import of ours; a part is a module or package directly below `sdctl/`.
FOUNDATION = {"errors", "contract"}
ALLOWED = {
    "__init__": set(),
    "__main__": {"cli"},
    "errors": set(),
    "contract": set(),
    "task_record": {"contract"},
    "assets": {"errors"},
    "polling": {"errors"},
    "deployments": {"errors"},
    "reads": {"errors"},
    "config": {"assets"} | FOUNDATION,
    "versions": set(),
    "releases": set(),
    "render": {"config", "assets", "task_record", "versions", "releases"} | FOUNDATION,
    "clients": {"polling", "prices", "versions", "releases"} | FOUNDATION,
    "prices": set(),
    "inventory": {"clients", "prices"},
    "deploy": {
        "render", "config", "clients", "polling", "assets", "task_record", "versions", "releases",
    } | FOUNDATION,
    "iam": {"render", "config"} | FOUNDATION,
    "offline": {"deploy", "iam", "render", "config", "clients", "releases", "assets"} | FOUNDATION,
    "tasks": {"clients", "polling"} | FOUNDATION,
    "models": {"clients"} | FOUNDATION,
    "snapshots": {
        "iam", "render", "config", "clients", "polling", "prices", "assets", "versions",
    } | FOUNDATION,
    "images": {"render", "config", "clients", "polling", "releases", "versions", "assets"} | FOUNDATION,
    "doctor": {"deploy", "models", "render", "config", "clients", "local", "reads", "versions"} | FOUNDATION,
    "status": {"deploy", "render", "clients", "inventory", "prices", "reads"} | FOUNDATION,
    "local": {
        "deploy", "render", "config", "clients", "polling", "assets", "task_record", "deployments",
    } | FOUNDATION,
}  # fmt: skip
# The one door to each outside library, as path prefixes.
DOORS = {
    "boto3": ("sdctl/clients/", "agent/", "lambda/"),
    "botocore": ("sdctl/clients/", "agent/", "lambda/"),
    "typer": ("sdctl/cli/",),
    "rich": ("sdctl/cli/",),
    "sh": ("sdctl/clients/process.py",),
    "jinja2": ("sdctl/render/engine.py",),
    "click": (),
}
SHIPPED_APART = {"sdctl.contract", "sdctl.task_record"}


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def imports(path: Path) -> tuple[tuple[str, int], ...]:
    """Return (dotted name, line) of every import of a file, also those inside functions."""
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield str(node.module), node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def part_of(name: str) -> str:
    """Name the part of sdctl that a dotted name lies in; `__init__` for the package itself."""
    pieces = name.split(".")
    return pieces[1] if len(pieces) > 1 and is_part(pieces[1]) else "__init__"


def is_part(piece: str) -> bool:
    return (ROOT / "sdctl" / piece).is_dir() or (ROOT / "sdctl" / f"{piece}.py").is_file()


def violations_of_layers(path: Path) -> list[str]:
    here = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    if here == "cli":
        return []
    allowed = ALLOWED.get(here)
    assert allowed is not None, f"say in ALLOWED what sdctl/{here} may import"
    wrong = []
    for name, line in imports(path):
        there = part_of(name) if name.split(".")[0] == "sdctl" else here
        # `from sdctl import x` names the package itself as well, which is no import of the version.
        if there not in {here, "__init__"} and there not in allowed:
            wrong.append(f"{path.relative_to(ROOT)}:{line}: {here} imports {there}")
    return wrong


def test_imports_inside_sdctl_point_down_only() -> None:
    assert [text for path in sources("sdctl") for text in violations_of_layers(path)] == []


def test_the_rules_notice_an_import_that_points_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = tmp_path / "sdctl/render/bad.py"
    for folder in ("render", "deploy"):
        (tmp_path / "sdctl" / folder).mkdir(parents=True)
    bad.write_text("def f():\n    from sdctl.deploy import planner\n")
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert violations_of_layers(bad) == ["sdctl/render/bad.py:2: render imports deploy"] * 2


@pytest.mark.parametrize("library", sorted(DOORS))
def test_each_library_has_one_door(library: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in sources("sdctl", "agent", "lambda", "snapshot")
        for name, line in imports(path)
        if name.split(".")[0] == library and not path.relative_to(ROOT).as_posix().startswith(DOORS[library])
    ]
    assert sorted(set(wrong)) == []


def test_agent_and_functions_import_of_sdctl_the_contract_only() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in sources("agent", "lambda")
        for name, line in imports(path)
        if name.startswith("sdctl.") and not any(f"{name}.".startswith(f"{one}.") for one in SHIPPED_APART)
    ]
    assert wrong == []


def test_the_contract_needs_the_standard_library_only() -> None:
    import sys

    for name in ("contract", "task_record", "errors"):
        tops = {one.split(".")[0] for one, _ in imports(ROOT / "sdctl" / f"{name}.py")}
        assert tops <= set(sys.stdlib_module_names) | {"sdctl"}


def test_the_snapshot_builder_knows_nothing_of_sdctl() -> None:
    assert [n for path in sources("snapshot") for n, _ in imports(path) if n.split(".")[0] == "sdctl"] == []


def test_functions_do_not_import_each_other() -> None:
    folders = [one for one in (ROOT / "lambda").iterdir() if one.is_dir() and not one.name.startswith("_")]
    names = {one.name for one in folders}
    wrong = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for folder in folders
        for path in folder.rglob("*.py")
        for name, line in imports(path)
        if name.split(".")[0] in names - {folder.name}
    ]
    assert wrong == []
