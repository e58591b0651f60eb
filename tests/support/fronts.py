"""Configurations that between them use all that the templates of front and runtimes can do, rendered."""

from __future__ import annotations

from functools import cache
from typing import Any

from sdctl.config.model import Config
from sdctl.render.runtime import runtime_stack
from sdctl.render.stacks import Stack, code_parameters, front_stack

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "guide": ("aws", {}),
    "several-runtimes": (
        "local",
        {
            "stackName": "farm",
            "modelBucketArn": "arn:aws-cn:s3:::models",
            "APIGW": {"stageName": "prod", "throttle": {"rateLimit": 2500.5, "burstLimit": 5000}},
            "modelsRuntime": [
                {"name": "sd-1", "type": "sdwebui", "modelFilename": 'a "b"\u0085: {c.safetensors'},
                {"name": "sd1", "type": "sdwebui", "dynamicModel": True},
                {"name": "comfy", "type": "comfyui", "namespace": "pictures"},
            ],
            "queueAgent": {"maxAttempts": 5},
            "logRetentionDays": 7,
            "permissionsBoundaryArn": "arn:aws-cn:iam::123456789012:policy/boundary",
            "tags": {"team": "art"},
        },
    ),
    "everything": (
        "aws",
        {
            "stackName": "a-stack-with-a-rather-long-name-of-48-characters",
            "APIGW": {"customDomain": {
                "domainName": "images.example.com",
                "certificateArn": "arn:aws-cn:acm:cn-north-1:123456789012:certificate/0123",
            }},
            "modelsRuntime": [{"name": "a-runtime", "type": "comfyui", "namespace": "pictures"}],
            "queueAgent": {"inputAllowlist": ["10.0.0.0/8", "S3://Inputs/", "s3://*", "example.com"]},
            "kmsKeyArn": "arn:aws-cn:kms:cn-north-1:123456789012:key/01234567-89ab-cdef-0123-456789abcdef",
            "permissionsBoundaryArn": "arn:aws-cn:iam::123456789012:policy/boundary",
            "alarms": {"email": "me@example.com"},
        },
    ),
    "untraced": ("aws", {"tracing": False}),
}  # fmt: skip


def runtimes_of(name: str) -> dict[str, Stack]:
    """Render the stacks of a configuration's runtimes, by `configuration:runtime`."""
    target, document = CONFIGS[name]
    config = Config.model_validate(document)
    return {f"{name}:{one.name}": runtime_stack(config, one, target=target) for one in config.runtimes}


def rendered(name: str, **changes: Any) -> Stack:
    """Render the front of one of the configurations, with top-level keys changed."""
    return _render(name, **changes) if changes else _kept(name)


@cache
def _kept(name: str) -> Stack:
    return _render(name)


def _render(name: str, **changes: Any) -> Stack:
    target, document = CONFIGS[name]
    config = Config.model_validate(document | changes)
    keys = {package: f"functions/{package}.zip" for package in code_parameters().values()}
    return front_stack(
        config,
        target=target,
        model_bucket=config.model_bucket or "models",
        asset_bucket="assets",
        code_keys=keys,
    )
