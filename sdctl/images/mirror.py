"""Brings everything that a deployment needs into one private registry, and says what is to change for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdctl.clients.oci import Reference, Repository
from sdctl.clients.oci_http import OciHttp
from sdctl.clients.registries import RegistryLogin
from sdctl.errors import ConfigError, NotFoundError
from sdctl.images.charts import fetch_chart
from sdctl.images.copying import Copy, Progress, copy_all
from sdctl.images.needed import Needed

KEY: Final = "imageRegistry"


class Hosts:
    """The registries of one run, each connected and signed in to once; a context manager that closes them."""

    def __init__(self, login: Callable[[str], RegistryLogin | None], environment: Mapping[str, str]) -> None:
        """Keep how to sign in to a host, None for those that anybody may read; nothing is connected."""
        self._login, self.environment = login, environment
        self._hosts: dict[str, OciHttp] = {}

    def __enter__(self) -> Hosts:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self._hosts.values():
            host.close()

    def repository(self, host: str, name: str) -> Repository:
        """Return a repository of a host."""
        if host not in self._hosts:
            self._hosts[host] = OciHttp(host, login=self._login(host), environment=self.environment)
        return Repository(self._hosts[host], name)


@dataclass(frozen=True, slots=True)
class Mirrored:
    """One image or chart in the mirror: `is_new` where something had to be written."""

    source: str
    target: str
    digest: str
    is_new: bool


def split_registry(registry: str) -> tuple[str, str]:
    """Split `host/prefix` into the host and the prefix with its slash, which may be empty."""
    host, _, prefix = registry.partition("/")
    return host, f"{prefix}/" if prefix else ""


def pinned_tag(digest: str) -> str:
    """Return the tag that keeps a digest: what no tag means is deleted after a while."""
    return digest.replace(":", "-")[: len("sha256-") + 16]


def mirror(
    wanted: Sequence[Needed],
    registry: str,
    hosts: Hosts,
    *,
    ensure: Callable[[str, bool], None],
    tell: Callable[[Progress], None],
) -> list[Mirrored]:
    """Bring images and charts into a registry, whatever part of them is missing.

    Args:
        wanted: what.
        registry: the mirror, `host` or `host/prefix`.
        hosts: the connections.
        ensure: makes a repository, by its name and whether its tags may change.
        tell: gets the counters of the copies.

    Raises:
        SdctlError: the first error; the same run again goes on from there.
    """
    host, prefix = split_registry(registry)
    for path, is_mutable in _repositories(wanted).items():
        ensure(prefix + path, is_mutable)
    charts = [_mirror_chart(one, hosts, host, prefix) for one in wanted if one.chart]
    images = [one for one in wanted if not one.chart]
    copies = [copy for one in images for copy in _copies(one, hosts, host, prefix)]
    copied = copy_all(copies, tell=tell)
    sources = {f"{host}/{prefix}{one.path}": one.source for one in images}
    return charts + [
        Mirrored(sources[str(one.target)], f"{one.target}:{one.tag}", one.digest, one.is_new)
        for one in copied
    ]


def _copies(one: Needed, hosts: Hosts, host: str, prefix: str) -> list[Copy]:
    """Plan the copy of an image, under each tag that it gets."""
    origin = Reference.parse(one.source)
    source = hosts.repository(origin.host, origin.repository)
    digest = origin.digest or source.digest(origin.tag)
    if not digest:
        raise NotFoundError(f"there is no image {one.source}")
    tags = [one.tag] if one.tag else []
    if not one.tag or not one.is_versioned:
        # Where the tag moves on, or there is none, what runs has to stay.
        tags.append(pinned_tag(digest))
    return [Copy(source, digest, hosts.repository(host, prefix + one.path), tag) for tag in tags]


def _repositories(wanted: Iterable[Needed]) -> dict[str, bool]:
    """List the repositories, with whether a tag of theirs moves."""
    found: dict[str, bool] = {}
    for one in wanted:
        found[one.path] = found.get(one.path, False) or not one.is_versioned
    return found


def _mirror_chart(one: Needed, hosts: Hosts, host: str, prefix: str) -> Mirrored:
    target = hosts.repository(host, prefix + one.path)
    chart = fetch_chart(one.source, one.chart, one.tag, environment=hosts.environment)
    is_new = chart.push(target)
    return Mirrored(one.full_source, f"oci://{target}:{chart.tag}", target.digest(chart.tag), is_new)


def with_registry(text: str, registry: str) -> str:
    """Set the registry in the text of a configuration file; everything else stays as it is written."""
    line = f"{KEY}: {registry}"
    found = re.compile(rf"^{KEY}:.*$", re.MULTILINE)
    if found.search(text):
        return found.sub(lambda _: line, text, count=1)
    return text + ("" if not text or text.endswith("\n") else "\n") + line + "\n"


def write_registry(path: Path, registry: str) -> bool:
    """Set the registry in a configuration file; false where it is there already.

    Raises:
        ConfigError: the file cannot be read or written.
    """
    try:
        text = path.read_text(encoding="utf-8")
        changed = with_registry(text, registry)
        if changed == text:
            return False
        path.write_text(changed, encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{path} cannot be changed: {error}", hint=f"add to it: {KEY}: {registry}"
        ) from error
    return True
