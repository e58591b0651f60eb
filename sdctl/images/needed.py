"""Which images and charts a deployment needs, where they come from, and where a mirror keeps them; pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdctl import __version__
from sdctl.clients.oci import Reference
from sdctl.config.model import Config, RuntimeConfig
from sdctl.errors import ConfigError, UsageError
from sdctl.render.charts import third_party_sources
from sdctl.render.runtime_values import AGENT_REPOSITORY, EVALUATION_IMAGES

# The evaluation images have no versions; deploy pins the digest that the tag has in the mirror.
UNVERSIONED_TAG: Final = "latest"
AGENT_TAG: Final = __version__


@dataclass(frozen=True, slots=True)
class Needed:
    """One image or chart: its source, its path in the mirror, and its tag there.

    `source` is an image's reference, or `https://…` of a chart repository with `chart` in it. `runtime` is
    set where a runtime's values name the image, and have to name the mirror's instead.
    """

    source: str
    path: str
    tag: str
    chart: str = ""
    runtime: str = ""
    digest: str = ""

    @property
    def full_source(self) -> str:
        """Where it comes from, with a chart's name and version behind its repository."""
        return f"{self.source}#{self.chart}:{self.tag}" if self.chart else self.source

    @property
    def target_tag(self) -> str:
        """What stands behind its path in the mirror."""
        return f":{self.tag}" if self.tag else f"@{self.digest}"

    @property
    def is_versioned(self) -> bool:
        """Tell whether its tag always means the same."""
        return self.tag != UNVERSIONED_TAG


def needed(config: Config) -> tuple[Needed, ...]:
    """List what a mirror has to hold for a configuration, the queue agent's image aside: that is built.

    Raises:
        ConfigError: a runtime's image names no registry, tag or digest.
    """
    sources = third_party_sources(has_gpu_exporter=config.gpu_metrics_exporter)
    found = [_third_party(path, source) for path, source in sources.items()]
    found += [_runtime_image(runtime) for runtime in config.runtimes]
    unique = {(one.path, one.tag, one.digest): one for one in reversed(found)}
    return tuple(reversed(unique.values()))


def agent_image(registry: str, tag: str = AGENT_TAG) -> Reference:
    """Name the queue agent's image in a registry, `host` or `host/prefix`, as the chart does."""
    return Reference.parse(f"{registry}/{AGENT_REPOSITORY}:{tag}")


def _third_party(path: str, source: str) -> Needed:
    if "#" in source:
        repository, _, chart = source.partition("#")
        name, _, version = chart.partition(":")
        return Needed(repository, path, version, chart=name)
    found = Reference.parse(source)
    return Needed(str(found), path, found.tag)


def _runtime_image(runtime: RuntimeConfig) -> Needed:
    given = runtime.extra_value("runtime", "inferenceApi", "image")
    image: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    own = any(image.get(key) for key in ("repository", "tag", "digest"))
    repository = str(image.get("repository") or EVALUATION_IMAGES[runtime.type])
    tag, digest = str(image.get("tag") or ""), str(image.get("digest") or "")
    if not own:
        tag = UNVERSIONED_TAG
    text = repository + (f":{tag}" if tag else "") + (f"@{digest}" if digest else "")
    try:
        found = Reference.parse(text)
    except UsageError as error:
        raise ConfigError(
            f"modelsRuntime {runtime.name}: the image {text} names no registry, or no tag or digest",
            hint="give runtime.inferenceApi.image a repository with its registry, and a tag",
        ) from error
    is_named = bool(image.get("repository"))
    return Needed(
        str(found), found.repository, found.tag, runtime=runtime.name if is_named else "", digest=found.digest
    )
