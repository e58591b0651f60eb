"""What must hold between the fields of a configuration: problems and warnings, all at once, pure."""

from __future__ import annotations

from collections.abc import Iterator

from sdctl.config.model import Config, RuntimeConfig
from sdctl.contract import NAME_PATTERN, checkpoint_key

Finding = tuple[str, str]


def problems(config: Config) -> Iterator[Finding]:
    """Yield (path, message) of everything that makes the configuration unusable."""
    names: dict[str, int] = {}
    models: dict[str, int] = {}
    for index, runtime in enumerate(config.runtimes):
        path = f"modelsRuntime/{index}"
        if not NAME_PATTERN.fullmatch(runtime.name):
            yield (
                f"{path}/name",
                (
                    f'"{runtime.name}" is not a DNS label: at most 63 letters, digits and "-", '
                    "a letter or digit first and last"
                ),
            )
        first = names.setdefault(runtime.name, index)
        if first != index:
            yield f"{path}/name", f'"{runtime.name}" is also the name of modelsRuntime/{first}'
        if runtime.checkpoint:
            # Two spellings that the task API takes for the same model would be routed to both.
            first = models.setdefault(checkpoint_key(runtime.checkpoint), index)
            if first != index:
                yield (
                    f"{path}/modelFilename",
                    (f'"{runtime.checkpoint}" is also the model of modelsRuntime/{first}'),
                )
        yield from _cache_problems(runtime, path)
    network = config.network
    if network.vpc_id and len(network.subnet_ids) < 2:
        yield "network/subnetIds", "an existing VPC needs at least two private subnets in different zones"
    if network.subnet_ids and not network.vpc_id:
        yield "network/vpcId", "is required with subnetIds"


def _cache_problems(runtime: RuntimeConfig, path: str) -> Iterator[Finding]:
    """The image-cache modes exclude each other: Bottlerocket wipes or hides the one that is not in use."""
    snapshot, values = runtime.snapshot_id, f"{path}/extraValues/karpenter/nodeTemplate"
    if snapshot and not snapshot.startswith("snap-"):
        yield f"{values}/dataVolume/snapshotID", f'"{snapshot}" is not a snapshot id (snap-…)'
    if runtime.image_cache == "snapshot" and not snapshot:
        yield f"{path}/imageCache", f"snapshot needs {values.removeprefix(path + '/')}/dataVolume/snapshotID"
    if snapshot and runtime.image_cache in ("soci", "none"):
        yield f"{path}/imageCache", f'"{runtime.image_cache}" does not go with a snapshotID'
    if runtime.effective_image_cache == "snapshot" and runtime.extra_value(
        "karpenter", "nodeTemplate", "instanceStorePolicy"
    ):
        yield f"{values}/instanceStorePolicy", "hides the image cache of the snapshot: remove one of the two"


def warnings(config: Config) -> Iterator[Finding]:
    """Yield (path, message) of what is accepted but probably not meant."""
    for index, runtime in enumerate(config.runtimes):
        path = f"modelsRuntime/{index}"
        if runtime.type == "comfyui" and (runtime.model_filename or runtime.dynamic_model):
            yield (
                path,
                "modelFilename and dynamicModel are for sdwebui; a comfyui workflow names its own models",
            )
        for part in ("inferenceApi", "queueAgent"):
            if runtime.extra_value("runtime", part, "image", "tag") == "latest":
                yield (
                    f"{path}/extraValues/runtime/{part}/image/tag",
                    ('"latest" changes under you: name a version, so that nodes agree and a roll-back works'),
                )
