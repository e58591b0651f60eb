"""What a deploy or a teardown consists of, as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, Literal

if TYPE_CHECKING:
    from sdctl.releases import Release
    from sdctl.render.stacks import Output

# In a stack's detail: what a change set does not show.
PROTECTION: Final = "+protection"

Action = Literal["create", "update", "delete", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to bring about: `needs` are the ids of the steps before it, `detail` says it to a reader.

    `minutes` is how long it is expected to take.
    """

    kind: ClassVar[str] = ""
    id: str
    action: Action
    needs: tuple[str, ...] = ()
    detail: str = ""
    minutes: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStep(Step):
    """A bucket of ours beside the stacks: private, encrypted, TLS only. Deleting one empties it first."""

    kind: ClassVar[str] = "bucket"
    name: str
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyBucketStep(Step):
    """The objects of a bucket that its stack deletes; `delete` removes them all."""

    kind: ClassVar[str] = "objects"
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsStep(Step):
    """Objects to put into a bucket, by key."""

    kind: ClassVar[str] = "objects"
    bucket: str
    objects: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRoleStep(Step):
    """A role that AWS makes for one of its services, once an account: `service` is the service's host."""

    kind: ClassVar[str] = "role"
    service: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StackStep(Step):
    """A CloudFormation stack: `body` is the template as JSON; a large one goes through `asset_bucket`.

    A parameter that is another stack's output is resolved when the step starts, so the step needs that
    stack's. `is_protected` keeps the stack from being deleted by mistake. `is_broken` says that a failed
    earlier attempt is in the way and must be deleted first; `is_stuck` that an update's rollback failed
    and must be continued; `is_busy` that an operation is under way.
    """

    kind: ClassVar[str] = "stack"
    name: str
    body: str = field(default="", repr=False)
    parameters: Mapping[str, str | Output] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    asset_bucket: str = ""
    is_protected: bool = False
    is_broken: bool = False
    is_stuck: bool = False
    is_busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseStep(Step):
    """A Helm release in the deployment's cluster; `delete` needs its name and namespace alone."""

    kind: ClassVar[str] = "release"
    release: Release


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order that serves what each needs."""

    steps: tuple[Step, ...]

    def __iter__(self) -> Iterator[Step]:
        return iter(self.steps)

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that change something."""
        return tuple(step for step in self.steps if step.action != "none")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while a plan is carried out.

    `step` is the step's id. `status` is `started`, `waiting` (for what `reason` says), `done`, `kept`,
    `failed` (for that reason), `stopped` (left as it is, since everything stops), or, with a `resource` of a
    stack and its `type`, CloudFormation's own.
    """

    step: str
    status: str
    resource: str = ""
    type: str = ""
    reason: str = ""
    elapsed_seconds: float = 0.0
