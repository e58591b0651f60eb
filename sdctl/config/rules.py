"""What must hold between the fields of a configuration: problems and warnings, all at once, pure."""

from __future__ import annotations

from collections.abc import Iterator

from sdctl.config.model import Config, NetworkConfig, RuntimeConfig
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
        yield from _image_problems(runtime, path)
    yield from _network_problems(config.network)
    if config.network.nat_mode == "none" and not (config.network.vpc_id or config.image_registry):
        yield (
            "network/natMode",
            "none leaves no way to public registries: name a private one as imageRegistry, filled by "
            "sdctl image mirror",
        )
    for key in config.tags:
        # https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cfn-console-add-tags.html
        if key.lower().startswith(("aws:", "sdctl:")):
            yield f"tags/{key}", 'keys that begin with "aws:" or "sdctl:" are not yours to give'


def _network_problems(network: NetworkConfig) -> Iterator[Finding]:
    if network.subnet_ids and not network.vpc_id:
        yield "network/vpcId", "is required with subnetIds"
    if len(set(network.subnet_ids)) < len(network.subnet_ids):
        yield "network/subnetIds", "names a subnet twice"
    if len(set(network.zones)) < len(network.zones):
        yield "network/zones", "names a zone twice"
    elif len(network.zones) == 1:
        yield "network/zones", "has 1 entry; EKS needs subnets in two zones at least"
    if network.vpc_id:
        if len(set(network.subnet_ids)) < 2:
            yield "network/subnetIds", "an existing VPC needs at least two private subnets in different zones"
        for key, is_given in (("zones", network.zones), ("interfaceEndpoints", network.interface_endpoints)):
            if is_given:
                yield f"network/{key}", "does not go with vpcId: an existing VPC is left as it is"


def partition_of(region: str) -> str:
    """Return the partition of a region: `aws`, `aws-cn` or `aws-us-gov`."""
    if region.startswith("cn-"):
        return "aws-cn"
    return "aws-us-gov" if region.startswith("us-gov-") else "aws"


def region_problems(config: Config, region: str) -> Iterator[Finding]:
    """Yield (path, message) of everything that does not fit the region that it is to be deployed into."""
    partition = partition_of(region)
    domain = config.api.custom_domain
    arns = {
        "modelBucketArn": config.model_bucket_arn,
        "kmsKeyArn": config.kms_key_arn,
        "permissionsBoundaryArn": config.permissions_boundary_arn,
        "APIGW/customDomain/certificateArn": domain.certificate_arn if domain else None,
    } | {f"administrators/{index}": arn for index, arn in enumerate(config.administrators)}
    for path, arn in arns.items():
        parts = arn.split(":") if arn else []
        if parts and parts[1] != partition:
            yield path, f'"{arn}" is of the partition {parts[1]}, {region} is in {partition}'
        elif parts and parts[3] and parts[3] != region:
            yield path, f'"{arn}" lies in {parts[3]}, the deployment in {region}'
    for index, zone in enumerate(config.network.zones):
        if zone[:-1] != region:
            yield f"network/zones/{index}", f'"{zone}" is no zone of {region}'
    if partition == "aws-cn" and config.budget:
        yield "budget", "AWS Budgets does not exist in China"


def placed(config: Config, region: str, account: str) -> Config:
    """Fill in what follows from the place: China reaches no public registry, so images come from its own.

    Args:
        config: the configuration.
        region: where it is deployed to.
        account: the account's 12 digits, or what stands for them.
    """
    if config.image_registry or partition_of(region) != "aws-cn":
        return config
    return config.model_copy(update={"image_registry": f"{account}.dkr.ecr.{region}.amazonaws.com.cn/sdctl"})


def _cache_problems(runtime: RuntimeConfig, path: str) -> Iterator[Finding]:
    """The image-cache modes exclude each other: Bottlerocket wipes or hides the one that is not in use."""
    snapshot, values = runtime.snapshot_id, f"{path}/extraValues/karpenter/nodeTemplate"
    if snapshot and not snapshot.startswith("snap-"):
        yield f"{values}/dataVolume/snapshotID", f'"{snapshot}" is not a snapshot id (snap-…)'
    own = runtime.extra_value("karpenter", "nodeTemplate", "imageCache")
    mode, where = runtime.cache_mode, f"{values}/imageCache" if own else f"{path}/imageCache"
    if mode == "snapshot" and not snapshot:
        yield where, f"snapshot needs {values.removeprefix(path + '/')}/dataVolume/snapshotID"
    if snapshot and mode in ("soci", "none"):
        yield where, f'"{mode}" does not go with a snapshotID: remove one of the two'
    if runtime.uses_snapshot and runtime.extra_value("karpenter", "nodeTemplate", "instanceStorePolicy"):
        yield f"{values}/instanceStorePolicy", "hides the image cache of the snapshot: remove one of the two"


def _image_problems(runtime: RuntimeConfig, path: str) -> Iterator[Finding]:
    """An image of the user's own names its version: our chart has none to fill in, another's may."""
    image = runtime.extra_value("runtime", "inferenceApi", "image")
    where = f"{path}/extraValues/runtime/inferenceApi/image"
    if image is None or runtime.chart_repository:
        return
    if not isinstance(image, dict):
        yield where, "is no section: give repository and tag, or digest, each by itself"
    elif image.get("repository") and not (image.get("tag") or image.get("digest")):
        yield where, f'"{image["repository"]}" has neither tag nor digest: give one of the two'


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
