"""A deploy onto this machine: the emulator up, the front stack applied to it, the runtimes running.

The stages are those of AWS; what differs is where the stack goes and who runs the agents. Nothing is
printed here: progress goes to `report`.
"""

from __future__ import annotations

import http.client
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urlsplit

from sdctl.config.model import Config, RuntimeConfig
from sdctl.contract import DEFAULT_CHECKPOINT
from sdctl.deployments import Deployment
from sdctl.errors import DeployFailedError, UsageError
from sdctl.local.children import READY_PATHS
from sdctl.local.gateway import API_PREFIX
from sdctl.local.target import DEFAULT_REGION, LocalTarget, RuntimeSpec

if TYPE_CHECKING:
    from sdctl.deploy.steps import Event, Plan

NO_CLUSTER_COMMAND: Final = "echo 'the local target has no cluster: see sdctl status'"
_WARM_UP_SECONDS: Final = 20.0
_LOOK_SECONDS: Final = 3.0
_UNKNOWN_ACCOUNT: Final = "0" * 12


@dataclass(frozen=True, slots=True)
class LocalWishes:
    """What only the local target is told: servers to use in place of sketch, and how slow sketch is."""

    runtime_urls: Mapping[str, str] = field(default_factory=dict)
    seconds_per_image: float = 0.0


def read_runtime_urls(values: list[str], config: Config) -> dict[str, str]:
    """Read `--runtime-url` values: `NAME=URL` each, or one URL where there is one runtime.

    Raises:
        UsageError: lists every value that names no runtime or is no http URL.
    """
    names = [runtime.name for runtime in config.runtimes]
    found: dict[str, str] = {}
    problems = []
    for value in values:
        name, separator, url = value.partition("=")
        if not separator or "://" in name:
            name, url = (names[0] if len(names) == 1 else ""), value
        parts = urlsplit(url)
        if name.lower() not in names:
            which = f"{name!r} is not a runtime" if name else "which runtime is it for? Write NAME=URL"
            problems.append(f"--runtime-url {value}: {which}; configured: {', '.join(names)}")
        elif parts.scheme not in ("http", "https") or not _has_address(parts) or parts.username:
            problems.append(f"--runtime-url {value}: not an http://host:port address")
        else:
            found[name.lower()] = url
    if problems:
        raise UsageError("\n".join(problems))
    return found


def _has_address(parts: SplitResult) -> bool:
    try:
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # no number, or none that is a port
        return False


def runtime_url_problems(urls: Mapping[str, str], config: Config) -> list[str]:
    """Ask each server of `--runtime-url` whether it is there and of the type that is configured.

    Returns:
        A warning for each that is not: it may yet be started, so this is no error.
    """
    kinds = {runtime.name: runtime.type for runtime in config.runtimes}
    problems = []
    for name, url in urls.items():
        path = READY_PATHS[kinds[name]]
        try:
            status = _get_status(url, path)
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "strerror", None) or str(error) or type(error).__name__
            problems.append(f"{name}: {url} does not answer yet ({why}); its tasks wait until it does")
        else:
            if status != 200:
                problems.append(f"{name}: {url} answers {status} to {path}; is it a {kinds[name]} server?")
    return problems


def _get_status(url: str, path: str) -> int:
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_LOOK_SECONDS)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def plan_local(target: LocalTarget, config: Config, *, region: str | None) -> Plan:
    """Plan a deploy and change nothing; an emulator that was deployed to before is started to ask it."""
    from sdctl.clients.aws import Aws
    from sdctl.deploy.planner import Observed, bucket_name, observe, plan_deploy

    if target.exists():
        return plan_deploy(config, observe(Aws(target.up()), config, target="local"), target="local")
    place = region or DEFAULT_REGION
    name = config.stack_name
    nothing = Observed(
        account=_UNKNOWN_ACCOUNT,
        region=place,
        asset_bucket=bucket_name(name, "assets", _UNKNOWN_ACCOUNT, place),
        model_bucket=config.model_bucket or bucket_name(name, "model-bucket", _UNKNOWN_ACCOUNT, place),
    )
    return plan_deploy(config, nothing, target="local")


