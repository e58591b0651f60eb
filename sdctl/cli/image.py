"""`sdctl image`: the queue agent's image, and a private registry with all that a deployment needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sdctl.cli import access, context, output

if TYPE_CHECKING:
    from sdctl.clients.oci import Reference
    from sdctl.clients.registries import RegistryLogin
    from sdctl.config.load import Loaded
    from sdctl.images.copying import Progress

app = typer.Typer(
    help="Build, push and mirror the images of a deployment.", no_args_is_help=True, rich_markup_mode=None
)

_Builder = Annotated[
    str | None, typer.Option("--builder", metavar="PROGRAM", help="docker, podman, finch or buildah.")
]
_Platforms = Annotated[
    list[str] | None,
    typer.Option("--platform", metavar="OS/ARCH", help="linux/amd64, linux/arm64; the first, unless given."),
]
_LOCAL_NAME = "localhost/sd-on-eks/queue-agent"


@app.callback()
def _group() -> None:
    pass


@app.command()
def build(
    *,
    platforms: _Platforms = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="IMAGE", help="Another base with Python 3.11 or newer.")
    ] = None,
    builder: _Builder = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="MODE", help="The builder's network, as `host`.")
    ] = None,
) -> None:
    """Build the queue agent's image with the builder that is there."""
    from sdctl import __version__
    from sdctl.clients.containers import Build, find_builder
    from sdctl.images.context import make_context

    names = {platform: _local_name(platform) for platform in _chosen(platforms)}
    program = find_builder(context.environment(), builder)
    arguments = {"VERSION": __version__} | ({"BASE": base} if base else {})
    for platform, name in names.items():
        output.note(f"{program.name} builds {name}…")
        with tempfile.TemporaryDirectory(prefix="sdctl-image-") as folder:
            program.build(Build(make_context(Path(folder)), name, platform, arguments, network or ""))
    rows = [{"platform": platform, "image": name} for platform, name in names.items()]
    output.result(
        {"builder": program.name, "images": rows}, lambda: output.table(rows, ["platform", "image"])
    )
    output.note("Next: sdctl image push")


@app.command()
def push(
    *,
    platforms: _Platforms = None,
    to: Annotated[
        str | None,
        typer.Option(
            "--to", metavar="REGISTRY", help="HOST or HOST/PATH; imageRegistry, else the account's ECR."
        ),
    ] = None,
    tag: Annotated[
        str | None, typer.Option("--tag", help="Another than sdctl's version, as the chart asks for.")
    ] = None,
    builder: _Builder = None,
) -> None:
    """Push the queue agent's image: into ECR, whose repository is made, unless another registry is named.

    The builder gives the image as a file, and sdctl sends it: no program is told a password.
    """
    from sdctl.clients.containers import find_builder
    from sdctl.images.copying import Copy, copy_all
    from sdctl.images.layout import Layout
    from sdctl.images.mirror import Hosts

    program = find_builder(context.environment(), builder)
    loaded = _loaded()
    target = _agent_image(loaded, to, tag)
    with tempfile.TemporaryDirectory(prefix="sdctl-image-") as folder:
        archives = {}
        for number, platform in enumerate(_chosen(platforms)):
            archives[platform] = Path(folder) / f"{number}.tar"
            program.save(_local_name(platform), platform, archives[platform])
        layout = Layout(archives)
        _ensure(loaded)(target.host, target.repository, False)
        with Hosts(_login, context.environment()) as hosts:
            repository = hosts.repository(target.host, target.repository)
            [copied] = copy_all([Copy(layout, layout.digest, repository, target.tag)], tell=_Shown())
    document = {
        "image": str(target), "digest": copied.digest, "action": "pushed" if copied.is_new else "present",
    }  # fmt: skip
    output.result(document, f"{document['action']} {target}\n{copied.digest}")
    if tag is not None:
        output.note(f"runtime.queueAgent.image.tag: {tag} in extraValues of a runtime uses it")


