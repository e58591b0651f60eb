"""`sdctl snapshot build`, `list` and `delete`: the images that nodes find on their data volumes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from sdctl.cli import context, output
from sdctl.errors import AwsError, ConflictError, RemoteError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.clients.ebs import EbsSnapshot
    from sdctl.config.model import Config
    from sdctl.deployments import Deployment
    from sdctl.snapshots.building import Wishes

app = typer.Typer(
    help="Images that nodes find on their volumes.", no_args_is_help=True, rich_markup_mode=None
)


_ID: Final = re.compile(r"snap-[0-9a-f]{8,17}")


class _Architecture(StrEnum):
    X86 = "x86_64"
    ARM = "arm64"


class NoNodesError(RemoteError):
    """The target has no nodes."""

    code = "no_nodes"


@app.callback()
def _group() -> None:
    pass


@app.command()
def build(
    *,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="What the runtimes use, unless given.")
    ] = None,
    arch: Annotated[
        _Architecture | None, typer.Option(help="Of the GPU nodes; that of their types, unless given.")
    ] = None,
    kubernetes_version: Annotated[
        str, typer.Option("--kubernetes-version", metavar="1.NN", help="The cluster's, unless given.")
    ] = "",
    size: Annotated[
        int, typer.Option(min=0, max=16384, metavar="GIB", help="Computed from the images, unless given.")
    ] = 0,
    instance_type: Annotated[
        str, typer.Option(metavar="TYPE", help="Of the builder: m5.large, on arm64 m6g.large.")
    ] = "",
    subnet: Annotated[
        str,
        typer.Option(metavar="ID", help="Of the builder; one of network.subnetIds, else the default VPC."),
    ] = "",
    security_group: Annotated[
        list[str] | None, typer.Option(metavar="ID", help="Of the builder; nothing needs to get in.")
    ] = None,
    public_ip: Annotated[
        bool | None, typer.Option("--public-ip/--no-public-ip", help="As the subnet has it, unless given.")
    ] = None,
    kms_key: Annotated[
        str, typer.Option(metavar="ARN", help="Encrypts it: kmsKeyArn, else AWS's own key.")
    ] = "",
    copy_to: Annotated[
        list[str] | None, typer.Option(metavar="REGION[=KEY]", help="Copy it there, encrypted by that key.")
    ] = None,
    fast_restore: Annotated[
        list[str] | None,
        typer.Option(metavar="ZONE", help="Fast snapshot restore there; billed by the hour."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if one with these images is there.")] = False,
    id_only: Annotated[bool, typer.Option("-q", help="Print the snapshot's id alone.")] = False,
) -> None:
    """Build a snapshot with container images on it, so that nodes need not pull them.

    A small instance pulls them and is removed with all that belongs to it, also after an error or Ctrl-C.
    """
    from sdctl.cli import snapshot_run, snapshot_shown
    from sdctl.snapshots.checks import check_regions, check_zones
    from sdctl.snapshots.nodes import architecture, of_architecture

    config, aws, _ = _place()
    check_regions(aws, _copies(copy_to or []))
    check_zones(aws, fast_restore or ())
    if arch is not None and not images:
        config = of_architecture(config, arch.value)
    wishes = _wishes(
        architecture=arch.value if arch is not None else architecture(config),
        kubernetes_version=kubernetes_version, size_gib=size, instance_type=instance_type, subnet_id=subnet,
        security_group_ids=tuple(security_group or ()), has_public_ip=public_ip, kms_key=kms_key,
        copies=_copies(copy_to or []), fast_restore_zones=tuple(fast_restore or ()), is_forced=force,
    )  # fmt: skip
    zones = wishes.fast_restore_zones
    snapshot_shown.agree_to_fast_restore(aws, zones)
    found = snapshot_run.examined(config, aws, wishes.architecture, images or ())
    built = snapshot_run.build(config, aws, wishes, found)
    snapshot_shown.warn_of_nodes(config, built, zones)
    if id_only:
        output.result(snapshot_shown.document(built, zones), built.snapshot_id)
        return
    output.result(
        snapshot_shown.document(built, zones), lambda: snapshot_shown.text(built, zones, config, aws.region)
    )
    output.note(f"Next: sdctl deploy -s {built.snapshot_id}")


@app.command("list")
def list_snapshots(
    check: Annotated[
        bool, typer.Option("--check", help="Ask the registries whether the images are still today's.")
    ] = False,
    ids_only: Annotated[bool, typer.Option("-q", help="Print the snapshots' ids alone.")] = False,
) -> None:
    """List the snapshots with images: what is on them, their age, size, cost and use."""
    from sdctl.cli import snapshot_shown
    from sdctl.snapshots.listing import Prices, find_snapshots, row, used_by

    config, aws, deployment = _place()
    found = find_snapshots(aws, context.current().stack_name)
    zones = _fast_restores(aws, [one.id for one in found])
    prices = snapshot_shown.prices(aws, with_fast_restore=bool(zones)) if found else Prices()
    rows = []
    for one in found:
        is_ours = one.tags.get("sdctl:stack") == config.stack_name
        users = used_by(config, _deployed(deployment), one.id) if is_ours else []
        entry = row(one, prices, zones.get(one.id, ()), users)
        if check:
            entry["moved"] = _moved(aws, one)
        rows.append(entry)
    output.result(
        {"snapshots": rows},
        "\n".join(one.id for one in found) if ids_only else lambda: snapshot_shown.listing(rows, aws.region),
    )


def _fast_restores(aws: Aws, ids: Sequence[str]) -> Mapping[str, tuple[str, ...]]:
    """Find where fast restore is on; where that cannot be read, it is warned of."""
    from sdctl.clients.ebs import Ebs

    try:
        return Ebs(aws).fast_restores(ids) if ids else {}
    except AwsError as error:
        output.warn(f"whether they have fast snapshot restore is not known: {error.message}")
        return {}


def _moved(aws: Aws, snapshot: EbsSnapshot) -> list[str] | None:
    """Name the images that are others today, warning of each; None where a registry cannot be asked."""
    from sdctl.snapshots.building import connector
    from sdctl.snapshots.listing import moved
    from sdctl_snapshot.images import cached_images

    try:
        names = moved(cached_images(snapshot.tags), connector(aws, context.environment()))
    except RemoteError as error:
        output.warn(f"{snapshot.id}: whether its images are today's is not known: {error.message}")
        return None
    for name in names:
        output.warn(f"{snapshot.id}: {name} is another image today; sdctl snapshot build makes a new one")
    return names


@app.command()
def delete(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="Which ones, snap-….")] = None,
    leftovers: Annotated[
        bool, typer.Option("--leftovers", help="Remove what a build left that was killed.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Even if it may still be at work on another machine.")
    ] = False,
    only_fast_restore: Annotated[
        bool, typer.Option("--only-fast-restore", help="Keep the snapshot, and end its fast restore.")
    ] = False,
) -> None:
    """Delete snapshots that sdctl built with their copies in other regions, and what a killed build left."""
    from sdctl.cli import snapshot_run
    from sdctl.snapshots.building import remove_leftovers
    from sdctl.snapshots.copies import copies_of, delete_with_copies
    from sdctl.snapshots.listing import owned

    if not ids and (only_fast_restore or not leftovers):
        raise UsageError("name a snapshot, or --leftovers", hint="sdctl snapshot list")
    config, aws, deployment = _place()
    wrong = [name for name in ids or () if not _ID.fullmatch(name)]
    if wrong:
        raise UsageError(f"{wrong[0]!r} is no snapshot's id, as snap-0123456789abcdef0")
    found = [owned(aws, name) for name in ids or ()]
    if only_fast_restore:
        _end_fast_restore(aws, [one.id for one in found])
        return
    for one in found:
        _check_unused(config, deployment, one.id)
    copies = [copy for one in found for copy in copies_of(aws, one)]
    places = [*((aws.region, one.id) for one in found), *copies]
    named = ", ".join(f"{name} in {region}" for region, name in places)
    if found and not output.confirm(f"Delete {named}? Nodes cannot start from it any more."):
        raise typer.Exit(1)
    for one in found:
        delete_with_copies(aws, one)
    removed = remove_leftovers(config, snapshot_run.around(aws), takes_over=take_over) if leftovers else 0
    lines = [f"deleted {named}"] if found else []
    lines += [f"{removed} leftovers removed"] if leftovers else []
    document = {
        "deleted": ids or [], "copies_deleted": [{"region": region, "id": name} for region, name in copies],
        "leftovers_removed": removed,
    }  # fmt: skip
    output.result(document, "\n".join(lines))


def _check_unused(config: Config, deployment: Deployment | None, snapshot_id: str) -> None:
    from sdctl.snapshots.listing import used_by

    users = used_by(config, _deployed(deployment), snapshot_id)
    if users:
        raise ConflictError(
            f"{snapshot_id} is what the nodes of {', '.join(users)} start from",
            hint="deploy without it first: no snapshotID in the configuration, or another one",
        )


def _end_fast_restore(aws: Aws, ids: Sequence[str]) -> None:
    from sdctl.clients.ebs import Ebs

    zones = Ebs(aws).fast_restores(ids)
    for snapshot_id, listed in zones.items():
        Ebs(aws).disable_fast_restore(snapshot_id, listed)
    lines = [f"{name}: no fast restore any more in {', '.join(listed)}" for name, listed in zones.items()]
    document = {"fast_restore_disabled": {name: list(listed) for name, listed in zones.items()}}
    output.result(document, "\n".join(lines) or "there was no fast restore")


def _deployed(deployment: Deployment | None) -> Mapping[str, str]:
    return deployment.snapshots if deployment is not None else {}


def _place() -> tuple[Config, Aws, Deployment | None]:
    """Return configuration, session and record of the deployment that is meant, which need not be there yet.

    Raises:
        NoNodesError: it is on the local target.
    """
    from pathlib import Path

    from sdctl.cli import access
    from sdctl.config.load import Overrides, load_config

    options, deployment = context.current(), context.find_deployment()
    if options.target == "local" or (deployment is not None and deployment.target == "local"):
        raise NoNodesError("the local target has no nodes: its runtimes are processes of this machine")
    path = options.config
    if path is None and deployment is not None:
        folder = Path(deployment.folder)
        path = next((folder / one for one in ("sdctl.yaml", "config.yaml") if (folder / one).is_file()), None)
    name = options.stack_name or (deployment.stack_name if deployment is not None else None)
    config = load_config(path, Overrides(name), context.environment()).config
    return config, access.session() if deployment is None else access.aws(deployment), deployment


def _wishes(**fields: Any) -> Wishes:
    from sdctl.snapshots.building import Wishes

    return Wishes(**fields)


def _copies(given: Sequence[str]) -> dict[str, str]:
    copies = {}
    for text in given:
        region, _, key = text.partition("=")
        copies[region] = key
    return copies
