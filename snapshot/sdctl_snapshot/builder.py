"""From images to a snapshot: launch, pull, stop, snapshot, and remove everything else on every path.

What is made is tagged and named so that the next run finds what a killed one left, and removes it first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from sdctl_snapshot import commands
from sdctl_snapshot.images import Image
from sdctl_snapshot.site import BuildError, BusyError, Made, Site

BOOT_SECONDS: Final = 900.0
ADMIN_SECONDS: Final = 300.0
COMMAND_SECONDS: Final = 300
# Of all images together.
PULL_SECONDS: Final = 2 * 3600.0
STOP_SECONDS: Final = 600.0
REMOVAL_SECONDS: Final = 900.0
# A snapshot of 100 GiB takes ten minutes to an hour.
SNAPSHOT_SECONDS: Final = 3 * 3600.0
# EC2 lists a new instance seconds after its launch.
LISTED_SECONDS: Final = 20.0
# No build lives longer: what a dead one left goes first, then its own way from launch to removal; an hour
# covers the commands besides the pulls, and what a command may take beyond its own limit.
MAX_SECONDS: Final = (
    2 * REMOVAL_SECONDS + 2 * BOOT_SECONDS + ADMIN_SECONDS + PULL_SECONDS + STOP_SECONDS + SNAPSHOT_SECONDS
    + LISTED_SECONDS + 3600
)  # fmt: skip
# Above this the kubelet begins to collect what is cached, pods' own files included.
_MAX_USE_PERCENT: Final = 80


def build(images: tuple[Image, ...], site: Site, *, is_forced: bool = False) -> Made:
    """Make a snapshot with the images on it, or return the one that an equal build has made.

    Everything else that the build makes is removed, however it ends.

    Args:
        images: what goes onto it.
        site: where.
        is_forced: true makes a new one in any case.

    Raises:
        BusyError: another build is at work here.
        BuildError: a step failed; says which and why.
    """
    sweep(site)
    found = None if is_forced else _existing(site)
    if found is not None:
        return found
    with _instance(site) as instance_id:
        _fill(images, site, instance_id)
        return _snapshot(site, instance_id)


def sweep(site: Site) -> int:
    """Remove what builds that are dead have left; return how much that was.

    Raises:
        BusyError: one of them is not dead.
    """
    left = site.cloud.builders()
    alive = sorted({one.owner for one in left if site.is_alive(one.owner)})
    if alive:
        raise BusyError(
            f"a snapshot is being built already, by {alive[0]}",
            "wait for it; where you know that it is dead: sdctl snapshot delete --leftovers --take-over",
        )
    for one in left:
        site.report(f"removing what an earlier build left: {one.id}")
    _remove(site, [one.id for one in left if one.state], {one.owner for one in left})
    return len(left)


def _existing(site: Site) -> Made | None:
    """Return the snapshot of an equal build; one that failed is deleted, one that is not ready awaited."""
    for one in site.cloud.alike():
        if one.state == "error":
            site.report(f"deleting {one.id}, which failed: {one.reason or 'no reason given'}")
            site.cloud.delete_snapshot(one.id)
        else:
            site.report(f"{one.id} has exactly these images already")
            return _completed(site, one)
    return None


@contextmanager
def _instance(site: Site) -> Iterator[str]:
    """Launch the builder for the body, and remove it with its role however the body ends."""
    started: list[str] = []
    is_asked_for = False
    try:
        site.report("preparing the builder's role")
        site.cloud.prepare_role()
        is_asked_for = True
        started.append(site.cloud.launch())
        site.report(f"launched the builder {started[0]}")
        yield started[0]
    finally:
        site.report("removing the builder")
        try:
            for instance_id in started:
                site.cloud.terminate(instance_id)  # first of all: nothing else costs much
            # A launch whose answer was lost may have made an instance too, which EC2 lists a little later.
            listed = _own_instances(site, LISTED_SECONDS if is_asked_for and not started else 0)
            _remove(site, sorted(listed.union(started)), {site.owner})
        except BaseException:
            site.report("not all of the builder is gone: sdctl snapshot delete --leftovers removes the rest")
            raise


def _own_instances(site: Site, patience_seconds: float) -> set[str]:
    until = site.now() + patience_seconds

    def probe() -> set[str] | None:
        listed = {one.id for one in site.cloud.builders() if one.state and one.owner == site.owner}
        return listed if listed or site.now() >= until else None

    return site.wait(probe, awaited="EC2 to list the builder", timeout_seconds=patience_seconds)


def _remove(site: Site, instance_ids: list[str], owners: set[str]) -> None:
    for instance_id in instance_ids:
        site.cloud.terminate(instance_id)
    for owner in sorted(owners):
        site.cloud.remove_role(owner)
    for instance_id in instance_ids:
        _await_end(site, instance_id)


def _fill(images: tuple[Image, ...], site: Site, instance_id: str) -> None:
    _state(site, instance_id, "running", BOOT_SECONDS)
    site.report("waiting until the builder takes commands")
    site.wait(
        lambda: _is_online(site, instance_id), awaited=f"{instance_id} to register with Systems Manager",
        timeout_seconds=BOOT_SECONDS, state=lambda: _unreachable_hint(site, instance_id),
    )  # fmt: skip
    last = [""]

    def is_up() -> bool | None:
        ran = site.cloud.run(instance_id, commands.admin_is_up(), COMMAND_SECONDS)
        last[0] = ran.failure
        return None if ran.failure else True

    site.wait(
        is_up, awaited="the admin container of the builder", timeout_seconds=ADMIN_SECONDS,
        state=lambda: last[0],
    )  # fmt: skip
    _run(site, instance_id, commands.stop_kubelet(), "stop the kubelet")
    _run(site, instance_id, commands.clear_images(), "remove the images that were there")
    until = site.now() + PULL_SECONDS
    for image in images:
        size = sum(image.layers.values()) / 1024**3
        site.report(f"pulling {image.reference} ({size:.1f} GiB)")
        left = int(until - site.now())
        if left <= 0:
            raise BuildError(
                f"the images before {image.reference} took {PULL_SECONDS / 3600:.0f} hours to pull",
                "mirror them into a registry of this region with sdctl image mirror, or take fewer",
            )
        _run(site, instance_id, commands.pull(image), f"pull {image.reference}", left)
    _verify(images, site, instance_id)


def _verify(images: tuple[Image, ...], site: Site, instance_id: str) -> None:
    listed = set(_run(site, instance_id, commands.list_images(), "list the images").split())
    missing = [name for image in images for name in image.names if name not in listed]
    if missing:
        raise BuildError(f"the builder pulled everything, but does not list {', '.join(missing)}")
    said = _run(site, instance_id, commands.volume_use(), "read how full the volume is")
    use = re.search(r"(\d{1,3})%", said)
    if use is None:
        raise BuildError(f"the builder does not say how full its volume is: {said[:200]!r}")
    if int(use[1]) > _MAX_USE_PERCENT:
        raise BuildError(
            f"the images fill {use[1]} % of the volume: nodes would begin to remove them",
            "give it more room with --size",
        )
    site.report(f"all images are there; they fill {use[1]} % of the volume")


def _snapshot(site: Site, instance_id: str) -> Made:
    site.report("stopping the builder")
    volume_id = site.cloud.data_volume(instance_id)
    site.cloud.stop(instance_id)
    _state(site, instance_id, "stopped", STOP_SECONDS)
    made = site.cloud.create_snapshot(volume_id)
    site.report(f"making the snapshot {made.id}")
    return _completed(site, made)


def _completed(site: Site, made: Made) -> Made:
    """Wait until a snapshot is completed; one that fails is deleted, one that is not awaited goes on."""
    seen = [made.progress]

    def probe() -> Made | None:
        now = site.cloud.snapshot(made.id)
        if now.progress != seen[0]:
            seen[0] = now.progress
            site.report(f"{made.id}: {now.progress}")
        if now.state == "error":
            site.cloud.delete_snapshot(made.id)
            raise BuildError(f"the snapshot {made.id} failed: {now.reason or 'no reason given'}")
        return now if now.state == "completed" else None

    try:
        return site.wait(
            probe, awaited=f"the snapshot {made.id}", timeout_seconds=SNAPSHOT_SECONDS, state=lambda: seen[0]
        )
    except BuildError:
        raise
    except BaseException:
        site.report(
            f"{made.id} goes on by itself: the next build takes it, "
            f"sdctl snapshot delete {made.id} takes it away"
        )
        raise


def _run(
    site: Site, instance_id: str, script: commands.Script, action: str, seconds: int = COMMAND_SECONDS
) -> str:
    ran = site.cloud.run(instance_id, script, seconds)
    if ran.failure:
        raise BuildError(f"could not {action}: {ran.failure}", _hint(ran.failure))
    return ran.output


_LET_IN: Final = "only public images, and those in ECR of an account that lets the builder's role in"
_KEY: Final = (
    "EC2 could not use the key of its volume: may you (sdctl iam policy --for snapshot), and does the key's "
    "own policy let your account's principals? --kms-key takes another"
)
# What of a failure's text says what to do.
_HINTS: Final[Mapping[str, str]] = {
    "no space left": "give the volume more room with --size",
    "unauthorized": _LET_IN,
    "403 forbidden": _LET_IN,
    "no basic auth": _LET_IN,
    # What EC2 gives as the reason of an instance that ended as it began:
    # https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/troubleshooting-launch.html
    "client error on launch": _KEY,
    "kms": _KEY,
    "volumelimitexceeded": "the account's quota of EBS storage is used up: ask for more, or a smaller --size",
    "insufficientinstancecapacity": "another --instance-type, or a --subnet in another zone",
    "i/o timeout": "the builder's subnet needs a way to the registry: another one with --subnet",
    "too many requests": "the registry limits pulls: try later, or mirror the images with sdctl image mirror",
    "no match for platform": "the image has no such platform: another one with --arch",
}


def _hint(failure: str) -> str:
    lowered = failure.lower()
    return next((hint for text, hint in _HINTS.items() if text in lowered), "")


def _is_online(site: Site, instance_id: str) -> bool | None:
    state = site.cloud.instance_state(instance_id)
    if not state.startswith("running"):
        raise BuildError(f"the builder {instance_id} is {state}", _hint(state))
    return True if site.cloud.is_online(instance_id) else None


def _unreachable_hint(site: Site, instance_id: str) -> str:
    state = site.cloud.instance_state(instance_id)
    return f"{state}, but not registered: its subnet needs a way to Systems Manager (--subnet, --public-ip)"


def _await_end(site: Site, instance_id: str) -> None:
    """Wait until an instance is terminated, asking again: EC2 may not have known it yet."""
    until, last = site.now() + LISTED_SECONDS, [""]

    def probe() -> bool | None:
        last[0] = site.cloud.instance_state(instance_id)
        word = last[0].partition(" ")[0]
        if word not in (*_GONE, _UNKNOWN):
            site.cloud.terminate(instance_id)
        is_over = word == "terminated" or (word == _UNKNOWN and site.now() >= until)
        return True if is_over else None

    site.wait(
        probe, awaited=f"{instance_id} to be terminated", timeout_seconds=REMOVAL_SECONDS,
        state=lambda: last[0],
    )  # fmt: skip


_GONE: Final = ("shutting-down", "terminated")
_UNKNOWN: Final = "unknown"


def _state(site: Site, instance_id: str, wanted: str, timeout_seconds: float) -> None:
    """Wait for a state of the instance; fail at once where it cannot come any more."""
    last = [""]

    def probe() -> bool | None:
        last[0] = site.cloud.instance_state(instance_id)
        word = last[0].partition(" ")[0]
        if word != wanted and word in _GONE:
            raise BuildError(f"the builder {instance_id} is {last[0]}", _hint(last[0]))
        return True if word == wanted else None

    site.wait(
        probe, awaited=f"{instance_id} to be {wanted}", timeout_seconds=timeout_seconds,
        state=lambda: last[0],
    )  # fmt: skip
