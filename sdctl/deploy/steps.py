"""What a deploy or a teardown consists of, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

Action = Literal["create", "update", "delete", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to bring about: `needs` are the ids of the steps before it, `detail` says it to a reader."""

    kind: ClassVar[str] = ""
    id: str
    action: Action
    needs: tuple[str, ...] = ()
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketStep(Step):
    """A bucket of ours beside the stacks: private, encrypted, TLS only. Deleting one empties it first."""

    kind: ClassVar[str] = "bucket"
    name: str


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
class StackStep(Step):
    """A CloudFormation stack: `body` is the template as JSON.

    `is_broken` says that a failed earlier attempt is in the way and must be deleted first; `is_stuck`
    that an update's rollback failed and must be continued. A large body goes through `asset_bucket`.
    """

    kind: ClassVar[str] = "stack"
    name: str
    body: str = field(default="", repr=False)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    asset_bucket: str = ""
    is_broken: bool = False
    is_stuck: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in an order that serves what each needs."""

    steps: tuple[Step, ...]

    @property
    def changes(self) -> tuple[Step, ...]:
        """The steps that change something."""
        return tuple(step for step in self.steps if step.action != "none")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened while a plan is carried out.

    `step` is the step's id; `resource` is a logical id of its stack where it is about one, with its
    CloudFormation `type`; `status` is `started`, `done`, `kept` or CloudFormation's own.
    """

    step: str
    status: str
    resource: str = ""
    type: str = ""
    reason: str = ""
    elapsed_seconds: float = 0.0
