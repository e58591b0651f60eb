"""Plan to files: what each step would send, by path; pure.

The plan is the one that a deploy into an empty account carries out. What only an account knows has a
placeholder with a name, as `${asset-bucket}` or `${sdoneks-cluster.ClusterEndpoint}`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sdctl.assets import asset_dir
from sdctl.config.model import Config
from sdctl.config.rules import partition_of
from sdctl.deploy.observed import ClusterFinds, Observed, bucket_name
from sdctl.deploy.planner import plan_deploy
from sdctl.deploy.steps import ObjectsStep, Plan, ReleaseStep, StackStep, Step
from sdctl.iam.calls import PURPOSES
from sdctl.iam.policy import any_runtime_stack, policy, split
from sdctl.iam.scopes import Place
from sdctl.offline.text import to_json, to_yaml
from sdctl.releases import Chart, Release
from sdctl.render.engine import Rendered
from sdctl.render.key_policy import key_policy
from sdctl.render.network import ZONES as MAX_ZONES
from sdctl.render.runtime import runtime_stack_name
from sdctl.render.stacks import Output, Stack, outputs_in, with_placeholders

REGION: Final = "${region}"
ACCOUNT: Final = "${account}"
ASSET_BUCKET: Final = "${asset-bucket}"
MODEL_BUCKET: Final = "${model-bucket}"
DEPLOYER: Final = "${deployer}"
ZONES: Final = tuple(f"${{zone-{number}}}" for number in range(1, MAX_ZONES + 1))
MEANINGS: Final = {
    REGION: "the region; -R fills it in",
    ACCOUNT: "the account's 12 digits; --account fills them in",
    ASSET_BUCKET: "a bucket of the deployment's region that holds what is in functions/",
    MODEL_BUCKET: "the bucket that holds the models, of the deployment's region",
    DEPLOYER: "ARN of the role or user that may administer the cluster, never of a session",
    **dict.fromkeys(ZONES, "a zone of the region that EKS takes"),
}


@dataclass(frozen=True, slots=True)
class Where:
    """Where a deployment is to be; empty where that is not known."""

    region: str = ""
    account: str = ""


@dataclass(frozen=True, slots=True)
class Sent:
    """One step of a deploy, and what it sends by path."""

    step: Step
    files: Mapping[str, bytes]


def offline_plan(config: Config, where: Where, *, target: str) -> Plan:
    """Plan the deploy into an account that has nothing of the deployment yet."""
    region, account = where.region or REGION, where.account or ACCOUNT
    assets, models = ASSET_BUCKET, config.model_bucket or MODEL_BUCKET
    if where.region and where.account:
        assets = bucket_name(config.stack_name, "assets", account, region)
        models = config.model_bucket or bucket_name(config.stack_name, "model-bucket", account, region)
    observed = Observed(
        account=account,
        region=region,
        asset_bucket=assets,
        model_bucket=models,
        partition=partition_of(region),
        bucket_regions={models: region} if config.model_bucket else {},
        cluster=ClusterFinds(DEPLOYER, zones=ZONES),
    )
    return plan_deploy(config, observed, target=target)


def step_files(step: Step) -> dict[str, bytes]:
    """Return what a step sends, by path."""
    match step:
        case ObjectsStep():
            return dict(step.objects)
        case StackStep():
            return _stack_files(step)
        case ReleaseStep(release=release):
            values = to_yaml(with_placeholders(release.values))
            return {release_path(release, "values"): values} | _packaged_chart(release.chart)
        case _:
            return {}


def release_path(release: Release, what: str) -> str:
    """Return the path of a release's `values` or `manifests`; its name is its own in its namespace only."""
    return f"releases/{release.namespace}/{release.name}.{what}.yaml"


def chart_name(chart: Chart) -> str:
    """Return how helm finds a chart from inside the folder."""
    return f"charts/{Path(chart.reference).name}" if _is_packaged(chart) else chart.reference


def policy_files(config: Config, where: Where, plan: Plan) -> dict[str, bytes]:
    """Return the policies of each purpose, in documents that are short enough for IAM, and of a key.

    Args:
        config: the configuration.
        where: region and account, as far as they are known.
        plan: holds the rendered stacks.
    """
    place = Place(where.region or REGION, where.account or "*")
    own = {runtime_stack_name(config.stack_name, runtime.name) for runtime in config.runtimes}
    stacks = [
        Stack(step.name, Rendered(step.name, "", json.loads(step.body)))
        for step in plan
        if isinstance(step, StackStep) and step.name not in own
    ] + [any_runtime_stack(config)]
    found = {}
    for purpose in PURPOSES:
        documents = split(policy(purpose, config, place, stacks=stacks))
        for number, document in enumerate(documents, 1):
            part = f"-{number}" if len(documents) > 1 else ""
            found[f"iam/{purpose}{part}.json"] = to_json(document)
    if config.kms_key_arn:
        found["iam/key.json"] = to_json(key_policy(where.region or REGION, where.account or ACCOUNT))
    return found


def placeholders(contents: Iterable[bytes], plan: Plan) -> dict[str, str]:
    """Name the placeholders that stand in some contents, each with what it means."""
    outputs = {
        output.placeholder: _meaning(output)
        for step in plan
        if isinstance(step, (StackStep, ReleaseStep))
        for output in outputs_in(step.parameters if isinstance(step, StackStep) else step.release.values)
    }
    known = MEANINGS | outputs
    text = b"\n".join(contents)
    return {name: known[name] for name in sorted(known) if name.encode() in text}


def _meaning(output: Output) -> str:
    if output.stack.startswith("image "):
        return f"{output.name} of the {output.stack}"
    return f"output {output.name} of the stack {output.stack}"


def _stack_files(step: StackStep) -> dict[str, bytes]:
    parameters = with_placeholders(step.parameters)
    rows = [{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()]
    tags = [{"Key": key, "Value": value} for key, value in step.tags.items()]
    return {
        f"stacks/{step.name}.yaml": to_yaml(json.loads(step.body)),
        f"stacks/{step.name}.parameters.json": to_json(rows),
        f"stacks/{step.name}.tags.json": to_json(tags),
    }


def _is_packaged(chart: Chart) -> bool:
    return chart.is_local and Path(chart.reference).parent == asset_dir("charts")


def _packaged_chart(chart: Chart) -> dict[str, bytes]:
    """Return the files of a chart that came with sdctl; one of the user's is where it is."""
    if not _is_packaged(chart):
        return {}
    folder = Path(chart.reference)
    found = sorted(one for one in folder.rglob("*") if one.is_file())
    return {f"{chart_name(chart)}/{one.relative_to(folder).as_posix()}": one.read_bytes() for one in found}
