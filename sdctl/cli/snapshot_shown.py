"""How snapshots are shown, and what of them costs money is asked about."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast

import typer

from sdctl.cli import output
from sdctl.errors import AwsError, NotFoundError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.config.model import Config
    from sdctl.prices import Price
    from sdctl.snapshots.building import Built
    from sdctl.snapshots.listing import Prices

_HOURS_A_DAY: Final = 24
# In MiB/s of all volumes that are filled in a region at once; more is refused, and the quota can be raised:
# https://docs.aws.amazon.com/ebs/latest/userguide/initalize-volume.html#consistent-rate-quota
_RATE_QUOTA: Final = 5000
# By the GiB that is written on the snapshot, more for a higher rate:
# https://docs.aws.amazon.com/ebs/latest/userguide/initalize-volume.html#consistent-rate-billing
_RATE_PRICE: Final = (
    "AWS bills this rate by the GiB of data of each volume; for the price in {} see Provisioned Rate for "
    "Volume Initialization at https://aws.amazon.com/ebs/pricing/"
)


def agree_to_fast_restore(aws: Aws, zones: Sequence[str]) -> None:
    """Ask whether fast restore may be bought, with its price."""
    if not zones:
        return
    price = fast_restore_price(aws)
    a_day = price.amount * len(zones) * _HOURS_A_DAY
    question = (
        f"Fast snapshot restore in {', '.join(zones)} costs about {a_day:.2f} {price.currency} a day "
        f"({price.amount:g} an hour and zone, {price.source}) until it is disabled or the snapshot deleted. "
        "Enable it?"
    )
    if not output.confirm(question):
        raise typer.Exit(1)


def fast_restore_price(aws: Aws) -> Price:
    """Return what fast restore costs an hour and zone: here, else as it was published for another region."""
    from sdctl.prices import FAST_RESTORE
    from sdctl.snapshots.listing import FAST_RESTORE_PRICE

    return _price(aws, FAST_RESTORE, "what fast snapshot restore costs here") or FAST_RESTORE_PRICE


def prices(aws: Aws, *, with_fast_restore: bool) -> Prices:
    """Read what snapshots cost; what is not known is warned of."""
    from sdctl.prices import FAST_RESTORE, SNAPSHOT
    from sdctl.snapshots.listing import Prices

    return Prices(
        _price(aws, SNAPSHOT, "what they cost"),
        _price(aws, FAST_RESTORE, "what fast snapshot restore costs") if with_fast_restore else None,
    )


def _price(aws: Aws, product: str, what: str) -> Price | None:
    from sdctl.clients.pricing import Pricing

    try:
        return Pricing(aws).product(product)
    except (AwsError, NotFoundError) as error:
        output.warn(f"{what} is not known: {error.message}")
        return None


def document(built: Built, zones: Sequence[str]) -> dict[str, Any]:
    """Describe a snapshot that was built, for scripts."""
    return {
        "snapshot_id": built.snapshot_id, "size_gib": built.size_gib, "data_gib": built.data_gib,
        "architecture": built.architecture, "kubernetes_version": built.kubernetes_version,
        "images": [{"name": one.reference, "digest": one.digest} for one in built.images],
        "copies": dict(built.copies), "fast_restore_zones": list(zones),
    }  # fmt: skip


def text(built: Built, zones: Sequence[str], config: Config, region: str) -> str:
    """Describe a snapshot that was built, and how nodes come by what is on it."""
    from sdctl.snapshots.nodes import initialisation_rate

    lines = [
        f"{built.snapshot_id}  {built.size_gib} GiB, {built.architecture}, "
        f"Kubernetes {built.kubernetes_version}",
        *(f"  {image.reference}  {image.digest}" for image in built.images),
        *(f"  copy in {place}: {copy_id}" for place, copy_id in built.copies.items()),
    ]
    if zones:
        lines.append(f"  fast snapshot restore in {', '.join(zones)}, billed by the hour")
    rate = max(initialisation_rate(one) for one in config.runtimes)
    if rate:
        data, most = (built.data_gib, "about") if built.data_gib else (built.size_gib, "at most")
        lines += [
            f"  a node's volume is filled in {most} {data * 1024 / rate / 60:.0f} min, at {rate} MiB/s",
            f"  {_RATE_PRICE.format(region)}",
            f"  at most {_RATE_QUOTA // rate} nodes may start at once with it: EBS's quota for a region",
        ]
    return "\n".join(lines)


def warn_of_nodes(config: Config, built: Built, zones: Sequence[str]) -> None:
    """Warn where the nodes that are configured would not start from a snapshot, or not as it is paid for."""
    from sdctl.snapshots.nodes import initialisation_rate, too_small

    where = "karpenter.nodeTemplate.dataVolume"
    small = [one.name for one in too_small(config.runtimes, built.size_gib)]
    if small:
        output.warn(
            f"the nodes of {', '.join(small)} have smaller volumes: set {where}.volumeSize to "
            f"{built.size_gib}Gi in extraValues"
        )
    if zones and any(initialisation_rate(one) for one in config.runtimes):
        output.warn(
            "nodes do not use fast snapshot restore as long as a rate is set, which goes before it: set "
            f"{where}.volumeInitializationRate to 0 in extraValues"
        )


def listing(rows: list[dict[str, Any]], region: str) -> str:
    """Lay out snapshots as a table."""
    if not rows:
        return f"There is no snapshot of sdctl's in {region}."
    now = datetime.now(UTC)
    shown = [
        {
            "id": one["id"], "state": one["state"], "size": f"{one['size_gib']} GiB",
            "age": f"{(now - datetime.fromisoformat(one['created_at'])).days} d",
            "a month, at most": _money(one), "used by": ", ".join(one["used_by"]) or "-",
            "fast restore": ", ".join(one["fast_restore_zones"]) or "-",
            "images": ", ".join(image["name"] for image in one["images"]),
        }
        for one in rows
    ]  # fmt: skip
    return output.table(shown, list(shown[0]))


def _money(entry: dict[str, Any]) -> str:
    cost = cast("float | None", entry["monthly_cost_at_most"])
    return "unknown" if cost is None else f"{cost:.2f} {entry['currency']}"
