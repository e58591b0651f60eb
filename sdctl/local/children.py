"""What each child process of the supervisor is: pure descriptions, no process is touched here."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from sdctl.contract import COMFYUI, SDWEBUI
from sdctl.local.gateway import HEALTH_PATH
from sdctl.local.state import LOOPBACK, EmulatorSettings, StateFolder

EMULATOR: Final = "emulator"
RUNTIME: Final = "runtime"
AGENT: Final = "agent"
# In which order children start; they stop in the opposite one.
KINDS: Final = (EMULATOR, RUNTIME, AGENT)

# An agent drains: it hands back what has not started and finishes or hands back what runs.
STOP_SECONDS: Final[Mapping[str, float]] = {EMULATOR: 5.0, RUNTIME: 3.0, AGENT: 10.0}
READY_PATHS: Final[Mapping[str, str]] = {SDWEBUI: "/sdapi/v1/options", COMFYUI: "/system_stats"}
# Of the caller's environment the children get these alone: no credentials, no proxies, no profile.
_PASSED_ON: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "PYTHONPATH",
    "PYTHONHOME",
    "SSL_CERT_FILE",
)


@dataclass(frozen=True, slots=True)
class RuntimeSpec:
    """One runtime with its agent, as `deploy` wants it.

    `agent_environment` lacks API_BASE_URL, credentials and the endpoint; `runtime_url` names a server to
    use instead of the built-in sketch.
    """

    name: str
    type: str
    agent_environment: dict[str, str]
    runtime_url: str | None = None
    checkpoints: tuple[str, ...] = ()
    seconds_per_image: float = 0.0
    model_bucket: str = ""


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """One child process: which module runs with what, and how to see that it is ready.

    `ready_path` answers 200 on `port` once it is; without one it counts as ready when it runs.
    """

    name: str
    kind: str
    module: str
    arguments: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict, repr=False)
    port: int | None = None
    ready_path: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON shape of the desired-state file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> ChildSpec:
        """Read what `as_dict` wrote."""
        return cls(**{**document, "arguments": tuple(document["arguments"])})

    def command(self) -> list[str]:
        """Return the argument list; it never holds a secret."""
        return [sys.executable, "-P", "-m", "sdctl.local.child", self.module, *self.arguments]


def base_environment(env: Mapping[str, str], folder: StateFolder) -> dict[str, str]:
    """Return the environment that every child starts with, from the caller's."""
    passed = {name: env[name] for name in _PASSED_ON if env.get(name)}
    return {**passed, "TMPDIR": str(folder.temporary), "PYTHONUNBUFFERED": "1"}


def emulator_child(settings: EmulatorSettings, folder: StateFolder) -> ChildSpec:
    """Describe the emulator."""
    return ChildSpec(
        name=EMULATOR, kind=EMULATOR, module="sdctl.local.emulator", arguments=(str(folder.root),),
        port=settings.port, ready_path=HEALTH_PATH,
    )  # fmt: skip


def runtime_children(
    spec: RuntimeSpec, settings: EmulatorSettings, folder: StateFolder, port: int | None
) -> list[ChildSpec]:
    """Describe the processes of one runtime: sketch, unless a URL replaces it, and the agent.

    Args:
        spec: what is wanted.
        settings: of the emulator.
        folder: where the model bucket's objects lie.
        port: for sketch; None where `spec.runtime_url` is set.
    """
    children = []
    base_url = spec.runtime_url
    if base_url is None:
        base_url = f"http://{LOOPBACK}:{port}"
        children.append(_sketch(spec, settings, folder, port))
    allowed = [spec.agent_environment.get("INPUT_ALLOWLIST", ""), f"{LOOPBACK}:{settings.port}"]
    environment = {
        **spec.agent_environment,
        "API_BASE_URL": base_url,
        "INPUT_ALLOWLIST": ",".join(entry for entry in allowed if entry),
        "AWS_ENDPOINT_URL": settings.endpoint_url,
        "AWS_ACCESS_KEY_ID": settings.account_id,
        "AWS_SECRET_ACCESS_KEY": settings.secret_key,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    children.append(ChildSpec(f"{AGENT}-{spec.name}", AGENT, "sdctl_agent", environment=environment))
    return children


def _sketch(
    spec: RuntimeSpec, settings: EmulatorSettings, folder: StateFolder, port: int | None
) -> ChildSpec:
    arguments = ["--type", spec.type, "--host", LOOPBACK, "--port", str(port)]
    for checkpoint in spec.checkpoints:
        arguments += ["--checkpoint", checkpoint]
    if spec.model_bucket:
        arguments += ["--models-dir", str(folder.bucket(settings, spec.model_bucket))]
    arguments += ["--seconds-per-image", f"{spec.seconds_per_image:g}"]
    return ChildSpec(
        name=f"{RUNTIME}-{spec.name}", kind=RUNTIME, module="sdctl.local.sketch", arguments=tuple(arguments),
        port=port, ready_path=READY_PATHS[spec.type],
    )  # fmt: skip


def in_start_order(children: Sequence[ChildSpec]) -> list[ChildSpec]:
    """Sort children by kind, the emulator first."""
    return sorted(children, key=lambda child: KINDS.index(child.kind))
