"""Plan to files: what each step would send, by path; pure.

The plan is the one that a deploy into an empty account carries out. What only an account knows has a
placeholder with a name, as `${asset-bucket}` or `${sdoneks-cluster.ClusterEndpoint}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sdctl.config.model import Config
from sdctl.deploy.bundle import build_bundles
from sdctl.deploy.planner import Observed, bucket_name, plan_deploy
from sdctl.deploy.steps import ObjectsStep, Plan, ReleaseStep, StackStep, Step
from sdctl.iam.calls import PURPOSES
from sdctl.iam.policy import policy, split, stacks_of
from sdctl.iam.scopes import Place
from sdctl.offline.text import to_json, to_yaml
from sdctl.render.stacks import Output, resolve

REGION: Final = "${region}"
ACCOUNT: Final = "${account}"
ASSET_BUCKET: Final = "${asset-bucket}"
MODEL_BUCKET: Final = "${model-bucket}"
DEPLOYER: Final = "${deployer}"
MEANINGS: Final = {
    REGION: "the region; -R fills it in",
    ACCOUNT: "the account's 12 digits; --account fills them in",
    ASSET_BUCKET: "a bucket of the deployment's region that holds what is in functions/",
    MODEL_BUCKET: "the bucket that holds the models, of the deployment's region",
    DEPLOYER: "ARN of the role or user that may administer the cluster, never of a session",
}


@dataclass(frozen=True, slots=True)
class Where:
    """Where a deployment is to be; empty where that is not known."""

    region: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """One step of a deploy, and the files that hold what it sends."""

    step: Step
    files: tuple[str, ...]


def offline_plan(config: Config, where: Where, *, target: str) -> Plan:
    """Plan the deploy into an account that has nothing of the deployment yet."""
    region, account = where.region or REGION, where.account or ACCOUNT
    assets, models = ASSET_BUCKET, config.model_bucket or MODEL_BUCKET
    if where.region and where.account:
        assets = bucket_name(config.stack_name, "assets", account, region)
        models = config.model_bucket or bucket_name(config.stack_name, "model-bucket", account, region)
    there = {models: region} if config.model_bucket else {}
    observed = Observed(
        account=account, region=region, asset_bucket=assets, model_bucket=models, bucket_regions=there
    )
    return plan_deploy(config, observed, target=target, bundles=build_bundles())


def step_files(step: Step) -> dict[str, bytes]:
    """Return what a step sends, by path."""
    match step:
        case ObjectsStep():
            return dict(step.objects)
        case StackStep():
            return _stack_files(step)
        case ReleaseStep(release=release):
            path = f"releases/{release.namespace}/{release.name}.values.yaml"
            return {path: to_yaml(with_placeholders(release.values))}
        case _:
            return {}


def policy_files(config: Config, where: Where) -> dict[str, bytes]:
    """Return the policies of each purpose, in documents that are short enough for IAM."""
    place = Place(where.region or REGION, where.account or "*")
    stacks = stacks_of(config, partition=place.partition)
    found = {}
    for purpose in PURPOSES:
        documents = split(policy(purpose, config, place, stacks=stacks))
        for number, document in enumerate(documents, 1):
            part = f"-{number}" if len(documents) > 1 else ""
            found[f"iam/{purpose}{part}.json"] = to_json(document)
    return found


def placeholders(contents: Iterable[bytes], plan: Plan) -> dict[str, str]:
    """Name the placeholders that stand in some contents, each with what it means."""
    outputs = {
        output.placeholder: f"output {output.name} of the stack {output.stack}"
        for step in plan
        if isinstance(step, (StackStep, ReleaseStep))
        for output in _outputs_in(step.parameters if isinstance(step, StackStep) else step.release.values)
    }
    known = MEANINGS | outputs
    text = b"\n".join(contents)
    return {name: known[name] for name in sorted(known) if name.encode() in text}


def with_placeholders(value: Any) -> Any:
    """Replace the outputs of stacks that are not there by their placeholders, at any depth."""
    named: dict[str, dict[str, str]] = {}
    for output in _outputs_in(value):
        named.setdefault(output.stack, {})[output.name] = output.placeholder
    return resolve(value, named)


def _stack_files(step: StackStep) -> dict[str, bytes]:
    parameters = with_placeholders(step.parameters)
    rows = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    tags = [{"Key": key, "Value": value} for key, value in step.tags.items()]
    return {
        f"stacks/{step.name}.yaml": to_yaml(json.loads(step.body)),
        f"stacks/{step.name}.parameters.json": to_json(rows),
        f"stacks/{step.name}.tags.json": to_json(tags),
    }


def _outputs_in(value: Any) -> Iterator[Output]:
    if isinstance(value, Output):
        yield value
    elif isinstance(value, Mapping):
        for entry in value.values():
            yield from _outputs_in(entry)
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _outputs_in(entry)
