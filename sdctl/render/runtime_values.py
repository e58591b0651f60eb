"""Configuration to the Helm release of one runtime: the chart, and what it cannot know itself; pure.

What only a stack knows stands in the values as `Output`, and is resolved when the stack is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sdctl.assets import asset_dir
from sdctl.config.model import Config, RuntimeConfig
from sdctl.releases import Chart, Release
from sdctl.render.charts import mirrored
from sdctl.render.runtime import runtime_service_account
from sdctl.render.stacks import Output
from sdctl.render.values import agent_settings

CHART_NAME: Final = "sd-on-eks"
# What `sdctl image push` makes in the account's own registry.
AGENT_REPOSITORY: Final = "sd-on-eks/queue-agent"
# The guide's images for evaluation, by the runtime's type; the chart's defaults. They have no versions.
EVALUATION_IMAGES: Final = {
    "sdwebui": "public.ecr.aws/bingjiao/sd-on-eks/sdwebui",
    "comfyui": "public.ecr.aws/bingjiao/sd-on-eks/comfyui",
}


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """What the values need and the configuration does not say.

    `account` and `region` are where the deployment is; `model_bucket` is configured or picked.
    `image_digests` has the digest (`sha256:…`) of each image of `unpinned_images`, by its name.
    """

    account: str
    region: str
    model_bucket: str
    image_digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def registry(self) -> str:
        """The account's own registry."""
        suffix = "amazonaws.com.cn" if self.region.startswith("cn-") else "amazonaws.com"
        return f"{self.account}.dkr.ecr.{self.region}.{suffix}"


def runtime_release(config: Config, runtime: RuntimeConfig, facts: RuntimeFacts) -> Release:
    """Build the release of a runtime: its name is the runtime's.

    Args:
        config: the configuration.
        runtime: one of its runtimes.
        facts: what it does not say.
    """
    values = merged(_values(config, runtime, facts), runtime.extra_values)
    return Release(runtime.name, runtime.namespace, runtime_chart(runtime), values)


def runtime_chart(runtime: RuntimeConfig) -> Chart:
    """Name the chart: the configured one, else the one that came with sdctl."""
    repository, version = runtime.chart_repository, runtime.chart_version
    if not repository:
        return Chart(str(asset_dir("charts") / CHART_NAME))
    if repository.startswith(("http://", "https://")):
        return Chart(CHART_NAME, version, repository)
    return Chart(repository, version)


def unpinned_images(config: Config) -> tuple[str, ...]:
    """List the evaluation images that run for want of others: they have no versions, only digests."""
    images = (unpinned_image(config, runtime) for runtime in config.runtimes)
    return tuple(dict.fromkeys(image for image in images if image))


def merged(values: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as Helm does: objects key by key, everything else replaced."""
    result = dict(values)
    for key, value in over.items():
        old = result.get(key)
        is_nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(result[key], value) if is_nested else value
    return result


def unpinned_image(config: Config, runtime: RuntimeConfig) -> str:
    """Return the evaluation image where it is what runs; a user's own image names its version itself."""
    given = runtime.extra_value("runtime", "inferenceApi", "image")
    if isinstance(given, Mapping) and any(given.get(key) for key in ("repository", "tag", "digest")):
        return ""
    return mirrored(EVALUATION_IMAGES[runtime.type], config.image_registry or "")


def _values(config: Config, runtime: RuntimeConfig, facts: RuntimeFacts) -> dict[str, Any]:
    return {
        "global": {
            "awsRegion": facts.region,
            "stackName": config.stack_name,
            "runtime": runtime.name,
            "imageRegistry": config.image_registry or facts.registry,
        },
        "karpenter": {"nodeTemplate": _nodes(config, runtime)},
        "runtime": {
            "type": runtime.type,
            "serviceAccountName": runtime_service_account(runtime),
            "inferenceApi": _server(config, runtime, facts),
            "queueAgent": _agent(config, runtime, facts),
            "persistence": {"s3": {"modelBucket": facts.model_bucket}},
        },
    }


# Settings of the agent that follow from other values.
_MADE_BY_THE_CHART: Final = frozenset({
    "RUNTIME_TYPE", "RUNTIME_NAME", "SQS_QUEUE_URL", "SNS_TOPIC_ARN", "S3_BUCKET", "AWS_DEFAULT_REGION",
    "DYNAMIC_SD_MODEL",
})  # fmt: skip
# What of the values stands in the place of what the stack gives.
_INSTEAD: Final = {
    "instanceProfile": ("GpuInstanceProfileName", "role"),
    "subnetIds": ("SubnetIds", "subnetSelector"),
    "securityGroupIds": ("ClusterSecurityGroupId", "securityGroupSelector"),
}


def _nodes(config: Config, runtime: RuntimeConfig) -> dict[str, Any]:
    nodes: dict[str, Any] = {
        name: Output(f"{config.stack_name}-cluster", output)
        for name, (output, instead) in _INSTEAD.items()
        if not runtime.extra_value("karpenter", "nodeTemplate", instead)
    }
    if config.tags:
        nodes["tags"] = dict(config.tags)
    if config.kms_key_arn:
        nodes["kmsKeyId"] = config.kms_key_arn
    if runtime.image_cache:
        nodes["imageCache"] = runtime.image_cache
    return nodes


def _server(config: Config, runtime: RuntimeConfig, facts: RuntimeFacts) -> dict[str, Any]:
    image: dict[str, Any] = {}
    if config.image_registry:
        image["repository"] = mirrored(EVALUATION_IMAGES[runtime.type], config.image_registry)
    unpinned = unpinned_image(config, runtime)
    if unpinned:
        image["digest"] = facts.image_digests.get(unpinned) or Output(f"image {unpinned}", "digest")
    server: dict[str, Any] = {"image": image} if image else {}
    if runtime.checkpoint:
        server["modelFilename"] = runtime.checkpoint
    return server


def _agent(config: Config, runtime: RuntimeConfig, facts: RuntimeFacts) -> dict[str, Any]:
    settings = agent_settings(config, runtime, region=facts.region)
    return {
        "sqsQueueUrl": settings["SQS_QUEUE_URL"],
        "snsTopicArn": settings["SNS_TOPIC_ARN"],
        "s3Bucket": settings["S3_BUCKET"],
        "dynamicModel": runtime.dynamic_model,
        "settings": {name: value for name, value in settings.items() if name not in _MADE_BY_THE_CHART},
        "xray": {"enabled": config.tracing},
    }
