"""Which images a cache is to hold, and what the registries say of them today."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Literal

from sdctl.assets import asset_dir
from sdctl.clients.oci import Manifest, Reference, Repository
from sdctl.clients.oci_http import OciError, OciHttp
from sdctl.clients.registries import is_ecr
from sdctl.config.model import Config, RuntimeConfig
from sdctl.errors import NotFoundError
from sdctl.render.charts import mirrored
from sdctl.render.runtime_values import AGENT_REPOSITORY, CHART_NAME, EVALUATION_IMAGES
from sdctl_snapshot.images import Image

Architecture = Literal["x86_64", "arm64"]
# Bottlerocket and EC2 write it one way, registries the other.
PLATFORMS: Final[Mapping[Architecture, str]] = {"x86_64": "amd64", "arm64": "arm64"}
_MAX_CONFIG_BYTES: Final = 4 * 1024 * 1024
_WORKERS: Final = 8
# A password for the builder would stay readable in the history of its commands, and nodes have none either.
_NO_LOGIN: Final = (
    "is the name right? builder and nodes sign in to ECR alone: copy a private image into ECR, "
    "and name it by that"
)


def configured_images(config: Config, registry: str) -> tuple[str, ...]:
    """List the images that the pods of the configuration's runtimes are made of, as nodes ask for them.

    Args:
        config: the configuration.
        registry: where images without a registry come from, unless the configuration names a mirror.
    """
    images: dict[str, None] = {}
    for runtime in config.runtimes:
        images[_server_image(config, runtime, registry)] = None
        images[_agent_image(config, runtime, registry)] = None
    return tuple(images)


def _server_image(config: Config, runtime: RuntimeConfig, registry: str) -> str:
    default = mirrored(EVALUATION_IMAGES[runtime.type], config.image_registry or "")
    return _image(
        runtime.extra_value("runtime", "inferenceApi", "image"), default, "latest", config, registry
    )


def _agent_image(config: Config, runtime: RuntimeConfig, registry: str) -> str:
    given = runtime.extra_value("runtime", "queueAgent", "image")
    return _image(given, AGENT_REPOSITORY, _chart_version(), config, registry)


def _image(given: Any, repository: str, tag: str, config: Config, registry: str) -> str:
    """Name an image as the chart does: a digest goes before a tag, a registry before a bare name."""
    fields: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    name = str(fields.get("repository") or repository)
    first = name.partition("/")[0]
    if not ("." in first or ":" in first or first == "localhost"):
        name = f"{(config.image_registry or registry).rstrip('/')}/{name}"
    if fields.get("digest"):
        return f"{name}@{fields['digest']}"
    return f"{name}:{fields.get('tag') or tag}"


def _chart_version() -> str:
    """Return what version of our own images the chart takes."""
    import yaml

    path = asset_dir("charts") / CHART_NAME / "Chart.yaml"
    return str(yaml.safe_load(path.read_text(encoding="utf-8"))["appVersion"])


def full_name(text: str) -> str:
    """Name an image in full as nodes do: it is Docker Hub's without a registry, and the latest without a tag.

    https://kubernetes.io/docs/concepts/containers/images/#image-names
    """
    first, slash, _ = text.partition("/")
    has_host = slash and ("." in first or ":" in first or first == "localhost")
    named = text if has_host else f"docker.io/{text}"
    is_exact = "@" in named or ":" in named.rpartition("/")[2]
    return named if is_exact else f"{named}:latest"


def examine(
    references: Iterable[str], architecture: Architecture, connect: Callable[[str], OciHttp]
) -> tuple[Image, ...]:
    """Ask the registries what images are today: their digests, and their layers for one platform.

    Args:
        references: as pods name them; what they leave out is filled in as nodes do.
        architecture: of the nodes.
        connect: opens the connection to a registry, signed in where that needs it.

    Raises:
        UsageError: a reference is none.
        NotFoundError: there is no such image, or not for that platform.
        OciError: a registry does not answer, or not what it should.
    """
    parsed = [Reference.parse(text) for text in dict.fromkeys(map(full_name, references))]
    doors = {host: connect(host) for host in {one.host for one in parsed}}
    try:
        with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
            return tuple(pool.map(lambda one: _examined(one, architecture, doors[one.host]), parsed))
    finally:
        for door in doors.values():
            door.close()


def digests(references: Iterable[str], connect: Callable[[str], OciHttp]) -> dict[str, str]:
    """Ask the registries for today's digest of each image, empty where there is no such image."""
    parsed = {text: Reference.parse(text) for text in references}
    doors = {host: connect(host) for host in {one.host for one in parsed.values()}}
    try:
        with ThreadPoolExecutor(max_workers=_WORKERS) as pool:
            found = pool.map(
                lambda one: Repository(doors[one.host], one.repository).digest(one.asked), parsed.values()
            )
            return dict(zip(parsed, found, strict=True))
    finally:
        for door in doors.values():
            door.close()


def _examined(reference: Reference, architecture: Architecture, http: OciHttp) -> Image:
    try:
        return _read(reference, architecture, http)
    except OciError as error:
        if error.status in (401, 403) and not is_ecr(reference.host):
            error.hint = _NO_LOGIN
        raise


def _read(reference: Reference, architecture: Architecture, http: OciHttp) -> Image:
    repository = Repository(http, reference.repository)
    top = repository.manifest(reference.asked)
    manifest = top
    if top.is_index:
        manifest = repository.manifest(_of_platform(top, reference, architecture))
    else:
        _check_platform(repository, manifest, reference, architecture)
    # The first blob is the configuration, which counts little, and lies on the volume as well.
    layers = {one.digest: one.size_bytes for one in manifest.blobs()}
    return Image(f"{reference.host}/{reference.repository}", reference.tag, top.digest, layers)


def _of_platform(index: Manifest, reference: Reference, architecture: Architecture) -> str:
    """Find the manifest of a platform in an index; attestations and Windows are others."""
    wanted = PLATFORMS[architecture]
    known = {one.digest for one in index.manifests()}
    others = set()
    for entry in json.loads(index.content)["manifests"]:
        platform = entry.get("platform")
        fields: Mapping[str, Any] = platform if isinstance(platform, Mapping) else {}
        if entry["digest"] in known and (fields.get("os"), fields.get("architecture")) == ("linux", wanted):
            return str(entry["digest"])
        others.add(f"{fields.get('os', '?')}/{fields.get('architecture', '?')}")
    raise NotFoundError(
        f"{reference} is not there for linux/{wanted}, but for {', '.join(sorted(others)) or 'nothing'}",
        hint="name another image, or another --arch",
    )


def _check_platform(
    repository: Repository, manifest: Manifest, reference: Reference, architecture: Architecture
) -> None:
    """An image without an index says its platform in its configuration alone."""
    from sdctl.clients.oci_http import body_of

    blobs = manifest.blobs()
    with repository.open_blob(blobs[0].digest) as answer:
        content = body_of(answer, _MAX_CONFIG_BYTES, f"read what {reference} is")
    try:
        found = json.loads(content).get("architecture")
    except (ValueError, RecursionError, AttributeError) as error:
        raise OciError(f"the configuration of {reference} cannot be read") from error
    if found != PLATFORMS[architecture]:
        raise NotFoundError(
            f"{reference} is for {found}, not for {PLATFORMS[architecture]}",
            hint="name another image, or another --arch",
        )
