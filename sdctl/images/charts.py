"""Helm charts as registries keep them, and charts from repositories that are an index on a web server.

https://helm.sh/docs/topics/registries/#oci-feature-deprecation-and-behavior-changes-with-v380: a chart is a
manifest whose configuration is `Chart.yaml` and whose one layer is the archive.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urljoin, urlsplit

import yaml

from sdctl.clients.oci import Descriptor, Manifest, Repository, as_manifest, digest_of
from sdctl.clients.oci_http import OciError, OciHttp, body_of
from sdctl.errors import ConflictError, NotFoundError

CONFIG_TYPE: Final = "application/vnd.cncf.helm.config.v1+json"
LAYER_TYPE: Final = "application/vnd.cncf.helm.chart.content.v1.tar+gzip"
_MANIFEST_TYPE: Final = "application/vnd.oci.image.manifest.v1+json"
# Public indexes have every version that there ever was.
MAX_INDEX_BYTES: Final = 32 * 1024 * 1024
# Helm's own limits: https://github.com/helm/helm/blob/v4.0.0/pkg/chart/loader/archive/archive.go
MAX_CHART_BYTES: Final = 16 * 1024 * 1024
_MAX_ABOUT_BYTES: Final = 1024 * 1024
_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]{0,251}[a-z0-9])?")
# https://semver.org/#is-there-a-suggested-regular-expression-regex-to-check-a-semver-string, loosely
_VERSION: Final = re.compile(r"\d+\.\d+\.\d+[0-9A-Za-z.+-]{0,100}")


def chart_tag(version: str) -> str:
    """Return the tag of a chart's version: tags have no plus sign."""
    return version.replace("+", "_")


def read_about(archive: bytes) -> dict[str, Any]:
    """Read `Chart.yaml` of an archive; nothing is unpacked.

    Raises:
        OciError: it is no chart.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as packed:
            for entry in packed:
                if entry.isfile() and re.fullmatch(r"[^/]+/Chart\.yaml", entry.name):
                    content = packed.extractfile(entry)
                    about = yaml.safe_load(content.read(_MAX_ABOUT_BYTES)) if content else None
                    break
            else:
                raise OciError("the archive holds no Chart.yaml")
    except (tarfile.TarError, OSError, EOFError, yaml.YAMLError, RecursionError) as error:
        raise OciError(f"the archive is no chart: {type(error).__name__}") from error
    fields = about if isinstance(about, dict) else {}
    if not _NAME.fullmatch(str(fields.get("name"))) or not _VERSION.fullmatch(str(fields.get("version"))):
        raise OciError("the chart has no good name or version")
    return fields


def reproducible(archive: bytes) -> bytes:
    """Return the same chart without times and owners, so that the same files are the same archive.

    Raises:
        OciError: it is no archive.
    """
    packed = io.BytesIO()
    try:
        with (
            tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as old,
            gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
            tarfile.open(fileobj=zipped, mode="w") as new,
        ):
            for entry in sorted((one for one in old if one.isfile()), key=lambda one: one.name):
                plain = tarfile.TarInfo(entry.name)
                plain.size, plain.mode = entry.size, 0o644
                new.addfile(plain, old.extractfile(entry))
    except (tarfile.TarError, OSError, EOFError) as error:
        raise OciError(f"the archive is no chart: {type(error).__name__}") from error
    return packed.getvalue()


class ChartArchive:
    """A packed chart as a registry's artifact: the source of a copy."""

    def __init__(self, archive: bytes) -> None:
        """Read what the chart says of itself.

        Raises:
            OciError: it is no chart.
        """
        self.about = read_about(archive)
        config = json.dumps(self.about, sort_keys=True, default=str).encode()
        self._pieces = {digest_of(one): one for one in (config, archive)}
        annotations = {
            f"org.opencontainers.image.{key}": str(self.about[name])
            for key, name in (("title", "name"), ("version", "version"), ("description", "description"))
            if self.about.get(name)
        }
        self.artifact = as_manifest({
            "schemaVersion": 2, "mediaType": _MANIFEST_TYPE, "annotations": annotations,
            "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": len(config)},
            "layers": [{"mediaType": LAYER_TYPE, "digest": digest_of(archive), "size": len(archive)}],
        })  # fmt: skip

    @property
    def tag(self) -> str:
        """Its tag in a registry."""
        return chart_tag(str(self.about["version"]))

    def push(self, target: Repository) -> bool:
        """Send it where it is not there yet, and tell whether it was sent.

        Raises:
            ConflictError: the version is there with another content.
            OciError: the registry refuses.
        """
        there = target.digest(self.tag)
        if there == self.artifact.digest:
            return False
        if there and _chart_layer(target.manifest(there)) == _chart_layer(self.artifact):
            return False  # helm's own push writes the time into the manifest
        if there:
            raise ConflictError(
                f"{target}:{self.tag} is there with another content", hint="raise the chart's version"
            )
        for descriptor in self.artifact.blobs():
            if not target.has_blob(descriptor.digest):
                target.send_blob(descriptor, io.BytesIO(self._pieces[descriptor.digest]))
        target.put_manifest(self.artifact, self.tag)
        return True


def _chart_layer(manifest: Manifest) -> Descriptor | None:
    return None if manifest.is_index else manifest.blobs()[-1]


def fetch_chart(repository: str, name: str, version: str, *, environment: Mapping[str, str]) -> ChartArchive:
    """Fetch one version of a chart from a repository that is an index on a web server.

    Raises:
        NotFoundError: the index has no such version.
        OciError: it cannot be read, or the archive is not what the index says.
    """
    base = repository.rstrip("/") + "/"
    index = _fetch(base + "index.yaml", MAX_INDEX_BYTES, environment)
    try:
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        entries = yaml.load(index, loader)["entries"].get(name) or []  # noqa: S506 # a safe one, in C
        found = next((one for one in entries if str(one["version"]).removeprefix("v") == version), None)
        url, digest = (str(found["urls"][0]), str(found["digest"])) if found else ("", "")
    except (yaml.YAMLError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise OciError(f"the index of {repository} cannot be read: {type(error).__name__}") from error
    if not url:
        raise NotFoundError(f"{repository} has no {name} {version}")
    archive = _fetch(urljoin(base, url), MAX_CHART_BYTES, environment)
    if digest_of(archive) != f"sha256:{digest.removeprefix('sha256:')}":
        raise OciError(f"{name} {version} of {repository} is not what its index says")
    return ChartArchive(archive)


def _fetch(url: str, limit_bytes: int, environment: Mapping[str, str]) -> bytes:
    where = urlsplit(url)
    http = OciHttp(where.netloc, environment=environment)
    if f"{where.scheme}://{where.netloc}" != http.base:
        raise OciError(f"{url[:200]} is not an https address")
    action = f"fetch {url[:200]}"
    try:
        path = where.path + (f"?{where.query}" if where.query else "")
        with http.send("GET", path, "", action=action) as answer:
            if answer.status != 200:
                raise OciError(f"could not {action}: {answer.status}", status=answer.status)
            return body_of(answer, limit_bytes, action)
    finally:
        http.close()


def read_archive(path: Path) -> ChartArchive:
    """Read a packed chart of this machine.

    Raises:
        NotFoundError: there is no such file.
        OciError: it is no chart.
    """
    if not path.is_file():
        raise NotFoundError(f"there is no chart {path}", hint="sdctl chart package")
    if path.stat().st_size > MAX_CHART_BYTES:
        raise OciError(f"{path} is larger than {MAX_CHART_BYTES} bytes")
    return ChartArchive(path.read_bytes())
