"""The account as the builder sees it: our clients behind the calls that `sdctl_snapshot` makes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeVar

from sdctl.clients.aws import is_transient
from sdctl.clients.builders import DATA_DEVICE, Builders, Launch
from sdctl.clients.ebs import Ebs, EbsSnapshot
from sdctl.clients.ssm import Ssm
from sdctl.errors import AwsError, ConflictError, WaitTimeoutError
from sdctl.iam.targets import BUILDER_POLICIES
from sdctl.polling import REAL_CLOCK, Clock, Pace, poll
from sdctl.render.stacks import STACK_TAG
from sdctl_snapshot.commands import Script
from sdctl_snapshot.site import Builder, BuildError, BusyError, Made, Ran

FINGERPRINT_TAG: Final = "sdctl:image-cache"
# A command that SSM does not know after this long was not taken.
_UNKNOWN_SECONDS: Final = 60.0
# On top of a command's own limit: its delivery, and the end of it being told.
_GRACE_SECONDS: Final = 120.0
_LOOKED_AFTER_EVERY_SECONDS: Final = 30.0
PATIENCE_SECONDS: Final = 300.0

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a deployment's builder is: its role's name follows, and what everything is tagged with."""

    stack_name: str
    region: str
    partition: str
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def role_name(self) -> str:
        """The name of the role and its profile: one a region, found again without any list."""
        return f"{self.stack_name}-snapshot-{hashlib.sha256(self.region.encode()).hexdigest()[:6]}"

    @property
    def stack_tag(self) -> tuple[str, str]:
        """The tag that everything has."""
        return STACK_TAG, self.stack_name

    @property
    def policies(self) -> tuple[str, ...]:
        """The ARNs of what the builder may do."""
        return tuple(f"arn:{self.partition}:iam::aws:policy/{name}" for name in BUILDER_POLICIES)

    @property
    def principal(self) -> str:
        """Who takes an instance's role."""
        return "ec2.amazonaws.com.cn" if self.partition == "aws-cn" else "ec2.amazonaws.com"


def patient(probe: Callable[[], T | None], clock: Clock) -> Callable[[], T | None]:
    """Let a probe outlive a line that breaks, or AWS's own trouble, for some minutes in a row."""
    since: list[float] = []

    def ask() -> T | None:
        try:
            found = probe()
        except AwsError as error:
            since.append(clock.monotonic())
            if not is_transient(error) or since[-1] - since[0] > PATIENCE_SECONDS:
                raise
            return None
        since.clear()
        return found

    return ask


class AccountCloud:
    """The calls of a build in one account and region.

    Args:
        place: where, and as whose.
        builders: instances and roles.
        ebs: snapshots.
        ssm: commands.
        launch: what the instance is launched with; None for a mere cleaning up.
        snapshot_tags: of the snapshot, the fingerprint among them.
        boundary: ARN of a permissions boundary for the role, or empty.
        clock: for the wait until a command ends.
    """

    def __init__(
        self,
        place: Place,
        builders: Builders,
        ebs: Ebs,
        ssm: Ssm,
        *,
        launch: Launch | None = None,
        snapshot_tags: Mapping[str, str] | None = None,
        boundary: str = "",
        clock: Clock = REAL_CLOCK,
    ) -> None:
        self._place, self._builders, self._ebs, self._ssm = place, builders, ebs, ssm
        self._launch, self._tags, self._boundary, self._clock = launch, snapshot_tags or {}, boundary, clock

    def builders(self) -> tuple[Builder, ...]:
        """List the builder instances of the deployment, and the role where there is one."""
        found = [
            Builder(one.id, one.state, one.owner) for one in self._builders.instances(self._place.stack_tag)
        ]
        owner = self._builders.role_owner(self._place.role_name)
        role = [] if owner is None else [Builder(self._place.role_name, "", owner)]
        return (*found, *role)

    def prepare_role(self) -> None:
        """Make role and profile."""
        place = self._place
        try:
            self._builders.make_role(place.role_name, place.policies, place.principal, self._boundary)
        except ConflictError as error:
            raise BusyError(error.message, "try again when it has ended") from error

    def remove_role(self, owner: str) -> None:
        """Remove both where they are the owner's."""
        if self._builders.role_owner(self._place.role_name) == owner:
            self._builders.remove_role(self._place.role_name, self._place.policies)

    def launch(self) -> str:
        """Launch the builder."""
        if self._launch is None:
            raise BuildError("nothing says what the builder is launched with")
        return self._builders.launch(self._launch, self._place.role_name)

    def instance_state(self, instance_id: str) -> str:
        """Return the state, and its reason."""
        state, reason, _ = self._builders.describe(instance_id)
        return f"{state} ({reason})" if reason else state

    def is_online(self, instance_id: str) -> bool:
        """Tell whether the instance takes commands."""
        return self._ssm.is_online(instance_id)

    def stop(self, instance_id: str) -> None:
        """Stop the instance."""
        self._builders.stop(instance_id)

    def terminate(self, instance_id: str) -> None:
        """Terminate the instance, and its volumes with it."""
        self._builders.terminate(instance_id)

    def data_volume(self, instance_id: str) -> str:
        """Return the id of the data volume."""
        _, _, volumes = self._builders.describe(instance_id)
        if DATA_DEVICE not in volumes:
            raise BuildError(f"the builder {instance_id} has no volume {DATA_DEVICE}")
        return volumes[DATA_DEVICE]

    def create_snapshot(self, volume_id: str) -> Made:
        """Begin the snapshot."""
        description = f"container images for {self._place.stack_name}"
        return _made(self._ebs.create(volume_id, description, self._tags))

    def alike(self) -> tuple[Made, ...]:
        """List the snapshots with the same fingerprint, newest first."""
        wanted = {STACK_TAG: self._place.stack_name, FINGERPRINT_TAG: self._tags[FINGERPRINT_TAG]}
        return tuple(_made(one) for one in self._ebs.find(wanted))

    def snapshot(self, snapshot_id: str) -> Made:
        """Look at a snapshot."""
        return _made(self._ebs.get(snapshot_id))

    def delete_snapshot(self, snapshot_id: str) -> None:
        """Delete a snapshot."""
        self._ebs.delete(snapshot_id)

    def run(self, instance_id: str, script: Script, timeout_seconds: int) -> Ran:
        """Run a script; the instance is looked after meanwhile, since SSM does not notice its end."""
        command_id = self._ssm.send(instance_id, script, timeout_seconds)
        began = looked = self._clock.monotonic()

        def probe() -> Ran | None:
            nonlocal looked
            found = self._ssm.invocation(command_id, instance_id)
            now = self._clock.monotonic()
            if found is None:
                if now - began > _UNKNOWN_SECONDS:
                    return Ran("", "Systems Manager does not know the command")
            elif found.is_over:
                return Ran(found.output, found.failure)
            if now - looked > _LOOKED_AFTER_EVERY_SECONDS:
                looked = now
                state = self.instance_state(instance_id)
                if not state.startswith("running"):
                    return Ran("", f"the instance is {state}")
            return None

        try:
            return poll(
                patient(probe, self._clock), awaited=f"a command on {instance_id}",
                timeout_seconds=timeout_seconds + _GRACE_SECONDS, pace=Pace(1.0, 1.3, 5.0), clock=self._clock,
            )  # fmt: skip
        except WaitTimeoutError as error:
            return Ran("", f"it did not end: {error.message}")


def _made(found: EbsSnapshot) -> Made:
    return Made(found.id, found.state, found.progress, found.reason)
