"""The cluster stack: EKS, its add-ons, the system nodes, and the roles of what runs on it."""

from __future__ import annotations

from typing import Any, Final

from sdctl.config.model import Config
from sdctl.render.engine import render_yaml
from sdctl.render.karpenter import INTERRUPTION_EVENTS, controller_statements
from sdctl.render.policies import allow
from sdctl.render.stacks import Stack
from sdctl.versions import KUBERNETES_DEFAULT

CLUSTER_TEMPLATE: Final = "cluster.yaml.j2"
DEFAULT_KUBERNETES_VERSION: Final = KUBERNETES_DEFAULT
SPARE_SYSTEM_NODES: Final = 1
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
    tags = {**config.tags, "sdctl:stack": config.stack_name}
    parameters = {
        "KubernetesVersion": config.kubernetes_version or DEFAULT_KUBERNETES_VERSION,
        "ModelBucket": model_bucket,
    }
    template = render_yaml(CLUSTER_TEMPLATE, _context(config))
    return Stack(f"{config.stack_name}-cluster", template, parameters, tags)


def ami_type(instance_type: str) -> str:
    """Return the EKS AMI type of an instance type: `g` among a family's attributes means Graviton."""
    family = instance_type.partition(".")[0]
    attributes = family.lstrip("abcdefghijklmnopqrstuvwxyz").lstrip("0123456789")
    return "AL2023_ARM_64_STANDARD" if "g" in attributes else "AL2023_x86_64_STANDARD"


def _managed(name: str) -> str:
    return f"arn:${{AWS::Partition}}:iam::aws:policy/{name}"


def _context(config: Config) -> dict[str, Any]:
    name = config.stack_name
    nodes = config.cluster_components
    return {
        "description": f"sdctl {name}: cluster",
        "cluster_name": name,
        "cluster_log_group": f"/aws/eks/{name}/cluster",
        "log_retention_days": config.log_retention_days,
        "permissions_boundary_arn": config.permissions_boundary_arn,
        "node_addons": [
            {"logical": "VpcCniAddon", "name": "vpc-cni"},
            {"logical": "KubeProxyAddon", "name": "kube-proxy"},
            {"logical": "PodIdentityAddon", "name": "eks-pod-identity-agent"},
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
            {"logical": logical, "source": source, "detail_type": detail_type}
            for logical, source, detail_type in INTERRUPTION_EVENTS
        ],
    }


def _tag_list(config: Config) -> list[dict[str, str]]:
    tags = {**config.tags, "sdctl:stack": config.stack_name}
    return [{"Key": key, "Value": value} for key, value in sorted(tags.items())]


def _pod_roles(config: Config) -> list[dict[str, Any]]:
    """List the roles of pods; one whose add-on associates it itself has no association here."""
    bucket = "arn:${AWS::Partition}:s3:::${ModelBucket}"
    queues = f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{config.front_stack_name}-*"
    return [
        {
            "logical": "KarpenterRole",
            "description": "Karpenter starts and ends GPU nodes",
            "managed_policies": [],
            "statements": controller_statements(config.stack_name),
            "association": {"namespace": "kube-system", "service_account": "karpenter"},
        },
        {
            "logical": "KedaRole",
            "description": "KEDA reads how long the queues are",
            "managed_policies": [],
            "statements": [allow(["sqs:GetQueueAttributes"], [{"Fn::Sub": queues}])],
            "association": {"namespace": "keda", "service_account": "keda-operator"},
        },
        {
            "logical": "ModelReaderRole",
            "description": "Mountpoint reads the models",
            "managed_policies": [],
            "statements": [
                allow(["s3:ListBucket"], [{"Fn::Sub": bucket}]),
                allow(["s3:GetObject"], [{"Fn::Sub": f"{bucket}/*"}]),
            ],
            "association": None,
        },
        {
            "logical": "CloudWatchAgentRole",
            "description": "The CloudWatch agent writes logs and metrics",
            "managed_policies": [_managed("CloudWatchAgentServerPolicy")],
            "statements": [],
            "association": None,
        },
    ]


def _pod_addons() -> list[dict[str, Any]]:
    return [
        {"logical": "CoreDnsAddon", "name": "coredns", "configuration": "", "role": ""},
        {
            "logical": "MountpointAddon",
            "name": "aws-mountpoint-s3-csi-driver",
            # The driver has to run on tainted GPU nodes too.
            "configuration": '{"node":{"tolerateAllTaints":true}}',
            "role": "ModelReaderRole",
            "service_account": "s3-csi-driver-sa",
        },
        {
            "logical": "CloudWatchAddon",
            "name": "amazon-cloudwatch-observability",
            "configuration": '{"tolerations":[{"operator":"Exists"}]}',
            "role": "CloudWatchAgentRole",
            "service_account": "cloudwatch-agent",
        },
    ]
