"""EBS snapshots: making, listing, copying and deleting them, and what makes their volumes quick."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from sdctl.clients.aws import Aws, aws_errors
from sdctl.errors import AwsError, ConflictError, NotFoundError

_IN_USE: Final = "InvalidSnapshot.InUse"


@dataclass(frozen=True, slots=True)
class EbsSnapshot:
    """A snapshot: `state` is `pending`, `completed` or `error`, `progress` as `45%`, `reason` of an error.

    `size_gib` is its volume's; `data_gib` what is written on that, which is what EBS bills; None: not told.
    """

    id: str
    state: str
    size_gib: int
    started_at: datetime
    progress: str = ""
    reason: str = ""
    is_encrypted: bool = False
    data_gib: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Ebs:
    """The calls that we make, typed; of one region."""

    def __init__(self, aws: Aws) -> None:
        """Use the session; the client is made on first use."""
        self._aws = aws

    @property
    def _client(self) -> Any:
        return self._aws.client("ec2")

    def create(self, volume_id: str, description: str, tags: Mapping[str, str]) -> EbsSnapshot:
        """Begin a snapshot of a volume."""
        with aws_errors(f"make a snapshot of {volume_id}"):
            answer = self._client.create_snapshot(
                VolumeId=volume_id, Description=description, TagSpecifications=_specification(tags)
            )
        return _snapshot(answer)

    def find(self, tags: Mapping[str, str]) -> list[EbsSnapshot]:
        """List this account's snapshots that have all these tags, newest first; an empty value is any."""
        filters = [
            {"Name": f"tag:{key}", "Values": [value]} if value else {"Name": "tag-key", "Values": [key]}
            for key, value in tags.items()
        ]
        with aws_errors("list the snapshots"):
            pages = self._client.get_paginator("describe_snapshots").paginate(
                OwnerIds=["self"], Filters=filters
            )
            found = [_snapshot(one) for page in pages for one in page["Snapshots"]]
        return sorted(found, key=lambda one: one.started_at, reverse=True)

    def get(self, snapshot_id: str) -> EbsSnapshot:
        """Return one snapshot.

        Raises:
            NotFoundError: there is none of that id here.
        """
        try:
            with aws_errors(f"look at the snapshot {snapshot_id}"):
                found = self._client.describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"]
        except NotFoundError as error:
            raise NotFoundError(
                f"there is no snapshot {snapshot_id} in {self._aws.region}", hint="sdctl snapshot list"
            ) from error
        return _snapshot(found[0])

    def delete(self, snapshot_id: str) -> None:
        """Delete a snapshot, and its fast restore with it; one that is gone is deleted already.

        Raises:
            ConflictError: an image (AMI) is made of it.
        """
        try:
            with suppress(NotFoundError), aws_errors(f"delete the snapshot {snapshot_id}"):
                self._client.delete_snapshot(SnapshotId=snapshot_id)
        except AwsError as error:
            if error.aws_code == _IN_USE:
                raise ConflictError(error.message) from error
            raise

    def copy_from(
        self, region: str, snapshot_id: str, description: str, tags: Mapping[str, str], kms_key: str = ""
    ) -> str:
        """Begin to copy a snapshot of another region into this one, encrypted, and return the copy's id."""
        key = {"KmsKeyId": kms_key} if kms_key else {}
        with aws_errors(f"copy {snapshot_id} from {region} to {self._aws.region}"):
            answer = self._client.copy_snapshot(
                SourceRegion=region, SourceSnapshotId=snapshot_id, Description=description, Encrypted=True,
                TagSpecifications=_specification(tags), **key,
            )  # fmt: skip
        return str(answer["SnapshotId"])

    def tag(self, snapshot_id: str, tags: Mapping[str, str]) -> None:
        """Give a snapshot tags, in place of those of the same names."""
        listed = [{"Key": key, "Value": value} for key, value in tags.items()]
        with aws_errors(f"tag the snapshot {snapshot_id}"):
            self._client.create_tags(Resources=[snapshot_id], Tags=listed)

    def fast_restores(self, snapshot_ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the zones in which fast restore of each snapshot is billed; those without are left out.

        https://docs.aws.amazon.com/ebs/latest/userguide/view-fsr-enabled-snapshots.html
        """
        filters = [
            {"Name": "snapshot-id", "Values": list(snapshot_ids)},
            {"Name": "state", "Values": ["enabling", "optimizing", "enabled"]},
        ]
        zones: dict[str, list[str]] = {}
        with aws_errors("look for fast snapshot restore"):
            pages = self._client.get_paginator("describe_fast_snapshot_restores").paginate(Filters=filters)
            for page in pages:
                for one in page["FastSnapshotRestores"]:
                    zones.setdefault(one["SnapshotId"], []).append(one["AvailabilityZone"])
        return {name: tuple(sorted(found)) for name, found in zones.items()}

    def disable_fast_restore(self, snapshot_id: str, zones: Sequence[str]) -> None:
        """End fast restore of a snapshot in zones.

        Raises:
            AwsError: EC2 refuses it in one of the zones.
        """
        with aws_errors(f"disable fast snapshot restore of {snapshot_id}"):
            answer = self._client.disable_fast_snapshot_restores(
                AvailabilityZones=list(zones), SourceSnapshotIds=[snapshot_id]
            )
        _check_zones(answer, f"disable fast snapshot restore of {snapshot_id}")

    def enable_fast_restore(self, snapshot_id: str, zones: Sequence[str]) -> None:
        """Have volumes of a snapshot filled at their creation, in zones; billed by the hour until disabled.

        Raises:
            AwsError: EC2 refuses it in one of the zones.
        """
        with aws_errors(f"enable fast snapshot restore of {snapshot_id}"):
            answer = self._client.enable_fast_snapshot_restores(
                AvailabilityZones=list(zones), SourceSnapshotIds=[snapshot_id]
            )
        _check_zones(answer, f"enable fast snapshot restore of {snapshot_id}")


def _check_zones(answer: Mapping[str, Any], action: str) -> None:
    """Refuse an answer that is a success although some zones are not."""
    refused = [
        f"{one.get('AvailabilityZone', '?')}: {one.get('Error', {}).get('Message', 'no reason given')}"
        for item in answer.get("Unsuccessful", ())
        for one in item.get("FastSnapshotRestoreStateErrors", ())
    ]
    if refused:
        raise AwsError(f"could not {action} in {'; '.join(refused)}")


def _specification(tags: Mapping[str, str]) -> list[dict[str, Any]]:
    listed = [{"Key": key, "Value": value} for key, value in tags.items()]
    return [{"ResourceType": "snapshot", "Tags": listed}]


def _snapshot(found: Mapping[str, Any]) -> EbsSnapshot:
    data_bytes = found.get("FullSnapshotSizeInBytes")
    return EbsSnapshot(
        id=found["SnapshotId"],
        state=found["State"],
        size_gib=int(found["VolumeSize"]),
        started_at=found["StartTime"],
        progress=str(found.get("Progress") or ""),
        reason=str(found.get("StateMessage") or ""),
        is_encrypted=bool(found.get("Encrypted")),
        data_gib=data_bytes / 1024**3 if data_bytes else None,
        tags={tag["Key"]: tag["Value"] for tag in found.get("Tags", ())},
    )
