"""Configuration to policy documents: the handlers' permissions and our own calls, narrowed to a deployment.

No action is a wildcard. A resource is `*` only for actions that know no resource, as the service
authorization reference says: https://docs.aws.amazon.com/service-authorization/latest/reference/
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Final

from sdctl.config.model import Config
from sdctl.iam.calls import CALLS, Purpose
from sdctl.iam.handlers import CHANGING, REMOVING, handler_actions, handlers
from sdctl.iam.scopes import Place, Scopes
from sdctl.iam.targets import NO_CONDITION, Condition, picked, tagged, targets
from sdctl.render.cluster import cluster_stack
from sdctl.render.network import network_stack
from sdctl.render.options import option_stacks
from sdctl.render.runtime import runtime_stack
from sdctl.render.stacks import Stack, code_parameters, front_stack

Document = dict[str, Any]
# Characters of a managed policy, white space not counted:
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html
MAX_POLICY_CHARACTERS: Final = 6144
# https://docs.aws.amazon.com/eks/latest/userguide/using-service-linked-roles.html
_SERVICE_LINKED: Final = {
    "AWS::EKS::Cluster": "eks.amazonaws.com",
    "AWS::EKS::Nodegroup": "eks-nodegroup.amazonaws.com",
}
# These services answer from one place, whatever the deployment's region is.
_GLOBAL_SERVICES: Final = ("iam", "s3", "sts")
# What takes something away, or leads it elsewhere, must carry the deployment's tag. Creating and setting
# up cannot ask for it: what was just made may not have it yet.
_EC2_TAKING: Final = ("Delete", "Detach", "Disassociate", "Release")
# A REST API's tag counts for all that is in it, a usage plan's for its keys:
# https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-tagging-supported-resources.html
_API_COLLECTIONS: Final = {
    "/apikeys": "AWS::ApiGateway::ApiKey", "/restapis": "AWS::ApiGateway::RestApi",
    "/usageplans": "AWS::ApiGateway::UsagePlan",
}  # fmt: skip
# Verbs that some of these items do not have: keys are made with the collection, only an API takes a PUT.
_API_ITEMS: Final = {"apigateway:POST": ("/restapis", "/usageplans"), "apigateway:PUT": ("/restapis",)}
_BOUNDED: Final = (
    "iam:AttachRolePolicy", "iam:CreateRole", "iam:DetachRolePolicy", "iam:DeleteRolePolicy",
    "iam:PutRolePermissionsBoundary", "iam:PutRolePolicy",
)  # fmt: skip


class _Statements:
    """Collects what is allowed: actions that share resources and condition share a statement."""

    def __init__(self) -> None:
        self._found: dict[tuple[tuple[str, ...], str], set[str]] = {}

    def allow(self, action: str, arns: Iterable[str], condition: Condition = NO_CONDITION) -> None:
        key = tuple(sorted(set(arns))), json.dumps(condition, sort_keys=True)
        if not key[0]:
            raise ValueError(f"{action} is needed, but on nothing that is known")
        self._found.setdefault(key, set()).add(action)

    def document(self) -> Document:
        statements = []
        for (arns, condition), actions in sorted(self._found.items(), key=lambda item: sorted(item[1])):
            statement: dict[str, Any] = {
                "Effect": "Allow", "Action": sorted(actions), "Resource": list(arns),
            }  # fmt: skip
            if condition != "{}":
                statement["Condition"] = json.loads(condition)
            statements.append(statement)
        return {"Version": "2012-10-17", "Statement": statements}


def stacks_of(config: Config, *, partition: str) -> tuple[Stack, ...]:
    """Render the stacks of a configuration; what only an account knows has placeholders.

    The runtimes' stacks, which differ in their names only, are one whose name is a wildcard: whoever may
    deploy may add another runtime.
    """
    keys = dict.fromkeys(code_parameters().values(), "")
    bucket = config.model_bucket or picked(config, "model-bucket")
    front = front_stack(config, target="aws", model_bucket=bucket, asset_bucket="", code_keys=keys)
    network = network_stack(config, partition=partition)
    cluster = cluster_stack(config, model_bucket=bucket)
    stacks = (front, network, cluster, any_runtime_stack(config), *option_stacks(config).values())
    return tuple(stack for stack in stacks if stack is not None)


def any_runtime_stack(config: Config) -> Stack:
    """Render the stack of a runtime whose name is a wildcard."""
    any_runtime = config.runtimes[0].model_copy(update={"name": "*"})
    return runtime_stack(config, any_runtime, target="aws")


def policy(
    purpose: Purpose, config: Config, place: Place, *, stacks: Sequence[Stack] | None = None
) -> Document:
    """Compute what one purpose needs of AWS for a configuration.

    Args:
        purpose: what its holder does.
        config: the configuration.
        place: the region, and the account where it is known.
        stacks: of `stacks_of`, where they are rendered already.

    Returns:
        An IAM policy document of any length; see `split`.
    """
    assets = place.arn(f"s3:::{picked(config, 'assets')}")
    objects = (f"{assets}/functions/*", f"{assets}/templates/*")
    stacks = stacks_of(config, partition=place.partition) if stacks is None else stacks
    scopes = Scopes(stacks, place, objects, config.kms_key_arn)
    statements = _Statements()
    operations = {"deploy": CHANGING, "destroy": REMOVING}.get(purpose, ())
    needed = handler_actions((body for _, body in scopes.resources()), operations)
    for action, types in needed.items():
        _allow_handler(statements, action, types, scopes, config)
    found = targets(config, scopes, assets, objects)
    for call in CALLS[purpose]:
        for action in call.actions:
            for target in call.on:
                arns, condition = found[target]
                if arns:
                    statements.allow(action, arns, condition)
    return statements.document()


def split(document: Document, limit: int = MAX_POLICY_CHARACTERS) -> list[Document]:
    """Split a document into as many as its length asks for, each within a managed policy's limit."""
    documents: list[Document] = []
    for statement in _pieces(document["Statement"], limit):
        grown = _with(documents[-1], statement) if documents else None
        if grown is not None and characters(grown) <= limit:
            documents[-1] = grown
        else:
            documents.append({"Version": document["Version"], "Statement": [statement]})
    return documents