@app.command()
def mirror(
    *,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="REGISTRY",
            help="HOST or HOST/PATH; imageRegistry, else sdctl/ in the account's ECR.",
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Show what would be copied, and copy nothing.")
    ] = False,
) -> None:
    """Copy every image and chart that a deployment needs into a private registry, and configure it.

    Whole and by digest, from registry to registry, without a daemon. An interrupted run goes on with the same
    command. Made for China and for clusters without a way out.
    """
    from sdctl.images.mirror import Hosts, split_registry, write_registry
    from sdctl.images.mirror import mirror as bring
    from sdctl.images.needed import needed

    loaded = _loaded()
    registry = to or loaded.config.image_registry or f"{_account_registry()}/sdctl"
    _check_registry(registry)
    wanted = needed(loaded.config)
    host, prefix = split_registry(registry)
    if plan:
        rows = [
            {"source": one.full_source, "target": f"{host}/{prefix}{one.path}{one.target_tag}"}
            for one in wanted
        ]
        output.result(
            {"registry": registry, "images": rows}, lambda: output.table(rows, ["source", "target"])
        )
        return
    make = _ensure(loaded)
    with Hosts(_login, context.environment()) as hosts:
        done = bring(
            wanted,
            registry,
            hosts,
            ensure=lambda name, is_mutable: make(host, name, is_mutable),
            tell=_Shown(),
        )
        agent = _agent_image(loaded, registry)
        has_agent = bool(hosts.repository(agent.host, agent.repository).digest(agent.tag))
    rows = [
        {"action": "copied" if one.is_new else "present", "source": one.source, "target": one.target,
         "digest": one.digest}
        for one in done
    ]  # fmt: skip
    by_hand = [
        {"runtime": one.runtime, "repository": f"{host}/{prefix}{one.path}"} for one in wanted if one.runtime
    ]
    document: dict[str, Any] = {
        "registry": registry, "images": rows, "by_hand": by_hand,
        "missing": [] if has_agent else [str(agent)], "config": {"imageRegistry": registry},
    }  # fmt: skip
    output.result(document, lambda: _mirror_text(document))
    if loaded.path is not None and write_registry(loaded.path, registry):
        output.note(f"wrote imageRegistry into {loaded.path}")
    if not has_agent:
        output.warn(f"{agent} is missing: sdctl image build, then sdctl image push --to {registry}")


def _mirror_text(document: dict[str, Any]) -> str:
    lines = [output.table(document["images"], ["action", "target", "digest"])]
    lines += [f"imageRegistry: {document['registry']}"]
    lines += [
        f"In extraValues of {one['runtime']}: runtime.inferenceApi.image.repository: {one['repository']}"
        for one in document["by_hand"]
    ]
    return "\n".join(lines)


def _loaded() -> Loaded:
    from sdctl.config.load import Overrides, load_config

    loaded = load_config(context.current().config, Overrides(), context.environment())
    for warning in loaded.warnings:
        output.warn(warning)
    return loaded


def _chosen(platforms: list[str] | None) -> list[str]:
    from sdctl.clients.containers import PLATFORMS
    from sdctl.errors import UsageError

    for one in platforms or ():
        if one not in PLATFORMS:
            raise UsageError(f"{one} is not one of {', '.join(PLATFORMS)}")
    return list(dict.fromkeys(platforms or PLATFORMS[:1]))


def _local_name(platform: str) -> str:
    from sdctl import __version__

    return f"{_LOCAL_NAME}:{__version__}-{platform.rpartition('/')[2]}"


def _account_registry() -> str:
    from sdctl.clients.ecr import own_registry

    return own_registry(access.session())


def _deployed_registry(loaded: Loaded) -> str:
    """Return where a deployment that names no registry takes our own images from."""
    from sdctl.config.rules import placed

    aws = access.session()
    return placed(loaded.config, aws.region, aws.account_id()).image_registry or _account_registry()


def _agent_image(loaded: Loaded, registry: str | None, tag: str | None = None) -> Reference:
    from sdctl.images.needed import AGENT_TAG, agent_image

    if registry is not None:
        _check_registry(registry)
    found = registry or loaded.config.image_registry or _deployed_registry(loaded)
    return agent_image(found, AGENT_TAG if tag is None else tag)


def _check_registry(registry: str) -> None:
    import re

    from sdctl.config.model import REGISTRY_PATTERN
    from sdctl.errors import UsageError

    host = registry.partition("/")[0]
    if not re.fullmatch(REGISTRY_PATTERN, registry) or not (host == "localhost" or set(host) & set(".:")):
        raise UsageError(f"{registry} is not HOST or HOST/PATH of a registry, as localhost:5000/sdctl")


def _login(host: str) -> RegistryLogin | None:
    """Sign in to ECR with the session's credentials; other registries are read by anybody."""
    from sdctl.clients.registries import ecr_login, is_ecr

    return ecr_login(access.session(), host) if is_ecr(host) else None


def _ensure(loaded: Loaded) -> Callable[[str, str, bool], None]:
    """Return what makes a repository in ECR; other registries make them by themselves."""
    from sdctl.clients.ecr import Ecr
    from sdctl.clients.registries import is_ecr

    key = loaded.config.kms_key_arn or ""

    def ensure(host: str, name: str, is_mutable: bool) -> None:
        if not is_ecr(host):
            return
        if Ecr(access.session(), host).ensure(name, is_mutable=is_mutable, kms_key_arn=key):
            output.note(f"made the repository {name}")

    return ensure


class _Shown:
    """Tells every tenth of the bytes how far a copy is."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, progress: Progress) -> None:
        tenth = 10 * progress.bytes_sent // progress.bytes if progress.bytes else 0
        if tenth != self._last and progress.bytes:
            self._last = tenth
            output.note(
                f"{progress.blobs_done} of {progress.blobs} pieces, {progress.bytes_sent / 1e6:.0f} MB sent"
            )
