"""What snapshots there are, what they cost, who uses them, and whether their images are still today's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sdctl.clients.aws import Aws
from sdctl.clients.ebs import Ebs, EbsSnapshot
from sdctl.clients.oci_http import OciHttp
from sdctl.config.model import Config
from sdctl.errors import NotFoundError
from sdctl.prices import Charge, Price
from sdctl.render.stacks import STACK_TAG
from sdctl.snapshots.building import ARCHITECTURE_TAG, KUBERNETES_TAG
from sdctl.snapshots.cloud import FINGERPRINT_TAG
from sdctl.snapshots.copies import COPIES_TAG
from sdctl.snapshots.images import digests
from sdctl_snapshot.images import cached_images

# By the hour and zone, where the price list cannot be read; other regions take more:
# https://docs.aws.amazon.com/whitepapers/latest/how-aws-pricing-works/amazon-ebs.html
FAST_RESTORE_PRICE: Final = Price(0.75, "USD", source="published for us-east-1")


def find_snapshots(aws: Aws, stack_name: str | None = None) -> list[EbsSnapshot]:
    """List the image caches of a region, of all deployments or of one, newest first."""
    of_stack = {STACK_TAG: stack_name} if stack_name else {}
    return Ebs(aws).find({FINGERPRINT_TAG: ""} | of_stack)


def used_by(config: Config, deployed: Mapping[str, str], snapshot_id: str) -> list[str]:
    """Name the runtimes whose nodes start from a snapshot: as they are configured, or as they were deployed.

    Args:
        config: the configuration.
        deployed: the snapshot of each runtime by its name, as the deployment was recorded.
        snapshot_id: which one.
    """
    configured = {runtime.name: runtime.snapshot_id for runtime in config.runtimes}
    users = {
        name for named in (configured, deployed) for name, found in named.items() if found == snapshot_id
    }
    return sorted(users)


@dataclass(frozen=True, slots=True)
class Prices:
    """What a GiB of a snapshot costs a month, and fast restore an hour and zone; None where not known."""

    storage: Price | None = None
    fast_restore: Price | None = None


def row(snapshot: EbsSnapshot, prices: Prices, zones: Sequence[str], users: list[str]) -> dict[str, Any]:
    """Describe a snapshot.

    Args:
        snapshot: which one. Its cost is at most that of what is written on it, else of its volume's size.
        prices: of storage and fast restore.
        zones: where it has fast restore.
        users: the runtimes that start from it.
    """
    charges = [Charge(snapshot.id, snapshot.data_gib or snapshot.size_gib, prices.storage)]
    if zones:
        charges.append(Charge(snapshot.id, len(zones), prices.fast_restore))
    costs = [charge.monthly for charge in charges]
    cost = sum(one for one in costs if one is not None)
    return {
        "id": snapshot.id,
        "stack_name": snapshot.tags.get(STACK_TAG, ""),
        "state": snapshot.state,
        "size_gib": snapshot.size_gib,
        "data_gib": snapshot.data_gib,
        "images": [{"name": name, "digest": digest} for name, digest in cached_images(snapshot.tags).items()],
        "architecture": snapshot.tags.get(ARCHITECTURE_TAG, ""),
        "kubernetes_version": snapshot.tags.get(KUBERNETES_TAG, ""),
        "encrypted": snapshot.is_encrypted,
        "created_at": snapshot.started_at.isoformat(),
        "copies": snapshot.tags.get(COPIES_TAG, "").split(),
        "fast_restore_zones": list(zones),
        "monthly_cost_at_most": None if None in costs else cost,
        "currency": prices.storage.currency if prices.storage else "",
        "used_by": users,
    }


def moved(cached: Mapping[str, str], connect: Callable[[str], OciHttp]) -> list[str]:
    """Name the images whose tag means something else today than when the snapshot was built.

    Raises:
        OciError: a registry does not answer.
    """
    tagged = [name for name in cached if "@" not in name]
    today = digests(tagged, connect)
    return [name for name in tagged if today[name] != cached[name]]


def uncached(wanted: Iterable[tuple[str, str]], cached: Mapping[str, str]) -> list[str]:
    """Name the images that nodes would pull although they start from a snapshot.

    Args:
        wanted: each image as pods ask for it, with the digest that it has today, empty where not known.
        cached: what is on the snapshot: the digest of each image, by its reference.
    """
    pinned = {f"{repository_of(name)}@{digest}" for name, digest in cached.items()}
    missing = []
    for name, digest in wanted:
        exact = f"{repository_of(name)}@{digest}" if digest else name
        if exact not in pinned and not (not digest and name in cached):
            missing.append(name)
    return missing


def repository_of(name: str) -> str:
    """Return an image's name without its tag and digest."""
    bare = name.partition("@")[0]
    head, _, last = bare.rpartition("/")
    return f"{head}/{last.partition(':')[0]}"


def owned(aws: Aws, snapshot_id: str) -> EbsSnapshot:
    """Return an image cache by its id.

    Raises:
        NotFoundError: there is no such snapshot, or it is no image cache of sdctl's.
    """
    found = Ebs(aws).get(snapshot_id)
    if FINGERPRINT_TAG not in found.tags:
        raise NotFoundError(
            f"{snapshot_id} was not built by sdctl", hint="sdctl snapshot list shows those that were"
        )
    return found
