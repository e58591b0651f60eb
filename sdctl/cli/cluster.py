"""Which cluster the global options mean, for the commands that speak to Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sdctl.cli import context
from sdctl.errors import ConfigError, RemoteError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws


class NoClusterError(RemoteError):
    """The deployment has no cluster."""

    code = "no_cluster"


def cluster_session() -> tuple[Aws, str]:
    """Return the AWS session and the stack whose cluster is meant.

    `--stack-name`, `--region` and `--profile` come first, then the deployment of this folder (or the only
    one), then the environment, the profile and the configuration file.

    Raises:
        NoClusterError: it is a deployment on the local target.
        ConfigError: nothing names a region.
    """
    from sdctl.clients.aws import Aws, AwsAccess

    options = context.current()
    found = context.find_deployment()
    if options.target == "local" or (
        options.target is None and found is not None and found.target == "local"
    ):
        raise NoClusterError(
            "the local target has no Kubernetes cluster: its runtimes are processes of this machine",
            hint="sdctl status",
        )
    recorded_region, recorded_profile = (found.region, found.profile) if found else ("", "")
    region = options.region or recorded_region or context.region()
    if not region:
        raise ConfigError("no region is set", hint="pass -R REGION, or set AWS_DEFAULT_REGION")
    stack_name = options.stack_name or (found.stack_name if found else _configured_stack())
    return Aws(AwsAccess(region=region, profile=options.profile or recorded_profile or None)), stack_name


def _configured_stack() -> str:
    """Return the stack that the configuration file names, or the guide's default."""
    from sdctl.config.load import Overrides, load_config

    return load_config(context.current().config, Overrides(), context.environment()).config.stack_name
