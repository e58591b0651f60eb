"""What AWS and the cluster have of a deployment: reads only, as many at once as do not need each other."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

from sdctl.clients.aws import Aws, is_expired
from sdctl.clients.cloudformation import CloudFormation, StackState, StackView
from sdctl.clients.ec2 import Ec2
from sdctl.clients.eks import Eks
from sdctl.clients.iam import Iam
from sdctl.clients.image_digests import image_digest
from sdctl.clients.s3 import S3
from sdctl.config.model import Config
from sdctl.deploy.observed_releases import ReleaseView, read_releases
from sdctl.errors import AwsError, NotFoundError, SdctlError, ToolError
from sdctl.render.network import choose_zones
from sdctl.render.runtime_values import unpinned_image, unpinned_images
from sdctl.render.stacks import STACK_TAG
from sdctl.versions import EKS_CALENDAR, KubernetesRelease

FUNCTIONS_PREFIX: Final = "functions/"
# https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/service-linked-roles-spot-instance-requests.html
SPOT_ROLE: Final = "AWSServiceRoleForEC2Spot"
_READERS: Final = 8


@dataclass(frozen=True, slots=True)
class ClusterFinds:
    """What a deploy on AWS has to know besides its stacks; the defaults are those of an account unknown.

    `principal_arn` is the role or user that deploys. `running_version` is the cluster's Kubernetes version,
    empty where there is none; only then `calendar` and `zones` are read, for the choice of a new one's.
    `releases` is None where the cluster cannot be asked, for the reason in `problem`.
    """

    principal_arn: str = "${deployer}"
    has_spot_role: bool = False
    running_version: str = ""
    calendar: tuple[KubernetesRelease, ...] = EKS_CALENDAR
    zones: tuple[str, ...] = ()
    releases: tuple[ReleaseView, ...] | None = ()
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """What there is of a deployment.

    `bucket_regions` has the region of each bucket that exists, `unfinished_buckets` those of ours that an
    interrupted run may have left without their settings, `asset_keys` the function zips in the asset bucket.
    `stacks` and `templates` are by stack name, `image_digests` by image. `cluster` is None on the local
    target.
    """

    account: str
    region: str
    asset_bucket: str
    model_bucket: str
    partition: str = "aws"
    bucket_regions: Mapping[str, str] = field(default_factory=dict)
    unfinished_buckets: frozenset[str] = frozenset()
    asset_keys: frozenset[str] = frozenset()
    stacks: Mapping[str, StackView] = field(default_factory=dict)
    templates: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    image_digests: Mapping[str, str] = field(default_factory=dict)
    cluster: ClusterFinds | None = None

    @property
    def outputs(self) -> dict[str, Mapping[str, str]]:
        """The outputs of every stack, by stack name."""
        return {name: view.outputs for name, view in self.stacks.items()}


def bucket_name(stack_name: str, purpose: str, account: str, region: str) -> str:
    """Pick a bucket's name: always the same for a deployment, unlike everyone else's, at most 63 characters.

    https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    """
    digest = hashlib.sha256(f"{account}/{region}/{stack_name}".encode()).hexdigest()
    # The guide's script names the model bucket with four digits.
    digits = digest[:4] if purpose == "model-bucket" else digest[:10]
    return f"{stack_name[:32].lower().strip('-')}-{purpose}-{digits}"


def observe(
    aws: Aws, config: Config, *, target: str, environment: Mapping[str, str] | None = None
) -> Observed:
    """Read what exists of the deployment that a configuration describes.

    Args:
        aws: the session.
        config: which deployment, and what of it only the configuration knows.
        target: `aws` or `local`, where there is no cluster.
        environment: for the proxy variables, on the way to the cluster.

    Raises:
        AwsError: AWS could not be read. A cluster that cannot be read is no error, see `ClusterFinds`.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        stacks = pool.submit(_stacks, aws, config.stack_name)
        buckets = pool.submit(_buckets, aws, config)
        identity = pool.submit(Iam(aws).identity) if target == "aws" else None
        spot_role = pool.submit(Iam(aws).role_exists, SPOT_ROLE) if target == "aws" else None
        views = stacks.result()
        there = [name for name, view in views.items() if view.state is not StackState.ABSENT]
        cloudformation = CloudFormation(aws)
        templates = dict(zip(there, pool.map(cloudformation.template, there), strict=True))
        cluster, digests = None, dict[str, str]()
        if identity is not None and spot_role is not None:
            rest = _cluster(aws, config, views, environment or {})
            cluster = ClusterFinds(identity.result().principal_arn, spot_role.result(), **rest)
            releases = cluster.releases or ()
            digests = dict(
                pool.map(partial(_digest, aws, config, releases, environment or {}), unpinned_images(config))
            )
        return Observed(
            **buckets.result(), stacks=views, templates=templates, cluster=cluster, image_digests=digests,
        )  # fmt: skip


