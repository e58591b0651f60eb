"""Rules about names and contents: stacks, buckets, log group, model files, snapshots."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sdctl import __version__
from sdctl.clients.cloudformation import StackState, StackView
from sdctl.config.model import Config, RuntimeConfig
from sdctl.doctor.check import Check, Topic
from sdctl.doctor.facts import NOT_READ, AwsFacts
from sdctl.doctor.needs import MODELS_FOLDER, agent_image, bucket_names, stack_names
from sdctl.models.names import bring_command
from sdctl.reads import Unknown
from sdctl.render.cluster import cluster_log_groups

STACKS: Final = Topic(
    "stacks", "the stacks' names must be free or ours, and no other operation at work on them"
)
LOG_GROUP: Final = Topic("log-group", "the cluster stack makes its log groups; one that is there stops it")
ASSETS: Final = Topic("asset-bucket", "code and templates travel through a bucket of the deployment's own")
MODEL_BUCKET: Final = Topic("model-bucket", "models are read over and over: from a bucket of the same region")
AGENT: Final = Topic("agent-image", "a runtime's pods start with the queue agent beside them")
MODELS: Final = Topic("model-files", "a runtime never gets ready without the model that it starts with")
_RENAME: Final = "choose another stackName, or -n NAME"
# A data volume as large as its snapshot has no room for anything else; what the chart takes by default.
DEFAULT_VOLUME_GIB: Final = 100


def name_checks(config: Config, facts: AwsFacts) -> Iterator[Check]:
    """Judge what is there already, and what must be there."""
    yield _stacks(config, facts)
    yield _log_group(config, facts)
    # Both names hold a hash of the account; without it nothing was asked.
    account = "" if isinstance(facts.identity, Unknown) else facts.identity.account
    assets, models = bucket_names(config, account, facts.region)
    yield _asset_bucket(assets, facts)
    yield _model_bucket(config, models, facts)
    if any(runtime.checkpoint for runtime in config.runtimes):
        yield _model_files(config, models, facts)
    if agent_image(config, account, facts.region)[1]:
        yield _agent_image(facts)
    for runtime in config.runtimes:
        if runtime.snapshot_id:
            yield _snapshot(runtime, facts)


def _stacks(config: Config, facts: AwsFacts) -> Check:
    found: list[StackView] = []
    for name in stack_names(config):
        stack = facts.stacks.get(name, NOT_READ)
        if isinstance(stack, Unknown):
            return STACKS.unknown(stack)
        if stack is not None:
            found.append(stack)
    strangers = [one.name for one in found if one.tags.get("sdctl:stack") != config.stack_name]
    if strangers:
        return STACKS.fail(f"{', '.join(strangers)} exist and are not this deployment's", _RENAME)
    busy = [f"{one.name} ({one.status})" for one in found if one.state is StackState.BUSY]
    if busy:
        return STACKS.fail(f"at work: {', '.join(busy)}", "wait until it has ended")
    bad = [
        f"{one.name} ({one.status})" for one in found if one.state in (StackState.BROKEN, StackState.STUCK)
    ]
    if bad:
        return STACKS.warn(
            f"left by a failed attempt: {', '.join(bad)}",
            "sdctl deploy puts them right: it deletes or continues",
        )
    names = ", ".join(one.name for one in found)
    return STACKS.ok(f"{names} will be updated" if names else "the names are free")


def _log_group(config: Config, facts: AwsFacts) -> Check:
    stack = facts.stacks.get(f"{config.stack_name}-cluster", NOT_READ)
    if isinstance(facts.log_groups, Unknown):
        return LOG_GROUP.unknown(facts.log_groups)
    if isinstance(stack, Unknown):
        return LOG_GROUP.unknown(stack)
    found = sorted(set(cluster_log_groups(config.stack_name).values()) & set(facts.log_groups))
    if found and stack is None:
        deletions = (
            f"aws logs delete-log-group --log-group-name {name} --region {facts.region}" for name in found
        )
        return LOG_GROUP.fail(f"{', '.join(found)} are left of an earlier cluster", "; ".join(deletions))
    return LOG_GROUP.ok("the log groups are ours" if found else "the names are free")


def _asset_bucket(name: str, facts: AwsFacts) -> Check:
    region = facts.buckets.get(name, NOT_READ)
    if isinstance(region, Unknown):
        return ASSETS.fail(region.reason, _RENAME) if region.is_denied else ASSETS.unknown(region)
    if region not in (None, facts.region):
        return ASSETS.fail(f"{name} is in {region}, not in {facts.region}", _RENAME)
    return ASSETS.ok(f"{name} {'exists' if region else 'will be made'}")


def _model_bucket(config: Config, name: str, facts: AwsFacts) -> Check:
    region = facts.buckets.get(name, NOT_READ)
    if isinstance(region, Unknown):
        fix = "name a bucket of your own with modelBucketArn or -b"
        return MODEL_BUCKET.fail(region.reason, fix) if region.is_denied else MODEL_BUCKET.unknown(region)
    if region is None and config.model_bucket:
        return MODEL_BUCKET.fail(
            f"{name} does not exist", f"sdctl bucket create {name}, or leave modelBucketArn out"
        )
    if region is None:
        return MODEL_BUCKET.ok(f"{name} will be made")
    if region != facts.region:
        return MODEL_BUCKET.fail(
            f"{name} is in {region}, the deployment in {facts.region}",
            f"copy the models to a bucket in {facts.region}: sdctl bucket create, then sdctl models upload",
        )
    return MODEL_BUCKET.ok(f"{name} is in {region}")


def _model_files(config: Config, bucket: str, facts: AwsFacts) -> Check:
    wanted = [runtime.checkpoint for runtime in config.runtimes if runtime.checkpoint]
    region = facts.buckets.get(bucket, NOT_READ)
    if region is None:
        return MODELS.warn(
            f"{bucket} does not exist yet, nor does {', '.join(wanted)} in it",
            f"after the deploy: {_bring_all(wanted)}",
        )
    if isinstance(facts.model_files, Unknown):
        return MODELS.unknown(facts.model_files)
    missing = [name for name in wanted if f"{MODELS_FOLDER}{name}" not in facts.model_files]
    if missing:
        # No failure: an interrupted first deploy has just made the bucket, and must be able to go on.
        return MODELS.warn(
            f"{bucket} lacks {', '.join(f'{MODELS_FOLDER}{name}' for name in missing)}",
            _bring_all(missing),
        )
    return MODELS.ok(f"{', '.join(wanted)} in {bucket}")


def _bring_all(names: list[str]) -> str:
    return "; ".join(bring_command(name) for name in names)


def _agent_image(facts: AwsFacts) -> Check:
    if isinstance(facts.agent_image, Unknown):
        return AGENT.unknown(facts.agent_image)
    if not facts.agent_image:
        return AGENT.warn(
            f"the registry has no queue agent of version {__version__}",
            "sdctl image build, then sdctl image push; before the first task, not before the deploy",
        )
    return AGENT.ok(f"version {__version__} is in the registry")


def _snapshot(runtime: RuntimeConfig, facts: AwsFacts) -> Check:
    topic = Topic(f"snapshot-{runtime.name}", "nodes start from the images in this snapshot")
    name, snapshot = runtime.snapshot_id, facts.snapshots.get(runtime.snapshot_id, NOT_READ)
    build = "build one with sdctl snapshot build, or remove the snapshotID"
    if isinstance(snapshot, Unknown):
        return topic.unknown(snapshot)
    if snapshot is None:
        return topic.fail(f"there is no snapshot {name} in {facts.region} that you may use", build)
    if snapshot.state == "error":
        return topic.fail(f"{name} is broken", build)
    if snapshot.state != "completed":
        return topic.warn(f"{name} is {snapshot.state}", "wait until it is completed")
    size = _volume_gib(runtime)
    said = f"{name}: {snapshot.size_gib} GiB, on a volume of {size} GiB"
    if snapshot.size_gib > size:
        return topic.fail(
            f"{said} does not fit",
            f"set karpenter/nodeTemplate/dataVolume/volumeSize to {snapshot.size_gib}Gi or more",
        )
    return topic.ok(said)


def _volume_gib(runtime: RuntimeConfig) -> int:
    """Read the size of the data volume, as `100Gi` or a number."""
    value = str(runtime.extra_value("karpenter", "nodeTemplate", "dataVolume", "volumeSize") or "")
    digits = value.removesuffix("Gi").strip()
    return int(digits) if digits.isdigit() else DEFAULT_VOLUME_GIB
