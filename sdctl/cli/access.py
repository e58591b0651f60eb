"""What the task commands reach a deployment with: the API's address and key, AWS, the fitting runtime.

`SDCTL_ENDPOINT` and `SDCTL_API_KEY` come first and need no AWS credentials; else the deployment that the
global options mean. AWS is imported only where it is asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from sdctl import contract
from sdctl.cli import context, output
from sdctl.deployments import Deployment
from sdctl.errors import ConfigError, NotFoundError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.config.model import Config
    from sdctl.local.target import LocalTarget
    from sdctl.tasks.api import ApiAccess, TaskApi

# The guide's one runtime, where nothing says which there are.
DEFAULT_RUNTIMES: Final = {"sdruntime": contract.SDWEBUI}


def _from_environment() -> ApiAccess | None:
    env = context.environment()
    endpoint, api_key = env.get("SDCTL_ENDPOINT", ""), env.get("SDCTL_API_KEY", "")
    if not endpoint and not api_key:
        return None
    if not endpoint:
        raise ConfigError("SDCTL_API_KEY is set without SDCTL_ENDPOINT", hint="set both, or neither")
    if not api_key:
        raise ConfigError("SDCTL_ENDPOINT is set without SDCTL_API_KEY", hint="sdctl apikey prints the key")
    from sdctl.tasks.api import ApiAccess

    return ApiAccess(endpoint, api_key)


def api_access() -> ApiAccess:
    """Find the task API's address and key.

    Raises:
        ConfigError: only one of the two variables is set.
        NotFoundError: nothing is deployed, or it has no API.
        AwsError: the key could not be fetched.
    """
    from sdctl.tasks.api import ApiAccess

    found = _from_environment()
    if found is not None:
        return found
    deployment = context.require_deployment()
    endpoint = deployment.outputs.get("FrontApiEndpoint", "")
    if not endpoint:
        raise NotFoundError(
            f"the deployment {deployment.stack_name} has no API endpoint", hint="sdctl deploy"
        )
    return ApiAccess(endpoint, api_key(deployment))


def api_key(deployment: Deployment) -> str:
    """Return the API key: the record's on the local target, else API Gateway's.

    Raises:
        NotFoundError: the deployment has none.
        AwsError: it could not be fetched.
    """
    if deployment.api_key:
        return deployment.api_key
    key_id = deployment.outputs.get("ApiKeyId", "")
    if not key_id:
        raise NotFoundError(f"the deployment {deployment.stack_name} has no API key", hint="sdctl deploy")
    from sdctl.clients.aws import aws_errors

    with aws_errors(f"fetch the API key of {deployment.stack_name}"):
        answer = aws(deployment).client("apigateway").get_api_key(apiKey=key_id, includeValue=True)
    return str(answer["value"])


def task_api() -> TaskApi:
    """Return a client of the task API; nothing is connected yet."""
    from sdctl.tasks.api import TaskApi
    from sdctl.tasks.transport import Transport

    transport = Transport(context.environment())
    context.at_end(transport.close)
    return TaskApi(api_access(), transport)


def aws(deployment: Deployment) -> Aws:
    """Return an AWS session for a deployment, on the local target the emulator's."""
    from sdctl.clients.aws import Aws, AwsAccess

    if deployment.target == "local":
        from sdctl.deployments import home
        from sdctl.local.target import LocalTarget

        state = home(context.environment())
        return Aws(LocalTarget(state, deployment.stack_name, Path(deployment.folder)).access())
    profile = context.current().profile or deployment.profile or None
    return Aws(AwsAccess(region=deployment.region, profile=profile))


def region() -> str:
    """Return the region that a flag, the environment or the AWS profile names.

    Raises:
        ConfigError: nothing names one.
    """
    found = context.region()
    if not found:
        raise ConfigError("no region is set", hint="pass -R REGION, or set AWS_DEFAULT_REGION")
    return found


def session() -> Aws:
    """Return an AWS session of the global options, for what has no record.

    Raises:
        ConfigError: nothing names a region.
    """
    from sdctl.clients.aws import Aws, AwsAccess

    return Aws(AwsAccess(region(), profile=context.current().profile))


def placed(config: Config, region: str, account: str) -> Config:
    """Fill in what follows from region and account, and say so."""
    from sdctl.config.rules import placed as fill_in

    found = fill_in(config, region, account)
    if found is not config:
        output.warn(f"imageRegistry: not set, taken as {found.image_registry}; sdctl image mirror fills it")
    return found


def local_target(stack_name: str, folder: Path | None = None) -> LocalTarget:
    """Return a deployment on this machine, of the folder we are in unless another is given."""
    from sdctl.deployments import home
    from sdctl.local.target import LocalTarget

    env = context.environment()
    return LocalTarget(home(env), stack_name, folder or Path.cwd(), region=context.current().region, env=env)


def runtimes() -> dict[str, str]:
    """Return the runtimes by name, with their types, as far as this machine knows them."""
    deployment = None
    if _from_environment() is None:
        deployment = context.require_deployment()
        if deployment.runtimes:
            return deployment.runtimes
    return _configured(deployment) or DEFAULT_RUNTIMES


def _configured(deployment: Deployment | None) -> dict[str, str]:
    """Read the runtimes from the configuration file, where there is one."""
    given = context.current().config
    folder = Path(deployment.folder) if deployment is not None else Path.cwd()
    candidates = [given] if given else [folder / "sdctl.yaml", folder / "config.yaml"]
    path = next((one for one in candidates if one.is_file()), None)
    if path is None:
        return {}
    from sdctl.config.load import Overrides, load_config

    config = load_config(path, Overrides(), context.environment()).config
    return {runtime.name: runtime.type for runtime in config.runtimes}


def choose_runtime(tasktype: str, given: str | None) -> str:
    """Return the runtime for a task: the one given, else the first that takes its type.

    Raises:
        NotFoundError: no runtime takes it.
    """
    if given:
        return given
    known = runtimes()
    for name, kind in known.items():
        if tasktype in contract.TASK_TYPES.get(kind, ()):
            return name
    listed = ", ".join(f"{name} ({kind})" for name, kind in known.items())
    raise NotFoundError(
        f"no runtime takes {tasktype}; deployed: {listed}",
        hint="name one with --runtime, or deploy one that does",
    )
