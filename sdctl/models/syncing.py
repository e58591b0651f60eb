"""Keeping a bucket in step with a list of models and its lock."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sdctl.errors import SdctlError
from sdctl.models.bringing import Brought, Wish
from sdctl.models.index import Entry
from sdctl.models.manifest import Line, Locked, lock_path, read_locks, read_manifest, write_locks
from sdctl.models.sources import Origin, is_remote

Resolve = Callable[[str], list[Origin]]
Bring = Callable[[list[tuple[Origin, Wish]]], tuple[list[Brought], list[SdctlError]]]
Locks = dict[Line, tuple[Locked, ...]]


@dataclass(frozen=True, slots=True)
class Synced:
    """What a sync came to: `locked` are the keys that the lock has now, `extra` is there and in no line."""

    brought: list[Brought]
    errors: list[SdctlError]
    locked: list[str]
    extra: list[str]


@dataclass(slots=True)
class _Plan:
    """What is to be brought for which line; `kept` needs nothing."""

    wanted: list[tuple[Line, Origin, Wish]] = field(default_factory=list)
    kept: Locks = field(default_factory=dict)
    errors: list[SdctlError] = field(default_factory=list)


def sync(
    manifest: Path,
    there: Sequence[Entry],
    resolve: Callable[[str, Path], list[Origin]],
    bring: Bring,
    *,
    is_updated: bool,
    is_replaced: bool,
) -> Synced:
    """Bring what a list names and the bucket lacks, and lock what it came to.

    Of what comes from publishers and is locked, nothing is asked again. What lies on this machine is looked
    at each time: a file that is no longer what was locked is an error, and not passed over.

    Args:
        manifest: the list.
        there: what the bucket holds.
        resolve: finds what a source names, in a folder where it is a path.
        bring: brings models.
        is_updated: forget what was locked.
        is_replaced: put a model in place of another file of its name.

    Raises:
        NotFoundError, ConfigError: there is no list, or it or its lock are not what they should be.
    """
    lines = read_manifest(manifest)
    before = read_locks(lock_path(manifest))
    hashes = {one.key: one.sha256 for one in there}
    locks = {} if is_updated else before
    plan = _planned(lines, locks, hashes, lambda source: resolve(source, manifest.parent), is_replaced)
    brought, failed = bring([(origin, wish) for _, origin, wish in plan.wanted]) if plan.wanted else ([], [])
    now = _locks(lines, before, plan, brought)
    write_locks(lock_path(manifest), now)
    locked = [one.key for line in now.values() for one in line]
    extra = sorted(hashes.keys() - set(locked) - {one.entry.key for one in brought})
    return Synced([one for one in brought if one.action != "kept"], [*plan.errors, *failed], locked, extra)


def _planned(
    lines: Sequence[Line], locks: Locks, hashes: Mapping[str, str], resolve: Resolve, is_replaced: bool
) -> _Plan:
    plan = _Plan()
    for line in lines:
        held = locks.get(line, ())
        is_pinned = bool(held) and is_remote(line.source)
        if is_pinned and all(hashes.get(one.key) == one.sha256 for one in held):
            plan.kept[line] = held
            continue
        source = (
            held[0].pinned if is_pinned and held[0].pinned.startswith(("hf:", "civitai:")) else line.source
        )
        try:
            origins = resolve(source)
        except SdctlError as error:
            plan.errors.append(error)
            continue
        sha256 = line.sha256 or (held[0].sha256 if len(held) == len(origins) == 1 else "")
        wish = Wish(line.to, line.name, sha256, is_replaced)
        plan.wanted += [(line, origin, wish) for origin in origins]
    return plan


def _locks(lines: Sequence[Line], before: Locks, plan: _Plan, brought: Collection[Brought]) -> Locks:
    """Lock what came; what failed stays locked as it was."""
    line_of = {id(origin): line for line, origin, _ in plan.wanted}
    counts = {line: sum(one is line for one, _, _ in plan.wanted) for line in lines}
    came: dict[Line, dict[str, Locked]] = {}
    for one in brought:
        line, entry = line_of[id(one.origin)], one.entry
        came.setdefault(line, {})[entry.key] = Locked(
            line, one.origin.source, entry.key, entry.sha256, entry.size_bytes
        )
    locks: Locks = {}
    for line in lines:
        new = came.get(line, {})
        is_whole = line in plan.kept or (counts[line] and len(new) == counts[line])
        old = () if is_whole else before.get(line, ())
        found = plan.kept.get(line) or tuple(({one.key: one for one in old} | new).values())
        if found:
            locks[line] = found
    return locks
