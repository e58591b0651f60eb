"""`sdctl snapshot build`, `list` and `delete`: the images that nodes find on their data volumes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, cast

import typer

from sdctl.cli import context, output
from sdctl.errors import AwsError, ConflictError, NotFoundError, RemoteError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.config.model import Config
    from sdctl.prices import Price
    from sdctl.snapshots.building import Around, Built, Wishes

app = typer.Typer(
    help="Images that nodes find on their volumes.", no_args_is_help=True, rich_markup_mode=None
)
_HOURS_A_DAY: Final = 24


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
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="What the runtimes use, unless given.")
    ] = None,
    arch: Annotated[_Architecture, typer.Option(help="Of the GPU nodes.")] = _Architecture.X86,
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
    config, aws = _place()
    wishes = _wishes(
        architecture=arch.value, kubernetes_version=kubernetes_version, size_gib=size,
        instance_type=instance_type, subnet_id=subnet, security_group_ids=tuple(security_group or ()),
        has_public_ip=public_ip, kms_key=kms_key, copies=_copies(copy_to or []),
        fast_restore_zones=tuple(fast_restore or ()), is_forced=force,
    )  # fmt: skip
    _agree_to_fast_restore(wishes)
    built = build_for(config, aws, wishes, images or [])
    if id_only:
        output.result(_document(built, wishes), built.snapshot_id)
        return
    output.result(_document(built, wishes), lambda: _text(built, wishes))
    output.note(f"Next: sdctl deploy -s {built.snapshot_id}")


def build_for(config: Config, aws: Aws, wishes: Wishes, references: Sequence[str]) -> Built:
    """Build a snapshot, or find the one with just these images, telling what goes on.

    Args:
        config: the deployment whose it is.
        aws: where.
        wishes: how.
        references: the images; without any, those of the runtimes.
    """
    from sdctl.snapshots.building import build_snapshot, connector
    from sdctl.snapshots.images import examine

    listed = references or configured(config, aws)
    output.note(f"asking the registries for {len(listed)} images…")
    try:
        images = examine(listed, wishes.architecture, connector(aws, context.environment()))
    except NotFoundError as error:
        if not references and not error.hint:
            error.hint = "sdctl image push brings the queue agent's; or name the images yourself"
        raise
    for image in images:
        output.detail(f"  {image.reference} {image.digest}")
    return build_snapshot(config, images, wishes, _around(aws))


def configured(config: Config, aws: Aws) -> tuple[str, ...]:
    """List the images that the configuration's runtimes use."""
    from sdctl.render.runtime_values import RuntimeFacts
    from sdctl.snapshots.images import configured_images

    registry = RuntimeFacts(aws.account_id(), aws.region, "").registry
    return configured_images(config, registry)


@app.command("list")
def list_snapshots(
    check: Annotated[
        bool, typer.Option("--check", help="Ask the registries whether the images are still today's.")
    ] = False,
) -> None:
    """List the snapshots with images: what is on them, their age, size, cost and use."""
    from sdctl.snapshots.building import connector
    from sdctl.snapshots.listing import find_snapshots, moved, row, used_by
    from sdctl_snapshot.images import cached_images

    config, aws = _place()
    found = find_snapshots(aws, context.current().stack_name)
    price = _price(aws) if found else None
    rows = []
    for one in found:
        is_ours = one.tags.get("sdctl:stack") == config.stack_name
        entry = row(one, price, used_by(config if is_ours else None, one.id))
        if check:
            entry["moved"] = moved(cached_images(one.tags), connector(aws, context.environment()))
            for name in entry["moved"]:
                output.warn(f"{one.id}: {name} is another image today; sdctl snapshot build makes a new one")
        rows.append(entry)
    output.result({"snapshots": rows}, lambda: _listing(rows, aws.region))


@app.command()
def delete(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Which ones, snap-….")] = None,
    leftovers: Annotated[
        bool, typer.Option("--leftovers", help="Remove what a build left that was killed.")
    ] = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="Even if it may still be at work on another machine.")
    ] = False,
) -> None:
    """Delete snapshots that sdctl built, and what a killed build left."""
    from sdctl.clients.ebs import Ebs
    from sdctl.snapshots.building import remove_leftovers
    from sdctl.snapshots.listing import owned, used_by

    if not ids and not leftovers:
        raise UsageError("name a snapshot, or --leftovers", hint="sdctl snapshot list")
    config, aws = _place()
    for one in (owned(aws, name) for name in ids or ()):
        users = used_by(config, one.id)
        if users:
            raise ConflictError(
                f"{one.id} is what the nodes of {', '.join(users)} start from",
                hint="take its snapshotID out of the configuration and deploy, then delete it",
            )
    named = ", ".join(ids or ())
    if ids and not output.confirm(f"Delete {named} in {aws.region}? Nodes cannot start from it any more."):
        raise typer.Exit(1)
    for name in ids or ():
        Ebs(aws).delete(name)
    removed = remove_leftovers(config, _around(aws), takes_over=take_over) if leftovers else 0
    lines = [f"deleted {named}"] if ids else []
    lines += [f"{removed} leftovers removed"] if leftovers else []
    output.result({"deleted": ids or [], "leftovers_removed": removed}, "\n".join(lines))


