"""Copies of a snapshot in other regions: made, found again, and deleted with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from sdctl.clients.aws import Aws
from sdctl.clients.ebs import Ebs, EbsSnapshot
from sdctl.errors import RemoteError
from sdctl.polling import Clock, Pace, poll
from sdctl.render.stacks import STACK_TAG
from sdctl.snapshots.cloud import FINGERPRINT_TAG, patient

# Of a snapshot, the regions with copies of it; of a copy, the snapshot that it was made of.
COPIES_TAG: Final = "sdctl:copies"
COPY_OF_TAG: Final = "sdctl:copy-of"
_COPY_SECONDS: Final = 3 * 3600.0


class CopyError(RemoteError):
    """A copy of a snapshot failed."""

    code = "snapshot_copy"


def copy_to(
    aws: Aws, source: EbsSnapshot, wishes: Mapping[str, str], report: Callable[[str], None], clock: Clock
) -> dict[str, str]:
    """Copy a snapshot into other regions, each unless one with the same images is there.

    Args:
        aws: where the snapshot is.
        source: the snapshot.
        wishes: the key of the copy by region, empty for AWS's own.
        report: whom to tell.
        clock: for the wait until each is completed.

    Returns:
        The copies' ids by region.

    Raises:
        CopyError: one failed; it is deleted.
    """
    if wishes:
        # Before any is made, so that none is forgotten when this one is deleted.
        regions = sorted({*source.tags.get(COPIES_TAG, "").split(), *wishes})
        Ebs(aws).tag(source.id, {COPIES_TAG: " ".join(regions)})
    ids = {region: _begun(aws, source, region, key) for region, key in wishes.items()}
    for region, copy_id in ids.items():
        report(f"copying to {region}: {copy_id}")
        _await(_there(aws, region), copy_id, region, clock)
    return ids


def copies_of(aws: Aws, source: EbsSnapshot) -> list[tuple[str, str]]:
    """Find the copies of a snapshot: their regions and ids."""
    regions = source.tags.get(COPIES_TAG, "").split()
    return [
        (region, one.id) for region in regions for one in _there(aws, region).find({COPY_OF_TAG: source.id})
    ]


def delete_with_copies(aws: Aws, source: EbsSnapshot) -> None:
    """Delete a snapshot and its copies: these first, since it is what names their regions."""
    for region, copy_id in copies_of(aws, source):
        _there(aws, region).delete(copy_id)
    Ebs(aws).delete(source.id)


def _there(aws: Aws, region: str) -> Ebs:
    return Ebs(Aws(replace(aws.access, region=region)))


def _begun(aws: Aws, source: EbsSnapshot, region: str, key: str) -> str:
    """Begin a copy, or take what is there: an earlier run's, or a snapshot that was built there."""
    ebs = _there(aws, region)
    alike = ebs.find({name: source.tags[name] for name in (STACK_TAG, FINGERPRINT_TAG)})
    for one in alike:
        if one.state == "error":
            ebs.delete(one.id)
        elif one.tags.get(COPY_OF_TAG, source.id) == source.id:
            return one.id
    tags = {
        name: value
        for name, value in source.tags.items()
        if name != COPIES_TAG and not name.startswith("aws:")  # AWS's own cannot be given
    }
    description = f"copy of {source.id} in {aws.region}"
    return ebs.copy_from(aws.region, source.id, description, tags | {COPY_OF_TAG: source.id}, key)


def _await(ebs: Ebs, copy_id: str, region: str, clock: Clock) -> None:
    seen = [""]

    def probe() -> bool | None:
        now = ebs.get(copy_id)
        seen[0] = f"{now.state} {now.progress}".strip()
        if now.state == "error":
            ebs.delete(copy_id)
            raise CopyError(f"the copy {copy_id} in {region} failed: {now.reason or 'no reason given'}")
        return True if now.state == "completed" else None

    poll(
        patient(probe, clock), awaited=f"the copy {copy_id} in {region}", timeout_seconds=_COPY_SECONDS,
        pace=Pace(5.0, 1.3, 15.0), state=lambda: seen[0], clock=clock,
    )  # fmt: skip
