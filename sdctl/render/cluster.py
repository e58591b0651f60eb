"""The cluster stack: EKS, its add-ons, the system nodes, and the roles of what runs on it."""

from __future__ import annotations

from hashlib import sha256
from typing import Any, Final

from sdctl.config.model import Config
from sdctl.render.charts import KARPENTER_ACCOUNT, KARPENTER_NAMESPACE, KEDA_ACCOUNT, KEDA_NAMESPACE
from sdctl.render.engine import render_yaml
from sdctl.render.karpenter import INTERRUPTION_EVENTS, SPOT_RULE, controller_statements, spot_rule_name
from sdctl.render.policies import KEPT_NAME_LENGTH, Statement, allow
from sdctl.render.runtime import runtime_stack_prefix
from sdctl.render.stacks import Stack, stack_tags
from sdctl.versions import KUBERNETES_DEFAULT

CLUSTER_TEMPLATE: Final = "cluster.yaml.j2"
DEFAULT_KUBERNETES_VERSION: Final = KUBERNETES_DEFAULT
SPARE_SYSTEM_NODES: Final = 1
# The accounts of the add-ons' pods, in the namespaces that the add-ons make.
_MOUNTPOINT_ACCOUNT: Final = "s3-csi-driver-sa"
_CLOUDWATCH_ACCOUNT: Final = "cloudwatch-agent"
_NODE_POLICIES: Final = (
    "AmazonEKSWorkerNodePolicy",
    "AmazonEKS_CNI_Policy",
    "AmazonEC2ContainerRegistryPullOnly",
    "AmazonSSMManagedInstanceCore",
)


def cluster_stack(config: Config, *, model_bucket: str) -> Stack:
    """Render the cluster; subnets, deployer, Kubernetes version and model bucket are parameters.

    Args:
        config: the configuration.
        model_bucket: what Mountpoint may read.
    """
    parameters = {
        "KubernetesVersion": config.kubernetes_version or DEFAULT_KUBERNETES_VERSION,
        "ModelBucket": model_bucket,
    }
    template = render_yaml(CLUSTER_TEMPLATE, _context(config))
    return Stack(f"{config.stack_name}-cluster", template, parameters, stack_tags(config))


def cluster_log_groups(stack_name: str) -> dict[str, str]:
    """Return the names of the log groups that EKS and the CloudWatch agent write to, by logical id.

    https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/Container-Insights-view-metrics.html
    """
    kinds = ("application", "dataplane", "host", "performance")
    groups = {f"{kind.capitalize()}Log": f"/aws/containerinsights/{stack_name}/{kind}" for kind in kinds}
    return {"ClusterLog": f"/aws/eks/{stack_name}/cluster"} | groups


def is_arm(instance_type: str) -> bool:
    """Tell whether an instance type is arm64: `g` among a family's attributes means Graviton or Grace."""
    family = instance_type.partition(".")[0]
    attributes = family.lstrip("abcdefghijklmnopqrstuvwxyz").lstrip("0123456789")
    return "g" in attributes


def ami_type(instance_type: str) -> str:
    """Return the EKS AMI type of an instance type."""
    return "AL2023_ARM_64_STANDARD" if is_arm(instance_type) else "AL2023_x86_64_STANDARD"


def _administrators(config: Config) -> list[dict[str, str]]:
    """Give each principal a logical id that only depends on itself, so that the list may change freely."""
    unique = dict.fromkeys(config.administrators)
    return [
        {"logical": f"Administrator{sha256(arn.encode()).hexdigest()[:10]}", "arn": arn} for arn in unique
    ]


def _managed(name: str) -> str:
    return f"arn:${{AWS::Partition}}:iam::aws:policy/{name}"