def changed_since(aws: Aws, config: Config, observed: Observed) -> tuple[str, ...]:
    """Name the stacks that somebody made or began to update since they were observed."""
    now, then = _stacks(aws, config.stack_name), observed.stacks
    return tuple(
        name
        for name, view in now.items()
        if name not in then or (view.id, view.changed_at) != (then[name].id, then[name].changed_at)
    )


def _stacks(aws: Aws, stack_name: str) -> dict[str, StackView]:
    """Find the deployment's stacks: by their tag, and by name, since a name is taken in any case."""
    return {
        view.name: view
        for view in CloudFormation(aws).all()
        if view.tags.get(STACK_TAG) == stack_name or view.name == f"{stack_name}Stack"
    }


def _buckets(aws: Aws, config: Config) -> dict[str, Any]:
    s3, account, region = S3(aws), aws.account_id(), aws.region
    own = {
        purpose: bucket_name(config.stack_name, purpose, account, region)
        for purpose in ("assets", "model-bucket")
    }
    asset_bucket, model_bucket = own["assets"], config.model_bucket or own["model-bucket"]
    found = {
        name: s3.bucket_region(name, owner="" if name == config.model_bucket else account)
        for name in (asset_bucket, model_bucket)
    }
    regions = {name: place for name, place in found.items() if place}
    ours = [name for name in regions if name != config.model_bucket]
    keys = s3.keys(asset_bucket, FUNCTIONS_PREFIX) if asset_bucket in regions else ()
    return {
        "account": account,
        "region": region,
        "partition": aws.partition,
        "asset_bucket": asset_bucket,
        "model_bucket": model_bucket,
        "bucket_regions": regions,
        "unfinished_buckets": frozenset(name for name in ours if STACK_TAG not in s3.tags(name)),
        "asset_keys": frozenset(keys),
    }


def _cluster(
    aws: Aws, config: Config, stacks: Mapping[str, StackView], environment: Mapping[str, str]
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    cluster = Eks(aws).cluster(config.stack_name)
    if cluster is not None:
        found["running_version"] = cluster.version
        try:
            found["releases"] = read_releases(aws, config.stack_name, environment)
        except SdctlError as error:
            # Planning goes on without: the plan says what it does not know.
            found |= {"releases": None, "problem": error.message}
    else:
        found["calendar"] = _calendar(aws)
    network, stack = config.network, stacks.get(f"{config.stack_name}-network")
    # A stack that only was prepared, or failed at first, is made anew.
    is_there = stack is not None and stack.state not in (StackState.ABSENT, StackState.BROKEN)
    if not (network.vpc_id or network.zones or is_there):
        found["zones"] = choose_zones({zone.name: zone.id for zone in Ec2(aws).zones()})
    return found


def _digest(
    aws: Aws, config: Config, releases: tuple[ReleaseView, ...], environment: Mapping[str, str], image: str
) -> tuple[str, str]:
    """Return an image and its digest: the one that runs, else today's; empty where nobody tells it.

    What runs stays, so that a second deploy changes nothing.
    """
    users = {(one.namespace, one.name) for one in config.runtimes if unpinned_image(config, one) == image}
    running = [one.image_digest for one in releases if (one.namespace, one.name) in users]
    try:
        return image, next(filter(None, running), "") or image_digest(aws, image, environment)
    except (ToolError, AwsError):
        return image, ""  # the plan says so, and a deploy refuses it


def _calendar(aws: Aws) -> tuple[KubernetesRelease, ...]:
    """Read the region's Kubernetes versions; where it cannot tell them, those that we know."""
    try:
        return Eks(aws).calendar() or EKS_CALENDAR
    except (AwsError, NotFoundError) as error:
        if isinstance(error, AwsError) and is_expired(error):
            raise
        return EKS_CALENDAR
