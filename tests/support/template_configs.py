"""Configurations that between them use every option of the templates, and all stacks of each."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from sdctl.config.model import Config
from sdctl.config.rules import partition_of
from sdctl.releases import Release
from sdctl.render.charts import ClusterFacts, third_party_releases
from sdctl.render.cluster import cluster_stack
from sdctl.render.network import network_stack
from sdctl.render.options import option_stacks
from sdctl.render.runtime import runtime_stack
from sdctl.render.runtime_values import RuntimeFacts, runtime_release
from sdctl.render.stacks import Stack, code_parameters, front_stack

REGIONS = ("us-east-1", "us-west-2", "eu-central-1", "cn-north-1", "cn-northwest-1")
PARTITIONS = tuple(dict.fromkeys(partition_of(region) for region in REGIONS))
ACCOUNT = "123456789012"
KEY = f"arn:aws:kms:REGION:{ACCOUNT}:key/01234567-89ab-cdef-0123-456789abcdef"
BOUNDARY = f"arn:aws:iam::{ACCOUNT}:policy/boundary"
CERTIFICATE = f"arn:aws:acm:REGION:{ACCOUNT}:certificate/01234567-89ab-cdef-0123-456789abcdef"
MIRROR = {"aws": f"{ACCOUNT}.dkr.ecr.us-east-1.amazonaws.com/sdctl",
          "aws-cn": f"{ACCOUNT}.dkr.ecr.cn-north-1.amazonaws.com.cn/sdctl"}  # fmt: skip
EXISTING_VPC = {
    "vpcId": "vpc-0123456789abcdef0",
    "subnetIds": ["subnet-0123456789abcdef0", "subnet-0123456789abcdef1"],
}
RUNTIMES = [
    {"name": "sdruntime", "type": "sdwebui", "modelFilename": "v1-5-pruned-emaonly.safetensors"},
    {"name": "comfy", "type": "comfyui", "namespace": "pictures"},
    {"name": "dynamic", "type": "sdwebui", "dynamicModel": True},
]
BUDGET = {"monthlyAmount": 250.5, "email": "me@example.com"}
CONFIGS: dict[str, dict[str, Any]] = {
    "guide": {},
    "isolated": {"network": {"natMode": "none", "publicAccessCidrs": []}},
    "nat-per-zone": {
        "network": {"natMode": "perZone", "interfaceEndpoints": True, "vpcCidr": "172.20.0.0/16"}
    },
    "two-zones": {
        "network": {"zones": ["us-west-2a", "us-west-2b"], "publicAccessCidrs": ["203.1.113.0/24"]}
    },
    "existing-vpc": {"network": EXISTING_VPC, "modelBucketArn": "arn:aws:s3:::my-models"},
    "key": {"kmsKeyArn": KEY, "modelsRuntime": RUNTIMES},
    "boundary": {"permissionsBoundaryArn": BOUNDARY, "tags": {"team": "art", "cost centre": "4711 & co"}},
    "untraced": {"tracing": False, "logRetentionDays": 365},
    "told": {"alarms": {"email": "me@example.com"}, "budget": BUDGET},
    "tuner": {"ebsThroughputTuner": {"delaySeconds": 600}, "permissionsBoundaryArn": BOUNDARY},
    "domain": {"APIGW": {"customDomain": {"domainName": "a.example.com", "certificateArn": CERTIFICATE}}},
    "nodes": {
        "clusterComponents": {"instanceType": "m7i.large", "desiredCount": 3}, "kubernetesVersion": "1.35",
    },
    "long-names": {
        "stackName": "A" + "b" * 47,
        "modelsRuntime": [{"name": "n" * 63, "type": "sdwebui", "modelFilename": 'm "x"\u0085: {y'}],
    },
    "agent": {
        "queueAgent": {
            "maxAttempts": 20, "notifyRunning": True, "inputAllowlist": ["s3://inputs", "10.0.0.0/8"],
        },
        "APIGW": {"stageName": "prod", "throttle": {"rateLimit": 2500.5, "burstLimit": 5000}},
    },
    "everything": {
        "stackName": "farm", "kmsKeyArn": KEY, "permissionsBoundaryArn": BOUNDARY, "budget": BUDGET,
        "administrators": ["arn:aws:iam::123456789012:role/ops", "arn:aws:iam::123456789012:user/eve"],
        "network": EXISTING_VPC, "modelsRuntime": RUNTIMES, "alarms": {"email": "me@example.com"},
        "ebsThroughputTuner": {}, "gpuMetricsExporter": True, "imageRegistry": "MIRROR",
        "modelBucketArn": "arn:aws:s3:::my-models", "tags": {"team": "art"},
        "APIGW": {"customDomain": {"domainName": "a.example.com", "certificateArn": CERTIFICATE}},
    },
}  # fmt: skip


def config(name: str, partition: str = "aws") -> Config:
    """Return one of the configurations as it is in a partition."""
    text = json.dumps(CONFIGS[name]).replace("MIRROR", MIRROR[partition])
    if partition == "aws-cn":
        text = text.replace("arn:aws:", "arn:aws-cn:").replace("us-west-2", "cn-north-1")
    text = text.replace("REGION", {"aws": "us-east-1"}.get(partition, "cn-north-1"))
    document = json.loads(text)
    if partition == "aws-cn":
        document.pop("budget", None)
        document.setdefault("imageRegistry", MIRROR[partition])
    return Config.model_validate(document)


@cache
def stacks(name: str, partition: str = "aws", target: str = "aws") -> dict[str, Stack]:
    """Render every stack of a configuration, by what it is: `network`, `cluster`, `front`, `runtime-…`, …"""
    given = config(name, partition)
    bucket = given.model_bucket or "models"
    keys = dict.fromkeys(code_parameters().values(), "functions/a.zip")
    found = {
        "front": front_stack(given, target=target, model_bucket=bucket, asset_bucket="assets", code_keys=keys)
    }
    found |= {f"runtime-{one.name}": runtime_stack(given, one, target=target) for one in given.runtimes}
    if target == "aws":
        network = network_stack(given, partition=partition)
        found |= {"network": network} if network else {}
        found |= {"cluster": cluster_stack(given, model_bucket=bucket), **option_stacks(given)}
    return found


def releases(name: str, partition: str = "aws") -> tuple[Release, ...]:
    """List every release of a configuration: others' charts, and one for each runtime."""
    given = config(name, partition)
    facts = RuntimeFacts(
        ACCOUNT, "cn-north-1" if partition == "aws-cn" else "us-east-1", given.model_bucket or "models"
    )
    return (
        *third_party_releases(given, ClusterFacts.of(given)),
        *(runtime_release(given, runtime, facts) for runtime in given.runtimes),
    )


def every_template() -> dict[str, tuple[Stack, tuple[str, ...]]]:
    """Return each different template once, by a name, with the regions that it is for."""
    found: dict[str, tuple[str, Stack, list[str]]] = {}
    for name in CONFIGS:
        for region in REGIONS:
            for kind, stack in stacks(name, partition_of(region)).items():
                entry = found.setdefault(stack.template.body, (f"{name}/{kind}", stack, []))
                if region not in entry[2]:
                    entry[2].append(region)
    return {f"{name} {' '.join(regions)}": (stack, tuple(regions)) for name, stack, regions in found.values()}
