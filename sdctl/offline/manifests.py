"""Releases to manifests, where helm is found: of charts on this machine, since others need a network."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

from sdctl.clients.helm import Helm
from sdctl.clients.helm_binary import find_helm
from sdctl.errors import ToolError
from sdctl.offline.files import release_path
from sdctl.releases import Release
from sdctl.render.stacks import with_placeholders

_WORKERS: Final = 4


def manifest_files(
    releases: Mapping[str, Release], *, kubernetes_version: str, home: Path, environment: Mapping[str, str]
) -> tuple[dict[str, dict[str, bytes]], str]:
    """Render releases with helm.

    Args:
        releases: of charts on this machine, each by a key of the caller's.
        kubernetes_version: of the cluster that is to be.
        home: the state folder, where an installed helm is.
        environment: in whose PATH another is looked for.

    Returns:
        The manifests by key and path, and a note: whose they are, or why there are none.

    Raises:
        ToolError: helm refuses a release's values.
    """
    program = find_helm(home, environment)
    if program is None:
        return {}, "no manifests: helm is not found; sdctl doctor --fix installs it"
    with Helm(program, environment=environment) as helm, ThreadPoolExecutor(_WORKERS) as pool:

        def render(release: Release) -> dict[str, bytes]:
            shown = replace(release, values=with_placeholders(release.values))
            text = helm.template(shown, kubernetes_version=kubernetes_version)
            return {release_path(release, "manifests"): text.encode()}

        asked = pool.submit(lambda: helm.version.text)
        running = [pool.submit(render, release) for release in releases.values()]
        try:
            version = asked.result()
        except ToolError as error:
            return {}, f"no manifests: {error.message}"
        rendered = [one.result() for one in running]
    return dict(zip(releases, rendered, strict=True)), f"manifests are as helm {version} renders them"
