"""The models that runtimes name and the bucket lacks: told, and the guide's default brought."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from sdctl import contract
from sdctl.cli import access, context, output
from sdctl.errors import AwsError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.config.model import Config
    from sdctl.deployments import Deployment


def offer_default(config: Config, aws: Aws, bucket: str) -> bool:
    """Ask whether the guide's default model is to be brought, where it is missing and somebody can answer.

    It is four gigabytes: `--yes`, which agrees to a plan, does not mean them, nor does a script.
    """
    options = context.current()
    needs = [one.name for one in config.runtimes if one.checkpoint == contract.DEFAULT_CHECKPOINT]
    is_asked = (
        sys.stdin.isatty() and sys.stderr.isatty() and not (options.yes or options.quiet or options.is_json)
    )
    # Hugging Face cannot be reached from China.
    if not needs or not is_asked or aws.region.startswith("cn-"):
        return False
    try:
        if contract.DEFAULT_CHECKPOINT in _there(aws, bucket, contract.DEFAULT_CHECKPOINT):
            return False
    except AwsError:
        return False  # what is missing is told at the end, with the reason
    return output.confirm(
        f"{', '.join(needs)} needs {contract.DEFAULT_CHECKPOINT}, which is not in {bucket}. "
        "Bring it from Hugging Face (4.3 GB) when the deployment stands?"
    )


def bring_default(deployment: Deployment) -> None:
    """Bring the guide's default model into a deployment's bucket, and show how it goes.

    Raises:
        SdctlError: it could not be brought.
    """
    from sdctl.cli.models_place import Place
    from sdctl.cli.models_run import bring, open_sources
    from sdctl.models.bringing import Wish
    from sdctl.models.names import DEFAULT_SOURCE

    place = Place(access.aws(deployment), deployment.outputs["ModelBucket"], deployment)
    with open_sources() as resolver:
        origins = resolver.resolve(DEFAULT_SOURCE, Path())
        _, errors = bring(place, [(origin, Wish()) for origin in origins])
    if errors:
        raise errors[0]


def tell_missing(config: Config, deployment: Deployment) -> Deployment:
    """Name each model that is missing, with the command that brings it; return the record with them."""
    from sdctl.models.names import bring_command

    wanted = {one.name: one.checkpoint for one in config.runtimes if one.checkpoint}
    try:
        missing = _missing(deployment, wanted)
    except AwsError as error:
        output.warn(f"{error.message}: are the models of {', '.join(wanted)} there?")
        return deployment
    for name in dict.fromkeys(missing.values()):
        runtimes = ", ".join(runtime for runtime, one in missing.items() if one == name)
        output.note(f"Next: {bring_command(name)} (the runtime {runtimes} waits for it)")
    return replace(deployment, missing_models=missing)


def warn_of_missing(runtime: str) -> None:
    """Say that a task will wait: its runtime's model was missing when it was deployed, and still is.

    The bucket is looked at only then, so that no submit waits for it.
    """
    from sdctl.models.names import bring_command

    if context.environment().get("SDCTL_ENDPOINT"):
        return  # whose deployment that is, is not known
    deployment = context.find_deployment()
    known = deployment.missing_models if deployment is not None else {}
    wanted = {name: one for name, one in known.items() if name.lower() == runtime.lower()}
    if deployment is None or not wanted:
        return
    try:
        missing = _missing(deployment, wanted)
    except AwsError as error:
        output.detail(error.message)
        missing = wanted
    for name in missing.values():
        output.warn(
            f"{runtime} waits for {name}, which is not in the model bucket: its tasks stay queued until "
            f"{bring_command(name)}"
        )
    if not missing:
        still = {name: one for name, one in known.items() if name not in wanted}
        context.deployments().record(replace(deployment, missing_models=still))


def _missing(deployment: Deployment, wanted: dict[str, str]) -> dict[str, str]:
    aws, bucket = access.aws(deployment), deployment.outputs["ModelBucket"]
    there = {one for name in set(wanted.values()) for one in _there(aws, bucket, name)}
    return {runtime: name for runtime, name in wanted.items() if name not in there}


def _there(aws: Aws, bucket: str, name: str) -> set[str]:
    """Return the checkpoints of a bucket whose names begin like one; of a bucket that is not there, none."""
    from sdctl.clients.s3 import S3
    from sdctl.errors import NotFoundError
    from sdctl.models.identify import CHECKPOINT_FOLDER

    prefix = f"{CHECKPOINT_FOLDER}/"
    try:
        return {key.removeprefix(prefix) for key in S3(aws).keys(bucket, prefix + name)}
    except NotFoundError:
        return set()