def _context(config: Config) -> dict[str, Any]:
    name = config.stack_name
    nodes = config.cluster_components
    return {
        "description": f"sdctl {name}: cluster",
        "cluster_name": name,
        "log_groups": [
            {"logical": logical, "name": text}
            for logical, text in cluster_log_groups(config.stack_name).items()
        ],
        "kms_key_arn": config.kms_key_arn,
        "administrators": _administrators(config),
        "public_access_cidrs": config.network.public_access_cidrs,
        "log_retention_days": config.log_retention_days,
        "permissions_boundary_arn": config.permissions_boundary_arn,
        "node_addons": [
            {
                "logical": "VpcCniAddon",
                "name": "vpc-cni",
                # Without it the runtimes' network policies have no effect.
                "configuration": '{"enableNetworkPolicy":"true"}',
            },
            {"logical": "KubeProxyAddon", "name": "kube-proxy", "configuration": ""},
            {"logical": "PodIdentityAddon", "name": "eks-pod-identity-agent", "configuration": ""},
        ],
        "node_roles": ["SystemNodeRole", "GpuNodeRole"],
        "node_policies": [_managed(policy) for policy in _NODE_POLICIES],
        "instance_tags": [{"Key": "Name", "Value": f"{name}-system"}, *_tag_list(config)],
        "system_ami_type": ami_type(nodes.instance_type),
        "system_instance_type": nodes.instance_type,
        "system_node_count": nodes.desired_count,
        "system_node_count_max": nodes.desired_count + SPARE_SYSTEM_NODES,
        "pod_roles": _pod_roles(config),
        "pod_addons": _pod_addons(),
        "interruption_rules": [
            {
                "logical": logical,
                "source": source,
                "detail_type": detail_type,
                "name": spot_rule_name(name) if logical == SPOT_RULE else "",
            }
            for logical, source, detail_type in INTERRUPTION_EVENTS
        ],
    }


def _tag_list(config: Config) -> list[dict[str, str]]:
    return [{"Key": key, "Value": value} for key, value in sorted(stack_tags(config).items())]


def _pod_roles(config: Config) -> list[dict[str, Any]]:
    """List the roles of pods; an add-on associates its own.

    https://docs.aws.amazon.com/eks/latest/userguide/pod-id-role.html
    """
    bucket, key = "arn:${AWS::Partition}:s3:::${ModelBucket}", config.kms_key_arn
    return [
        {
            "logical": "KarpenterRole",
            "description": "Karpenter starts and ends GPU nodes",
            "managed_policies": [],
            "statements": controller_statements(config.stack_name, kms_key_arn=key),
            "namespace": KARPENTER_NAMESPACE,
            "service_account": KARPENTER_ACCOUNT,
            "is_associated_here": True,
        },
        {
            "logical": "KedaRole",
            "description": "KEDA reads how long the queues are",
            "managed_policies": [],
            "statements": [_read_queues(config.stack_name)],
            "namespace": KEDA_NAMESPACE,
            "service_account": KEDA_ACCOUNT,
            "is_associated_here": True,
        },
        {
            "logical": "ModelReaderRole",
            "description": "Mountpoint reads the models",
            "managed_policies": [],
            "statements": [
                allow(["s3:ListBucket"], [{"Fn::Sub": bucket}]),
                allow(["s3:GetObject"], [{"Fn::Sub": f"{bucket}/*"}]),
                *([allow(["kms:Decrypt"], [key])] if key else []),
            ],
            "namespace": "kube-system",
            "service_account": _MOUNTPOINT_ACCOUNT,
            "is_associated_here": False,
        },
        {
            "logical": "CloudWatchAgentRole",
            "description": "The CloudWatch agent writes logs and metrics",
            "managed_policies": [_managed("CloudWatchAgentServerPolicy")],
            "statements": [],
            "namespace": "amazon-cloudwatch",
            "service_account": _CLOUDWATCH_ACCOUNT,
            "is_associated_here": False,
        },
    ]


def _read_queues(stack_name: str) -> Statement:
    """Read the length of the runtimes' queues, which other stacks make, now or later.

    The tag would narrow it further for long names, but the regions of China need not know tags of queues.
    """
    name = runtime_stack_prefix(stack_name)[:KEPT_NAME_LENGTH]
    queues = f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{name}*"
    return allow(["sqs:GetQueueAttributes"], [{"Fn::Sub": queues}])


def _pod_addons() -> list[dict[str, Any]]:
    """List the add-ons whose pods need a node; the CloudWatch agent must find its log groups there."""
    log_groups = [logical for logical in cluster_log_groups("") if logical != "ClusterLog"]
    return [
        {
            "logical": "CoreDnsAddon",
            "name": "coredns",
            "after": "SystemNodes",
            "configuration": "",
            "role": "",
        },
        {
            "logical": "MountpointAddon",
            "name": "aws-mountpoint-s3-csi-driver",
            "after": "SystemNodes",
            # The driver has to run on tainted GPU nodes too.
            "configuration": '{"node":{"tolerateAllTaints":true}}',
            "role": "ModelReaderRole",
            "service_account": _MOUNTPOINT_ACCOUNT,
        },
        {
            "logical": "CloudWatchAddon",
            "name": "amazon-cloudwatch-observability",
            "after": ["SystemNodes", *log_groups],
            "configuration": '{"tolerations":[{"operator":"Exists"}]}',
            "role": "CloudWatchAgentRole",
            "service_account": _CLOUDWATCH_ACCOUNT,
        },
    ]
