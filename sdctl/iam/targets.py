"""What our own calls are made on: ARN patterns and conditions, by the names that `calls` uses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sdctl.config.model import Config
from sdctl.iam.scopes import Place, Scopes, named
from sdctl.render.policies import KEPT_NAME_LENGTH
from sdctl.render.stacks import STACK_TAG, runtimes_path

Condition = Mapping[str, Mapping[str, Any]]
Target = tuple[tuple[str, ...], Condition]
NO_CONDITION: Final[Condition] = {}
QUOTA_SERVICES: Final = ("ec2", "s3", "vpc")
SPOT_SERVICE: Final = "spot.amazonaws.com"
SERVICES_WITH_ROLES: Final = ("eks.amazonaws.com", "eks-nodegroup.amazonaws.com", SPOT_SERVICE)
# What the builder of an image cache needs: pulling images, being told what to do, and, to boot at all, asking
# EC2 for its own name: https://github.com/bottlerocket-os/bottlerocket/issues/4382
BUILDER_POLICIES: Final = (
    "AmazonEC2ContainerRegistryPullOnly", "AmazonSSMManagedInstanceCore", "AmazonEKSWorkerNodePolicy",
)  # fmt: skip


def picked(config: Config, purpose: str) -> str:
    """Return the pattern of a bucket's name that `deploy` picks: it ends in digits of a hash."""
    digits = 4 if purpose == "model-bucket" else 10
    return f"{config.stack_name[:32].lower().strip('-')}-{purpose}-{'?' * digits}"


def tagged(stack_name: str, key: str = "ResourceTag") -> Condition:
    """Return the condition that what is there (`ResourceTag`), or is made (`RequestTag`), is the stack's."""
    return {"StringEquals": {f"aws:{key}/{STACK_TAG}": stack_name}}


def targets(config: Config, scopes: Scopes, assets: str, objects: tuple[str, ...]) -> dict[str, Target]:
    """Return the ARN patterns, and a condition, of each target that `calls` names.

    Args:
        config: the configuration.
        scopes: its stacks.
        assets: ARN pattern of the asset bucket.
        objects: ARN patterns of what is put there.
    """
    place, front = scopes.place, config.front_stack_name
    # The network's too where there is none: it may be left from before, and is looked for.
    names = {*(stack.name for stack in scopes.stacks), f"{config.stack_name}-network"}
    stacks = tuple(place.arn(f"cloudformation:{{region}}:{{account}}:stack/{name}/*") for name in names)
    model = place.arn(f"s3:::{config.model_bucket or picked(config, 'model-bucket')}")
    topic = f"{front}-InputTopic-*" if len(front) <= KEPT_NAME_LENGTH else named(front)
    return (
        {
            "anything": (("*",), NO_CONDITION),
            "anything here": (("*",), {"StringEquals": {"aws:RequestedRegion": place.region}}),
            "stacks": (stacks, NO_CONDITION),
            "asset bucket": ((assets,), NO_CONDITION),
            "asset objects": (objects, NO_CONDITION),
            "locks": ((f"{assets}/locks/*",), NO_CONDITION),
            "model bucket": ((model,), NO_CONDITION),
            "models": ((f"{model}/*",), NO_CONDITION),
            "output bucket": (scopes.arns("s3", "bucket"), NO_CONDITION),
            # A configured model bucket is there already.
            "created buckets": ((assets,) if config.model_bucket else (assets, model), NO_CONDITION),
            "input topic": ((place.arn(f"sns:{{region}}:{{account}}:{topic}"),), NO_CONDITION),
            "runtimes": (
                (place.arn(f"ssm:{{region}}:{{account}}:parameter{runtimes_path(config.stack_name)}"),),
                NO_CONDITION,
            ),
            "own key": (scopes.arns("kms", "key"), NO_CONDITION),
            "api key": ((place.arn("apigateway:{region}::/apikeys/*"),), tagged(config.stack_name)),
            "cluster": (scopes.arns("eks", "cluster"), NO_CONDITION),
            "task table": (scopes.arns("dynamodb", "table"), NO_CONDITION),
        }
        | _node_targets(config.stack_name, place)
        | {"repositories": (_repositories(config, place), NO_CONDITION)}
        | _doctor_targets(place)
        | _snapshot_targets(config.stack_name, place)
    )


def _repositories(config: Config, place: Place) -> tuple[str, ...]:
    """Return the repositories of ECR that images and charts are brought into."""
    _, _, prefix = (config.image_registry or "").partition("/")
    names = (f"{prefix}/*",) if prefix else ("*",) if config.image_registry else ("sdctl/*", "sd-on-eks/*")
    return tuple(place.arn(f"ecr:{{region}}:{{account}}:repository/{name}") for name in names)


