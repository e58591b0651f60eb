"""What the nodes of a configuration are like, as far as a snapshot has to fit them; pure.

The defaults are those of the chart's values; a test compares them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sdctl.config.model import Config, RuntimeConfig
from sdctl.errors import UsageError
from sdctl.render.cluster import is_arm
from sdctl.snapshots.images import PLATFORMS, Architecture

DEFAULT_INSTANCE_TYPES: Final = ("g5.2xlarge", "g6.2xlarge")
DEFAULT_VOLUME_GIB: Final = 100
DEFAULT_RATE_MIB_PER_SECOND: Final = 300
_ARCHITECTURE_LABEL: Final = "kubernetes.io/arch"
_SIZE: Final = re.compile(r"(\d+)(Gi|G|Ti|T)")
_GIB: Final[Mapping[str, float]] = {"Gi": 1, "G": 1000**3 / 1024**3, "Ti": 1024, "T": 1000**4 / 1024**3}


def architectures(runtime: RuntimeConfig) -> frozenset[Architecture]:
    """Return the architectures that a runtime's nodes may have, by their instance types and requirements."""
    given = runtime.extra_value("karpenter", "provisioner", "instanceType")
    types = [str(one) for one in given] if isinstance(given, list) else list(DEFAULT_INSTANCE_TYPES)
    found: set[Architecture] = {"arm64" if is_arm(one) else "x86_64" for one in types}
    # Without any type, the requirements alone say what Karpenter may take.
    found = found or {"x86_64", "arm64"}
    for entry in runtime.extra_value("karpenter", "provisioner", "extraRequirements") or ():
        if isinstance(entry, dict) and entry.get("key") == _ARCHITECTURE_LABEL:
            named = {one for one, word in PLATFORMS.items() if word in (entry.get("values") or ())}
            if entry.get("operator") == "In":
                found &= named
            elif entry.get("operator") == "NotIn":
                found -= named
    return frozenset(found)


def architecture(config: Config) -> Architecture:
    """Return the one architecture that all nodes of a configuration have.

    Raises:
        UsageError: there are two: no snapshot fits both.
    """
    found = frozenset[Architecture]().union(*(architectures(one) for one in config.runtimes))
    if len(found) != 1:
        by_name = (f"{one.name}: {' or '.join(sorted(architectures(one)))}" for one in config.runtimes)
        raise UsageError(
            f"the nodes have no one architecture ({', '.join(by_name)}), and a snapshot has",
            hint="build one for each, with sdctl snapshot build --arch, and set each runtime's snapshotID",
        )
    return next(iter(found))


def of_architecture(config: Config, wanted: Architecture) -> Config:
    """Return the configuration with the runtimes alone whose nodes may have an architecture.

    Raises:
        UsageError: there is none.
    """
    fitting = tuple(one for one in config.runtimes if wanted in architectures(one))
    if not fitting:
        raise UsageError(f"no runtime has nodes with {wanted}", hint="name the images, or another --arch")
    return config.model_copy(update={"runtimes": fitting})


def volume_gib(runtime: RuntimeConfig) -> int | None:
    """Return the size that is configured for the data volume of a runtime's nodes; None: the chart's."""
    given = _data_volume(runtime, "volumeSize")
    match = _SIZE.fullmatch(str(given or ""))
    return int(int(match[1]) * _GIB[match[2]]) if match else None


def too_small(runtimes: Iterable[RuntimeConfig], size_gib: int) -> list[RuntimeConfig]:
    """List the runtimes whose nodes have a data volume that a snapshot of this size does not fit on."""
    return [one for one in runtimes if (volume_gib(one) or DEFAULT_VOLUME_GIB) < size_gib]


def with_volume(config: Config, size_gib: int) -> Config:
    """Give the nodes that start from a snapshot a data volume of at least this size."""
    runtimes = {one.name: one for one in config.runtimes}
    for one in too_small((one for one in config.runtimes if one.snapshot_id), size_gib):
        values = _set(one.extra_values, ("karpenter", "nodeTemplate", "dataVolume"), f"{size_gib}Gi")
        runtimes[one.name] = one.model_copy(update={"extra_values": values})
    return config.model_copy(update={"runtimes": tuple(runtimes.values())})


def initialisation_rate(runtime: RuntimeConfig) -> int:
    """Return the MiB a second at which a runtime's nodes have their volume filled; 0: as it is read."""
    given = _data_volume(runtime, "volumeInitializationRate")
    return given if isinstance(given, int) else DEFAULT_RATE_MIB_PER_SECOND


def _data_volume(runtime: RuntimeConfig, name: str) -> Any:
    return runtime.extra_value("karpenter", "nodeTemplate", "dataVolume", name)


def _set(values: Mapping[str, Any], path: tuple[str, ...], size: str) -> dict[str, Any]:
    if not path:
        return {**values, "volumeSize": size}
    inner = values.get(path[0])
    return {**values, path[0]: _set(inner if isinstance(inner, Mapping) else {}, path[1:], size)}
