"""The zips: complete, importing nothing that Lambda lacks, the same bytes from any copy of the sources."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from sdctl.assets import asset_dir
from sdctl.deploy import bundle
from sdctl.deploy.bundle import FUNCTIONS, build_bundles

IN_LAMBDA = {"botocore", "sdctl", "sdctl_lambda", *FUNCTIONS}


def names(zip_bytes: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(zip_bytes)).namelist()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_zip_holds_its_package_the_shared_one_and_the_contract(function: str) -> None:
    made = build_bundles()[function]
    held = names(made.zip_bytes)
    assert held == sorted(held)
    assert {
        f"{function}/handler.py",
        "sdctl_lambda/aws.py",
        "sdctl/contract.py",
        "sdctl/task_record.py",
    } <= set(held)
    assert {name.split("/")[0] for name in held} == {function, "sdctl_lambda", "sdctl"}
    assert all(name.endswith((".py", ".json")) for name in held)
    assert (made.handler, made.sha256) == (
        f"{function}.handler.handle",
        hashlib.sha256(made.zip_bytes).hexdigest(),
    )
    assert len(made.zip_bytes) < 150_000


def test_another_copy_of_the_sources_gives_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {name: made.zip_bytes for name, made in build_bundles().items()}
    copy = tmp_path / "lambda"
    shutil.copytree(asset_dir("lambda"), copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (1, 1))
        if path.suffix == ".py":
            path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    (copy / "sdctl_api" / "__pycache__").mkdir(exist_ok=True)
    (copy / "sdctl_api" / "__pycache__" / "x.pyc").write_bytes(b"x")
    monkeypatch.setattr(bundle, "asset_dir", lambda _name: copy)
    assert {name: made.zip_bytes for name, made in build_bundles().items()} == before


def test_entries_have_one_time_one_mode_and_no_compression() -> None:
    for made in build_bundles().values():
        for entry in zipfile.ZipFile(io.BytesIO(made.zip_bytes)).infolist():
            assert (entry.date_time, entry.external_attr >> 16) == ((1980, 1, 1, 0, 0, 0), 0o100644)
            assert (entry.compress_type, entry.create_system) == (zipfile.ZIP_STORED, 3)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_imports_only_what_lambda_has_and_no_other_function(function: str) -> None:
    archive = zipfile.ZipFile(io.BytesIO(build_bundles()[function].zip_bytes))
    allowed = (IN_LAMBDA - set(FUNCTIONS)) | {function} | set(sys.stdlib_module_names)
    held = set(archive.namelist())
    for name in held:
        for node in ast.walk(ast.parse(archive.read(name))):
            modules = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module or ""]
            for module in modules:
                assert module.split(".")[0] in allowed, (name, module)
                if module.startswith("sdctl."):
                    assert module.replace(".", "/") + ".py" in held, (name, module)
