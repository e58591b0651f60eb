"""Configurations that between them use everything that the front's template can do, and their rendering."""

from __future__ import annotations

from functools import cache
from typing import Any

from sdctl.config.model import Config
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
    "many-runtimes": (
        "aws",
        {"modelsRuntime": [{"name": f"runtime-{n}", "type": "sdwebui", "modelFilename": f"m{n}.safetensors"}
                           for n in range(60)]},
    ),
}  # fmt: skip


def rendered(name: str, **changes: Any) -> Stack:
    """Render one of the configurations, with top-level keys changed."""
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