def _node_targets(stack_name: str, place: Place) -> dict[str, Target]:
    """Return the targets of a teardown among what Karpenter, EKS and the nodes made: by tag, path or name."""

    def with_tag(kind: str, tag: str, value: str) -> Target:
        arn = place.arn(f"ec2:{{region}}:{{account}}:{kind}/*")
        return (arn,), {"StringEquals": {f"aws:ResourceTag/{tag}": value}}

    profiles = (f"karpenter/{place.region}/{stack_name}/*", f"{stack_name}_*")
    groups = (f"eks/{stack_name}/*", f"containerinsights/{stack_name}/*", f"lambda/{stack_name}Stack-*")
    return {
        "node groups": (
            (place.arn(f"eks:{{region}}:{{account}}:nodegroup/{stack_name}/*"),), NO_CONDITION,
        ),
        "own nodes": with_tag("instance", f"kubernetes.io/cluster/{stack_name}", "owned"),
        "own launch templates": with_tag("launch-template", "karpenter.k8s.aws/cluster", stack_name),
        "own interfaces": with_tag("network-interface", "cluster.k8s.amazonaws.com/name", stack_name),
        "node profiles": (
            tuple(place.arn(f"iam::{{account}}:instance-profile/{name}") for name in profiles), NO_CONDITION,
        ),
        "own log groups": (
            tuple(place.arn(f"logs:{{region}}:{{account}}:log-group:/aws/{name}") for name in groups),
            NO_CONDITION,
        ),
    }  # fmt: skip


def _doctor_targets(place: Place) -> dict[str, Target]:
    """Return the targets of the look before a deploy, and the service's role that it may have to make."""
    roles = "iam::{account}:role/"
    return {
        "quotas": (
            tuple(place.arn(f"servicequotas:{{region}}:{{account}}:{name}/*") for name in QUOTA_SERVICES),
            NO_CONDITION,
        ),
        "spot role": (
            (place.arn(f"{roles}aws-service-role/{SPOT_SERVICE}/*"),),
            {"StringEquals": {"iam:AWSServiceName": SPOT_SERVICE}},
        ),
        # A role that is not there yet has no path either.
        "roles of AWS": (
            (
                place.arn(f"{roles}AWSServiceRoleFor*"),
                *(place.arn(f"{roles}aws-service-role/{name}/*") for name in SERVICES_WITH_ROLES),
            ),
            NO_CONDITION,
        ),
        # The path of a role that one signs in with is in no session's ARN.
        "roles of Identity Center": (
            (place.arn(f"{roles}aws-reserved/sso.amazonaws.com/*"),), NO_CONDITION,
        ),
        # Whom the policy is given to is not known here.
        "whoever holds this": (
            (place.arn("iam::{account}:user/*"), place.arn(f"{roles}*")), NO_CONDITION,
        ),
    }  # fmt: skip


def _snapshot_targets(stack_name: str, place: Place) -> dict[str, Target]:
    """Return the targets of the image-cache builder: an instance, its volume, its role, the snapshot."""

    def ec2(kind: str, owner: str = "{account}") -> str:
        return place.arn(f"ec2:{{region}}:{owner}:{kind}/*")

    anywhere = place.arn("ec2:*::snapshot/*")
    ours, requested = tagged(stack_name), tagged(stack_name, "RequestTag")
    role = place.arn(f"iam::{{account}}:role/{stack_name}-snapshot-*")
    profile = place.arn(f"iam::{{account}}:instance-profile/{stack_name}-snapshot-*")
    policies = [place.arn(f"iam::aws:policy/{name}") for name in BUILDER_POLICIES]
    principals = ["ec2.amazonaws.com", "ec2.amazonaws.com.cn"]
    new = (ec2("instance"), ec2("volume"))
    surroundings = (
        ec2("image", ""), ec2("network-interface"), ec2("security-group"), ec2("subnet"),
    )  # fmt: skip
    return {
        "bottlerocket images": (
            (place.arn("ssm:{region}::parameter/aws/service/bottlerocket/*"),), NO_CONDITION,
        ),
        "builder roles": ((role,), NO_CONDITION),
        "builder policies": ((role,), {"ArnEquals": {"iam:PolicyARN": policies}}),
        "builder profiles": ((profile,), NO_CONDITION),
        "builder": ((ec2("instance"), ec2("volume")), requested),
        "builder's surroundings": (surroundings, NO_CONDITION),
        "builder role to pass": ((role,), {"StringEquals": {"iam:PassedToService": principals}}),
        "tags of the new": (
            (*new, anywhere),
            {"StringEquals": {"ec2:CreateAction": ["RunInstances", "CreateSnapshot", "CopySnapshot"]}},
        ),
        "own builder": ((ec2("instance"),), ours),
        "own volume": ((ec2("volume"),), ours),
        "new snapshot": ((ec2("snapshot", ""),), requested),
        "own snapshot": ((ec2("snapshot", ""),), ours),
        "own snapshots anywhere": ((anywhere,), ours),
        "new copy": ((anywhere,), requested),
        "shell document": ((place.arn("ssm:{region}::document/AWS-RunShellScript"),), NO_CONDITION),
        "own builder by ssm": (
            (ec2("instance"),), {"StringEquals": {f"ssm:resourceTag/{STACK_TAG}": stack_name}},
        ),
    }  # fmt: skip
