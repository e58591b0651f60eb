"""What a deploy has to do with snapshots: one is built before it, or an older one is warned of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import typer

from sdctl.cli import context, output, snapshot_run
from sdctl.errors import RemoteError, UsageError

if TYPE_CHECKING:
    from sdctl.clients.aws import Aws
    from sdctl.config.load import Loaded, Overrides
    from sdctl.config.model import Config, RuntimeConfig

_ANY_SNAPSHOT: Final = "snap-00000000"


def with_snapshot(loaded: Loaded, overrides: Overrides, aws: Aws, *, only_look: bool) -> Loaded:
    """Have every runtime start from a snapshot with its images, which is built where there is none.

    Args:
        loaded: the configuration.
        overrides: the flags that it was loaded with.
        aws: where it is deployed.
        only_look: true for a plan, which builds nothing.

    Raises:
        UsageError: a snapshot is configured already, or none fits all nodes.
        ConfigError: something else that is configured would hide it.
    """
    from sdctl.snapshots.building import Wishes, find_snapshot, volume_size
    from sdctl.snapshots.nodes import architecture, with_volume

    named = [runtime.name for runtime in loaded.config.runtimes if runtime.snapshot_id]
    if named:
        raise UsageError(
            f"--with-snapshot: {', '.join(named)} has a snapshotID already", hint="leave one of the two out"
        )
    # What does not go with a snapshot is refused before it is built; flags may mean one runtime alone.
    config = _loaded_with(overrides, _ANY_SNAPSHOT).config
    meant = tuple(runtime for runtime in config.runtimes if runtime.snapshot_id)
    config = config.model_copy(update={"runtimes": meant})
    wishes = Wishes(architecture(config))
    images = snapshot_run.examined(config, aws, wishes.architecture)
    _check_volumes(config, volume_size(images, wishes))
    found = find_snapshot(config, images, wishes, aws)
    if found is None and only_look:
        output.note(
            f"A snapshot of {len(images)} images would be built first, which takes about half an hour."
        )
        return loaded
    if found is None:
        question = f"Build a snapshot of {len(images)} images first, which takes about half an hour?"
        if not output.confirm(question):
            raise typer.Exit(1)
        built = snapshot_run.build(config, aws, wishes, images)
        snapshot_id, size_gib = built.snapshot_id, built.size_gib
    else:
        snapshot_id, size_gib = found.id, found.size_gib
    output.note(f"nodes start from {snapshot_id}; set it as snapshotID, or pass -s, to deploy without a look")
    again = _loaded_with(overrides, snapshot_id)
    return replace(again, config=with_volume(again.config, size_gib))


def _loaded_with(overrides: Overrides, snapshot_id: str) -> Loaded:
    from sdctl.config.load import load_config

    overridden = replace(overrides, snapshot=snapshot_id)
    return load_config(context.current().config, overridden, context.environment())


def _check_volumes(config: Config, size_gib: int) -> None:
    """Refuse volumes that were chosen too small for the snapshot, before it is built."""
    from sdctl.snapshots.nodes import too_small, volume_gib

    small = [one.name for one in too_small(config.runtimes, size_gib) if volume_gib(one) is not None]
    if small:
        raise UsageError(
            f"the images need a volume of {size_gib} GiB; the nodes of {', '.join(small)} have a smaller one",
            hint=f"extraValues, karpenter.nodeTemplate.dataVolume.volumeSize: {size_gib}Gi, or leave it out",
        )


def warn_of_moved(config: Config, aws: Aws, known: Mapping[str, str]) -> None:
    """Warn where a runtime's image is not on its snapshot as it is deployed.

    Args:
        config: what is deployed.
        aws: where.
        known: digests of images that are known already, by name without a tag.
    """
    from sdctl.clients.ebs import Ebs
    from sdctl.errors import NotFoundError
    from sdctl.snapshots.building import ARCHITECTURE_TAG, connector
    from sdctl.snapshots.images import digests
    from sdctl.snapshots.listing import repository_of, uncached
    from sdctl_snapshot.images import cached_images

    for snapshot_id in dict.fromkeys(one.snapshot_id for one in config.runtimes if one.snapshot_id):
        runtimes = tuple(one for one in config.runtimes if one.snapshot_id == snapshot_id)
        try:
            tags = Ebs(aws).get(snapshot_id).tags
            cached = cached_images(tags)
            if not cached:
                output.detail(f"{snapshot_id} does not say what is on it: it was built by something else")
                continue
            _warn_of_architecture(runtimes, snapshot_id, tags.get(ARCHITECTURE_TAG, ""))
            wanted = snapshot_run.configured(config.model_copy(update={"runtimes": runtimes}), aws)
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


def _warn_of_architecture(runtimes: Sequence[RuntimeConfig], snapshot_id: str, found: str) -> None:
    """Warn where nodes would find the images of another architecture, which they cannot run."""
    from sdctl.snapshots.nodes import architectures

    others = [one.name for one in runtimes if architectures(one) - {found}]
    if others and found:
        output.warn(
            f"{snapshot_id} has images for {found}, and nodes of {', '.join(others)} may be others, "
            "which pull their own: sdctl snapshot build --arch"
        )
