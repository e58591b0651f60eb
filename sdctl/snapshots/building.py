"""From wishes to a snapshot: the images as they are today, the builder for them, copies and fast restore."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, TypeVar

from sdctl.clients.aws import Aws
from sdctl.clients.builders import Builders, Launch
from sdctl.clients.ebs import Ebs, EbsSnapshot
from sdctl.clients.eks import Eks
from sdctl.clients.oci_http import OciHttp
from sdctl.clients.registries import ecr_login, is_ecr
from sdctl.clients.ssm import Ssm
from sdctl.config.model import Config
from sdctl.errors import ConflictError, NotFoundError, RemoteError, UsageError
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll
from sdctl.render.stacks import STACK_TAG
from sdctl.snapshots.checks import check_key, check_regions, check_zones
from sdctl.snapshots.cloud import FINGERPRINT_TAG, AccountCloud, Place, patient
from sdctl.snapshots.copies import COPIES_TAG, COPY_OF_TAG, copy_to
from sdctl.snapshots.images import Architecture
from sdctl.snapshots.owner import Owner
from sdctl.versions import BOTTLEROCKET_VERSION, KUBERNETES_DEFAULT, newest_fitting
from sdctl_snapshot import commands
from sdctl_snapshot.builder import build, sweep
from sdctl_snapshot.images import Image, fingerprint, image_tags, volume_size_gib
from sdctl_snapshot.site import BuildError, BusyError, Site

ARCHITECTURE_TAG: Final = "sdctl:architecture"
KUBERNETES_TAG: Final = "sdctl:kubernetes"
_MAX_TAGS: Final = 50
_INSTANCE_TYPES: Final[Mapping[Architecture, str]] = {"x86_64": "m5.large", "arm64": "m6g.large"}

T = TypeVar("T")


class SnapshotError(RemoteError):
    """A snapshot could not be built."""

    code = "snapshot"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a build is asked for; empty, zero or None where the default is meant.

    `copies` maps a region to the key of the copy there, empty for AWS's own.
    """

    architecture: Architecture = "x86_64"
    kubernetes_version: str = ""
    size_gib: int = 0
    instance_type: str = ""
    subnet_id: str = ""
    security_group_ids: tuple[str, ...] = ()
    has_public_ip: bool | None = None
    kms_key: str = ""
    copies: Mapping[str, str] = field(default_factory=dict)
    fast_restore_zones: tuple[str, ...] = ()
    is_forced: bool = False


@dataclass(frozen=True, slots=True)
class Built:
    """A snapshot that is completed, and what goes with it; `copies` has ids by region.

    `data_gib` is what is written on its volume of `size_gib`; None where EC2 does not say.
    """

    snapshot_id: str
    size_gib: int
    images: tuple[Image, ...]
    architecture: Architecture
    kubernetes_version: str
    data_gib: float | None = None
    copies: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Around:
    """What a build is given: the session, whom to tell, the process that builds, and time."""

    aws: Aws
    report: Callable[[str], None]
    owner: Owner
    clock: Clock = REAL_CLOCK


def connector(aws: Aws, environment: Mapping[str, str]) -> Callable[[str], OciHttp]:
    """Return what opens a connection to a registry, signed in to ECR."""

    def connect(host: str) -> OciHttp:
        login = ecr_login(aws, host) if is_ecr(host) else None
        return OciHttp(host, login=login, environment=environment)

    return connect


def kubernetes_version(aws: Aws, config: Config, wanted: str = "") -> str:
    """Choose the version whose variant of Bottlerocket builds: the one that the nodes have, or will have."""
    if wanted or config.kubernetes_version:
        return wanted or str(config.kubernetes_version)
    eks = Eks(aws)
    cluster = eks.cluster(config.stack_name)
    if cluster is not None:
        return cluster.version
    return newest_fitting(eks.calendar(), datetime.now(UTC).date()) or KUBERNETES_DEFAULT


def build_snapshot(config: Config, images: tuple[Image, ...], wishes: Wishes, around: Around) -> Built:
    """Build a snapshot with the images on it, or take the one that has just these.

    Args:
        config: the deployment whose it will be.
        images: as the registries have them.
        wishes: how.
        around: where, and as whom.

    Raises:
        UsageError: there is nothing to put on it, or too much to say in its tags; a region or zone is none.
        ConfigError: the key cannot encrypt it.
        ConflictError: another build is at work.
        NotFoundError: AWS has no builder for that version and architecture.
        SnapshotError: a step failed; nothing is left of the build.
    """
    if not images:
        raise UsageError("there is no image to put on a snapshot")
    aws = around.aws
    check_regions(aws, wishes.copies)
    check_zones(aws, wishes.fast_restore_zones)
    version = kubernetes_version(aws, config, wishes.kubernetes_version)
    size = volume_size(images, wishes)
    tags = _tags(config, images, wishes, version)
    kms_key = wishes.kms_key or config.kms_key_arn or ""
    if kms_key:
        check_key(aws, kms_key, config.kms_key_arn or "", around.report)
    launch = Launch(
        image_id=_builder_image(around, version, wishes.architecture),
        instance_type=wishes.instance_type or _INSTANCE_TYPES[wishes.architecture],
        volume_size_gib=size,
        user_data=commands.USER_DATA,
        subnet_id=wishes.subnet_id or next(iter(config.network.subnet_ids), ""),
        security_group_ids=wishes.security_group_ids,
        has_public_ip=wishes.has_public_ip,
        kms_key=kms_key,
    )
    site = _site(config, around, launch=launch, tags=tags)
    made = _guarded(partial(build, images, site, is_forced=wishes.is_forced))
    found = Ebs(aws).get(made.id)
    built = Built(made.id, found.size_gib, images, wishes.architecture, version, found.data_gib)
    copies = copy_to(aws, found, wishes.copies, around.report, around.clock)
    if wishes.fast_restore_zones:
        Ebs(aws).enable_fast_restore(made.id, wishes.fast_restore_zones)
    return replace(built, copies=copies)


