"""A deployment on AWS that this machine has no record of: found by its name, read from its stacks."""

from __future__ import annotations

from sdctl.cli import context
from sdctl.deployments import Deployment


def is_asked_for() -> bool:
    """Tell whether the global options ask for a deployment on AWS by name, and say where it is."""
    options = context.current()
    names_one = options.target == "aws" or (options.target is None and options.stack_name is not None)
    return names_one and bool(context.region())


def stack_name() -> str:
    """Return the name that a flag gives, else the configuration file's, else the guide's."""
    options = context.current()
    if options.stack_name:
        return options.stack_name
    from sdctl.config.load import Overrides, load_config

    return load_config(options.config, Overrides(), context.environment()).config.stack_name


def deployment_on_aws() -> Deployment:
    """Read the deployment that the global options name.

    Raises:
        NotFoundError: there is none in this region.
        AwsError: AWS could not be asked.
    """
    from sdctl.clients.aws import Aws, AwsAccess
    from sdctl.deploy.results import read_results

    name, profile = stack_name(), context.current().profile
    aws = Aws(AwsAccess(context.region(), profile=profile))
    outputs, runtimes = read_results(aws, name)
    return Deployment(name, aws.region, "aws", "", outputs, runtimes=runtimes, profile=profile or "")
