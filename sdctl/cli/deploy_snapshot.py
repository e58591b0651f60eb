"""What a deploy has to do with snapshots: one is built before it, or an older one is warned of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import typer

from sdctl.cli import context, output
from sdctl.cli.snapshot import build_for, configured
from sdctl.errors import RemoteError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.config.load import Loaded, Overrides
    from sdctl.config.model import Config


def with_snapshot(loaded: Loaded, overrides: Overrides, aws: Aws, *, only_look: bool) -> Loaded:
    """Have every runtime start from a snapshot with its images, which is built where there is none.

    Args:
        loaded: the configuration.
        overrides: the flags that it was loaded with.
        aws: where it is deployed.
        only_look: true for a plan, which builds nothing.

    Raises:
        UsageError: a snapshot is configured already.
    """
    from sdctl.config.load import load_config
    from sdctl.snapshots.building import Wishes, connector, find_snapshot
    from sdctl.snapshots.images import examine

    config, env = loaded.config, context.environment()
    named = [runtime.name for runtime in config.runtimes if runtime.snapshot_id]
    if named:
        raise UsageError(
            f"--with-snapshot: {', '.join(named)} has a snapshotID already", hint="leave one of the two out"
        )
    wishes, references = Wishes(), configured(config, aws)
    images = examine(references, wishes.architecture, connector(aws, env))
    snapshot_id = find_snapshot(config, images, wishes, aws)
    if snapshot_id is None and only_look:
        output.note(
            f"A snapshot of {len(images)} images would be built first, which takes about half an hour."
        )
        return loaded
    if snapshot_id is None:
        question = f"Build a snapshot of {len(images)} images first, which takes about half an hour?"
        if not output.confirm(question):
            raise typer.Exit(1)
        snapshot_id = build_for(config, aws, wishes, references).snapshot_id
    output.note(f"nodes start from {snapshot_id}; set it as snapshotID, or pass -s, to deploy without a look")
    return load_config(context.current().config, replace(overrides, snapshot=snapshot_id), env)


def warn_of_moved(config: Config, aws: Aws, known: Mapping[str, str]) -> None:
    """Warn where a runtime's image is not on its snapshot as it is deployed.

    Args:
        config: what is deployed.
        aws: where.
        known: digests of images that are known already, by name without a tag.
    """
    from sdctl.clients.ebs import Ebs
    from sdctl.errors import NotFoundError
    from sdctl.snapshots.building import connector
    from sdctl.snapshots.images import digests
    from sdctl.snapshots.listing import repository_of, uncached
    from sdctl_snapshot.images import cached_images

    for snapshot_id in dict.fromkeys(one.snapshot_id for one in config.runtimes if one.snapshot_id):
        runtimes = tuple(one for one in config.runtimes if one.snapshot_id == snapshot_id)
        try:
            cached = cached_images(Ebs(aws).get(snapshot_id).tags)
            if not cached:
                output.detail(f"{snapshot_id} does not say what is on it: it was built by something else")
                continue
            wanted = configured(config.model_copy(update={"runtimes": runtimes}), aws)
            open_ones = [name for name in wanted if repository_of(name) not in known and "@" not in name]
            today = {name: known[repository_of(name)] for name in wanted if repository_of(name) in known}
            today |= digests(open_ones, connector(aws, context.environment()))
        except (NotFoundError, RemoteError) as error:
            output.warn(f"whether {snapshot_id} still has the images of today is not known: {error.message}")
            continue
        for name in uncached([(one, today.get(one, "")) for one in wanted], cached):
            output.warn(
                f"{name} is not on {snapshot_id} as it is today: nodes pull it, or start an older one; "
                "sdctl snapshot build makes a new snapshot"
            )