def characters(document: Document) -> int:
    """Count a document's characters as IAM does: without white space."""
    return len("".join(json.dumps(document).split()))


def _with(document: Document, statement: dict[str, Any]) -> Document:
    return document | {"Statement": [*document["Statement"], statement]}


def _pieces(statements: list[dict[str, Any]], limit: int) -> Iterable[dict[str, Any]]:
    """Halve statements that are too long for a document of their own, by actions, then by resources."""
    for statement in statements:
        if characters({"Version": "2012-10-17", "Statement": [statement]}) <= limit:
            yield statement
            continue
        key = "Action" if len(statement["Action"]) > 1 else "Resource"
        middle = len(statement[key]) // 2
        halves = [statement | {key: statement[key][:middle]}, statement | {key: statement[key][middle:]}]
        yield from _pieces(halves, limit)


def _allow_handler(
    statements: _Statements, action: str, types: set[str], scopes: Scopes, config: Config
) -> None:
    service = action.partition(":")[0]
    kinds = handlers().resources[action]
    if service == "apigateway":
        _allow_api_gateway(statements, action, types, scopes, config.stack_name)
    elif service == "iam":
        _allow_iam(statements, action, types, scopes, config)
    elif action in ("ec2:CreateTags", "ec2:DeleteTags"):
        _allow_ec2_tags(statements, action, types, scopes, config.stack_name)
    elif action == "ec2:RunInstances":
        # Asked for when a node group has a launch template, and only with one.
        template = {"ArnLike": {"ec2:LaunchTemplate": scopes.arns("ec2", "launch-template")[0]}}
        statements.allow(action, scopes.instance_parts(), template)
    elif not kinds:
        statements.allow(action, ["*"], _unscoped(action, scopes, config))
    else:
        arns = {arn for kind in kinds for arn in scopes.arns(service, kind)}
        statements.allow(action, arns, _narrowed(action, scopes, config))


def _narrowed(action: str, scopes: Scopes, config: Config) -> Condition:
    """Narrow what is done to resources with made-up ids."""
    if action.startswith(tuple(f"ec2:{verb}" for verb in _EC2_TAKING)):
        return tagged(config.stack_name)
    if action.endswith("EventSourceMapping"):
        return _of_own_functions(scopes)
    return NO_CONDITION


