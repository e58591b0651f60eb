"""What a build is given: the account, how to wait, whom to tell; and what it says when it cannot go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from sdctl_snapshot.commands import Script

T = TypeVar("T")


class BuildError(Exception):
    """A build cannot go on; says why, and what to try."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class BusyError(BuildError):
    """Another build is at work."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a script on the instance: its standard output; why it failed, else empty."""

    output: str
    failure: str = ""


@dataclass(frozen=True, slots=True)
class Builder:
    """What there is of a builder: an instance in EC2's `state`, or a role (`state` empty); whose it is."""

    id: str
    state: str
    owner: str


@dataclass(frozen=True, slots=True)
class Made:
    """A snapshot: `state` is `pending`, `completed` or `error`, `progress` EC2's words for it."""

    id: str
    state: str
    progress: str = ""
    reason: str = ""


class Cloud(Protocol):
    """The account: what a build makes there. Each method may be called again after a crash."""

    def builders(self) -> tuple[Builder, ...]:
        """List builder instances that are not terminated, and the role where there is one."""

    def prepare_role(self) -> None:
        """Make the role and profile by which the instance pulls images and is told what to do.

        Raises:
            BusyError: another build has made them meanwhile.
        """

    def remove_role(self, owner: str) -> None:
        """Remove both, as far as they are there and `owner`'s: never those of a build that began since."""

    def launch(self) -> str:
        """Launch the builder instance and return its id."""

    def instance_state(self, instance_id: str) -> str:
        """Return EC2's word for an instance's state, with its reason where it has one.

        `unknown` where EC2 does not list it: not yet, or not any more.
        """

    def is_online(self, instance_id: str) -> bool:
        """Tell whether the instance takes commands."""

    def stop(self, instance_id: str) -> None:
        """Begin to stop the instance."""

    def terminate(self, instance_id: str) -> None:
        """Begin to terminate the instance; one that is gone is no error."""

    def data_volume(self, instance_id: str) -> str:
        """Return the id of the data volume."""

    def create_snapshot(self, volume_id: str) -> Made:
        """Begin a snapshot of the volume, with its tags."""

    def alike(self) -> tuple[Made, ...]:
        """List the snapshots that an equal build has made."""

    def snapshot(self, snapshot_id: str) -> Made:
        """Look at a snapshot."""

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot; one that is gone is no error."""

    def run(self, instance_id: str, script: Script, timeout_seconds: int) -> Ran:
        """Run a script on the instance and wait for its end."""


class Waiter(Protocol):
    """Asks until something other than None comes back, or a deadline passes."""

    def __call__(
        self,
        probe: Callable[[], T | None],
        *,
        awaited: str,
        timeout_seconds: float,
        state: Callable[[], str] | None = None,
    ) -> T:
        """Wait."""


@dataclass(frozen=True, slots=True)
class Site:
    """Where a build takes place: the account, how to wait, whom to tell, and which builds still live.

    `owner` is what `cloud` marks its builders with; `is_alive` judges the marks of others. `now` is in
    seconds and never runs backwards.
    """

    owner: str
    cloud: Cloud
    wait: Waiter
    now: Callable[[], float]
    report: Callable[[str], None]
    is_alive: Callable[[str], bool]
