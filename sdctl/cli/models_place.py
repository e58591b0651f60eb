"""Which bucket the bucket and models commands mean, and which runtimes use its checkpoints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sdctl.cli import access, context, output
from sdctl.deployments import Deployment
from sdctl.errors import AwsError, NotFoundError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.clients.objects import Objects
    from sdctl.config.load import Loaded
    from sdctl.config.model import Config


@dataclass(frozen=True, slots=True)
class Place:
    """A model bucket; `deployment` is None before the first deploy.

    `is_own` is false for a bucket that another one than this deployment reads its models from.
    """

    aws: Aws
    bucket: str
    deployment: Deployment | None
    is_own: bool = True

    @property
    def config(self) -> Config:
        """The configuration of the folder that was deployed from, read when it is asked for."""
        return _loaded(self.deployment).config

    @property
    def is_wanted(self) -> bool:
        """Tell whether it is deployed or configured, and no default of the guide's alone."""
        return self.deployment is not None or _loaded(None).path is not None

    @property
    def stack_name(self) -> str:
        """The deployment's name."""
        return self.config.stack_name if self.deployment is None else self.deployment.stack_name

    @property
    def objects(self) -> Objects:
        """The bucket's objects."""
        from sdctl.clients.objects import Objects

        return Objects(self.aws, self.bucket)


def find_place(bucket: str | None = None) -> Place:
    """Find the bucket: the one given, the deployment's, the configured one, or the one that deploy picks.

    Raises:
        NotFoundError: it would be on this machine, where nothing is deployed.
        ConfigError: nothing names a region.
    """
    deployment = context.find_deployment()
    if deployment is None and context.current().target == "local":
        raise NotFoundError("nothing is deployed on this machine", hint="sdctl deploy --target local")
    aws = access.session() if deployment is None else access.aws(deployment)
    deployed = deployment.outputs.get("ModelBucket") if deployment is not None else None
    found = bucket_of(bucket) if bucket else deployed or _picked(aws, deployment)
    return Place(aws, found, deployment, is_own=deployed is None or found == deployed)


def bucket_of(text: str) -> str:
    """Take a bucket's name from its ARN or address, as the configuration and other tools write it."""
    return text.removeprefix("s3://").rpartition(":::")[2].rstrip("/")


@contextmanager
def existing(place: Place) -> Iterator[None]:
    """Say how the bucket is made, where the block finds that there is none.

    Raises:
        NotFoundError: there is no such bucket.
    """
    from sdctl.clients.aws import error_code

    try:
        yield
    except NotFoundError as error:
        cause = error.__cause__
        if not isinstance(cause, Exception) or error_code(cause) != "NoSuchBucket":
            raise
        raise NotFoundError(
            f"the model bucket {place.bucket} does not exist", hint=f"sdctl bucket create {place.bucket}"
        ) from error


def _picked(aws: Aws, deployment: Deployment | None) -> str:
    from sdctl.deploy.planner import bucket_name

    config = _loaded(deployment).config
    stack_name = config.stack_name if deployment is None else deployment.stack_name
    return config.model_bucket or bucket_name(stack_name, "model-bucket", aws.account_id(), aws.region)


def _loaded(deployment: Deployment | None) -> Loaded:
    """Read the configuration of the folder that was deployed from."""
    from sdctl.config.load import Overrides, load_config

    options = context.current()
    path = options.config
    if path is None and deployment is not None:
        folder = Path(deployment.folder)
        path = next((folder / one for one in ("sdctl.yaml", "config.yaml") if (folder / one).is_file()), None)
    return load_config(path, Overrides(options.stack_name), context.environment())


def checkpoints(place: Place, *, is_sure: bool = False) -> dict[str, list[str]]:
    """Return the checkpoints that runtimes want of a bucket, by the runtime's name.

    They are what the configuration names and what is deployed; and what other deployments name that read
    the same bucket, by `RUNTIME of DEPLOYMENT`.

    Args:
        place: the bucket.
        is_sure: leave nothing out that may not be read, and take no default for what is deployed.

    Raises:
        AwsError: it may not be read.
    """
    from sdctl.deploy.results import read_checkpoints

    found: dict[str, list[str]] = {}
    if place.is_own and (place.is_wanted or not is_sure):
        for runtime in place.config.runtimes:
            if runtime.checkpoint:
                found[runtime.name] = [runtime.checkpoint]
    own = place.stack_name
    users = {own} if place.is_own and place.deployment is not None else set()
    if place.deployment is None or place.deployment.target != "local":  # there each has an emulator to itself
        users |= users_of_buckets(place.aws, is_sure=is_sure).get(place.bucket, set())
    for stack_name in sorted(users):
        try:
            named = read_checkpoints(place.aws, stack_name)
        except AwsError:
            if is_sure:
                raise
            output.warn(f"which models {stack_name} uses cannot be read")
            continue
        for name, names in named.items():
            shown = name if stack_name == own else f"{name} of {stack_name}"
            found[shown] = sorted({*found.get(shown, ()), *names})
    return found


def users_of_buckets(aws: Aws, *, is_sure: bool = False) -> dict[str, set[str]]:
    """Return which deployments use which model bucket: their fronts' stacks have it as a parameter.

    Raises:
        AwsError: the stacks may not be read, and it must be sure.
    """
    from sdctl.clients.cloudformation import CloudFormation

    used: dict[str, set[str]] = {}
    try:
        for stack in CloudFormation(aws).all():
            bucket = stack.parameters.get("ModelBucket")
            if bucket:
                name = stack.tags.get("sdctl:stack") or stack.name.removesuffix("Stack")
                used.setdefault(bucket, set()).add(name)
    except AwsError:
        if is_sure:
            raise
        output.warn("the stacks cannot be read: which deployments use a bucket is not known")
    return used


def human_bytes(count: float) -> str:
    """Write a size as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