def _place() -> tuple[Config, Aws]:
    """Return the configuration and the session of the deployment that is meant, which need not be there yet.

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
    return config, access.session() if deployment is None else access.aws(deployment)


def _around(aws: Aws) -> Around:
    from sdctl.snapshots.building import Around
    from sdctl.snapshots.owner import Owner

    return Around(aws, output.note, Owner.this_process())


def _wishes(**fields: Any) -> Wishes:
    from sdctl.snapshots.building import Wishes

    return Wishes(**fields)


def _copies(given: Sequence[str]) -> dict[str, str]:
    copies = {}
    for text in given:
        region, _, key = text.partition("=")
        copies[region] = key
    return copies


def _agree_to_fast_restore(wishes: Wishes) -> None:
    zones = wishes.fast_restore_zones
    if not zones:
        return
    from sdctl.snapshots.listing import FAST_RESTORE_PRICE

    price = FAST_RESTORE_PRICE
    a_day = price.amount * len(zones) * _HOURS_A_DAY
    question = (
        f"Fast snapshot restore in {', '.join(zones)} costs about {a_day:.2f} {price.currency} a day "
        f"({price.amount} an hour and zone, {price.source}) until the snapshot is deleted. Enable it?"
    )
    if not output.confirm(question):
        raise typer.Exit(1)


def _price(aws: Aws) -> Price | None:
    """Return what a GiB costs a month, or None where the price list cannot be read."""
    from sdctl.clients.pricing import Pricing
    from sdctl.prices import SNAPSHOT

    try:
        return Pricing(aws).product(SNAPSHOT)
    except (AwsError, NotFoundError) as error:
        output.warn(f"what they cost is not known: {error.message}")
        return None


def _document(built: Built, wishes: Wishes) -> dict[str, Any]:
    return {
        "snapshot_id": built.snapshot_id, "size_gib": built.size_gib, "architecture": built.architecture,
        "kubernetes_version": built.kubernetes_version,
        "images": [{"name": one.reference, "digest": one.digest} for one in built.images],
        "copies": dict(built.copies), "fast_restore_zones": list(wishes.fast_restore_zones),
    }  # fmt: skip


def _text(built: Built, wishes: Wishes) -> str:
    from sdctl.snapshots.listing import INITIALISATION_MIB_PER_SECOND

    minutes = built.size_gib * 1024 / INITIALISATION_MIB_PER_SECOND / 60
    lines = [
        f"{built.snapshot_id}  {built.size_gib} GiB, {built.architecture}, "
        f"Kubernetes {built.kubernetes_version}",
        *(f"  {image.reference}  {image.digest}" for image in built.images),
        *(f"  copy in {region}: {copy_id}" for region, copy_id in built.copies.items()),
    ]
    if wishes.fast_restore_zones:
        lines.append(f"  fast snapshot restore in {', '.join(wishes.fast_restore_zones)}, billed by the hour")
    else:
        lines.append(
            f"  a node's volume is filled in at most {minutes:.0f} min, at {INITIALISATION_MIB_PER_SECOND} "
            "MiB/s; that rate is billed by the GiB of each volume: https://aws.amazon.com/ebs/pricing/"
        )
    return "\n".join(lines)


def _listing(rows: list[dict[str, Any]], region: str) -> str:
    if not rows:
        return f"There is no snapshot of sdctl's in {region}."
    now = datetime.now(UTC)
    shown = [
        {
            "id": one["id"], "state": one["state"], "size": f"{one['size_gib']} GiB",
            "age": f"{(now - datetime.fromisoformat(one['created_at'])).days} d",
            "a month, at most": _money(one), "used by": ", ".join(one["used_by"]) or "-",
            "images": ", ".join(image["name"] for image in one["images"]),
        }
        for one in rows
    ]  # fmt: skip
    return output.table(shown, list(shown[0]))


def _money(entry: dict[str, Any]) -> str:
    cost = cast("float | None", entry["monthly_cost_at_most"])
    return "unknown" if cost is None else f"{cost:.2f} {entry['currency']}"
