"""Configurations that between them render every resource type and every option of the templates."""

from __future__ import annotations

from typing import Any

from sdctl.config.model import Config
from sdctl.iam.policy import stacks_of

REGIONS = {"aws": "us-west-2", "aws-cn": "cn-north-1"}
RUNTIME = {"name": "sdruntime", "type": "sdwebui", "modelFilename": "a.safetensors"}
CONFIGS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "private": {"network": {"natMode": "none"}},
    "nat-per-zone": {"network": {"natMode": "perZone"}, "tags": {"team": "art"}},
    "existing-vpc": {
        "network": {"vpcId": "vpc-0123456789abcdef0", "subnetIds": ["subnet-01234567", "subnet-89abcdef"]}
    },
    "bounded": {
        "permissionsBoundaryArn": "arn:aws:iam::123456789012:policy/boundary",
        "modelBucketArn": "arn:aws:s3:::my-models",
    },
    "long-name": {"stackName": "A" + "b" * 47},
    "many": {"modelsRuntime": [RUNTIME, *({"name": f"c{n}", "type": "comfyui"} for n in range(12))]},
}


def config(name: str, partition: str = "aws") -> Config:
    """Return one of the configurations, its ARNs in the partition."""
    document = {
        key: value.replace("arn:aws:", f"arn:{partition}:") if isinstance(value, str) else value
        for key, value in CONFIGS[name].items()
    }
    return Config.model_validate(document)


def rendered_types() -> set[str]:
    """Name every resource type that any of the configurations renders."""
    return {
        body["Type"]
        for name in CONFIGS
        for partition in REGIONS
        for stack in stacks_of(config(name, partition), partition=partition)
        for body in stack.template.document["Resources"].values()
    }
