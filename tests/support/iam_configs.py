"""Configurations that between them render every resource type and every option of the templates."""

from __future__ import annotations

import json
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
    "keyed": {"kmsKeyArn": "arn:aws:kms:us-west-2:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"},
    "every-option": {
        "tracing": True,
        "gpuMetricsExporter": True,
        "ebsThroughputTuner": {},
        "alarms": {"email": "a@example.com"},
        "budget": {"monthlyAmount": 100.0, "email": "a@example.com"},
        "network": {"interfaceEndpoints": True, "zones": ["us-west-2a", "us-west-2b"]},
        "APIGW": {
            "customDomain": {
                "domainName": "art.example.com",
                "certificateArn": "arn:aws:acm:us-west-2:123456789012:certificate/1234abcd",
            }
        },
    },
    "long-name": {"stackName": "A" + "b" * 47},
    "many": {"modelsRuntime": [RUNTIME, *({"name": f"c{n}", "type": "comfyui"} for n in range(12))]},
}


def config(name: str, partition: str = "aws") -> Config:
    """Return one of the configurations, as it is in the partition: budgets do not exist in China."""
    text = json.dumps(CONFIGS[name])
    document = json.loads(
        text.replace("arn:aws:", f"arn:{partition}:").replace(REGIONS["aws"], REGIONS[partition])
    )
    if partition == "aws-cn":
        document.pop("budget", None)
        document["imageRegistry"] = "123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn/sdctl"
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