def find_snapshot(config: Config, images: tuple[Image, ...], wishes: Wishes, aws: Aws) -> EbsSnapshot | None:
    """Return the snapshot that `build_snapshot` would take instead of building one, or None."""
    tags = _tags(config, images, wishes, kubernetes_version(aws, config, wishes.kubernetes_version))
    found = Ebs(aws).find({STACK_TAG: config.stack_name, FINGERPRINT_TAG: tags[FINGERPRINT_TAG]})
    return next((one for one in found if one.state == "completed"), None)


def remove_leftovers(config: Config, around: Around, *, takes_over: bool = False) -> int:
    """Remove what a dead build left of its builder; return how much that was.

    Args:
        config: the deployment.
        around: where.
        takes_over: true where the user knows that the build is dead which another machine began.

    Raises:
        ConflictError: the build is not dead.
    """
    site = _site(config, around)
    if takes_over:
        site = replace(site, is_alive=lambda _: False)
    return _guarded(partial(sweep, site))


def volume_size(images: tuple[Image, ...], wishes: Wishes) -> int:
    """Return the size of the snapshot that is asked for, in GiB.

    Raises:
        UsageError: it is less than any data volume has.
    """
    least = volume_size_gib(images)
    if 0 < wishes.size_gib < 20:
        raise UsageError("a data volume of Bottlerocket has 20 GiB at least", hint=f"--size {least} would do")
    return wishes.size_gib or least


def _tags(config: Config, images: tuple[Image, ...], wishes: Wishes, version: str) -> dict[str, str]:
    try:
        listed = image_tags(images)
    except ValueError as error:
        raise UsageError(str(error), hint="put them on two snapshots") from error
    key = wishes.kms_key or config.kms_key_arn or ""
    mark = fingerprint(images, wishes.architecture, version, key, str(wishes.size_gib))
    own = {
        STACK_TAG: config.stack_name, "Name": f"{config.stack_name}-images", FINGERPRINT_TAG: mark,
        ARCHITECTURE_TAG: wishes.architecture, KUBERNETES_TAG: version,
    }  # fmt: skip
    room = _MAX_TAGS - len(own) - len(listed) - len((COPIES_TAG, COPY_OF_TAG))
    if len(config.tags) > room:
        raise UsageError(
            f"{len(config.tags)} tags are configured: beside the images there is room for {room}"
        )
    return dict(config.tags) | own | listed


def _builder_image(around: Around, version: str, architecture: Architecture) -> str:
    """Find the system that the nodes have, without NVIDIA's driver: the builder needs no GPU.

    Where that release is not there any more the newest will do: what it writes, the nodes can read.
    https://bottlerocket.dev/en/os/latest/#/install/quickstart/aws/
    """
    aws = around.aws
    folder = f"/aws/service/bottlerocket/aws-k8s-{version}/{architecture}"
    try:
        return Ssm(aws).parameter(f"{folder}/{BOTTLEROCKET_VERSION}/image_id")
    except NotFoundError:
        around.report(f"there is no Bottlerocket {BOTTLEROCKET_VERSION} here: looking for the newest")
    try:
        return Ssm(aws).parameter(f"{folder}/latest/image_id")
    except NotFoundError as error:
        raise NotFoundError(
            f"there is no Bottlerocket for Kubernetes {version} on {architecture} in {aws.region}",
            hint="name another one with --kubernetes-version",
        ) from error


def _site(
    config: Config, around: Around, *, launch: Launch | None = None, tags: Mapping[str, str] | None = None
) -> Site:
    aws = around.aws
    place = Place(config.stack_name, aws.region, aws.partition)
    own = dict(config.tags) | {STACK_TAG: config.stack_name, "Name": f"{config.stack_name}-snapshot-builder"}
    cloud = AccountCloud(
        place, Builders(aws, own, str(around.owner), around.clock), Ebs(aws), Ssm(aws), launch=launch,
        snapshot_tags=tags, boundary=config.permissions_boundary_arn or "", clock=around.clock,
    )  # fmt: skip
    clock = around.clock

    def wait(probe: Callable[[], T | None], **wanted: Any) -> T:
        return poll(patient(probe, clock), pace=Pace(2.0, 1.3, 15.0), clock=clock, **wanted)

    return Site(str(around.owner), cloud, wait, clock.monotonic, around.report, around.owner.is_alive)


def _guarded(act: Callable[[], T]) -> T:
    try:
        return act()
    except BusyError as error:
        raise ConflictError(error.message, hint=error.hint) from error
    except BuildError as error:
        raise SnapshotError(error.message, hint=error.hint) from error