def _of_own_functions(scopes: Scopes) -> Condition:
    return {"ArnLike": {"lambda:FunctionArn": list(scopes.arns("lambda", "function"))}}


def _unscoped(action: str, scopes: Scopes, config: Config) -> Condition:
    """Narrow an action that knows no resource by what else is known of its request."""
    match action:
        case "eks:CreateCluster":
            return tagged(config.stack_name, "RequestTag")
        case "lambda:CreateEventSourceMapping":
            return _of_own_functions(scopes)
        case _ if action.partition(":")[0] in _GLOBAL_SERVICES:
            return NO_CONDITION
        case _:
            return {"StringEquals": {"aws:RequestedRegion": scopes.place.region}}


def _allow_iam(statements: _Statements, action: str, types: set[str], scopes: Scopes, config: Config) -> None:
    roles = scopes.arns("iam", "role")
    linked = {_SERVICE_LINKED[name] for name in types if name in _SERVICE_LINKED}
    linked_roles = [scopes.place.arn(f"iam::{{account}}:role/aws-service-role/{name}/*") for name in linked]
    condition: dict[str, dict[str, Any]] = {}
    match action:
        case "iam:PassRole":
            condition = {"StringEquals": {"iam:PassedToService": list(scopes.trusted_services())}}
        case "iam:CreateServiceLinkedRole":
            condition = {"StringEquals": {"iam:AWSServiceName": sorted(linked)}}
            statements.allow(action, linked_roles, condition)
            return
        case "iam:AttachRolePolicy" | "iam:DetachRolePolicy":
            condition = {"ArnEquals": {"iam:PolicyARN": list(scopes.managed_policies())}}
        case "iam:GetRole":
            roles = (*roles, *linked_roles)
    boundary = config.permissions_boundary_arn
    if boundary and action == "iam:DeleteRolePermissionsBoundary":
        return
    if boundary and action in _BOUNDED:
        condition = {**condition, "StringEquals": {"iam:PermissionsBoundary": boundary}}
    if "instance-profile" in handlers().resources[action]:
        statements.allow(action, scopes.arns("iam", "instance-profile"))
    elif handlers().resources[action]:
        statements.allow(action, roles, condition)
    else:
        statements.allow(action, ["*"])


def _allow_ec2_tags(
    statements: _Statements, action: str, types: set[str], scopes: Scopes, stack_name: str
) -> None:
    """Allow tags while something is made, tags that make something ours, and those of what is ours."""
    kinds = handlers().resources[action]
    arns = {arn for kind in kinds for arn in scopes.arns("ec2", kind)}
    statements.allow(action, arns, tagged(stack_name))
    if action == "ec2:CreateTags":
        statements.allow(action, arns, tagged(stack_name, "RequestTag"))
    if action == "ec2:CreateTags" and "AWS::EKS::Nodegroup" in types:
        parts = [arn for arn in scopes.instance_parts() if arn.endswith((":instance/*", ":volume/*"))]
        statements.allow(action, parts, {"StringEquals": {"ec2:CreateAction": "RunInstances"}})


def _allow_api_gateway(
    statements: _Statements, action: str, types: set[str], scopes: Scopes, stack_name: str
) -> None:
    """Its ARNs hold made-up ids: the tag tells what is ours, and is asked for when something is made.

    A custom domain has its name.
    """
    root = scopes.place.arn("apigateway:{region}::")
    for domain in scopes.arns("apigateway", "domainname"):
        mappings = f"{domain}/basepathmappings"
        if action == "apigateway:POST":
            statements.allow(action, [f"{root}/domainnames"], tagged(stack_name, "RequestTag"))
            statements.allow(action, [mappings])
        elif action != "apigateway:PUT":
            statements.allow(action, [domain, f"{mappings}/*"])
    items = [f"{root}{path}/*" for path in _API_ITEMS.get(action, _API_COLLECTIONS)]
    statements.allow(action, items, tagged(stack_name))
    if action == "apigateway:POST":
        collections = [f"{root}{path}" for path, name in _API_COLLECTIONS.items() if name in types]
        statements.allow(action, collections, tagged(stack_name, "RequestTag"))
    if action in ("apigateway:PUT", "apigateway:GET", "apigateway:DELETE"):
        statements.allow(action, [f"{root}/tags/*"])