def deploy_local(
    target: LocalTarget,
    config: Config,
    wishes: LocalWishes,
    *,
    folder: Path,
    report: Callable[[Event], None],
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Deployment:
    """Bring this machine's deployment to its configuration; a second time changes nothing.

    Returns:
        The deployment, to be recorded by the caller.

    Raises:
        DeployFailedError: the stack or a process failed.
        WaitTimeoutError: a process was not ready in time.
    """
    target.start()  # it gets ready while the AWS libraries are read
    from sdctl.clients.aws import Aws, aws_errors
    from sdctl.deploy.executor import LOCAL_PACE, Executor
    from sdctl.deploy.outputs import joined_outputs
    from sdctl.deploy.planner import observe, plan_deploy

    access = target.up()
    aws = Aws(access)
    observed = observe(aws, config, target="local")
    plan = plan_deploy(config, observed, target="local")
    by_stack = Executor(aws, report, pace=LOCAL_PACE).run(plan)
    specs = [
        runtime_spec(config, runtime, by_stack, wishes, region=access.region, bucket=observed.model_bucket)
        for runtime in config.runtimes
    ]
    target.run_runtimes(specs)
    stack_outputs = joined_outputs(config.stack_name, by_stack)
    with aws_errors("fetch the API key"):
        answer = aws.client("apigateway").get_api_key(apiKey=stack_outputs["ApiKeyId"], includeValue=True)
    outputs = local_outputs(config.stack_name, access.region, access.endpoint_url or "", stack_outputs)
    warm_up(outputs["FrontApiEndpoint"], str(answer["value"]))
    target.wait_ready()
    return Deployment(
        stack_name=config.stack_name,
        region=access.region,
        target="local",
        folder=str(folder.absolute()),
        outputs=outputs,
        api_key=str(answer["value"]),
        endpoint_url=access.endpoint_url or "",
        deployed_at=now().isoformat(),
        runtimes={runtime.name: runtime.type for runtime in config.runtimes},
    )


def runtime_spec(
    config: Config,
    runtime: RuntimeConfig,
    outputs: Mapping[str, Mapping[str, str]],
    wishes: LocalWishes,
    *,
    region: str,
    bucket: str,
) -> RuntimeSpec:
    """Describe one runtime with the same agent settings that the chart renders; outputs by stack name."""
    from sdctl.render.values import agent_environment

    models = [one.model_filename for one in config.runtimes if one.model_filename]
    return RuntimeSpec(
        name=runtime.name,
        type=runtime.type,
        agent_environment=agent_environment(config, runtime, outputs, region=region),
        runtime_url=wishes.runtime_urls.get(runtime.name),
        checkpoints=tuple(dict.fromkeys([runtime.model_filename or DEFAULT_CHECKPOINT, *models])),
        seconds_per_image=wishes.seconds_per_image,
        model_bucket=bucket,
    )


def local_outputs(
    stack_name: str, region: str, endpoint_url: str, outputs: Mapping[str, str]
) -> dict[str, str]:
    """Return the outputs of a deployment with those that name AWS pointed to this machine."""
    path = f"{API_PREFIX}{outputs['RestApiId']}/{outputs['ApiStageName']}/"
    key_command = ["sdctl", "apikey", "-n", stack_name, "-R", region, "--target", "local"]
    return {
        **outputs,
        "FrontApiEndpoint": endpoint_url + path,
        "GetAPIKeyCommand": shlex.join(key_command),
        "ConfigCommand": NO_CLUSTER_COMMAND,
    }


def warm_up(endpoint: str, api_key: str) -> None:
    """Make the first call of the API, which changes nothing, so that no user waits for its start.

    Raises:
        DeployFailedError: the API does not answer it.
    """
    parts = urlsplit(endpoint)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=_WARM_UP_SECONDS)
    try:
        connection.request("GET", f"{parts.path}v1alpha2/tasks?limit=1", headers={"x-api-key": api_key})
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise DeployFailedError(f"the task API does not answer: {error}", hint="sdctl logs api") from error
    finally:
        connection.close()
    if status != 200:
        raise DeployFailedError(f"the task API answers {status} to its first call", hint="sdctl logs api")
